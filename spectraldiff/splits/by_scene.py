"""Splits by scene: all labels of some scenes test, those of the others train."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff.splits.spec import Spec
from spectraldiff.wording import counted, listed
from spectraldiff_runtime.errors import LabelsError, UsageError


def check_names(wanted: Sequence[str], names: Sequence[str]) -> None:
    """Check that each name that a split gives is that of one scene.

    Raises
    ------
    UsageError
        No scene is called so, or several are.
    """
    for name in wanted:
        count = names.count(name)
        if count > 1:
            raise UsageError(
                f"'{name}' is the name of {count} scenes: give each a name of its own in a list, --scenes list.csv"
            )
        if not count:
            raise UsageError(f"no scene is called '{name}': wanted one of {listed(names, 10)}")


def held_out_scenes(labels: Sequence[NDArray[Any]], spec: Spec, seed: int, names: Sequence[str]) -> list[bool]:
    """Return which scenes test: those that are named, or a drawn share of those with labels.

    A scene that alone has labels of a class is drawn only where there are too few others.

    Parameters
    ----------
    labels
        (H, W) each, 0 = unlabelled, 1..K.
    spec
        ``scenes:test=NAMES`` or ``by-scene:F``.
    seed
        Makes the draw.
    names
        Of the scenes.

    Raises
    ------
    UsageError
        A name is unknown or that of several scenes.
    LabelsError
        A scene that should test has no labels, or no scene with labels is left on a side.
    """
    with_labels = [index for index, one in enumerate(labels) if one.any()]
    if spec.names:
        check_names(spec.names, names)
        held = [names.index(name) for name in spec.names]
        bare = [names[index] for index in held if index not in with_labels]
        if bare:
            raise LabelsError(f"the scene '{bare[0]}' has no labels, so that none can test: name others in {spec.text}")
    else:
        wanted = min(max(1, round(spec.share * len(with_labels))), len(with_labels) - 1)
        held = _drawn(labels, with_labels, wanted, seed)
    if not held or len(held) >= len(with_labels):
        raise LabelsError(
            f"{counted(len(with_labels), 'scene has', 'scenes have')} labels, and {spec.text} holds out "
            f"{len(held) or 'one at least'}: wanted some to train and some to test"
        )
    return [index in held for index in range(len(labels))]


def _drawn(labels: Sequence[NDArray[Any]], among: Sequence[int], count: int, seed: int) -> list[int]:
    most = max(int(one.max(initial=0)) for one in labels)
    present = np.stack([np.bincount(one.ravel(), minlength=most + 1)[1:] > 0 for one in labels]).astype(np.int64)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(among).tolist()
    left, held = present.sum(0), list[int]()
    for alone in (False, True):
        for index in order:
            only = bool(((left == present[index]) & (present[index] > 0)).any())  # has a class that no other trains
            if len(held) < count and index not in held and only <= alone:
                held.append(index)
                left = left - present[index]
    return held
