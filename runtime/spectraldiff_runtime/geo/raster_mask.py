"""Rasters, such as quality layers, as masks on a scene's grid: which of its pixels are wanted.

A pixel of the scene gets the value of the mask's pixel that its centre lies in.
"""

import hashlib
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterioWindow

from spectraldiff_runtime.errors import SceneError, UsageError
from spectraldiff_runtime.gdal import GDAL_ERRORS, quiet_gdal, reason
from spectraldiff_runtime.geo.georeference import Georeference, crs_of, read_georeference
from spectraldiff_runtime.geo.reprojection import box_text, boxes_around, in_crs, overlap, same_crs, scene_bounds
from spectraldiff_runtime.raster_file import open_looked_at
from spectraldiff_runtime.window import Window, tiles_of

# Pixels along the sides of what is looked at once, and of the squares of which it is kept whether any is wanted.
SIDE, SQUARE = 1024, 128
TURN = 360.0  # degrees
# Pixels that places on the mask may be off: GDAL takes no 0.
EXACT = 1e-6
# Stands for coordinates of which nobody knows the CRS: those of mask and scene are the same then.
UNKNOWN = "EPSG:3857"


@dataclass(frozen=True)
class Grid:
    """Where a scene lies, its size in pixels, and what messages call it."""

    place: Georeference
    height: int
    width: int
    name: str


class RasterMask:
    """A raster of one band, as a mask on a scene's grid; placed by its georeference.

    Parameters
    ----------
    path
        A file, or any name that GDAL opens as a raster.
    values
        The values that are wanted; None for all but 0. Pixels without data are not wanted.
    grid
        The scene's.

    Attributes
    ----------
    window : Window
        The smallest window of the scene around all wanted pixels.
    pixels : int
        How many pixels are wanted.

    Raises
    ------
    SceneError
        The file cannot be read, has several bands, no CRS, lies outside of the scene, or marks no pixel of it.
    UsageError
        Neither the mask nor the scene says where it lies, and their sizes differ.
    """

    def __init__(self, path: str | Path, values: Sequence[float] | None, grid: Grid) -> None:
        self.name, self._values, self._size = str(path), values, (grid.height, grid.width)
        self._lock = threading.Lock()  # GDAL's data sets are read by one thread at a time
        with quiet_gdal():
            try:
                self._dataset = open_looked_at(path)
            except GDAL_ERRORS as error:
                raise SceneError(
                    f"'{path}' cannot be opened as a raster ({reason(error)}): wanted polygons or a raster that GDAL "
                    "reads"
                ) from error
            if self._dataset.count != 1:
                raise SceneError(
                    f"the mask '{path}' has {self._dataset.count} bands: wanted one; name a band of it as "
                    f"vrt://{path}?bands=1"
                )
            self._source = self._on_grid(grid)
        self._scan()

    def _on_grid(self, grid: Grid) -> Any:
        """Return what has the scene's own rows and columns: the file itself, or a view of it."""
        own, mask = grid.place, read_georeference(self._dataset)
        same_size = self._dataset.shape == (grid.height, grid.width)
        placed = mask.transform is not None
        if own.transform is None or not placed:
            if not same_size or mask.gcps:
                raise UsageError(self._why_not_placed(grid, placed))
            return self._dataset
        crs, mask_crs = crs_of(own), mask.crs
        if (crs is None) != (mask_crs is None):
            which = f"the mask '{self.name}'" if mask_crs is None else f"'{grid.name}'"
            raise SceneError(f"{which} has no CRS: wanted one, to place one on the other; assign it with gdal_edit.py")
        rounding = 1e-6 * abs(own.transform.determinant) ** 0.5
        alike = np.allclose(mask.transform[:6], own.transform[:6], rtol=0, atol=rounding)
        same = same_crs(crs, mask_crs, scene_bounds(grid.height, grid.width, own))
        if same_size and alike and same:
            return self._dataset
        self._check_values()
        turn = self._turn(grid, crs, crs if same else mask_crs, mask.transform)
        a, b, c, d, e, f = own.transform[:6]
        return WarpedVRT(
            self._dataset, src_crs=(crs if same else mask_crs) or UNKNOWN, crs=crs or UNKNOWN,
            transform=rasterio.Affine(a, b, c - turn, d, e, f), width=grid.width, height=grid.height,
            resampling=Resampling.nearest, tolerance=EXACT, add_alpha=True,
        )  # fmt: skip

    def _why_not_placed(self, grid: Grid, placed: bool) -> str:
        height, width = self._dataset.shape
        which = f"'{grid.name}'" if placed else f"the mask '{self.name}'"
        return (
            f"{which} has no transform that says where it lies, and the mask has {height} x {width} pixels where the "
            f"scene has {grid.height} x {grid.width}: wanted both on the map (gdalwarp places ground control points), "
            "or a mask of the scene's size without any georeference"
        )

    def _check_values(self) -> None:
        nodata = self._dataset.nodata
        if self._values is not None and nodata in self._values:
            raise UsageError(
                f"--mask-values has {nodata:g}, which marks missing pixels in '{self.name}': wanted other values, or a "
                "mask without a nodata value (gdal_edit.py -unsetnodata)"
            )

    def _turn(self, grid: Grid, crs: Any, mask_crs: Any, transform: Any) -> float:
        """Return what to take from the scene's longitudes where the mask counts them from elsewhere; else 0.

        Raises
        ------
        SceneError
            The mask lies outside of the scene.
        """
        rows, columns = self._dataset.shape
        mask_box = scene_bounds(rows, columns, Georeference(mask_crs, transform))
        scene_box = scene_bounds(grid.height, grid.width, grid.place)
        wanted = [scene_box] if crs == mask_crs else boxes_around(scene_box, crs, mask_crs)
        turns = (0.0, TURN, -TURN) if mask_crs is not None and mask_crs.is_geographic else (0.0,)
        for turn in turns:
            moved = (mask_box[0] + turn, mask_box[1], mask_box[2] + turn, mask_box[3])
            if any(overlap(box, moved) for box in wanted):
                return turn if crs == mask_crs else 0.0  # GDAL turns those of another CRS itself
        raise SceneError(
            f"the mask '{self.name}' covers {box_text(mask_box)}{in_crs(mask_crs)} and '{grid.name}' covers "
            f"{box_text(scene_box)}{in_crs(crs)}: wanted a mask of the scene's place"
        )

    def _scan(self) -> None:
        """Look at all pixels once: where the wanted ones are, how many, and what tells them from others."""
        height, width = self._size
        self._squares = np.zeros((-(-height // SQUARE), -(-width // SQUARE)), np.bool_)
        digest, boxes, self.pixels = hashlib.sha256(), [], 0
        for tile in tiles_of(Window(0, height, 0, width), SIDE):
            wanted = self.inside(tile)
            digest.update(np.packbits(wanted).tobytes())
            rows, columns = np.nonzero(wanted)
            if rows.size:
                rows, columns = rows + tile.row0, columns + tile.col0
                self.pixels += rows.size
                self._squares[rows // SQUARE, columns // SQUARE] = True
                boxes.append((rows.min(), rows.max(), columns.min(), columns.max()))
        self._digest = digest.hexdigest()
        if not boxes:
            values = "nonzero" if self._values is None else " or ".join(f"{value:g}" for value in self._values)
            raise SceneError(
                f"no pixel of the scene is {values} in the mask '{self.name}': wanted some; choose their values with "
                "--mask-values"
            )
        top, bottom, left, right = np.array(boxes).T
        self.window = Window(int(top.min()), int(bottom.max()) + 1, int(left.min()), int(right.max()) + 1)

    def inside(self, window: Window) -> NDArray[np.bool_]:
        """Return which pixels of a window are wanted, (h, w), bool.

        Raises
        ------
        SceneError
            The file is damaged or cut short there.
        """
        part = RasterioWindow(window.col0, window.row0, window.width, window.height)
        try:
            with self._lock, quiet_gdal():
                values, known = self._source.read(1, window=part), self._known(part)
        except GDAL_ERRORS as error:
            raise SceneError(
                f"the mask '{self.name}' cannot be read ({reason(error)}): it is damaged or cut short; copy or "
                "download it again"
            ) from error
        if self._values is None:
            return np.asarray((values != 0) & (values == values) & known)
        return np.asarray(np.isin(values, self._values) & known)

    def _known(self, part: Any) -> Any:
        """Return where the mask has data; a value that is asked for by name is data, whatever the file calls it."""
        if self._source is not self._dataset:
            return self._source.read(2, window=part) != 0
        nodata = self._dataset.nodata
        if self._values is not None and nodata is not None and nodata in self._values:
            return np.bool_(True)
        return self._dataset.read_masks(1, window=part) != 0

    def touches(self, window: Window) -> bool:
        """Say whether a window may hold wanted pixels; False is certain."""
        rows = slice(window.row0 // SQUARE, math.ceil(window.row1 / SQUARE))
        return bool(self._squares[rows, window.col0 // SQUARE : math.ceil(window.col1 / SQUARE)].any())

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells this mask from another on the same scene: name, pixels, SHA-256 of where they are."""
        return {"name": Path(self.name).name, "pixels": self.pixels, "sha256": self._digest}
