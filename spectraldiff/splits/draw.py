"""Which labelled pixels train and which test.

A split is drawn with numpy's PCG64, class by class in order of value: the same labels, spec and seed give
the same split on every machine.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff.splits.by_polygon import by_polygon
from spectraldiff.splits.disjoint import draw_disjoint, within
from spectraldiff.splits.mosaic import cut, joined, joined_groups
from spectraldiff.splits.overlap import near_trained_elsewhere
from spectraldiff.splits.train_mask import marked_pixels
from spectraldiff.wording import counted
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import LabelsError, UsageError
from spectraldiff_runtime.scene.protocol import Georeference

FORMS = "paper, per-class:N, fraction:F, disjoint, disjoint:F or file:TRAIN.tif"
DISJOINT_SHARE = 0.3
BY_POLYGON = " by polygon"

# Training pixels of each class, Table I of the paper.
INDIAN_PINES = (3, 146, 77, 21, 33, 72, 7, 37, 2, 88, 275, 49, 23, 140, 41, 10)
PAVIA_UNIVERSITY = (340, 918, 105, 147, 64, 258, 67, 198, 41)
HOUSTON = (133, 123, 72, 125, 125, 33, 116, 117, 138, 107, 126, 122, 60, 43, 62)
PAPER_COUNTS: Mapping[str, tuple[int, ...]] = {
    "indian-pines": INDIAN_PINES,
    "indian-pines-ehu": INDIAN_PINES,
    "pavia-university": PAVIA_UNIVERSITY,
    "houston": HOUSTON,
}

# From pixels per label value to wanted training pixels by class.
Rule = Callable[[NDArray[Any]], dict[int, int]]


@dataclass(frozen=True)
class Split:
    """Training and test pixels of one scene, never in both; a labelled pixel may be in neither.

    Attributes
    ----------
    name
        The spec it was made from, such as ``"per-class:20"``; ``"... by polygon"`` where whole polygons were drawn.
    seed
        The seed it was drawn with.
    train, test
        (H, W) bool.
    leakage
        Share of the test pixels whose window holds a training pixel, or ground that trains in another scene, 0..1;
        None where the window is not known or nothing tests.
    notes
        What a reader of the accuracy must know, one line each.
    """

    name: str
    seed: int
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]
    leakage: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def apart(self) -> bool:
        """Whether most test pixels lie apart from the training pixels: in other polygons, or out of their windows."""
        return self.name.endswith(BY_POLYGON) or (self.leakage is not None and self.leakage < 0.5)

    @property
    def buffered(self) -> bool:
        """Whether a buffer keeps the training pixels out of all that the class of a test pixel depends on."""
        return self.name.partition(":")[0] == "disjoint"


@dataclass(frozen=True)
class Spec:
    """A split as asked for: its form, and the share, number or file after the colon."""

    text: str
    form: str
    share: float = 0.0
    number: int = 0
    file: str = ""
    rule: Rule | None = None


def paper_scenes() -> tuple[str, ...]:
    """Return the names of the benchmark scenes that the split ``paper`` is known for."""
    return tuple(PAPER_COUNTS)


def make_split(
    labels: NDArray[Any],
    spec: str,
    seed: int,
    dataset: str | None = None,
    classes: Sequence[LandCoverClass] = (),
    *,
    groups: NDArray[Any] | None = None,
    marked: NDArray[Any] | None = None,
    window: int | None = None,
    buffer: int = 0,
) -> Split:
    """Draw the training and test pixels of one scene; see `make_splits`."""
    return make_splits(
        [labels], spec, seed, dataset, classes, groups=[groups], marked=marked, window=window, buffer=buffer
    )[0]


def make_splits(
    labels: Sequence[NDArray[Any]],
    spec: str,
    seed: int,
    dataset: str | None = None,
    classes: Sequence[LandCoverClass] = (),
    *,
    groups: Sequence[NDArray[Any] | None] = (),
    marked: NDArray[Any] | None = None,
    window: int | None = None,
    buffer: int = 0,
    places: Sequence[Georeference] = (),
) -> tuple[Split, ...]:
    """Draw the training and test pixels of some scenes; counts and shares are those of all scenes together.

    Parameters
    ----------
    labels
        (H, W) each, 0 = unlabelled, 1..K. Mask out pixels that cannot be used by setting them to 0.
    spec
        ``paper``: Table I's counts for `dataset`. ``per-class:N``: N pixels of each class, half of a class that has no
        more, which a note names. ``fraction:F``: the share F (0 < F < 1) of each class, at least one pixel and never
        all. The rest tests. ``disjoint`` or ``disjoint:F``:
        about the share F (0.3) of each class, in other places than the test pixels (`spectraldiff.disjoint`).
        ``file:NAME``: the nonzero pixels of `marked` (`spectraldiff.marked`) train, the rest tests. All but ``paper``
        pass over classes without pixels.
    seed
        0 or more.
    dataset
        Name of the benchmark scene, or None for a user's own.
    classes
        For names in messages; classes without an entry are called by their value.
    groups
        (H, W) each, the polygon that labels a pixel, 0 for none: ``per-class:N`` and ``fraction:F`` then draw whole
        polygons (`spectraldiff.polygon_splits`). None, for all or for one, draws pixels.
    marked
        (H, W): nonzero where pixels train, one value for all or some for each class; for ``file:`` and one scene.
    window
        Side of the classifier's window in pixels, for the leakage.
    buffer
        For ``disjoint``: no test pixel lies this many pixels (Chebyshev) from a training pixel, or fewer.
    places
        Where each scene lies, for scenes that overlap (`spectraldiff.overlap`): the leakage counts ground that trains
        in another scene, ``disjoint`` tests no pixel within `buffer` of it, and a split by polygon none on it.

    Raises
    ------
    UsageError
        The spec or the seed cannot be meant, or there are no counts in the paper for this scene.
    LabelsError
        A class has too few pixels for the split, or the pixels of ``file:`` do not fit the labels.
    """
    wanted = parse_spec(spec, dataset)
    if seed < 0:
        raise UsageError(f"the seed is {seed}; give a whole number from 0 upwards")
    sheet, gap = [np.asarray(one) for one in labels], buffer + (window or 0)
    canvas = joined(sheet, gap)
    if not canvas.any():
        raise LabelsError("the labels are 0 everywhere; give labels with at least two classes")
    polygons = joined_groups(sheet, groups or [None] * len(sheet), gap)
    name, (train, test), notes = _draw(canvas, wanted, seed, classes, polygons, marked, buffer)
    shapes = [one.shape for one in sheet]
    trains, tests = cut(train, shapes, gap), cut(test, shapes, gap)
    if len(sheet) > 1 and places and (wanted.form == "disjoint" or name.endswith(BY_POLYGON)):
        tests, left_out = _off_trained_ground(trains, tests, places, buffer if wanted.form == "disjoint" else 0)
        test, notes = joined(tests, gap), (*notes, *left_out)
    if not test.any():
        raise LabelsError(_nothing_tests(wanted, buffer))
    notes = (*notes, *_one_sided(canvas, train, test, Titles(classes)))
    splits = tuple(Split(name, seed, a, b, None, notes) for a, b in zip(trains, tests, strict=True))
    return splits if window is None else with_leakage(splits, window, places)


def with_leakage(splits: Sequence[Split], window: int, places: Sequence[Georeference] = ()) -> tuple[Split, ...]:
    """Return the splits of some scenes with the leakage for a window of that side; `places` as `make_splits`."""
    trains, found = [split.train for split in splits], []
    for index, split in enumerate(splits):
        elsewhere = near_trained_elsewhere(index, trains, places, window // 2) if places else None
        found.append(replace(split, leakage=leakage(split.train, split.test, window, elsewhere)))
    return tuple(found)


def leakage(
    train: NDArray[np.bool_], test: NDArray[np.bool_], window: int, elsewhere: NDArray[np.bool_] | None = None
) -> float | None:
    """Return the share of test pixels whose window of that side holds a training pixel; None without test pixels.

    `elsewhere`, (H, W): pixels whose window holds ground that trains in another scene.
    """
    near = within(train, window // 2)
    if elsewhere is not None:
        near |= elsewhere
    return float(near[test].mean()) if test.any() else None


def mean_leakage(splits: Sequence[Split]) -> float | None:
    """Return the leakage of all scenes' test pixels together; None where it is not known."""
    known = [(split.leakage, int(split.test.sum())) for split in splits if split.leakage is not None]
    pixels = sum(count for _, count in known)
    return sum(share * count for share, count in known) / pixels if pixels else None


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


def _off_trained_ground(
    trains: Sequence[NDArray[np.bool_]],
    tests: Sequence[NDArray[np.bool_]],
    places: Sequence[Georeference],
    distance: int,
) -> tuple[list[NDArray[np.bool_]], tuple[str, ...]]:
    """Return the test pixels farther than `distance` from ground that trains in another scene, and what to say."""
    near = [near_trained_elsewhere(index, trains, places, distance) for index in range(len(tests))]
    kept = [test if one is None else test & ~one for test, one in zip(tests, near, strict=True)]
    left_out = sum(int(test.sum()) for test in tests) - sum(int(test.sum()) for test in kept)
    where = f"within {counted(distance, 'pixel')} of" if distance else "on"
    note = f"not tested, since they lie {where} ground that trains in another scene: {counted(left_out, 'pixel')}"
    return kept, (note,) if left_out else ()


def _nothing_tests(spec: Spec, buffer: int) -> str:
    if spec.form == "disjoint":
        return (
            f"no test pixel is left more than {counted(buffer, 'pixel')} from the training pixels: the labels lie too "
            "close together for a disjoint split; label more places, or choose per-class:N or fraction:F"
        )
    return (
        "no test pixel is left on ground that does not train in another scene: label more places, choose disjoint, or "
        "split by pixel"
    )


class Titles(dict[int, str]):
    """What messages call classes: value and name, or the value alone."""

    def __init__(self, classes: Sequence[LandCoverClass]) -> None:
        super().__init__({c.value: f'class {c.value} "{c.name}"' for c in classes})

    def __missing__(self, value: int) -> str:
        return f"class {value}"


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


def parse_spec(spec: str, dataset: str | None) -> Spec:
    """Read a split's spec; UsageError where it cannot be meant."""
    form, colon, argument = spec.partition(":")
    if spec == "paper":
        table = _paper_counts(dataset)
        return Spec(spec, form, rule=lambda counts: dict(enumerate(table, start=1)))
    if form == "per-class":
        n = _whole_number(spec, argument)
        return Spec(spec, form, number=n, rule=lambda counts: dict.fromkeys(_present(counts), n))
    if form == "fraction":
        share = _share(spec, argument)
        return Spec(spec, form, share, rule=lambda counts: {v: _part(int(counts[v]), share) for v in _present(counts)})
    if form == "disjoint":
        return Spec(spec, form, _share(spec, argument) if colon else DISJOINT_SHARE)
    if form == "file" and argument:
        return Spec(spec, form, file=argument)
    raise UsageError(f"the split {spec!r} is not known; give {FORMS}")


def _present(counts: NDArray[Any]) -> list[int]:
    return [int(value) for value in np.flatnonzero(counts) if value]


def _part(count: int, share: float) -> int:
    """Return `share` of `count` pixels, at least 1, and where possible not all of them."""
    return max(1, min(round(share * count), count - 1))


def _paper_counts(dataset: str | None) -> tuple[int, ...]:
    if dataset is not None and dataset in PAPER_COUNTS:
        return PAPER_COUNTS[dataset]
    scene = f"the data set {dataset!r}" if dataset else "your own scene"
    raise UsageError(
        f"the paper gives no training counts for {scene}, only for {', '.join(PAPER_COUNTS)}; "
        "give per-class:N, fraction:F or disjoint"
    )


def _whole_number(spec: str, text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise UsageError(f"the split {spec!r} has no whole number above 0 after the colon; give per-class:20, say")


def _share(spec: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if 0.0 < share < 1.0:
        return share
    form = spec.partition(":")[0]
    raise UsageError(f"the split {spec!r} has no number between 0 and 1 after the colon; give {form}:0.1, say")
