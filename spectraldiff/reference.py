"""Reference labels of any kind for a map, and which of its classes they mean."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff.own_labels import read_own_labels
from spectraldiff.vectors import LabelFields, is_vector
from spectraldiff_runtime.class_map import HIGHEST, LandCoverClass, class_dtype, palette, read_classes
from spectraldiff_runtime.errors import LabelsError, UsageError
from spectraldiff_runtime.scene import Georeference

FIELD = "class"  # the field that is read where none is named
STRANGE = 254  # more values that the map does not have are no land-cover classes


@dataclass(frozen=True)
class Reference:
    """Labels on a map's grid.

    Attributes
    ----------
    labels
        (H, W) uint8 or uint16, 0 = unlabelled.
    classes
        The classes that the file names; empty where it only has values.
    by_name
        Whether only the names mean something, and the values do not: the file holds text.
    notes
        What a user should know of how they were read, one line each.
    """

    labels: NDArray[Any]
    classes: tuple[LandCoverClass, ...] = ()
    by_name: bool = False
    notes: tuple[str, ...] = ()


def read_reference(
    path: Path,
    shape: tuple[int, int],
    place: Georeference,
    *,
    field: str | None = None,
    layer: str | None = None,
) -> Reference:
    """Read reference labels onto a map's grid, as `own_labels.read_own_labels` does.

    Parameters
    ----------
    path
        A raster of labels, or points and polygons in any CRS.
    shape, place
        Height and width of the map, and where it lies.
    field
        Field of the vector file with the class: names, or whole numbers that are values of the map (0 for none).
        ``class`` by default.
    layer
        Layer of the vector file; by default the only one that has the field.

    Raises
    ------
    SceneError, LabelsError
        The file cannot be read, holds no usable class, or cannot be laid on the map.
    UsageError
        There is no such field or layer, or one was named for a raster.
    """
    vector = is_vector(path)
    if not vector and (field is not None or layer is not None):
        option = "--field" if field is not None else "--layer-name"
        raise UsageError(f"{option} was given and '{path}' is no vector file: leave it out, or name a vector file")
    own = read_own_labels(path, shape, place, "the map", LabelFields(field or FIELD, layer))
    if not vector:
        return Reference(own.labels, tuple(read_classes(path)), False, own.remarks)
    values = [_value(c.name) for c in own.classes]
    if not all(values):
        return Reference(own.labels, own.classes, True, own.remarks)
    table = np.array([0, *values])
    if table.max() > HIGHEST:
        raise LabelsError(f"'{path}' has the class {table.max()}: wanted values of the map, {HIGHEST} at most")
    return Reference(table[own.labels].astype(class_dtype(int(table.max()))), (), False, own.remarks)


def _value(name: str) -> int:
    """Return the value that a class without a name of its own is called by; 0 for a name."""
    found = re.fullmatch(r"(?:Class )?(\d+)", name)
    return int(found[1]) if found else 0


def match_classes(
    reference: Reference, named: Sequence[LandCoverClass], highest: int
) -> tuple[NDArray[Any], tuple[LandCoverClass, ...], list[str]]:
    """Give the reference the map's values: by name where both name their classes, else by value.

    Parameters
    ----------
    reference
        What `read_reference` returned.
    named
        The classes that the map names.
    highest
        The highest value in the map.

    Returns
    -------
    labels
        (H, W), 0..K.
    classes
        The K classes: the map's, and after them those that only the reference has.
    notes
        What a user should know, one line each.

    Raises
    ------
    LabelsError
        The reference has names only, and none of them is the map's.
    """
    ours, theirs = (_by_key(classes) for classes in (named, reference.classes))
    if ours and theirs and (ours.keys() & theirs.keys()):
        return _by_name(reference, _filled(named, highest), ours, theirs)
    if reference.by_name:
        found = ", ".join(c.name for c in reference.classes)
        wanted = ", ".join(c.name for c in named) or "none at all"
        raise LabelsError(
            f"the reference names the classes {found} and the map {wanted}: wanted the map's names, or a field of "
            "whole numbers that are its values"
        )
    notes = []
    if ours and theirs:
        notes.append("map and reference have no class name in common: classes were matched by value")
    known = max(highest, *(c.value for c in (*named, *reference.classes)), 0)
    top = int(reference.labels.max())
    if top > known + STRANGE:
        raise LabelsError(
            f"the reference has values up to {top} and the map's classes end at {known}: wanted the map's values; "
            "choose another field or file"
        )
    return reference.labels, _filled(reference.classes or named, max(known, top)), notes


def _by_name(
    reference: Reference,
    ours: Sequence[LandCoverClass],
    our_values: dict[str, int],
    their_values: dict[str, int],
) -> tuple[NDArray[Any], tuple[LandCoverClass, ...], list[str]]:
    present = {int(value) for value in np.unique(reference.labels) if value}
    theirs = [c for c in _filled(reference.classes, max(present, default=0)) if c.value in present]
    classes, notes = list(ours), []
    table = np.zeros(int(reference.labels.max()) + 1, np.uint16)
    for c in theirs:
        if c.name.strip().casefold() not in our_values:
            classes.append(LandCoverClass(len(classes) + 1, c.name, c.colour))
            our_values[c.name.strip().casefold()] = len(classes)
            pixels = int((reference.labels == c.value).sum())
            notes.append(f"the map has no class '{c.name}': its {pixels:,} labelled pixels count as wrong")
        table[c.value] = our_values[c.name.strip().casefold()]
    return table[reference.labels], tuple(classes), notes


def _by_key(classes: Sequence[LandCoverClass]) -> dict[str, int]:
    """Return values by names as they are compared; nothing where two classes have one name."""
    keys = {c.name.strip().casefold(): c.value for c in classes}
    return keys if len(keys) == len(classes) else {}


def _filled(classes: Sequence[LandCoverClass], count: int) -> tuple[LandCoverClass, ...]:
    """Return the classes 1..K, K = `count` or the highest value; those without a name are called by their value."""
    known = {c.value: c for c in classes}
    colours = palette(max(count, *known, 0))
    return tuple(known.get(v, LandCoverClass(v, f"Class {v}", colour)) for v, colour in enumerate(colours, start=1))
