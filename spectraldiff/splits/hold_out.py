"""Training pixels held out of a fit, by group."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from spectraldiff.data.scene import LabelledScene
from spectraldiff.splits.by_polygon import share_of
from spectraldiff.splits.split import Split

SHARE = 0.2
ENOUGH = 5  # training pixels of a class of which one is held out
FOLDS = 5  # fifths at most, and held-out pixels beyond which there is no further one
PLENTY = 500


def groups_of(scenes: Sequence[LabelledScene], splits: Sequence[Split]) -> NDArray[np.int64]:
    """Return the number of the group of each training pixel, (n,), scene after scene in order of rows.

    A group is held out together: a pixel, or a polygon or patch where a split is spatially disjoint.
    """
    found, top = [], 0
    for scene, split in zip(scenes, splits, strict=True):
        numbers = patches(np.where(split.train, scene.labels, 0), scene.groups)[split.train]
        found.append(numbers + top)
        top = max(top, int(found[-1].max(initial=0)))
    joined = np.concatenate(found)
    return joined if any(split.spatially_disjoint for split in splits) else np.arange(len(joined))


def patches(labels: NDArray[np.integer], groups: NDArray[np.int32] | None) -> NDArray[np.int64]:
    """Return the number of the patch of equal label that a pixel is in, (H, W) from 1; 0 without a label.

    A patch is a polygon's pixels where `groups` names one, else pixels that touch each other, also at their corners.
    """
    numbers, top = np.zeros(labels.shape, np.int64), 0
    for value in np.unique(labels[labels > 0]):
        found, count = label(labels == value, np.ones((3, 3)))
        numbers[found > 0] = found[found > 0] + top
        top += count
    return numbers if groups is None else np.where((groups > 0) & (labels > 0), groups + np.int64(top), numbers)


def hold_out(labels: NDArray[np.integer], groups: NDArray[np.int64], seed: int) -> list[NDArray[np.bool_]]:
    """Choose the training pixels that temperature and smoothing are fitted to.

    Parameters
    ----------
    labels, groups
        (n,) class and group of each training pixel.
    seed
        Makes every draw.

    Returns
    -------
    list of ndarray of shape (n,), bool
        Up to `FOLDS` sets without a common pixel, as many as hold `PLENTY` pixels together. Each has about a fifth of
        each class, in whole groups; never all of a class. None of a class with fewer than `ENOUGH` pixels. A class in
        one group only is drawn pixel by pixel.
    """
    generator, free = np.random.Generator(np.random.PCG64(seed)), np.ones(len(labels), np.bool_)
    classes = [pixels for value in np.unique(labels) if len(pixels := np.flatnonzero(labels == value)) >= ENOUGH]
    folds: list[NDArray[np.bool_]] = []
    while len(folds) < FOLDS and (~free).sum() < PLENTY:
        held = np.zeros(len(labels), np.bool_)
        for pixels in classes:
            alone, left = len(np.unique(groups[pixels])) == 1, pixels[free[pixels]]
            if len(left):
                units = np.arange(len(left)) if alone else np.unique(groups[left], return_inverse=True)[1]
                held[left[share_of(units, round(SHARE * len(pixels)), generator)]] = True
        if not held.any():
            break
        free &= ~held
        folds.append(held)
    return folds
