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
        chosen, grid = scene.select(bands), getattr(scene, "grid", None)
        step = 1 if grid is not None else max(1, -(-max(scene.height, scene.width) // LARGEST))
        values, known = _read_thinned(chosen, step)
    if grid is not None:
        values, known = _on_map(grid, values, known)
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


def _read_thinned(scene: Any, step: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return every step-th pixel of a scene, (h, w, B), and where there is data; read by rows of blocks."""
    blocks = scene.blocks[0]
    rows = max(AT_ONCE // (len(scene.bands) * scene.width * blocks), 1) * blocks
    values, known = [], []
    for row in range(0, scene.height, rows):
        where = row, min(row + rows, scene.height), 0, scene.width
        first = -row % step
        part = scene.read(*where)[:, first::step, ::step]
        mask = scene.mask(*where)
        good = np.isfinite(part).all(axis=0)
        for band, nodata in zip(part, nodata_of_each(scene.nodata, len(part)), strict=True):
            good &= True if nodata is None else band != nodata
        values.append(part.transpose(1, 2, 0).copy())
        known.append(good if mask is None else good & mask[first::step, ::step])
    return np.concatenate(values), np.concatenate(known)


def _on_map(grid: LookupGrid, values: NDArray[Any], known: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the pixels of a scene in sensor geometry where they lie on the map, thinned out."""
    step = max(1, -(-max(grid.height, grid.width) // LARGEST))
    rows, columns = grid.rows[::step, ::step], grid.columns[::step, ::step]
    return values[rows, columns], known[rows, columns] & (rows >= 0)
