"""Leakage: the share of test pixels that see a training pixel."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from spectraldiff.splits.disjoint import within
from spectraldiff.splits.overlap import Place, near_trained_elsewhere
from spectraldiff.splits.split import Split


def with_leakage(splits: Sequence[Split], window: int, places: Sequence[Place] = ()) -> tuple[Split, ...]:
    """Return the splits of some scenes with the leakage for a window of that side; `places` are those of the scenes."""
    trains, found = [split.train for split in splits], []
    for index, split in enumerate(splits):
        elsewhere = near_trained_elsewhere(index, trains, places, window // 2) if places else None
        found.append(replace(split, leakage=leakage(split.train, split.test, window, elsewhere)))
    return tuple(found)


def leakage(
    train: NDArray[np.bool_], test: NDArray[np.bool_], window: int, elsewhere: NDArray[np.bool_] | None = None
) -> float | None:
    """Return the share of test pixels whose window of that side holds a training pixel; None without test pixels.

    `elsewhere`, (H, W): pixels whose window holds a training pixel of another scene.
    """
    near = within(train, window // 2)
    if elsewhere is not None:
        near |= elsewhere
    return float(near[test].mean()) if test.any() else None


def mean_leakage(splits: Sequence[Split]) -> float | None:
    """Return the leakage of all scenes' test pixels together; None where it is not known."""
    known = [(split.leakage, int(split.test.sum())) for split in splits if split.leakage is not None]
    pixels = sum(count for _, count in known)
    return sum(share * count for share, count in known) / pixels if pixels else None
