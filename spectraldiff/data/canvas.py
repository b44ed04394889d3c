"""The parts of a large scene that hold labels, side by side: what labels need memory for is this, not the scene.

Labels, splits and maps of large scenes are arrays on the canvas. Two labelled pixels of different parts are at least
`BLOCK` pixels from each other on the canvas and three times as many on the scene, which is farther than any window,
halo or buffer reaches.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.features import shapes

from spectraldiff_runtime.window import Window

LARGE = 4_000_000  # pixels of a scene beyond which labels lie on a canvas, and maps are drawn in part
BLOCK = 64  # pixels along the side of the blocks that a scene is cut into


@dataclass(frozen=True)
class Canvas:
    """Where parts of a scene lie on a canvas.

    Attributes
    ----------
    shape
        (h, w) of the canvas.
    scene
        (H, W) of the scene.
    parts
        Each part's window on the scene, which begins at a multiple of `BLOCK`, and row and column of its first pixel on
        the canvas, multiples of it too.
    """

    shape: tuple[int, int]
    scene: tuple[int, int]
    parts: tuple[tuple[Window, tuple[int, int]], ...]

    @cached_property
    def _of_block(self) -> NDArray[np.int32]:
        """The number of the part that each block of the scene is in, -1 for none."""
        table = np.full([-(-size // BLOCK) for size in self.scene], -1, np.int32)
        for number, (window, _) in enumerate(self.parts):
            rows, columns = (slice(a // BLOCK, -(-b // BLOCK)) for a, b in _edges(window))
            table[rows, columns] = number
        return table

    @cached_property
    def _of_place(self) -> NDArray[np.int32]:
        """The number of the part that each block of the canvas is in, -1 for none."""
        table = np.full([-(-size // BLOCK) for size in self.shape], -1, np.int32)
        for number, (window, (row, column)) in enumerate(self.parts):
            down, across = -(-window.height // BLOCK), -(-window.width // BLOCK)
            table[row // BLOCK : row // BLOCK + down, column // BLOCK : column // BLOCK + across] = number
        return table

    @cached_property
    def _shifts(self) -> NDArray[np.int64]:
        """What rows and columns on the canvas are more than on the scene, (parts, 2)."""
        return np.array([(row - w.row0, column - w.col0) for w, (row, column) in self.parts], np.int64)

    def shift_at(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the shifts to the canvas, (n, 2), at pixels of the scene that lie in parts."""
        return np.asarray(self._shifts[self._of_block[rows // BLOCK, columns // BLOCK]])

    def located(self, pixels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return row and column on the canvas, (n, 2), of pixels of the scene, and which are on it, (n,)."""
        number = self._of_block[pixels[:, 0] // BLOCK, pixels[:, 1] // BLOCK]
        return pixels + self._shifts[number], number >= 0

    def on_scene(self, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return row and column on the scene, (n, 2), of pixels of the canvas."""
        return np.asarray(pixels - self._shifts[self._of_place[pixels[:, 0] // BLOCK, pixels[:, 1] // BLOCK]])

    def gathered(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return what an array of the scene, (H, W), holds on the canvas, (h, w); 0 between the parts."""
        found = np.zeros(self.shape, values.dtype)
        for window, (row, column) in self.parts:
            part = values[window.row0 : window.row1, window.col0 : window.col1]
            found[row : row + window.height, column : column + window.width] = part
        return found


def _edges(window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    return (window.row0, window.row1), (window.col0, window.col1)


class Marks:
    """The blocks of a scene, (H, W), that hold labels."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.blocks = np.zeros([-(-size // BLOCK) for size in shape], np.bool_)

    def add_boxes(self, boxes: NDArray[np.float64]) -> None:
        """Mark what boxes touch: left, top, right and bottom each, (n, 4), in pixels."""
        for left, top, right, bottom in np.floor(boxes / BLOCK).astype(np.int64).tolist():
            self.blocks[max(top, 0) : max(bottom + 1, 0), max(left, 0) : max(right + 1, 0)] = True

    def add_labels(self, labels: NDArray[Any]) -> None:
        """Mark the blocks of a label array, (H, W), that hold any."""
        rows, columns = (np.arange(0, size, BLOCK) for size in self.shape)
        some = np.logical_or.reduceat(np.logical_or.reduceat(labels != 0, rows, axis=0), columns, axis=1)
        self.blocks |= some

    def canvas(self) -> Canvas | None:
        """Return the canvas of the marked blocks, of the first one where none is marked.

        None where it would be about as large as the scene.
        """
        near = np.pad(self.blocks, 1)
        near[1, 1] |= not self.blocks.any()
        for axis in (0, 1):  # a block more on each side: what windows reach of a part's surroundings
            near |= np.roll(near, 1, axis) | np.roll(near, -1, axis)
        windows = [Window(*(int(edge) for edge in edges)) for edges in _merged(_boxes(near), self.blocks.shape)]
        canvas = _packed([_in_pixels(window, self.shape) for window in windows], self.shape)
        return None if 2 * canvas.shape[0] * canvas.shape[1] > self.shape[0] * self.shape[1] else canvas


def _boxes(near: NDArray[np.bool_]) -> list[tuple[int, int, int, int]]:
    """Return the box of each group of blocks that touch, also at corners: row0, row1, column0, column1."""
    found = []
    for shape, _ in shapes(near.astype(np.uint8), mask=near, connectivity=8):
        columns, rows = np.array(shape["coordinates"][0], np.int64).T - 1  # without the pad
        found.append((int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())))
    return found


def _merged(boxes: Iterable[tuple[int, int, int, int]], shape: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Clip boxes of blocks, and join those that overlap until none do."""
    left = [(max(a, 0), min(b, shape[0]), max(c, 0), min(d, shape[1])) for a, b, c, d in boxes]
    found: list[tuple[int, int, int, int]] = []
    while left:
        a, b, c, d = left.pop()
        other = next((one for one in found if a < one[1] and one[0] < b and c < one[3] and one[2] < d), None)
        if other is None:
            found.append((a, b, c, d))
        else:
            found.remove(other)
            left.append((min(a, other[0]), max(b, other[1]), min(c, other[2]), max(d, other[3])))
    return sorted(found)


def _in_pixels(window: Window, shape: tuple[int, int]) -> Window:
    row0, row1, col0, col1 = (edge * BLOCK for edge in (window.row0, window.row1, window.col0, window.col1))
    return Window(row0, min(row1, shape[0]), col0, min(col1, shape[1]))


def _packed(windows: Sequence[Window], shape: tuple[int, int]) -> Canvas:
    """Lay windows in rows, the highest first, a block between them."""
    sizes = [(-(-w.height // BLOCK) * BLOCK + BLOCK, -(-w.width // BLOCK) * BLOCK + BLOCK) for w in windows]
    area = sum(height * width for height, width in sizes)
    wide = max([int(area**0.5), *(width for _, width in sizes)])
    places, row, column, high = {}, 0, 0, 0
    for number in sorted(range(len(windows)), key=lambda index: (-sizes[index][0], index)):
        if column + sizes[number][1] > wide and column:
            row, column, high = row + high, 0, 0
        places[number] = row, column
        column, high = column + sizes[number][1], max(high, sizes[number][0])
    return Canvas((row + high, wide), shape, tuple((w, places[number]) for number, w in enumerate(windows)))
