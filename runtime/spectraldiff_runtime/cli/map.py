"""``sdiff map``: scenes and a model file in, class maps out."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectraldiff_runtime.cli.map_output import print_profile, progress, rate, summarise
from spectraldiff_runtime.cli.map_targets import Driver, Target, choose_targets, made_folders
from spectraldiff_runtime.cli.options import (
    BandNumbers,
    CloudPixels,
    Clouds,
    ConfidenceType,
    Json,
    Nodata,
    Overwrite,
    Quiet,
    Threads,
    Unsealed,
    Verbose,
    check_verbosity,
    parse_bands,
    parse_nodata,
    parse_options,
    parse_size,
    parse_values,
    print_json,
    say,
    warn,
)
from spectraldiff_runtime.errors import SpectralDiffError
from spectraldiff_runtime.limits import TIMEOUT_S

if TYPE_CHECKING:
    from spectraldiff_runtime.mapping.request import Region
    from spectraldiff_runtime.mapping.result import MapResult
    from spectraldiff_runtime.model.engine import Model
    from spectraldiff_runtime.scene.protocol import Scene
    from spectraldiff_runtime.tiling.plan import Plan


OUT_HELP = "The class map of one scene: .tif, .gpkg for polygons, .png, .nc or .zarr."


def map(
    scenes: Annotated[list[str], typer.Argument(help="Rasters to map: anything that GDAL reads, also by URL.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help=OUT_HELP, show_default=False)] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(help="A folder for the maps of many scenes, each under its scene's name.", show_default=False),
    ] = None,
    model: Annotated[Path, typer.Option("--model", "-m", help="The model file.")] = Path("model.onnx"),
    unsealed: Unsealed = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with unfinished maps, and leave finished ones as they are.")
    ] = False,
    overwrite: Overwrite = False,
    confidence: Annotated[
        Path | None,
        typer.Option(help="Also write the confidence, 0 where unclassified; with --out-dir, a folder."),
    ] = None,
    confidence_type: Annotated[
        ConfidenceType, typer.Option(help="Confidence as float32 in 0..1, or as uint8 in whole percent.")
    ] = ConfidenceType.FLOAT32,
    probabilities: Annotated[
        Path | None,
        typer.Option(help="Also write the probability of each class, a band a class; with --out-dir, a folder."),
    ] = None,
    outside: Annotated[
        Path | None,
        typer.Option(help="Also write how far pixels are from the training, 0 to 100 %; with --out-dir, a folder."),
    ] = None,
    max_outside: Annotated[
        int, typer.Option(help="Pixels farther from the training become unclassified: 95 drops 5 % of those like it.")
    ] = 100,
    min_confidence: Annotated[
        float, typer.Option(help="Pixels of a lower confidence (0 to 1) become unclassified.")
    ] = 0.0,
    preview: Annotated[
        Path | None,
        typer.Option(help="Also draw the map with its legend, .png or .jpg; with --out-dir, a folder."),
    ] = None,
    qml: Annotated[bool, typer.Option("--qml", help="Also write a style for QGIS, .qml, next to each raster.")] = False,
    sieve: Annotated[
        int, typer.Option(min=0, help="Leave out polygons of fewer pixels; they are counted.", metavar="PIXELS")
    ] = 0,
    bounds: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(help="Map this box only: west, south, east, north.", metavar="W S E N", show_default=False),
    ] = None,
    bounds_crs: Annotated[
        str | None, typer.Option(help="CRS of --bounds, such as EPSG:4326; the scene's by default.", show_default=False)
    ] = None,
    window: Annotated[
        tuple[int, int, int, int] | None,
        typer.Option(
            help="Map these pixels only: first column and row, width, height.",
            metavar="COL ROW WIDTH HEIGHT",
            show_default=False,
        ),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            help="Map inside the polygons of this vector file only (aoi.gpkg), or where this raster is not 0.",
            show_default=False,
        ),
    ] = None,
    mask_values: Annotated[
        str | None,
        typer.Option(help="Values of a raster as --mask that are wanted: 1,2.", metavar="VALUES", show_default=False),
    ] = None,
    nodata: Nodata = None,
    bands: BandNumbers = None,
    clouds: Clouds = CloudPixels.KEEP,
    resample_bands: Annotated[
        bool, typer.Option("--resample-bands", help="Interpolate bands to the model's wavelengths.")
    ] = False,
    driver: Annotated[
        Driver | None,
        typer.Option(
            "--of",
            help="The class map's format, if --out does not say it: Cloud-Optimized GeoTIFF by default.",
            case_sensitive=False,
            show_default=False,
        ),
    ] = None,
    creation: Annotated[
        list[str] | None,
        typer.Option(
            "--co", help="A creation option of GDAL for GeoTIFFs; repeatable.", metavar="KEY=VALUE", show_default=False
        ),
    ] = None,
    blocksize: Annotated[int, typer.Option(help="Pixels along a side of the output's tiles.")] = 512,
    max_memory: Annotated[
        str, typer.Option(help="What the process may hold; tiles, batches and queues follow from it.")
    ] = "4GB",
    tile: Annotated[
        int | None,
        typer.Option(
            min=1, help="The most output pixels along a side of a tile; chosen by default.", show_default=False
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Tiles that run through the model at once.", show_default=False)
    ] = None,
    threads: Threads = None,
    device: Annotated[
        str, typer.Option(help="Where the model runs: auto, cpu, cuda, or cuda:1 for the second GPU.")
    ] = "auto",
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Map on the workers of a Dask scheduler: tls://host:8786, or tcp:// in a network that you trust.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Map in this many processes of this machine, with Dask.", show_default=False)
    ] = None,
    timeout: Annotated[
        int, typer.Option(min=1, help="Seconds without a byte after which a server is given up.")
    ] = TIMEOUT_S,
    profile: Annotated[
        bool, typer.Option("--profile", help="Print what each stage did and what it waited for.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Map scenes with a model file.

    A map keeps its scene's CRS, transform and size. It is a Cloud-Optimized GeoTIFF with 0 for unclassified and carries
    class names and colours; or, by the suffix of --out, polygons or a raster of another format. It appears under its
    name when it is whole; a map that was cut off goes on with --resume.
    """
    check_verbosity(quiet, verbose)
    size = parse_size(max_memory)
    chosen = None if bands is None else parse_bands(bands)
    missing = parse_nodata(nodata)
    asked = parse_options(creation or [])
    wanted = None if mask_values is None else parse_values("--mask-values", mask_values)
    from spectraldiff_runtime.gdal import set_timeout
    from spectraldiff_runtime.geotiff.spec import Format
    from spectraldiff_runtime.model.engine import Model

    if timeout != TIMEOUT_S:
        set_timeout(timeout)
    extra = {"confidence": confidence, "probabilities": probabilities, "outside": outside, "preview": preview}
    targets = choose_targets(scenes, out, out_dir, extra, driver)
    inputs = [model] if mask is None else [model, Path(mask)]
    if out_dir is None:
        targets[0].check(inputs, overwrite or resume)
    engine = Model.open(model, device, threads, unsealed=unsealed, warn=warn)
    options = {
        "percent": confidence_type is ConfidenceType.UINT8,
        "qml": qml,
        "sieve": sieve,
        "min_confidence": min_confidence,
        "max_outside": max_outside,
        "window": window,
        "bounds": bounds,
        "bounds_crs": bounds_crs,
        "mask": mask,
        "mask_values": wanted,
        "bands": chosen,
        "resample_bands": resample_bands,
        "nodata": missing,
        "clouds": clouds.value,
        "max_memory": size,
        "tile": tile,
        "batch": batch,
        "form": Format("GTiff" if driver is Driver.GTIFF else "COG", blocksize, asked),
        "overwrite": overwrite,
        "resume": resume,
        "cluster": _cluster(cluster, workers, threads),
    }
    if out_dir is None:
        result = _map_one(engine, targets[0], options, quiet=quiet, verbose=verbose)
        if not quiet:
            summarise(result, targets[0].extra().values(), profile)
        if json:
            print_json({**targets[0].as_dict(), "model": model, "device": engine.device, **result.as_dict()})
        return
    with made_folders((out_dir, *extra.values())):
        _map_many(engine, targets, options, inputs, quiet, profile, json)


def _cluster(address: str | None, workers: int | None, threads: int | None) -> Any:
    if address is None and workers is None:
        return None
    from spectraldiff_runtime.mapping.dask_cluster import ClusterOptions

    return ClusterOptions(address, workers, threads)


def _map_one(
    engine: "Model", target: Target, options: dict[str, Any], *, quiet: bool, verbose: bool = False, title: str = ""
) -> "MapResult":
    """Map a scene and show how far it is; `title` names one of many, which is not announced."""
    from spectraldiff_runtime.formats.kinds import passes
    from spectraldiff_runtime.mapping.map_scene import map_scene

    with progress(quiet, title) as (begin, advance):

        def started(scene: "Scene", region: "Region", plan: "Plan") -> None:
            if not quiet and not title:
                _announce(engine, scene, region, plan, verbose)
            begin(passes(target.out) * region.window.height * region.window.width)

        try:
            return map_scene(
                engine,
                target.scene,
                target.out,
                **target.extra(),  # type: ignore[arg-type]
                **options,
                started=started,
                progress=advance,
                warn=warn,
            )
        except (KeyboardInterrupt, SystemExit) as error:
            for note in getattr(error, "__notes__", ()):
                say(f"sdiff: {note}")
            raise


def _map_many(
    engine: "Model",
    targets: Sequence[Target],
    options: dict[str, Any],
    inputs: Sequence[Path],
    quiet: bool,
    profile: bool,
    json: bool,
) -> None:
    """Map scene after scene, one line each; a scene that fails does not stop the others.

    Raises
    ------
    typer.Exit
        With code 1 where any failed.
    """
    failed, facts = 0, []
    for number, target in enumerate(targets, start=1):
        label = f"[{number}/{len(targets)}] '{target.scene}'"
        try:
            target.check(inputs, overwrite=True)
            result = _map_one(engine, target, options, quiet=quiet, title=label)
        except (SpectralDiffError, MemoryError) as error:
            failed += 1
            say(f"{label}: error: {error}")
            facts.append({**target.as_dict(), "out": target.out, "error": str(error)})
            continue
        if not quiet:
            how = "is mapped already" if result.skipped else rate(result)
            say(f"{label} -> '{target.out}' ({how})")
            if profile:
                print_profile(result)
        facts.append({**target.as_dict(), **result.as_dict()})
    skipped = sum(bool(fact.get("skipped")) for fact in facts)
    if not quiet:
        done = len(targets) - failed - skipped
        say(f"{done} mapped, {skipped} mapped already, {failed} failed")
    if json:
        print_json({"model": inputs[0], "device": engine.device, "scenes": facts})
    if failed:
        raise typer.Exit(1)


def _announce(model: "Model", scene: "Scene", region: "Region", plan: "Plan", verbose: bool) -> None:
    """Say what runs where."""
    card = model.card
    say(f"Mapping '{scene.name}' with the {card.preset} model of {card.name} on {model.device}")
    found = getattr(scene, "clouds", None)
    for note in filter(None, (getattr(scene, "note", ""), "" if found is None else found.note)):
        say(f"  {note}")
    if verbose:
        window = region.window
        facts = [f"{scene.height} x {scene.width} pixels", f"{len(scene.bands)} bands", str(scene.dtype)]
        facts += [f"nodata {scene.nodata}", f"{model.threads} threads", f"halo {card.halo}"]
        say("  " + ", ".join(facts))
        facts = [f"window {window.height} x {window.width}", f"tiles up to {plan.tile} x {plan.tile_columns}"]
        facts += [f"batches of {plan.batch}", f"{plan.rows} rows at a time", f"panels of {plan.columns} columns"]
        say("  " + ", ".join(facts))
