"""What `--mask` names: polygons of a vector file, or a raster."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from spectraldiff_runtime.errors import UsageError
from spectraldiff_runtime.gdal import GDAL_ERRORS
from spectraldiff_runtime.geo.polygon_mask import PolygonMask
from spectraldiff_runtime.geo.raster_mask import Grid, RasterMask
from spectraldiff_runtime.geo.vector_file import check_vectors
from spectraldiff_runtime.raster_file import open_looked_at

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
    check_vectors(str(path))
    if not _has_shapes(str(path)) and _is_raster(path):
        return RasterMask(path, values, grid)
    if values is not None:
        raise UsageError(f"--mask-values is for rasters and '{path}' is none: leave it out, or give a raster as --mask")
    return PolygonMask(path, grid.place, grid.height, grid.width, grid.name)


def _has_shapes(path: str) -> bool:
    """Whether OGR finds a layer of geometries."""
    import pyogrio

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # GDAL's remarks on files that it reads all the same
            return any(kind is not None for _, kind in pyogrio.list_layers(path))
    except (RuntimeError, ValueError):
        return False


def _is_raster(path: str | Path) -> bool:
    try:
        with open_looked_at(path) as dataset:
            return bool(dataset.count)
    except (*GDAL_ERRORS, ValueError, UnicodeError):
        return False
