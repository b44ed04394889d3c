"""A scene's place, and transforms that are easy to get wrong."""

import math

import numpy as np
import rasterio
from rasterio.warp import transform as reproject

from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.window import Window

HEIGHT, WIDTH = 29, 37
UTM = rasterio.Affine(20.0, 0.0, 480_000.0, 0.0, -20.0, 4_470_000.0)
PLACE = Georeference("EPSG:32616", UTM)
PIXELS = Georeference(None, rasterio.Affine(1, 0, 0, 0, 1, 0))
TRANSFORMS = {
    "utm": UTM,
    "tenths": rasterio.Affine(0.1, 0, -180, 0, -0.1, 90),
    "thirds": rasterio.Affine(1 / 3, 0, -123.4, 0, -1 / 3, 45.6),
    "arc second": rasterio.Affine(1 / 3600, 0, 11.1, 0, -1 / 3600, 48.3),
    "south up": rasterio.Affine(0.3, 0, 691_234.7, 0, 0.3, 5_334_567.9),
    "east to west": rasterio.Affine(-0.7, 0, 100.1, 0, -0.7, 10.3),
    "a quarter turn": rasterio.Affine(0, 0.1, 10, 0.1, 0, 50),
}


def at(transform, x, y):
    """Return where a place in pixel coordinates is on the map."""
    return transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f


def turned(transform, degrees):
    """Turn a transform around the scene's first corner."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    a, b, c, d, e, f = transform[:6]
    return rasterio.Affine(a * cos + b * sin, b * cos - a * sin, c, d * cos + e * sin, e * cos - d * sin, f)


def random_window(rng, height=HEIGHT, width=WIDTH):
    row0, col0 = int(rng.integers(height)), int(rng.integers(width))
    return Window(row0, int(rng.integers(row0, height)) + 1, col0, int(rng.integers(col0, width)) + 1)


def centres_in(place, height, width, crs):
    """Return where the centres of all pixels lie in another CRS, as two arrays (H, W)."""
    rows, cols = np.mgrid[:height, :width] + 0.5
    xs, ys = at(place.transform, cols.ravel(), rows.ravel())
    there = reproject(place.crs, crs, xs.tolist(), ys.tolist())
    return np.reshape(there[0], (height, width)), np.reshape(there[1], (height, width))
