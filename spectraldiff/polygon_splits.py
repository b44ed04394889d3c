"""Splits by polygon: pixels of one polygon are alike, so whole polygons train or test.

``fraction:F`` draws polygons of a class until about the share F of its pixels is reached, at least one polygon on
either side. ``per-class:N`` draws half of a class's polygons, more where they hold fewer than N pixels, and N pixels
in them; the other pixels of those polygons are on neither side. A class in one polygon only is split by pixel, with a
note. A labelled pixel that belongs to no polygon (a point) is a unit of its own.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.errors import LabelsError


def by_polygon(
    labels: NDArray[Any],
    groups: NDArray[Any],
    wanted: Mapping[int, int],
    form: str,
    generator: np.random.Generator,
    titles: Mapping[int, str],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], tuple[str, ...]]:
    """Draw polygons class by class.

    Parameters
    ----------
    labels, groups
        (H, W): class from 1 and polygon from 1 of each pixel, 0 for none.
    wanted
        Training pixels of each class, fewer than it has.
    form
        ``"fraction"`` or ``"per-class"``.
    generator
        Makes every draw.
    titles
        What messages call the classes.

    Returns
    -------
    train, test : ndarray of shape (H, W), bool
    notes
        One line on the classes that were split by pixel.

    Raises
    ------
    LabelsError
        The training polygons of a class hold too few pixels.
    """
    train, test = np.zeros(labels.size, np.bool_), np.zeros(labels.size, np.bool_)
    alone = []
    for value, n in sorted(wanted.items()):
        pixels = np.flatnonzero(labels == value)
        units = _units(groups.ravel()[pixels])
        if units.max() == 0:
            alone.append(titles[value])
            chosen = np.isin(pixels, generator.choice(pixels, n, replace=False))
            train[pixels[chosen]], test[pixels[~chosen]] = True, True
            continue
        if form == "fraction":
            chosen = _share_of(units, n, generator)
            train[pixels[chosen]] = True
        else:
            chosen = _holding(units, n, generator, titles[value])
            train[generator.choice(pixels[chosen], n, replace=False)] = True
        test[pixels[~chosen]] = True
    notes = (f"in one polygon only, so split by pixel and optimistic: {', '.join(alone)}",) if alone else ()
    return train.reshape(labels.shape), test.reshape(labels.shape), notes


def _units(groups: NDArray[Any]) -> NDArray[np.int64]:
    """Return the number, from 0, of each pixel's polygon; a pixel without one gets a number of its own."""
    own = np.where(groups > 0, groups, groups.max() + 1 + np.arange(len(groups)))
    return np.asarray(np.unique(own, return_inverse=True)[1], dtype=np.int64)


def _share_of(units: NDArray[np.int64], wanted: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Return which pixels lie in drawn polygons, about `wanted` of them, never all and never none."""
    sizes = np.bincount(units)
    drawn = np.zeros(len(sizes), np.bool_)
    for unit in generator.permutation(len(sizes)):
        total = sizes[drawn].sum()
        drawn[unit] = abs(total + sizes[unit] - wanted) < abs(total - wanted)
    if not drawn.any():
        drawn[sizes.argmin()] = True
    if drawn.all():
        drawn[sizes.argmin()] = False
    return np.asarray(drawn[units])


def _holding(units: NDArray[np.int64], wanted: int, generator: np.random.Generator, title: str) -> NDArray[np.bool_]:
    """Return which pixels lie in drawn polygons: half of them, or as many more as hold `wanted` pixels; one is left."""
    sizes = np.bincount(units)
    order = generator.permutation(len(sizes))
    least = int(np.searchsorted(np.cumsum(sizes[order]), wanted)) + 1
    count = max(len(sizes) // 2, least)
    if count >= len(sizes):
        order = np.argsort(-sizes, kind="stable")
        count = int(np.searchsorted(np.cumsum(sizes[order]), wanted)) + 1
    if count >= len(sizes):
        raise LabelsError(
            f"{title} has {len(sizes)} polygons with {sizes.sum()} pixels: {wanted} for training leave no polygon for "
            "the test; take fewer, or give --split-by pixel"
        )
    return np.isin(units, order[:count])
