"""A labelled scene as a GeoTIFF."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.io import MemoryFile

from spectraldiff_runtime.atomic import PartialFile, output_error
from spectraldiff_runtime.gdal import quiet_gdal
from spectraldiff_runtime.geo.georeference import Georeference

if TYPE_CHECKING:
    from spectraldiff.data.scene import LabelledScene

# Side of the tiles of a written scene; all bands of a tile are stored together, because mapping reads them together.
TILE = 64


class CubeOutput(PartialFile):
    """The GeoTIFF of a scene's cube. GDAL writes to memory, not to the file, because it reports a full disk late."""

    def __init__(self, scene: "LabelledScene", path: Path, overwrite: bool) -> None:
        super().__init__(path, overwrite)
        self._scene = scene

    def finish(self) -> None:
        """Write the complete file under its temporary name."""
        try:
            self.partial.write_bytes(_encoded(self._scene))
        except OSError as error:
            raise output_error(self.path, error) from error


def scene_tags(scene: "LabelledScene") -> dict[str, str]:
    """Return the tags of a scene's files."""
    tags = {"SCENE": scene.name, "SENSOR": scene.sensor, "ATTRIBUTION": scene.attribution, "NOTE": scene.note}
    return {key: text for key, text in tags.items() if text}


def _encoded(scene: "LabelledScene") -> bytes:
    """Return the bytes of the GeoTIFF."""
    with quiet_gdal(), MemoryFile() as memory:
        with memory.open(**_profile(scene)) as dataset:
            _describe(scene, dataset)
            dataset.write(np.asarray(scene.cube).transpose(2, 0, 1))
        return bytes(memory.read())


def _profile(scene: "LabelledScene") -> dict[str, Any]:
    height, width, bands = scene.cube.shape
    place = Georeference.of(scene.crs, scene.transform)
    return {
        "driver": "GTiff", "height": height, "width": width, "count": bands, "dtype": scene.cube.dtype,
        "crs": place.crs, "transform": place.transform, "nodata": scene.nodata,
        "tiled": True, "blockxsize": TILE, "blockysize": TILE, "interleave": "pixel",
        "compress": "deflate", "predictor": 3 if scene.cube.dtype.kind == "f" else 2,
        "bigtiff": "if_safer", "photometric": "minisblack", "alpha": "unspecified",
    }  # fmt: skip


def _describe(scene: "LabelledScene", dataset: Any) -> None:
    """Write names, attribution and wavelengths to an open raster."""
    dataset.update_tags(**scene_tags(scene))
    for band, wavelength in enumerate([] if scene.wavelengths is None else scene.wavelengths, start=1):
        dataset.set_band_description(band, f"{wavelength:.1f} nm")
        dataset.update_tags(band, wavelength=f"{wavelength:.10g}", wavelength_units="nm")
        dataset.update_tags(band, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=f"{wavelength / 1000:.10g}")
