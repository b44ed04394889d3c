"""The benchmark scenes by name: their descriptions, sources and hashes.

Files are in the folder that the user gives, else in ``SPECTRALDIFF_DATA``, else in the user's cache.
`indian-pines` needs no file: tensorly ships it. `indian-pines-ehu` is the same scene from its .mat files.
The SHA-256 hashes were collected from public toolkits (those of KSC and Botswana from one only).
Houston's files, URLs and hashes are those of rs-fusion-datasets.
"""

import difflib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pooch

from spectraldiff.data.scene import LabelledScene
from spectraldiff.datasets.download import DataFile, at_hand, damaged
from spectraldiff.datasets.legends import (
    BOTSWANA_CLASSES,
    HOUSTON_CLASSES,
    INDIAN_PINES_CLASSES,
    KSC_CLASSES,
    PAVIA_CLASSES,
    SALINAS_CLASSES,
)
from spectraldiff.datasets.loaders import DatasetInfo, load_embedded, load_houston, load_indian_pines_mat, load_mat
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import DatasetError, UsageError

EHU = "https://www.ehu.eus/ccwintco/uploads/"
HOUSTON_ZIP = "https://machinelearning.ee.uh.edu/2egf4tg8hial13gt/2013_DFTC.zip"
HOUSTON_VALIDATION = (
    "https://github.com/songyz2019/rs-fusion-datasets-dist/releases/download/v1.0.0/"
    "2013_IEEE_GRSS_DF_Contest_Samples_VA.txt",
    "https://pastebin.com/raw/FJyu5SQX",
)
FOLDER_VARIABLE = "SPECTRALDIFF_DATA"


def names() -> list[str]:
    """Return the names that `load` accepts."""
    return list(REGISTRY)


def describe(name: str) -> DatasetInfo:
    """Return the description of the scene `name`.

    Raises
    ------
    UsageError
        There is no scene of that name.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    close = difflib.get_close_matches(name.lower().replace("_", "-"), REGISTRY, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UsageError(f"there is no data set {name!r}; {hint}give one of {', '.join(REGISTRY)}")


def load(name: str, data_dir: Path | None = None) -> LabelledScene:
    """Load a benchmark scene; missing files are downloaded.

    Parameters
    ----------
    name
        One of `names`.
    data_dir
        Folder with the files, directly or in a subfolder. Missing files are downloaded to it.

    Raises
    ------
    UsageError
        There is no scene of that name.
    DatasetError
        The folder does not exist, or a file cannot be downloaded or is not the published one.
    """
    info = describe(name)
    return info.loader(info, folder_of(data_dir))


def on_disk(name: str, data_dir: Path | None = None) -> bool:
    """Whether `load` finds every file of the scene without a download (hashes are not checked)."""
    folder = folder_of(data_dir)
    return all(at_hand(file, folder) for file in describe(name).files) and not faults(name, data_dir)


def faults(name: str, data_dir: Path | None = None) -> list[str]:
    """Return one line for each file of the scene that is obviously wrong: empty, or an HTML page."""
    folder = folder_of(data_dir)
    sources = dict.fromkeys(source for file in describe(name).files for source in (file, file.archive) if source)
    return [fault for source in sources if (fault := damaged(source, folder))]


def facts(name: str, data_dir: Path | None = None) -> dict[str, Any]:
    """Return what is known of a scene, and whether its files are on disk, as plain values."""
    info = describe(name)
    return {
        "name": name,
        "title": info.title,
        "sensor": info.sensor,
        "height": info.height,
        "width": info.width,
        "bands": info.bands,
        "classes": [c.name for c in info.classes],
        "labelled_pixels": info.labelled,
        "on_disk": on_disk(name, data_dir),
        "faults": faults(name, data_dir),
        "licence": info.licence,
        "citation": info.citation,
    }


def folder_of(data_dir: Path | None) -> Path:
    """Return the folder for the files: `data_dir`, else ``SPECTRALDIFF_DATA``, else the user's cache."""
    if data_dir is not None:
        if not data_dir.is_dir():
            raise DatasetError(f"{data_dir} is not a folder; name the one with the files, or leave --data-dir out")
        return data_dir
    return Path(os.environ.get(FOLDER_VARIABLE) or pooch.os_cache("spectraldiff")).expanduser()


def _ehu(name: str, place: str, key: str, sha256: str) -> DataFile:
    return DataFile(name, sha256, (f"{EHU}{place}/{name}",), key)


PINES_CITATION = (
    "Baumgardner, Biehl, Landgrebe (2015): 220 Band AVIRIS Hyperspectral Image Data Set, June 12, 1992, "
    "Indian Pine Test Site 3. Purdue University Research Repository, doi:10.4231/R7RX991C."
)
EHU_CITATION = "Grupo de Inteligencia Computacional, UPV/EHU: Hyperspectral Remote Sensing Scenes. "
NO_LICENCE = "not stated"


def _pines(
    name: str, title: str, loader: Callable[[DatasetInfo, Path], LabelledScene], files: tuple[DataFile, ...] = ()
) -> DatasetInfo:
    return DatasetInfo(
        name, title, "AVIRIS", 145, 145, 200, INDIAN_PINES_CLASSES, 10249, "CC BY 3.0", PINES_CITATION,
        loader, files,
    )  # fmt: skip


def _benchmark(
    name: str,
    title: str,
    sensor: str,
    size: tuple[int, int, int],
    classes: tuple[LandCoverClass, ...],
    labelled: int,
    files: tuple[DataFile, ...],
    source: str,
) -> DatasetInfo:
    citation = EHU_CITATION + source
    return DatasetInfo(name, title, sensor, *size, classes, labelled, NO_LICENCE, citation, load_mat, files)


HOUSTON_ARCHIVE = DataFile(
    "2013_DFTC.zip", "f4d619d5cbcb09d0301038f1b8fe83def6c2d484334b7b8127740a00ecf7e245", (HOUSTON_ZIP,)
)
_HOUSTON_HASHES = {
    "CASI.tif": "1440f38594e8e82cc1944c084fc138ef55a70af54122828e999c4fb438574c14",
    "CASI.hdr": "869be3459978b535b873bca98b1cf05066c7acca9c160b486a86efd775005e8d",
    "Samples_TR.txt": "16c69cf216535d7b4df2045b05d49c50a078609aa6d011a5e23e54f4cd08abda",
}
HOUSTON_FILES = (
    *(
        DataFile(f"2013_IEEE_GRSS_DF_Contest_{name}", sha256, archive=HOUSTON_ARCHIVE)
        for name, sha256 in _HOUSTON_HASHES.items()
    ),
    DataFile(
        "2013_IEEE_GRSS_DF_Contest_Samples_VA.txt",
        "768bb02193d04c8020b45f1f31a49926a5b914040f77f71a81df756d6e8b8dcb",
        HOUSTON_VALIDATION,
    ),
)

_SCENES = (
    _pines("indian-pines", "Indian Pines", load_embedded),
    _pines(
        "indian-pines-ehu",
        "Indian Pines, .mat files",
        load_indian_pines_mat,
        (
            _ehu("Indian_pines_corrected.mat", "6/67", "indian_pines_corrected",
                 "ec2f8808710919d566f70f0d4aa885aae1ddfd42b734aba71c5e12ca65450939"),
            _ehu("Indian_pines_gt.mat", "c/c4", "indian_pines_gt",
                 "65c4687a8ab04f6da4789799bc3bc4f6e88bccac3ed6a2e6ae367e5e6b9e429c"),
        ),
    ),
    DatasetInfo(
        "houston", "Houston 2013", "CASI", 349, 1905, 144, HOUSTON_CLASSES, 15029,
        "GRSS DFC 2013 terms",
        "Debes et al. (2014): Hyperspectral and LiDAR Data Fusion: Outcome of the 2013 GRSS Data Fusion "
        "Contest. IEEE JSTARS 7(6). Data: Hyperspectral Image Analysis Group and NSF NCALM, "
        "University of Houston.",
        load_houston, HOUSTON_FILES,
    ),
    _benchmark(
        "pavia-university", "Pavia University", "ROSIS", (610, 340, 103), PAVIA_CLASSES, 42776,
        (
            _ehu("PaviaU.mat", "e/ee", "paviaU",
                 "28447fa87f7a5797845e9a189c0da85e23b1d06a4ba7361e5ff44efbf834d2fb"),
            _ehu("PaviaU_gt.mat", "5/50", "paviaU_gt",
                 "23f6a426928f9b32984adffe659e29f554f9fb6c93b5a107528d308d5087a829"),
        ),
        "Scene by Paolo Gamba, University of Pavia.",
    ),
    _benchmark(
        "salinas", "Salinas", "AVIRIS", (512, 217, 204), SALINAS_CLASSES, 54129,
        (
            _ehu("Salinas_corrected.mat", "a/a3", "salinas_corrected",
                 "5ec1c0d22f56d18ecd336f8e35735863c0f160682e04e0c18ef3f89a3334d87d"),
            _ehu("Salinas_gt.mat", "f/fa", "salinas_gt",
                 "ecfab4d31ef5553f097943235d8ea502038eb4a2067b2ad10b33e37c949955e2"),
        ),
        "Scene by NASA/JPL AVIRIS.",
    ),
    _benchmark(
        "ksc", "Kennedy Space Center", "AVIRIS", (512, 614, 176), KSC_CLASSES, 5211,
        (
            _ehu("KSC.mat", "2/26", "KSC",
                 "b1ad011cfdb65c853e4f9f6108ca4774467d87f90a5c23b74ff3a2984a3b4786"),
            _ehu("KSC_gt.mat", "a/a6", "KSC_gt",
                 "a1d6ab9293691006bd4d9742d1a1e1c141b1aaa5fbc5fa128b33c1d09038510b"),
        ),
        "Scene by NASA/JPL AVIRIS; classes by the Center for Space Research, University of Texas.",
    ),
    _benchmark(
        "botswana", "Botswana", "Hyperion", (1476, 256, 145), BOTSWANA_CLASSES, 3248,
        (
            _ehu("Botswana.mat", "7/72", "Botswana",
                 "f1603903c844cdc2980550b0180688e8e1a72d4292595d1120e1dec2a80a91c7"),
            _ehu("Botswana_gt.mat", "5/58", "Botswana_gt",
                 "668394905e10e629c16584bfd02b0f533b96d6ba18a63274a94ff3a77126a887"),
        ),
        "Scene by NASA EO-1; classes by the Center for Space Research, University of Texas.",
    ),
)  # fmt: skip
REGISTRY: dict[str, DatasetInfo] = {info.name: info for info in _SCENES}
