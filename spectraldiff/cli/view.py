"""``sdiff view``: a page to look at a map."""

from pathlib import Path
from typing import Annotated

import typer

from spectraldiff_runtime.cli.options import Json, Overwrite, Quiet, print_json, tell, training_package


def view(
    classes: Annotated[Path, typer.Argument(help="The class raster.")],
    scene: Annotated[str, typer.Option(help="The scene that was mapped: a product as delivered, or a raster.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page, such as view.html.")] = Path("view.html"),
    confidence: Annotated[
        Path | None, typer.Option(help="The map's confidence raster, as a second layer.", show_default=False)
    ] = None,
    probabilities: Annotated[
        Path | None, typer.Option(help="The map's probabilities: the runner-up is theirs.", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Write a page to look at a map over its scene.

    One HTML file that loads nothing: the map over the scene in true colours with a slider, classes to switch on and
    off, and on a click the pixel's spectrum beside the mean spectra of its class and of the runner-up.
    """
    with training_package("view"):
        from spectraldiff.report.map_view import write_view
    found = write_view(classes, scene, out, confidence=confidence, probabilities=probabilities, overwrite=overwrite)
    if json:
        print_json(vars(found))
    elif not quiet:
        thinned = [
            f"; {what} of every {step} pixels"
            for what, step in (("the picture", found.picture_step), ("spectra", found.spectra_step))
            if step > 1
        ]
        tell(f"Wrote '{out}' ({found.size / 1e6:.1f} MB, {found.spectra:,} spectra{''.join(thinned)})")
        if found.rounded:
            tell(f"The scene holds {found.rounded}: the page shows its values as float32.")
        tell("Open it in a browser; it needs no network.")
