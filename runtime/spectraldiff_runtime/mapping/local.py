"""A map made in this process."""

from collections.abc import Iterator
from typing import Any

import rasterio

from spectraldiff_runtime.mapping.job import Job, Tally, _count, _pixels, _tell_lost, _undone, _write
from spectraldiff_runtime.mapping.pipeline import Meter, Pipeline, Stage, in_flight
from spectraldiff_runtime.mapping.stages import Batch, classify, gather
from spectraldiff_runtime.mapping.strip_reader import Part, StripReader
from spectraldiff_runtime.mapping.unit_check import units_doubt
from spectraldiff_runtime.output.block import Block
from spectraldiff_runtime.output.sinks import Sink
from spectraldiff_runtime.tiling.gather import limit_threads
from spectraldiff_runtime.tiling.memory_plan import DEPTH
from spectraldiff_runtime.tiling.plan import largest_tile, strips, tiles_of_strip
from spectraldiff_runtime.window import Window


def run_here(job: Job, sink: Sink, tally: Tally) -> list[Meter]:
    """Read, gather, infer and write at the same time; return what each stage did."""
    model = job.model
    options = model.run_options()
    lost: list[int] = []

    def read(_: Iterator[Any], meter: Meter) -> Iterator[tuple[Part, list[Window]]]:
        reader, scene = StripReader(job.scene), job.scene
        with rasterio.Env(GDAL_CACHEMAX=job.plan.cache):
            for strip in strips(job.region.window, job.plan, model.card.halo, scene.height, scene.width):
                tiles = _undone(job, sink, tally, tiles_of_strip(strip.output, job.plan.tile, job.plan.tile_columns))
                if tiles:
                    yield reader.read(strip, meter), tiles

    def gathered(parts: Iterator[tuple[Part, list[Window]]], meter: Meter) -> Iterator[Batch]:
        limit_threads(model.threads)
        size, doubt = None if model.gpu is None else _common_size(job), None
        for part, tiles in parts:
            for batch in gather(model, job.scene, part, tiles, job.plan.batch, job.region.inside, size):
                if doubt is None:
                    doubt = units_doubt(model.card, batch, job.scene.name)
                    tally.say(doubt or None)
                meter.count(_pixels(batch.tiles), batch.inputs.nbytes)
                yield batch
            part.release()

    def classified(batch: Batch) -> list[tuple[Window, Block | None]]:
        pieces = list(classify(model, batch, job.wanted, options, lambda _, where: lost.append(_count(where))))
        batch.release()
        tally.say(model.fitting.news())
        return pieces

    def infer(batches: Iterator[Batch], meter: Meter) -> Iterator[list[tuple[Window, Block | None]]]:
        for pieces in in_flight(classified, batches, model.runs):
            meter.count(_pixels([tile for tile, _ in pieces]))
            yield pieces

    def cancel() -> None:
        options.terminate = True

    stages = [
        Stage("read", read),
        Stage("gather", gathered, DEPTH),
        Stage("infer", infer, DEPTH),
        Stage("write", lambda results, meter: _write(results, meter, sink, tally)),
    ]
    Pipeline(stages, cancel).run(tally.show)
    _tell_lost(job, tally, sum(lost))
    return [stage.meter for stage in stages]


def _common_size(job: Job) -> tuple[int, int]:
    """Return the height and width of a map's largest tile."""
    height, width = job.scene.height, job.scene.width
    return largest_tile(job.region.window, job.plan, job.model.card.halo, height, width)
