"""Folds: all labelled pixels train what ships, and each is scored by a model that never saw its polygon or patch.

Pixels of one polygon are alike, so whole polygons are held out; where labels are no polygons, patches of connected
pixels of one class. A class in one group only cannot be held out whole: its pixels are cut into blocks, side by side.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff.splits.disjoint import within
from spectraldiff.splits.hold_out import patches

FOLDS = 5
POLYGONS, PATCHES, BLOCKS, PIXELS, SCENES = "polygon", "patch", "block", "pixel", "scene"


@dataclass(frozen=True)
class DrawnFolds:
    """Which fold holds out which pixel.

    Attributes
    ----------
    numbers
        (H, W) from 1; 0 for pixels without a label, and for those whose class has no other pixel.
    count
        Folds.
    units
        What is held out whole: ``"polygon"``, ``"patch"``, ``"block"``, ``"pixel"`` or ``"scene"``.
    notes
        What a reader of the accuracy must know, one line each.
    """

    numbers: NDArray[np.uint8]
    count: int
    units: str
    notes: tuple[str, ...]


def draw_folds(
    labels: NDArray[Any],
    groups: NDArray[Any] | None,
    wanted: int,
    generator: np.random.Generator,
    titles: Mapping[int, str],
    *,
    unit: str = "",
) -> DrawnFolds:
    """Assign labelled pixels to folds, whole groups together.

    Parameters
    ----------
    labels
        (H, W), 0 = unlabelled, 1..K.
    groups
        (H, W) the polygon of each pixel, from 1, 0 for none; None where no labels come from polygons.
    wanted
        Folds; as many groups as there are where these are fewer.
    generator
        Makes every draw.
    titles
        What messages call the classes.
    unit
        ``"pixel"``: each pixel is a group of its own. ``"scene"``: `groups` are scenes. Else polygons and patches.
    """
    by_pixel = unit == PIXELS
    flat = np.flatnonzero(labels)
    classes = labels.ravel()[flat].astype(np.int64)
    units = np.arange(len(flat)) if by_pixel else patches(labels, groups).ravel()[flat]
    kind = unit or (POLYGONS if groups is not None and groups.any() else PATCHES)
    drawn = np.zeros(len(flat), np.bool_) if groups is None else groups.ravel()[flat] > 0  # in a polygon
    alone, single, cut = [], [], []
    for value in np.unique(classes):
        own = np.flatnonzero(classes == value)
        if len(own) == 1:
            single.append(int(value))
        elif len(np.unique(units[own])) == 1:
            alone.append(int(value))
            units[own] = units.max() + 1 + _blocks(flat[own], labels.shape[1], wanted)
        elif not by_pixel and _cut_large(units, own, drawn, flat, labels.shape[1], wanted):
            cut.append(int(value))
    numbers = balanced(classes, units, generator, wanted) + 1
    numbers[np.isin(classes, single)] = 0
    found = np.zeros(labels.size, np.uint8)
    found[flat] = numbers
    if len(alone) + len(single) == len(np.unique(classes)):
        kind, alone = BLOCKS if kind != PIXELS else kind, []
    notes = [f"in one {kind} only, so held out block by block and optimistic: {_listed(alone, titles)}"] * bool(alone)
    if cut:
        notes.append(
            "a patch has more than half of its class's pixels, so blocks of it are held out, which is optimistic: "
            + _listed(cut, titles)
        )
    if kind == BLOCKS:
        notes = ["each class is in one patch, so blocks of it are held out next to each other: accuracy is optimistic"]
    notes += [f"one labelled pixel only, so no accuracy: {_listed(single, titles)}"] * bool(single)
    return DrawnFolds(found.reshape(labels.shape), int(numbers.max(initial=0)), kind, tuple(notes))


def _listed(values: list[int], titles: Mapping[int, str]) -> str:
    return ", ".join(titles[value] for value in values)


def _blocks(flat: NDArray[np.int64], width: int, wanted: int) -> NDArray[np.int64]:
    """Cut the pixels of one group, by their flat indices, into blocks of equal size along its longer side."""
    rows, columns = np.divmod(flat, width)
    along, across = (rows, columns) if np.ptp(rows) >= np.ptp(columns) else (columns, rows)
    found = np.empty(len(flat), np.int64)
    found[np.lexsort((across, along))] = np.arange(len(flat)) * min(wanted, len(flat)) // len(flat)
    return found


def _cut_large(
    units: NDArray[np.int64],
    own: NDArray[np.intp],
    drawn: NDArray[np.bool_],
    flat: NDArray[np.int64],
    width: int,
    wanted: int,
) -> bool:
    """Cut a patch that has more than half of its class's pixels, `own`, unless it is a polygon; return whether it has.

    Held out whole, it would leave its class in the training to the small patches, which are mostly edges.
    """
    values, counts = np.unique(units[own], return_counts=True)
    inside = own[units[own] == values[counts.argmax()]]
    if 2 * len(inside) <= len(own) or drawn[inside].any():
        return False
    pieces = int(np.ceil(len(inside) * wanted / len(own)))
    units[inside] = units.max() + 1 + _blocks(flat[inside], width, pieces)
    return True


def balanced(
    labels: NDArray[np.int64], units: NDArray[np.int64], generator: np.random.Generator, wanted: int = FOLDS
) -> NDArray[np.int64]:
    """Assign whole units to folds, from 0, so that each class is spread evenly: the largest units first, greedily."""
    numbers = np.unique(units, return_inverse=True)[1].ravel()
    folds = min(wanted, int(numbers.max()) + 1)
    counts = np.zeros((int(numbers.max()) + 1, int(labels.max()) + 1))
    np.add.at(counts, (numbers, labels), 1)
    shares = counts / np.maximum(counts.sum(0), 1)
    filled, chosen = np.zeros((folds, shares.shape[1])), np.zeros(len(shares), np.int64)
    for unit in np.argsort(-shares.max(1) + 1e-6 * generator.random(len(shares))):
        cost = ((filled + shares[unit]) ** 2 - filled**2).sum(1) + 1e-9 * generator.random(folds)
        chosen[unit] = int(np.argmin(cost))
        filled[chosen[unit]] += shares[unit]
    return np.asarray(np.unique(chosen[numbers], return_inverse=True)[1].ravel(), dtype=np.int64)


def seen_share(folds: NDArray[np.uint8], train: NDArray[np.bool_], window: int) -> float:
    """Return the share of held-out pixels whose window of that side holds a training pixel of another fold, 0..1."""
    seen = sum(int((within(train & (folds != fold), window // 2) & (folds == fold)).sum()) for fold in _numbers(folds))
    return seen / max(int((folds > 0).sum()), 1)


def _numbers(folds: NDArray[np.uint8]) -> list[int]:
    return [int(fold) for fold in np.unique(folds) if fold]
