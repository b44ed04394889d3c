"""Blocks of a map, and which layers they hold."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.classes import class_dtype

# How far from the training classes a pixel is, in percent, at most; and the value of pixels where it is not known.
BEYOND_ALL, NO_OUTSIDE = 100, 255
BEYOND = 95  # percent: what is farther counts as unlike the training


@dataclass(frozen=True)
class Block:
    """A window of the map.

    `classes` (h, w) holds 0..K, as uint8 up to 254 classes and as uint16 past that. `confidence` (h, w) and
    `probabilities` (K, h, w) are float32 in 0..1, 0 where the pixel has no data or lies outside the
    region, and None unless requested. `outside` (h, w), None unless it is read, is uint8: how far a pixel is from the
    training classes in percent, 0..100, and `NO_OUTSIDE` where the others are 0.
    """

    classes: NDArray[Any]
    confidence: NDArray[np.float32] | None
    probabilities: NDArray[np.float32] | None
    outside: NDArray[np.uint8] | None = None

    @classmethod
    def empty(cls, height: int, width: int, classes: int, requested: "RequestedLayers") -> "Block":
        """Return a block without any result."""
        return cls(
            np.zeros((height, width), class_dtype(classes)),
            np.zeros((height, width), np.float32) if requested.confidence else None,
            np.zeros((classes, height, width), np.float32) if requested.probabilities else None,
            np.full((height, width), NO_OUTSIDE, np.uint8) if requested.asks_outside else None,
        )

    def layers(self) -> list[NDArray[Any]]:
        """Return the arrays that are there: classes first."""
        return [a for a in (self.classes, self.confidence, self.probabilities, self.outside) if a is not None]

    def within(self, inside: NDArray[np.bool_]) -> "Block":
        """Return the block without results where `inside`, (h, w), is False."""
        kept = [None if a is None else a * inside for a in (self.classes, self.confidence, self.probabilities)]
        outside = None if self.outside is None else np.where(inside, self.outside, np.uint8(NO_OUTSIDE))
        return Block(kept[0], kept[1], kept[2], outside)  # type: ignore[arg-type]

    def paste(self, piece: "Block", row: int, col: int) -> None:
        """Copy a smaller block of the same layers to (row, col)."""
        height, width = piece.classes.shape
        for into, values in zip(self.layers(), piece.layers(), strict=True):
            into[..., row : row + height, col : col + width] = values


@dataclass(frozen=True)
class RequestedLayers:
    """The layers of a map that the user asked for.

    Attributes
    ----------
    confidence, probabilities, outside
        Whether these are returned or written in addition to the classes.
    min_confidence
        Pixels of a lower confidence, 0..1, become unclassified.
    max_outside
        Pixels that are farther from the training classes, in percent, become unclassified; 100 for none.
    counts_outside
        Whether pixels unlike the training are counted, for a warning, also where no layer of them is kept.
    """

    confidence: bool = False
    probabilities: bool = False
    min_confidence: float = 0.0
    outside: bool = False
    max_outside: int = BEYOND_ALL
    counts_outside: bool = False

    @property
    def reads_outside(self) -> bool:
        """Whether a map keeps how far pixels are from the training classes."""
        return self.outside or self.max_outside < BEYOND_ALL

    @property
    def asks_outside(self) -> bool:
        """Whether the model is asked how far pixels are from its training classes."""
        return self.reads_outside or self.counts_outside

    def unlike(self, outside: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which pixels are farther from the training classes than is wanted."""
        return farther_than(self.max_outside, outside)


def farther_than(percent: int, outside: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which pixels are farther from the training than so many percent; those where it is not known are not."""
    return np.asarray((outside > percent) & (outside <= BEYOND_ALL))
