"""`sdiff datasets`: the benchmark scenes, as a table and as GeoTIFFs."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from spectraldiff_runtime.cli.options import DataDir, Json, Overwrite, print_json, tell, training_package
from spectraldiff_runtime.errors import UsageError
from spectraldiff_runtime.messages import console

app = typer.Typer(invoke_without_command=True, no_args_is_help=False)


@app.callback()
def datasets(context: typer.Context, data_dir: DataDir = None, json: Json = False) -> None:
    """List the benchmark scenes, and whether their files are on disk; what is in them is checked when they are read."""
    if context.invoked_subcommand is not None:
        if data_dir is not None or json:
            raise UsageError(f"give --data-dir after `{context.invoked_subcommand}`, and --json without it")
        return
    with training_package("datasets"):
        from spectraldiff.api.scenes import list_datasets
    rows = list_datasets(data_dir=data_dir)
    if json:
        print_json(rows)
    else:
        _print_table(rows)


@app.command()
def write(
    name: Annotated[str, typer.Argument(help="Name of the scene, as `sdiff datasets` lists it.")],
    out: Annotated[Path, typer.Argument(help="GeoTIFF to write.")],
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Class raster for the labels.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a scene as a GeoTIFF with its wavelengths, and its labels as a class raster."""
    from spectraldiff_runtime.atomic import check_output, check_raster_name

    # Before the download, which may be long.
    for what, path in (("the scene", out), *([("--labels", labels)] if labels else [])):
        check_raster_name(what, path)
        check_output(path, overwrite)
    with training_package("datasets"):
        from spectraldiff.datasets import registry
    scene = registry.load(name, data_dir)
    scene.write(out, labels=labels, overwrite=overwrite)
    size = " x ".join(str(n) for n in scene.cube.shape)
    tell(f"{out}: {size} (rows x columns x bands), {scene.cube.dtype}, {scene.crs or 'no CRS'}")
    if labels is not None:
        pixels = int((scene.labels > 0).sum())
        tell(f"{labels}: {len(scene.classes)} classes, {pixels:,} labelled pixels")
    for line in (scene.note, scene.attribution):
        if line:
            tell(line)


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    for title in ("name", "sensor", "size"):
        table.add_column(title, no_wrap=True)
    for title in ("bands", "classes", "labelled pixels"):
        table.add_column(title, justify="right")
    for title in ("on disk", "licence"):
        table.add_column(title)
    for row in rows:
        numbers = (str(row["bands"]), str(len(row["classes"])), f"{row['labelled_pixels']:,}")
        size = f"{row['height']} x {row['width']}"
        present = "yes" if row["on_disk"] else "damaged" if row["faults"] else "no"
        table.add_row(row["name"], row["sensor"], size, *numbers, present, row["licence"])
    # Nothing is wrapped for a program that reads the table.
    console(stderr=False, width=None if sys.stdout.isatty() else 200).print(table)
    for fault in dict.fromkeys(fault for row in rows for fault in row["faults"]):
        tell(fault)
