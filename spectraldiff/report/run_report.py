"""The report of a run: one page of HTML with all pictures inside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spectraldiff.accuracy.mapped_scene import MappedScene
from spectraldiff.accuracy.metrics import Accuracy, Calibration
from spectraldiff.report import figures, html_page, sections
from spectraldiff.report.html_page import Column, Html
from spectraldiff_runtime.classes import LandCoverClass


@dataclass(frozen=True)
class Report:
    """What a run's report says.

    Attributes
    ----------
    scenes
        One or more, with the same classes.
    accuracy
        On the test pixels of all scenes.
    raw_accuracy
        Of the same classifier on raw bands; None where it was not trained.
    calibration
        Confidence against accuracy on the test pixels; None where it is not known.
    leakage
        The share of test pixels whose window holds a training pixel, 0..1; None where it is not known.
    window
        Side of that window, in pixels.
    histories
        The loss of each step, by what the curve is called: ``{"denoiser, L1 on the noise": [...]}``.
    seconds
        Wall time of each stage.
    facts
        What else belongs to the recipe: preset, features, device, seed.
    versions
        Of the packages that took part.
    command
        The line that makes this run again; empty where it is not known.
    notes
        Warnings of the run, one line each.
    """

    scenes: Sequence[MappedScene]
    accuracy: Accuracy
    command: str
    window: int
    raw_accuracy: Accuracy | None = None
    calibration: Calibration | None = None
    leakage: float | None = None
    histories: Mapping[str, Sequence[float]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def classes(self) -> tuple[LandCoverClass, ...]:
        """The K classes."""
        return self.scenes[0].scene.classes


def write_report(path: Path, report: Report) -> None:
    """Write the report of a run; one that is there is replaced.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    names = ", ".join(mapped.scene.name for mapped in report.scenes)
    height, width, bands = report.scenes[0].scene.cube.shape
    size = f"{height:,} \N{MULTIPLICATION SIGN} {width:,} pixels, " if len(report.scenes) == 1 else ""
    subtitle = f"{size}{bands} bands; accuracy on {report.accuracy.pixels:,} labelled pixels that were never trained on"
    content = html_page.page(
        f"{names}: land-cover map",
        subtitle,
        sections.headline(report.accuracy, report.calibration, _raw_tile(report.raw_accuracy)),
        *map(html_page.note, report.notes),
        _maps(report),
        html_page.section("Split and leakage", *_split(report)),
        html_page.section("Accuracy of each class", _class_table(report)),
        sections.confusion(report.accuracy, report.classes),
        sections.confidence(report.calibration, [m.confidence for m in report.scenes], "test"),
        _curves(report.histories),
        _origin(report),
        foot=sections.FOOT,
    )
    html_page.write_page(path, content, overwrite=True)


def _raw_tile(raw: Accuracy | None) -> dict[str, Html]:
    if raw is None:
        return {}
    return {
        "OA on raw bands": html_page.join((html_page.percent(raw.oa), html_page.element("small", html_page.text(" %"))))
    }


def _maps(report: Report) -> Html:
    several = len(report.scenes) > 1
    rows = []
    for mapped in report.scenes:
        scene, name = mapped.scene, f"{mapped.scene.name}: " if several else ""
        colours = figures.false_colour(scene.cube, scene.wavelengths, valid=scene.valid)
        rows.append(
            html_page.side_by_side(
                mapped.predicted.shape,
                html_page.raster(colours, f"{name}Scene in false colour"),
                html_page.raster(figures.paint(mapped.predicted, report.classes), f"{name}Map"),
            )
        )
    return html_page.section("Map", *rows, html_page.legend(report.classes, [m.predicted for m in report.scenes]))


def _split(report: Report) -> list[Html]:
    split = report.scenes[0].split
    train = sum(int(m.split.train.sum()) for m in report.scenes)
    rows: dict[str, object] = {
        "Split": split.name,
        "Seed": split.seed,
        "Training pixels": f"{train:,}",
        "Test pixels": f"{report.accuracy.pixels:,}",
    }
    if report.leakage is None:
        return [html_page.facts(rows)]
    rows["Leakage"] = f"{100 * report.leakage:.1f} % of the test pixels"
    return [html_page.facts(rows), html_page.paragraph(_leak(report.leakage, report.window))]


def _leak(leakage: float, window: int) -> str:
    """Say in plain words what the leakage means."""
    side = f"{window} \N{MULTIPLICATION SIGN} {window}"
    if leakage == 0:
        return (
            f"No test pixel has a training pixel in its window of {side} pixels, so the figures say how well "
            "the model does in areas that it was not trained on."
        )
    return (
        f"{100 * leakage:.1f} % of the test pixels have a training pixel in the window of {side} pixels that the model "
        "looks at: it has seen part of what it is asked. The figures say how well the map fills the gaps between "
        "its training pixels. They are too good for areas farther away, which --split disjoint stands for."
    )


def _class_table(report: Report) -> Html:
    """One row a class; the last row has totals and means."""
    train = sum(np.bincount(m.scene.labels[m.split.train], minlength=len(report.classes) + 1) for m in report.scenes)
    accuracy, raw = report.accuracy, report.raw_accuracy
    columns = [Column("Class", False), Column("Training"), Column("Test"), Column("Found, %"), Column("Right, %")]
    rows = []
    for c, pixels, recall, users in zip(
        report.classes, accuracy.confusion.sum(axis=1), accuracy.per_class, accuracy.users, strict=True
    ):
        count = int(np.asarray(train)[c.value])
        cells = [
            html_page.named(c),
            html_page.text(f"{count:,}"),
            html_page.text(f"{pixels:,}"),
            html_page.percent(recall),
        ]
        rows.append([*cells, html_page.percent(users)])
    total = html_page.text(f"{int(np.sum(train)):,}"), html_page.text(f"{accuracy.pixels:,}")
    rows.append(
        [
            html_page.text("All; means"),
            *total,
            html_page.percent(accuracy.aa),
            html_page.percent(sections.mean(accuracy.users)),
        ]
    )
    if raw is not None:
        columns.append(Column("Found on raw bands, %"))
        for row, share in zip(rows, (*raw.per_class, raw.aa), strict=True):
            row.append(html_page.percent(share))
    return html_page.table(columns, rows, sections.class_caption(accuracy), foot=True)


def _curves(histories: Mapping[str, Sequence[float]]) -> Html:
    drawn = [
        html_page.picture(figures.loss_curve.png(list(enumerate(values, start=1)), name), f"Loss curve: {name}")
        for name, values in histories.items()
    ]
    return html_page.section("Training", html_page.element("div", *drawn, class_="pair")) if drawn else Html("")


def _origin(report: Report) -> Html:
    """Return how the run was made: command, recipe, times, versions, data."""
    scenes = [m.scene for m in report.scenes]
    credit = [html_page.paragraph(t) for t in dict.fromkeys(t for s in scenes for t in (s.attribution, s.note)) if t]
    times = {name.capitalize(): html_page.duration(seconds) for name, seconds in report.seconds.items()}
    if times:
        times["Together"] = html_page.duration(sum(report.seconds.values()))
    tables = [html_page.facts(rows) for rows in (report.facts, times, report.versions) if rows]
    command = [html_page.element("pre", html_page.text(report.command))] if report.command else []
    return html_page.section("How to reproduce", *command, html_page.element("div", *tables, class_="pair"), *credit)
