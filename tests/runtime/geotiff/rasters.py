"""Values, classes and a place to make rasters of."""

import numpy as np

from spectraldiff_runtime.classes import LandCoverClass, palette
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.geotiff.encode import encode
from spectraldiff_runtime.geotiff.spec import Format

PLACE = Georeference.of("EPSG:32616", (20, 0, 480_000, 0, -20, 4_470_000))
TAGS = {"SPECTRALDIFF_MODEL": "tiny", "NOTE": 'a <b> & "ä"\nnext line'}
CLASSES = [LandCoverClass(v, f"Klasse <{v}> & ä", c) for v, c in enumerate(palette(9), start=1)]
FORMATS = [Format("COG"), Format("GTiff"), Format("COG", 128), Format("GTiff", 48)]


def patches(height=700, width=900, highest=9):
    """Classes in patches with noise, (H, W), some pixels unclassified."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, highest + 1, (height // 20 + 1, width // 20 + 1))
    values = coarse.repeat(20, axis=0).repeat(20, axis=1)[:height, :width]
    noise = rng.random(values.shape) < 0.05
    values[noise] = rng.integers(0, highest + 1, noise.sum())
    return values.astype(np.uint8 if highest < 255 else np.uint16)


def encoded(folder, values, spec, form=FORMATS[0], name="map.tif"):
    """Encode values, (H, W) or (count, H, W), and return the path of the raster."""
    raw, target = folder / f"{name}.raw", folder / name
    raw.write_bytes(values.tobytes())
    encode(raw, target, target, spec, form)
    raw.unlink()
    return target
