"""Closed-form and convex classifiers of a feature vector: shrinkage LDA and multinomial logistic regression.

Both give linear scores without prior, so that a map can assume any prior: LDA by leaving the log prior out, logistic
regression by adding it in the training (logit adjustment: Menon et al., "Long-tail learning via logit adjustment",
2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from spectraldiff.ensemble.held_out_loss import Scores, fit_temperature, log_priors

SHRINKAGES = (0.003, 0.03, 0.1, 0.4)
PENALTIES = (0.01, 0.002, 0.0003)
ITERATIONS = 30
WORSE = 0.02  # of the loss: penalties are not lowered further
ABSENT = -1e3  # score of a class without training pixels


@dataclass(frozen=True)
class LinearFit:
    """A linear classifier and what it says of pixels that were held out of it.

    Attributes
    ----------
    weight, bias
        (D, K) and (K,): scores without prior, divided by the temperature.
    held_out
        (n, K) scores of each training pixel by the classifier of the other folds, divided by the temperature.
    loss
        Mean held-out loss.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    held_out: Scores
    loss: float


@dataclass(frozen=True)
class Labelled:
    """Training pixels of a fit.

    Attributes
    ----------
    labels
        (n,) classes from 0.
    folds
        (n,) bool each, the pixels of each fold.
    classes
        K.
    """

    labels: NDArray[np.int64]
    folds: Sequence[NDArray[np.bool_]]
    classes: int

    def priors(self) -> Scores:
        """Return the log priors, (n, K), that the classifiers of the other folds were trained with."""
        found = np.zeros((len(self.labels), self.classes))
        for held in self.folds:
            found[held] = log_priors(self.labels[~held], self.classes)
        return found

    def seen(self) -> NDArray[np.bool_]:
        """Return whether the classifier of the other folds learnt a class, (n, K)."""
        found = np.zeros((len(self.labels), self.classes), np.bool_)
        for held in self.folds:
            found[held] = np.isin(np.arange(self.classes), self.labels[~held])
        return found


def fit_lda(x: NDArray[np.float64], labelled: Labelled, target: NDArray[np.float64] | None) -> LinearFit:
    """Fit linear discriminants whose pooled covariance is shrunk towards a target.

    A = (1 - a) S + a T with the pooled within-class covariance S; T has the trace of S. The scores of all shrinkages a
    are averaged, each divided by its temperature, weighted by the likelihood of the held-out pixels.

    Parameters
    ----------
    x
        (n, D) feature vectors.
    labelled
        Their classes and folds.
    target
        (D, D) covariance; None for the identity.
    """
    moments = [_Moments(x[~held], labelled.labels[~held], labelled.classes) for held in labelled.folds]
    whole, priors = _Moments(x, labelled.labels, labelled.classes), labelled.priors()
    found = []
    for shrinkage in SHRINKAGES:
        scores = np.zeros((len(x), labelled.classes))
        for held, moment in zip(labelled.folds, moments, strict=True):
            weight, bias = moment.solve(shrinkage, target)
            scores[held] = x[held] @ weight + bias
        temperature, loss = fit_temperature(scores, priors, labelled.labels)
        weight, bias = whole.solve(shrinkage, target)
        found.append((loss, weight / temperature, bias / temperature, scores / temperature))
    share = softmax(-len(x) * np.array([one[0] for one in found]))
    weight, bias, scores = (sum(s * one[part] for s, one in zip(share, found, strict=True)) for part in (1, 2, 3))
    return _tempered(weight, bias, scores, priors, labelled.labels)


class _Moments:
    """Class means and pooled within-class covariance."""

    def __init__(self, x: NDArray[np.float64], labels: NDArray[np.int64], classes: int) -> None:
        counts = np.bincount(labels, minlength=classes)
        self.present = counts > 0
        self.means = np.zeros((classes, x.shape[1]))
        np.add.at(self.means, labels, x)
        self.means /= np.maximum(counts, 1)[:, None]
        inner = x - self.means[labels]
        self.within = inner.T @ inner / max(len(x) - int(self.present.sum()), 1)

    def solve(
        self, shrinkage: float, target: NDArray[np.float64] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return weight (D, K) and bias (K,) without prior."""
        size, trace = len(self.within), float(np.trace(self.within))
        shrunk = np.eye(size) if target is None else target
        matrix = (1 - shrinkage) * self.within + shrinkage * shrunk * trace / float(np.trace(shrunk))
        matrix[np.diag_indices(size)] += 1e-6 * trace / size + 1e-12
        weight = np.asarray(np.linalg.solve(matrix, self.means.T), dtype=np.float64)
        bias = np.asarray(-0.5 * (self.means.T * weight).sum(0), dtype=np.float64)
        bias[~self.present] = ABSENT
        return weight, bias


def fit_logistic(x: NDArray[np.float64], labelled: Labelled) -> LinearFit:
    """Fit multinomial logistic regression with an L2 penalty that held-out pixels choose.

    The regressions of all folds, and that of all pixels, are solved together by L-BFGS, from the highest penalty on.

    Parameters
    ----------
    x
        (n, D) feature vectors.
    labelled
        Their classes and folds.
    """
    problem = _Regressions(x, labelled)
    best: tuple[float, Scores, NDArray[np.float64], NDArray[np.float64]] | None = None
    for penalty in PENALTIES:
        scores, weight, bias = problem.solve(penalty)
        _, loss = fit_temperature(scores, problem.priors, labelled.labels)
        if best is None or loss < best[0]:
            best = loss, scores, weight, bias
        elif loss > best[0] + WORSE:
            break
    assert best is not None
    return _tempered(best[2], best[3], best[1], problem.priors, labelled.labels)


class _Regressions:
    """One regression for each fold, on the other folds, and one on all pixels."""

    def __init__(self, x: NDArray[np.float64], labelled: Labelled) -> None:
        self.labelled, self.priors = labelled, labelled.priors()
        self.x, self.labels = torch.from_numpy(x.astype(np.float32)), torch.from_numpy(labelled.labels)
        used = [~held for held in labelled.folds] + [np.ones(len(x), bool)]
        masks = torch.from_numpy(np.stack(used)).float()  # (J + 1, n)
        self.share = (masks / masks.sum(1, keepdim=True)).T  # (n, J + 1)
        priors = np.stack([log_priors(labelled.labels[one], labelled.classes) for one in used])
        self.offset = torch.from_numpy(priors).float()  # (J + 1, K)
        self.weight = torch.zeros(x.shape[1], self.offset.numel())
        self.bias = torch.zeros(self.offset.numel())

    def scores(self) -> Tensor:
        """Return the scores without prior, (n, J + 1, K)."""
        return (self.x @ self.weight + self.bias).view(len(self.x), *self.offset.shape)

    def solve(self, penalty: float) -> tuple[Scores, NDArray[np.float64], NDArray[np.float64]]:
        """Go on to a lower penalty; return held-out scores (n, K), and weight (D, K) and bias (K,) of all pixels."""
        self.weight, self.bias = self.weight.requires_grad_(), self.bias.requires_grad_()
        solver = torch.optim.LBFGS(
            [self.weight, self.bias], max_iter=ITERATIONS, history_size=10, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            solver.zero_grad()
            logs = (self.scores() + self.offset).log_softmax(2)
            own = logs.gather(2, self.labels[:, None, None].expand(-1, logs.shape[1], 1))[..., 0]  # (n, J + 1)
            value = -(own * self.share).sum() + 0.5 * penalty * self.weight.square().sum()
            value = value + 0.5e-3 * self.bias.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        solver.step(loss)  # type: ignore[no-untyped-call]
        self.weight, self.bias = self.weight.detach(), self.bias.detach()
        scores = self.scores().double().numpy()
        held_out = np.zeros((len(self.x), self.offset.shape[1]))
        for number, held in enumerate(self.labelled.folds):
            held_out[held] = scores[held, number]
        last = slice(-self.offset.shape[1], None)
        return held_out, self.weight[:, last].double().numpy(), self.bias[last].double().numpy()


def _tempered(
    weight: NDArray[np.float64],
    bias: NDArray[np.float64],
    scores: Scores,
    priors: Scores,
    labels: NDArray[np.int64],
) -> LinearFit:
    temperature, loss = fit_temperature(scores, priors, labels)
    return LinearFit(weight / temperature, bias / temperature, scores / temperature, loss)
