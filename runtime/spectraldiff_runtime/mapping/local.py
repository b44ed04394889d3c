"""A map made in this process."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import rasterio
from numpy.typing import NDArray

from spectraldiff_runtime.mapping.job import (
    Job,
    ProgressReporter,
    count_true,
    pending_windows,
    pixel_count,
    warn_overflow,
    write_blocks,
)
from spectraldiff_runtime.mapping.pipeline import Pipeline, Stage, StageStats, map_concurrently
from spectraldiff_runtime.mapping.stages import Batch, classify, gather
from spectraldiff_runtime.mapping.strip_reader import ScenePart, StripReader
from spectraldiff_runtime.mapping.unit_check import unit_warning
from spectraldiff_runtime.output.block import Block
from spectraldiff_runtime.output.sinks import Sink
from spectraldiff_runtime.tiling.gather import limit_threads
from spectraldiff_runtime.tiling.memory_plan import DEPTH
from spectraldiff_runtime.tiling.plan import largest_tile, strips, tiles_of_strip
from spectraldiff_runtime.window import Window

Pieces = list[tuple[Window, Block | None]]


def run_locally(job: Job, sink: Sink, reporter: ProgressReporter) -> list[StageStats]:
    """Read, gather, infer and write at the same time; return what each stage did."""
    options = job.model.run_options()
    overflowed: list[int] = []

    def cancel() -> None:
        options.terminate = True

    def classified(batch: Batch) -> Pieces:
        pieces = list(classify(job.model, batch, job.requested, options, partial(_count_into, overflowed)))
        batch.release()
        reporter.warn(job.model.splitter.take_warning())
        return pieces

    def infer(batches: Iterator[Batch], stats: StageStats) -> Iterator[Pieces]:
        for pieces in map_concurrently(classified, batches, job.model.runs):
            stats.count(pixel_count([tile for tile, _ in pieces]))
            yield pieces

    stages = [
        Stage("read", lambda _, stats: _read(job, sink, reporter, stats)),
        Stage("gather", lambda parts, stats: _gather(job, reporter, parts, stats), DEPTH),
        Stage("infer", infer, DEPTH),
        Stage("write", lambda results, stats: write_blocks(job, results, stats, sink, reporter)),
    ]
    Pipeline(stages, cancel).run(reporter.report)
    warn_overflow(job, reporter, sum(overflowed))
    return [stage.stats for stage in stages]


def _count_into(counts: list[int], _: Window, where: NDArray[Any]) -> None:
    counts.append(count_true(where))


def _read(
    job: Job, sink: Sink, reporter: ProgressReporter, stats: StageStats
) -> Iterator[tuple[ScenePart, list[Window]]]:
    """Yield each strip that has tiles to do, with these."""
    reader, scene, plan = StripReader(job.scene), job.scene, job.plan
    with rasterio.Env(GDAL_CACHEMAX=plan.cache):
        for strip in strips(job.region.window, plan, job.model.card.halo, scene.height, scene.width):
            tiles = pending_windows(job, sink, reporter, tiles_of_strip(strip.output, plan.tile, plan.tile_columns))
            if tiles:
                yield reader.read(strip, stats), tiles


def _gather(
    job: Job, reporter: ProgressReporter, parts: Iterator[tuple[ScenePart, list[Window]]], stats: StageStats
) -> Iterator[Batch]:
    """Yield the tiles of each strip as batches; warn once where the scene's values seem to have another unit."""
    model = job.model
    limit_threads(model.threads)
    size, warning = _common_size(job), None
    for part, tiles in parts:
        for batch in gather(model, job.scene, part, tiles, job.plan.batch, job.region.inside, size):
            if warning is None:
                warning = unit_warning(model.card, batch, job.scene.name)
                reporter.warn(warning or None)
            stats.count(pixel_count(batch.tiles), batch.inputs.nbytes)
            yield batch
        part.release()


def _common_size(job: Job) -> tuple[int, int]:
    """Return the height and width of a map's largest tile."""
    height, width = job.scene.height, job.scene.width
    return largest_tile(job.region.window, job.plan, job.model.card.halo, height, width)
