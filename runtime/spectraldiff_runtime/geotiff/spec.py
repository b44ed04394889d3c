"""What a raster holds and how it is stored, and both in GDAL's words: a VRT and creation options."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from rasterio.enums import Resampling

from spectraldiff_runtime.classes import LandCoverClass, class_dtype
from spectraldiff_runtime.geo.georeference import Georeference

CONFIDENCE_NODATA, OUTSIDE_NODATA = 0.0, 255.0
# Compressions that a predictor goes with.
PREDICTED = {"DEFLATE", "LZW", "ZSTD"}
# Creation options of other formats than GeoTIFF; SIDE is that of the tiles. Rows of netCDF run from north to south.
OTHER_FORMATS: Mapping[str, Mapping[str, str]] = {
    "PNG": {},
    "netCDF": {"FORMAT": "NC4", "COMPRESS": "DEFLATE", "WRITE_BOTTOMUP": "NO"},
    "Zarr": {"FORMAT": "ZARR_V2", "COMPRESS": "ZLIB", "BLOCKSIZE": "SIDE,SIDE"},
}
# GDAL holds two tiles a thread while it compresses; together they stay below this (bytes).
TILES_IN_FLIGHT = 64 * 2**20
MAX_THREADS = 8
# Up to this class a pixel takes 4 bits, and the palette has 16 entries in place of 256: QGIS lists all of them. Other
# numbers of bits are no baseline TIFF with a palette, and not every program reads them.
FEW = 15
# What the process that makes rasters holds without tiles, with GDAL's cache; and tiles, a thread and in addition.
PROCESS, TILES_A_THREAD, TILES = 65 * 10**6, 5, 1


@dataclass(frozen=True)
class Format:
    """How a raster is stored: GDAL's driver, the side of its tiles, and creation options that win over ours."""

    driver: Literal["COG", "GTiff", "PNG", "netCDF", "Zarr"] = "COG"
    blocksize: int = 512
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RasterSpec:
    """What a raster holds.

    Attributes
    ----------
    height, width, count
        Size in pixels and number of bands.
    dtype
        One of uint8, uint16 and float32.
    nodata
        The value of pixels without a result; None for none.
    place
        Where it lies.
    tags
        Tags of the file.
    names
        One for each band.
    classes
        What the values of band 1 mean; None where they are no classes.
    overviews
        How pixels are merged in overviews.
    """

    height: int
    width: int
    count: int
    dtype: str
    nodata: float | None
    place: Georeference
    tags: Mapping[str, str]
    names: tuple[str, ...]
    classes: tuple[LandCoverClass, ...] | None = None
    overviews: Resampling = Resampling.nearest

    @property
    def nbytes(self) -> int:
        """Bytes of the raw values."""
        return self.count * self.height * self.width * np.dtype(self.dtype).itemsize


def class_spec(
    height: int,
    width: int,
    classes: Sequence[LandCoverClass],
    place: Georeference,
    tags: Mapping[str, str],
) -> RasterSpec:
    """Return a class raster: uint8, or uint16 where a value is past 254; 0 = unclassified = nodata.

    Overviews are by majority, where unclassified counts as a class: smaller than the nearest pixel, and without its
    speckle.
    """
    dtype = class_dtype(max((c.value for c in classes), default=0)).name
    merged = Resampling.mode
    return RasterSpec(height, width, 1, dtype, 0, place, tags, ("class",), tuple(classes), merged)


def confidence_spec(
    height: int, width: int, place: Georeference, tags: Mapping[str, str], *, percent: bool
) -> RasterSpec:
    """Return a confidence raster: float32 in 0..1, or uint8 in percent, 1..100; 0 = unclassified = nodata.

    Overviews take the nearest pixel: a mean would mix unclassified pixels in.
    """
    dtype = "uint8" if percent else "float32"
    name = "confidence in percent" if percent else "confidence"
    return RasterSpec(height, width, 1, dtype, CONFIDENCE_NODATA, place, tags, (name,))


def probability_spec(
    height: int,
    width: int,
    classes: Sequence[LandCoverClass],
    place: Georeference,
    tags: Mapping[str, str],
) -> RasterSpec:
    """Return a raster of probabilities: a float32 band for each class, in 0..1, named after the class.

    All bands of an unclassified pixel are 0. That is no nodata value, since 0 is also a probability. Overviews
    take the nearest pixel, so that theirs sum to 1 or 0 as well.
    """
    names = tuple(c.name for c in classes)
    return RasterSpec(height, width, len(names), "float32", None, place, tags, names)


def outside_spec(height: int, width: int, place: Georeference, tags: Mapping[str, str]) -> RasterSpec:
    """Return a raster of how far pixels are from the training classes: uint8 percent, 0..100; 255 = no data = nodata.

    Overviews take the nearest pixel.
    """
    name = "unlike the training, in percent"
    return RasterSpec(height, width, 1, "uint8", OUTSIDE_NODATA, place, tags, (name,))


def raster_memory(count: int, dtype: str, form: Format, threads: int = 1) -> int:
    """Return the bytes that the process takes which makes a raster of `count` bands, and compresses in `threads`."""
    return PROCESS + _tile_bytes(count, dtype, form) * (TILES + TILES_A_THREAD * threads)


def _tile_bytes(count: int, dtype: str, form: Format) -> int:
    """Return the bytes of what GDAL stores together: a tile of all bands, or of one."""
    asked = {key.upper(): value.upper() for key, value in form.options.items()}
    alone = asked.get("INTERLEAVE", "PIXEL" if form.driver == "COG" else "BAND") == "BAND"
    return form.blocksize**2 * (1 if alone else count) * np.dtype(dtype).itemsize


def creation_options(spec: RasterSpec, form: Format, memory: int | None = None) -> dict[str, str]:
    """Return GDAL's creation options: ours, where it may take `memory` bytes, and over them those of the format."""
    if form.driver not in ("COG", "GTiff"):
        side = str(form.blocksize)
        return {key: value.replace("SIDE", side) for key, value in OTHER_FORMATS[form.driver].items()}
    asked = {key.upper(): value for key, value in form.options.items()}
    ours = {"COMPRESS": "DEFLATE", "BIGTIFF": "IF_SAFER", "NUM_THREADS": str(_threads(spec, form, memory))}
    if form.driver == "COG":
        ours["BLOCKSIZE"] = str(form.blocksize)
        if asked.keys() & {"RESAMPLING", "OVERVIEW_RESAMPLING"}:
            ours["OVERVIEWS"] = "IGNORE_EXISTING"  # those of the VRT
        elif not overview_factors(spec.height, spec.width, form.blocksize):
            ours["OVERVIEWS"] = "NONE"
    else:
        side = str(form.blocksize)
        ours |= {"TILED": "YES", "BLOCKXSIZE": side, "BLOCKYSIZE": side, "INTERLEAVE": "BAND"}
        ours["COPY_SRC_OVERVIEWS"] = "YES"
    if spec.classes is not None and max((c.value for c in spec.classes), default=0) <= FEW and not asked:
        ours["NBITS"] = "4"  # beside other options, such as predictors, GDAL may refuse it
    if np.dtype(spec.dtype).kind == "f" and asked.get("COMPRESS", "DEFLATE").upper() in PREDICTED:
        ours["PREDICTOR"] = "FLOATING_POINT" if form.driver == "COG" else "3"
    return ours | asked


def _threads(spec: RasterSpec, form: Format, memory: int | None) -> int:
    """Return how many threads compress: as many as their tiles have room for."""
    tile = _tile_bytes(spec.count, spec.dtype, form)
    room = TILES_IN_FLIGHT // (2 * tile)
    if memory is not None:
        room = min(room, (memory - raster_memory(spec.count, spec.dtype, form, 0)) // (TILES_A_THREAD * tile))
    return max(1, min(MAX_THREADS, os.cpu_count() or 1, room))


def overview_factors(height: int, width: int, blocksize: int) -> list[int]:
    """Return by how much each overview is smaller, down to one that fits a tile or has one row or column."""
    levels = math.ceil(math.log2(max(1.0, max(height, width) / blocksize)))
    return [2**level for level in range(1, levels + 1) if 2**level <= min(height, width)]
