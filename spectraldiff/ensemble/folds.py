"""Folds of the training pixels that are held out as the map will be used.

Test pixels lie next to training pixels, or in other fields, or in other parts of the scene: a choice of context is
right only where held-out pixels are as far from the others as the pixels to be mapped are. Polygons or patches are held
out whole; where pixels are free, they are held out in square blocks whose side gives the wanted distances.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from spectraldiff.splits.folds import balanced

SIDES = (1, 2, 4, 8, 16, 32, 64)  # pixels along the side of a block
QUANTILES = np.linspace(0.02, 0.98, 49)
CLEARLY = 1e-3  # a larger block must fit the distances better by so much
PIXELS = "pixels"  # unit of folds that hold out single pixels


@dataclass(frozen=True)
class Folds:
    """Which fold each training pixel is held out in.

    Attributes
    ----------
    numbers
        (n,) 0 .. J - 1.
    units
        What is held out whole, for people: ``"pixels"``, ``"polygons or patches"``, ``"scenes"`` or
        ``"blocks of 8 x 8 pixels"``.
    count
        How many such units there are.
    cut
        Classes that were in one unit only. Held out whole they could not be learnt, and their pixels would say nothing
        of any member: they are held out in smaller blocks.
    """

    numbers: NDArray[np.int64]
    units: str
    count: int
    cut: int = 0

    @property
    def title(self) -> str:
        """What is held out, for people."""
        return self.units + (f" ({self.cut} class{'es'[: 2 * (self.cut > 1)]} in smaller blocks)" if self.cut else "")

    def held_out(self) -> list[NDArray[np.bool_]]:
        """Return the pixels of each fold, (n,) bool."""
        return [self.numbers == fold for fold in np.unique(self.numbers)]


def folds_of_groups(
    pixels: NDArray[np.int64],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    seed: int,
    units: str = "polygons or patches",
) -> Folds | None:
    """Return folds of whole groups; None where there are fewer than two.

    Parameters
    ----------
    pixels
        (n, 2) row and column of the training pixels.
    labels, groups
        (n,) class from 0 and group of each training pixel.
    seed
        Makes every draw.
    units
        What the groups are, for people.
    """
    if len(np.unique(groups)) < 2:
        return None
    found, cut = _cut_single(groups, pixels, labels, SIDES[-1])
    return Folds(balanced(labels, found, np.random.default_rng(seed)), units, len(np.unique(found)), cut)


def folds_like(pixels: NDArray[np.int64], labels: NDArray[np.int64], target: NDArray[np.int64], seed: int) -> Folds:
    """Return folds of blocks, as far from each other as the pixels to be mapped are from the training pixels.

    Parameters
    ----------
    pixels
        (n, 2) row and column of the training pixels.
    labels
        (n,) their classes, from 0.
    target
        (m, 2) the pixels to be mapped: test pixels, or a sample of the scene.
    seed
        Makes every draw.

    Notes
    -----
    Distances are Chebyshev distances d to the next training pixel. The side is chosen whose quantiles of log(1 + d) of
    held-out pixels are nearest to those of `target`.
    """
    generator, wanted = np.random.default_rng(seed), _quantiles(_nearest(target, pixels))
    best, chosen = np.inf, Folds(np.arange(len(labels)) % 2, PIXELS, len(labels))
    for side in SIDES:
        blocks = _blocks(pixels, side)
        if not blocks.any():
            break
        units, cut = _cut_single(blocks, pixels, labels, side)
        numbers = balanced(labels, units, generator)
        gap = float(np.abs(_quantiles(_distances(pixels, numbers)) - wanted).mean())
        if gap < best - CLEARLY:
            name = PIXELS if side == 1 else f"blocks of {side} x {side} pixels"
            best, chosen = gap, Folds(numbers, name, len(np.unique(units)), cut)
    return chosen


def _blocks(pixels: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Return the number of each pixel's block, from 0."""
    return np.asarray(np.unique(pixels // side, axis=0, return_inverse=True)[1].ravel())


def _cut_single(
    units: NDArray[np.int64], pixels: NDArray[np.int64], labels: NDArray[np.int64], side: int
) -> tuple[NDArray[np.int64], int]:
    """Cut each class that is in one unit only into blocks of half the side, or a quarter, or less.

    Returns the new units, (n,), and how many classes were cut.
    """
    found, cut = units.copy(), 0
    for value in np.unique(labels):
        own, smaller = np.flatnonzero(labels == value), side
        if len(np.unique(found[own])) > 1:
            continue
        while smaller > 1 and len(np.unique(found[own])) == 1:
            smaller //= 2
            found[own] = found.max() + 1 + _blocks(pixels[own], smaller)
        cut += len(np.unique(found[own])) > 1
    return found, cut


def _nearest(pixels: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(cKDTree(others).query(pixels, p=np.inf)[0])


def _distances(pixels: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how far each pixel is from the pixels of other folds."""
    found = np.zeros(len(pixels))
    for fold in np.unique(numbers):
        held = numbers == fold
        found[held] = _nearest(pixels[held], pixels[~held])
    return found


def _quantiles(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.quantile(np.log1p(distances), QUANTILES))
