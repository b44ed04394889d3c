"""The loss by which held-out pixels choose: a negative log-likelihood that single outliers cannot dominate.

A held-out pixel with a wrong label, or one that is mixed, may have a probability of nearly 0. With the plain
log-likelihood one such pixel sets a temperature or a shrinkage. Here each probability p of the pixel's class counts as
(1 - e) p + e / K: a share e of the labels may be wrong.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

Scores = NDArray[np.float64]  # (n, K)

LEAST_ERRORS = 0.01  # share of labels that may be wrong, at least
# Weight of one more pixel of no class: where all held-out pixels are right, the likelihood alone would make the model
# certain of everything (Platt, "Probabilistic outputs for support vector machines", 1999, Sec. 2.2).
EXTRA_PIXEL = 0.1
TEMPERATURES = np.exp(np.linspace(-4.0, 7.0, 23))


def error_share(pixels: int) -> float:
    """Return e for so many held-out pixels."""
    return max(LEAST_ERRORS, 1 / (pixels + 2))


def pixel_losses(scores: Scores, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the loss of each pixel, (n,).

    Parameters
    ----------
    scores
        (n, K) scores whose softmax are the probabilities, log priors included.
    labels
        (n,) classes from 0.
    """
    count, classes = scores.shape
    share, logs = error_share(count), log_softmax(scores, axis=1)
    own = np.exp(logs[np.arange(count), labels])
    extra = EXTRA_PIXEL / count * logs.mean(1)
    return np.asarray(-np.log((1 - share) * own + share / classes) - extra)


def fit_temperature(scores: Scores, priors: Scores, labels: NDArray[np.int64]) -> tuple[float, float]:
    """Return the temperature T of the least mean loss of ``scores / T + priors``, and that loss.

    Parameters
    ----------
    scores, priors
        (n, K) scores without prior, and log priors.
    labels
        (n,) classes from 0.
    """

    def loss(log_temperature: float) -> float:
        return float(pixel_losses(scores * np.exp(-log_temperature) + priors, labels).mean())

    grid = np.log(TEMPERATURES)
    best = int(np.argmin([loss(value) for value in grid]))
    bounds = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 0.02})
    return float(np.exp(found.x)), float(found.fun)


def log_priors(labels: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """Return the log of each class's share, (K,); a class without pixels counts as half a pixel."""
    counts = np.bincount(labels, minlength=classes)
    return np.asarray(np.log(np.maximum(counts, 0.5) / max(len(labels), 1)))
