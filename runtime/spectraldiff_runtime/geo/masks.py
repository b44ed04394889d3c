"""What `--mask` names: polygons of a vector file, or a raster."""

from collections.abc import Sequence
from pathlib import Path

from spectraldiff_runtime.errors import UsageError
from spectraldiff_runtime.geo.polygon_mask import PolygonMask
from spectraldiff_runtime.geo.raster_mask import Grid, RasterMask
from spectraldiff_runtime.geo.vector_source import is_raster, is_vector

Mask = PolygonMask | RasterMask


def open_mask(path: str | Path, values: Sequence[float] | None, grid: Grid) -> Mask:
    """Open what says which pixels of a scene are wanted.

    Parameters
    ----------
    path
        A vector file whose polygons hold them, or a raster of one band.
    values
        The values of a raster that are wanted; None for all but 0.

    Raises
    ------
    UsageError
        Values are given for a vector file; and as `PolygonMask` and `RasterMask`.
    SceneError
        As `PolygonMask` and `RasterMask`.
    """
    if not is_vector(path) and is_raster(path):
        return RasterMask(path, values, grid)
    if values is not None:
        raise UsageError(f"--mask-values is for rasters and '{path}' is none: leave it out, or give a raster as --mask")
    return PolygonMask(path, grid.place, grid.height, grid.width, grid.name)
