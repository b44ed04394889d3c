"""Windows on a fixed grid, clipped at the scene's edges, and the pixels that each one needs around it.

``tile`` always counts output pixels. A model's input tile is larger by `halo` on each side; what lies
beyond the scene is reflected (`reflect`), so a tile may need rows that are not next to it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels: rows row0..row1 and columns col0..col1, ends excluded."""

    row0: int
    row1: int
    col0: int
    col1: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.row1 - self.row0

    @property
    def width(self) -> int:
        """Columns."""
        return self.col1 - self.col0


def reflect(index: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Map indices outside 0..n-1 to those inside by mirroring without repeating the edge.

    The mirror repeats as often as needed, as in NumPy's ``pad(mode="reflect")``: with period
    ``2 (n - 1)``, ``i = |i| mod period`` and then ``min(i, period - i)``. An axis of one pixel repeats it.
    """
    if n == 1:
        return np.zeros_like(index)
    period = 2 * (n - 1)
    folded = np.abs(index) % period
    return np.asarray(np.minimum(folded, period - folded))


def reach(start: int, stop: int, halo: int, n: int) -> tuple[int, int]:
    """Return the range of an axis of `n` pixels that start..stop, of the axis, touches with its reflected halo."""
    first, last = max(start - halo, 0), min(stop + halo, n)
    beyond = np.concatenate([np.arange(start - halo, 0), np.arange(n, stop + halo)])  # not the axis: it may be long
    if beyond.size:
        touched = reflect(beyond, n)
        first, last = min(first, int(touched.min())), max(last, int(touched.max()) + 1)
    return first, last


def source_window(window: Window, halo: int, height: int, width: int) -> Window:
    """Return what must be read of a scene (height, width) to map `window`."""
    row0, row1 = reach(window.row0, window.row1, halo, height)
    col0, col1 = reach(window.col0, window.col1, halo, width)
    return Window(row0, row1, col0, col1)


def cuts(start: int, stop: int, step: int) -> list[tuple[int, int]]:
    """Cut start..stop every `step` pixels; the last piece may be shorter."""
    return [(at, min(at + step, stop)) for at in range(start, stop, step)]


def tiles_of(window: Window, tile: int) -> list[Window]:
    """Cut a window into tiles of at most `tile` x `tile` pixels, row by row."""
    columns = cuts(window.col0, window.col1, tile)
    return [Window(r0, r1, c0, c1) for r0, r1 in cuts(window.row0, window.row1, tile) for c0, c1 in columns]
