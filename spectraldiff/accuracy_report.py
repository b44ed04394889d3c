"""The report of any map's accuracy: one page of HTML with all pictures inside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spectraldiff import figures, page, sections
from spectraldiff.area_adjusted import AreaAdjusted
from spectraldiff.assessment import Assessment
from spectraldiff.metrics import Accuracy
from spectraldiff.page import Column, Html
from spectraldiff_runtime.class_map import LandCoverClass

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
    content = page.page(
        f"Accuracy of {report.map_name}",
        f"Compared with {report.reference_name} at {found.accuracy.pixels:,} labelled pixels",
        sections.headline(found.accuracy, found.calibration, {}),
        *map(page.note, _remarks(found)),
        page.section("Map", _one_map(found)),
        page.section("Accuracy of each class", _scored_table(found.accuracy, found.classes)),
        _area_section(found),
        sections.confusion(found.accuracy, found.classes),
        sections.confidence(found.calibration, [found.confidence], "scored"),
        page.section("How to reproduce", page.element("pre", page.text(report.command)), page.facts(report.versions)),
        foot=sections.FOOT,
    )
    page.write_page(path, content, overwrite)


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
    drawn = page.raster(figures.paint(page.thinned(found.predicted), found.classes), "Class map")
    return page.side_by_side(found.predicted.shape, drawn, page.legend(found.classes, [found.predicted]))


def _scored_table(accuracy: Accuracy, classes: Sequence[LandCoverClass]) -> Html:
    columns = [Column("Class", False), Column("Labelled pixels"), Column("Found, %"), Column("Right, %")]
    counts = accuracy.confusion.sum(axis=1)
    rows = [
        [page.named(c), page.text(f"{n:,}"), page.percent(recall), page.percent(users)]
        for c, n, recall, users in zip(classes, counts, accuracy.per_class, accuracy.users, strict=True)
    ]
    means = page.percent(accuracy.aa), page.percent(sections.mean(accuracy.users))
    rows.append([page.text("All; means"), page.text(f"{accuracy.pixels:,}"), *means])
    return page.table(columns, rows, sections.class_caption(accuracy), foot=True)


def _area_section(found: Assessment) -> Html:
    adjusted = found.adjusted
    if adjusted is None:
        return Html("")
    overall = page.join((page.text("Overall accuracy: "), page.interval(adjusted.oa, 100, 1), page.text(" %")))
    parts = [
        page.paragraph(AREA_WORDS),
        page.element("p", page.element("strong", overall)),
        _area_table(adjusted, found.classes, found.hectares),
    ]
    if found.hectares is None:
        parts.append(
            page.paragraph(
                "Areas in hectares need a map in a CRS with one area for all pixels, such as UTM: these are shares.",
                "note",
            )
        )
    if adjusted.unsampled:
        names = ", ".join(found.classes[value - 1].name for value in adjusted.unsampled)
        parts.append(
            page.paragraph(
                f"No labelled pixel lies where the map shows {names}. What is there is not known, so that neither "
                "overall nor producer's accuracies nor areas can be estimated: label some of those pixels.",
                "note",
            )
        )
    return page.section("Area-adjusted accuracy and areas", *parts)


def _area_table(adjusted: AreaAdjusted, classes: Sequence[LandCoverClass], hectares: float | None) -> Html:
    unit, factor, digits = ("ha", 1.0, _digits(adjusted)) if hectares else ("% of the map", 100.0, 2)
    pixels = np.array(adjusted.mapped_pixels)
    mapped = pixels * hectares if hectares else 100 * pixels / pixels.sum()
    columns = [Column("Class", False), Column(f"Mapped, {unit}"), Column(f"Estimated, {unit}")]
    columns += [Column("User's accuracy, %"), Column("Producer's accuracy, %")]
    estimates = zip(classes, mapped, adjusted.areas or adjusted.shares, adjusted.users, adjusted.producers, strict=True)
    rows = [
        [
            page.named(c),
            page.text(f"{area:,.{digits}f}"),
            page.interval(estimated, factor, digits),
            page.interval(users, 100, 1),
            page.interval(producers, 100, 1),
        ]
        for c, area, estimated, users, producers in estimates
    ]
    total = page.text(f"{mapped.sum():,.{digits}f}")
    rows.append([page.text("All"), total, *[page.text("")] * 3])
    return page.table(columns, rows, foot=True)


def _digits(adjusted: AreaAdjusted) -> int:
    """Return how many decimals areas need so that the smallest interval keeps two figures."""
    widths = [e.half_width for e in adjusted.areas or () if e.half_width > 0]
    return max(0, min(4, 1 - int(np.floor(np.log10(min(widths)))))) if widths else 2
