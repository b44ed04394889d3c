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
    """

    name: str
    seed: int
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]
    leakage: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def spatially_disjoint(self) -> bool:
        """Whether most test pixels are in other polygons than the training pixels, or have none in their windows."""
        return self.name.endswith(BY_POLYGON) or (self.leakage is not None and self.leakage < 0.5)

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
