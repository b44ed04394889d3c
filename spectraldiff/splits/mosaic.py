"""A mosaic of several scenes, below each other, so that what works on one scene works on all."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def joined(arrays: Sequence[NDArray[Any]], gap: int) -> NDArray[Any]:
    """Put (H, W) arrays below each other, with `gap` rows of zeros between; one array is returned as it is."""
    if len(arrays) == 1:
        return arrays[0]
    width = max(one.shape[1] for one in arrays)
    padded = [np.pad(one, ((0, gap), (0, width - one.shape[1]))) for one in arrays]
    return np.concatenate(padded)


def cut(mosaic: NDArray[Any], shapes: Sequence[tuple[int, ...]], gap: int) -> list[NDArray[Any]]:
    """Cut what `joined` put together into its arrays."""
    starts = np.cumsum([0, *(height + gap for height, _ in shapes)])
    return [mosaic[row : row + height, :width] for row, (height, width) in zip(starts[:-1], shapes, strict=True)]


def joined_groups(
    labels: Sequence[NDArray[Any]], groups: Sequence[NDArray[Any] | None], gap: int
) -> NDArray[Any] | None:
    """Join the polygons of all scenes, each with a number of its own; None where no scene has polygons."""
    if all(one is None for one in groups):
        return None
    numbered, last = [], 0
    for one, shape in zip(groups, (a.shape for a in labels), strict=True):
        ids = np.zeros(shape, np.int64) if one is None else one.astype(np.int64)
        numbered.append(np.where(ids > 0, ids + last, 0))
        last += int(ids.max())
    return joined(numbered, gap)
