"""What a scene is known by, under whatever name it lies: its size and some of its pixels."""

import hashlib
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.scene.protocol import Scene

ALONG = 4  # rows, and columns, whose pixels the mark is made of


def scene_mark(height: int, width: int, pixel: Callable[[int, int], NDArray[Any]]) -> str:
    """Return what a scene is known by.

    Parameters
    ----------
    height, width
        Of the scene.
    pixel
        Returns the values of the pixel in a row and a column, (B,).
    """
    digest = hashlib.sha256(f"{height} x {width}".encode())
    rows, columns = ([(2 * i + 1) * size // (2 * ALONG) for i in range(ALONG)] for size in (height, width))
    for row, column in product(rows, columns):
        digest.update(np.ascontiguousarray(pixel(row, column), np.float64).tobytes())
    return digest.hexdigest()[:32]


def mark_of(scene: Scene) -> str:
    """Return the mark of an open scene, by its bands in use."""
    return scene_mark(scene.height, scene.width, lambda r, c: scene.read(r, r + 1, c, c + 1)[:, 0, 0])
