"""Reads a scene strip by strip, each storage block once."""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.mapping.pipeline import StageStats
from spectraldiff_runtime.scene.array import ArrayScene
from spectraldiff_runtime.scene.protocol import Scene
from spectraldiff_runtime.tiling.plan import Strip
from spectraldiff_runtime.window import Window


@dataclass(frozen=True)
class ScenePart:
    """Pixels of a scene in memory.

    Attributes
    ----------
    data
        (B, h, w), the scene's type, any strides.
    origin
        Row and column of the first pixel in the scene.
    mask
        (h, w), True where there is data; None where the scene has no mask.
    release
        To be called when `data` is needed no more.
    """

    data: NDArray[Any]
    origin: tuple[int, int]
    mask: NDArray[np.bool_] | None
    release: Callable[[], None]


class StripReader:
    """Reads the parts of a scene in their order, each pixel once: what later parts need of this one is kept."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._free: queue.SimpleQueue[NDArray[np.uint8]] = queue.SimpleQueue()
        self._left: _StripBuffer | None = None
        self._above, self._below = _KeptRows(), _KeptRows()

    def read(self, strip: Strip, stats: StageStats) -> ScenePart:
        """Read a part; `stats` counts the pixels and bytes that come from the file."""
        source = strip.source
        mask = self._scene.mask(source.row0, source.row1, source.col0, source.col1)
        if isinstance(self._scene, ArrayScene):
            data = self._scene.read(source.row0, source.row1, source.col0, source.col1)
            stats.count(source.height * source.width, data.nbytes)
            return ScenePart(data, (source.row0, source.col0), mask, lambda: None)
        held = self._hold(source)
        self._fill(held, strip, stats)
        if self._left is not None:
            self._left.release()
        self._left = held
        return ScenePart(held.data, (source.row0, source.col0), mask, held.release)

    def _fill(self, held: "_StripBuffer", strip: Strip, stats: StageStats) -> None:
        """Copy what is kept, read the rest, and keep what the parts below need."""
        source, (row, col) = strip.source, strip.fresh
        if row > self._below.start >= 0 and self._below.stop == row:  # the first part of a new row of parts
            self._above, self._below = self._below, self._above
            self._below.forget()
        if self._above.holds(source.row0, row, source.col0, source.col1):
            held.data[:, : row - source.row0] = self._above.values[
                :, source.row0 - self._above.start :, source.col0 : source.col1
            ]
        else:
            self._load(held, Window(source.row0, row, source.col0, source.col1), stats)
        left = self._left
        if left is not None and (left.source.row1, left.source.col1) == (source.row1, col) and left.source.row0 <= row:
            before = left.data[:, row - left.source.row0 :, source.col0 - left.source.col0 :]
            held.data[:, row - source.row0 :, : col - source.col0] = before
        else:
            self._load(held, Window(row, source.row1, source.col0, col), stats)
        self._load(held, Window(row, source.row1, col, source.col1), stats)
        if strip.keep < source.row1:
            self._below.take(held.data[:, strip.keep - source.row0 :], strip.keep, source, self._scene.width)

    def _load(self, held: "_StripBuffer", window: Window, stats: StageStats) -> None:
        """Read a window of the file to its place."""
        if not window.height or not window.width:
            return
        row, col = window.row0 - held.source.row0, window.col0 - held.source.col0
        place = held.data[:, row : row + window.height, col : col + window.width]
        self._scene.read(window.row0, window.row1, window.col0, window.col1, out=place)
        stats.count(window.height * window.width, place.nbytes)

    def _hold(self, source: Window) -> "_StripBuffer":
        """Return room for a part, (B, h, w): a buffer that is free again, or a new one.

        All bands of a row are adjacent in memory, so that rows are kept by one copy.
        """
        shape = source.height, len(self._scene.bands), source.width
        size = int(np.prod(shape)) * self._scene.dtype.itemsize
        buffer = np.empty(0, np.uint8)
        while buffer.nbytes < size:
            try:
                buffer = self._free.get_nowait()
            except queue.Empty:
                buffer = np.empty(size, np.uint8)
        data = buffer[:size].view(self._scene.dtype).reshape(shape).transpose(1, 0, 2)
        return _StripBuffer(data, source, lambda: self._free.put(buffer))


class _KeptRows:
    """The last rows of a row of parts, over the scene's whole width: (B, h, W)."""

    def __init__(self) -> None:
        self.start = self.stop = -1
        self.values: NDArray[Any] = np.empty((0, 0, 0))
        self._known: NDArray[np.bool_] = np.empty(0, np.bool_)

    def forget(self) -> None:
        """Hold nothing, and keep the room."""
        self.start = self.stop = -1
        self._known[:] = False

    def take(self, rows: NDArray[Any], start: int, source: Window, width: int) -> None:
        """Keep rows (B, h, w) of a part."""
        shape = rows.shape[1], rows.shape[0], width
        if self.values.shape != (shape[1], shape[0], width):
            self.values = np.empty(shape, rows.dtype).transpose(1, 0, 2)
            self._known = np.zeros(width, np.bool_)
        self.start, self.stop = start, start + rows.shape[1]
        self.values[:, :, source.col0 : source.col1] = rows
        self._known[source.col0 : source.col1] = True

    def holds(self, row0: int, row1: int, col0: int, col1: int) -> bool:
        """Whether all of these pixels, up to the last row, are here."""
        return self.start <= row0 and self.stop == row1 and bool(self._known[col0:col1].all())


class _StripBuffer:
    """Pixels of a strip; the buffer is free when both reader and gatherer have released it."""

    def __init__(self, data: NDArray[Any], source: Window, free: Callable[[], None]) -> None:
        self.data, self.source = data, source
        self._free, self._users, self._lock = free, 2, threading.Lock()

    def release(self) -> None:
        """Release it for one of its two users."""
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self._free()
