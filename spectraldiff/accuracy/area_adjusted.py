"""Accuracy and area of classes, adjusted for the errors of the map, with confidence intervals.

Areas from a map's pixel counts are biased, and so are accuracies from a sample that is drawn class by class. Olofsson,
Foody, Herold, Stehman, Woodcock and Wulder, "Good practices for estimating area and assessing accuracy of land change",
Remote Sensing of Environment 148 (2014), weight the sample by the map. Equation numbers below are theirs.

The sample must be random: a simple random sample of the mapped pixels, or one drawn in each map class. Pixels of
hand-drawn polygons are neither, and their intervals are too narrow.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spectraldiff_runtime.errors import LabelsError

Z95 = 1.96  # standard errors on each side of a 95 % interval


@dataclass(frozen=True)
class Estimate:
    """A value and half the width of its 95 % confidence interval; NaN if the sample does not determine it."""

    value: float
    half_width: float

    def as_dict(self) -> dict[str, float | None]:
        """Return both in types that `json` writes; NaN becomes None."""
        return {"value": _or_none(self.value), "half_width": _or_none(self.half_width)}


@dataclass(frozen=True)
class AreaAdjusted:
    """Accuracies and areas of a map with K classes, estimated from a random sample.

    Attributes
    ----------
    oa
        Overall accuracy: share of the mapped area with the correct class.
    users
        User's accuracy of each class: share of the area mapped as the class that belongs to it.
    producers
        Producer's accuracy of each class: share of the class's area that is mapped as the class.
    shares
        True share of each class in the mapped area.
    areas
        The same in the unit of `pixel_area`; None if that was not given.
    mapped_pixels
        Pixels of each class in the map.
    unsampled
        Values of the classes in the map that have no sampled pixel. If there is one, everything except the user's
        accuracies of the other classes is NaN, because the truth there is unknown.
    """

    oa: Estimate
    users: tuple[Estimate, ...]
    producers: tuple[Estimate, ...]
    shares: tuple[Estimate, ...]
    areas: tuple[Estimate, ...] | None
    mapped_pixels: tuple[int, ...]
    unsampled: tuple[int, ...]

    def as_dict(self) -> dict[str, object]:
        """Return the figures in types that `json` writes; NaN becomes None."""
        lists = {name: [e.as_dict() for e in getattr(self, name)] for name in ("users", "producers", "shares")}
        return {
            "oa": self.oa.as_dict(),
            **lists,
            "areas_ha": None if self.areas is None else [e.as_dict() for e in self.areas],
            "mapped_pixels": list(self.mapped_pixels),
            "unsampled_classes": list(self.unsampled),
        }


def area_adjusted(counts: ArrayLike, mapped_pixels: ArrayLike, pixel_area: float | None = None) -> AreaAdjusted:
    """Estimate accuracies and areas from a sample of a map, each with its 95 % interval.

    Parameters
    ----------
    counts
        (K, K) sampled pixels: rows are the map's classes 1..K, columns the reference's.
    mapped_pixels
        (K,) pixels of the whole map in each class.
    pixel_area
        Area of a pixel, in hectares or any other unit; None for shares only.

    Raises
    ------
    LabelsError
        The shapes differ, a number is negative, the map has no pixel, or a class has sampled but no mapped pixels.
    """
    sample, mapped = np.asarray(counts, np.float64), np.asarray(mapped_pixels, np.float64)
    _check(sample, mapped)
    drawn, weights = sample.sum(axis=1), mapped / mapped.sum()
    shares, variances = _rows(sample, drawn, weights)
    proportions = weights[:, None] * shares  # Eq. (4), with n_ij / n_i. for `shares`
    columns = proportions.sum(axis=0)  # Eq. (9)
    spread = Z95 * np.sqrt((weights[:, None] ** 2 * variances).sum(axis=0))  # Eq. (10)
    oa_variance = (weights**2 * np.diagonal(variances)).sum()  # Eq. (5)
    area = None if pixel_area is None else float(mapped.sum() * pixel_area)
    return AreaAdjusted(
        oa=Estimate(float(np.trace(proportions)), Z95 * float(np.sqrt(oa_variance))),  # Eq. (1)
        users=_users(shares, variances, weights),
        producers=_producers(proportions, columns, variances, weights),
        shares=_estimates(columns, spread),
        areas=None if area is None else _estimates(area * columns, area * spread),  # Eq. (11)
        mapped_pixels=tuple(int(n) for n in mapped),
        unsampled=tuple(int(i) + 1 for i in np.flatnonzero((mapped > 0) & (drawn == 0))),
    )


def _check(sample: NDArray[np.float64], mapped: NDArray[np.float64]) -> None:
    if sample.ndim != 2 or mapped.shape != sample.shape[:1] or sample.shape[0] != sample.shape[1]:
        raise LabelsError(f"the counts are {sample.shape} and the mapped pixels {mapped.shape}: wanted (K, K) and (K,)")
    if sample.min() < 0 or mapped.min() < 0:
        raise LabelsError("a count of pixels is negative: wanted 0 or more")
    if not mapped.any():
        raise LabelsError("the map has no pixel with a class: wanted at least one; check the map")
    strays = np.flatnonzero((mapped == 0) & (sample.sum(axis=1) > 0))
    if strays.size:
        raise LabelsError(
            f"class {strays[0] + 1} was sampled in the map and has no mapped pixel: wanted the counts of one map"
        )


def _rows(
    sample: NDArray[np.float64], drawn: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return n_ij / n_i. and its variance; NaN if the sample of a class is too small, 0 if the map lacks the class."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = sample / drawn[:, None]
        variances = shares * (1 - shares) / (drawn[:, None] - 1)
    absent = weights == 0
    shares[absent], variances[absent] = 0.0, 0.0
    return shares, variances


def _users(
    shares: NDArray[np.float64], variances: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[Estimate, ...]:
    """Eqs. (2) and (6)."""
    known = np.where(weights > 0, 1.0, np.nan)
    return _estimates(known * np.diagonal(shares), known * Z95 * np.sqrt(np.diagonal(variances)))


def _producers(
    proportions: NDArray[np.float64],
    columns: NDArray[np.float64],
    variances: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> tuple[Estimate, ...]:
    """Eqs. (3) and (7), the latter divided by the square of the map's pixels."""
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.diagonal(proportions) / columns
        terms = weights[:, None] ** 2 * variances
        own = np.diagonal(terms)
        others = terms.sum(axis=0) - own
        variance = ((1 - values) ** 2 * own + values**2 * others) / columns**2
    return _estimates(values, Z95 * np.sqrt(np.maximum(variance, 0.0)))


def _estimates(values: NDArray[Any], half_widths: NDArray[Any]) -> tuple[Estimate, ...]:
    return tuple(Estimate(float(v), float(h)) for v, h in zip(values, half_widths, strict=True))


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
