"""The pixels of a scene that stays on disk: read by window, each part of the file at most once for windows near by."""

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff.data.canvas import LARGE
from spectraldiff_runtime.window import Window

# Bytes of a scene that is read whole, of all that are in one training, and of what is read, and kept, around a window
# of a larger one; how many scenes keep such parts at a time.
HELD, HELD_TOGETHER, KEPT, KEEPING = 128 * 2**20, 512 * 2**20, 32 * 2**20, 4
PART = 32 * 2**20  # bytes that a pass over a scene reads at once


@dataclass
class Room:
    """What the scenes of one training, which are read in turn, may take, and what each must have.

    Attributes
    ----------
    held
        Bytes of scenes that are read whole.
    mapped
        Pixels of scenes that are mapped whole in reports, and whose labels are arrays of all of them. Scenes of more
        than `LARGE` pixels never are, and take none.
    least
        The fewest classes that a scene may have. With 0 no label needs to lie on it, and it may have no file of labels.
    """

    held: int = HELD_TOGETHER
    mapped: int = LARGE
    least: int = 2

    def holds(self, size: int) -> bool:
        """Take room for a scene of so many bytes; whether there is some."""
        fits = size <= min(HELD, self.held)
        self.held -= size if fits else 0
        return fits

    def maps(self, pixels: int) -> bool:
        """Take room for a scene of so many pixels; whether there is some, or it needs none."""
        if pixels > LARGE:
            return True
        fits = pixels <= self.mapped
        self.mapped -= pixels if fits else 0
        return fits


class SceneCube:
    """A scene's pixels, (H, W, B), raw units, which stay on disk; threads may share it.

    Parameters
    ----------
    open_scene
        Opens the scene: a context manager of the runtime's `Scene`, which stays open.

    Attributes
    ----------
    shape, dtype
        (H, W, B), and the type of the values.
    blocks
        Height and width of the blocks that it is stored in.
    """

    ndim = 3

    def __init__(self, open_scene: Callable[[], Any]) -> None:
        self._scene, self._open, self._lock = open_scene(), open_scene, threading.Lock()
        self.shape = self._scene.height, self._scene.width, len(self._scene.bands)
        self.dtype: np.dtype[Any] = self._scene.dtype
        self.blocks: tuple[int, int] = self._scene.blocks
        self._where = Window(0, 0, 0, 0)
        self._values: NDArray[Any] = np.empty((0, 0, 0), self.dtype)
        self._missing: NDArray[np.bool_] | None = None
        self.passed: Any = None  # what the one pass over the scene found, see `spectraldiff.data.statistics`

    def __reduce__(self) -> tuple[Any, ...]:
        return SceneCube, (self._open,), {"passed": self.passed}  # another process opens it anew

    @property
    def pixel(self) -> int:
        """Bytes of a pixel."""
        return self.shape[2] * self.dtype.itemsize

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return the values of a window, (h, w, B), and which pixels are missing by a mask, (h, w); None for none.

        Raises
        ------
        SceneError
            The file is damaged there, or cannot be reached any more.
        """
        with self._lock:
            if not _within(window, self._where):
                self._load(self._around(window))
            rows, columns = _slices(window, self._where)
            values, missing = self._values[rows, columns], self._missing
            missing = None if missing is None else missing[rows, columns]
            if window == self._where:
                return values, missing
            return values.copy(), None if missing is None else missing.copy()  # or what is around them would be held

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the whole cube: for scenes that memory holds."""
        height, width, _ = self.shape
        return np.asarray(self.read(Window(0, height, 0, width))[0], dtype)

    def parts(self) -> list[Window]:
        """Return windows of whole blocks that cover the scene, row by row, each of about `PART` bytes."""
        (height, width, _), (rows, columns) = self.shape, self.blocks
        down = min(rows, height)
        across = max(1, PART // (down * self.pixel) // columns) * columns
        if across >= width:
            across, down = width, max(1, PART // (width * self.pixel) // down) * down
        return [
            Window(r, min(r + down, height), c, min(c + across, width))
            for r in range(0, height, down)
            for c in range(0, width, across)
        ]

    def _around(self, window: Window) -> Window:
        """Return the whole blocks that a window touches, or the window where these are too large to be kept."""
        (height, width, _), (rows, columns) = self.shape, self.blocks
        row0, col0 = window.row0 // rows * rows, window.col0 // columns * columns
        row1, col1 = min(-(-window.row1 // rows) * rows, height), min(-(-window.col1 // columns) * columns, width)
        return Window(row0, row1, col0, col1) if (row1 - row0) * (col1 - col0) * self.pixel <= KEPT else window

    def _load(self, window: Window) -> None:
        self._where = Window(0, 0, 0, 0)
        edges = window.row0, window.row1, window.col0, window.col1
        values = np.empty((window.height, window.width, self.shape[2]), self.dtype)
        self._scene.read(*edges, out=values.transpose(2, 0, 1))
        self._missing = missing_pixels(self._scene, values, window)
        self._values, self._where = values, window
        _keep(self)

    def forget(self) -> None:
        """Keep nothing of what was read last."""
        if self._lock.acquire(blocking=False):  # else another thread reads it just now
            self._values, self._missing = np.empty((0, 0, 0), self.dtype), None
            self._where = Window(0, 0, 0, 0)
            self._lock.release()


_keepers: list["weakref.ref[SceneCube]"] = []
_keepers_lock = threading.Lock()


def _keep(cube: SceneCube) -> None:
    """Let a scene keep what it has read; of the others, all but the last ones forget what they keep."""
    with _keepers_lock:
        others = [one for one in _keepers if one() not in (None, cube)]
        _keepers[:] = [*others[1 - KEEPING :], weakref.ref(cube)]
    for past in others[: 1 - KEEPING]:
        found = past()
        if found is not None:
            found.forget()


def missing_pixels(scene: Any, values: NDArray[Any], window: Window) -> NDArray[np.bool_] | None:
    """Return the pixels of a window, (h, w), that one nodata value does not mark in its values; None for none."""
    known = scene.mask(window.row0, window.row1, window.col0, window.col1)
    missing = np.zeros(values.shape[:2], np.bool_) if known is None else ~known
    if isinstance(scene.nodata, tuple):
        for band, value in enumerate(scene.nodata):
            if value is not None:
                missing |= values[..., band] == value
    return missing if missing.any() else None


def _within(inner: Window, outer: Window) -> bool:
    rows = outer.row0 <= inner.row0 and inner.row1 <= outer.row1
    return rows and outer.col0 <= inner.col0 and inner.col1 <= outer.col1


def _slices(window: Window, where: Window) -> tuple[slice, slice]:
    rows = slice(window.row0 - where.row0, window.row1 - where.row0)
    return rows, slice(window.col0 - where.col0, window.col1 - where.col0)
