"""What a user asks `sdiff train` for: kept in the run folder, so that a training can go on without being told again."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from spectraldiff import datasets
from spectraldiff.presets import Preset
from spectraldiff.scene import Scene
from spectraldiff.splits import PAPER_COUNTS, Split, make_split
from spectraldiff_runtime.errors import RunError, SceneError, UsageError
from spectraldiff_runtime.raster import NODATA_OF_FILE, Nodata


@dataclass(frozen=True)
class Request:
    """A training as asked for.

    Attributes
    ----------
    dataset
        Name of a benchmark scene, or None for the user's own rasters.
    data_dir
        Folder of the data set's files.
    scene, labels
        The user's own scene and label raster.
    bands, nodata, scaled
        As `Scene.from_rasters` takes them, for own rasters.
    split, seed
        See `spectraldiff.splits.make_split`.
    preset
        Everything else.
    compare_raw
        Whether the same classifier is also trained on raw bands.
    """

    preset: Preset
    split: str
    seed: int
    compare_raw: bool
    dataset: str | None = None
    data_dir: str | None = None
    scene: str | None = None
    labels: str | None = None
    bands: tuple[int, ...] | None = None
    nodata: Nodata = NODATA_OF_FILE
    scaled: bool = False

    def load_scene(self) -> Scene:
        """Load the scene with its labels.

        Raises
        ------
        SceneError
            No pixel of the scene has data; and the errors of `datasets.load` and `Scene.from_rasters`.
        """
        scene = self._load()
        if not scene.valid.any():
            raise SceneError(
                f"the scene '{scene.name}' has no data in any pixel: see `sdiff info`, or give --nodata none"
            )
        return scene

    def _load(self) -> Scene:
        if self.dataset is not None:
            return datasets.load(self.dataset, None if self.data_dir is None else Path(self.data_dir))
        assert self.scene is not None
        assert self.labels is not None
        return Scene.from_rasters(self.scene, self.labels, bands=self.bands, nodata=self.nodata, scaled=self.scaled)

    def make_split(self, scene: Scene) -> Split:
        """Draw the training and test pixels; pixels without data are in neither."""
        labels = scene.labels.copy()
        labels[~scene.valid] = 0
        return make_split(labels, self.split, self.seed, self.dataset, scene.classes)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for `from_json`."""
        return {**asdict(self), "preset": self.preset.to_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Request":
        """Rebuild a request; RunError where it does not fit this version."""
        if set(values) != {f.name for f in fields(cls)}:
            raise RunError("the run was begun by another version of SpectralDiff: train again")
        bands = values["bands"]
        return cls(
            **{
                **values,
                "preset": Preset.from_json(values["preset"]),
                "bands": None if bands is None else tuple(bands),
            }
        )


def default_split(dataset: str | None) -> str:
    """Return the split used when none is asked for: the paper's where it has one, else a tenth of each class."""
    return "paper" if dataset in PAPER_COUNTS else "fraction:0.1"


def check_source(dataset: str | None, scene: str | None, labels: str | None) -> None:
    """Refuse anything but one data set, or one scene with its labels."""
    if (dataset is None) == (scene is None):
        raise UsageError(
            "give either --dataset NAME (see `sdiff datasets`) or your own scene: "
            "`sdiff train scene.tif --labels labels.tif`"
        )
    if (scene is None) != (labels is None):
        raise UsageError("a scene and its --labels go together: `sdiff train scene.tif --labels labels.tif`")
