"""Blocks of a map, and which layers they hold."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.classes import class_dtype


@dataclass(frozen=True)
class Block:
    """A window of the map.

    `classes` (h, w) holds 0..K, as uint8 up to 254 classes and as uint16 past that. `confidence` (h, w) and
    `probabilities` (K, h, w) are float32 in 0..1, 0 where the pixel has no data or lies outside the
    region, and None unless requested.
    """

    classes: NDArray[Any]
    confidence: NDArray[np.float32] | None
    probabilities: NDArray[np.float32] | None

    @classmethod
    def empty(cls, height: int, width: int, classes: int, confidence: bool, probabilities: bool) -> "Block":
        """Return a block of zeros."""
        return cls(
            np.zeros((height, width), class_dtype(classes)),
            np.zeros((height, width), np.float32) if confidence else None,
            np.zeros((classes, height, width), np.float32) if probabilities else None,
        )

    def layers(self) -> list[NDArray[Any]]:
        """Return the arrays that are there: classes first."""
        return [a for a in (self.classes, self.confidence, self.probabilities) if a is not None]

    def within(self, inside: NDArray[np.bool_]) -> "Block":
        """Return the block with zeros where `inside`, (h, w), is False."""
        kept = [None if a is None else a * inside for a in (self.classes, self.confidence, self.probabilities)]
        return Block(kept[0], kept[1], kept[2])  # type: ignore[arg-type]

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
    confidence, probabilities
        Whether these are returned or written in addition to the classes.
    min_confidence
        Pixels of a lower confidence, 0..1, become unclassified.
    """

    confidence: bool = False
    probabilities: bool = False
    min_confidence: float = 0.0
