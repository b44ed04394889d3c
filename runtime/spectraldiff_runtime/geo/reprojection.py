"""Boxes and points in map coordinates: from one CRS to another and back, and how messages write them."""

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio import warp
from rasterio.errors import CRSError

from spectraldiff_runtime.errors import UsageError
from spectraldiff_runtime.gdal import GDAL_ERRORS, quiet_gdal
from spectraldiff_runtime.geo.georeference import Georeference, apply_transform

# West, south, east, north.
Box = tuple[float, float, float, float]

# rasterio's error for a CRS that it does not know is none of its other errors; "EPSG:abc" is a ValueError.
CRS_ERRORS = (*GDAL_ERRORS, CRSError, ValueError)

TURN = 360.0  # degrees

# Straight sides bend when they are reprojected: so many points along each put them right to centimetres.
SIDE_POINTS = 101


def check_has_transform(place: Georeference, name: str, option: str) -> None:
    """Raise UsageError for a scene without a transform, where an option in map coordinates has no meaning."""
    if place.transform is not None:
        if place.transform.is_degenerate or not math.isfinite(place.transform.determinant):
            raise UsageError(
                f"'{name}' has a transform without area, so {option} cannot be placed: "
                "wanted pixels with a size; repair it with gdal_edit.py, or use --window"
            )
        return
    found = "only ground control points" if place.gcps else "only RPCs" if place.rpcs else "no georeference"
    remedy = "georeference it first with gdalwarp" if place.gcps or place.rpcs else "assign one with gdal_edit.py"
    raise UsageError(
        f"'{name}' has {found}, so {option} cannot be placed: wanted a transform; {remedy}, or use --window"
    )


def scene_bounds(height: int, width: int, place: Georeference) -> Box:
    """Return the smallest box around a scene with a transform, in its CRS."""
    corners = np.array([apply_transform(place.transform, col, row) for col in (0, width) for row in (0, height)])
    return (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())


def boxes_around(box: Box, source: Any, target: Any) -> list[Box]:
    """Return the boxes around a box in another CRS; none where points of it do not come back to where they were.

    A box across the 180th meridian is given on both of its sides, since either may be how the other data count.
    """
    xs, ys = (grid.ravel() for grid in np.meshgrid(np.linspace(*box[::2], 21), np.linspace(*box[1::2], 21)))
    try:
        back = reproject_points(reproject_points(np.stack([xs, ys], 1), source, target), target, source)
        with quiet_gdal():
            west, south, east, north = warp.transform_bounds(source, target, *box, densify_pts=SIDE_POINTS)
    except CRS_ERRORS:
        return []
    gone = np.abs(back - np.stack([xs, ys], 1))
    if source.is_geographic:
        gone[:, 0] = np.minimum(gone[:, 0], np.abs(gone[:, 0] - 360))
    if not gone.max() < 1e-5 * max(box[2] - box[0], box[3] - box[1]) + 1e-9 * np.abs(box).max():
        return []
    if west > east:
        return [(west, south, east + 360, north), (west - 360, south, east, north)]
    return [(west, south, east, north)]


def reproject_points(points: NDArray[np.float64], source: Any, target: Any) -> NDArray[np.float64]:
    """Reproject points (n, 2); what has no place in the target is an error or infinite."""
    with quiet_gdal():
        return np.stack(warp.transform(source, target, *points.T.tolist())[:2], axis=1)


@quiet_gdal()
def in_degrees(crs: Any) -> bool:
    """Whether coordinates are longitudes and latitudes."""
    return crs is not None and bool(crs.is_geographic)


def turned(boxes: list[Box], crs: Any) -> list[Box]:
    """Return boxes wherever their longitudes may be counted from; as they are where there are none."""
    turns = (-TURN, 0.0, TURN) if in_degrees(crs) else (0.0,)
    return [(west + turn, south, east + turn, north) for west, south, east, north in boxes for turn in turns]


@quiet_gdal()
def same_crs(crs: Any, other: Any, box: Box | None) -> bool:
    """Whether x and y mean the same in two CRS: they are equal, or leave the points of a box in the first in place.

    So a compound CRS is the same as its horizontal part, and CRS84 as EPSG:4326: x comes first in both here.
    """
    if crs is None or other is None or crs == other:
        return bool(crs == other)
    if box is None or in_degrees(crs) != in_degrees(other):
        return False
    points = np.array([(x, y) for x in box[::2] for y in box[1::2]], np.float64)
    try:
        moved = np.abs(reproject_points(points, crs, other) - points)
    except CRS_ERRORS:
        return False
    if in_degrees(crs):
        moved[:, 0] = np.minimum(moved[:, 0], np.abs(moved[:, 0] - TURN))
    return bool(moved.max() <= 1e-6 * max(box[2] - box[0], box[3] - box[1]))


def expanded(box: Box) -> Box:
    """Add what the bent sides of a reprojected box may have missed."""
    dx, dy = 0.01 * (box[2] - box[0]), 0.01 * (box[3] - box[1])
    return box[0] - dx, box[1] - dy, box[2] + dx, box[3] + dy


def overlap(a: Box, b: Box) -> Box | None:
    """Return what two boxes share; None without an area."""
    west, south, east, north = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    return (west, south, east, north) if west < east and south < north else None


def box_text(box: Box) -> str:
    """Write a box as `--bounds` reads it."""
    return " ".join(f"{value:.12g}" for value in box)


@quiet_gdal()
def in_crs(crs: Any) -> str:
    """Write `` in EPSG:32616`` for a message; nothing without a CRS."""
    if not crs:
        return ""
    text = crs.to_string()
    named = re.match(r'\w+\["([^"]*)"', text)
    return f" in {named[1] if named else text}"
