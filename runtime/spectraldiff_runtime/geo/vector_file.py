"""Polygons of a vector file, brought into a scene's pixel coordinates. Shapely and pyogrio load where they are used."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.gdal import quiet_gdal
from spectraldiff_runtime.geo.georeference import Georeference, apply_transform, crs_of
from spectraldiff_runtime.geo.reprojection import (
    CRS_ERRORS,
    SIDE_POINTS,
    TURN,
    Box,
    box_text,
    boxes_around,
    expanded,
    in_crs,
    in_degrees,
    reproject_points,
    scene_bounds,
    turned,
)
from spectraldiff_runtime.geo.vector_source import OF_SCENE, open_vectors
from spectraldiff_runtime.limits import CROSSINGS

EDGES_AT_ONCE = 256

# The polygons of a layer, and its CRS.
Layer = tuple[NDArray[Any], Any]


def polygons_in_pixels(path: str | Path, place: Georeference, height: int, width: int, name: str) -> NDArray[Any]:
    """Read the polygons of a vector file that reach a scene.

    Parameters
    ----------
    path
        A file, or any name that GDAL opens as vectors; all layers are read.
    place, height, width
        Where the scene lies (with a transform), and its size in pixels.
    name
        What messages call the scene.

    Returns
    -------
    ndarray of shape (P,), object
        Valid Shapely polygons, x in columns and y in rows; the scene's first pixel reaches from 0 to 1.

    Raises
    ------
    SceneError
        The file cannot be read, has no polygon or no CRS, or lies outside the scene.
    """
    import shapely

    scene_crs, scene_box = crs_of(place), scene_bounds(height, width, place)
    layers = _read_layers(str(path), scene_crs, name)
    moved = np.concatenate([_in_scene_crs(layer, scene_crs, scene_box, str(path)) for layer in layers])
    placed, _ = turned_shapes(moved, scene_crs, scene_box)
    to_pixels = ~place.transform
    pixels = shapely.transform(placed, lambda points: np.stack(apply_transform(to_pixels, *points.T), 1))
    scene = shapely.box(0, 0, width, height)
    shapely.prepare(scene)
    reaching = pixels[shapely.intersects(scene, pixels)]
    if not len(reaching):
        raise SceneError(_why_outside(str(path), name, layers[0], scene_crs, scene_box))
    return np.asarray(reaching)


def _read_layers(path: str, scene_crs: Any, name: str) -> list[Layer]:
    """Return the polygons of each layer that has some, with their CRS."""
    import shapely

    if "://" not in path and not path.startswith("/vsi") and not Path(path).exists():
        raise SceneError(f"--mask '{path}' does not exist: wanted a vector file or a raster; check the name")
    source = open_vectors(path)
    try:
        tables = [source.read(layer, []) for layer in source.layers]
        found = [(shapely.from_wkb(shapes), scene_crs if crs == OF_SCENE else crs) for _, shapes, crs in tables]
    except (RuntimeError, ValueError, shapely.errors.ShapelyError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0].split(";")[0].strip().rstrip(".")
        raise SceneError(
            f"--mask '{path}' cannot be read ({why}): wanted polygons in a file that GDAL reads"
        ) from error
    layers = [(_polygons(shapes, path), crs) for shapes, crs in found]
    if not any(len(polygons) for polygons, _ in layers):
        features = sum(len(shapes) for shapes, _ in found)
        raise SceneError(f"'{path}' holds {features} features and no polygon: wanted polygons; check the file's layers")
    return [(polygons, _layer_crs(path, crs, scene_crs, name)) for polygons, crs in layers if len(polygons)]


def _layer_crs(path: str, text: Any, scene_crs: Any, name: str) -> Any:
    """Return the CRS of a layer; None if neither it nor the scene has one, which is taken as the same."""
    if text and scene_crs is None:
        raise SceneError(f"'{name}' has no CRS and '{path}' has one: wanted the same; assign one with gdal_edit.py")
    if not text and scene_crs is not None:
        raise SceneError(f"'{path}' has no CRS and '{name}' has one: wanted both; assign one with ogr2ogr -a_srs")
    try:
        with quiet_gdal():
            return rasterio.crs.CRS.from_user_input(text) if text else None
    except CRS_ERRORS as error:
        raise SceneError(
            f"'{path}' has a CRS that is not understood: wanted a known one; reproject it with ogr2ogr -t_srs"
        ) from error


def _polygons(shapes: NDArray[Any], path: str) -> NDArray[Any]:
    """Return the polygons in geometries of any kind, one by one, each made valid."""
    import shapely

    parts = shapely.get_parts(shapes)
    while (shapely.get_type_id(parts) > shapely.GeometryType.MULTIPOINT).any():
        parts = shapely.get_parts(parts)
    parts = parts[(shapely.get_type_id(parts) == shapely.GeometryType.POLYGON) & ~shapely.is_empty(parts)]
    if not np.isfinite(shapely.get_coordinates(parts)).all():
        raise SceneError(f"'{path}' has polygons with coordinates that are not finite: wanted numbers; repair the file")
    valid = shapely.is_valid(parts)
    if valid.all():
        return np.asarray(parts)
    return np.concatenate([parts[valid], _polygons(made_valid(parts[~valid], path), path)])


def made_valid(shapes: NDArray[Any], path: str | Path) -> NDArray[Any]:
    """Return polygons that cross themselves as valid geometries, each the area that its edges enclose.

    Raises
    ------
    SceneError
        One crosses itself so often that this would take minutes and gigabytes, which grow with the crossings.
    """
    import shapely

    for shape in shapes:
        if _crosses_itself_often(shape):
            raise SceneError(
                f"'{path}' has a polygon of {shapely.get_num_coordinates(shape):,} points that crosses itself more "
                f"than {CROSSINGS:,} times: wanted the outline of an area; repair the file"
            )
    return np.asarray(shapely.make_valid(shapes))


def _crosses_itself_often(shape: Any) -> bool:
    import shapely

    points, ring = shapely.get_coordinates(shapely.get_rings(shape), return_index=True)
    kept = ring[:-1] == ring[1:]
    edges = shapely.linestrings(np.stack([points[:-1][kept], points[1:][kept]], 1))
    tree, found = shapely.STRtree(edges), 0
    for at in range(0, len(edges), EDGES_AT_ONCE):
        pairs = tree.query(edges[at : at + EDGES_AT_ONCE], predicate="crosses")
        found += pairs.shape[1]
        if found > 2 * CROSSINGS:  # each is found from both of its edges
            return True
    return False


def _in_scene_crs(layer: Layer, scene_crs: Any, scene_box: Box, path: str) -> NDArray[Any]:
    """Return polygons in the scene's CRS."""
    polygons, crs = layer
    if crs == scene_crs:
        return polygons
    try:
        return _polygons(reprojected(polygons, crs, scene_crs, scene_box), path)
    except CRS_ERRORS as error:
        raise SceneError(
            f"'{path}'{in_crs(crs)} cannot be reprojected to the scene{in_crs(scene_crs)}: "
            "wanted polygons near the scene; check the file's CRS"
        ) from error


def reprojected(shapes: NDArray[Any], crs: Any, scene_crs: Any, scene_box: Box) -> NDArray[Any]:
    """Return geometries in the scene's CRS, one for each, of any kind or empty.

    What lies far from the scene is cut off first, for projections give any numbers there; long edges are bent.
    `CRS_ERRORS` are passed on.
    """
    import shapely

    around = turned(boxes_around(scene_box, scene_crs, crs), crs)
    if around:
        shapes = shapely.intersection(shapes, shapely.union_all([shapely.box(*expanded(box)) for box in around]))
    west, south, east, north = shapely.total_bounds(shapes)
    step = math.hypot(east - west, north - south) / (10 * SIDE_POINTS)
    dense = shapely.segmentize(shapes, step) if step > 0 else shapes
    return np.asarray(shapely.transform(dense, lambda points: reproject_points(points, crs, scene_crs)))


def turned_shapes(shapes: NDArray[Any], crs: Any, box: Box) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return geometries, and those in degrees also where their longitudes counted from elsewhere reach a box.

    Returns
    -------
    shapes : ndarray of shape (m,), object
    index : ndarray of shape (m,)
        Which of the given geometries each of them is.
    """
    import shapely

    index = np.arange(len(shapes))
    if not in_degrees(crs):
        return shapes, index
    west, _, east, _ = shapely.bounds(shapes).reshape(-1, 4).T
    found, whose = [shapes], [index]
    for turn in (-TURN, TURN):
        reaches = (west + turn < box[2]) & (east + turn > box[0])
        found.append(shapely.transform(shapes[reaches], partial(np.add, (turn, 0.0))))
        whose.append(index[reaches])
    return np.concatenate(found), np.concatenate(whose)


def _why_outside(path: str, name: str, layer: Layer, scene_crs: Any, scene_box: Box) -> str:
    import shapely

    polygons, crs = layer
    boxes = [scene_box] if crs == scene_crs else boxes_around(scene_box, scene_crs, crs)
    shown, shown_crs = (boxes[0], crs) if boxes else (scene_box, scene_crs)
    return (
        f"the polygons of '{path}' cover {box_text(tuple(shapely.total_bounds(polygons)))}{in_crs(crs)} and '{name}' "
        f"covers {box_text(shown)}{in_crs(shown_crs)}: wanted polygons that overlap the scene; check both files' CRS"
    )
