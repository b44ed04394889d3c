"""From a scene to its class map: `map_scene`, in this process or on a cluster."""

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.errors import UsageError
from spectraldiff_runtime.geo.bounds import choose_window
from spectraldiff_runtime.geo.polygon_mask import AreaMask
from spectraldiff_runtime.geotiff.spec import Format
from spectraldiff_runtime.mapping.band_matching import fit_bands
from spectraldiff_runtime.mapping.distributed import run_there
from spectraldiff_runtime.mapping.job import Job, Region, Source, Tally
from spectraldiff_runtime.mapping.local import run_here
from spectraldiff_runtime.mapping.pipeline import Meter
from spectraldiff_runtime.mapping.result import MapResult as MapResult
from spectraldiff_runtime.mapping.stages import map_block as map_block
from spectraldiff_runtime.mapping.stages import warm_up
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.output.block import Block as Block
from spectraldiff_runtime.output.block import Wanted
from spectraldiff_runtime.output.file_sink import FileSink, mapped_already
from spectraldiff_runtime.output.pixel_counts import count_values
from spectraldiff_runtime.output.sinks import ArraySink, Outputs, Sink
from spectraldiff_runtime.scene.array import ArrayScene
from spectraldiff_runtime.scene.nodata import NODATA_OF_FILE, Nodata
from spectraldiff_runtime.scene.protocol import Scene, chosen_bands
from spectraldiff_runtime.tiling.memory_plan import DEFAULT_MEMORY, GpuRoom, make_plan
from spectraldiff_runtime.tiling.plan import Plan
from spectraldiff_runtime.validation import nodata_value, real, several, whole, whole_or_none

if TYPE_CHECKING:
    from spectraldiff_runtime.mapping.dask_cluster import ClusterOptions

Box = tuple[float, float, float, float]


def map_scene(
    model: Model,
    scene: str | Path | NDArray[Any] | Scene,
    out: str | Path | None = None,
    *,
    confidence: bool | str | Path = False,
    percent: bool = False,
    probabilities: bool | str | Path = False,
    preview: str | Path | None = None,
    min_confidence: float = 0.0,
    window: tuple[int, int, int, int] | None = None,
    bounds: Box | None = None,
    bounds_crs: str | None = None,
    mask: str | Path | None = None,
    bands: Sequence[int] | None = None,
    resample_bands: bool = False,
    nodata: Nodata = NODATA_OF_FILE,
    max_memory: int = DEFAULT_MEMORY,
    tile: int | None = None,
    batch: int | None = None,
    form: Format = Format(),  # noqa: B008 (frozen)
    overwrite: bool = False,
    resume: bool = False,
    cluster: "ClusterOptions | None" = None,
    started: Callable[[Scene, Region, Plan], None] | None = None,
    progress: Callable[[int], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> MapResult:
    """Map a scene, or a part of one.

    Parameters
    ----------
    scene
        A raster's path, a cube (H, W, B) in raw units, or any `Scene`. What is masked in any band of a masked array is
        missing.
    out
        The class raster to write; None returns arrays instead.
    confidence
        The path of a raster beside `out`, or True for an array where `out` is None: float32 in 0..1.
    percent
        Whether the confidence raster is uint8, 1..100 percent with 0 = unclassified, instead.
    probabilities
        The path of a raster of K bands beside `out`, or True for an array (K, H, W) where `out` is None.
    preview
        The path of a picture of the map with a legend, PNG or JPEG; only with `out`.
    min_confidence
        Pixels of a lower confidence, 0..1, become 0.
    window, bounds, bounds_crs, mask
        The part to map: (column, row, width, height) in pixels; or (west, south, east, north) in the scene's CRS or
        another one; and a vector file whose polygons hold the wanted pixels.
    bands, nodata
        As in `RasterScene`; an array has no nodata value but the one given here.
    resample_bands
        Whether bands are interpolated to the model's wavelengths where the scene has others.
    max_memory
        Bytes that the process may hold; tiles, batches and strips follow from it.
    tile, batch
        The most output pixels along a tile's side, and tiles for each run of the model; chosen if None. The map does
        not depend on them.
    form
        How rasters are stored.
    overwrite
        Whether outputs that exist, and unfinished ones, are replaced.
    resume
        Whether an unfinished map is gone on with, and one that is finished already is left as it is. A map that is
        interrupted is then kept as far as it is.
    cluster
        Where to run it, if not here.
    started
        Called once with scene, region and plan, before the first pixel is read.
    progress
        Called with the number of pixels done since the last call.
    warn
        Called with each warning; `warnings.warn` if None.

    Raises
    ------
    SceneError, OutputError, UsageError
        With nothing written; what a full disk stopped, or what ran with `resume`, is kept for the next run.
    """
    warn = warn or (lambda message: warnings.warn(message, stacklevel=3))
    outputs = Outputs.of(out, confidence, probabilities, preview, bool(percent))
    tile, batch = whole_or_none("tile", tile), whole_or_none("batch", batch)
    max_memory, min_confidence = whole("max_memory", max_memory), real("min_confidence", min_confidence)
    form = _plain(form)
    _check_options(tile, batch, min_confidence)
    chosen = None if bands is None else several("bands", bands, whole, "whole numbers, counted from 1")
    source = Source(str(scene), chosen, nodata_value(nodata), resample_bands)
    with _opened(model.card, scene, source, warn) as opened:
        if resume and outputs.out is not None and not hasattr(opened, "fingerprint"):
            raise UsageError("resume goes on with a scene that is known again: wanted a raster's path, not an array")
        region = _region(opened, window, bounds, bounds_crs, mask)
        wanted = Wanted(outputs.confidence, outputs.probabilities, min_confidence)
        card, size = model.card, model.size
        room = gpu_room(model, cluster)
        plan = make_plan(card, size, opened, region.window, max_memory=max_memory, tile=tile, batch=batch, gpu=room)
        sink: Sink = ArraySink(card, region.window, wanted)
        if outputs.out is not None:
            facts = _facts(model, opened, region, wanted, outputs, form, cluster is not None)
            if resume and mapped_already(outputs, facts):
                return _skipped(card, opened, region, outputs.out)
            sink = FileSink(
                card,
                opened,
                region.window,
                outputs,
                form,
                facts,
                plan,
                resume,
                overwrite,
                [] if mask is None else [Path(mask)],
            )
        with sink:
            job = Job(model, opened, region, wanted, replace(sink.plan or plan, cache=plan.cache))
            if started is not None:
                started(opened, region, job.plan)
            if cluster is None:
                warm_up(opened, job.plan.tile + 2 * card.halo, job.plan.batch)
            start = time.perf_counter()
            tally = Tally(progress, warn)
            by_path = source if isinstance(scene, str | Path) else None
            meters = run_here(job, sink, tally) if cluster is None else run_there(job, sink, tally, by_path, cluster)
            finish = Meter("finish")
            ended = time.perf_counter()
            arrays, pixels = sink.finish()
            finish.busy = time.perf_counter() - ended
            finish.count(region.window.height * region.window.width)
    if not any(pixels[1:]):
        warn(_nothing(opened.name, region, min_confidence))
    return _result(card, opened, region, outputs.out, arrays, pixels, time.perf_counter() - start, [*meters, finish])


def gpu_room(model: Model, cluster: "ClusterOptions | None" = None) -> GpuRoom | None:
    """Return what tiles may take of the model's GPU; a cluster's local workers share it, one run each."""
    if model.gpu is None:
        return None
    if cluster is None:
        return GpuRoom(model.gpu_memory, model.runs)
    return GpuRoom(model.gpu_memory, 1, cluster.workers or 1)


def _check_options(tile: int | None, batch: int | None, least: float) -> None:
    if (tile is not None and tile < 1) or (batch is not None and batch < 1):
        raise UsageError(f"tile is {tile} and batch is {batch}: wanted 1 or more")
    if not 0 <= least <= 1:
        raise UsageError(f"the least confidence is {least:g}: wanted a number from 0 to 1")


def _opened(
    card: ModelCard, scene: str | Path | NDArray[Any] | Scene, source: Source, warn: Callable[[str], None]
) -> AbstractContextManager[Scene]:
    if isinstance(scene, str | Path):
        opened: AbstractContextManager[Scene] = source.open(card, warn)
        return opened
    if isinstance(scene, np.ndarray):
        scene = ArrayScene(scene, None if source.nodata == NODATA_OF_FILE else source.nodata)
        if source.bands is not None:
            scene = scene.select(chosen_bands(scene.name, scene.cube.shape[2], source.bands))
    elif not hasattr(scene, "read"):
        raise UsageError(
            f"the scene is a {type(scene).__name__}: wanted a raster's path, an array (H, W, B) or a Scene"
        )
    elif source.bands is not None or source.nodata != NODATA_OF_FILE:
        raise UsageError("bands and nodata belong to the scene that was opened already: give them there")
    explicit = source.bands is not None
    return nullcontext(fit_bands(card, scene, explicit=explicit, resample=source.resample, warn=warn))


def _plain(form: Format) -> Format:
    """Return a format in Python's own numbers and texts, as JSON takes them."""
    options = {str(key): str(value) for key, value in form.options.items()}
    return replace(form, blocksize=whole("blocksize", form.blocksize), options=options)


def _region(
    scene: Scene,
    window: tuple[int, int, int, int] | None,
    bounds: Box | None,
    bounds_crs: str | None,
    mask: str | Path | None,
) -> Region:
    """Find the part to map; without a window of its own, a mask gives the smallest that holds it."""
    height, width, place, name = scene.height, scene.width, scene.georeference, scene.name
    area = None if mask is None else AreaMask(mask, place, height, width, name)
    if window is None and bounds is None and area is not None:
        return Region(area.window, area)
    return Region(choose_window(height, width, place, name, bounds=bounds, bounds_crs=bounds_crs, window=window), area)


def _facts(
    model: Model, scene: Scene, region: Region, wanted: Wanted, outputs: Outputs, form: Format, cluster: bool
) -> dict[str, Any]:
    """Return all that the map's files depend on."""
    fingerprint = getattr(scene, "fingerprint", None)
    return {
        "model": model.digest,
        "scene": None if fingerprint is None else fingerprint(),
        **region.facts(),
        "least confidence": wanted.least,
        **outputs.facts(),
        "format": asdict(form),
        "way of working": "on a cluster" if cluster else "in one process",
    }


def _nothing(name: str, region: Region, least: float) -> str:
    if region.mask is None and least == 0:
        return f"no pixel of '{name}' has data in all bands: the map is unclassified everywhere"
    return (
        f"no pixel of '{name}' has data in all bands, lies inside the mask and reaches the least confidence: "
        "the map is unclassified everywhere"
    )


def _skipped(card: ModelCard, scene: Scene, region: Region, out: Path) -> MapResult:
    """Return the figures of a map that an earlier run has finished."""
    pixels = count_values(out, len(card.classes))
    return replace(_result(card, scene, region, out, None, pixels, 0.0, []), skipped=True)


def _result(
    card: ModelCard,
    scene: Scene,
    region: Region,
    out: Path | None,
    whole: Block | None,
    pixels: tuple[int, ...],
    seconds: float,
    meters: Sequence[Meter],
) -> MapResult:
    return MapResult(
        None if whole is None else whole.classes,
        None if whole is None else whole.confidence,
        None if whole is None else whole.probabilities,
        out,
        card.classes,
        pixels,
        region.window.height,
        region.window.width,
        seconds,
        scene.georeference.hectares_per_pixel,
        tuple(meter.as_dict(seconds) for meter in meters),
    )
