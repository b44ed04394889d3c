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
from spectraldiff_runtime.mapping.job import Job, Source, Tally, _count, _tell_lost, _undone, _write
from spectraldiff_runtime.mapping.pipeline import Meter, Pipeline, Stage
from spectraldiff_runtime.mapping.stages import gather, map_block, read_part
from spectraldiff_runtime.mapping.unit_check import units_doubt
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.output.block import Block, Wanted
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


def run_there(job: Job, sink: Sink, tally: Tally, source: Source | None, where: "ClusterOptions") -> list[Meter]:
    """Have a cluster's workers map window after window; blocks come back to one writer."""
    from spectraldiff_runtime.mapping.dask_cluster import WindowCluster

    if source is None or not job.model.path:
        raise UsageError("a cluster's workers open scene and model themselves: give the paths of both")
    task = WindowTask(
        job.model.path, job.model.digest, job.model.device, where.threads_per_task, source, job.wanted, job.plan
    )
    stop = threading.Event()
    lost: list[int] = []

    def there(_: Iterator[Any], meter: Meter) -> Iterator[list[tuple[Window, Block | None]]]:
        with WindowCluster(where) as cluster:
            windows = _undone(job, sink, tally, tiles_of(job.region.window, _side(job, where)))
            tally.say(_first_doubt(job, windows))
            for window, (block, spoilt) in cluster.run(task, windows, stop):
                meter.count(window.height * window.width)
                inside = None if job.region.inside is None else job.region.inside(window)
                if spoilt is not None:
                    lost.append(_count(spoilt if inside is None else spoilt & inside))
                yield [(window, block if inside is None else block.within(inside))]

    stages = [
        Stage("cluster", there, DEPTH),
        Stage("write", lambda results, meter: _write(results, meter, sink, tally)),
    ]
    Pipeline(stages, stop.set).run(tally.show)
    _tell_lost(job, tally, sum(lost))
    return [stage.meter for stage in stages]


def _first_doubt(job: Job, windows: Sequence[Window]) -> str | None:
    """Say whether the values of the first tile that has any are in another unit than the model's."""
    scene, card = job.scene, job.model.card
    for window in windows[:SAMPLES]:
        tile = tiles_of(window, job.plan.tile)[0]
        for batch in gather(job.model, scene, read_part(scene, tile, card.halo), [tile], 1, job.region.inside):
            doubt = units_doubt(card, batch, scene.name)
            batch.release()
            if doubt is not None:
                return doubt or None
    return None


def _side(job: Job, where: "ClusterOptions") -> int:
    """Return the side of a worker's windows: small enough that each gets several."""
    window, workers = job.region.window, where.workers or 1
    share = (window.height * window.width / (WINDOWS_PER_WORKER * workers)) ** 0.5
    return max(min(CLUSTER_SIDE, int(share)), min(job.plan.tile, CLUSTER_SIDE), 1)


@dataclass(frozen=True)
class WindowTask:
    """What a cluster's worker does: opens model and scene once, and maps the windows that it is given."""

    model: str
    digest: str
    device: str
    threads: int
    source: Source
    wanted: Wanted
    plan: Plan

    def __call__(self, window: Window) -> tuple[Block, NDArray[np.bool_] | None]:
        """Map a window of the scene; return it, and which of its pixels are lost, (h, w), if any."""
        model = _model(self.model, self.digest, self.device, self.threads)
        limit_threads(model.threads)
        scene = _scene(self.source, model.card)
        lost = np.zeros((window.height, window.width), np.bool_)

        def lose(tile: Window, where: NDArray[np.bool_]) -> None:
            row, col = tile.row0 - window.row0, tile.col0 - window.col0
            lost[row : row + tile.height, col : col + tile.width] = where

        tiles, batch = self.plan.tile, self.plan.batch
        block = map_block(model, scene, window, tile=tiles, batch=batch, wanted=self.wanted, lost=lose)
        return block, lost if lost.any() else None


@lru_cache(maxsize=2)
def _model(path: str, digest: str, device: str, threads: int) -> Model:
    model = Model.open(path, device, threads)
    if model.digest != digest:
        raise ModelFileError(f"a worker finds another model at '{path}': wanted storage that all workers share")
    return model


def _scene(source: Source, card: ModelCard) -> Scene:
    if getattr(_opened, "source", None) != source:
        _opened.scene, _opened.source = source.open(card, lambda _: None), source
    scene: Scene = _opened.scene
    return scene
