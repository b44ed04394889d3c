"""What mapping gives: blocks of the map, and the figures of a whole one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.classes import LandCoverClass, class_dtype


@dataclass(frozen=True)
class Block:
    """A window of the map.

    `classes` (h, w) holds 0..K, as uint8 up to 254 classes and as uint16 past that. `confidence` (h, w) and
    `probabilities` (K, h, w) are float32 in 0..1, 0 where the pixel has no data or is not wanted, and None unless they
    were asked for.
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
    profile
        One entry for each stage: what it did and what it waited for.
    skipped
        Whether the map was there already, so that nothing was done.
    """

    classes: NDArray[Any] | None
    confidence: NDArray[np.float32] | None
    probabilities: NDArray[np.float32] | None
    out: Path | None
    legend: tuple[LandCoverClass, ...]
    pixels: tuple[int, ...]
    height: int
    width: int
    seconds: float
    hectares_per_pixel: float | None
    profile: tuple[Mapping[str, Any], ...] = ()
    skipped: bool = False

    @property
    def pixels_per_second(self) -> float:
        """Pixels of the scene for each second."""
        return self.height * self.width / max(self.seconds, 1e-9)

    @property
    def bounding_stage(self) -> Mapping[str, Any] | None:
        """The stage that worked longest; None without a profile."""
        return max(self.profile, key=lambda stage: stage["busy_s"], default=None)

    def as_dict(self) -> dict[str, Any]:
        """Return all figures, without the arrays, in types that JSON knows."""
        return {
            "out": None if self.out is None else str(self.out),
            "height": self.height,
            "width": self.width,
            "seconds": self.seconds,
            "pixels_per_second": self.pixels_per_second,
            "unclassified_pixels": self.pixels[0],
            "skipped": self.skipped,
            "classes": [self._row(c) for c in self.legend],
            "profile": list(self.profile),
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
