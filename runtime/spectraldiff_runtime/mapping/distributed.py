"""A map made by the workers of a Dask cluster."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.errors import ModelFileError, UsageError
from spectraldiff_runtime.mapping.dask_cluster import ClusterOptions
from spectraldiff_runtime.mapping.job import (
    Job,
    ProgressReporter,
    count_true,
    pending_windows,
    warn_overflow,
    write_blocks,
)
from spectraldiff_runtime.mapping.pipeline import Pipeline, Stage, StageStats
from spectraldiff_runtime.mapping.request import SourceOptions
from spectraldiff_runtime.mapping.stages import gather, map_block, read_padded
from spectraldiff_runtime.mapping.unit_check import unit_warning
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.output.block import Block, RequestedLayers
from spectraldiff_runtime.output.sinks import Sink
from spectraldiff_runtime.scene.protocol import Scene
from spectraldiff_runtime.tiling.gather import limit_threads
from spectraldiff_runtime.tiling.memory_plan import DEPTH
from spectraldiff_runtime.tiling.plan import Plan
from spectraldiff_runtime.window import Window, tiles_of

# Pixels along the side of a window that a cluster's worker maps at once, and how many each should get at least.
CLUSTER_SIDE, WINDOWS_PER_WORKER = 512, 4
# The most windows of a cluster's of which a tile is looked at here.
SAMPLES = 8
_opened = threading.local()  # GDAL's data sets belong to one thread


def run_on_cluster(
    job: Job, sink: Sink, reporter: ProgressReporter, scene: str | None, source: SourceOptions, cluster: ClusterOptions
) -> list[StageStats]:
    """Have a cluster's workers map window after window; blocks come back to one writer."""
    from spectraldiff_runtime.mapping.dask_cluster import WindowCluster

    if scene is None or not job.model.path:
        raise UsageError("a cluster's workers open scene and model themselves: give the paths of both")
    model, threads = job.model, cluster.threads_per_task
    task = WindowTask(model.path, model.digest, model.device, threads, scene, source, job.requested, job.plan)
    stop = threading.Event()
    overflowed: list[int] = []

    def there(_: Iterator[Any], stats: StageStats) -> Iterator[list[tuple[Window, Block | None]]]:
        with WindowCluster(cluster) as workers:
            windows = pending_windows(job, sink, reporter, tiles_of(job.region.window, _side(job, cluster)))
            reporter.warn(_first_unit_warning(job, windows))
            for window, (block, overflow) in workers.run(task, windows, stop):
                stats.count(window.height * window.width)
                inside = None if job.region.inside is None else job.region.inside(window)
                if overflow is not None:
                    overflowed.append(count_true(overflow if inside is None else overflow & inside))
                yield [(window, block if inside is None else block.within(inside))]

    stages = [
        Stage("cluster", there, DEPTH),
        Stage("write", lambda results, stats: write_blocks(job, results, stats, sink, reporter)),
    ]
    Pipeline(stages, stop.set).run(reporter.report)
    warn_overflow(job, reporter, sum(overflowed))
    return [stage.stats for stage in stages]


def _first_unit_warning(job: Job, windows: Sequence[Window]) -> str | None:
    """Say whether the values of the first tile that has any are in another unit than the model's."""
    scene, card = job.scene, job.model.card
    for window in windows[:SAMPLES]:
        tile = tiles_of(window, job.plan.square(card.halo))[0]
        for batch in gather(job.model, scene, read_padded(scene, tile, card.halo), [tile], 1, job.region.inside):
            warning = unit_warning(card, batch, scene.name)
            batch.release()
            if warning is not None:
                return warning or None
    return None


def _side(job: Job, cluster: ClusterOptions) -> int:
    """Return the side of a worker's windows: small enough that each gets several."""
    window, workers = job.region.window, cluster.workers or 1
    share = (window.height * window.width / (WINDOWS_PER_WORKER * workers)) ** 0.5
    return max(min(CLUSTER_SIDE, int(share)), min(job.plan.square(job.model.card.halo), CLUSTER_SIDE), 1)


@dataclass(frozen=True)
class WindowTask:
    """What a cluster's worker does: opens model and scene once, and maps the windows that it is given."""

    model: str
    digest: str
    device: str
    threads: int
    scene: str
    source: SourceOptions
    requested: RequestedLayers
    plan: Plan

    def __call__(self, window: Window) -> tuple[Block, NDArray[np.bool_] | None]:
        """Map a window of the scene; return it, and which of its pixels are overflowed, (h, w), if any."""
        model = _model(self.model, self.digest, self.device, self.threads)
        limit_threads(model.threads)
        scene = _scene(self.scene, self.source, model.card)
        overflowed = np.zeros((window.height, window.width), np.bool_)

        def mark_overflow(tile: Window, where: NDArray[np.bool_]) -> None:
            row, col = tile.row0 - window.row0, tile.col0 - window.col0
            overflowed[row : row + tile.height, col : col + tile.width] = where

        tiles, batch = self.plan.square(model.card.halo), self.plan.batch
        block = map_block(
            model, scene, window, tile=tiles, batch=batch, requested=self.requested, on_overflow=mark_overflow
        )
        return block, overflowed if overflowed.any() else None


@lru_cache(maxsize=2)
def _model(path: str, digest: str, device: str, threads: int) -> Model:
    # The digest says that it is the file that was taken where the map was begun, sealed or not.
    model = Model.open(path, device, threads, unsealed=True, warn=lambda _: None)
    if model.digest != digest:
        raise ModelFileError(f"a worker finds another model at '{path}': wanted storage that all workers share")
    return model


def _scene(path: str, source: SourceOptions, card: ModelCard) -> Scene:
    """Return a raster, opened once in each thread."""
    key = path, source
    if getattr(_opened, "key", None) != key:
        # Never closed by a `with` block: it is read for as long as the worker lives.
        _opened.scene, _opened.key = source.open_raster(path, card, lambda _: None), key
    scene: Scene = _opened.scene
    return scene
