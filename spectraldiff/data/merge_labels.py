"""Labels of one scene from several files: old ones and new ones together."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from spectraldiff.data.label_reader import OwnLabels
from spectraldiff_runtime.classes import Colour, LandCoverClass, class_dtype, with_colours


def union_of(classes: Iterable[LandCoverClass]) -> tuple[LandCoverClass, ...]:
    """Return the classes by name, in order of appearance; a colour that is already used is replaced."""
    firsts: dict[str, LandCoverClass] = {}
    for c in classes:
        firsts.setdefault(c.name, c)
    owners: dict[Colour, str] = {}
    for c in firsts.values():
        owners.setdefault(c.colour, c.name)
    colours = with_colours([c.colour if owners[c.colour] == c.name else None for c in firsts.values()])
    return tuple(LandCoverClass(v, n, c) for v, (n, c) in enumerate(zip(firsts, colours, strict=True), start=1))


def joined(parts: Sequence[OwnLabels], paths: Sequence[str | Path]) -> OwnLabels:
    """Return the labels of all files of a scene; classes of the same name are one.

    A pixel that two files label as different classes stays unlabelled; how many do is a remark.

    Parameters
    ----------
    parts
        Of the same size, in the order of the files.
    paths
        The files, for messages.
    """
    if len(parts) == 1:
        return parts[0]
    classes = union_of(c for part in parts for c in part.classes)
    value_of = {c.name: c.value for c in classes}
    numbers: dict[str, int | None] = {}
    labels = np.zeros(parts[0].labels.shape, np.int64)
    groups = np.zeros(labels.shape, np.int32)
    clash, remarks = np.zeros(labels.shape, np.bool_), [remark for part in parts for remark in part.remarks]
    for part, path in zip(parts, paths, strict=True):
        values = np.array([0, *(value_of[c.name] for c in part.classes)])
        mine = values[part.labels]
        differ = (labels != 0) & (mine != 0) & (labels != mine)
        if differ.any():
            remarks.append(_said(labels[differ], mine[differ], classes, path))
        clash |= differ
        new = (labels == 0) & (mine != 0)
        if part.groups is not None:
            groups[new] = np.where(part.groups[new] > 0, part.groups[new] + groups.max(), 0)
        labels[new] = mine[new]
        for c, number in zip(part.classes, part.numbers, strict=False):
            numbers.setdefault(c.name, number)
    labels[clash] = groups[clash] = 0
    return replace(
        parts[0],
        labels=labels.astype(class_dtype(len(classes))),
        classes=classes,
        groups=groups if groups.any() else None,
        remarks=tuple(dict.fromkeys(remarks)),
        features=tuple(one for part in parts for one in part.features),
        numbers=tuple(numbers.get(c.name) for c in classes),
    )


def _said(before: np.ndarray, now: np.ndarray, classes: Sequence[LandCoverClass], path: str | Path) -> str:
    """Say how many pixels a file labels as another class than those before it, and name the commonest such pair."""
    pairs, counts = np.unique(np.stack([before, now]), axis=1, return_counts=True)
    first, second = (classes[int(value) - 1].name for value in pairs[:, np.argmax(counts)])
    return (
        f"pixels that '{path}' labels as another class than the files before it ('{second}', before '{first}', say), "
        f"left unlabelled: {len(before):,}"
    )
