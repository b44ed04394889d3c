"""The formats of a class map, by the suffix of its name, and what each can hold."""

import os
from pathlib import Path

from spectraldiff_runtime.atomic import RASTERS, check_raster_name
from spectraldiff_runtime.errors import OutputError, SceneError
from spectraldiff_runtime.gdal import names_archive
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.untrusted import is_control

# Suffix and GDAL's name of what a class map may be, beside a GeoTIFF. All other layers are GeoTIFFs.
DRIVERS = {".gpkg": "GPKG", ".png": "PNG", ".nc": "netCDF", ".zarr": "Zarr"}
MOST_COLOURS = 255  # the highest class of a picture


def driver_of(path: Path) -> str:
    """Return GDAL's name of the format of the class map at `path`; "GTiff" for any GeoTIFF."""
    return DRIVERS.get(path.suffix.lower(), "GTiff")


def is_polygons(path: Path | None) -> bool:
    """Whether the class map at `path` consists of polygons."""
    return path is not None and driver_of(path) == "GPKG"


def passes(path: Path | None) -> int:
    """Return how often each pixel is gone through until the map is there: polygons are made of the finished classes."""
    return 2 if is_polygons(path) else 1


def check_map_name(path: Path, option: str = "--out") -> None:
    """Raise OutputError where the suffix of a class map is that of no format, or the format takes no such name."""
    if driver_of(path) == "GTiff":
        check_raster_name(option, path, (*RASTERS, *DRIVERS))
        return
    if any(map(is_control, str(path))):
        raise OutputError(f"{option} '{path}' holds control characters or bytes that are no UTF-8: wanted another name")
    if is_polygons(path) and names_archive(os.path.realpath(path)):
        raise OutputError(f"{option} '{path}' has a ! or ; in its path, which GeoPackages cannot have: choose another")
    if driver_of(path) == "Zarr" and (set(path.stem) & set(":\\") or path.stem.startswith((".z", ".."))):
        raise OutputError(f"{option} '{path}' names an array of Zarr: wanted no : or \\ in it, nor .z or .. before it")


def check_classes(path: Path, highest: int) -> None:
    """Raise OutputError where the format does not hold so many classes."""
    if driver_of(path) == "PNG" and highest > MOST_COLOURS:
        raise OutputError(f"'{path}' would have {highest:,} classes and a PNG has {MOST_COLOURS}: write a .tif")


def check_place(path: Path, name: str, place: Georeference) -> None:
    """Raise SceneError where the format cannot say where the scene `name` lies.

    Polygons need a CRS and a transform, netCDF a transform. Control points and RPCs are kept in GeoTIFFs alone, and
    axes of netCDF and Zarr are not rotated.
    """
    driver, placed = driver_of(path), place.transform is not None and place.crs
    if driver == "GTiff" or (driver == "PNG" and placed):
        return
    if driver == "GPKG":
        if not placed:
            raise SceneError(
                f"'{name}' has no CRS with a transform, so polygons cannot be placed on it: assign one with "
                "gdal_edit.py, warp it with gdalwarp, or write a .tif"
            )
        return
    if place.transform is None and (place.gcps or place.rpcs is not None):
        raise SceneError(
            f"'{name}' is placed by control points or RPCs, which {path.suffix} does not hold: write a .tif, or warp "
            "the scene with gdalwarp"
        )
    if driver == "netCDF" and place.transform is None:  # GDAL would take its first row for the last
        raise SceneError(f"'{name}' has no transform, and netCDF needs the axes of one: write a .tif or a .zarr")
    if driver != "PNG" and place.transform is not None and (place.transform.b or place.transform.d):
        raise SceneError(f"'{name}' is rotated, and the axes of {path.suffix} are not: write a .tif, or use gdalwarp")
