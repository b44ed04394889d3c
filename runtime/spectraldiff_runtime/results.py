"""What mapping gives: blocks of the map, and the figures of a whole one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .class_map import LandCoverClass


@dataclass(frozen=True)
class Block:
    """A window of the map.

    `classes` (h, w) uint8 holds 0..K. `confidence` (h, w) and `probabilities` (K, h, w) are float32 in
    0..1, 0 where the class is 0, and None unless they were asked for.
    """

    classes: NDArray[np.uint8]
    confidence: NDArray[np.float32] | None
    probabilities: NDArray[np.float32] | None

    @classmethod
    def empty(cls, height: int, width: int, classes: int, confidence: bool, probabilities: bool) -> "Block":
        """Return a block of zeros."""
        return cls(
            np.zeros((height, width), np.uint8),
            np.zeros((height, width), np.float32) if confidence else None,
            np.zeros((classes, height, width), np.float32) if probabilities else None,
        )

    def layers(self) -> list[NDArray[Any]]:
        """Return the arrays that are there: classes first."""
        return [a for a in (self.classes, self.confidence, self.probabilities) if a is not None]


def side_by_side(parts: Sequence[Block]) -> Block:
    """Join blocks of equal height from left to right."""

    def join(arrays: Sequence[NDArray[Any] | None]) -> Any:
        present = [array for array in arrays if array is not None]
        return np.concatenate(present, axis=-1) if present else None

    return Block(
        join([p.classes for p in parts]),
        join([p.confidence for p in parts]),
        join([p.probabilities for p in parts]),
    )


@dataclass(frozen=True)
class MapResult:
    """What `map_scene` did.

    Attributes
    ----------
    classes, confidence, probabilities
        As in `Block`, for the whole scene; None where written to a file or not asked for.
    out
        The class raster, if one was written.
    legend
        The model's classes.
    pixels
        Pixels of each value, 0..K.
    seconds
        Wall time from the first read to the last write.
    hectares_per_pixel
        None unless the scene has a projected CRS.
    """

    classes: NDArray[np.uint8] | None
    confidence: NDArray[np.float32] | None
    probabilities: NDArray[np.float32] | None
    out: Path | None
    legend: tuple[LandCoverClass, ...]
    pixels: tuple[int, ...]
    height: int
    width: int
    seconds: float
    hectares_per_pixel: float | None

    @property
    def pixels_per_second(self) -> float:
        """Pixels of the scene for each second."""
        return self.height * self.width / max(self.seconds, 1e-9)

    def as_dict(self) -> dict[str, Any]:
        """Return all figures, without the arrays, in types that JSON knows."""
        return {
            "out": None if self.out is None else str(self.out),
            "height": self.height,
            "width": self.width,
            "seconds": self.seconds,
            "pixels_per_second": self.pixels_per_second,
            "nodata_pixels": self.pixels[0],
            "classes": [self._row(c) for c in self.legend],
        }

    def _row(self, c: LandCoverClass) -> dict[str, Any]:
        pixels, area = self.pixels[c.value], self.hectares_per_pixel
        return {
            "value": c.value,
            "name": c.name,
            "colour": list(c.colour),
            "pixels": pixels,
            "share": pixels / (self.height * self.width),
            "hectares": None if area is None else area * pixels,
        }
