"""Which pixels of a scene are meant: a box in map coordinates, a window of pixels, or the polygons of a vector file.

Everything is brought into pixel coordinates (x: columns, y: rows, the first pixel from 0 to 1) and decided there.
A polygon is filled by the sum of its edges' turns (non-zero winding): what a pixel gets depends on its own row and
column and on the polygons, and never on the window in which it is asked for.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.geo.reprojection import (
    check_has_transform,
)
from spectraldiff_runtime.geo.vector_file import polygons_in_pixels
from spectraldiff_runtime.window import Window, tiles_of

EDGES_AT_ONCE = 1 << 14


class PolygonMask:
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
        check_has_transform(place, name, "--mask")
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
