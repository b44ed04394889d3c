"""Which labelled pixels train and which test.

A split is drawn with numpy's PCG64, class by class in order of value: the same labels, spec and seed give
the same split on every machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff.data.canvas import Canvas
from spectraldiff.splits.by_polygon import by_polygon
from spectraldiff.splits.by_scene import held_out_scenes
from spectraldiff.splits.disjoint import draw_disjoint
from spectraldiff.splits.folds import PIXELS as PIXELS_ALONE
from spectraldiff.splits.folds import SCENES, draw_folds, seen_share
from spectraldiff.splits.leakage import with_leakage
from spectraldiff.splits.mosaic import cut, joined, joined_groups
from spectraldiff.splits.overlap import Place, near_trained_elsewhere
from spectraldiff.splits.spec import Spec, _present, parse_spec
from spectraldiff.splits.split import BY_POLYGON, Split, Titles
from spectraldiff.splits.train_mask import marked_pixels
from spectraldiff.wording import counted
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import LabelsError, UsageError
from spectraldiff_runtime.geo.georeference import Georeference


@dataclass(frozen=True)
class Geometry:
    """What a split knows of space, beyond the labels' pixels.

    Attributes
    ----------
    groups
        (H, W) of each scene, the polygon that labels a pixel, 0 for none: ``per-class:N`` and ``fraction:F`` then draw
        whole polygons (`spectraldiff.splits.by_polygon`). None, for all or for one, draws pixels.
    window
        Side of the classifier's window in pixels, for the leakage; None computes none.
    buffer
        For ``disjoint``: no test pixel lies this many pixels (Chebyshev) from a training pixel, or fewer.
    georeferences
        Where each scene lies, for scenes that overlap (`spectraldiff.splits.overlap`): the leakage counts the training
        pixels of other scenes, ``disjoint`` tests no pixel within `buffer` of one, and a split by polygon none that one
        covers.
    by_pixel
        Whether ``folds`` holds out pixels, not whole polygons or patches.
    canvases
        The canvas of each scene that its labels are an array of, None for the scene itself; nothing where all are.
    names
        Of the scenes, for ``scenes:``.
    by_scene
        Whether ``folds`` holds out whole scenes.
    """

    groups: Sequence[NDArray[Any] | None] = ()
    window: int | None = None
    buffer: int = 0
    georeferences: Sequence[Georeference] = ()
    by_pixel: bool = False
    canvases: Sequence[Canvas | None] = ()
    names: Sequence[str] = ()
    by_scene: bool = False

    @property
    def places(self) -> list[Place]:
        """Where the label arrays of the scenes lie."""
        canvases = self.canvases or [None] * len(self.georeferences)
        return [Place(*one) for one in zip(self.georeferences, canvases, strict=True)]


PIXELS = Geometry()


def make_split(
    labels: NDArray[Any],
    spec: str,
    seed: int,
    dataset: str | None = None,
    classes: Sequence[LandCoverClass] = (),
    *,
    marked: NDArray[Any] | None = None,
    geometry: Geometry = PIXELS,
) -> Split:
    """Draw the training and test pixels of one scene; see `make_splits`."""
    return make_splits([labels], spec, seed, dataset, classes, marked=marked, geometry=geometry)[0]


def make_splits(
    labels: Sequence[NDArray[Any]],
    spec: str,
    seed: int,
    dataset: str | None = None,
    classes: Sequence[LandCoverClass] = (),
    *,
    marked: NDArray[Any] | None = None,
    geometry: Geometry = PIXELS,
) -> tuple[Split, ...]:
    """Draw the training and test pixels of some scenes; counts and shares are those of all scenes together.

    Parameters
    ----------
    labels
        (H, W) each, 0 = unlabelled, 1..K. Mask out pixels that cannot be used by setting them to 0.
    spec
        ``folds`` or ``folds:N``: all train, none tests; in N folds (5) whole polygons or patches are held out
        (`spectraldiff.splits.folds`).
        ``paper``: Table I's counts for `dataset`. ``per-class:N``: N pixels of each class, half of a class that has no
        more, which a note names. ``fraction:F``: the share F (0 < F < 1) of each class, at least one pixel and never
        all. The rest tests. ``disjoint`` or ``disjoint:F``:
        about the share F (0.3) of each class, spatially disjoint from the test pixels (`spectraldiff.splits.disjoint`).
        ``scenes:test=NAMES`` and ``by-scene:F``: all labels of these scenes test, or those of a share of the scenes
        (`spectraldiff.splits.by_scene`).
        ``file:NAME``: the nonzero pixels of `marked` (`spectraldiff.splits.train_mask`) train, the rest tests. All but
        ``paper`` pass over classes without pixels.
    seed
        0 or more.
    dataset
        Name of the benchmark scene, or None for a user's own.
    classes
        For names in messages; classes without an entry are called by their value.
    marked
        (H, W): nonzero where pixels train, one value for all or some for each class; for ``file:`` and one scene.
    geometry
        Polygons, window, buffer and where the scenes lie.

    Raises
    ------
    UsageError
        The spec or the seed cannot be meant, or there are no counts in the paper for this scene.
    LabelsError
        A class has too few pixels for the split, or the pixels of ``file:`` do not fit the labels, or too few scenes
        have labels.
    """
    wanted = parse_spec(spec, dataset)
    if seed < 0:
        raise UsageError(f"the seed is {seed}; give a whole number from 0 upwards")
    each, gap = [np.asarray(one) for one in labels], geometry.buffer + (geometry.window or int(wanted.form == "folds"))
    mosaic = joined(each, gap)
    if not mosaic.any():
        raise LabelsError("the labels are 0 everywhere; give labels with at least two classes")
    polygons = joined_groups(each, geometry.groups or [None] * len(each), gap)
    if wanted.form == "folds":
        return _with_folds(each, mosaic, polygons, wanted, seed, classes, geometry, gap)
    notes: tuple[str, ...] = ()
    if wanted.by_scene:
        held, name = held_out_scenes(each, wanted, seed, geometry.names), wanted.text
        trains = [(one != 0) & (not out) for one, out in zip(each, held, strict=True)]
        tests = [(one != 0) & out for one, out in zip(each, held, strict=True)]
        train, test = joined(trains, gap), joined(tests, gap)
    else:
        name, (train, test), notes = _draw(mosaic, wanted, seed, classes, polygons, marked, geometry.buffer)
        shapes = [one.shape for one in each]
        trains, tests = cut(train, shapes, gap), cut(test, shapes, gap)
    whole = wanted.form == "disjoint" or wanted.by_scene or name.endswith(BY_POLYGON)
    if len(each) > 1 and geometry.georeferences and whole:
        distance = geometry.buffer if wanted.form == "disjoint" else 0
        tests, left_out = _outside_training(trains, tests, geometry.places, distance)
        test, notes = joined(tests, gap), (*notes, *left_out)
    if not test.any():
        raise LabelsError(_nothing_tests(wanted, geometry.buffer))
    notes = (*notes, *_one_sided(mosaic, train, test, Titles(classes)))
    splits = tuple(Split(name, seed, a, b, None, notes) for a, b in zip(trains, tests, strict=True))
    return splits if geometry.window is None else with_leakage(splits, geometry.window, geometry.places)


Sides = tuple[NDArray[np.bool_], NDArray[np.bool_]]


def _draw(
    labels: NDArray[Any],
    spec: Spec,
    seed: int,
    classes: Sequence[LandCoverClass],
    groups: NDArray[Any] | None,
    marked: NDArray[Any] | None,
    buffer: int,
) -> tuple[str, Sides, tuple[str, ...]]:
    """Return the split's name, its two sides and its notes."""
    generator = np.random.Generator(np.random.PCG64(seed))
    titles = Titles(classes)
    if spec.rule is not None:
        counts = np.bincount(labels.ravel(), minlength=256)
        wanted = {v: _checked(titles[v], int(counts[v]), n, spec) for v, n in spec.rule(counts).items()}
        if groups is not None:
            train, test, notes = by_polygon(labels, groups, wanted, spec.form, generator, titles)
            return f"{spec.text}{BY_POLYGON}", (train, test), (*_halved(labels, train, spec, titles), *notes)
        train = _random_pixels(labels, wanted, generator)
        return spec.text, (train, (labels != 0) & ~train), _halved(labels, train, spec, titles)
    if spec.form == "file":
        train = marked_pixels(labels, marked, spec.file, titles)
        return f"file:{Path(spec.file).name}", (train, (labels != 0) & ~train), ()
    return spec.text, draw_disjoint(labels, spec.share, buffer, generator), ()


def _with_folds(
    labels: Sequence[NDArray[Any]],
    mosaic: NDArray[Any],
    polygons: NDArray[Any] | None,
    spec: Spec,
    seed: int,
    classes: Sequence[LandCoverClass],
    geometry: Geometry,
    gap: int,
) -> tuple[Split, ...]:
    """Return splits whose labelled pixels all train, each held out in a fold."""
    generator, by_pixel = np.random.Generator(np.random.PCG64(seed)), geometry.by_pixel
    if geometry.by_scene:
        polygons = joined_groups(labels, [(one != 0).astype(np.int32) for one in labels], gap)
    unit = SCENES if geometry.by_scene else PIXELS_ALONE if by_pixel else ""
    drawn = draw_folds(mosaic, polygons, spec.number, generator, Titles(classes), unit=unit)
    if drawn.count < 2:
        raise LabelsError("no class has two labelled pixels, so none can be held out for the accuracy: label more")
    folds, trains = cut(drawn.numbers, [one.shape for one in labels], gap), [one != 0 for one in labels]
    notes = drawn.notes
    if len(labels) > 1 and geometry.georeferences:
        folds, left_out = _outside_other_folds(folds, trains, geometry.places)
        notes += left_out
    seen = seen_share(joined(folds, gap), mosaic != 0, geometry.window or 1)
    name = f"folds:{drawn.count} by {drawn.units}"
    sides = zip(trains, folds, strict=True)
    return tuple(Split(name, seed, a, np.zeros_like(a), None, notes, f, seen < 0.5) for a, f in sides)


def _outside_other_folds(
    folds: Sequence[NDArray[np.uint8]], trains: Sequence[NDArray[np.bool_]], places: Sequence[Place]
) -> tuple[list[NDArray[np.uint8]], tuple[str, ...]]:
    """Score no pixel that another scene's training pixel of another fold covers; return the folds, and a note."""
    kept = [one.copy() for one in folds]
    for fold in np.unique(np.concatenate([one.ravel() for one in folds])):
        others = [train & (one != fold) for train, one in zip(trains, folds, strict=True)]
        for index, one in enumerate(kept):
            near = near_trained_elsewhere(index, others, places, 0) if fold else None
            if near is not None:
                one[near & (one == fold)] = 0
    left_out = sum(int((a > 0).sum() - (b > 0).sum()) for a, b in zip(folds, kept, strict=True))
    note = f"not scored, since a training pixel of another scene and fold covers them: {counted(left_out, 'pixel')}"
    return kept, (note,) if left_out else ()


def _outside_training(
    trains: Sequence[NDArray[np.bool_]],
    tests: Sequence[NDArray[np.bool_]],
    places: Sequence[Place],
    distance: int,
) -> tuple[list[NDArray[np.bool_]], tuple[str, ...]]:
    """Return the test pixels farther than `distance` from another scene's training pixels, and a note on the rest."""
    near = [near_trained_elsewhere(index, trains, places, distance) for index in range(len(tests))]
    kept = [test if one is None else test & ~one for test, one in zip(tests, near, strict=True)]
    left_out = sum(int(test.sum()) for test in tests) - sum(int(test.sum()) for test in kept)
    where = f"within {counted(distance, 'pixel')} of" if distance else "covered by"
    note = f"not tested, since they are {where} a training pixel of another scene: {counted(left_out, 'pixel')}"
    return kept, (note,) if left_out else ()


def _nothing_tests(spec: Spec, buffer: int) -> str:
    if spec.form == "disjoint":
        return (
            f"no test pixel is left more than {counted(buffer, 'pixel')} from the training pixels: the labels are too "
            "close together for a disjoint split; label more areas, or choose per-class:N or fraction:F"
        )
    return (
        "a training pixel of another scene covers every test pixel: label more areas, choose disjoint, or split by "
        "pixel"
    )


def _random_pixels(
    labels: NDArray[Any], wanted: Mapping[int, int], generator: np.random.Generator
) -> NDArray[np.bool_]:
    flat = labels.ravel()
    drawn = np.zeros(flat.size, dtype=np.bool_)
    for value, n in sorted(wanted.items()):
        drawn[generator.choice(np.flatnonzero(flat == value), n, replace=False)] = True
    return drawn.reshape(labels.shape)


def _one_sided(
    labels: NDArray[Any], train: NDArray[np.bool_], test: NDArray[np.bool_], titles: Mapping[int, str]
) -> tuple[str, ...]:
    """Name the classes that are on one side only."""
    present = [int(value) for value in np.unique(labels) if value]
    trained, tested = set(np.unique(labels[train]).tolist()), set(np.unique(labels[test]).tolist())
    untested = [titles[v] for v in present if v not in tested]
    unlearnt = [titles[v] for v in present if v not in trained]
    notes = [f"no test pixels, so no accuracy: {', '.join(untested)}"] if untested else []
    return tuple(notes + ([f"no training pixels, so never mapped: {', '.join(unlearnt)}"] if unlearnt else []))


def _checked(title: str, found: int, wanted: int, spec: Spec) -> int:
    """Return `wanted` if the class has that many pixels and one more for the test; else, by ``per-class``, its half."""
    if found > wanted:
        return wanted
    if spec.form == "per-class" and found > 1:
        return found // 2
    raise LabelsError(
        f"{title} has {counted(found, 'labelled pixel')}; {spec.text} wants {wanted} for training and at least one for "
        "the test: choose a split that takes fewer, or label more"
    )


def _halved(labels: NDArray[Any], train: NDArray[np.bool_], spec: Spec, titles: Mapping[int, str]) -> tuple[str, ...]:
    """Name the classes of which fewer pixels train than ``per-class`` wants."""
    if spec.form != "per-class":
        return ()
    counts, trained = np.bincount(labels.ravel()), np.bincount(labels[train])
    few = [v for v in _present(counts) if trained[v] < spec.number]
    listed = ", ".join(f"{titles[v]} ({trained[v]} of {counts[v]} pixels)" for v in few)
    return (f"too small for {spec.text}, so half of the class trains: {listed}",) if few else ()
