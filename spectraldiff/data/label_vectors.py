"""Labelled polygons and points of a vector file, transformed to a scene's pixel coordinates."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray

from spectraldiff.data.canvas import Canvas
from spectraldiff_runtime.errors import LabelsError, NoLabelsError, UsageError
from spectraldiff_runtime.gdal import quiet_gdal
from spectraldiff_runtime.geo import vector_source
from spectraldiff_runtime.geo.georeference import Georeference, apply_transform, crs_of
from spectraldiff_runtime.geo.reprojection import CRS_ERRORS, box_text, boxes_around, in_crs, scene_bounds
from spectraldiff_runtime.geo.vector_file import made_valid, reprojected, turned_shapes
from spectraldiff_runtime.geo.vector_source import OF_SCENE, VectorSource, open_vectors

READ_ERRORS = (RuntimeError, ValueError, shapely.errors.ShapelyError)
# Names of the column that holds colours, in any case.
COLOUR_FIELDS = ("colour", "color")


@dataclass(frozen=True)
class LabelFields:
    """Fields and layer of a vector file that hold the labels.

    Attributes
    ----------
    field
        The field with the class: text, or whole numbers from 1.
    layer
        The layer; None if only one layer has the field.
    name_field
        The field with the names of the classes if `field` holds numbers; None for "Class 1", ...
    encoding
        Of the texts; None for what the file says, or else a guess.
    also
        Further files whose labels the canvas of a large scene must have room for, such as test labels.
    """

    field: str | None = None
    layer: str | None = None
    name_field: str | None = None
    encoding: str | None = None
    also: tuple[str, ...] = ()

    @property
    def options(self) -> list[str]:
        """The options of the command line that were given, such as ``--field``."""
        values = {"--field": self.field, "--layer-name": self.layer, "--name-field": self.name_field}
        values["--encoding"] = self.encoding
        return [option for option, value in values.items() if value is not None]


@dataclass(frozen=True)
class FeatureTable:
    """The features of a layer.

    Attributes
    ----------
    shapes
        (n,) Shapely geometries, in the layer's CRS; None for a feature without one.
    crs
        Its CRS, None if it has none, `OF_SCENE` for that of the scene.
    values, names, colours
        (n,) values of the fields; None if the layer does not have the field.
    remarks
        Notes for the user on how the file is read, one line each.
    """

    shapes: NDArray[Any]
    crs: Any
    values: NDArray[Any]
    names: NDArray[Any] | None
    colours: NDArray[Any] | None
    remarks: tuple[str, ...] = ()


def is_vector(path: str | Path) -> bool:
    """Whether a file holds a layer of geometries; LabelsError with OGR's reason where it is no raster either."""
    return vector_source.is_vector(path, LabelsError)


def read_table(path: str | Path, fields: LabelFields) -> FeatureTable:
    """Read the layer that holds the labels.

    Raises
    ------
    UsageError
        No field is given, the layer or a field does not exist, or the layer is ambiguous.
    LabelsError
        The layer cannot be read or has no feature.
    """
    source = open_vectors(path, LabelsError, fields.encoding)
    layer = _chosen_layer(source, fields)
    found = [str(name) for name in _info(source, layer)["fields"]]
    for name in (fields.field, fields.name_field):
        _check_field(path, name, found, wanted=name is fields.field)
    colour = next((name for name in found if name.lower() in COLOUR_FIELDS), None)
    wanted = list(dict.fromkeys(name for name in (fields.field, fields.name_field, colour) if name is not None))
    try:
        columns, stored, crs = source.read(layer, wanted)
        shapes = np.asarray(shapely.from_wkb(stored))
    except READ_ERRORS as error:
        raise _unreadable(path, error) from error
    if not len(shapes):
        raise LabelsError(f"the layer '{layer}' of '{path}' has no feature: wanted labelled polygons or points")
    names = None if fields.name_field is None else columns[fields.name_field]
    colours = None if colour is None else columns[colour]
    place = OF_SCENE if crs == OF_SCENE else _crs(path, crs)
    return FeatureTable(shapes, place, columns[str(fields.field)], names, colours, source.remarks)


def _chosen_layer(source: VectorSource, fields: LabelFields) -> str:
    path, layers = source.path, source.layers
    if fields.layer is not None:
        if fields.layer not in layers:
            raise UsageError(f"'{path}' has no layer '{fields.layer}', only {', '.join(layers)}: give one of them")
        return fields.layer
    having = [name for name in layers if fields.field in _info(source, name)["fields"]]
    if len(layers) > 1 and len(having) != 1:
        raise UsageError(f"'{path}' has the layers {', '.join(layers)}: choose one with --layer-name")
    return (having or list(layers))[0]


def _check_field(path: str | Path, name: str | None, found: list[str], *, wanted: bool) -> None:
    listed = ", ".join(found) or "none"
    if name is None and wanted:
        raise UsageError(f"'{path}' is a vector file: give the field with the classes by --field; it has {listed}")
    if name is not None and name not in found:
        raise UsageError(f"'{path}' has no field '{name}': give one of its fields: {listed}")


def _info(source: VectorSource, layer: str) -> dict[str, Any]:
    try:
        return source.info(layer)
    except READ_ERRORS as error:
        raise _unreadable(source.path, error) from error


def _unreadable(path: str | Path, error: Exception) -> LabelsError:
    if isinstance(error, UnicodeDecodeError):
        return LabelsError(
            f"'{path}' has a text that is no {error.encoding}: wanted its right encoding; give it with --encoding"
        )
    why = (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(".")
    return LabelsError(f"'{path}' cannot be read ({why}): wanted a vector file that GDAL reads whole")


def _crs(path: str | Path, text: str | None) -> Any:
    try:
        with quiet_gdal():
            return rasterio.crs.CRS.from_user_input(text) if text else None
    except CRS_ERRORS as error:
        raise LabelsError(
            f"'{path}' has a CRS that is not understood: wanted a known one; reproject it with ogr2ogr -t_srs"
        ) from error


def in_pixels(
    path: str | Path, table: FeatureTable, shape: tuple[int, int], place: Georeference, name: str
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Transform features to pixel coordinates: x in columns, y in rows, the scene's first pixel from 0 to 1.

    Parameters
    ----------
    path, name
        Names of the file and the scene in messages.
    shape, place
        Size of the scene, (H, W), and its georeference.

    Returns
    -------
    parts : ndarray of shape (n,), object
        Single valid polygons and points that intersect the scene.
    owner : ndarray of shape (n,)
        Index in `table` of the feature that each part belongs to.

    Raises
    ------
    LabelsError
        The scene or the file has no georeference; NoLabelsError where no polygon or point intersects the scene.
    """
    crs = crs_of(place) if table.crs == OF_SCENE else table.crs
    _check_places(path, crs, place, name)
    scene_crs, scene_box = crs_of(place), scene_bounds(*shape, place)
    parts, owner = _parts(table.shapes, np.arange(len(table.shapes)), path)
    if not len(parts):
        raise LabelsError(f"'{path}' has no polygon and no point: wanted labelled polygons or points")
    if not np.isfinite(shapely.get_coordinates(parts)).all():
        raise LabelsError(f"'{path}' has coordinates that are not finite: wanted numbers; repair the file")
    moved, owner = _moved(path, parts, owner, crs, scene_crs, scene_box)
    moved, whose = turned_shapes(moved, scene_crs, scene_box)
    owner = owner[whose]
    to_pixels = ~place.transform
    pixels = shapely.transform(moved, lambda points: np.stack(apply_transform(to_pixels, *points.T), 1))
    reaching = shapely.intersects(shapely.box(0, 0, shape[1], shape[0]), pixels)
    if not reaching.any():
        raise _outside(path, name, parts, crs, scene_crs, scene_box)
    return pixels[reaching], owner[reaching]


def label_boxes(
    path: str | Path, shape: tuple[int, int], place: Georeference, name: str, fields: LabelFields
) -> NDArray[np.float64]:
    """Return left, top, right and bottom of each part of `in_pixels`, (n, 4), within the scene; errors as there."""
    parts, _ = in_pixels(path, read_table(path, fields), shape, place, name)
    return _boxes(parts, shape)


def _boxes(parts: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.float64]:
    return np.asarray(np.clip(shapely.bounds(parts), 0, np.array([*shape[::-1], *shape[::-1]]) - 1))


def on_canvas(parts: NDArray[Any], owner: NDArray[np.int64], canvas: Canvas) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Move parts in pixel coordinates of a scene to where they lie on its canvas; those that are not there are dropped.

    Each lies in one part of the canvas, with all of it that is on the scene.
    """
    height, width = canvas.scene
    left, top, right, bottom = shapely.bounds(parts).T
    beyond = (left < 0) | (top < 0) | (right > width) | (bottom > height)
    parts = np.where(beyond, shapely.intersection(parts, shapely.box(0, 0, width, height)), parts)
    corners = _boxes(parts, canvas.scene)[:, [1, 0]].astype(np.int64)  # row and column
    places, inside = canvas.located(corners)
    inside &= (left < width) & (top < height)
    shifts = (places - corners)[inside][:, ::-1].astype(np.float64)
    points = shapely.get_num_coordinates(parts[inside])
    moved = shapely.transform(parts[inside], lambda xy: xy + np.repeat(shifts, points, axis=0))
    return moved, owner[inside]


def _check_places(path: str | Path, crs: Any, place: Georeference, name: str) -> None:
    if place.transform is None or place.transform.is_degenerate:
        found = "only ground control points" if place.gcps else "only RPCs" if place.rpcs else "no georeference"
        remedy = "georeference it first with gdalwarp" if place.gcps or place.rpcs else "assign one with gdal_edit.py"
        raise LabelsError(
            f"'{name}' has {found}, so '{path}' cannot be placed on it: {remedy}, or give a label raster of its size"
        )
    if crs and not place.crs:
        raise LabelsError(f"'{name}' has no CRS and '{path}' has one: wanted the same; assign one with gdal_edit.py")
    if place.crs and not crs:
        raise LabelsError(f"'{path}' has no CRS and '{name}' has one: wanted both; assign one with ogr2ogr -a_srs")


def _parts(shapes: NDArray[Any], owner: NDArray[np.int64], path: str | Path) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Split geometries of any kind into valid single polygons and points; return them and their owners."""
    while True:
        shapes, index = shapely.get_parts(shapes, return_index=True)
        owner = owner[index]
        if not (shapely.get_type_id(shapes) > shapely.GeometryType.POLYGON).any():
            break
    kinds = shapely.get_type_id(shapes)
    known = np.isin(kinds, (shapely.GeometryType.POLYGON, shapely.GeometryType.POINT)) & ~shapely.is_empty(shapes)
    shapes, owner = shapes[known], owner[known]
    valid = shapely.is_valid(shapes) | ~np.isfinite(shapely.bounds(shapes)).all(axis=1)
    if valid.all():
        return np.asarray(shapes), owner
    mended, whose = _parts(made_valid(shapes[~valid], path), owner[~valid], path)
    order = np.argsort(np.concatenate([owner[valid], whose]), kind="stable")
    return np.concatenate([shapes[valid], mended])[order], np.concatenate([owner[valid], whose])[order]


def _moved(
    path: str | Path, parts: NDArray[Any], owner: NDArray[np.int64], crs: Any, scene_crs: Any, scene_box: Any
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Reproject to the scene's CRS."""
    if crs == scene_crs:
        return parts, owner
    try:
        return _parts(reprojected(parts, crs, scene_crs, scene_box), owner, path)
    except CRS_ERRORS as error:
        raise LabelsError(
            f"'{path}'{in_crs(crs)} cannot be reprojected to the scene{in_crs(scene_crs)}: "
            "wanted features near the scene; check the file's CRS"
        ) from error


def _outside(
    path: str | Path, name: str, parts: NDArray[Any], crs: Any, scene_crs: Any, scene_box: Any
) -> NoLabelsError:
    boxes = [scene_box] if crs == scene_crs else boxes_around(scene_box, scene_crs, crs)
    shown, shown_crs = (boxes[0], crs) if boxes else (scene_box, scene_crs)
    covered = box_text(tuple(shapely.total_bounds(parts)))
    return NoLabelsError(
        f"the features of '{path}' cover {covered}{in_crs(crs)} and '{name}' covers {box_text(shown)}"
        f"{in_crs(shown_crs)}: wanted labels on the scene; check both files' CRS"
    )
