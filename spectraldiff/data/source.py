"""Where labelled scenes come from: a benchmark scene, or files and how they are read, typed one by one or listed."""

import csv
import json
import os
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from spectraldiff.data.cube import Room
from spectraldiff.data.label_vectors import LabelFields, is_vector
from spectraldiff.data.scene import LabelledScene
from spectraldiff_runtime.errors import LabelsError, NoLabelsError, SceneError, SpectralDiffError, UsageError
from spectraldiff_runtime.gdal import check_plain
from spectraldiff_runtime.limits import LIST_BYTES, LIST_SCENES, NAME
from spectraldiff_runtime.scene.clouds import KEEP, CloudChoice
from spectraldiff_runtime.scene.nodata import NODATA_OF_FILE, Nodata

OWN = "`sdiff train scene.tif --labels labels.gpkg --field class`"
COLUMNS = ("scene", "labels", "name")  # of a list of scenes
# Names that only GDAL knows: /vsizip/a.zip/a.tif, s3://bucket/a.tif, NETCDF:"a.nc":b. One letter is a Windows drive.
GDAL_NAME = re.compile(r"/vsi|[a-z][a-z0-9_+]+:", re.IGNORECASE)


@dataclass(frozen=True)
class SceneFiles:
    """An own scene and the files of its labels.

    Attributes
    ----------
    scene
        A raster or a product as delivered.
    labels
        Vector files or rasters; none for a scene that trains the denoiser alone.
    name
        In runs and reports; empty for that of the file, without its ending.
    """

    scene: str
    labels: tuple[str, ...] = ()
    name: str = ""

    @property
    def title(self) -> str:
        """What the scene is called."""
        return self.name or Path(self.scene).stem

    def whole(self) -> "SceneFiles":
        """Return the same with whole paths."""
        return SceneFiles(whole_path(self.scene), tuple(whole_path(one) for one in self.labels), self.name)


@dataclass(frozen=True, kw_only=True)
class SceneSource:
    """Where one or more labelled scenes come from.

    Attributes
    ----------
    dataset, data_dir
        Name of a benchmark scene, and the folder of its files; None for own files.
    scenes
        Own scenes, each with the files of its labels.
    fields
        What to read of vector files.
    bands, nodata, scaled, clouds
        As `LabelledScene.from_files` takes them.
    """

    dataset: str | None = None
    scenes: tuple[SceneFiles, ...] = ()
    fields: LabelFields = field(default_factory=LabelFields)
    bands: tuple[int, ...] | Literal["all"] | None = None
    nodata: Nodata = NODATA_OF_FILE
    scaled: bool = False
    clouds: CloudChoice = KEEP
    data_dir: str | None = None

    @property
    def options(self) -> list[str]:
        """The options of the command line that were given for own files, such as ``--bands``."""
        given = {
            "--bands": self.bands is not None,
            "--nodata": self.nodata != NODATA_OF_FILE,
            "--scaled": self.scaled,
            "--clouds": self.clouds != KEEP,
        }
        return [option for option, is_given in given.items() if is_given] + self.fields.options

    @classmethod
    def joined(cls, sources: "Sequence[SceneSource]") -> "SceneSource":
        """Return the source of all scenes of some sources.

        Raises
        ------
        UsageError
            A benchmark scene is among several, or own files are read in different ways.
        """
        if not sources:
            raise UsageError("there is no scene: wanted one or more, from open_labelled or open_dataset")
        if len(sources) > 1 and any(source.dataset is not None for source in sources):
            raise UsageError("a benchmark scene is among several: train on it alone, or write it and open its files")
        first = next((source for source in sources if any(one.labels for one in source.scenes)), sources[0])
        own = [s if any(one.labels for one in s.scenes) else replace(s, fields=first.fields) for s in sources]
        if any(replace(source, scenes=first.scenes) != first for source in own):
            raise UsageError("the scenes were opened with different options: open all with the same ones")
        return replace(first, scenes=tuple(one for source in sources for one in source.scenes))

    def check(self) -> None:
        """Refuse anything but one data set, or own scenes of which some have labels; UsageError."""
        if (self.dataset is not None) == bool(self.scenes):
            raise UsageError(f"give either --dataset NAME (see `sdiff datasets`) or your own scene: {OWN}")
        if self.scenes and not any(one.labels for one in self.scenes):
            raise UsageError(f"a scene and its --labels go together: {OWN}")
        if self.dataset is not None and self.options:
            raise UsageError(
                f"{self.options[0]} is for your own scene: a benchmark scene is used as published; leave it out"
            )

    def check_files(self) -> None:
        """Refuse files that are not there, and a scene that is given twice, before anything is read.

        Raises
        ------
        SceneError, LabelsError, UsageError
        """
        for one in self.scenes:
            check_exists(one.scene, "a scene, as a raster that GDAL reads or a product as delivered", SceneError)
        paths = list(dict.fromkeys(path for one in self.scenes for path in one.labels))
        for path in paths:
            check_exists(path, "its labels, in a vector file or a raster", LabelsError)
        found = Counter(str(Path(one.scene).resolve()) if _is_there(one.scene) else one.scene for one in self.scenes)
        twice = next((path for path, count in found.items() if count > 1), None)
        if twice is not None:
            raise UsageError(f"the scene '{twice}' is given twice: wanted each scene once; put its labels in one file")
        if self.fields.options and paths and not any(is_vector(path) for path in paths):
            option = self.fields.options[0]
            raise UsageError(f"{option} is for vector files and '{paths[0]}' is none: leave it out, or check the file")

    def read(self, least: int = 2) -> list[LabelledScene]:
        """Read own files: a scene alone with at least `least` classes; of several, some may have no label.

        Where no file of labels is named, none has one.

        They are held in memory, and mapped whole, as long as there is room (`spectraldiff.data.cube.Room`). The errors
        are those of `LabelledScene.from_files`.
        """
        if not self.scenes:
            raise SceneError(
                "no scene is named, and no benchmark scene: wanted one; in a run folder, run.json names it"
            )
        options: dict[str, Any] = {"bands": self.bands, "nodata": self.nodata, "scaled": self.scaled}
        options |= {"clouds": self.clouds, "fields": self.fields}
        first = next((one for one in self.scenes if one.labels), None)
        room, found = Room(least=least if first is not None and len(self.scenes) == 1 else 0), []
        for one in self.scenes:
            scene = LabelledScene.from_files(one.scene, one.labels, **options, room=room)
            found.append(replace(scene, name=one.name) if one.name else scene)
        if first is not None and not any(scene.labelled for scene in found):
            try:
                LabelledScene.from_files(first.scene, first.labels, **options, room=Room(least=1))
            except NoLabelsError as error:
                raise NoLabelsError(f"none of {len(found)} scenes has a label; of the first one, {error}") from None
        return found


def gathered(
    scenes: Sequence[str],
    labels: Sequence[str] = (),
    pairs: Sequence[tuple[str, str]] = (),
    listed: str | None = None,
    unlabelled: Sequence[str] = (),
) -> tuple[SceneFiles, ...]:
    """Return the scenes that a command line asks for, each with the files of its labels.

    Parameters
    ----------
    scenes, labels
        Scenes, and the files whose labels are for all of them; also for those of the list that name none.
    pairs
        Scenes, each with a file of labels.
    listed
        A list of scenes, see `read_scene_list`.
    unlabelled
        Scenes that train the denoiser alone.

    Raises
    ------
    UsageError
        Scenes come without labels, or labels without scenes, or the list cannot be read.
    """
    if bool(labels) != bool(scenes) and not (labels and listed):
        hint = "; --unlabelled takes scenes without" if scenes else ""
        raise UsageError(f"a scene and its --labels go together: {OWN}{hint}")
    found = [SceneFiles(scene, tuple(labels)) for scene in scenes]
    found += [SceneFiles(scene, (own,)) for scene, own in pairs]
    rows = [] if listed is None else read_scene_list(listed)
    found += [row if row.labels else replace(row, labels=tuple(labels)) for row in rows]
    return (*found, *(SceneFiles(scene) for scene in unlabelled))


def read_scene_list(path: str | Path) -> list[SceneFiles]:
    """Read a list of scenes: scene, labels and name of each; the last two may be empty or missing.

    Parameters
    ----------
    path
        A CSV file with a head, its columns parted by commas or semicolons; or a TOML file with ``[[scenes]]``, whose
        labels may be a list. Names of files are meant from the list's folder.

    Raises
    ------
    UsageError
        The file cannot be read, has more than 16 MiB or 10,000 scenes, or a row is not as it should be.
    SceneError
        It is a pipe or a device.
    """
    check_plain(path)
    toml = Path(path).suffix.lower() == ".toml"
    try:
        size = Path(path).stat().st_size
        if size > LIST_BYTES:
            raise UsageError(f"the list '{path}' has {size:,} bytes: wanted {LIST_BYTES:,} at most")
        text = Path(path).read_text("utf-8-sig")
        rows: Any = tomllib.loads(text).get("scenes") if toml else _rows(text)
    except RecursionError:
        raise UsageError(f"the list '{path}' is nested too deep: wanted TOML with [[scenes]]") from None
    except (
        OSError,
        ValueError,
        csv.Error,
    ) as error:  # no text, no TOML, too many digits
        raise UsageError(
            f"the list '{path}' cannot be read ({error}): wanted a CSV file with the columns {', '.join(COLUMNS)}, or "
            "TOML with [[scenes]]"
        ) from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"the list '{path}' names no scene: wanted {'[[scenes]]' if toml else 'a row for each one'}")
    if len(rows) > LIST_SCENES:
        raise UsageError(f"the list '{path}' names {len(rows):,} scenes: wanted {LIST_SCENES:,} at most")
    found = [_listed(path, row, number) for number, row in enumerate(rows, start=1)]
    names = Counter(one.name for one in found if one.name)
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"the list '{path}' has the name '{twice}' twice: wanted one for each scene")
    return found


def _rows(text: str) -> list[dict[str | None, Any]]:
    """Return the rows of a table of text, by its columns' names; cells beyond these by None."""
    lines = text.splitlines()
    head = lines[0] if lines else ""
    reader = csv.DictReader(lines, delimiter=";" if ";" in head and "," not in head else ",", strict=True)
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    return list(reader)


def _listed(path: str | Path, row: Mapping[str | None, Any], number: int) -> SceneFiles:
    """Return a row of a list."""
    where = f"scene {number} of the list '{path}'"
    unknown = [name for name in row if name not in COLUMNS]
    if unknown:
        extra = "more cells than columns" if unknown[0] is None else f"a '{unknown[0][:NAME]}'"
        raise UsageError(f"{where} has {extra}: wanted {', '.join(COLUMNS)}")
    labels = row.get("labels") or []
    labels = [labels] if isinstance(labels, str) else labels
    texts = [row.get("scene") or "", row.get("name") or "", *(labels if isinstance(labels, list) else [labels])]
    if not all(isinstance(text, str) for text in texts):
        raise UsageError(f"{where} has a value that is no text: wanted names of files")
    scene, name, *labels = [text.strip() for text in texts]
    if not scene:
        raise UsageError(f"{where} names no file: wanted one under 'scene'")
    if len(name) > NAME:
        raise UsageError(f"{where} has a name of {len(name):,} characters: wanted {NAME} at most")
    scene, *labels = [_from_folder(Path(path).parent, one) for one in [scene, *filter(None, labels)]]
    return SceneFiles(scene, tuple(labels), name)


def _from_folder(folder: Path, name: str) -> str:
    return name if _only_gdal_knows(name) else str(folder / name)


def scene_list(scenes: Sequence[SceneFiles]) -> str:
    """Return a list of scenes as TOML, for `read_scene_list`."""
    parts = []
    for one in scenes:
        values = {"scene": one.scene, "labels": list(one.labels), "name": one.name}
        parts += ["[[scenes]]", *(f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in values.items() if v), ""]
    return "\n".join(parts)


def whole_path(name: str | os.PathLike[str]) -> str:
    """Return a file's whole path, so that a run goes on from any folder; a name that only GDAL knows stays."""
    return os.fspath(name) if _only_gdal_knows(name) else str(Path(name).absolute())


def _only_gdal_knows(name: str | os.PathLike[str]) -> bool:
    return GDAL_NAME.match(os.fspath(name)) is not None and not _is_there(name)


def _is_there(name: str | os.PathLike[str]) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # too long a name, or a loop of links
        return False


def check_exists(name: str, wanted: str, kind: type[SpectralDiffError]) -> None:
    """Raise an error of `kind` where no file of this name exists, unless only GDAL can know."""
    if not _is_there(name) and not _only_gdal_knows(name):
        raise kind(f"'{name}' does not exist: wanted {wanted}; check the name")
