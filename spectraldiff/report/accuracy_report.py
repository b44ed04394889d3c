"""The report of any map's accuracy: one page of HTML with all pictures inside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spectraldiff.accuracy.area_adjusted import AreaAdjusted
from spectraldiff.accuracy.assessment import Assessment
from spectraldiff.accuracy.metrics import Accuracy
from spectraldiff.report import figures, html_page, sections
from spectraldiff.report.html_page import Column, Html
from spectraldiff_runtime.classes import LandCoverClass

AREA_WORDS = (
    "Each value with its 95 % confidence interval, weighed by how many pixels the whole map gives each class "
    "(Olofsson et al. 2014, Remote Sensing of Environment 148, 42\N{EN DASH}57). It holds for the area that the map "
    "classifies, and takes the labelled pixels for a random sample of it, drawn as a whole or in each map class. "
    "Pixels of hand-drawn polygons, or what is left of them after training, are no such sample: their intervals are "
    "too narrow. An interval of 0 says that the sample holds no error, not that the map does."
)


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
    content = html_page.page(
        f"Accuracy of {report.map_name}",
        f"Compared with {report.reference_name} at {found.accuracy.pixels:,} labelled pixels",
        sections.headline(found.accuracy, found.calibration, {}),
        *map(html_page.note, _remarks(found)),
        html_page.section("Map", _one_map(found)),
        html_page.section("Accuracy of each class", _scored_table(found.accuracy, found.classes)),
        _area_section(found),
        sections.confusion(found.accuracy, found.classes),
        sections.confidence(found.calibration, [found.confidence], "scored"),
        html_page.section(
            "How to reproduce",
            html_page.element("pre", html_page.text(report.command)),
            html_page.facts(report.versions),
        ),
        foot=sections.FOOT,
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


def _one_map(found: Assessment) -> Html:
    drawn = html_page.raster(figures.paint(html_page.thinned(found.predicted), found.classes), "Class map")
    return html_page.side_by_side(found.predicted.shape, drawn, html_page.legend(found.classes, [found.predicted]))


def _scored_table(accuracy: Accuracy, classes: Sequence[LandCoverClass]) -> Html:
    columns = [Column("Class", False), Column("Labelled pixels"), Column("Found, %"), Column("Right, %")]
    counts = accuracy.confusion.sum(axis=1)
    rows = [
        [html_page.named(c), html_page.text(f"{n:,}"), html_page.percent(recall), html_page.percent(users)]
        for c, n, recall, users in zip(classes, counts, accuracy.per_class, accuracy.users, strict=True)
    ]
    means = html_page.percent(accuracy.aa), html_page.percent(sections.mean(accuracy.users))
    rows.append([html_page.text("All; means"), html_page.text(f"{accuracy.pixels:,}"), *means])
    return html_page.table(columns, rows, sections.class_caption(accuracy), foot=True)


def _area_section(found: Assessment) -> Html:
    adjusted = found.adjusted
    if adjusted is None:
        return Html("")
    overall = html_page.join(
        (html_page.text("Overall accuracy: "), html_page.interval(adjusted.oa, 100, 1), html_page.text(" %"))
    )
    parts = [
        html_page.paragraph(AREA_WORDS),
        html_page.element("p", html_page.element("strong", overall)),
        _area_table(adjusted, found.classes, found.hectares),
    ]
    if found.hectares is None:
        parts.append(
            html_page.paragraph(
                "Areas in hectares need a map in a CRS with one area for all pixels, such as UTM: these are shares.",
                "note",
            )
        )
    if adjusted.unsampled:
        names = ", ".join(found.classes[value - 1].name for value in adjusted.unsampled)
        parts.append(
            html_page.paragraph(
                f"No labelled pixel lies where the map shows {names}. What is there is not known, so that neither "
                "overall nor producer's accuracies nor areas can be estimated: label some of those pixels.",
                "note",
            )
        )
    return html_page.section("Area-adjusted accuracy and areas", *parts)


def _area_table(adjusted: AreaAdjusted, classes: Sequence[LandCoverClass], hectares: float | None) -> Html:
    unit, factor, digits = ("ha", 1.0, _digits(adjusted)) if hectares else ("% of the map", 100.0, 2)
    pixels = np.array(adjusted.mapped_pixels)
    mapped = pixels * hectares if hectares else 100 * pixels / pixels.sum()
    columns = [Column("Class", False), Column(f"Mapped, {unit}"), Column(f"Estimated, {unit}")]
    columns += [Column("User's accuracy, %"), Column("Producer's accuracy, %")]
    estimates = zip(classes, mapped, adjusted.areas or adjusted.shares, adjusted.users, adjusted.producers, strict=True)
    rows = [
        [
            html_page.named(c),
            html_page.text(f"{area:,.{digits}f}"),
            html_page.interval(estimated, factor, digits),
            html_page.interval(users, 100, 1),
            html_page.interval(producers, 100, 1),
        ]
        for c, area, estimated, users, producers in estimates
    ]
    total = html_page.text(f"{mapped.sum():,.{digits}f}")
    rows.append([html_page.text("All"), total, *[html_page.text("")] * 3])
    return html_page.table(columns, rows, foot=True)


def _digits(adjusted: AreaAdjusted) -> int:
    """Return how many decimals areas need so that the smallest interval keeps two figures."""
    widths = [e.half_width for e in adjusted.areas or () if e.half_width > 0]
    return max(0, min(4, 1 - int(np.floor(np.log10(min(widths)))))) if widths else 2
