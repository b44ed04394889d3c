"""Which labelled pixels train and which test.

A split is drawn with numpy's PCG64, class by class in order of value: the same labels, spec and seed give
the same split on every machine.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.class_map import LandCoverClass
from spectraldiff_runtime.errors import LabelsError, UsageError

FORMS = "paper, per-class:N or fraction:F"

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


@dataclass(frozen=True)
class Split:
    """Training and test pixels of one scene; every labelled pixel is in one of the two, never in both.

    Attributes
    ----------
    name
        The spec it was made from, such as ``"per-class:20"``.
    seed
        The seed it was drawn with.
    train, test
        (H, W) bool.
    """

    name: str
    seed: int
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]


def paper_scenes() -> tuple[str, ...]:
    """Return the names of the benchmark scenes that the split ``paper`` is known for."""
    return tuple(PAPER_COUNTS)


def make_split(
    labels: NDArray[Any],
    spec: str,
    seed: int,
    dataset: str | None = None,
    classes: Sequence[LandCoverClass] = (),
) -> Split:
    """Draw the training pixels at random within each class; the rest of the labelled pixels tests.

    Parameters
    ----------
    labels
        (H, W), 0 = unlabelled, 1..K. Mask out pixels that cannot be used by setting them to 0.
    spec
        ``paper``: Table I's counts for `dataset`. ``per-class:N``: N pixels of each class.
        ``fraction:F``: the share F (0 < F < 1) of each class, at least one pixel and never all.
        The last two pass over classes that have no pixel in `labels`.
    seed
        0 or more.
    dataset
        Name of the benchmark scene, or None for a user's own.
    classes
        For names in messages; classes without an entry are called by their value.

    Raises
    ------
    UsageError
        The spec or the seed cannot be meant, or there are no counts in the paper for this scene.
    LabelsError
        A class has too few pixels for the split.
    """
    rule = _rule(spec, dataset)
    if seed < 0:
        raise UsageError(f"the seed is {seed}; give a whole number from 0 upwards")
    counts = np.bincount(labels.ravel(), minlength=256)
    names = {c.value: c.name for c in classes}
    wanted = {
        value: _checked(value, names.get(value), int(counts[value]), wants, spec)
        for value, wants in rule(counts).items()
    }
    if not wanted:
        raise LabelsError("the labels are 0 everywhere; give labels with at least two classes")
    return _draw(labels, spec, seed, wanted)


def _draw(labels: NDArray[Any], spec: str, seed: int, wanted: Mapping[int, int]) -> Split:
    generator = np.random.Generator(np.random.PCG64(seed))
    flat = labels.ravel()
    drawn = np.zeros(flat.size, dtype=np.bool_)
    for value, n in sorted(wanted.items()):
        drawn[generator.choice(np.flatnonzero(flat == value), n, replace=False)] = True
    train = drawn.reshape(labels.shape)
    return Split(spec, seed, train, (labels != 0) & ~train)


def _checked(value: int, name: str | None, found: int, wanted: int, spec: str) -> int:
    """Return `wanted` if the class has that many pixels and one more for the test."""
    if found > wanted:
        return wanted
    title = f'class {value} "{name}"' if name else f"class {value}"
    raise LabelsError(
        f"{title} has {found} labelled pixels; {spec} wants {wanted} for training and at least one for the "
        "test: choose a split that takes fewer, or label more"
    )


def _rule(spec: str, dataset: str | None) -> Callable[[NDArray[Any]], dict[int, int]]:
    """Return the function from pixels per label value, (256,), to wanted training pixels by class."""
    form, _, argument = spec.partition(":")
    if spec == "paper":
        table = _paper_counts(dataset)
        return lambda counts: dict(enumerate(table, start=1))
    if form == "per-class":
        n = _whole_number(spec, argument)
        return lambda counts: dict.fromkeys(_present(counts), n)
    if form == "fraction":
        share = _share(spec, argument)
        return lambda counts: {v: _part(int(counts[v]), share) for v in _present(counts)}
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
        "give per-class:N or fraction:F"
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
    raise UsageError(f"the split {spec!r} has no number between 0 and 1 after the colon; give fraction:0.1, say")
