"""A split: which labelled pixels train and which test."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.classes import LandCoverClass

BY_POLYGON = " by polygon"


@dataclass(frozen=True)
class Split:
    """Training and test pixels of one scene, never in both; a labelled pixel may be in neither.

    Attributes
    ----------
    name
        The spec it was made from, such as ``"per-class:20"``; ``"... by polygon"`` where whole polygons were drawn.
    seed
        The seed it was drawn with.
    train, test
        (H, W) bool.
    leakage
        Share of the test pixels whose window holds a training pixel, also one of another scene, 0..1;
        None where the window is not known or nothing tests.
    notes
        What a reader of the accuracy must know, one line each.
    folds
        (H, W) the fold, from 1, in which a training pixel is held out and scored; 0 for none. None for splits with test
        pixels; else nothing tests, and all labelled pixels train.
    distant
        Whether most held-out pixels have no training pixel of another fold in their windows.
    """

    name: str
    seed: int
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]
    leakage: float | None = None
    notes: tuple[str, ...] = ()
    folds: NDArray[np.uint8] | None = None
    distant: bool = False

    @property
    def spatially_disjoint(self) -> bool:
        """Whether most test pixels are in other polygons than the training pixels, or have none in their windows."""
        apart = self.name.endswith(BY_POLYGON) or self.by_scene or self.distant
        return apart or (self.leakage is not None and self.leakage < 0.5)

    @property
    def by_scene(self) -> bool:
        """Whether whole scenes test."""
        return self.name.startswith(("scenes:", "by-scene:"))

    @property
    def scored(self) -> NDArray[np.bool_]:
        """The pixels that the accuracy is measured on: those that test, or those that a fold holds out, (H, W)."""
        return self.test if self.folds is None else self.folds > 0

    @property
    def units(self) -> str:
        """What folds hold out whole, such as ``"polygons"``; empty without folds."""
        name = self.name.rpartition(" by ")[2]
        return "" if self.folds is None else "patches" if name == "patch" else f"{name}s"

    @property
    def measured(self) -> str:
        """How the accuracy is measured where folds are held out, such as ``"5 folds of polygons"``; else empty."""
        count = self.name.partition(":")[2].partition(" ")[0]
        return "" if self.folds is None else f"{count} folds of {self.units}"

    @property
    def buffered(self) -> bool:
        """Whether a buffer keeps the training pixels out of all that the class of a test pixel depends on."""
        return self.name.partition(":")[0] == "disjoint"


class Titles(dict[int, str]):
    """What messages call classes: value and name, or the value alone."""

    def __init__(self, classes: Sequence[LandCoverClass]) -> None:
        super().__init__({c.value: f'class {c.value} "{c.name}"' for c in classes})

    def __missing__(self, value: int) -> str:
        return f"class {value}"
