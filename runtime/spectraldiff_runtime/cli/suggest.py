"""``sdiff suggest``: a scene and a model file in, points to label out."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spectraldiff_runtime.cli.map_output import progress
from spectraldiff_runtime.cli.options import (
    BandNumbers,
    CloudPixels,
    Clouds,
    Json,
    Nodata,
    Overwrite,
    Quiet,
    Threads,
    Unsealed,
    parse_bands,
    parse_nodata,
    parse_size,
    print_json,
    say,
    warn,
)

if TYPE_CHECKING:
    from spectraldiff_runtime.suggest.choice import Suggestion


def suggest(
    scene: Annotated[str, typer.Argument(help="The raster or product to look for points in.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The points: a GeoPackage, such as points.gpkg.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="The model file.")] = Path("model.onnx"),
    unsealed: Unsealed = False,
    count: Annotated[int, typer.Option(help="Points wanted, 1,000 at most.")] = 40,
    field: Annotated[
        str, typer.Option(help="The field that you write the classes into: the --field of `sdiff train`.")
    ] = "class",
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Look inside the polygons of this vector file only, or where this raster is not 0.", show_default=False
        ),
    ] = None,
    nodata: Nodata = None,
    bands: BandNumbers = None,
    clouds: Clouds = CloudPixels.KEEP,
    max_memory: Annotated[str, typer.Option(help="What the process may hold.")] = "4GB",
    threads: Threads = None,
    device: Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda, or cuda:1.")] = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Say where a label would help a model most.

    Points lie where the model is unsure or the scene is unlike its training, spread over the scene, the most useful
    first. Each says why. Write the classes into the empty field, and train with the old labels and these:
    `sdiff train ... --labels old.gpkg --labels points.gpkg --denoiser RUN`.
    """
    size, chosen, missing = parse_size(max_memory), None if bands is None else parse_bands(bands), parse_nodata(nodata)
    from spectraldiff_runtime.model.engine import Model
    from spectraldiff_runtime.suggest import points

    points.check(out, model, scene, mask, count, field, overwrite)
    engine = Model.open(model, device, threads, unsealed=unsealed, warn=warn)
    with progress(quiet) as (begin, advance):
        found = points.suggest(
            engine,
            scene,
            out,
            count=count,
            field=field,
            mask=mask,
            bands=chosen,
            nodata=missing,
            clouds=clouds.value,
            max_memory=size,
            overwrite=overwrite,
            started=lambda _, region, __: begin(region.window.height * region.window.width),
            progress=advance,
            warn=warn,
        )
    if not quiet:
        _say(found, out, count, field, engine.outside)
    if json:
        print_json({"out": out, "scene": scene, "model": model, "points": [asdict(one) for one in found]})


def _say(found: "Sequence[Suggestion]", out: Path, count: int, field: str, knows_outside: bool) -> None:
    unlike = sum(one.reason.startswith("unlike") for one in found)
    say(
        f"Wrote '{out}': {len(found)} points, {unlike} unlike the training, {len(found) - unlike} uncertain; "
        f"write their classes into the field '{field}'"
    )
    if len(found) < count:
        say(f"  {count} were asked for: there are no more parts of the scene with data")
    if not knows_outside:
        say("  this model cannot say what is unlike its training: points are chosen by its confidence")
