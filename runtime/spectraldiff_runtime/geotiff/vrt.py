"""The VRT that describes raw windows to GDAL."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio

from spectraldiff_runtime import __version__
from spectraldiff_runtime.classes import category_names
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.geotiff.attribute_table import PLACE, placeholder, table_item
from spectraldiff_runtime.geotiff.sidecar import add_colours
from spectraldiff_runtime.geotiff.spec import RasterSpec, overview_factors

GDAL_TYPES = {"uint8": "Byte", "uint16": "UInt16", "float32": "Float32"}


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
    add_place(root, spec.place)
    tags = {**spec.tags, "TIFFTAG_SOFTWARE": f"spectraldiff {__version__}"}
    if spec.classes is not None:
        tags["CLASS_NAMES"] = json.dumps(category_names(spec.classes), ensure_ascii=False)
        tags[PLACE] = placeholder(table_item(spec.classes))
    add_metadata(root, tags)
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


def add_place(root: ElementTree.Element, place: Georeference) -> None:
    """Add to GDAL's XML, of a VRT or a sidecar, where a raster lies."""
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
        add_metadata(root, place.rpcs.to_gdal(), domain="RPC")


def _wkt(crs: Any) -> str:
    return str(rasterio.crs.CRS.from_user_input(crs).to_wkt(version="WKT2_2019"))


def add_metadata(root: ElementTree.Element, tags: Mapping[str, str], **domain: str) -> None:
    """Add tags to GDAL's XML."""
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
        _add(band, "ColorInterp", "Palette")
        add_colours(band, spec.classes)
    _add(band, "SourceFilename", raw.absolute(), relativeToVRT=0)
    _add(band, "ImageOffset", (number - 1) * spec.height * spec.width * size)
    _add(band, "PixelOffset", size)
    _add(band, "LineOffset", spec.width * size)
    _add(band, "ByteOrder", "LSB" if sys.byteorder == "little" else "MSB")
