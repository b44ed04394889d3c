"""A true-colour picture of a scene, by the wavelengths of its bands."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spectraldiff.report.false_colour import RGB_NM, false_colour, rgb_bands
from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.products.recognise import open_scene
from spectraldiff_runtime.scene.lookup_grid import LookupGrid
from spectraldiff_runtime.scene.nodata import nodata_of_each

# Pixels of the longer side: larger scenes are thinned out, smaller ones enlarged by a whole factor.
LARGEST, SMALLEST = 1600, 480
# A band farther than this from red, green or blue, in nm, does not stand for it.
FARTHEST = 40.0
# Values that are read at once.
AT_ONCE = 1 << 23


@dataclass(frozen=True)
class TrueColour:
    """A picture of a scene, with the numbers of the bands that are red, green and blue, and their centres in nm."""

    image: Image.Image
    bands: tuple[int, ...]
    centres: tuple[float, ...]


def true_colour(path: str | Path) -> TrueColour:
    """Draw a scene in true colours: the bands nearest to 640, 550 and 460 nm.

    Each is stretched from its 2nd to its 98th percentile; pixels without data are white. A scene in sensor geometry is
    drawn where it lies on a map.

    Parameters
    ----------
    path
        A product as delivered, or a raster with wavelengths.

    Raises
    ------
    SceneError
        It cannot be read, its wavelengths are not known, or they do not cover the visible.
    """
    with open_scene(path) as scene:
        at = _visible(str(path), scene.wavelengths)
        bands = tuple(scene.bands[i] for i in at)
        centres = tuple(float(scene.wavelengths[i]) for i in at)
        height, width = map_size(scene)
        rows, columns = on_map(scene, 0, 0, height, width, max(1, -(-max(height, width) // LARGEST)))
        values, known = read_pixels(scene.select(bands), rows, columns)
    drawn = false_colour(values, np.array(centres), valid=known)
    factor = max(1, SMALLEST // max(drawn.shape[:2]))
    return TrueColour(Image.fromarray(drawn.repeat(factor, axis=0).repeat(factor, axis=1)), bands, centres)


def _visible(name: str, wavelengths: NDArray[np.float64] | None) -> tuple[int, int, int]:
    if wavelengths is None:
        raise SceneError(f"'{name}' has no wavelengths: a true-colour picture needs them; see docs/inputs.md")
    at = rgb_bands(len(wavelengths), wavelengths)
    if any(abs(wavelengths[i] - nm) > FARTHEST for i, nm in zip(at, RGB_NM, strict=True)):
        low, high = wavelengths.min(), wavelengths.max()
        raise SceneError(
            f"'{name}' has bands from {low:.0f} to {high:.0f} nm and none for red, green and blue: a true-colour "
            "picture needs the visible"
        )
    return at


def map_size(scene: Any) -> tuple[int, int]:
    """Return the height and width of a scene's map, which those of a scene in sensor geometry are not."""
    grid: LookupGrid | None = getattr(scene, "grid", None)
    return (scene.height, scene.width) if grid is None else (grid.height, grid.width)


def on_map(
    scene: Any, row0: int, col0: int, height: int, width: int, step: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return which pixels of a scene lie on every step-th pixel of a window of its map.

    Returns
    -------
    rows, columns
        (h, w) from 0; -1 where the scene has no pixel.
    """
    rows, columns = np.meshgrid(
        np.arange(row0, row0 + height, step), np.arange(col0, col0 + width, step), indexing="ij"
    )
    grid: LookupGrid | None = getattr(scene, "grid", None)
    if grid is None:
        return rows, columns
    return grid.rows[rows, columns].astype(np.intp), grid.columns[rows, columns].astype(np.intp)


def read_pixels(
    scene: Any, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the values of some pixels of a scene, (h, w, B), and where there is data; read by rows of blocks.

    Parameters
    ----------
    scene
        Open.
    rows, columns
        (h, w) from 0; -1 for no pixel.
    """
    values = np.zeros((*rows.shape, len(scene.bands)), scene.dtype)
    known = np.zeros(rows.shape, np.bool_)
    blocks = scene.blocks[0]
    deep = max(AT_ONCE // (len(scene.bands) * scene.width * blocks), 1) * blocks
    for row in range(0, scene.height, deep):
        end = min(row + deep, scene.height)
        there = (rows >= row) & (rows < end)
        if not there.any():
            continue
        part, mask = scene.read(row, end, 0, scene.width), scene.mask(row, end, 0, scene.width)
        at = rows[there] - row, columns[there]
        found = part[:, *at]
        good = np.isfinite(found).all(axis=0)
        for band, nodata in zip(found, nodata_of_each(scene.nodata, len(found)), strict=True):
            good &= True if nodata is None else band != nodata
        values[there], known[there] = found.T, good if mask is None else good & mask[at]
    return values, known
