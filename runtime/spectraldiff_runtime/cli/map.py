"""``sdiff map``: a scene and a model file in, a class map out."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    Device,
    Json,
    Overwrite,
    Quiet,
    Verbose,
    check_verbosity,
    parse_bands,
    parse_nodata,
    print_json,
    warn,
)

if TYPE_CHECKING:
    from ..engine import Model
    from ..raster import RasterScene
    from ..results import MapResult

TILE, BATCH = 64, 1


def map(
    scene: Annotated[str, typer.Argument(help="The raster to map: anything that GDAL reads.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The class map, a GeoTIFF.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="The model file.")] = Path("model.onnx"),
    confidence: Annotated[
        Path | None,
        typer.Option(help="Also write the confidence, float32 in 0..1, 0 where unclassified."),
    ] = None,
    preview: Annotated[Path | None, typer.Option(help="Also draw the map with its legend, .png or .jpg.")] = None,
    tile: Annotated[int, typer.Option(min=1, help="Output pixels along a side of a tile.")] = TILE,
    batch: Annotated[int, typer.Option(min=1, help="Tiles that run through the model at once.")] = BATCH,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.", show_default=False)] = None,
    device: Annotated[Device, typer.Option(help="Where the model runs.")] = Device.AUTO,
    bands: Annotated[
        str | None, typer.Option(help="Bands to use, counted from 1: 1-100,110-200.", show_default=False)
    ] = None,
    nodata: Annotated[
        str | None,
        typer.Option(help="Value of pixels without data, or 'none'; the file's own by default."),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Map a scene with a model file.

    The map keeps the scene's CRS, transform and size. It is uint8 with 0 for unclassified and carries
    class names and colours. It appears under its name when it is whole.
    """
    check_verbosity(quiet, verbose)
    chosen = None if bands is None else parse_bands(bands)
    missing = parse_nodata(nodata)
    from ..engine import Model
    from ..mapping import map_scene
    from ..raster import RasterScene

    _check_outputs({"--out": out, "--confidence": confidence, "--preview": preview}, model, overwrite)
    with RasterScene(scene, chosen, missing) as opened:
        engine = Model.open(model, device.value, threads)
        if not quiet:
            _announce(engine, opened, verbose)
        with _progress(opened.height * opened.width, quiet) as advance:
            result = map_scene(
                engine,
                opened,
                out,
                confidence=confidence or False,
                preview=preview,
                tile=tile,
                batch=batch,
                overwrite=overwrite,
                progress=advance,
                warn=warn,
            )
    if not quiet:
        _summarise(result, confidence, preview)
    if json:
        names = {"scene": scene, "model": model, "confidence": confidence, "preview": preview}
        print_json({**names, "device": engine.device, **result.as_dict()})


def _check_outputs(outputs: Mapping[str, Path | None], model: Path, overwrite: bool) -> None:
    """Refuse outputs that cannot be, before anything is opened."""
    from ..outputs import check_apart, check_output

    named = {option: path for option, path in outputs.items() if path is not None}
    check_apart(named, [model])
    for path in named.values():
        check_output(path, overwrite)


def _announce(model: "Model", scene: "RasterScene", verbose: bool) -> None:
    """Say what runs where."""
    card = model.card
    what = f"'{scene.name}' with the {card.preset} model of {card.name}"
    typer.echo(f"Mapping {what} on {model.device}", err=True)
    if verbose:
        facts = [f"{scene.height} x {scene.width} pixels", f"{len(scene.bands)} bands", str(scene.dtype)]
        facts += [f"nodata {scene.nodata}", f"{model.threads} threads", f"halo {card.halo}"]
        typer.echo("  " + ", ".join(facts), err=True)


@contextmanager
def _progress(pixels: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr with pixels a second and the time left; yield what advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(None),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet, expand=True) as bar:
        task = bar.add_task("map", total=pixels, rate="")

        def advance(done: int) -> None:
            bar.advance(task, done)
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            bar.update(task, rate=f"{speed:,.0f} pixels/s" if speed else "")

        yield advance


def _summarise(result: "MapResult", confidence: Path | None, preview: Path | None) -> None:
    """Print pixels, share and, where the CRS has metres, hectares of each class."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("Class")
    columns = ["Pixels", "Share"] + (["Hectares"] if result.hectares_per_pixel is not None else [])
    for name in columns:
        table.add_column(name, justify="right")
    for name, style, value in _lines(result):
        cells = _cells(result, value)
        table.add_row(Text("\u25a0 ", style).append(name, "default"), *cells[: len(columns)])
    console.print(table)
    rate = f"{result.seconds:.1f} s, {result.pixels_per_second:,.0f} pixels/s"
    typer.echo(f"Wrote '{result.out}' ({rate})", err=True)
    for path in (confidence, preview):
        if path is not None:
            typer.echo(f"Wrote '{path}'", err=True)


def _lines(result: "MapResult") -> list[tuple[str, str, int]]:
    """Return name, style and value of each line of the summary."""
    lines = [(c.name, "rgb({},{},{})".format(*c.colour), c.value) for c in result.legend]
    return lines + ([("Unclassified", "dim", 0)] if result.pixels[0] else [])


def _cells(result: "MapResult", value: int) -> list[str]:
    pixels = result.pixels[value]
    share = pixels / (result.height * result.width)
    return [f"{pixels:,}", f"{share:.1%}", f"{pixels * (result.hectares_per_pixel or 0):,.1f}"]
