"""The text of ``--split`` and what it means."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff.splits.folds import FOLDS
from spectraldiff_runtime.errors import UsageError

FORMS = (
    "folds, folds:N, paper, per-class:N, fraction:F, disjoint, disjoint:F, scenes:test=NAME,NAME, by-scene:F or "
    "file:TRAIN.tif"
)
RASTERS = (".tif", ".tiff", ".img", ".vrt")
DISJOINT_SHARE = 0.3
MOST_FOLDS = 50
WHOLE = re.compile("[0-9]{1,9}")
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
class Spec:
    """A split as asked for: its form, and the share, number, file or names of scenes after the colon."""

    text: str
    form: str
    share: float = 0.0
    number: int = 0
    file: str = ""
    names: tuple[str, ...] = ()
    rule: Rule | None = None

    @property
    def by_scene(self) -> bool:
        """Whether whole scenes test."""
        return self.form in ("scenes", "by-scene")


def paper_scenes() -> tuple[str, ...]:
    """Return the names of the benchmark scenes that the split ``paper`` is known for."""
    return tuple(PAPER_COUNTS)


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
    if form == "folds":
        return Spec(spec, form, number=_fold_count(spec, argument) if colon else FOLDS)
    if form == "disjoint":
        return Spec(spec, form, _share(spec, argument) if colon else DISJOINT_SHARE)
    if form == "by-scene":
        return Spec(spec, form, _share(spec, argument))
    if form == "scenes":
        return Spec(spec, form, names=_names(spec, argument))
    if form == "file" and argument:
        return Spec(spec, form, file=argument)
    if Path(spec).suffix.lower() in RASTERS:
        raise UsageError(
            f"the split {_shown(spec)} is not known; to train on the nonzero pixels of a raster, give file:{spec[:100]}"
        )
    raise UsageError(f"the split {_shown(spec)} is not known; give {FORMS}")


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


def _shown(spec: str) -> str:
    return repr(spec[:100])


def _names(spec: str, text: str) -> tuple[str, ...]:
    side, equals, names = text.partition("=")
    found = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if side != "test" or not equals or not found:
        raise UsageError(
            f"the split {_shown(spec)} names no scene: give scenes:test=NAME,NAME, such as scenes:test=plot_07"
        )
    return found


def _whole_number(spec: str, text: str) -> int:
    if WHOLE.fullmatch(text) and int(text) > 0:
        return int(text)
    raise UsageError(f"the split {_shown(spec)} has no whole number above 0 after the colon; give per-class:20, say")


def _fold_count(spec: str, text: str) -> int:
    if WHOLE.fullmatch(text) and 2 <= int(text) <= MOST_FOLDS:
        return int(text)
    raise UsageError(
        f"the split {_shown(spec)} has no whole number from 2 to {MOST_FOLDS} after the colon: give folds:5"
    )


def _share(spec: str, text: str) -> float:
    try:
        share = float(text) if text.isascii() else -1.0
    except ValueError:
        share = -1.0
    if 0.0 < share < 1.0:
        return share
    form = spec.partition(":")[0]
    raise UsageError(f"the split {_shown(spec)} has no number between 0 and 1 after the colon; give {form}:0.1, say")
