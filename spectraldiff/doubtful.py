"""Values of a scene that are probably not measurements: missing pixels that nobody declared, and lone extremes.

Bands are scaled by their smallest and largest value, so one pixel of -9999 among reflectances leaves a model nothing to
tell the others by.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff.scene import Scene
from spectraldiff.wording import counted
from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.metadata import read_scaling
from spectraldiff_runtime.opening import open_dataset

SAMPLE = 20_000  # pixels that are enough for quantiles
USUAL = (0.01, 0.99)
FAR = 20.0  # times the usual range


def value_doubts(scene: Scene) -> tuple[str, ...]:
    """Say what is doubtful in the values of a scene's pixels with data, one line each.

    Raises
    ------
    SceneError
        All pixels are the same.
    """
    pixels = scene.cube[scene.valid]  # (n, B)
    if (pixels == pixels[0]).all():
        raise SceneError(
            f"the scene '{scene.name}' has the same values in all pixels that have data ({len(pixels):,}): "
            "wanted a scene with something to tell apart; see `sdiff info`"
        )
    lines, flat = [], np.zeros(len(pixels), np.bool_)
    if pixels.shape[1] > 2:
        for value in (pixels.min(), pixels.max()):
            same = (pixels == value).all(axis=1)
            if same.any():
                flat |= same
                lines.append(f"{_pixels(same)} {value:g} in every band: if it means no data, give --nodata {value:g}")
    return (*lines, *_far(pixels[~flat]))


def scale_doubts(path: str | Path) -> tuple[str, ...]:
    """Say in one line that a raster whose scaled values are wanted has no scale; nothing where it has.

    Raises
    ------
    SceneError
        The raster cannot be opened.
    """
    with open_dataset(path) as dataset:
        scales, offsets = read_scaling(dataset)
    if not (scales == 1).all() or not (offsets == 0).all():
        return ()
    return (
        f"'{path}' has neither scale nor offset, so --scaled leaves its values as they are: leave it out, or give the "
        "file a scale (gdal_edit.py -scale) if its values are not physical",
    )


def _far(pixels: NDArray[Any]) -> list[str]:
    """Name a value that is far from what is usual in its band."""
    if not len(pixels):
        return []
    low, high = np.quantile(pixels[:: -(-len(pixels) // SAMPLE)], USUAL, axis=0)  # (B,) each
    span = np.where(high > low, FAR * (high - low), np.inf)
    far = (pixels < low - span) | (pixels > high + span)
    if not far.any():
        return []
    pixel, band = np.argwhere(far)[0]
    value, alone, usual = pixels[pixel, band], far.any(axis=1), f"{low[band]:g} to {high[band]:g}"
    return [
        f"{_pixels(alone)} values far from all others, such as {value:g} in band {band + 1} (usual are {usual}): "
        f"bands are scaled by their extremes, so mend them or, if it means no data, give --nodata {value:g}"
    ]


def _pixels(where: NDArray[np.bool_]) -> str:
    return counted(int(where.sum()), "pixel has", "pixels have")
