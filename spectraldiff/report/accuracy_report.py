"""The report of any map's accuracy: one page of HTML with all pictures inside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spectraldiff.accuracy.area_adjusted import AreaAdjusted
from spectraldiff.accuracy.assessment import Assessment
from spectraldiff.accuracy.metrics import Accuracy
from spectraldiff.report import figures, html_page, sections
from spectraldiff.report.html_page import Table, interval, percent
from spectraldiff_runtime.classes import LandCoverClass


@dataclass(frozen=True)
class AccuracyReport:
    """What the report of any map's accuracy says.

    Attributes
    ----------
    map_name, reference_name
        The files' names.
    assessment
        What `assessment.assess` returned.
    command
        The line that makes the report again.
    versions
        Of the packages that took part.
    """

    map_name: str
    reference_name: str
    assessment: Assessment
    command: str
    versions: Mapping[str, str] = field(default_factory=dict)


def write_accuracy_report(path: Path, report: AccuracyReport, overwrite: bool = False) -> None:
    """Write the report of a map's accuracy.

    Raises
    ------
    OutputError
        The file exists and `overwrite` is not set, or it cannot be written.
    """
    found = report.assessment
    content = html_page.render(
        "accuracy.html",
        title=f"Accuracy of {report.map_name}",
        subtitle=f"Compared with {report.reference_name} at {found.accuracy.pixels:,} labelled pixels",
        headline=sections.headline(found.accuracy, found.calibration),
        notes=_remarks(found),
        map={
            "wide": html_page.is_wide(found.predicted.shape),
            "drawn": html_page.raster(figures.paint(html_page.thinned(found.predicted), found.classes)),
        },
        shares=html_page.shares(found.classes, [found.predicted]),
        classes=scored_table(found.accuracy, found.classes),
        area=None if found.adjusted is None else _area(found.adjusted, found.classes, found.hectares),
        confusion=figures.confusion_matrix.png(found.accuracy, found.classes),
        confidence=sections.confidence(found.calibration, [found.confidence], "scored"),
        command=report.command,
        versions=report.versions,
    )
    html_page.write_page(path, content, overwrite)


def _remarks(found: Assessment) -> list[str]:
    """Say what was left out, and what else a reader must know."""
    counts, remarks = found.left_out, list(found.notes)
    if counts["nodata"]:
        seen = found.accuracy.pixels / (found.accuracy.pixels + counts["nodata"])
        remarks.append(
            f"The map has no data at {counts['nodata']:,} labelled pixels. They are left out: the figures hold for "
            f"the {100 * seen:.1f} % of the labelled pixels that were mapped."
        )
    if counts["excluded"]:
        remarks.append(f"{counts['excluded']:,} labelled pixels were excluded on request.")
    rejected = int(found.accuracy.confusion[:, 0].sum())
    if rejected:
        remarks.append(f"The map leaves {rejected:,} of the scored pixels unclassified. They count as wrong.")
    return remarks


def scored_table(accuracy: Accuracy, classes: Sequence[LandCoverClass]) -> Table:
    """Return the accuracy of each class; the foot has totals and means."""
    counts = accuracy.confusion.sum(axis=1)
    rows: list[list[str | LandCoverClass]] = [
        [c, f"{n:,}", percent(recall), percent(users)]
        for c, n, recall, users in zip(classes, counts, accuracy.per_class, accuracy.users, strict=True)
    ]
    foot = ["All; means", f"{accuracy.pixels:,}", percent(accuracy.aa), percent(sections.mean(accuracy.users))]
    return Table(["Class", "Labelled pixels", "Found, %", "Right, %"], rows, foot, sections.class_caption(accuracy))


def _area(adjusted: AreaAdjusted, classes: Sequence[LandCoverClass], hectares: float | None) -> dict[str, Any]:
    """Return the area-adjusted figures, and what a reader must know of them."""
    notes = []
    if hectares is None:
        notes.append(
            "Areas in hectares need a map in a CRS with one area for all pixels, such as UTM: these are shares."
        )
    if adjusted.unsampled:
        names = ", ".join(classes[value - 1].name for value in adjusted.unsampled)
        notes.append(
            f"No labelled pixel lies where the map shows {names}. What is there is not known, so that neither "
            "overall nor producer's accuracies nor areas can be estimated: label some of those pixels."
        )
    return {"overall": interval(adjusted.oa, 100, 1), "table": _area_table(adjusted, classes, hectares), "notes": notes}


def _area_table(adjusted: AreaAdjusted, classes: Sequence[LandCoverClass], hectares: float | None) -> Table:
    unit, factor, digits = ("ha", 1.0, _digits(adjusted)) if hectares else ("% of the map", 100.0, 2)
    pixels = np.array(adjusted.mapped_pixels)
    mapped = pixels * hectares if hectares else 100 * pixels / pixels.sum()
    columns = ["Class", f"Mapped, {unit}", f"Estimated, {unit}", "User's accuracy, %", "Producer's accuracy, %"]
    estimates = zip(classes, mapped, adjusted.areas or adjusted.shares, adjusted.users, adjusted.producers, strict=True)
    rows: list[list[str | LandCoverClass]] = [
        [
            c,
            f"{area:,.{digits}f}",
            interval(estimated, factor, digits),
            interval(users, 100, 1),
            interval(producers, 100, 1),
        ]
        for c, area, estimated, users, producers in estimates
    ]
    return Table(columns, rows, ["All", f"{mapped.sum():,.{digits}f}", "", "", ""])


def _digits(adjusted: AreaAdjusted) -> int:
    """Return how many decimals areas need so that the smallest interval keeps two figures."""
    widths = [e.half_width for e in adjusted.areas or () if e.half_width > 0]
    return max(0, min(4, 1 - int(np.floor(np.log10(min(widths)))))) if widths else 2
