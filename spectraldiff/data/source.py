"""Where labelled scenes come from: a benchmark scene, or files and how they are read."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from spectraldiff.data.label_vectors import LabelFields, is_vector
from spectraldiff.data.scene import LabelledScene
from spectraldiff_runtime.errors import LabelsError, SceneError, SpectralDiffError, UsageError
from spectraldiff_runtime.scene.clouds import KEEP, CloudChoice
from spectraldiff_runtime.scene.nodata import NODATA_OF_FILE, Nodata

# Names that only GDAL knows: /vsizip/a.zip/a.tif, s3://bucket/a.tif, NETCDF:"a.nc":b. One letter is a Windows drive.
GDAL_NAME = re.compile(r"/vsi|[a-z][a-z0-9_+]+:", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class SceneSource:
    """Where one or more labelled scenes come from.

    Attributes
    ----------
    dataset, data_dir
        Name of a benchmark scene, and the folder of its files; None for own files.
    scene, labels
        An own scene, a raster, and its labels.
    more_labels
        Further files with labels of `scene`.
    pairs
        More scenes, each with its labels.
    fields
        What to read of vector files.
    bands, nodata, scaled, clouds
        As `LabelledScene.from_files` takes them.
    """

    dataset: str | None = None
    scene: str | None = None
    labels: str | None = None
    more_labels: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    fields: LabelFields = field(default_factory=LabelFields)
    bands: tuple[int, ...] | Literal["all"] | None = None
    nodata: Nodata = NODATA_OF_FILE
    scaled: bool = False
    clouds: CloudChoice = KEEP
    data_dir: str | None = None

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """The own scenes, each with its labels."""
        first = () if self.scene is None or self.labels is None else ((self.scene, self.labels),)
        return (*first, *self.pairs)

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
        first, *more = sources
        if any(source.more_labels for source in more):
            raise UsageError("only the first of several scenes may have labels of several files: put it first")
        if more and any(source.dataset is not None for source in sources):
            raise UsageError("a benchmark scene is among several: train on it alone, or write it and open its files")
        ways = [(s.fields, s.bands, s.nodata, s.scaled, s.clouds) for s in sources]
        if any(way != ways[0] for way in ways):
            raise UsageError("the scenes were opened with different options: open all with the same ones")
        return replace(first, pairs=tuple(pair for source in sources for pair in source.files)[len(first.files[:1]) :])

    def check_files(self) -> None:
        """Refuse files that are not there, and a scene that is given twice, before anything is read.

        Raises
        ------
        SceneError, LabelsError, UsageError
        """
        for scene, labels in self.files:
            check_exists(scene, "a scene, as a raster that GDAL reads or a product as delivered", SceneError)
            check_exists(labels, "its labels, in a vector file or a raster", LabelsError)
        for labels in self.more_labels:
            check_exists(labels, "more labels of the scene, in a vector file or a raster", LabelsError)
        scenes = [str(Path(scene).resolve()) if _is_there(scene) else scene for scene, _ in self.files]
        twice = next((path for path in scenes if scenes.count(path) > 1), None)
        if twice is not None:
            raise UsageError(f"the scene '{twice}' is given twice: wanted each scene once; put its labels in one file")
        paths = [*(labels for _, labels in self.files), *self.more_labels]
        if self.fields.options and not any(is_vector(path) for path in paths):
            option = self.fields.options[0]
            raise UsageError(f"{option} is for vector files and '{paths[0]}' is none: leave it out, or check the file")

    def read(self, least: int = 2) -> list[LabelledScene]:
        """Read own files, each with at least `least` classes; the errors are those of `LabelledScene.from_files`."""
        options: dict[str, Any] = {"bands": self.bands, "nodata": self.nodata, "scaled": self.scaled}
        options |= {"clouds": self.clouds, "fields": self.fields, "least": least}
        found = []
        for number, (scene, labels) in enumerate(self.files):
            paths = [labels, *self.more_labels] if number == 0 and self.scene is not None else labels
            found.append(LabelledScene.from_files(scene, paths, **options))
        return found


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
