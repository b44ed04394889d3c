"""Pictures of hyperspectral cubes: which bands stand for red, green and blue, and how they are stretched."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff.data.statistics import RGB_NM as RGB_NM
from spectraldiff.data.statistics import rgb_bands as rgb_bands


def false_colour(
    cube: NDArray[Any],
    wavelengths: NDArray[np.float64] | None,
    *,
    limits: NDArray[np.float64] | None = None,
    valid: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Return a picture of a cube in about natural colours.

    Parameters
    ----------
    cube
        (H, W, B), any unit.
    wavelengths
        (B,) nm, or None.
    limits
        (3, 2): the values drawn darkest and brightest in red, green and blue; `stretch_limits` of this
        cube by default.
    valid
        (H, W); other pixels, and those that are not finite, are white.

    Returns
    -------
    ndarray
        (H, W, 3) uint8.
    """
    picture, usable = _rgb_values(cube, wavelengths, valid)
    low, high = _limits_of(picture[usable]).T if limits is None else limits.T
    scaled = (picture - low) / np.where(high > low, high - low, 1.0)
    drawn = np.rint(np.clip(np.where(usable[..., None], scaled, 1.0), 0.0, 1.0) * 255)
    return np.asarray(drawn.astype(np.uint8))


def stretch_limits(
    cube: NDArray[Any], wavelengths: NDArray[np.float64] | None, valid: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Return the 2nd and 98th percentile of red, green and blue over valid pixels, (3, 2)."""
    picture, usable = _rgb_values(cube, wavelengths, valid)
    return _limits_of(picture[usable])


def _rgb_values(
    cube: NDArray[Any], wavelengths: NDArray[np.float64] | None, valid: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    picture = cube[..., list(rgb_bands(cube.shape[-1], wavelengths))].astype(np.float64)
    finite = np.isfinite(picture).all(axis=-1)
    return picture, np.asarray(finite if valid is None else finite & valid)


def _limits_of(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    if not len(pixels):
        return np.tile([0.0, 1.0], (3, 1))
    return np.asarray(np.percentile(pixels, (2, 98), axis=0).T)
