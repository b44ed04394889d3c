"""EnMAP L1C and L2A: a GeoTIFF of the spectra with a metadata file next to it."""

import re
from pathlib import PurePosixPath

import numpy as np

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.products.clouds import CloudLayer
from spectraldiff_runtime.products.delivery import Delivery
from spectraldiff_runtime.products.metadata_xml import Metadata
from spectraldiff_runtime.products.product import RasterProduct
from spectraldiff_runtime.scene.band_metadata import BandFacts

METADATA = r"ENMAP.*-METADATA\.XML"
IMAGES = r"-SPECTRAL_IMAGE(_COG)?\.(TIF|TIFF|VRT|BSQ|BIL|BIP|JP2)"
# Quicklooks and quality layers are rasters of their own.
FILES = r"(ENMAP.*?)-(METADATA\.XML|SPECTRAL_IMAGE(_COG)?\..*)"
# What the values of the levels that have a place on a map are.
LEVELS = {"L1C": "radiance", "L2A": "surface reflectance"}
# What the metadata give as the mean of a band that holds nothing.
EMPTY_MEAN, NODATA = -1_000_000.0, -32768.0


def recognise(delivery: Delivery) -> list[RasterProduct]:
    """Return the EnMAP products of a delivery."""
    return [_product(delivery, name) for name in delivery.heads(METADATA, FILES)]


def _product(delivery: Delivery, name: str) -> RasterProduct:
    metadata = Metadata(delivery.read(name), name)
    level = _level(name, metadata)
    if level not in LEVELS:
        raise SceneError(
            f"'{name}' is of an EnMAP product of level {level or 'unknown'}, which has no place on a map: wanted L1C "
            "or L2A of the scene"
        )
    stem = re.escape(PurePosixPath(name).name[: -len("-METADATA.XML")])
    images = delivery.matching(stem + IMAGES)
    if delivery.chosen in images:
        images = [delivery.chosen]
    if not images:
        raise SceneError(
            f"'{delivery.root}' has the EnMAP metadata '{name}' and no spectra: wanted {PurePosixPath(name).name[:-13]}"
            "-SPECTRAL_IMAGE.TIF next to them"
        )
    return RasterProduct(
        "EnMAP",
        level,
        metadata.text("base/temporalCoverage/startTime"),
        delivery.gdal_name(images[0]),
        LEVELS[level],
        metadata.optional_number("specific/qualityFlag/cloudCover"),
        _bands(delivery, name, metadata),
        cloud_layers=_clouds(delivery, stem),
        physical=level != "L2A",  # gains of radiance belong to each scene
    )


def _clouds(delivery: Delivery, stem: str) -> tuple[CloudLayer, ...]:
    """Return the masks of clouds (1) and of cirrus (1 thin, 2 medium, 3 thick); 255 lies outside of the scene."""
    layers = []
    for kind, values in (("CLOUD", (1,)), ("CIRRUS", (1, 2, 3))):
        found = delivery.matching(rf"{stem}-QL_QUALITY_{kind}(_COG)?\.(TIF|TIFF|VRT|BSQ|BIL|BIP|JP2)")
        layers += [CloudLayer(delivery.gdal_name(name), values, delivery.local(name)) for name in found[:1]]
    return tuple(layers)


def _level(name: str, metadata: Metadata) -> str:
    named = re.search(r"ENMAP\d*-_*(L\d[A-C])", name, re.IGNORECASE)
    return named[1].upper() if named else metadata.text("base/level").upper()


def _bands(delivery: Delivery, name: str, metadata: Metadata) -> BandFacts:
    bands = metadata.bands("specific/bandCharacterisation/bandID", "number")
    return BandFacts(
        metadata.values(bands, "wavelengthCenterOfBand"),
        metadata.values(bands, "FWHMOfBand"),
        metadata.values(bands, "GainOfBand", 1.0),
        metadata.values(bands, "OffsetOfBand", 0.0),
        _without_data(metadata, len(bands)),
        NODATA,
        (delivery.local(name),),
    )


def _without_data(metadata: Metadata, count: int) -> dict[int, str]:
    """Return the bands that the statistics call empty."""
    statistics = metadata.root.findall("product/bandStatistics/bandID")
    if len(statistics) != count:
        return {}
    bands = metadata.bands("product/bandStatistics/bandID", "number")
    means, deviations = metadata.values(bands, "mean", 0.0), metadata.values(bands, "stdDeviation", 1.0)
    empty = (means == EMPTY_MEAN) & (deviations == 0)
    return {int(i) + 1: "without data" for i in np.flatnonzero(empty)}
