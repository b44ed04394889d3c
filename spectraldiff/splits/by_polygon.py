"""Splits by polygon: pixels of one polygon are alike, so whole polygons train or test.

``fraction:F`` draws polygons of a class until about the share F of its pixels is reached, at least one polygon on
either side. ``per-class:N`` draws half of a class's polygons, more where they hold fewer than N pixels, and N pixels
in them; the other pixels of those polygons are on neither side. Where no polygon would be left for the test, half of
the class's pixels stand for N. A class in one polygon only is split by pixel, with a note. A labelled pixel that
belongs to no polygon (a point) is a unit of its own.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
            chosen = share_of(units, n, generator)
            train[pixels[chosen]] = True
        else:
            n, chosen = _holding(units, n, generator)
            train[generator.choice(pixels[chosen], n, replace=False)] = True
        test[pixels[~chosen]] = True
    notes = (f"in one polygon only, so split by pixel and optimistic: {', '.join(alone)}",) if alone else ()
    return train.reshape(labels.shape), test.reshape(labels.shape), notes


def _units(groups: NDArray[Any]) -> NDArray[np.int64]:
    """Return the number, from 0, of each pixel's polygon; a pixel without one gets a number of its own."""
    own = np.where(groups > 0, groups, groups.max() + 1 + np.arange(len(groups)))
    return np.asarray(np.unique(own, return_inverse=True)[1], dtype=np.int64)


def share_of(units: NDArray[np.int64], wanted: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Return which pixels lie in drawn polygons, about `wanted` of them, never all and never none."""
    sizes = np.bincount(units)
    drawn, total = np.zeros(len(sizes), np.bool_), 0
    for unit in generator.permutation(len(sizes)):
        drawn[unit] = abs(total + sizes[unit] - wanted) < abs(total - wanted)
        total += int(sizes[unit]) if drawn[unit] else 0
    if not drawn.any():
        drawn[sizes.argmin()] = True
    if drawn.all():
        drawn[sizes.argmin()] = False
    return np.asarray(drawn[units])


def _holding(units: NDArray[np.int64], wanted: int, generator: np.random.Generator) -> tuple[int, NDArray[np.bool_]]:
    """Return how many pixels train, and which lie in drawn polygons.

    Half of the polygons are drawn, or as many more as hold `wanted` pixels; one is left.  Where that cannot be, half of
    the pixels train, which all polygons but the smallest always hold.
    """
    sizes = np.bincount(units)
    order = generator.permutation(len(sizes))
    largest_first = np.argsort(-sizes, kind="stable")
    if sizes[largest_first[:-1]].sum() < wanted:
        wanted = int(sizes.sum()) // 2
    count = max(len(sizes) // 2, _least(sizes[order], wanted))
    if count >= len(sizes):
        order, count = largest_first, _least(sizes[largest_first], wanted)
    return wanted, np.isin(units, order[:count])


def _least(sizes: NDArray[np.int64], wanted: int) -> int:
    """Return how many of the first polygons hold `wanted` pixels."""
    return int(np.searchsorted(np.cumsum(sizes), wanted)) + 1
