"""The report of a run: one page of HTML with all pictures inside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff.accuracy.independent_test import IndependentLabels
from spectraldiff.accuracy.interval import Interval
from spectraldiff.accuracy.mapped_scene import MappedScene, drawn_scenes
from spectraldiff.accuracy.metrics import Accuracy, Calibration
from spectraldiff.ensemble.prior import OF_TRAINING_PIXELS, Prior
from spectraldiff.report import figures, html_page, sections
from spectraldiff.report.html_page import Figure, Table, percent
from spectraldiff.splits.label_counts import missing_classes
from spectraldiff.wording import listed
from spectraldiff_runtime.classes import LandCoverClass

if TYPE_CHECKING:  # it imports PyTorch, which a report does without
    from spectraldiff.ensemble.outside import OutsideFit
    from spectraldiff.ensemble.selection import Selection


@dataclass(frozen=True)
class Report:
    """What a run's report says.

    Attributes
    ----------
    scenes
        One or more, with the same classes; those without labels are not mapped.
    accuracy
        On the test pixels of all scenes.
    interval
        Of the overall accuracy; None where there is none.
    raw_accuracy
        Of the same classifier on raw bands; None where it was not trained.
    calibration
        Confidence against accuracy on the test pixels; None where it is not known.
    leakage
        The share of test pixels whose window holds a training pixel, 0..1; None where it is not known.
    window
        Side of that window, in pixels.
    selection
        How the ensemble was chosen; None where nothing was.
    prior
        The shares of the classes that the map assumes.
    other
        `accuracy` if the other prior was assumed; None where it is not known.
    trained_on
        What trained the model that is kept where that is all labels; else empty.
    test
        Independent test labels; None where there are none.
    outside
        How the distance from the training was chosen; None where the model has none.
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
    interval: Interval | None = None
    raw_accuracy: Accuracy | None = None
    calibration: Calibration | None = None
    leakage: float | None = None
    selection: "Selection | None" = None
    prior: Prior = OF_TRAINING_PIXELS
    other: Accuracy | None = None
    trained_on: str = ""
    test: IndependentLabels | None = None
    outside: "OutsideFit | None" = None
    histories: Mapping[str, Sequence[float]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def mapped(self) -> list[MappedScene]:
        """The scenes that are mapped: those with labels."""
        return [one for one in self.scenes if one.scene.labelled]

    @property
    def drawn(self) -> list[MappedScene]:
        """The scenes whose maps are drawn."""
        return [self.scenes[index] for index in drawn_scenes(self.scenes)]

    @property
    def classes(self) -> tuple[LandCoverClass, ...]:
        """The K classes."""
        return self.scenes[0].scene.classes

    @property
    def measured(self) -> str:
        """How the accuracy is measured where folds are held out, such as ``"5 folds of polygons"``; else empty."""
        return self.scenes[0].split.measured

    @property
    def tested(self) -> str:
        """What the scored pixels are called: ``"test"`` or ``"held-out"``."""
        return "held-out" if self.measured else "test"


def write_report(path: Path, report: Report) -> None:
    """Write the report of a run; one that is there is replaced.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    names = listed((mapped.scene.name for mapped in report.mapped), 3)
    height, width, bands = report.scenes[0].scene.cube.shape
    several = f"{len(report.scenes):,} scenes, " if len(report.scenes) > 1 else ""
    size = several or f"{height:,} \N{MULTIPLICATION SIGN} {width:,} pixels, "
    pictures = [mapped.picture for mapped in report.drawn]
    content = html_page.render(
        "run.html",
        title=f"{names}: land-cover map",
        subtitle=f"{size}{bands} bands; {_measured(report)}",
        headline=_headline(report),
        notes=report.notes,
        scenes=_scene_table(report) if several else None,
        maps=_maps(report),
        shares=html_page.shares(
            report.classes,
            [m.picture.classes[m.picture.classes > 0] if m.drawn else m.predicted for m in report.mapped],
        ),
        split=_split(report),
        split_words=_split_words(report),
        prior=_prior(report),
        test=None if report.test is None else _test(report.test, report.scenes[0].predicted),
        classes=_class_table(report),
        confusion=figures.confusion_matrix.png(report.accuracy, report.classes),
        confidence=sections.confidence(report.calibration, [one.confidence for one in pictures], report.tested),
        ensemble=None if report.selection is None else _ensemble(report.selection),
        outside=None if report.outside is None else _outside(report.outside, report.mapped),
        curves={
            name: figures.loss_curve.png(list(enumerate(values, start=1)), name)
            for name, values in report.histories.items()
        },
        **_origin(report),
    )
    html_page.write_page(path, content, overwrite=True)


def _headline(report: Report) -> list[Figure]:
    raw = report.raw_accuracy
    more = [] if raw is None else [Figure("OA on raw bands", percent(raw.oa), "%")]
    return [*sections.headline(report.accuracy, report.calibration, report.interval), *more]


def _maps(report: Report) -> list[dict[str, Any]]:
    several = len(report.scenes) > 1
    found = []
    for mapped in report.drawn:
        picture = mapped.picture
        colours = figures.false_colour(picture.cube, picture.wavelengths, valid=picture.valid)
        found.append(
            {
                "prefix": f"{mapped.scene.name}: " if several else "",
                "wide": html_page.is_wide(picture.classes.shape),
                "colours": html_page.raster(colours),
                "drawn": html_page.raster(figures.paint(picture.classes, report.classes)),
            }
        )
    return found


def _scene_table(report: Report) -> Table:
    """One row a scene: size, pixels on either side, accuracy, and the classes that it has no label of."""
    rows: list[list[str | LandCoverClass]] = []
    for mapped in report.scenes:
        (height, width), scene, split = mapped.scene.cube.shape[:2], mapped.scene, mapped.split
        scored = mapped.reference > 0
        judged = mapped.predicted if mapped.judged is None else mapped.judged.classes
        right = percent(float((judged == mapped.reference)[scored].mean())) if scored.any() else html_page.ABSENT
        counts = [int((scene.labels_with_data > 0).sum()), int(split.train.sum()), int(scored.sum())]
        missing = missing_classes(scene)
        without = "any class: trained the denoiser alone" if len(missing) == len(report.classes) else listed(missing)
        size = f"{height:,} \N{MULTIPLICATION SIGN} {width:,}"
        rows.append([scene.name, size, *(f"{count:,}" for count in counts), right, without])
    columns = ["Scene", "Pixels", "Labelled", "Training", report.tested.capitalize(), "OA, %", "No label of"]
    some = f"Maps are drawn of the {len(report.drawn)} that test most." if len(report.drawn) < len(rows) else ""
    return Table(columns, rows, caption=some)


def _measured(report: Report) -> str:
    """Say on which pixels the accuracy was measured, and what the model has trained on."""
    kept = f"; {report.trained_on}" if report.trained_on else ""
    if report.measured:
        return f"accuracy by {report.measured}{kept}"
    return f"accuracy on {report.accuracy.pixels:,} labelled pixels that were never trained on{kept}"


def _split_words(report: Report) -> str:
    """Say in plain words what the split means for the figures."""
    if report.measured:
        return (
            f"The figures are those of {report.measured}: each labelled pixel was classified by models, and with "
            "weights, that had not seen its fold. The model of the map has then trained on all labelled pixels, so "
            "that it has seen more than any of those; the map's classes there say nothing of its accuracy."
        )
    words = "" if report.leakage is None else _leak(report.leakage, report.window)
    if report.trained_on:
        first = "The figures are those of a model of the training pixels alone; the map's model was trained anew"
        words = f"{first}: {report.trained_on}. {words}"
    return words


def _prior(report: Report) -> dict[str, Any]:
    """Say which shares of the classes the map assumes, and what others would give."""
    each = [(report.prior, report.accuracy), (report.prior.other, report.other)]
    rows: list[list[str | LandCoverClass]] = [
        [prior.title, percent(one.oa), percent(one.aa)] for prior, one in each if one is not None
    ]
    words = (
        f"The map assumes {report.prior.title}. A map has the fewest errors in all where its prior is the classes' "
        "shares of the area; equal shares find more pixels of rare classes and fewer of common ones."
    )
    return {"words": words, "table": Table(["Prior", "OA, %", "AA, %"], rows)}


def _test(test: IndependentLabels, predicted: NDArray[Any]) -> dict[str, Any]:
    """Return the accuracy of the map on independent test labels."""
    accuracy = test.score(predicted)
    rows: list[list[str | LandCoverClass]] = [
        [c, f"{int(pixels):,}", percent(recall), percent(users)]
        for c, pixels, recall, users in zip(
            test.classes, accuracy.confusion.sum(axis=1), accuracy.per_class, accuracy.users, strict=True
        )
    ]
    foot = ["All; means", f"{accuracy.pixels:,}", percent(accuracy.aa), percent(sections.mean(accuracy.users))]
    caption = sections.class_caption(accuracy)
    return {
        "headline": sections.headline(accuracy, None, test.interval(predicted)),
        "table": Table(["Class", "Test", "Found, %", "Right, %"], rows, foot, caption),
    }


def _split(report: Report) -> dict[str, object]:
    split = report.scenes[0].split
    train = sum(int(m.split.train.sum()) for m in report.scenes)
    rows: dict[str, object] = {
        "Split": split.name,
        "Seed": split.seed,
        "Training pixels": f"{train:,}",
        f"{report.tested.capitalize()} pixels": f"{report.accuracy.pixels:,}",
    }
    if report.leakage is not None:
        rows["Leakage"] = f"{100 * report.leakage:.1f} % of the test pixels"
    return rows


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


def _class_table(report: Report) -> Table:
    """One row a class; the foot has totals and means."""
    train = sum(np.bincount(m.scene.labels[m.split.train], minlength=len(report.classes) + 1) for m in report.scenes)
    accuracy, raw = report.accuracy, report.raw_accuracy
    columns = ["Class", "Training", report.tested.capitalize(), "Found, %", "Right, %"]
    rows: list[list[str | LandCoverClass]] = [
        [c, f"{int(np.asarray(train)[c.value]):,}", f"{pixels:,}", percent(recall), percent(users)]
        for c, pixels, recall, users in zip(
            report.classes, accuracy.confusion.sum(axis=1), accuracy.per_class, accuracy.users, strict=True
        )
    ]
    foot = ["All; means", f"{int(np.sum(train)):,}", f"{accuracy.pixels:,}"]
    foot += [percent(accuracy.aa), percent(sections.mean(accuracy.users))]
    if raw is not None:
        columns.append("Found on raw bands, %")
        rows = [[*row, percent(share)] for row, share in zip(rows, raw.per_class, strict=True)]
        foot.append(percent(raw.aa))
    return Table(columns, rows, foot, sections.class_caption(accuracy))


def _ensemble(selection: "Selection") -> dict[str, Any]:
    """Say in a paragraph and a table which members were chosen, and why."""
    rows: list[list[str | LandCoverClass]] = [
        [member.title, f"{member.loss:.3f}", percent(member.share) if member.share else html_page.ABSENT]
        for member in selection.members
    ]
    caption = "All candidates, by their share of the ensemble's scores. Those without are no part of the model."
    return {
        "words": " ".join(selection.lines()),
        "table": Table(["Member", "Held-out loss", "Share, %"], rows, caption=caption),
    }


def _outside(fit: "OutsideFit", scenes: Sequence[MappedScene]) -> dict[str, Any]:
    """Draw how far pixels are from the training, and say what it means."""
    layers = [one for one in (m.picture.outside for m in scenes) if one is not None]
    shown = [scenes[index].picture.outside for index in drawn_scenes(scenes)]
    maps = [figures.outside_map.png(html_page.thinned(one), "Unlike the training") for one in shown if one is not None]
    return {"words": " ".join(fit.lines(layers)), "maps": maps}


def _origin(report: Report) -> dict[str, Any]:
    """Return how the run was made: command, recipe, times, versions, data."""
    scenes = [m.scene for m in report.scenes]
    times = {name.capitalize(): html_page.duration(seconds) for name, seconds in report.seconds.items()}
    if times:
        times["Together"] = html_page.duration(sum(report.seconds.values()))
    return {
        "command": report.command,
        "recipe": (report.facts, times, report.versions),
        "credit": [text for text in dict.fromkeys(t for s in scenes for t in (s.attribution, s.note)) if text],
    }
