"""The interval of an overall accuracy where pixels of one polygon or patch are alike and count together."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from spectraldiff.splits.hold_out import patches

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An interval of the overall accuracy.

    Attributes
    ----------
    low, high
        0..1.
    units
        How many polygons or patches were scored.
    of
        ``"polygon"`` or ``"patch"``.
    """

    low: float
    high: float
    units: int
    of: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"level": LEVEL, "oa": [self.low, self.high], "units": self.units, "of": self.of}

    def words(self) -> str:
        """Say it in percent, such as ``"95 % interval 92.3 to 96.9, from 120 patches"``."""
        many = "patches" if self.of == "patch" else f"{self.of}s"
        return f"95 % interval {100 * self.low:.1f} to {100 * self.high:.1f}, from {self.units:,} {many}"


def oa_interval(
    references: Sequence[NDArray[Any]], predictions: Sequence[NDArray[Any]], groups: Sequence[NDArray[Any] | None]
) -> Interval | None:
    """Return the interval of the overall accuracy on the labelled pixels of some scenes; None for fewer than two units.

    The accuracy is a ratio of sums over polygons or patches (Cochran 1977, Sampling Techniques, Sec. 2.11, 9A.1). Its
    variance gives the number of independent pixels that are worth as much (Kish 1965, Survey Sampling, Sec. 8.2), and
    that number Wilson's interval (Wilson 1927). Where no unit differs from the others, each counts as one pixel.

    Parameters
    ----------
    references
        The labels of the scored pixels of each scene, (H, W), 0 elsewhere.
    predictions
        The classes of the map, (H, W) each.
    groups
        The polygon of each pixel, (H, W) from 1, 0 for none; None where no labels come from polygons.
    """
    right, units, drawn, top = [], [], 0, 0
    for reference, predicted, own in zip(references, predictions, groups, strict=True):
        scored = reference > 0
        right.append((reference == predicted)[scored])
        units.append(patches(reference, own)[scored] + top)
        top = int(units[-1].max(initial=top))
        drawn += 0 if own is None else int((own[scored] > 0).sum())
    hits, numbers = np.concatenate(right), np.unique(np.concatenate(units), return_inverse=True)[1].ravel()
    pixels = np.bincount(numbers).astype(np.float64)
    count = len(pixels)
    if count < 2:
        return None
    oa = float(hits.mean())
    residuals = np.bincount(numbers, hits) - oa * pixels
    variance = count / (count - 1) * float((residuals**2).sum()) / len(hits) ** 2
    worth = min(oa * (1 - oa) / variance, len(hits)) if variance > 0 else count
    low, high = _wilson(oa, worth)
    return Interval(low, high, count, "polygon" if 2 * drawn >= len(hits) else "patch")


def _wilson(share: float, number: float) -> tuple[float, float]:
    z = float(norm.ppf((1 + LEVEL) / 2))
    centre = (share + z**2 / (2 * number)) / (1 + z**2 / number)
    half = z / (1 + z**2 / number) * sqrt(share * (1 - share) / number + z**2 / (4 * number**2))
    return max(0.0, centre - half), min(1.0, centre + half)
