"""Windows of a scene from bounds in any CRS."""

import math
from typing import Any

import numpy as np
import rasterio

from spectraldiff_runtime.errors import SceneError, UsageError
from spectraldiff_runtime.gdal import quiet_gdal
from spectraldiff_runtime.geo.georeference import Georeference, apply_transform, crs_of
from spectraldiff_runtime.geo.reprojection import (
    CRS_ERRORS,
    TURN,
    Box,
    box_text,
    boxes_around,
    check_has_transform,
    expanded,
    in_crs,
    in_degrees,
    overlap,
    scene_bounds,
    turned,
)
from spectraldiff_runtime.validation import as_float, as_int, as_tuple
from spectraldiff_runtime.window import Window

# Bounds are printed with few decimals (gdalinfo: 1e-7 degrees): less than this part of a pixel is rounding.
ROUNDING = 1e-3


def choose_window(
    height: int,
    width: int,
    place: Georeference,
    name: str,
    *,
    bounds: Box | None = None,
    bounds_crs: str | None = None,
    window: tuple[int, int, int, int] | None = None,
) -> Window:
    """Return the part of a scene that `--bounds` or `--window` choose; all of it without either.

    Parameters
    ----------
    height, width
        Size of the scene in pixels.
    place
        Where the scene lies.
    name
        What messages call the scene.
    bounds
        West, south, east, north; in degrees, a west greater than east means the box across the 180th meridian, and
        longitudes that differ by 360 are the same. Every pixel that the box overlaps is chosen (by more than a
        thousandth of a pixel, which is rounding), so a box on the borders of pixels gives exactly those between them.
        What leaves the scene is cut off. Where the box is not parallel to the rows (a rotated transform, another CRS),
        the smallest window around what it overlaps is chosen.
    bounds_crs
        CRS of the bounds in any notation; the scene's if None.
    window
        First column, first row, width and height in pixels, as in ``gdal_translate -srcwin``.

    Raises
    ------
    UsageError
        Both were given, the numbers cannot be meant, the window leaves the scene, or the scene has no transform.
    SceneError
        The bounds lie outside the scene, or cannot be reprojected to it.
    """
    if bounds is not None and window is not None:
        raise UsageError("--bounds and --window were both given: wanted one of them; leave the other out")
    if bounds_crs is not None and bounds is None:
        raise UsageError("--bounds-crs was given without --bounds: wanted both; add --bounds W S E N or leave it out")
    if window is not None:
        return _checked_window(height, width, name, window)
    if bounds is None:
        return Window(0, height, 0, width)
    west, south, east, north = as_tuple("bounds", bounds, as_float, "W S E N, four numbers", 4)
    check_has_transform(place, name, "--bounds")
    return _window_of_bounds(height, width, place, name, (west, south, east, north), bounds_crs)


def _checked_window(height: int, width: int, name: str, window: tuple[int, int, int, int]) -> Window:
    col, row, columns, rows = as_tuple("window", window, as_int, "COL ROW WIDTH HEIGHT, four whole numbers", 4)
    given = f"--window {col} {row} {columns} {rows}"
    if columns < 1 or rows < 1:
        raise UsageError(f"{given} has no pixels: wanted COL ROW WIDTH HEIGHT with width and height of at least 1")
    if col < 0 or row < 0 or col + columns > width or row + rows > height:
        raise UsageError(
            f"{given} leaves '{name}', which has {width} columns and {height} rows: wanted COL ROW WIDTH HEIGHT in it"
        )
    return Window(row, row + rows, col, col + columns)


def _checked_bounds(bounds: Box, crs: Any) -> Box:
    """Return bounds with west < east: in degrees, east may lie beyond the 180th meridian."""
    west, south, east, north = bounds
    if not all(math.isfinite(value) for value in bounds):
        raise UsageError(f"--bounds {box_text(bounds)} are not all numbers: wanted W S E N, four finite numbers")
    if in_degrees(crs) and east < west and east + TURN - west < TURN / 2:  # wider, they are likelier swapped
        east += TURN
    if west >= east or south >= north:
        raise UsageError(f"--bounds {box_text(bounds)} hold no area: wanted W S E N with west < east and south < north")
    return west, south, east, north


@quiet_gdal()
def _window_of_bounds(
    height: int, width: int, place: Georeference, name: str, bounds: Box, bounds_crs: str | None
) -> Window:
    scene_crs, scene_box = crs_of(place), scene_bounds(height, width, place)
    given = scene_crs if bounds_crs is None else _parsed_crs(bounds_crs)
    bounds = _checked_bounds(bounds, given)
    boxes, covered = [bounds], box_text(scene_box) + in_crs(scene_crs)
    if given != scene_crs:
        if scene_crs is None:
            raise UsageError(
                f"'{name}' has no CRS, so --bounds-crs cannot be used: give --bounds in the scene's own coordinates"
            )
        boxes, covered = _boxes_in_scene(bounds, given, scene_crs, scene_box)
    chosen = [_pixel_window(box, place, height, width) for box in turned(boxes, scene_crs)]
    windows = [window for window in chosen if window.height > 0 and window.width > 0]
    if not windows:
        raise SceneError(
            f"--bounds {box_text(bounds)} hold no pixel of '{name}', which covers {covered}: "
            "wanted W S E N that overlap it"
        )
    return Window(
        min(w.row0 for w in windows), max(w.row1 for w in windows),
        min(w.col0 for w in windows), max(w.col1 for w in windows),
    )  # fmt: skip


def _boxes_in_scene(bounds: Box, given: Any, scene_crs: Any, scene_box: Box) -> tuple[list[Box], str]:
    """Return bounds as boxes in the scene's CRS, and in words what the scene covers in theirs.

    Far from the place that it is made for, a projection may give any numbers without an error: the bounds of the
    world become half of a UTM zone. So what lies beyond the scene is cut off before reprojecting.
    """
    around = boxes_around(scene_box, scene_crs, given)
    near = (
        [overlap(box, expanded(other)) for other in around for box in turned([bounds], given)] if around else [bounds]
    )
    boxes: list[Box] = []
    for box in near:
        if box is None:
            continue
        found = boxes_around(box, given, scene_crs)
        if not found:
            raise SceneError(
                f"--bounds {box_text(bounds)}{in_crs(given)} cannot be reprojected to the scene{in_crs(scene_crs)}: "
                "wanted W S E N near the scene; check their order, or give them in the scene's CRS"
            )
        boxes += found
    covered = (around[0], given) if around else (scene_box, scene_crs)
    return boxes, box_text(covered[0]) + in_crs(covered[1])


def _pixel_window(box: Box, place: Georeference, height: int, width: int) -> Window:
    """Return the pixels that a box in the scene's CRS overlaps, cut off at the scene's edges."""
    corners = [apply_transform(~place.transform, x, y) for x in (box[0], box[2]) for y in (box[1], box[3])]
    if not np.isfinite(corners).all():
        raise UsageError(f"--bounds {box_text(box)} are too large to compute with: wanted W S E N near the scene")
    (col0, col1), (row0, row1) = (
        (math.floor(min(axis) + ROUNDING), math.ceil(max(axis) - ROUNDING)) for axis in zip(*corners, strict=True)
    )
    return Window(max(row0, 0), min(row1, height), max(col0, 0), min(col1, width))


def _parsed_crs(text: str) -> Any:
    try:
        with quiet_gdal():
            return rasterio.crs.CRS.from_user_input(text)
    except CRS_ERRORS as error:
        raise UsageError(f"--bounds-crs '{text}' is no known CRS: wanted EPSG:CODE, a PROJ string or WKT") from error
