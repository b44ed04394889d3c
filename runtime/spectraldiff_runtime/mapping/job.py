"""How a map is run: overlapped in this process, or window by window on a cluster."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.geo.polygon_mask import AreaMask
from spectraldiff_runtime.mapping.band_matching import fit_bands
from spectraldiff_runtime.mapping.pipeline import Meter
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.output.block import Block, Wanted
from spectraldiff_runtime.output.sinks import Sink
from spectraldiff_runtime.scene.nodata import Nodata
from spectraldiff_runtime.scene.protocol import Scene
from spectraldiff_runtime.scene.raster import RasterScene
from spectraldiff_runtime.tiling.plan import Plan
from spectraldiff_runtime.window import Window

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Source:
    """How a raster is opened: what a cluster's worker needs to open it again."""

    path: str
    bands: tuple[int, ...] | None
    nodata: Nodata
    resample: bool

    def open(self, card: ModelCard, warn: Callable[[str], None]) -> Any:
        """Open the raster and give the model the bands that it wants; a scene that is a context manager."""
        scene = RasterScene(self.path, self.bands, self.nodata, scaled=card.scaled)
        try:
            return fit_bands(card, scene, explicit=self.bands is not None, resample=self.resample, warn=warn)
        except BaseException:
            scene.close()
            raise


@dataclass(frozen=True)
class Region:
    """Which pixels of a scene are mapped: a window, and in it those that a mask holds."""

    window: Window
    mask: AreaMask | None = None

    def touches(self, window: Window) -> bool:
        """Whether any pixel of `window` may be wanted."""
        return self.mask is None or self.mask.touches(window)

    @property
    def inside(self) -> Callable[[Window], NDArray[np.bool_]] | None:
        """Says which pixels of a window are wanted; None for all."""
        return None if self.mask is None else self.mask.inside

    def facts(self) -> dict[str, Any]:
        """Return what identifies the region."""
        w = self.window
        return {
            "window": [w.row0, w.row1, w.col0, w.col1],
            "mask": None if self.mask is None else self.mask.fingerprint(),
        }


@dataclass(frozen=True)
class Job:
    """One map to make: where from and what of."""

    model: Model
    scene: Scene
    region: Region
    wanted: Wanted
    plan: Plan


class Tally:
    """Counts pixels in the stages and tells them, and news, to whoever watches, in the thread that waits."""

    def __init__(self, progress: Callable[[int], None] | None, warn: Callable[[str], None] | None = None) -> None:
        self._progress, self._warn = progress, warn
        self._lock, self._new = threading.Lock(), 0
        self._news: list[str] = []

    def add(self, window: Window) -> None:
        """Count the pixels of a window."""
        with self._lock:
            self._new += window.height * window.width

    def say(self, news: str | None) -> None:
        """Have a line told, if there is one."""
        if news is not None:
            with self._lock:
                self._news.append(news)

    def show(self) -> None:
        """Report what was counted and said since the last time."""
        with self._lock:
            new, self._new = self._new, 0
            lines, self._news = self._news, []
        if new and self._progress is not None:
            self._progress(new)
        for line in lines:
            if self._warn is not None:
                self._warn(line)


def _tell_lost(job: Job, tally: Tally, lost: int) -> None:
    """Tell how many pixels have data and yet no class."""
    if lost:
        tally.say(
            f"{lost:,} pixels of '{job.scene.name}' stay unclassified: values near them are too large to compute "
            "with; if they mark missing data, name that value with --nodata"
        )
    tally.show()


def _undone(job: Job, sink: Sink, tally: Tally, windows: Sequence[Window]) -> list[Window]:
    """Return the windows that are still to be done and hold any pixel that is wanted."""
    undone = []
    for window in windows:
        if job.region.touches(window) and not sink.is_done(window):
            undone.append(window)
        else:
            tally.add(window)
    return undone


def _write(
    results: Iterator[list[tuple[Window, Block | None]]], meter: Meter, sink: Sink, tally: Tally
) -> Iterator[None]:
    for pieces in results:
        for window, block in pieces:
            sink.write(window, block)
            size = 0 if block is None else sum(layer.nbytes for layer in block.layers())
            meter.count(window.height * window.width, size)
            tally.add(window)
        yield None


def _count(where: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(where))


def _pixels(tiles: Sequence[Window]) -> int:
    return sum(tile.height * tile.width for tile in tiles)
