"""How good a map is: overall accuracy, average accuracy, Cohen's kappa and the confusion matrix.

All figures are fractions (0..1; kappa -1..1); the command line prints them times 100, as the paper does.
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
        Overall accuracy: the share of pixels that have the reference's class.
    aa
        Average accuracy: the mean of `per_class` over the classes that occur in the reference.
    kappa
        Cohen's kappa between reference and map, unclassified counted as a class of its own. NaN where
        it is not defined: everything is of one class in both.
    per_class
        The share of each class's pixels that were found (recall), for classes 1..K; NaN for a class
        that does not occur in the reference.
    confusion
        (K, K+1) int64: rows are the reference's classes 1..K, columns the map's 0..K, where 0 is
        unclassified.
    pixels
        How many pixels were scored.
    """

    oa: float
    aa: float
    kappa: float
    per_class: tuple[float, ...]
    confusion: NDArray[np.int64]
    pixels: int

    def as_dict(self) -> dict[str, object]:
        """Return the figures in types that `json` writes; what is not defined (NaN) becomes None."""
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
        The same shape, 0..K; 0 (unclassified) is wrong wherever the reference has a class.
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
    recall = np.divide(hits, totals, out=np.full(classes, np.nan), where=totals > 0)
    return Accuracy(
        oa=float(hits.sum() / totals.sum()),
        aa=float(np.nanmean(recall)),
        kappa=_kappa(truth, found),
        per_class=tuple(float(share) for share in recall),
        confusion=matrix,
        pixels=int(totals.sum()),
    )


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
