"""DESIS L1C and L2A: a GeoTIFF of the spectra with a metadata file next to it."""

import re
from pathlib import PurePosixPath

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.products.clouds import CloudLayer
from spectraldiff_runtime.products.delivery import Delivery
from spectraldiff_runtime.products.metadata_xml import Metadata, as_number
from spectraldiff_runtime.products.product import RasterProduct
from spectraldiff_runtime.scene.band_metadata import BandFacts

METADATA = r"DESIS.*-METADATA\.XML"
IMAGES = r"-SPECTRAL_IMAGE\.(TIF|TIFF|VRT|JP2)"
# Quicklooks and quality layers are rasters of their own.
FILES = r"(DESIS.*?)-(METADATA\.XML|SPECTRAL_IMAGE\..*)"
# What the values of the levels that have a place on a map are.
LEVELS = {"L1C": "radiance", "L2A": "surface reflectance"}
NODATA = -32768.0


def recognise(delivery: Delivery) -> list[RasterProduct]:
    """Return the DESIS products of a delivery."""
    return [_product(delivery, name) for name in delivery.heads(METADATA, FILES)]


def _product(delivery: Delivery, name: str) -> RasterProduct:
    metadata, short = Metadata(delivery.read(name), name), PurePosixPath(name).name
    level = _level(short, metadata)
    if level not in LEVELS:
        raise SceneError(
            f"'{short}' is of a DESIS product of level {level or 'unknown'}, which has no place on a map: wanted L1C "
            "or L2A of the scene"
        )
    stem = short[: -len("-METADATA.XML")]
    images = delivery.matching(re.escape(stem) + IMAGES)
    if delivery.chosen in images:
        images = [delivery.chosen]
    if not images:
        raise SceneError(
            f"'{delivery.root}' has the DESIS metadata '{short}' and no spectra: wanted {stem}-SPECTRAL_IMAGE.tif "
            "next to them"
        )
    return RasterProduct(
        "DESIS",
        level,
        metadata.anywhere("startTime"),
        delivery.gdal_name(images[0]),
        LEVELS[level],
        as_number(metadata.anywhere("cloudCoverage", "cloudCover")),
        _bands(delivery, name, metadata),
        cloud_layers=_clouds(delivery, stem),
        physical=level != "L2A",  # gains of radiance belong to each scene
    )


def _clouds(delivery: Delivery, stem: str) -> tuple[CloudLayer, ...]:
    """Return the mask, of whose bands the sixth marks clouds over land and the seventh clouds over water."""
    found = delivery.matching(re.escape(stem) + r"-QL_QUALITY-2\.(TIF|TIFF|VRT|JP2)")
    return tuple(CloudLayer(delivery.gdal_name(name), (1,), delivery.local(name), (6, 7)) for name in found[:1])


def _level(name: str, metadata: Metadata) -> str:
    named = re.search(r"DESIS-HSI-(L\d[A-C])", name, re.IGNORECASE)
    return named[1].upper() if named else metadata.anywhere("productType").upper()


def _bands(delivery: Delivery, name: str, metadata: Metadata) -> BandFacts:
    # An element `band` also stands under interiorOrientation.
    bands = metadata.bands(".//bandCharacterisation/band", "bandNumber")
    background = as_number(metadata.anywhere("backgroundValue"))
    return BandFacts(
        metadata.values(bands, "wavelengthCenterOfBand"),
        metadata.values(bands, "wavelengthWidthOfBand"),
        metadata.values(bands, "gainOfBand", 1.0),
        metadata.values(bands, "offsetOfBand", 0.0),
        {},
        NODATA if background is None else background,
        (delivery.local(name),),
    )
