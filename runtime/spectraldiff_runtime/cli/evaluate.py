"""`sdiff evaluate`: the accuracy of a map at labelled pixels."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Json, print_json, training_package, warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spectraldiff.metrics import Accuracy

    from ..class_map import LandCoverClass


def evaluate(
    classes: Annotated[Path, typer.Argument(help="Class map, as `sdiff map` writes it.")],
    labels: Annotated[Path, typer.Option("--labels", help="Raster of labels on the same grid.")],
    exclude: Annotated[
        Path | None,
        typer.Option(
            "--exclude",
            help="Raster whose nonzero pixels are left out, such as a run's train_pixels.tif.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Compare a class map with labels: OA, AA, kappa, accuracy of each class, confusion matrix.

    Unclassified pixels (0) of the map count as wrong.
    """
    with training_package("evaluate"):
        from spectraldiff.labels import read_labels
        from spectraldiff.metrics import score
    predicted, place = read_labels(classes)
    reference = _on_grid("the labels", labels, predicted.shape, place)
    labelled = int((reference > 0).sum())
    if exclude is not None:
        reference[_on_grid("the pixels to exclude", exclude, predicted.shape, place) > 0] = 0
    named = _classes(labels, classes, int(max(reference.max(), predicted.max())))
    accuracy = score(reference, predicted, len(named))
    excluded = labelled - accuracy.pixels
    if json:
        names = [c.name for c in named]
        print_json({**accuracy.as_dict(), "classes": names, "excluded_pixels": excluded})
    else:
        _print(accuracy, named, excluded)


def _on_grid(name: str, path: Path, shape: tuple[int, ...], place: Any) -> Any:
    """Read labels that must lie on the map's grid."""
    from spectraldiff.labels import check_grids, read_labels

    values, found = read_labels(path)
    check_grids(name, values.shape, found, "the map", shape, place)
    return values


def _classes(labels: Path, classes: Path, count: int) -> "tuple[LandCoverClass, ...]":
    """Return the classes 1..K, named by the labels, else by the map; warn where they disagree."""
    from spectraldiff.labels import classes_of

    from ..class_map import read_classes

    of_labels, of_map = ({c.value: c.name for c in read_classes(path)} for path in (labels, classes))
    for value in sorted(of_labels.keys() & of_map.keys()):
        if of_labels[value] != of_map[value]:
            warn(f"class {value} is '{of_labels[value]}' in {labels} and '{of_map[value]}' in {classes}")
            break
    return classes_of(labels if of_labels else classes, max(count, *of_labels, *of_map, 0))


def _print(accuracy: "Accuracy", classes: "Sequence[LandCoverClass]", excluded: int) -> None:
    left_out = f" ({excluded:,} excluded)" if excluded else ""
    typer.echo(f"{accuracy.pixels:,} pixels scored{left_out}")
    typer.echo(f"OA {100 * accuracy.oa:.2f}  AA {100 * accuracy.aa:.2f}  kappa x 100 {100 * accuracy.kappa:.2f}\n")
    _print_table(accuracy, classes)


def _print_table(accuracy: "Accuracy", classes: "Sequence[LandCoverClass]") -> None:
    """Print one row a class: pixels, accuracy, and its row of the confusion matrix."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("class", no_wrap=True)
    first = 0 if accuracy.confusion[:, 0].any() else 1
    columns = range(first, len(classes) + 1)
    for title in ("pixels", "found %", *(str(value) if value else "none" for value in columns)):
        table.add_column(title, justify="right", no_wrap=True)
    for c, share, row in zip(classes, accuracy.per_class, accuracy.confusion, strict=True):
        percent = "-" if share != share else f"{100 * share:.2f}"
        counts = (str(n) if n else "." for n in row[first:])
        table.add_row(f"{c.value} {c.name}", f"{row.sum():,}", percent, *counts)
    # The matrix is never cut or wrapped: its width is that of its contents.
    console = Console(width=max(80, 60 + 8 * len(classes)), highlight=False)
    console.print(table, crop=False, soft_wrap=True)
