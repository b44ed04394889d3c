"""From a finished run to a taught student: the ground, two courses, and what was found on the way.

The first course leaves out a fifth of the ground, on which the student is then judged.  The second goes on with all of
it: this student is in the file.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectraldiff.data.cube import SceneCube
from spectraldiff.data.scene import LabelledScene
from spectraldiff.models.classifier import Classifier
from spectraldiff.models.pca import fit_pca
from spectraldiff.training.data_digest import check_unchanged, data_digests
from spectraldiff.training.request import Request
from spectraldiff.training.run_folder import DATA, REQUEST, RunFolder
from spectraldiff_export.compact.check import Comparison, compared, fit_temperature, reasons, refuse
from spectraldiff_export.compact.facts import CompactFacts, TaughtScene
from spectraldiff_export.compact.ground import GroundScene, Patch, choose_windows, show
from spectraldiff_export.compact.novelty import fit_novelty
from spectraldiff_export.compact.student import Student, StudentShape
from spectraldiff_export.compact.teaching import STEPS, Lessons, teach
from spectraldiff_runtime.errors import SceneError, UsageError
from spectraldiff_runtime.mapping.request import SourceOptions
from spectraldiff_runtime.model.card import PRECISIONS, ModelCard
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.scene.mark import scene_mark
from spectraldiff_runtime.scene.nodata import NODATA_OF_FILE
from spectraldiff_runtime.window import Window


@dataclass(frozen=True)
class CompactOptions:
    """What a compact model is asked for.

    Attributes
    ----------
    scenes
        Further scenes that it is to map, which need no labels.
    force
        Whether it is taken whatever the check finds.
    shape
        The student's.
    """

    scenes: tuple[str, ...] = ()
    force: bool = False
    shape: StudentShape = field(default_factory=StudentShape)


@dataclass(frozen=True)
class Reports:
    """Whom the progress is told: the title, unit and total of each stage, how far it is, and warnings."""

    begin: Callable[..., None] = lambda *_: None
    update: Callable[..., None] = lambda *_: None
    warn: Callable[[str], None] = lambda _: None


SILENT = Reports()
TILE = 32  # pixels along the side of what a file is verified on, without the halo


def compact_options(compact: bool, scenes: Sequence[str | os.PathLike[str]], force: bool) -> CompactOptions | None:
    """Return what a compact model is asked for, None for a full one; UsageError for its options without it."""
    if not compact and (scenes or force):
        given = [name for name, value in (("--scenes", scenes), ("--force", force)) if value]
        raise UsageError(f"{' and '.join(given)} without --compact: only a compact model is taught; add --compact")
    return CompactOptions(tuple(map(str, scenes)), force) if compact else None


def check_compact(precision: str, program: str | None) -> None:
    """Refuse a compact model in a lower precision, or for another program."""
    if precision != PRECISIONS[0] or program is not None:
        given = f"--precision {precision}" if precision != PRECISIONS[0] else f"--for {program}"
        raise UsageError(
            f"--compact with {given}: a compact model is written in fp32, for `sdiff map`; give one of both"
        )


def compacted(
    run: RunFolder,
    classifier: Classifier,
    card: ModelCard,
    options: CompactOptions,
    opened: Callable[[], AbstractContextManager[Model]],
    reports: Reports,
) -> tuple[Student, ModelCard, CompactFacts, Tensor]:
    """Teach a student what a run's model knows of its scenes and of others.

    Parameters
    ----------
    run, classifier, card
        A finished run, its model and its card.
    options
        What is asked for.
    opened
        Opens the full model's exported file.
    reports
        Told the progress.

    Returns
    -------
    tuple
        The student; its card; how it compares; and raw tiles, (n, B, T, T), to verify its file on.

    Raises
    ------
    RunError
        The run's data have changed.
    SceneError
        A scene cannot be read, or does not fit the model.
    VerificationError
        The student is refused, see `spectraldiff_export.compact.check`.
    """
    reports.begin("Scenes")
    ground, independent = ground_of(run, card, options.scenes, reports.warn)
    choices = choose_windows(ground, options.shape.halo)
    reports.begin("Full model on the ground", "windows", sum(len(choice.windows) for choice in choices))
    with opened() as teacher:
        patches = show(ground, choices, teacher, classifier.fill, options.shape.halo, reports.update)
    student, held, shown = _taught(classifier, patches, options, all(choice.whole for choice in choices), reports)
    if teacher.outside:
        found = fit_novelty(student, [patch for patch in patches if ground[patch.scene].train is not None])
        student.outside = None if found is None else found.module
    facts = CompactFacts(
        scenes=tuple(
            TaughtScene(one.scene.name, _mark(one.scene), len(choice.windows), choice.whole, *compared)
            for one, choice, *compared in zip(ground, choices, held[:-1], shown[:-1], strict=True)
        ),
        held_out=held[-1],
        shown=shown[-1],
        temperature=float(student.temperature),
        labelled="test pixels" if independent else "training pixels",
    )
    against = reasons([(one.name, one.held_out) for one in facts.scenes], facts.shown)
    if not options.force:
        refuse(against)
    facts = replace(facts, forced=tuple(against))
    return student, _card(card, student, facts), facts, _tiles(patches, options.shape.halo)


def _taught(
    classifier: Classifier, patches: Sequence[Patch], options: CompactOptions, whole: bool, reports: Reports
) -> tuple[Student, list[Comparison], list[Comparison]]:
    """Return a taught student, what it knew of held-out ground before it was shown that, and what it knows at last.

    Its temperature is fitted to the ground that it is to map: where all is shown, to that, else to what was held out.
    """
    student, scenes = new_student(options.shape, classifier, patches), 1 + max(patch.scene for patch in patches)
    lessons = Lessons.of(student, patches)
    reports.begin("Teaching on four fifths of the ground", "steps", STEPS)
    teach(student, lessons, hold_out=True, report=reports.update)
    held = compared(student, patches, scenes, held=True)
    temperature = 1.0 if whole else fit_temperature(student, patches, held=True)
    reports.begin("Teaching on all of the ground", "steps", STEPS)
    teach(student, lessons, hold_out=False, report=reports.update)
    reports.begin("Comparison with the full model")
    student.temperature.fill_(fit_temperature(student, patches, held=False) if whole else temperature)
    return student, held, compared(student, patches, scenes, held=False)


def new_student(shape: StudentShape, classifier: Classifier, patches: Sequence[Patch]) -> Student:
    """Return an untaught student whose components are those of the ground."""
    halo = shape.halo

    def bands(patch: Patch) -> Tensor:
        inner = patch.raw[:, halo : patch.raw.shape[1] - halo, halo : patch.raw.shape[2] - halo]
        found: Tensor = classifier.normaliser(inner[None])[0]
        return found[:, patch.valid].T

    try:
        pca = fit_pca((bands(patch) for patch in patches), shape.components)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise SceneError("the scenes' values are too far apart to be taught: scale one, or leave it out") from error
    return Student(shape, classifier.normaliser, classifier.fill, pca, classifier.classes)


def ground_of(
    run: RunFolder, card: ModelCard, more: Sequence[str], warn: Callable[[str], None]
) -> tuple[list[GroundScene], bool]:
    """Return the scenes of a run and further ones, and whether the labelled pixels that are judged did not train.

    The former come with the run's training pixels, and with those that its accuracy is of.
    """
    request = Request.from_json(run.read_json(REQUEST))
    scenes = request.load_scenes()
    splits = request.make_splits(scenes)
    if (run.path / DATA).is_file():
        check_unchanged(run.read_json(DATA), data_digests(scenes, splits))
    final = request.final_splits(scenes)
    found = [
        GroundScene(scene, own.train, split.scored)
        for scene, own, split in zip(scenes, final or splits, splits, strict=True)
    ]
    further = [GroundScene(unlabelled(path, card, scenes[0], warn)) for path in more]
    return [*found, *further], final is None and all(split.folds is None for split in splits)


def unlabelled(path: str, card: ModelCard, like: LabelledScene, warn: Callable[[str], None]) -> LabelledScene:
    """Open a scene as `sdiff map` does; it stays on disk. SceneError where the model does not fit it."""
    source = SourceOptions.of(None, NODATA_OF_FILE, False)
    said: list[str] = []

    def opened(tell: Callable[[str], None] = lambda _: None) -> Any:
        return source.open_raster(path, card, tell)

    with opened(said.append) as raster:
        nodata, shape = raster.nodata, (raster.height, raster.width)
    for line in said:
        warn(line)
    return LabelledScene(
        name=Path(path).stem,
        cube=SceneCube(opened),
        labels=np.zeros(shape, np.uint8),
        classes=like.classes,
        nodata=None if isinstance(nodata, tuple) else nodata,
    )


def _tiles(patches: Sequence[Patch], halo: int) -> Tensor:
    """Return raw tiles of the ground's first and last windows, two of each, (4, B, T, T)."""
    least = 2 * halo + 3  # what a file is verified on
    raws = [patch.raw for patch in patches if min(patch.raw.shape[1:]) >= least] or [patch.raw for patch in patches]
    ends = [raws[0], raws[-1]]
    side = min(TILE + 2 * halo, *(size for raw in ends for size in raw.shape[1:]))
    return torch.stack([cut for raw in ends for cut in (raw[:, :side, :side], raw[:, -side:, -side:])])


def _mark(scene: LabelledScene) -> str:
    """Return what a scene is known by where it is mapped."""
    height, width = scene.cube.shape[:2]
    return scene_mark(height, width, lambda row, column: scene.read(Window(row, row + 1, column, column + 1))[0][0, 0])


def _card(card: ModelCard, student: Student, facts: CompactFacts) -> ModelCard:
    """Return the student's card: that of its full model, with its own halo and, where pixels test, its own accuracy."""
    found, full = facts.shown, dict(card.accuracy or {})
    tested = facts.labelled == "test pixels" and found.oa is not None
    note = (
        f"The accuracy is that of a compact model; its full model's: OA {_points(found.oa_full)}."
        if tested
        else f"The accuracy of this compact model was not measured; its full model's: OA {_points(full.get('oa'))}."
    )
    own = {key: getattr(found, key) if tested else None for key in ("oa", "aa", "kappa", "ece")}
    kept = {key: value for key, value in full.items() if not key.endswith("_interval")}
    accuracy = {
        **kept, **own, "scored_pixels": found.test_pixels if tested else 0, "temperature": facts.temperature,
        "smoothing": 0, "notes": [*(full.get("notes") or []), note],
    }  # fmt: skip
    return replace(card, halo=student.halo, accuracy=accuracy, compact=facts.as_dict(), workspace=None)


def _points(share: object) -> str:
    return f"{100 * share:.2f}" if isinstance(share, int | float) else "not known"
