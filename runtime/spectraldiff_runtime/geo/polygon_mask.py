"""Which pixels of a scene are meant: a box in map coordinates, a window of pixels, or the polygons of a vector file.

Everything is brought into pixel coordinates (x: columns, y: rows, the first pixel from 0 to 1) and decided there.
A polygon is filled by the sum of its edges' turns (non-zero winding): what a pixel gets depends on its own row and
column and on the polygons, and never on the window in which it is asked for.
"""

import copy
import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from spectraldiff_runtime.errors import SceneError, UsageError
from spectraldiff_runtime.geo.reprojection import (
    CRS_ERRORS,
    Box,
    box_text,
    boxes_around,
    check_placed,
    crs_of,
    grown,
    in_crs,
    mapped,
    overlap,
    scene_box_of,
)
from spectraldiff_runtime.geo.vector_file import polygons_in_pixels
from spectraldiff_runtime.scene.protocol import Georeference
from spectraldiff_runtime.scene.raster import quiet_gdal
from spectraldiff_runtime.validation import real, several, whole
from spectraldiff_runtime.window import Window, tiles_of

# Bounds are printed with few decimals (gdalinfo: 1e-7 degrees): less than this part of a pixel is rounding.
ROUNDING = 1e-3
EDGES_AT_ONCE = 1 << 14
TURN = 360.0  # degrees


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
    west, south, east, north = several("bounds", bounds, real, "W S E N, four numbers", 4)
    check_placed(place, name, "--bounds")
    return _window_of_bounds(height, width, place, name, (west, south, east, north), bounds_crs)


def moved(place: Georeference, window: Window) -> Georeference:
    """Return where a part of a scene lies: transform, control points and RPCs count from its first pixel."""
    transform = place.transform
    if transform is not None:
        x, y = mapped(transform, window.col0, window.row0)
        transform = rasterio.Affine(transform.a, transform.b, x, transform.d, transform.e, y)
    gcps = tuple(
        rasterio.control.GroundControlPoint(p.row - window.row0, p.col - window.col0, p.x, p.y, p.z, p.id, p.info)
        for p in place.gcps
    )
    rpcs = copy.copy(place.rpcs)
    if rpcs is not None:
        rpcs.line_off -= window.row0
        rpcs.samp_off -= window.col0
    return replace(place, transform=transform, gcps=gcps, rpcs=rpcs)


class AreaMask:
    """Polygons of a vector file, as a mask on a scene's grid.

    All polygons of all layers count; where they overlap they are joined. A pixel is inside where its centre is; a
    centre on an edge is inside if the polygon lies to its right, or below it on a level edge.

    Parameters
    ----------
    path
        A file, or any name that GDAL opens as vectors.
    place, height, width
        Where the scene lies, and its size in pixels.
    name
        What messages call the scene.

    Attributes
    ----------
    window : Window
        The smallest window of the scene around all polygons, cut off at the scene's edges.

    Raises
    ------
    UsageError
        The scene has no transform.
    SceneError
        The file cannot be read, has no polygons or no CRS, or marks no pixel of the scene.
    """

    window: Window

    def __init__(self, path: str | Path, place: Georeference, height: int, width: int, name: str) -> None:
        check_placed(place, name, "--mask")
        self.name = str(path)
        self._describe(polygons_in_pixels(path, place, height, width, name), height, width)
        if not self._marks_a_pixel():
            raise SceneError(
                f"the polygons of '{path}' hold no pixel's centre in '{name}': wanted larger ones; use --bounds instead"
            )

    def _describe(self, polygons: NDArray[Any], height: int, width: int) -> None:
        """Keep the polygons that reach a pixel's centre, as boxes of pixels and as edges."""
        import shapely

        left, top, right, bottom = np.ceil(shapely.bounds(polygons).reshape(-1, 4) - 0.5).T
        boxes = np.stack([top.clip(0, height), bottom.clip(0, height), left.clip(0, width), right.clip(0, width)], 1)
        reaches = (boxes[:, 0] < boxes[:, 1]) & (boxes[:, 2] < boxes[:, 3])
        self._boxes = boxes[reaches].astype(np.int64)
        self._edges, self._signs, self._counts = _edges_of(polygons[reaches])
        self._starts = np.cumsum(self._counts) - self._counts
        if reaches.any():
            row0, _, col0, _ = self._boxes.min(axis=0).tolist()
            _, row1, _, col1 = self._boxes.max(axis=0).tolist()
            self.window = Window(row0, row1, col0, col1)

    def _marks_a_pixel(self) -> bool:
        return len(self._boxes) > 0 and any(self.inside(tile).any() for tile in tiles_of(self.window, 1024))

    def inside(self, window: Window) -> NDArray[np.bool_]:
        """Return which pixels of a window have their centre in a polygon, (h, w), bool."""
        turns = np.zeros((window.height, window.width + 1), np.int32)
        near = self._near(window)
        _, edges = _ranges(self._starts[near], self._counts[near])
        for at in range(0, len(edges), EDGES_AT_ONCE):
            part = edges[at : at + EDGES_AT_ONCE]
            _add_turns(turns, window, self._edges[part], self._signs[part])
        return np.asarray(turns[:, :-1].cumsum(axis=1, dtype=np.int32) > 0)

    def touches(self, window: Window) -> bool:
        """Say, from the polygons' boxes alone, whether a window may hold pixels of the mask; False is certain."""
        return len(self._near(window)) > 0

    def _near(self, window: Window) -> NDArray[np.int64]:
        row0, row1, col0, col1 = self._boxes.T
        rows = (row0 < window.row1) & (row1 > window.row0)
        return np.flatnonzero(rows & (col0 < window.col1) & (col1 > window.col0))

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells this mask from another on the same scene: name, polygons, SHA-256 of their edges."""
        digest = hashlib.sha256(self._edges.tobytes())
        digest.update(self._counts.tobytes() + self._signs.tobytes())
        return {"name": Path(self.name).name, "polygons": len(self._counts), "sha256": digest.hexdigest()}


def _checked_window(height: int, width: int, name: str, window: tuple[int, int, int, int]) -> Window:
    col, row, columns, rows = several("window", window, whole, "COL ROW WIDTH HEIGHT, four whole numbers", 4)
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
    if _in_degrees(crs) and east < west and east + TURN - west < TURN / 2:  # wider, they are likelier swapped
        east += TURN
    if west >= east or south >= north:
        raise UsageError(f"--bounds {box_text(bounds)} hold no area: wanted W S E N with west < east and south < north")
    return west, south, east, north


def _in_degrees(crs: Any) -> bool:
    return crs is not None and bool(crs.is_geographic)


def _turned(boxes: list[Box], crs: Any) -> list[Box]:
    """Return boxes wherever their longitudes may be counted from; as they are where there are none."""
    turns = (-TURN, 0.0, TURN) if _in_degrees(crs) else (0.0,)
    return [(west + turn, south, east + turn, north) for west, south, east, north in boxes for turn in turns]


def _window_of_bounds(
    height: int, width: int, place: Georeference, name: str, bounds: Box, bounds_crs: str | None
) -> Window:
    scene_crs, scene_box = crs_of(place), scene_box_of(height, width, place)
    given = scene_crs if bounds_crs is None else _parsed_crs(bounds_crs)
    bounds = _checked_bounds(bounds, given)
    boxes, covered = [bounds], box_text(scene_box) + in_crs(scene_crs)
    if given != scene_crs:
        if scene_crs is None:
            raise UsageError(
                f"'{name}' has no CRS, so --bounds-crs cannot be used: give --bounds in the scene's own coordinates"
            )
        boxes, covered = _boxes_in_scene(bounds, given, scene_crs, scene_box)
    chosen = [_pixel_window(box, place, height, width) for box in _turned(boxes, scene_crs)]
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
    near = [overlap(box, grown(other)) for other in around for box in _turned([bounds], given)] if around else [bounds]
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
    corners = [mapped(~place.transform, x, y) for x in (box[0], box[2]) for y in (box[1], box[3])]
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


def _edges_of(polygons: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.int64]]:
    """Return the edges of all rings as upper and lower end (x, y, x, y), their turns, and their number per polygon.

    With exteriors and holes in opposite directions, an edge that is crossed from the left leads into its polygon
    where it goes up (+1) and out of it where it goes down (-1). Level edges lie between rows and are left out.
    """
    import shapely

    rings, polygon_of = shapely.get_rings(shapely.orient_polygons(polygons), return_index=True)
    points, ring_of = shapely.get_coordinates(rings, return_index=True)
    start, end = points[:-1], points[1:]
    kept = (ring_of[:-1] == ring_of[1:]) & (start[:, 1] != end[:, 1])
    start, end, owner = start[kept], end[kept], polygon_of[ring_of[:-1][kept]]
    down = end[:, 1] > start[:, 1]
    # From top to bottom whatever the direction: neighbours compute the same crossing on the edge that they share.
    edges = np.where(down[:, None], np.hstack([start, end]), np.hstack([end, start]))
    return edges, np.where(down, -1, 1).astype(np.int32), np.bincount(owner, minlength=len(polygons))


def _ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for ranges of `counts` numbers from `starts` one after the other, whose each is, and the numbers."""
    owner = np.repeat(np.arange(len(counts)), counts)
    before = np.cumsum(counts) - counts
    return owner, np.arange(len(owner)) + (starts - before)[owner]


def _add_turns(turns: NDArray[np.int32], window: Window, edges: NDArray[np.float64], signs: NDArray[np.int32]) -> None:
    """Add each edge's sign, in every row whose centre it crosses, to the first pixel whose centre lies beyond it.

    `turns` is (h, w + 1); the last column takes what lies to the right of the window.
    """
    x0, y0, x1, y1 = edges.T
    first, last = (np.ceil(y - 0.5).clip(window.row0, window.row1).astype(np.int64) for y in (y0, y1))
    edge, row = _ranges(first, last - first)
    along = (row + 0.5 - y0[edge]) / (y1 - y0)[edge]
    x = x0[edge] + along * (x1 - x0)[edge]
    col = np.ceil(x - 0.5).clip(window.col0, window.col1).astype(np.int64)
    np.add.at(turns, (row - window.row0, col - window.col0), signs[edge])
