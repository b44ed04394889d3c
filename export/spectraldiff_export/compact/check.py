"""How a student agrees with its full model: on ground that was held out, and on labelled pixels; what is refused."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from spectraldiff.accuracy.metrics import calibration, score
from spectraldiff_export.compact.ground import Patch
from spectraldiff_export.compact.student import Student
from spectraldiff_runtime.errors import VerificationError

# The full model is confident of a pixel where its confidence is this at least.
CONFIDENT = 0.9
# What a compact model must reach: share of confident pixels with the full model's class, and overall accuracy lost.
AGREEMENT, LOST_ACCURACY = 0.97, 0.005
HIGHEST = 10.0  # the temperature is from a tenth to ten


@dataclass(frozen=True)
class Comparison:
    """A student and its full model on the same pixels.

    Attributes
    ----------
    pixels, agreement
        Pixels with data, and the share of them that get the same class.
    confident, confident_agreement
        Those of which the full model is confident (`CONFIDENT`), and the share of them that get the same class; None
        without any.
    test_pixels, oa, aa, kappa, oa_full
        Labelled pixels that the accuracy is of, the student's accuracies there, and the full model's overall accuracy;
        None without any.
    ece
        Expected calibration error of the student's confidences on these pixels; None without any.
    classes
        For each class: its agreement on the pixels that the full model gives it, and the accuracies of both on its
        labelled pixels; None without any.
    """

    pixels: int
    agreement: float | None
    confident: int
    confident_agreement: float | None
    test_pixels: int
    oa: float | None
    aa: float | None
    kappa: float | None
    oa_full: float | None
    ece: float | None
    classes: tuple[tuple[float | None, float | None, float | None], ...]

    @property
    def lost(self) -> float | None:
        """Overall accuracy lost, 0..1; below 0 where the student is better."""
        return None if self.oa is None or self.oa_full is None else self.oa_full - self.oa

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class _Pixels:
    """Pixels, (n,): the classes and confidences of student and full model, and the labels that test, 0 for none."""

    own: NDArray[np.int64]
    best: NDArray[np.float32]
    full: NDArray[np.int64]
    sure: NDArray[np.float32]
    test: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence["_Pixels"]) -> "_Pixels":
        names = cls.__dataclass_fields__
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@torch.no_grad()
def compared(student: Student, patches: Sequence[Patch], scenes: int, *, held: bool) -> list[Comparison]:
    """Compare a student with the full model on the ground of each scene, and, last, of all of them together.

    On all pixels with data or, with `held`, on those alone that are held out.
    """
    each: list[list[_Pixels]] = [[] for _ in range(scenes)]
    for patch in patches:
        chosen = patch.valid & patch.held if held else patch.valid
        best, own = student(patch.raw[None]).softmax(1)[0].max(0)
        sure, full = patch.taught.max(0)
        found = (one[chosen].numpy() for one in (own + 1, best, full + 1, sure, patch.test))
        each[patch.scene].append(_Pixels(*found))
    whole = [part for parts in each for part in parts]
    return [_comparison(_Pixels.joined(parts), student.classes) for parts in (*each, whole)]


def _comparison(x: _Pixels, classes: int) -> Comparison:
    confident, tested, same = x.sure >= CONFIDENT, x.test > 0, x.own == x.full
    right, full_right = x.own == x.test, x.full == x.test
    scored: dict[str, Any] = score(x.test, x.own, classes).as_dict() if tested.any() else {}
    return Comparison(
        pixels=len(x.own),
        agreement=_share(same, np.ones(len(same), np.bool_)),
        confident=int(confident.sum()),
        confident_agreement=_share(same, confident),
        test_pixels=int(tested.sum()),
        oa=scored.get("oa"),
        aa=scored.get("aa"),
        kappa=scored.get("kappa"),
        oa_full=_share(full_right, tested),
        ece=calibration(x.best[tested].clip(0, 1), right[tested]).ece if tested.any() else None,
        classes=tuple(
            (_share(same, x.full == k), _share(right, x.test == k), _share(full_right, x.test == k))
            for k in range(1, classes + 1)
        ),
    )


def _share(right: NDArray[np.bool_], of: NDArray[np.bool_]) -> float | None:
    return float(right[of].mean()) if of.any() else None


@torch.no_grad()
def fit_temperature(student: Student, patches: Sequence[Patch], *, held: bool) -> float:
    """Return what scores are to be divided by so that their softmax is nearest to the full model's probabilities."""
    scores, wanted = [], []
    for patch in patches:
        chosen = patch.valid & patch.held if held else patch.valid
        scores.append((student(patch.raw[None])[0] * student.temperature)[:, chosen].double())
        wanted.append(patch.taught[:, chosen].double())
    one, two = torch.cat(scores, 1), torch.cat(wanted, 1)

    def loss(log_t: float) -> float:
        return -float((two * (one * float(np.exp(-log_t))).log_softmax(0)).sum(0).mean())

    limit = float(np.log(HIGHEST))
    return float(np.exp(minimize_scalar(loss, bounds=(-limit, limit), method="bounded").x))


def reasons(judged: Sequence[tuple[str, Comparison]], tested: Comparison) -> list[str]:
    """Return why a compact model is refused, one clause each; none where it is as it must be.

    Parameters
    ----------
    judged
        The name of each scene, with the comparison on its held-out ground.
    tested
        On the labelled pixels.
    """
    found = []
    for name, one in judged:
        if one.confident_agreement is None or one.confident_agreement < AGREEMENT:
            share = "no" if one.confident_agreement is None else f"{100 * one.confident_agreement:.2f} %"
            found.append(
                f"it gives the full model's class at {share} of {one.confident:,} held-out pixels of '{name}' of which "
                f"that is confident: wanted {100 * AGREEMENT:g} % at least"
            )
    if tested.lost is not None and tested.lost > LOST_ACCURACY:
        found.append(
            f"it loses {100 * tested.lost:.2f} points of overall accuracy on {tested.test_pixels:,} test pixels: "
            f"wanted {100 * LOST_ACCURACY:g} at most"
        )
    return found


def refuse(found: Sequence[str]) -> None:
    """Raise VerificationError with the reasons, if there are any."""
    if found:
        raise VerificationError(
            f"the compact model is refused: {'; '.join(found)}; nothing is written; export without --compact, or "
            "take it with --force"
        )
