"""How a map is run: overlapped in this process, or window by window on a cluster."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import rasterio
from numpy.typing import NDArray

from spectraldiff_runtime.errors import ModelFileError, UsageError
from spectraldiff_runtime.geo.polygon_mask import AreaMask
from spectraldiff_runtime.mapping.band_matching import fit_bands
from spectraldiff_runtime.mapping.pipeline import Meter, Pipeline, Stage, in_flight
from spectraldiff_runtime.mapping.stages import Batch, Part, StripReader, Wanted, classify, gather, map_block, read_part
from spectraldiff_runtime.mapping.unit_check import units_doubt
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.output.block import Block
from spectraldiff_runtime.output.sinks import Sink
from spectraldiff_runtime.scene.protocol import Nodata, Scene
from spectraldiff_runtime.scene.raster import RasterScene
from spectraldiff_runtime.tiling.gather import limit_threads
from spectraldiff_runtime.tiling.memory_plan import DEPTH, Plan, largest_tile, strips, tiles_of_strip
from spectraldiff_runtime.window import Window, tiles_of

if TYPE_CHECKING:
    from spectraldiff_runtime.mapping.dask_cluster import ClusterOptions

# Pixels along the side of a window that a cluster's worker maps at once, and how many each should get at least.
CLUSTER_SIDE, WINDOWS_PER_WORKER = 512, 4
# The most windows of a cluster's of which a tile is looked at here.
SAMPLES = 8


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


def run_here(job: Job, sink: Sink, tally: Tally) -> list[Meter]:
    """Read, gather, infer and write at the same time; return what each stage did."""
    options, model = onnxruntime.RunOptions(), job.model
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


def _tell_lost(job: Job, tally: Tally, lost: int) -> None:
    """Tell how many pixels have data and yet no class."""
    if lost:
        tally.say(
            f"{lost:,} pixels of '{job.scene.name}' stay unclassified: values near them are too large to compute "
            "with; if they mark missing data, name that value with --nodata"
        )
    tally.show()


def _common_size(job: Job) -> tuple[int, int]:
    """Return the height and width of a map's largest tile."""
    height, width = job.scene.height, job.scene.width
    return largest_tile(job.region.window, job.plan, job.model.card.halo, height, width)


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


_opened = threading.local()  # GDAL's data sets belong to one thread


def _scene(source: Source, card: ModelCard) -> Scene:
    if getattr(_opened, "source", None) != source:
        _opened.scene, _opened.source = source.open(card, lambda _: None), source
    scene: Scene = _opened.scene
    return scene
