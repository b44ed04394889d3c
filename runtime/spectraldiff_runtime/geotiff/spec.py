"""What a raster holds and how it is stored, and both in GDAL's words: a VRT and creation options."""

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import rasterio
from rasterio.enums import Resampling

from spectraldiff_runtime import __version__
from spectraldiff_runtime.classes import LandCoverClass, category_names, class_dtype, colour_table
from spectraldiff_runtime.scene.protocol import Georeference

CONFIDENCE_NODATA = 0.0
GDAL_TYPES = {"uint8": "Byte", "uint16": "UInt16", "float32": "Float32"}
# Compressions that a predictor goes with.
PREDICTED = {"DEFLATE", "LZW", "ZSTD"}
# GDAL holds two tiles a thread while it compresses; together they stay below this (bytes).
TILES_IN_FLIGHT = 64 * 2**20
MAX_THREADS = 8


@dataclass(frozen=True)
class Format:
    """How a raster is stored: GDAL's driver, the side of its tiles, and creation options that win over ours."""

    driver: Literal["COG", "GTiff"] = "COG"
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


def creation_options(spec: RasterSpec, form: Format) -> dict[str, str]:
    """Return GDAL's creation options: ours, and over them those of the format."""
    asked = {key.upper(): value for key, value in form.options.items()}
    ours = {"COMPRESS": "DEFLATE", "BIGTIFF": "IF_SAFER", "NUM_THREADS": str(_threads(spec, form))}
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
    if np.dtype(spec.dtype).kind == "f" and asked.get("COMPRESS", "DEFLATE").upper() in PREDICTED:
        ours["PREDICTOR"] = "FLOATING_POINT" if form.driver == "COG" else "3"
    return ours | asked


def _threads(spec: RasterSpec, form: Format) -> int:
    """Return how many threads compress: as many as their tiles have room for."""
    tile = form.blocksize**2 * spec.count * np.dtype(spec.dtype).itemsize
    return max(1, min(MAX_THREADS, os.cpu_count() or 1, TILES_IN_FLIGHT // (2 * tile)))


def vrt_text(spec: RasterSpec, raw: Path, blocksize: int) -> str:
    """Return a VRT that shows a raw file to GDAL as the raster of `spec`, with overviews.

    The overviews are computed while they are read. So GDAL needs neither memory nor a temporary file for them.

    Parameters
    ----------
    raw
        The values, a flat array (count, H, W) in native byte order.
    blocksize
        Side of the tiles: the smallest overview fits into one.
    """
    root = ElementTree.Element("VRTDataset", rasterXSize=str(spec.width), rasterYSize=str(spec.height))
    _add_place(root, spec.place)
    tags = {**spec.tags, "TIFFTAG_SOFTWARE": f"spectraldiff {__version__}"}
    if spec.classes is not None:
        tags["CLASS_NAMES"] = json.dumps(category_names(spec.classes), ensure_ascii=False)
    _add_metadata(root, tags)
    for band, name in enumerate(spec.names, start=1):
        _add_band(root, spec, band, name, raw)
    factors = overview_factors(spec.height, spec.width, blocksize)
    if factors:
        _add(root, "OverviewList", " ".join(map(str, factors)), resampling=spec.overviews.name)
    return ElementTree.tostring(root, encoding="unicode")


def _add(parent: ElementTree.Element, tag: str, text: object = None, **attributes: object) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag, {key: str(value) for key, value in attributes.items()})
    child.text = None if text is None else str(text)
    return child


def _add_place(root: ElementTree.Element, place: Georeference) -> None:
    if place.crs is not None:
        _add(root, "SRS", _wkt(place.crs))
    if place.transform is not None:
        _add(root, "GeoTransform", ", ".join(repr(float(number)) for number in place.transform.to_gdal()))
    elif place.gcps:  # a GeoTIFF holds one or the other
        points = _add(root, "GCPList", Projection="" if place.gcps_crs is None else _wkt(place.gcps_crs))
        for number, point in enumerate(place.gcps, start=1):
            _add(
                points, "GCP", Id=number, Info="", Pixel=repr(float(point.col)), Line=repr(float(point.row)),
                X=repr(float(point.x)), Y=repr(float(point.y)), Z=repr(float(point.z or 0)),
            )  # fmt: skip
    if place.rpcs is not None:
        _add_metadata(root, place.rpcs.to_gdal(), domain="RPC")


def _wkt(crs: Any) -> str:
    return str(rasterio.crs.CRS.from_user_input(crs).to_wkt(version="WKT2_2019"))


def _add_metadata(root: ElementTree.Element, tags: Mapping[str, str], **domain: str) -> None:
    items = _add(root, "Metadata", **domain)
    for key, value in tags.items():
        _add(items, "MDI", value, key=key)


def _add_band(root: ElementTree.Element, spec: RasterSpec, number: int, name: str, raw: Path) -> None:
    size = np.dtype(spec.dtype).itemsize
    kind = {"dataType": GDAL_TYPES[spec.dtype], "band": number, "subClass": "VRTRawRasterBand"}
    band = _add(root, "VRTRasterBand", **kind)
    _add(band, "Description", name)
    if spec.nodata is not None:
        _add(band, "NoDataValue", f"{spec.nodata:g}")
    if spec.classes is not None:
        _add_colours(band, spec.classes)
    _add(band, "SourceFilename", raw.absolute(), relativeToVRT=0)
    _add(band, "ImageOffset", (number - 1) * spec.height * spec.width * size)
    _add(band, "PixelOffset", size)
    _add(band, "LineOffset", spec.width * size)
    _add(band, "ByteOrder", "LSB" if sys.byteorder == "little" else "MSB")


def _add_colours(band: ElementTree.Element, classes: Sequence[LandCoverClass]) -> None:
    _add(band, "ColorInterp", "Palette")
    table, colours = _add(band, "ColorTable"), colour_table(classes)
    for value in range(max(colours) + 1):
        red, green, blue, opacity = colours.get(value, (0, 0, 0, 255))
        _add(table, "Entry", c1=red, c2=green, c3=blue, c4=opacity)


def overview_factors(height: int, width: int, blocksize: int) -> list[int]:
    """Return by how much each overview is smaller, down to one that fits a tile or has one row or column."""
    levels = math.ceil(math.log2(max(1.0, max(height, width) / blocksize)))
    return [2**level for level in range(1, levels + 1) if 2**level <= min(height, width)]
