"""Patches of a class map as polygons, whatever the tiles."""

import numpy as np
import pytest
import shapely
from rasterio import features

from spectraldiff_runtime.formats.patches import SIDE, patches_of


def collected(classes, confidence, side):
    """Return class, pixels, mean confidence and polygon of each patch, sorted, and the pixels of all tiles."""
    parts, tiles = [], []

    def read(window):
        part = slice(window.row0, window.row1), slice(window.col0, window.col1)
        return classes[part], confidence[part]

    for found in patches_of(read, *classes.shape, tiles.append, side):
        parts += zip(found.classes, found.pixels, found.confidence, found.polygons, strict=True)
    return sorted((int(v), int(n), round(float(m), 6), shapely.normalize(p).wkt) for v, n, m, p in parts), sum(tiles)


def reference(classes, confidence):
    """Return the same of GDAL's polygons of the whole map; the pixels are those whose centres lie in a polygon."""
    patches = []
    for shape, value in features.shapes(classes, mask=classes > 0, connectivity=4):
        inside = features.rasterize([shape], classes.shape).astype(bool)
        polygon = shapely.normalize(shapely.Polygon(shape["coordinates"][0], shape["coordinates"][1:]))
        patches.append(
            (int(value), int(inside.sum()), round(float(confidence[inside].mean(dtype=np.float64)), 6), polygon.wkt)
        )
    return sorted(patches)


@pytest.mark.parametrize("side", [3, 7, 16, SIDE])
@pytest.mark.parametrize("grain", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_patches_are_those_of_the_whole_map(side, grain, dtype):
    rng = np.random.default_rng(grain)
    classes = rng.integers(0, 3, (15 // grain, 20)).astype(dtype).repeat(grain, axis=0).repeat(grain, axis=1)
    confidence = rng.random(classes.shape).astype(np.float32)
    found, pixels = collected(classes, confidence, side)
    assert found == reference(classes, confidence)
    assert pixels == classes.size
    shapes = [shapely.from_wkt(wkt) for *_, wkt in found]
    assert all(shapely.is_valid(shapes))
    assert [shape.area for shape in shapes] == [n for _, n, _, _ in found]


def spiral(side):
    """Return a map in which one class winds from the rim to the middle, and another beside it."""
    classes = np.ones((side, side), np.uint8)
    row, col, step, length = 0, 0, (0, 1), side - 1
    while length > 0:
        for _ in range(2):
            for _ in range(length):
                classes[row, col] = 2
                row, col = row + step[0], col + step[1]
            step = step[1], -step[0]
        length -= 2 if length < side - 1 else 1
    return classes


@pytest.mark.parametrize("side", [4, 8])
def test_patches_that_wind_through_many_tiles(side):
    classes = spiral(41)
    confidence = np.ones(classes.shape, np.float32)
    assert collected(classes, confidence, side)[0] == reference(classes, confidence)


@pytest.mark.parametrize("value", [0, 5])
def test_maps_of_one_value(value):
    classes = np.full((30, 50), value, np.uint8)
    found, _ = collected(classes, np.full(classes.shape, 0.25, np.float32), 16)
    square = shapely.normalize(shapely.box(0, 0, 50, 30)).wkt
    assert found == ([(5, 1500, 0.25, square)] if value else [])
