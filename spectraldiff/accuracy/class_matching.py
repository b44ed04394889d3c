"""Reference labels for a map, and matching of their classes with the map's."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff.data.canvas import Canvas
from spectraldiff.data.label_reader import OwnLabels, read_own_labels
from spectraldiff.data.label_vectors import LabelFields, is_vector
from spectraldiff.data.merge_scenes import folded
from spectraldiff_runtime.classes import LandCoverClass, with_colours
from spectraldiff_runtime.errors import LabelsError, UsageError
from spectraldiff_runtime.geo.georeference import Georeference

FIELD = "class"  # the field that is read if none is given
STRANGE = 254  # values farther than this above the map's classes are not land-cover classes


def read_reference(
    path: Path, shape: tuple[int, int], place: Georeference, fields: LabelFields, canvas: Canvas | None = None
) -> OwnLabels:
    """Read reference labels onto a map's grid, as `spectraldiff.data.label_reader.read_own_labels` does.

    Parameters
    ----------
    path
        A raster of labels, or points and polygons in any CRS.
    shape, place
        Height and width of the map, and its georeference.
    fields
        Fields and layer of a vector file. The field with the classes, names or whole numbers (0 for none), is
        ``class`` by default.
    canvas
        What the labels become arrays of in place of the map; None for the map.

    Raises
    ------
    SceneError, LabelsError
        The file cannot be read, has no usable class, or does not fit the map.
    UsageError
        The field or layer does not exist, or one was given for a raster.
    """
    if fields.options and not is_vector(path):
        raise UsageError(
            f"{fields.options[0]} was given and '{path}' is no vector file: leave it out, or name a vector file"
        )
    return read_own_labels(path, shape, place, "the map", replace(fields, field=fields.field or FIELD), canvas)


def match_classes(
    reference: OwnLabels, ours: Sequence[LandCoverClass], numbers: Sequence[int] | None = None
) -> tuple[NDArray[Any], tuple[LandCoverClass, ...], list[str]]:
    """Give the reference the map's values: by name if they have a name in common, else by number.

    A number means the class with that name in the map ("Class 7" or "7"). If there is none, it means the class with
    that value, unless its name is another number.

    Parameters
    ----------
    reference
        What `read_reference` returned.
    ours
        The classes 1..K of the map, each with its own name or "Class 1", ...
    numbers
        (K,) the value that each of them has in the map; None for 1..K.

    Returns
    -------
    labels
        (H, W), 0..K and additional classes.
    classes
        The map's classes, then those that only the reference has.
    notes
        Notes for the user, one line each.

    Raises
    ------
    LabelsError
        The reference has only names, and none of them is in the map; or far more classes than the map.
    """
    pixels = np.bincount(reference.labels.ravel(), minlength=len(reference.classes) + 1)
    theirs = [(c, n) for c, n in zip(reference.classes, reference.numbers, strict=True) if pixels[c.value]]
    map_names = _MapNames(ours, [c.value for c in ours] if numbers is None else numbers)
    named = [c.name for c, _ in theirs if _number_in(c.name) is None]
    by_name = any(map_names.find(name) for name in named)
    by_number = bool(named) and not by_name
    if by_number and any(number is None for _, number in theirs):
        wanted = ", ".join(c.name for c in ours if _number_in(c.name) is None) or "none at all"
        raise LabelsError(
            f"the reference names the classes {', '.join(named)} and the map {wanted}: wanted the map's names, or a "
            "field of whole numbers that are its values"
        )
    classes, notes = list(ours), []
    unknown: list[int] = []
    table = np.zeros(len(reference.classes) + 1, np.uint16)
    for c, number in theirs:
        value = map_names.find(c.name)
        if not value and number is not None and (not by_name or _number_in(c.name) is not None):
            value = map_names.called(number)
            if not value:
                unknown.append(number)
        if not value:
            classes.append(LandCoverClass(len(classes) + 1, c.name, c.colour))
            value = len(classes)
            notes.append(f"the map has no class '{c.name}': its {pixels[c.value]:,} labelled pixels count as wrong")
            if not named and map_names.named:
                notes[-1] += "; if the numbers are codes, name the field with the map's names by --name-field"
        elif by_number and not map_names.named:
            classes[value - 1] = replace(c, value=value)
        table[c.value] = value
    _check_known(unknown, map_names)
    if by_number and map_names.named:
        notes.insert(0, "map and reference have no class name in common: classes were matched by value")
    notes += _read_as_names(theirs, table, classes, map_names.values)
    return table[reference.labels], _unlike(classes, len(ours)), notes


class _MapNames:
    """The classes of a map by their names and numbers."""

    def __init__(self, classes: Sequence[LandCoverClass], values: Sequence[int]) -> None:
        self.values = dict(zip(values, (c.value for c in classes), strict=True))
        self._exact = _only_once((c.name.strip(), c.value) for c in classes)
        self._folded = _only_once((folded(c.name), c.value) for c in classes)
        numbers = [_number_in(c.name) for c in classes]
        self._numbers = {n: c.value for n, c in zip(numbers, classes, strict=True) if n is not None}
        self.named = {c.value for n, c in zip(numbers, classes, strict=True) if n is None}
        self.highest = max([*self.values, *self._numbers], default=0)

    def find(self, name: str) -> int:
        """Return the value of the class with that name, ignoring case if that is unambiguous; 0 for none."""
        return self._exact.get(name.strip()) or self._folded.get(folded(name), 0)

    def called(self, number: int) -> int:
        """Return the value of the class named by this number, else of the named class with this value; 0 for none."""
        value = self._numbers.get(number) or self.values.get(number, 0)
        return value if number in self._numbers or value in self.named else 0


def _only_once(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return values by name, without names that occur several times."""
    found = list(pairs)
    counts = Counter(name for name, _ in found)
    return {name: value for name, value in found if counts[name] == 1}


def _number_in(name: str) -> int | None:
    """Return the number in a name such as "Class 7" or "7"; None for other names."""
    found = re.fullmatch(r"(?:class )?([0-9]{1,9})", folded(name))
    return int(found[1]) if found else None


def _check_known(unknown: Sequence[int], names: _MapNames) -> None:
    top = max(unknown, default=0)
    if top > names.highest + STRANGE:
        raise LabelsError(
            f"the reference has values up to {top} and the map's classes end at {names.highest}: wanted the map's "
            "values; choose another field or file"
        )


def _read_as_names(
    theirs: Sequence[tuple[LandCoverClass, int | None]],
    table: NDArray[Any],
    classes: Sequence[LandCoverClass],
    values: Mapping[int, int],
) -> list[str]:
    """Return a note if a number was read as a class name but is also the value of another class of the map."""
    value_of = {c: number for number, c in values.items()}
    for theirs_class, number in theirs:
        ours = int(table[theirs_class.value])
        if number is not None and values.get(number, ours) != ours and _number_in(classes[ours - 1].name) == number:
            return [
                f"the reference's numbers were read as the map's class names: {number} as '{classes[ours - 1].name}', "
                f"which has the value {value_of.get(ours, ours)} in the map"
            ]
    return []


def _unlike(classes: Sequence[LandCoverClass], known: int) -> tuple[LandCoverClass, ...]:
    """Give the classes after the first `known` ones colours that are not used by these."""
    taken = {c.colour for c in classes[:known]}
    colours = with_colours([c.colour if i < known or c.colour not in taken else None for i, c in enumerate(classes)])
    return tuple(replace(c, colour=colour) for c, colour in zip(classes, colours, strict=True))
