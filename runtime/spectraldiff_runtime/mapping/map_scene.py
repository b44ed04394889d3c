"""From a scene to its class map: `map_scene`, in this process or on a cluster."""

import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from spectraldiff_runtime.errors import UsageError
from spectraldiff_runtime.formats.kinds import is_polygons
from spectraldiff_runtime.formats.polygon_file import read_patch_counts
from spectraldiff_runtime.geo.reprojection import Box
from spectraldiff_runtime.geotiff.spec import Format
from spectraldiff_runtime.mapping.distributed import run_on_cluster
from spectraldiff_runtime.mapping.job import Job, ProgressReporter
from spectraldiff_runtime.mapping.local import run_locally
from spectraldiff_runtime.mapping.pipeline import StageStats
from spectraldiff_runtime.mapping.request import ComputeOptions, MapRequest, Region, RegionOptions, SourceOptions
from spectraldiff_runtime.mapping.result import MapResult as MapResult
from spectraldiff_runtime.mapping.sensor_geometry import gathered, held_for_map, on_map, sensor_region
from spectraldiff_runtime.mapping.stages import map_block as map_block
from spectraldiff_runtime.mapping.stages import warm_up
from spectraldiff_runtime.mapping.unit_check import taught_warning
from spectraldiff_runtime.messages import one_line
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.output.block import BEYOND_ALL, RequestedLayers
from spectraldiff_runtime.output.block import Block as Block
from spectraldiff_runtime.output.file_sink import FileSink, add_styles, is_up_to_date, memory_of_rasters
from spectraldiff_runtime.output.pixel_counts import count_values
from spectraldiff_runtime.output.sinks import ArraySink, Outputs, Sink, WriteOptions
from spectraldiff_runtime.scene.clouds import KEEP, CloudChoice
from spectraldiff_runtime.scene.file_state import SceneWatch
from spectraldiff_runtime.scene.nodata import NODATA_OF_FILE, Nodata
from spectraldiff_runtime.scene.protocol import BandChoice, Scene
from spectraldiff_runtime.tiling.memory_plan import DEFAULT_MEMORY
from spectraldiff_runtime.tiling.plan import Plan

if TYPE_CHECKING:
    from spectraldiff_runtime.mapping.dask_cluster import ClusterOptions


def map_scene(
    model: Model,
    scene: str | Path | NDArray[Any] | Scene,
    out: str | Path | None = None,
    *,
    confidence: bool | str | Path = False,
    percent: bool = False,
    probabilities: bool | str | Path = False,
    outside: bool | str | Path = False,
    preview: str | Path | None = None,
    qml: bool = False,
    sieve: int = 0,
    min_confidence: float = 0.0,
    max_outside: int = BEYOND_ALL,
    window: tuple[int, int, int, int] | None = None,
    bounds: Box | None = None,
    bounds_crs: str | None = None,
    mask: str | Path | None = None,
    mask_values: Sequence[float] | None = None,
    bands: BandChoice = None,
    resample_bands: bool = False,
    nodata: Nodata = NODATA_OF_FILE,
    clouds: CloudChoice = KEEP,
    max_memory: int = DEFAULT_MEMORY,
    tile: int | None = None,
    batch: int | None = None,
    form: Format = Format(),  # noqa: B008 (frozen)
    overwrite: bool = False,
    resume: bool = False,
    cluster: "ClusterOptions | None" = None,
    into: Callable[[Scene, Region], Sink] | None = None,
    started: Callable[[Scene, Region, Plan], None] | None = None,
    progress: Callable[[int], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> MapResult:
    """Map a scene, or a part of one.

    Parameters
    ----------
    scene
        The path of a raster or of a product as delivered, a cube (H, W, B) in raw units, or any `Scene`. What is masked
        in any band of a masked array is missing.
    out
        The class map to write; None returns arrays instead. Its suffix names its format: ``.tif`` is a GeoTIFF,
        ``.gpkg`` polygons of the patches of one class, ``.png`` a picture with a world file, ``.nc`` netCDF with CF's
        flags, ``.zarr`` Zarr. All other layers are GeoTIFFs.
    confidence
        The path of a raster, or True for an array where `out` is None: float32 in 0..1.
    percent
        Whether the confidence raster is uint8, 1..100 percent with 0 = unclassified, instead.
    probabilities
        The path of a raster of K bands, or True for an array (K, H, W) where `out` is None.
    outside
        The path of a raster, or True for an array where `out` is None: how far pixels are from the training classes,
        uint8 percent. 0: as the training pixels; 100: farther than all that were held out; 255: no data.
    preview
        The path of a picture of the map with a legend, PNG or JPEG; only with `out`.
    qml
        Whether the class map, the confidence and `outside` each get a style for QGIS, ``NAME.qml``; only with `out`.
    sieve
        Polygons of fewer pixels are left out, and counted in `MapResult.polygons`.
    min_confidence
        Pixels of a lower confidence, 0..1, become 0.
    max_outside
        Pixels whose `outside` is higher become 0; 95 drops about 5 % of pixels like those of the training.
    window, bounds, bounds_crs, mask
        The part to map: (column, row, width, height) in pixels; or (west, south, east, north) in the scene's CRS or
        another one; and a vector file whose polygons hold the wanted pixels, or a raster of one band, placed by its
        georeference, in which they are not 0.
    mask_values
        The values of a raster as `mask` that are wanted, in place of all but 0.
    bands, nodata
        As in `RasterScene`; an array has no nodata value but the one given here.
    resample_bands
        Whether bands are interpolated to the model's wavelengths where the scene has others.
    clouds
        What becomes of pixels that the scene's product marks as cloudy: ``"keep"``, or ``"drop"``, as if without data.
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
        Whether to continue an unfinished map and to leave a finished one as it is. A map that is interrupted is then
        kept, for the next run to continue.
    cluster
        Where to run it, if not here.
    into
        Returns what takes the windows of the map, in place of files or arrays, of a scene as it lies on the map and the
        region; only without `out`.
    started
        Called once with scene, region and plan, before the first pixel is read.
    progress
        Called with the number of pixels done since the last call; with polygons, once more for each pixel.
    warn
        Called with each warning; `warnings.warn` if None.

    Raises
    ------
    SceneError, OutputError, UsageError
        With nothing written; what a full disk stopped, or what ran with `resume`, is kept for the next run.
    """
    request = MapRequest(
        SourceOptions.of(bands, nodata, resample_bands, clouds),
        RegionOptions.of(window, bounds, bounds_crs, mask, mask_values),
        Outputs.of(out, confidence, probabilities, preview, percent, min_confidence, outside, max_outside)
        .styled(qml)
        .sieved(sieve),
        WriteOptions.of(form, overwrite, resume),
        ComputeOptions.of(max_memory, tile, batch, cluster),
    )
    warn = warn or (lambda message: warnings.warn(one_line(message), stacklevel=5))
    notes: list[str] = []
    callbacks = _Callbacks(_noted(notes, started), progress, _told(notes, warn), into)
    return replace(_map(model, scene, request, callbacks), notes=tuple(dict.fromkeys(notes)))


def _told(notes: list[str], warn: Callable[[str], None]) -> Callable[[str], None]:
    """Return what keeps each warning, and passes it on."""

    def tell(message: str) -> None:
        notes.append(one_line(message))
        warn(message)

    return tell


def _noted(
    notes: list[str], started: Callable[[Scene, Region, Plan], None] | None
) -> Callable[[Scene, Region, Plan], None]:
    """Return what keeps the note of the scene that is mapped, and then says that it begins."""

    def begin(scene: Scene, region: Region, plan: Plan) -> None:
        notes.extend(filter(None, [scene.note if hasattr(scene, "note") else ""]))
        if started is not None:
            started(scene, region, plan)

    return begin


@dataclass(frozen=True)
class _Callbacks:
    started: Callable[[Scene, Region, Plan], None] | None
    progress: Callable[[int], None] | None
    warn: Callable[[str], None]
    into: Callable[[Scene, Region], Sink] | None = None


def _map(
    model: Model, scene: str | Path | NDArray[Any] | Scene, request: MapRequest, callbacks: _Callbacks
) -> MapResult:
    path = str(scene) if isinstance(scene, str | Path) else None
    outputs, cluster = request.outputs, request.compute.cluster
    if outputs.requested.reads_outside:
        model.check_outside()
    with request.source.open(scene, model.card, callbacks.warn) as opened:
        _check_resumable(opened, request)
        unknown = taught_warning(model.card, opened)
        if unknown is not None:
            callbacks.warn(unknown)
        laid = on_map(opened)
        region = request.region.find(laid)
        read = sensor_region(opened, laid, region)
        held = held_for_map(opened, laid, model.card, outputs.requested)
        rasters = 0 if outputs.out is None else memory_of_rasters(model.card, outputs, request.writing.form)
        plan = request.compute.plan(model, opened, read.window, held, rasters)
        request = replace(
            request, writing=replace(request.writing, memory=request.compute.left_for_rasters(model, held))
        )
        watch = SceneWatch(opened)
        facts = {} if outputs.out is None else _facts(model, opened, region, request)
        if outputs.out is not None and request.writing.resume and is_up_to_date(outputs, facts):
            added = add_styles(outputs, model.card, facts)
            return replace(_skipped(model.card, laid, region, outputs.out), added=added)
        into = callbacks.into
        files = (
            _sink(model, laid, region, request, facts, plan, callbacks.progress) if into is None else into(laid, region)
        )
        with gathered(files, opened, laid, region, model.card, outputs.requested) as sink:
            layers = replace(outputs.requested, counts_outside=model.outside)
            job = Job(model, opened, read, layers, replace(sink.plan or plan, cache=plan.cache))
            if callbacks.started is not None:
                callbacks.started(opened, read, job.plan)
            if cluster is None:
                warm_up(opened, job.plan.square(model.card.halo) + 2 * model.card.halo, job.plan.batch)
            start = time.perf_counter()
            reporter = ProgressReporter(callbacks.progress, callbacks.warn)
            if cluster is None:
                stages = run_locally(job, sink, reporter)
            else:
                stages = run_on_cluster(job, sink, reporter, path, request.source, cluster)
            watch.check()
            if outputs.out is not None:
                model.release()  # for the process that makes the rasters
            finish = StageStats("finish", pixels=region.window.height * region.window.width)
            ended, spent = time.perf_counter(), _cpu_seconds()
            arrays, pixels = sink.finish()
            finish.busy, finish.cpu = time.perf_counter() - ended, _cpu_seconds() - spent
    if not any(pixels[1:]):
        callbacks.warn(_nothing_mapped(opened.name, region, outputs.requested))
    seconds = time.perf_counter() - start
    result = _result(model.card, laid, region, outputs.out, arrays, pixels, seconds, [*stages, finish])
    return replace(result, unlike=sink.unlike if outputs.requested.max_outside < BEYOND_ALL else None)


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and of those that it started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _check_resumable(scene: Scene, request: MapRequest) -> None:
    if request.writing.resume and request.outputs.out is not None and not hasattr(scene, "fingerprint"):
        raise UsageError("resume goes on with a scene that is known again: wanted a raster's path, not an array")


def _sink(
    model: Model, scene: Scene, region: Region, request: MapRequest, facts: dict[str, Any], plan: Plan,
    progress: Callable[[int], None] | None,
) -> Sink:  # fmt: skip
    """Return where the map goes: files if they are named, else arrays."""
    outputs, mask = request.outputs, request.region.mask
    if outputs.out is None:
        return ArraySink(model.card, region.window, outputs.requested)
    inputs = [Path(path) for path in (model.path, mask) if path]
    sink = FileSink(model.card, scene, region.window, outputs, request.writing, facts, plan, inputs)
    sink.tile_done = progress
    return sink


def _facts(model: Model, scene: Scene, region: Region, request: MapRequest) -> dict[str, Any]:
    """Return everything that the map's files depend on."""
    fingerprint = getattr(scene, "fingerprint", None)
    return {
        "model": model.digest,
        "scene": None if fingerprint is None else fingerprint(),
        **region.facts(),
        "least confidence": request.outputs.requested.min_confidence,
        **request.outputs.facts(),
        "format": asdict(request.writing.form),
        "way of working": "in one process" if request.compute.cluster is None else "on a cluster",
    }


def _nothing_mapped(name: str, region: Region, requested: RequestedLayers) -> str:
    if region.mask is None and requested.min_confidence == 0 and requested.max_outside == BEYOND_ALL:
        return f"no pixel of '{name}' has data in all bands: the map is unclassified everywhere"
    return (
        f"no pixel of '{name}' has data in all bands, lies inside the mask, reaches the least confidence and is not "
        "too far from the training: "
        "the map is unclassified everywhere"
    )


def _skipped(card: ModelCard, scene: Scene, region: Region, out: Path) -> MapResult:
    """Return the figures of a map that an earlier run has finished."""
    pixels = read_patch_counts(out).pixels if is_polygons(out) else count_values(out, len(card.classes))
    return replace(_result(card, scene, region, out, None, pixels, 0.0, []), skipped=True)


def _result(
    card: ModelCard,
    scene: Scene,
    region: Region,
    out: Path | None,
    whole: Block | None,
    pixels: tuple[int, ...],
    seconds: float,
    stages: Sequence[StageStats],
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
        tuple(stage.as_dict(seconds) for stage in stages),
        clouds=None if (clouds := getattr(scene, "clouds", None)) is None else clouds.facts(),
        outside=None if whole is None else whole.outside,
        polygons=read_patch_counts(out) if out is not None and is_polygons(out) else None,
    )
