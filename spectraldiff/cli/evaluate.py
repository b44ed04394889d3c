"""`sdiff evaluate`: the accuracy of a map at labelled pixels."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spectraldiff_runtime.cli.options import Json, Overwrite, print_json, tell, training_package, warn
from spectraldiff_runtime.messages import cell, console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spectraldiff.accuracy.area_adjusted import AreaAdjusted
    from spectraldiff.accuracy.assessment import Assessment
    from spectraldiff.accuracy.metrics import Accuracy
    from spectraldiff_runtime.classes import LandCoverClass

WIDEST = 100  # classes whose confusion matrix is printed
REASONS = {"excluded": "excluded", "nodata": "without data in the map"}


def evaluate(
    classes: Annotated[Path, typer.Argument(help="Class map, as `sdiff map` writes it.")],
    labels: Annotated[
        Path, typer.Option("--labels", help="Labels: a raster in the map's CRS, or points or polygons in any.")
    ],
    field: Annotated[
        str | None,
        typer.Option(
            help="Field of the vector file with class names or numbers; 'class' by default.", show_default=False
        ),
    ] = None,
    name_field: Annotated[
        str | None, typer.Option(help="Field with the classes' names, where --field has numbers.", show_default=False)
    ] = None,
    layer: Annotated[
        str | None, typer.Option("--layer-name", help="Layer of the vector file.", show_default=False)
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(help="Encoding of the texts of a shapefile or CSV file, such as cp1252.", show_default=False),
    ] = None,
    exclude: Annotated[
        Path | None,
        typer.Option(
            "--exclude",
            help="Raster whose nonzero pixels are left out, such as a run's train_pixels.tif.",
            show_default=False,
        ),
    ] = None,
    confidence: Annotated[
        Path | None,
        typer.Option(help="The map's confidence raster: adds its calibration.", show_default=False),
    ] = None,
    count_nodata: Annotated[
        bool, typer.Option("--count-nodata", help="Labelled pixels without data in the map are wrong, too.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Also write a report, one page of HTML: accuracy.html.", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Compare a class map with labels: OA, AA, kappa, accuracy of each class, confusion matrix.

    Classes are matched by name where map and labels both have names, else by number: 7 is the class that the map calls
    "Class 7" or "7", else its value 7. A labelled pixel that the map left unclassified counts as wrong. One where the
    map has no data (0 is its nodata value) is left out and counted, because a map is judged by what it maps;
    --count-nodata makes it wrong, too. `sdiff map --min-confidence` also writes 0: give --confidence, and pixels that
    have a confidence but no class are wrong.

    --report and --json also give area-adjusted accuracies and areas with 95 % intervals (Olofsson et al. 2014). They
    take the labels for a random sample of the map, drawn as a whole or in each map class.
    """
    with training_package("evaluate"):
        from spectraldiff.api.maps import evaluate as evaluate_map
    found = evaluate_map(
        classes,
        labels,
        field=field,
        name_field=name_field,
        layer_name=layer,
        encoding=encoding,
        exclude=exclude,
        confidence=confidence,
        count_nodata=count_nodata,
        report=report,
        overwrite=overwrite,
        warn=warn,
    )
    if json:
        print_json(found.as_dict())
    else:
        _print(found)


def _print(found: "Assessment") -> None:
    accuracy = found.accuracy
    reasons = [f"{count:,} {REASONS[reason]}" for reason, count in found.left_out.items() if count]
    left_out = f" ({', '.join(reasons)})" if reasons else ""
    tell(f"{accuracy.pixels:,} pixels scored{left_out}")
    classes = len(accuracy.per_class)
    some = f" (of the {accuracy.tested} of {classes} classes that are labelled)" if accuracy.tested < classes else ""
    tell(f"OA {100 * accuracy.oa:.2f}  AA {100 * accuracy.aa:.2f}{some}  kappa x 100 {100 * accuracy.kappa:.2f}")
    if found.calibration is not None:
        tell(f"expected calibration error {100 * found.calibration.ece:.2f} %")
    if found.adjusted is not None:
        tell(_adjusted_line(found.adjusted, found.classes))
    tell("")
    _print_table(accuracy, found.classes)


def _adjusted_line(adjusted: "AreaAdjusted", classes: "Sequence[LandCoverClass]") -> str:
    """Say the area-adjusted accuracy, or why there is none."""
    if adjusted.unsampled:
        names = ", ".join(classes[value - 1].name for value in adjusted.unsampled)
        return f"area-adjusted OA: not known, no labelled pixel lies where the map shows {names}"
    oa = adjusted.oa
    width = "?" if oa.half_width != oa.half_width else f"{100 * oa.half_width:.2f}"
    return f"area-adjusted OA {100 * oa.value:.2f} +- {width} (95 %, if the labels are a random sample of the map)"


def _print_table(accuracy: "Accuracy", classes: "Sequence[LandCoverClass]") -> None:
    """Print one row a class: pixels, accuracy, and its row of the confusion matrix where a terminal has room for it."""
    from rich.cells import cell_len
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("class", no_wrap=True)
    first = 0 if accuracy.confusion[:, 0].any() else 1
    columns = range(first, len(classes) + 1) if len(classes) <= WIDEST else ()
    for title in ("pixels", "found %", *(str(value) if value else "none" for value in columns)):
        table.add_column(title, justify="right", no_wrap=True)
    for c, share, row in zip(classes, accuracy.per_class, accuracy.confusion, strict=True):
        percent = "-" if share != share else f"{100 * share:.2f}"
        counts = (str(n) if n else "." for n in (row[first:] if columns else ()))
        table.add_row(cell(f"{c.value} {c.name}"), f"{row.sum():,}", percent, *counts)
    # The matrix is never cut or wrapped: its width is that of its contents.
    names = max(cell_len(c.name) for c in classes)
    console(stderr=False, width=max(80, names + 50 + 8 * len(columns))).print(table, crop=False, soft_wrap=True)
    if not columns:
        tell(f"The confusion matrix of {len(classes):,} classes is in --json and --report")
