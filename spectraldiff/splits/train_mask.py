"""The split ``file:``: the pixels that a raster marks train."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.errors import LabelsError, UsageError


def marked_pixels(
    labels: NDArray[Any], marked: NDArray[Any] | None, file: str, titles: Mapping[int, str]
) -> NDArray[np.bool_]:
    """Return the labelled pixels that a raster marks for training; marks without a label are passed over.

    Parameters
    ----------
    labels
        (H, W), 0 = unlabelled, 1..K.
    marked
        (H, W): nonzero where pixels train, whole numbers. Several numbers stand for classes, whatever their own
        numbers are.
    file, titles
        What messages call the raster and the classes.

    Returns
    -------
    ndarray of shape (H, W), bool

    Raises
    ------
    UsageError
        There is no such raster, or it has another size: the split is for one scene.
    LabelsError
        One of several numbers lies on two classes, or all labelled pixels are marked, or none.
    """
    if marked is None or marked.shape != labels.shape:
        raise UsageError("the split file:TRAIN.tif is for one scene: give another split with several")
    train = np.asarray((marked != 0) & (labels != 0))
    if not train.any() or np.array_equal(train, labels != 0):
        what = "all" if train.any() else "none"
        raise LabelsError(f"'{file}' marks {what} of the labelled pixels: wanted some to train and some to test")
    if np.count_nonzero(np.unique(marked)) > 1:
        _check_classes(labels, marked, train, file, titles)
    return train


def _check_classes(
    labels: NDArray[Any], marked: NDArray[Any], train: NDArray[np.bool_], file: str, titles: Mapping[int, str]
) -> None:
    """Refuse a number that lies on two classes: the raster belongs to another scene, or to other labels."""
    both = np.unique(marked[train].astype(np.int64) << 16 | labels[train])
    values, classes = both >> 16, both & 0xFFFF
    again = np.flatnonzero(values[1:] == values[:-1])
    if len(again):
        value, one, other = values[again[0]], classes[again[0]], classes[again[0] + 1]
        row, column = np.argwhere((marked == value) & (labels == other))[0]
        raise LabelsError(
            f"'{file}' has the value {value} on pixels of {titles[int(one)]} and of {titles[int(other)]}, such as row "
            f"{row}, column {column}: wanted one class under each value, or one value for all training pixels; check "
            "that it belongs to this scene and these labels"
        )
