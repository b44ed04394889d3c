"""Labels of a user's scene on its grid, from a raster or from polygons and points."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize

from spectraldiff.data.canvas import Canvas
from spectraldiff.data.label_raster import LARGEST, labels_on_grid
from spectraldiff.data.label_vectors import FeatureTable, LabelFields, in_pixels, is_vector, on_canvas, read_table
from spectraldiff_runtime.classes import HIGHEST, Colour, LandCoverClass, class_dtype, clean_name, with_colours
from spectraldiff_runtime.errors import LabelsError, NoLabelsError
from spectraldiff_runtime.geo.georeference import Georeference

ALL_ONES = (255, 65535)  # values that software often writes into unlabelled pixels


@dataclass(frozen=True)
class LabelFeatures:
    """What a vector file holds for a scene.

    Attributes
    ----------
    path
        The file.
    count
        Its polygons and points with a class.
    here
        (n,) which of these reach the scene, by their numbers among the file's features, rising.
    remarks
        How the file was read, whatever the scene, one line each.
    elsewhere
        Classes of which no polygon or point reaches the scene.
    """

    path: str
    count: int
    here: NDArray[np.int64]
    remarks: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()


@dataclass(frozen=True)
class OwnLabels:
    """Labels on a scene's grid.

    Attributes
    ----------
    labels
        (H, W) uint8 or uint16, 0 = unlabelled, 1..K.
    classes
        The K classes in order: value i + 1 at index i.
    groups
        (H, W) int32, from 1: the polygon that labels a pixel; 0 for none and for points. None if no polygon labels a
        pixel.
    remarks
        Notes for the user on how the labels were read, one line each.
    numbers
        The number of each class in the file, None if the file has a text.
    features
        What each vector file holds for the scene.
    """

    labels: NDArray[Any]
    classes: tuple[LandCoverClass, ...]
    groups: NDArray[np.int32] | None = None
    remarks: tuple[str, ...] = ()
    numbers: tuple[int | None, ...] = ()
    features: tuple[LabelFeatures, ...] = ()


def read_own_labels(
    path: str | Path,
    shape: tuple[int, int],
    place: Georeference,
    name: str,
    fields: LabelFields | None = None,
    canvas: Canvas | None = None,
) -> OwnLabels:
    """Read labels of any kind onto a scene's grid, or onto the canvas of its labelled parts.

    Parameters
    ----------
    path
        A vector file with polygons or points, or a label raster: on the scene's grid, or on another one in the same
        CRS, which is resampled to the nearest pixel.
    shape, place
        Size of the scene, (H, W), and its georeference.
    name
        Name of the scene in messages.
    fields
        Fields and layer of a vector file; ignored for a raster.
    canvas
        What the labels are arrays of, (h, w), in place of the scene; None for the scene.

    Raises
    ------
    UsageError
        A vector file does not have the field or layer, or has several layers.
    SceneError, LabelsError
        The file cannot be read, or its labels do not fit the scene.
    """
    if is_vector(path):
        return read_vector_labels(path, shape, place, name, fields or LabelFields(), canvas)
    found = labels_on_grid(path, shape, place)
    labels = found.labels if canvas is None else canvas.gathered(found.labels)
    return OwnLabels(labels, found.classes, None, found.remarks, found.numbers)


def renumbered(own: OwnLabels, path: str | Path) -> tuple[str, ...]:
    """Return a remark if the classes of the model have other values than the file's; empty if they are equal."""
    pairs = zip(own.numbers, own.classes, strict=True)
    other = [(number, c) for number, c in pairs if number not in (None, 0, c.value)]  # of 0 the reader speaks
    if not other:
        return ()
    number, c = other[0]
    remark = (
        f"maps of the model have the values 1 to {len(own.classes)}, not the numbers in '{path}': {number} becomes "
        f"{c.value} '{c.name}'"
    )
    highest = max(number for number, _ in other if number is not None)
    if highest in ALL_ONES and not is_vector(path):
        remark += f"; if {highest} means unlabelled, declare it as nodata: gdal_edit.py -a_nodata {highest}"
    return (remark,)


def read_vector_labels(
    path: str | Path,
    shape: tuple[int, int],
    place: Georeference,
    name: str,
    fields: LabelFields,
    canvas: Canvas | None = None,
) -> OwnLabels:
    """Rasterise the polygons and points of a vector file on a scene's grid.

    A pixel gets the class of the polygon that contains its centre, or of a point inside it. A pixel with features of
    different classes stays unlabelled. Only classes that label a pixel are kept: texts in alphabetical order, numbers
    in rising order, with the colours of a field `colour` or `color` (#rrggbb) if there is one. Features without a class
    (empty, or the number 0) are left out.

    Raises
    ------
    UsageError
        The field or layer does not exist, or the layer is ambiguous.
    LabelsError
        The file cannot be read, has other values or colours, or has no georeference; NoLabelsError where it labels no
        pixel of the scene.
    """
    table = read_table(path, fields)
    keys = _class_keys(table.values, path, str(fields.field))
    titles, remarks = _titles(keys, table, fields, path)
    usable = _usable(keys, table)
    parts, owner = in_pixels(path, table, shape, place, name)
    here = np.intersect1d(usable, owner)
    if canvas is not None:
        parts, owner = on_canvas(parts, owner, canvas)
        shape = canvas.shape
    drawing = _Drawing(shape, list(dict.fromkeys(titles[key] for key in sorted(titles))))
    drawing.draw(parts, [titles.get(keys[feature]) for feature in owner])
    of_file = (*table.remarks, *_left_out(keys, table), *remarks)
    features = LabelFeatures(str(path), len(usable), here, of_file, tuple(drawing.outside))
    if not drawing.labels.any():
        error = NoLabelsError(
            f"the features of '{path}' label no pixel of '{name}': wanted polygons around pixels' centres, or points"
        )
        error.features = features
        raise error
    present = [title for value, title in enumerate(drawing.titles, start=1) if (drawing.labels == value).any()]
    numbers = {titles[key]: _number(key) for key in sorted(titles, reverse=True)}
    colours = _colours(keys, titles, table, path)
    return replace(_numbered(drawing, present, colours, numbers, (*of_file, *drawing.remarks())), features=(features,))


def _number(key: int | str) -> int | None:
    """Return the number of a class; None for a text."""
    return int(key) if isinstance(key, int) or re.fullmatch("[0-9]{1,9}", key) else None


def _class_keys(values: NDArray[Any], path: str | Path, field: str) -> list[Any]:
    """Return the class of each feature: a text or a whole number from 1, None for no class."""
    if values.dtype.kind not in "OUbiuf":
        raise LabelsError(f"the field '{field}' of '{path}' holds {values.dtype}: wanted text or whole numbers")
    if values.dtype.kind in "OUb":
        return [_text_key(value) for value in values]
    numbers = values.astype(np.float64)
    finite = np.isfinite(numbers)
    known = numbers[finite]
    whole = np.array_equal(known, np.rint(known)) and known.max(initial=0) <= LARGEST
    if known.min(initial=0) < 0 or not whole:
        raise LabelsError(
            f"the field '{field}' of '{path}' has values from {known.min():g} to {known.max():g}: "
            "wanted text, or whole numbers with 0 for unlabelled and classes from 1"
        )
    return [int(value) if good and value > 0 else None for value, good in zip(numbers, finite, strict=True)]


def _text_key(value: Any) -> str | None:
    """Return the text of a field as a class; None for no class, which the number 0 is as a text, too."""
    text = _text(value)
    return None if text is None or re.fullmatch(r"[+-]?0+(\.0*)?", text) else text


def _text(value: Any) -> str | None:
    """Return the text of a field as a class name; None for no text."""
    return None if value is None else clean_name(str(value)) or None


def _titles(
    keys: list[Any], table: FeatureTable, fields: LabelFields, path: str | Path
) -> tuple[dict[Any, str], list[str]]:
    """Return the name of each class by its key, and remarks on ambiguous names."""
    found = {key for key in keys if key is not None}
    if len(found) > HIGHEST:
        raise LabelsError(
            f"the field '{fields.field}' of '{path}' has {len(found)} classes: wanted {HIGHEST} at most; "
            "choose the field that names the land cover"
        )
    titles = {key: key if isinstance(key, str) else f"Class {key}" for key in found}
    names = [None] * len(keys) if table.names is None else [_text(name) for name in table.names]
    said: dict[Any, Counter[str]] = {}
    for key, name in zip(keys, names, strict=True):
        if key is not None and name is not None:
            said.setdefault(key, Counter())[name] += 1
    remarks = []
    for key, counts in sorted(said.items()):
        titles[key] = counts.most_common(1)[0][0]
        if len(counts) > 1:
            listed = " and ".join(f"'{name}' ({count:,})" for name, count in counts.most_common(2))
            remarks.append(
                f"the class {key} of '{path}' has several names, {listed}: it is called '{titles[key]}'; correct the "
                f"field '{fields.name_field}' if these are two classes"
            )
    return titles, remarks


def _colours(keys: list[Any], titles: dict[Any, str], table: FeatureTable, path: str | Path) -> dict[str, Colour]:
    """Return the colours that the file gives to classes, by name."""
    found: dict[str, Colour] = {}
    if table.colours is None:
        return found
    for key, text in zip(keys, table.colours, strict=True):
        if key is None or text is None or not str(text).strip():
            continue
        code = re.fullmatch(r"#?([0-9a-f]{6})(?:[0-9a-f]{2})?", str(text).strip().lower())
        if code is None:
            raise LabelsError(f"'{path}' has the colour '{text}': wanted #rrggbb, such as #1b9e77")
        red, green, blue = bytes.fromhex(code[1])
        found.setdefault(titles[key], (red, green, blue))
    return found


def _usable(keys: Sequence[Any], table: FeatureTable) -> NDArray[np.int64]:
    """Return the numbers of the features that can label pixels: polygons and points with a class."""
    known = np.array([key is not None for key in keys], np.bool_)
    placed = ~(shapely.is_missing(table.shapes) | shapely.is_empty(table.shapes))
    return np.flatnonzero(known & placed & (shapely.get_dimensions(table.shapes) != 1))


def _left_out(keys: list[Any], table: FeatureTable) -> list[str]:
    empty = shapely.is_missing(table.shapes) | shapely.is_empty(table.shapes)
    counts = {
        "features without a geometry, left out": int(empty.sum()),
        "features without a class (empty, 0 or infinite), left out": sum(
            key is None for key, nowhere in zip(keys, empty, strict=True) if not nowhere
        ),
        "lines, left out because labels are polygons and points": int(
            (shapely.get_dimensions(table.shapes[~empty]) == 1).sum()
        ),
    }
    return [f"{what}: {count:,}" for what, count in counts.items() if count]


class _Drawing:
    """Labels rasterised class by class; `titles` are the classes' names, value i + 1 at index i."""

    def __init__(self, shape: tuple[int, int], titles: list[str]) -> None:
        self.titles = titles
        self.labels = np.zeros(shape, np.int32)
        self.groups = np.zeros(shape, np.int32)
        self.clashes: dict[tuple[str, str], int] = {}
        self.missed: list[str] = []
        self.outside: list[str] = []

    def draw(self, parts: NDArray[Any], title_of: Sequence[str | None]) -> None:
        """Rasterise parts in pixel coordinates, each with the class of its title; None is skipped."""
        clash = np.zeros(self.labels.shape, np.bool_)
        polygon = shapely.get_dimensions(parts) == 2
        ids = np.where(polygon, np.cumsum(polygon), -1)
        for value, title in enumerate(self.titles, start=1):
            mine = np.array([text == title for text in title_of])
            drawn = _drawn(parts[mine], ids[mine], self.labels.shape)
            if not drawn.any():
                (self.missed if mine.any() else self.outside).append(title)
            both = (drawn != 0) & (self.labels != 0)
            for other, count in enumerate(np.bincount(self.labels[both], minlength=1)):
                if count:
                    self.clashes[self.titles[other - 1], title] = int(count)
            clash |= both
            self.labels[drawn != 0] = value
            self.groups[drawn != 0] = drawn[drawn != 0].clip(0)
        self.labels[clash] = self.groups[clash] = 0

    def remarks(self) -> list[str]:
        """Return remarks on pixels and classes that could not be labelled."""
        remarks = []
        if self.clashes:
            pair = max(self.clashes, key=lambda names: self.clashes[names])
            remarks.append(
                f"pixels in features of two classes ('{pair[0]}' and '{pair[1]}', say), left unlabelled: "
                f"{sum(self.clashes.values()):,}"
            )
        if self.missed:
            remarks.append(f"the features of {', '.join(self.missed)} hold no pixel's centre: no such class")
        if self.outside:
            remarks.append(none_reaches(self.outside))
        return remarks


def none_reaches(titles: Sequence[str], what: str = "the scene") -> str:
    """Say that no feature of some classes reaches a scene."""
    return f"no polygon or point of {', '.join(titles)} reaches {what}: no such class"


def _drawn(parts: NDArray[Any], ids: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Return (H, W): the id of the polygon that contains the pixel's centre, else -1 for a point in it, else 0."""
    polygon = ids > 0
    out = np.zeros(shape, np.int32)
    if polygon.any():
        rasterize(zip(parts[polygon], ids[polygon].tolist(), strict=True), out=out)
    columns, rows = np.floor(shapely.get_coordinates(parts[~polygon])).astype(np.int64).T
    inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    rows, columns = rows[inside], columns[inside]
    out[rows, columns] = np.where(out[rows, columns] == 0, -1, out[rows, columns])
    return out


def _numbered(
    drawing: _Drawing,
    present: list[str],
    colours: dict[str, Colour],
    numbers: dict[str, int | None],
    remarks: tuple[str, ...],
) -> OwnLabels:
    """Give the present classes numbers from 1, and colours."""
    values = np.array([0, *(present.index(t) + 1 if t in present else 0 for t in drawing.titles)])
    chosen = with_colours([colours.get(title) for title in present])
    classes = tuple(LandCoverClass(v, *of) for v, of in enumerate(zip(present, chosen, strict=True), start=1))
    labels = values[drawing.labels].astype(class_dtype(len(present)))
    groups = drawing.groups if drawing.groups.any() else None
    return OwnLabels(labels, classes, groups, remarks, tuple(numbers[title] for title in present))
