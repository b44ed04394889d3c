"""Loaders of benchmark scenes as `LabelledScene`: from tensorly, from .mat files, from Houston's archive."""

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from scipy.io import loadmat

from spectraldiff.data.scene import LabelledScene
from spectraldiff.datasets.download import DataFile, obtain
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import DatasetError
from spectraldiff_runtime.scene.envi import envi_grid, envi_header, envi_wavelengths

# Indian Pines has no georeference. This is a north-up UTM grid with the scene's 20 m pixels around the
# documented location, about 40.46 N, 86.98 W, west of West Lafayette, Indiana.
INDIAN_PINES_CRS = "EPSG:32616"
INDIAN_PINES_TRANSFORM = (20.0, 0.0, 500240.0, 0.0, -20.0, 4480260.0)
INDIAN_PINES_NOTE = (
    "The published scene has no georeference. Its placement here is approximate: a north-up UTM 16N grid of "
    "20 m pixels around 40.46 N, 86.98 W, which may be off by kilometres: do not measure by it."
)


@dataclass(frozen=True)
class DatasetInfo:
    """Description of a benchmark scene before it is loaded.

    Attributes
    ----------
    name, title, sensor
        Name for ``--dataset``, name for people, and instrument.
    height, width, bands
        Size of the cube, (H, W, B).
    classes
        Classes 1..K with names and colours.
    labelled
        Number of pixels that have a class.
    licence, citation
        The publisher's licence, and whom to cite.
    files
        The files of the scene, in the order that `loader` expects; empty if a Python package ships the scene.
    loader
        Creates the scene from this description and the folder of the files.
    """

    name: str
    title: str
    sensor: str
    height: int
    width: int
    bands: int
    classes: tuple[LandCoverClass, ...]
    labelled: int
    licence: str
    citation: str
    loader: "Callable[[DatasetInfo, Path], LabelledScene]" = field(repr=False)
    files: tuple[DataFile, ...] = ()

    @property
    def attribution(self) -> str:
        """One line that names the authors and the licence."""
        return f"{self.citation} Licence: {self.licence}."


def load_embedded(info: DatasetInfo, folder: Path) -> LabelledScene:
    """Load Indian Pines from tensorly, which ships it; `folder` is ignored.

    The georeference is approximate (see `INDIAN_PINES_NOTE`).
    """
    bunch = _tensorly_indian_pines()
    return _indian_pines(info, _compact(np.asarray(bunch["tensor"])), np.asarray(bunch["ticks"][0]))


def load_indian_pines_mat(info: DatasetInfo, folder: Path) -> LabelledScene:
    """Load Indian Pines from the .mat files, which contain the same cube as tensorly's copy."""
    return _indian_pines(info, *_mat_pair(info, folder))


def load_mat(info: DatasetInfo, folder: Path) -> LabelledScene:
    """Load a cube and its labels from two .mat files, which have neither wavelengths nor georeference."""
    return _scene(info, *_mat_pair(info, folder))


def load_houston(info: DatasetInfo, folder: Path) -> LabelledScene:
    """Load Houston 2013 from the contest's raster, its ENVI header and both sample files.

    Training and validation samples of the contest are merged; splits are drawn from both.
    Wavelengths are those of the header, and the georeference too if the raster has none.
    """
    raster, header, *samples = obtain(info.files, folder)
    facts = envi_header(header.read_text(encoding="latin-1"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(raster) as dataset:
            cube = np.ascontiguousarray(np.moveaxis(dataset.read(), 0, -1))
            place = (dataset.crs.to_string(), tuple(dataset.transform)[:6]) if dataset.crs else None
    crs, transform = place or envi_grid(facts) or (None, None)
    labels = np.max([_roi(path, cube.shape[:2]) for path in samples], axis=0)
    return _scene(info, cube, labels, wavelengths=envi_wavelengths(facts), crs=crs, transform=transform)


def _roi(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.asarray(_rs_fusion_fileio().read_roi(path, shape).toarray())


@cache
def _rs_fusion_fileio() -> Any:
    """Load only the file reader of rs-fusion-datasets.

    The package's own ``__init__`` imports torchvision if PyTorch is installed, and fails without torchvision.
    """
    package = importlib.util.find_spec("rs_fusion_datasets")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'rs_fusion_datasets'", name="rs_fusion_datasets")
    path = Path(package.submodule_search_locations[0]) / "util" / "fileio.py"
    spec = importlib.util.spec_from_file_location("rs_fusion_datasets_fileio", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _tensorly_indian_pines() -> Any:
    from tensorly.datasets import load_indian_pines

    return load_indian_pines()


def _indian_pines(info: DatasetInfo, cube: NDArray[Any], labels: NDArray[Any]) -> LabelledScene:
    # Not fully sorted, because four detectors overlap. The bands keep the order of the file.
    wavelengths = np.asarray(_tensorly_indian_pines()["ticks"][1], dtype=np.float64)
    place: dict[str, Any] = {"crs": INDIAN_PINES_CRS, "transform": INDIAN_PINES_TRANSFORM}
    return _scene(info, cube, labels, wavelengths=wavelengths, note=INDIAN_PINES_NOTE, **place)


def _mat_pair(info: DatasetInfo, folder: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    paths = obtain(info.files, folder)
    cube, labels = (_variable(path, file.key) for path, file in zip(paths, info.files, strict=True))
    return _compact(cube), labels


def _variable(path: Path, key: str) -> NDArray[Any]:
    """Read one variable of a MATLAB v5 file."""
    try:
        variables = loadmat(path)
    except Exception as error:  # scipy raises many types for damaged files
        raise DatasetError(f"{path} is not a MATLAB v5 file that can be read: {error}") from error
    if key in variables:
        return np.asarray(variables[key])
    names = ", ".join(sorted(name for name in variables if not name.startswith("__"))) or "none"
    raise DatasetError(f"{path} has no variable {key!r} (found: {names}); get the published file")


def _compact(cube: NDArray[Any]) -> NDArray[Any]:
    """Return the cube as uint16 or int16 if that keeps every value, else as float32."""
    if cube.dtype in (np.uint8, np.uint16, np.int16, np.float32):
        return cube
    for dtype in (np.uint16, np.int16):
        limits = np.iinfo(dtype)
        if cube.min() >= limits.min and cube.max() <= limits.max and np.array_equal(cube, np.rint(cube)):
            return cube.astype(dtype)
    return cube.astype(np.float32)


def _scene(info: DatasetInfo, cube: NDArray[Any], labels: NDArray[Any], **facts: Any) -> LabelledScene:
    """Check the arrays against the description, and create the scene."""
    wanted = (info.height, info.width, info.bands)
    if cube.shape != wanted or labels.shape != wanted[:2]:
        raise DatasetError(
            f"{info.name}: the cube is {cube.shape} and the labels {labels.shape}; "
            f"wanted {wanted} and {wanted[:2]}: get the published files"
        )
    if labels.min() < 0 or labels.max() > len(info.classes):
        raise DatasetError(
            f"{info.name}: labels go from {labels.min()} to {labels.max()}; wanted 0 to {len(info.classes)}"
        )
    return LabelledScene(
        name=info.name,
        cube=cube,
        labels=labels.astype(np.uint8),
        classes=info.classes,
        sensor=info.sensor,
        attribution=info.attribution,
        **facts,
    )
