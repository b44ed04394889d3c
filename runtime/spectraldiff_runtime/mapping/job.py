"""One map to make, its progress, and the steps that local and distributed runs share."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.mapping.pipeline import StageStats
from spectraldiff_runtime.mapping.request import Region
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.output.block import BEYOND, BEYOND_ALL, Block, RequestedLayers, farther_than
from spectraldiff_runtime.output.sinks import Sink
from spectraldiff_runtime.scene.protocol import Scene
from spectraldiff_runtime.tiling.plan import Plan
from spectraldiff_runtime.window import Window

MANY = 0.5  # share of the pixels: if more are unlike the training, the scene is another kind of scene


@dataclass(frozen=True)
class Job:
    """One map to make: model, open scene, region, layers, and how the region is cut up."""

    model: Model
    scene: Scene
    region: Region
    requested: RequestedLayers
    plan: Plan


class ProgressReporter:
    """Collects progress and warnings from the threads of the stages.

    The thread that waits for the stages passes them on, so that callbacks run in the caller's thread.
    """

    def __init__(self, progress: Callable[[int], None] | None, warn: Callable[[str], None] | None = None) -> None:
        self._progress, self._warn = progress, warn
        self._lock, self._pixels = threading.Lock(), 0
        self._warnings: list[str] = []

    def add(self, window: Window) -> None:
        """Count the pixels of a window as done."""
        with self._lock:
            self._pixels += window.height * window.width

    def warn(self, message: str | None) -> None:
        """Queue a warning, if there is one."""
        if message is not None:
            with self._lock:
                self._warnings.append(message)

    def report(self) -> None:
        """Call the callbacks with what came since the last call."""
        with self._lock:
            pixels, self._pixels = self._pixels, 0
            messages, self._warnings = self._warnings, []
        if pixels and self._progress is not None:
            self._progress(pixels)
        for message in messages:
            if self._warn is not None:
                self._warn(message)


def warn_overflow(job: Job, reporter: ProgressReporter, overflowed: int) -> None:
    """Warn of pixels that have data but no class, since values near them overflow."""
    if overflowed:
        reporter.warn(
            f"{overflowed:,} pixels of '{job.scene.name}' stay unclassified: values near them are too large to compute "
            "with; if they mark missing data, name that value with --nodata"
        )
    reporter.report()


@dataclass
class FarPixels:
    """Counts the pixels of a map that are unlike the training classes.

    Attributes
    ----------
    far, known
        Pixels that are farther from the training than `BEYOND` percent of pixels like it, and all pixels with data.
    """

    far: int = 0
    known: int = 0

    def count(self, block: Block) -> None:
        """Count the pixels of a block, if it says how far they are."""
        if block.outside is not None:
            self.far += count_true(farther_than(BEYOND, block.outside))
            self.known += count_true(block.outside <= BEYOND_ALL)

    def warning(self, name: str) -> str | None:
        """Return what to say of the scene `name`; None where most of its pixels are like the training."""
        if not self.known or self.far <= MANY * self.known:
            return None
        return (
            f"{self.far / self.known:.0%} of the pixels of '{name}' are unlike the training, where {100 - BEYOND} % "
            "are usual: classes, confidence and accuracy may not hold there; check that its values have the unit and "
            "the calibration of the training scene, and see where with --outside"
        )


def pending_windows(job: Job, sink: Sink, reporter: ProgressReporter, windows: Sequence[Window]) -> list[Window]:
    """Return the windows that are not done yet and contain a pixel to map; the others count as done."""
    pending = []
    for window in windows:
        if job.region.touches(window) and not sink.is_done(window):
            pending.append(window)
        else:
            reporter.add(window)
    return pending


def write_blocks(
    job: Job,
    results: Iterator[list[tuple[Window, Block | None]]],
    stats: StageStats,
    sink: Sink,
    reporter: ProgressReporter,
) -> Iterator[None]:
    """Write the blocks of each batch to the sink; warn at the end where most pixels are unlike the training."""
    far = FarPixels()
    for pieces in results:
        for window, block in pieces:
            if block is not None:
                far.count(block)
                block = block if job.requested.reads_outside else replace(block, outside=None)
            sink.write(window, block)
            size = 0 if block is None else sum(layer.nbytes for layer in block.layers())
            stats.count(window.height * window.width, size)
            reporter.add(window)
        yield None
    reporter.warn(far.warning(job.scene.name))


def count_true(where: NDArray[np.bool_]) -> int:
    """Return the number of True values."""
    return int(np.count_nonzero(where))


def pixel_count(tiles: Sequence[Window]) -> int:
    """Return the number of pixels in tiles that do not overlap."""
    return sum(tile.height * tile.width for tile in tiles)
