"""A user's own labels on a scene's grid, from a raster or from polygons and points."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize

from spectraldiff.labels import classes_of, labels_on_grid
from spectraldiff.vectors import LabelFields, Table, in_pixels, is_vector, read_table
from spectraldiff_runtime.class_map import HIGHEST, LandCoverClass, class_dtype, palette
from spectraldiff_runtime.errors import LabelsError
from spectraldiff_runtime.scene import Georeference


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
        (H, W) int32, from 1: the polygon that labels a pixel; 0 for none and for points. None where the labels
        come from no polygon.
    remarks
        What a user should know of how they were read, one line each.
    """

    labels: NDArray[Any]
    classes: tuple[LandCoverClass, ...]
    groups: NDArray[np.int32] | None = None
    remarks: tuple[str, ...] = ()


def read_own_labels(
    path: str | Path, shape: tuple[int, int], place: Georeference, name: str, fields: LabelFields | None = None
) -> OwnLabels:
    """Read labels of any kind onto a scene's grid.

    Parameters
    ----------
    path
        A vector file with polygons or points, or a label raster: on the scene's grid, or on another one in the same
        CRS, which is resampled by nearest.
    shape, place
        Size of the scene, (H, W), and where it lies.
    name
        What messages call the scene.
    fields
        What to read of a vector file; not looked at for a raster.

    Raises
    ------
    UsageError
        A vector file has no such field or layer, or several layers.
    SceneError, LabelsError
        The file cannot be read, or its labels cannot be placed on the scene.
    """
    if is_vector(path):
        return read_vector_labels(path, shape, place, name, fields or LabelFields())
    labels, remark = labels_on_grid(path, shape, place)
    return OwnLabels(labels, classes_of(path, int(labels.max())), None, (remark,) if remark else ())


def read_vector_labels(
    path: str | Path, shape: tuple[int, int], place: Georeference, name: str, fields: LabelFields
) -> OwnLabels:
    """Draw the polygons and points of a vector file onto a scene's grid.

    A pixel gets the class of the polygon that its centre lies in, or of a point in it. Where features of different
    classes meet in one pixel, it stays unlabelled. Classes are those that label a pixel: texts in alphabetical order,
    numbers in rising order, with the colours of a field `colour` or `color` (#rrggbb) where there is one. Features
    without a class (empty, or the number 0) are left out.

    Raises
    ------
    UsageError
        There is no such field or layer, or several layers could be meant.
    LabelsError
        The file cannot be read, holds other values or colours, cannot be placed, or labels no pixel of the scene.
    """
    table = read_table(path, fields)
    keys = _class_keys(table.values, path, str(fields.field))
    titles = _titles(keys, table, fields, path)
    parts, owner = in_pixels(path, table, shape, place, name)
    drawing = _Drawing(shape, list(dict.fromkeys(titles[key] for key in sorted(titles))))
    drawing.draw(parts, [titles.get(keys[feature]) for feature in owner])
    remarks = [*_left_out(keys, table), *drawing.remarks()]
    if not drawing.labels.any():
        raise LabelsError(
            f"the features of '{path}' label no pixel of '{name}': wanted polygons around pixels' centres, or points"
        )
    present = [title for value, title in enumerate(drawing.titles, start=1) if (drawing.labels == value).any()]
    return _numbered(drawing, present, _colours(keys, titles, table, path), tuple(remarks))


def _class_keys(values: NDArray[Any], path: str | Path, field: str) -> list[Any]:
    """Return each feature's class: a text or a whole number from 1, None for no class."""
    if values.dtype.kind not in "OUbiuf":
        raise LabelsError(f"the field '{field}' of '{path}' holds {values.dtype}: wanted text or whole numbers")
    if values.dtype.kind in "OU":
        return [str(value).strip() or None if value is not None else None for value in values]
    numbers = values.astype(np.float64)
    known = numbers[~np.isnan(numbers)]
    if len(known) and (known.min() < 0 or not np.array_equal(known, np.rint(known))):
        raise LabelsError(
            f"the field '{field}' of '{path}' has values from {known.min():g} to {known.max():g}: "
            "wanted text, or whole numbers with 0 for unlabelled and classes from 1"
        )
    return [int(value) if value > 0 else None for value in numbers]


def _titles(keys: list[Any], table: Table, fields: LabelFields, path: str | Path) -> dict[Any, str]:
    """Return the name of each class by its key."""
    found = {key for key in keys if key is not None}
    if len(found) > HIGHEST:
        raise LabelsError(
            f"the field '{fields.field}' of '{path}' has {len(found)} classes: wanted {HIGHEST} at most; "
            "choose the field that names the land cover"
        )
    titles = {key: key if isinstance(key, str) else f"Class {key}" for key in found}
    if table.names is not None:
        for key, text in zip(keys, table.names, strict=True):
            if key is not None and text is not None and str(text).strip():
                titles[key] = str(text).strip()
    return titles


def _colours(
    keys: list[Any], titles: dict[Any, str], table: Table, path: str | Path
) -> dict[str, tuple[int, int, int]]:
    """Return the colours that the file gives to classes, by name."""
    found: dict[str, tuple[int, int, int]] = {}
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


def _left_out(keys: list[Any], table: Table) -> list[str]:
    lines = int((shapely.get_dimensions(table.shapes) == 1).sum())
    unnamed = sum(key is None for key in keys)
    remarks = [f"{unnamed:,} features have no class (empty or 0) and were left out"] if unnamed else []
    return remarks + ([f"{lines:,} lines were left out: labels are polygons and points"] if lines else [])


class _Drawing:
    """Labels drawn class by class; `titles` are the classes' names, value i + 1 at index i."""

    def __init__(self, shape: tuple[int, int], titles: list[str]) -> None:
        self.titles = titles
        self.labels = np.zeros(shape, np.int32)
        self.groups = np.zeros(shape, np.int32)
        self.clashes: dict[tuple[str, str], int] = {}
        self.missed: list[str] = []

    def draw(self, parts: NDArray[Any], title_of: Sequence[str | None]) -> None:
        """Draw parts in pixel coordinates, each of the class of that name; None draws nothing."""
        clash = np.zeros(self.labels.shape, np.bool_)
        polygon = shapely.get_dimensions(parts) == 2
        ids = np.where(polygon, np.cumsum(polygon), -1)
        for value, title in enumerate(self.titles, start=1):
            mine = np.array([text == title for text in title_of])
            drawn = _drawn(parts[mine], ids[mine], self.labels.shape)
            if mine.any() and not drawn.any():
                self.missed.append(title)
            both = (drawn != 0) & (self.labels != 0)
            for other, count in enumerate(np.bincount(self.labels[both], minlength=1)):
                if count:
                    self.clashes[self.titles[other - 1], title] = int(count)
            clash |= both
            self.labels[drawn != 0] = value
            self.groups[drawn != 0] = drawn[drawn != 0].clip(0)
        self.labels[clash] = self.groups[clash] = 0

    def remarks(self) -> list[str]:
        """Say what could not be drawn."""
        remarks = []
        if self.clashes:
            pair = max(self.clashes, key=lambda names: self.clashes[names])
            remarks.append(
                f"{sum(self.clashes.values()):,} pixels lie in features of two classes ('{pair[0]}' and '{pair[1]}', "
                "say) and were left unlabelled"
            )
        if self.missed:
            remarks.append(f"the features of {', '.join(self.missed)} hold no pixel's centre: no such class")
        return remarks


def _drawn(parts: NDArray[Any], ids: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Return (H, W): a polygon's id where a pixel's centre lies in it, else -1 where a point lies, else 0."""
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
    drawing: _Drawing, present: list[str], colours: dict[str, tuple[int, int, int]], remarks: tuple[str, ...]
) -> OwnLabels:
    """Give numbers from 1, and colours, to the classes that are present."""
    values = np.array([0, *(present.index(t) + 1 if t in present else 0 for t in drawing.titles)])
    spare = palette(len(present))
    classes = tuple(
        LandCoverClass(value, title, colours.get(title, spare[value - 1]))
        for value, title in enumerate(present, start=1)
    )
    labels = values[drawing.labels].astype(class_dtype(len(present)))
    return OwnLabels(labels, classes, drawing.groups if drawing.groups.any() else None, remarks)
