"""What a recognised product is: its facts, and how it is opened as a scene."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from spectraldiff_runtime.errors import SceneError, UsageError
from spectraldiff_runtime.products.clouds import CloudLayer, read_clouds
from spectraldiff_runtime.products.hdf5_scene import Hdf5Layout, Hdf5Scene
from spectraldiff_runtime.scene.band_metadata import BandFacts
from spectraldiff_runtime.scene.clouds import DROP, KEEP, CloudChoice, Clouds
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
    cloud_layers
        The layers that mark clouds, pixel by pixel; empty where the product has none, or none was delivered.
    """

    sensor: str
    level: str
    date: str
    image: str
    quantity: str
    clouds: float | None
    cloud_layers: tuple[CloudLayer, ...] = field(default=(), kw_only=True)

    def open(
        self,
        bands: BandChoice = None,
        nodata: Nodata = NODATA_OF_FILE,
        *,
        scaled: bool = False,
        clouds: CloudChoice = KEEP,
    ) -> Any:
        """Open it as a scene, a context manager.

        The parameters are those of `RasterScene`; with clouds ``"drop"``, cloudy pixels count as without data.

        Raises
        ------
        SceneError
            As `RasterScene`; or clouds are to be left out and the cloud mask is damaged.
        UsageError
            Clouds are to be left out, and the product has no cloud mask.
        """
        scene = self._opened(bands, nodata, scaled)
        scene.quantity, scene.acquired = self.quantity, self.date
        try:
            self._mark_clouds(scene, clouds == DROP)
        except BaseException:
            scene.close()
            raise
        return scene

    @abstractmethod
    def _opened(self, bands: BandChoice, nodata: Nodata, scaled: bool) -> Any:
        """Open it without its cloud mask."""

    def _mark_clouds(self, scene: Any, drop: bool) -> None:
        if not self.cloud_layers:
            if drop:
                raise no_cloud_mask(f"'{scene.name}' ({self.sensor})")
            return
        shape = scene.height, scene.width
        try:
            cloudy = read_clouds(self.cloud_layers, shape)
        except SceneError as error:
            if drop:
                raise
            scene.warnings += (f"clouds are not counted: {error}",)
            return
        known = scene.mask(0, scene.height, 0, scene.width)
        files = tuple(dict.fromkeys(layer.local for layer in self.cloud_layers))
        scene.clouds = Clouds(cloudy if known is None else cloudy & known, drop, files)
        if drop:
            scene.files = tuple(dict.fromkeys([*scene.files, *files]))


def no_cloud_mask(what: str) -> UsageError:
    """Return the error of a scene without a cloud mask of which clouds are to be left out."""
    return UsageError(
        f"{what} has no cloud mask: wanted EnMAP, DESIS, EMIT or Tanager with the mask next to it; leave --clouds drop "
        "out, or name a raster of the wanted pixels as `sdiff map --mask`"
    )


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

    def _opened(self, bands: BandChoice, nodata: Nodata, scaled: bool) -> RasterScene:
        scene = RasterScene(self.image, bands, nodata, scaled=scaled or self.physical, facts=self.facts)
        scene.sensor = self.sensor
        return scene


@dataclass(frozen=True)
class Hdf5Product(Product):
    """A product in an HDF5 or netCDF-4 file."""

    layout: Hdf5Layout

    def _opened(self, bands: BandChoice, nodata: Nodata, scaled: bool) -> Hdf5Scene:
        return Hdf5Scene(self.image, self.layout, bands, nodata, scaled=scaled, sensor=self.sensor)
