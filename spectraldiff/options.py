"""What a training may be asked for, with its defaults: the command and the Python function both take them from here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spectraldiff_runtime.errors import UsageError
from spectraldiff_runtime.validation import as_int, as_int_or_none

COUNTS = ("components", "diffusion_steps", "diffusion_batch", "epochs")
RUNS = Path("runs")  # the folder that runs go to and are looked for in


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How to train. None leaves a value to the preset.

    Attributes
    ----------
    preset
        ``"fast"`` or ``"paper"``: networks and their training.
    split
        The training pixels: ``"folds"``, ``"folds:N"``, ``"paper"``, ``"per-class:N"``, ``"fraction:F"``,
        ``"disjoint"``, ``"disjoint:F"``, ``"scenes:test=NAME,NAME"``, ``"by-scene:F"`` or ``"file:TRAIN.tif"``. None:
        ``"folds"`` for own labels; for benchmark scenes the paper's counts where it has some, else ``"fraction:0.1"``.
    split_by
        Where labels are polygons, a split draws whole ones (``"polygon"``) or pixels (``"pixel"``). Folds of several
        scenes may hold out whole scenes (``"scene"``).
    final
        The pixels that train the model that is kept: ``"all"`` that are labelled, or the split's (``"train"``). None:
        all with folds, else the split's.
    test
        Independent test labels: a vector file, with the labels' field, or a raster. None for none.
    prior
        Shares of the classes that the map assumes: ``"training"``, those of the training pixels, ``"equal"``, or the
        name of a CSV file of class and share.
    seed
        0..2**32 - 1: of the split, the weights and every draw.
    features
        ``"diffusion"``, or ``"raw"`` for the ablation without diffusion.
    compare_raw
        Whether the same classifier is also trained on raw bands.
    mixed_units
        Whether several scenes may have values in different units.
    denoiser
        Folder of a finished run of the same scene whose denoiser is taken, in place of a new one.
    timestep, layer
        Diffusion step, and layer index 0..2, that features are read at.
    components
        Principal components of the features.
    diffusion_steps, diffusion_batch
        Training steps of the denoiser, and its instances a step.
    epochs
        Epochs of the classifier.
    """

    preset: str = "fast"
    split: str | None = None
    split_by: str = "polygon"
    final: str | None = None
    test: str | None = None
    prior: str = "training"
    seed: int = 0
    features: str = "diffusion"
    compare_raw: bool = False
    mixed_units: bool = False
    denoiser: str | None = None
    timestep: int | None = None
    layer: int | None = None
    components: int | None = None
    diffusion_steps: int | None = None
    diffusion_batch: int | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        _check_choice("split_by", self.split_by, ("polygon", "pixel", "scene"))
        if self.final is not None:
            _check_choice("final", self.final, ("all", "train"))
        _check_choice("features", self.features, ("diffusion", "raw"))
        seed = as_int("seed", self.seed)
        _check_seed(seed)
        object.__setattr__(self, "seed", seed)
        for name in ("timestep", "layer", *COUNTS):
            object.__setattr__(self, name, as_int_or_none(name, getattr(self, name)))
        _check_counts({name: getattr(self, name) for name in COUNTS}, 1)

    @property
    def changes(self) -> dict[str, object]:
        """What differs from the preset; None for what does not."""
        raw = self.features if self.features != TrainOptions.features else None
        return {"features": raw, **{name: getattr(self, name) for name in ("timestep", "layer", *COUNTS)}}

    @property
    def without_effect(self) -> str:
        """Name the options that change nothing where raw bands are trained; empty for none."""
        of_diffusion = ("denoiser", "timestep", "layer", "diffusion_steps", "diffusion_batch")
        given = [f"--{name.replace('_', '-')}" for name in of_diffusion if getattr(self, name) is not None]
        given += ["--compare-raw"] * self.compare_raw
        if not given or self.features != "raw":
            return ""
        have = "has" if len(given) == 1 else "have"
        return f"{' and '.join(given)} {have} no effect with --features raw, which trains no diffusion: left out"


@dataclass(frozen=True, kw_only=True)
class ReconstructOptions:
    """What is drawn of the reverse process.

    Attributes
    ----------
    step
        Diffusion step to begin at, from 1.
    size
        Pixels along the side of the part of the scene, at least 8.
    panels
        Pictures in the strip, at least 2.
    spectra
        Pixels whose spectra are drawn, at least 1.
    seed
        Of the noise.
    """

    step: int = 100
    size: int = 64
    panels: int = 7
    spectra: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"step": 1, "size": 8, "panels": 2, "spectra": 1, "seed": 0}
        for name, lowest in least.items():
            value = as_int(name, getattr(self, name))
            object.__setattr__(self, name, value)
            _check_counts({name: value}, lowest)
        _check_seed(self.seed)


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed is {seed}: wanted 0 to {2**32 - 1}")


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{name} is '{value}': wanted {' or '.join(known)}")


def _check_counts(values: Mapping[str, int | None], least: int) -> None:
    for name, value in values.items():
        if value is not None and value < least:
            raise UsageError(f"{name} is {value}: wanted {least} or more")


TRAIN, RECONSTRUCT = TrainOptions(), ReconstructOptions()  # the defaults
