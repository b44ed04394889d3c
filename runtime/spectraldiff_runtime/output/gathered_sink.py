"""Takes a map in sensor geometry and hands it on, gathered onto the grid where the scene lies on a map."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.output.block import Block
from spectraldiff_runtime.output.sinks import Sink
from spectraldiff_runtime.scene.lookup_grid import LookupGrid
from spectraldiff_runtime.tiling.plan import Plan
from spectraldiff_runtime.window import Window, tiles_of

# Pixels along the side of what is gathered at once.
SIDE = 1024


class GatheredSink:
    """Holds the map of a scene in sensor geometry in memory; at the end, gives another sink its map on the grid.

    Parameters
    ----------
    beneath
        Takes the windows of the grid.
    grid
        The scene's pixel for each pixel of the grid.
    window
        The part of the grid that is wanted.
    inside
        Says which pixels of a window of the grid are wanted, (h, w) bool; None for all.
    whole
        An empty map of the scene's size, in sensor geometry.
    """

    def __init__(
        self,
        beneath: Sink,
        grid: LookupGrid,
        window: Window,
        inside: Callable[[Window], NDArray[np.bool_]] | None,
        whole: Block,
    ) -> None:
        self._beneath, self._grid, self._window, self._inside, self._map = beneath, grid, window, inside, whole

    @property
    def plan(self) -> Plan | None:
        """The plan of the sink beneath."""
        return self._beneath.plan

    @plan.setter
    def plan(self, plan: Plan | None) -> None:
        self._beneath.plan = plan

    @property
    def unlike(self) -> int | None:
        """As of the sink beneath."""
        return self._beneath.unlike

    def is_done(self, window: Window) -> bool:
        """Return False: what an earlier run has mapped in sensor geometry was in memory."""
        return False

    def write(self, window: Window, block: Block | None) -> None:
        """Keep a window of the scene."""
        if block is not None:
            self._map.paste(block, window.row0, window.col0)

    def finish(self) -> tuple[Block | None, tuple[int, ...]]:
        """Gather the map, window by window of the grid."""
        for window in tiles_of(self._window, SIDE):
            if not self._beneath.is_done(window):
                self._beneath.write(window, self._gathered(window))
        return self._beneath.finish()

    def _gathered(self, window: Window) -> Block:
        layers = (self._map.classes, self._map.confidence, self._map.probabilities, self._map.outside)
        classes, confidence, probabilities, outside = (
            None if a is None else self._grid.gather(a, window) for a in layers
        )
        assert classes is not None
        block = Block(classes, confidence, probabilities, outside)
        if outside is not None:  # beyond the scene it is not known, rather than 0
            block = block.within(self._grid.gather(np.ones(self._map.classes.shape, np.bool_), window))
        return block if self._inside is None else block.within(self._inside(window))

    def __enter__(self) -> Self:
        self._beneath.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._beneath.__exit__(kind, error, trace)
