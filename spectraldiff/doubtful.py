"""Values of a scene that are probably not measurements: missing pixels that nobody declared, and lone extremes.

Bands are scaled by their smallest and largest value, so one pixel of -9999 among reflectances leaves a model nothing to
tell the others by.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff.scene import Scene
from spectraldiff_runtime.errors import SceneError

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
            f"the scene '{scene.name}' has the same values in all {len(pixels):,} pixels that have data: "
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
    count = int(where.sum())
    return "1 pixel has" if count == 1 else f"{count:,} pixels have"
