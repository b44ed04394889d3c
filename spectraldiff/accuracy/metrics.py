"""Accuracy metrics: overall and average accuracy, Cohen's kappa, confusion matrix, and calibration of confidences.

All figures are fractions (0..1; kappa -1..1). The command line prints them times 100, as the paper does.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from spectraldiff_runtime.errors import LabelsError


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a map at labelled pixels.

    Attributes
    ----------
    oa
        Overall accuracy: the share of correctly classified pixels.
    aa
        Average accuracy: the mean of `per_class` over the classes that occur in the reference.
    kappa
        Cohen's kappa between reference and map; unclassified counts as a separate class. NaN if it is
        not defined, because all pixels are of one class in both.
    per_class
        Recall of classes 1..K: the share of each class's pixels that are classified correctly; NaN for
        a class that does not occur in the reference.
    confusion
        (K, K+1) int64: rows are the reference's classes 1..K, columns the map's 0..K, where 0 is
        unclassified.
    pixels
        Number of scored pixels.
    """

    oa: float
    aa: float
    kappa: float
    per_class: tuple[float, ...]
    confusion: NDArray[np.int64]
    pixels: int

    @property
    def users(self) -> tuple[float, ...]:
        """Precision of each class: the share of the scored pixels mapped as it that belong to it; NaN for no pixel."""
        mapped = self.confusion[:, 1:]
        hits, totals = np.diagonal(mapped), mapped.sum(axis=0)
        return tuple(float(share) for share in _shares(hits, totals))

    @property
    def macro_f1(self) -> float:
        """The mean over the reference's classes of the harmonic mean of precision and recall, 0..1."""
        hits = np.diagonal(self.confusion, offset=1)
        totals = self.confusion.sum(axis=1) + self.confusion[:, 1:].sum(axis=0)
        present = self.confusion.sum(axis=1) > 0
        return float(_shares(2 * hits, totals)[present].mean())

    @property
    def tested(self) -> int:
        """Number of classes that occur in the reference; `aa` is their mean."""
        return sum(share == share for share in self.per_class)

    def as_dict(self) -> dict[str, object]:
        """Return the figures in types that `json` writes; undefined ones (NaN) become None."""
        return {
            "oa": self.oa,
            "aa": self.aa,
            "kappa": _or_none(self.kappa),
            "per_class": [_or_none(share) for share in self.per_class],
            "confusion": self.confusion.tolist(),
            "pixels": self.pixels,
        }


def score(reference: NDArray[Any], predicted: NDArray[Any], classes: int) -> Accuracy:
    """Compare a map with a reference.

    Parameters
    ----------
    reference
        Classes 1..K, any shape; pixels with 0 are left out.
    predicted
        The same shape, 0..K; 0 (unclassified) counts as wrong if the reference has a class.
    classes
        K, the number of classes.

    Raises
    ------
    LabelsError
        The shapes differ, a value is not in 0..K, or no pixel has a reference class.
    """
    if reference.shape != predicted.shape:
        raise LabelsError(f"the reference is {reference.shape} and the map {predicted.shape}: they must be equal")
    scored = reference != 0
    truth, found = reference[scored], predicted[scored]
    _check_values(truth, found, classes)
    matrix = confusion_matrix(truth, found, labels=np.arange(classes + 1))[1:].astype(np.int64)
    hits, totals = np.diagonal(matrix, offset=1), matrix.sum(axis=1)
    recall = _shares(hits, totals)
    return Accuracy(
        oa=float(hits.sum() / totals.sum()),
        aa=float(np.nanmean(recall)),
        kappa=_kappa(truth, found),
        per_class=tuple(float(share) for share in recall),
        confusion=matrix,
        pixels=int(totals.sum()),
    )


@dataclass(frozen=True)
class Calibration:
    """Calibration of a map's confidences: confidence and accuracy in bins of equal width.

    Attributes
    ----------
    ece
        Expected calibration error: the mean over pixels of |accuracy - mean confidence| of the pixel's bin, 0..1
        (Guo et al., "On calibration of modern neural networks", 2017, Eq. 3).
    counts
        Pixels in each bin, from confidence 0 to 1; a bin includes its upper end.
    confidence, accuracy
        Mean confidence and share of correct pixels in each bin; NaN for an empty bin.
    """

    ece: float
    counts: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]

    def as_dict(self) -> dict[str, object]:
        """Return the figures in types that `json` writes; undefined ones (NaN) become None."""
        return {
            "ece": self.ece,
            "counts": list(self.counts),
            "confidence": [_or_none(value) for value in self.confidence],
            "accuracy": [_or_none(value) for value in self.accuracy],
        }


def calibration(confidence: NDArray[Any], correct: NDArray[Any], bins: int = 15) -> Calibration:
    """Compare confidences with observed accuracy.

    Parameters
    ----------
    confidence
        Confidence of each pixel's class, 0..1, any shape.
    correct
        Whether the class is correct, the same shape.
    bins
        Number of bins of equal width.

    Raises
    ------
    LabelsError
        The shapes differ, there is no pixel, or a confidence is not in 0..1.
    """
    if confidence.shape != correct.shape:
        raise LabelsError(f"the confidences are {confidence.shape} and the marks {correct.shape}: they must be equal")
    if confidence.size == 0:
        raise LabelsError("no pixel has both a confidence and a label: wanted at least one")
    sure, right = confidence.ravel().astype(np.float64), correct.ravel().astype(np.float64)
    if not (sure.min() >= 0 and sure.max() <= 1):
        raise LabelsError(f"the confidences reach from {sure.min():g} to {sure.max():g}: wanted 0 to 1")
    place = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    claimed, found = (_shares(np.bincount(place, v, minlength=bins), counts) for v in (sure, right))
    gaps = np.abs(np.nan_to_num(found) - np.nan_to_num(claimed))
    return Calibration(
        ece=float((counts * gaps).sum() / sure.size),
        counts=tuple(int(n) for n in counts),
        confidence=tuple(float(v) for v in claimed),
        accuracy=tuple(float(v) for v in found),
    )


def _shares(parts: NDArray[Any], wholes: NDArray[Any]) -> NDArray[np.float64]:
    """Return parts / wholes, NaN for a whole of 0."""
    return np.asarray(np.divide(parts, wholes, out=np.full(len(wholes), np.nan), where=wholes > 0))


def _check_values(truth: NDArray[Any], found: NDArray[Any], classes: int) -> None:
    if truth.size == 0:
        raise LabelsError("the labels are 0 at every pixel that would be scored: wanted at least one with a class")
    for name, values in (("reference", truth), ("map", found)):
        least, most = values.min(), values.max()
        if least < 0 or most > classes:
            raise LabelsError(f"the {name} has values from {least} to {most}; wanted 0 to {classes}")


def _kappa(truth: NDArray[Any], found: NDArray[Any]) -> float:
    """Return Cohen's kappa, NaN (without scikit-learn's warning) where chance agreement is 1."""
    if truth.min() == truth.max() and np.array_equal(truth, found):
        return float("nan")
    return float(cohen_kappa_score(truth, found))


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
