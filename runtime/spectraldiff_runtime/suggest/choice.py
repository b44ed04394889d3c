"""Pixels where a label would help most, chosen while a map is made: uncertain, unlike the training, spread out.

The map is cut into cells. Of each, what counts is how sure the map is of its pixels on average, and how many of them
are beyond the training: a single odd pixel makes no cell odd. Cells are then taken one by one; each makes those around
it count less.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.output.block import BEYOND, Block, farther_than
from spectraldiff_runtime.tiling.plan import Plan
from spectraldiff_runtime.window import Window

CELLS = 25  # for each point that is wanted, where there are so many pixels
MOSTLY = 0.5  # share of such pixels from which on they are the reason for a cell


@dataclass(frozen=True)
class Suggestion:
    """A pixel to label.

    Attributes
    ----------
    row, column
        In the scene.
    class_name, confidence, outside
        What the map says there: its class, 0..1, and percent; None where the model does not know the latter.
    reason
        Why a label there would help, for people.
    x, y
        The pixel's centre in the scene's CRS; None where the scene has no transform.
    """

    row: int
    column: int
    class_name: str
    confidence: float
    outside: int | None
    reason: str
    x: float | None = None
    y: float | None = None


class SuggestionSink:
    """Takes the windows of a map with its confidence, and keeps of each cell what is needed to choose points.

    Memory depends on the number of points, not on the scene. The choice depends neither on tiles nor on their order.

    Parameters
    ----------
    window
        What is mapped, in the scene's rows and columns.
    legend
        The model's classes.
    count
        Points wanted.
    """

    plan: Plan | None = None
    unlike: int | None = None

    def __init__(self, window: Window, legend: Sequence[LandCoverClass], count: int) -> None:
        self._window, self._legend, self._count = window, legend, count
        self._side = max(1, math.isqrt(window.height * window.width // (CELLS * count)))
        self._across = -(-window.width // self._side)
        cells = self._across * -(-window.height // self._side)
        self._pixels, self._doubt, self._beyond = (np.zeros(cells) for _ in range(3))
        self._best = np.full(cells, -1.0)  # score of the pixel that stands for its cell
        self._place = np.full(cells, -1, np.int64)  # where it is, row by row in the window
        self._kept = np.zeros((cells, 3))  # its class, confidence and percent
        self._values = np.zeros(len(legend) + 1, np.int64)
        self._knows_outside = False

    def is_done(self, window: Window) -> bool:
        """Return False: nothing was done before."""
        return False

    def write(self, window: Window, block: Block | None) -> None:
        """Count the pixels of a window in their cells."""
        if block is None:
            self._values[0] += window.height * window.width
            return
        self._values += np.bincount(block.classes.ravel(), minlength=len(self._values))
        rows, columns = np.nonzero(block.classes)
        if not len(rows):
            return
        assert block.confidence is not None
        classes, confidence = block.classes[rows, columns], block.confidence[rows, columns].astype(np.float64)
        outside = np.zeros(len(rows))
        if block.outside is not None:
            self._knows_outside, outside = True, block.outside[rows, columns].astype(np.float64)
        rows, columns = rows + window.row0 - self._window.row0, columns + window.col0 - self._window.col0
        cells = rows // self._side * self._across + columns // self._side
        doubt, beyond = 1 - confidence, farther_than(BEYOND, outside)
        for total, part in ((self._pixels, np.ones(len(cells))), (self._doubt, doubt), (self._beyond, beyond)):
            total += np.bincount(cells, part, len(total))
        self._keep(cells, rows * self._window.width + columns, doubt + beyond, (classes, confidence, outside))

    def _keep(
        self,
        cells: NDArray[np.int64],
        places: NDArray[np.int64],
        scores: NDArray[np.float64],
        values: Sequence[NDArray[Any]],
    ) -> None:
        """Keep the pixel of the highest score of each cell, the first of equal ones in the order of rows."""
        order = np.lexsort((places, -scores, cells))
        first = order[np.unique(cells[order], return_index=True)[1]]
        own = cells[first]
        better = (scores[first] > self._best[own]) | (
            (scores[first] == self._best[own]) & (places[first] < self._place[own])
        )
        first, own = first[better], own[better]
        self._best[own], self._place[own] = scores[first], places[first]
        self._kept[own] = np.stack([value[first] for value in values], 1)

    def finish(self) -> tuple[None, tuple[int, ...]]:
        """Return the pixels of each value; what was chosen comes from `chosen`."""
        return None, tuple(int(value) for value in self._values)

    def chosen(self) -> list[Suggestion]:
        """Return the points, those that help most first; fewer where there are fewer cells with data."""
        cells = np.flatnonzero(self._pixels)
        if not len(cells):
            return []
        pixels = self._pixels[cells]
        gain = self._doubt[cells] / pixels + self._beyond[cells] / pixels
        # Cells at the edge of the data stand for few pixels.
        gain *= np.sqrt(np.minimum(pixels / self._side**2, 1))
        rows, columns = np.divmod(self._place[cells], self._window.width)
        reach = math.sqrt(float(pixels.sum()) / self._count)
        found = []
        for _ in range(min(self._count, len(cells))):
            at = int(np.argmax(gain))
            found.append(self._suggestion(int(cells[at])))
            distance = (rows - rows[at]) ** 2 + (columns - columns[at]) ** 2
            gain *= 1 - np.exp(-distance / reach**2)
            gain[at] = -1
        return found

    def _suggestion(self, cell: int) -> Suggestion:
        row, column = divmod(int(self._place[cell]), self._window.width)
        value, confidence, outside = self._kept[cell]
        name = self._legend[int(value) - 1].name
        share = self._beyond[cell] / self._pixels[cell]
        reason = f"uncertain: '{name}' with a confidence of {confidence:.2f}"
        if share >= MOSTLY:
            reason = f"unlike the training: {share:.0%} of the pixels around are beyond {BEYOND} %"
        percent = int(outside) if self._knows_outside else None
        place = row + self._window.row0, column + self._window.col0
        return Suggestion(*place, name, float(confidence), percent, reason)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
