"""What a recognised product is: its facts, and how it is opened as a scene."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectraldiff_runtime.products.hdf5_scene import Hdf5Layout, Hdf5Scene
from spectraldiff_runtime.scene.band_metadata import BandFacts
from spectraldiff_runtime.scene.nodata import NODATA_OF_FILE, Nodata
from spectraldiff_runtime.scene.protocol import BandChoice
from spectraldiff_runtime.scene.raster import RasterScene


@dataclass(frozen=True)
class Product(ABC):
    """A product as delivered.

    Attributes
    ----------
    sensor, level
        ``"EnMAP"`` and ``"L2A"``.
    date
        When it was acquired, as the product writes it; empty where it does not say.
    image
        The file with the spectra, or GDAL's name for it inside a zip.
    quantity
        What physical values are: ``"surface reflectance"``, ``"radiance"``.
    clouds
        Percent of the scene under clouds, where the product says.
    """

    sensor: str
    level: str
    date: str
    image: str
    quantity: str
    clouds: float | None

    @abstractmethod
    def open(self, bands: BandChoice = None, nodata: Nodata = NODATA_OF_FILE, *, scaled: bool = False) -> Any:
        """Open it as a scene, a context manager; the parameters are those of `RasterScene`."""


@dataclass(frozen=True)
class RasterProduct(Product):
    """A product whose spectra lie in a raster that GDAL reads.

    Attributes
    ----------
    facts
        What the product's metadata say of its bands; None where the raster itself says all.
    physical
        Whether values are always scaled, because each scene has a scale of its own.
    """

    facts: BandFacts | None = None
    physical: bool = False

    def open(self, bands: BandChoice = None, nodata: Nodata = NODATA_OF_FILE, *, scaled: bool = False) -> RasterScene:
        """Open the raster with what the metadata say."""
        path: str | Path = self.image
        scene = RasterScene(path, bands, nodata, scaled=scaled or self.physical, facts=self.facts)
        scene.sensor = self.sensor
        return scene


@dataclass(frozen=True)
class Hdf5Product(Product):
    """A product in an HDF5 or netCDF-4 file."""

    layout: Hdf5Layout

    def open(self, bands: BandChoice = None, nodata: Nodata = NODATA_OF_FILE, *, scaled: bool = False) -> Hdf5Scene:
        """Open the file's spectra."""
        return Hdf5Scene(self.image, self.layout, bands, nodata, scaled=scaled, sensor=self.sensor)
