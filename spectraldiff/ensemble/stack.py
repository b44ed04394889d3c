"""Weights of the ensemble's members: on a simplex, by the likelihood of held-out pixels, drawn to those of a prior.

Stacking (Wolpert, "Stacked generalization", 1992; Breiman, "Stacked regressions", 1996) of scores: the weighted mean of
the members' scores is what their probabilities, each to the power of its weight, multiply to.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from spectraldiff.ensemble.held_out_loss import EXTRA_PIXEL, Scores, error_share, fit_temperature

STRENGTH = 1.0  # of the Dirichlet prior of the weights
LEAST_WEIGHT = 0.02  # members below it are left out, and the others weighed anew
NEGLIGIBLE = 0.02  # share of the scores that the members have together that are left out in the end
COSTLY = 0.05  # the same of members that cost every map time
SCALE_PRIOR = 0.05  # of the square of the logarithm of the common scale


@dataclass(frozen=True)
class Stack:
    """Members that are kept, and what they count.

    Attributes
    ----------
    kept
        Indices of the members, in rising order.
    weights
        (kept,) weights whose sum is 1.
    shares
        (kept,) how much of the ensemble's scores each member makes up: its weight times the spread of its scores, their
        sum 1. A member that says little of any class has flat scores, and a small share at any weight.
    temperature
        What the weighted mean of the scores is divided by.
    loss
        Mean held-out loss.
    """

    kept: tuple[int, ...]
    weights: NDArray[np.float64]
    shares: NDArray[np.float64]
    temperature: float
    loss: float

    def apply(self, scores: NDArray[np.float64]) -> Scores:
        """Map the scores of all members, (M, n, K), to those of the ensemble, (n, K), without prior."""
        return np.asarray(np.tensordot(self.weights, scores[list(self.kept)], 1) / self.temperature)


def fit_stack(
    scores: NDArray[np.float64],
    priors: Scores,
    labels: NDArray[np.int64],
    pixels: float,
    centre: Sequence[float] | None = None,
    strength: float | None = None,
    costly: Sequence[NDArray[np.bool_]] = (),
    seen: NDArray[np.bool_] | None = None,
) -> Stack:
    """Weigh members.

    Parameters
    ----------
    scores
        (M, n, K) held-out scores without prior, each member at its own temperature.
    priors
        (n, K) log priors.
    labels
        (n,) classes from 0.
    pixels
        As how many independent pixels the n count.
    centre, strength
        (M,) weights that the prior draws to, their sum 1, equal ones by default; and as how many pixels it counts,
        `STRENGTH` a member by default.
    costly
        (M,) bool each: members that together cost every map time, and leave where they make up little.
    seen
        (n, K) whether the members that scored a pixel had learnt a class; all by default.
    """
    seen = np.ones(scores.shape[1:], np.bool_) if seen is None else seen
    kept = list(range(len(scores)))
    share = np.full(len(kept), 1 / len(kept)) if centre is None else np.asarray(centre)
    while True:
        pull = share[kept] / share[kept].sum() * (STRENGTH * len(kept) if strength is None else strength)
        weights = _weights(scores[kept], priors, labels, pixels, pull)
        low = int((weights < LEAST_WEIGHT).sum())
        if not low or len(kept) == 1:
            break
        dropped = set(np.argsort(weights)[: max(1, low // 2)].tolist())
        kept = [member for at, member in enumerate(kept) if at not in dropped]
    strong = _not_negligible(shares_of(weights, scores[kept], seen), [one[kept] for one in costly])
    kept, weights = [member for member, one in zip(kept, strong, strict=True) if one], weights[strong]
    weights = weights / weights.sum()
    temperature, loss = fit_temperature(np.tensordot(weights, scores[kept], 1), priors, labels)
    return Stack(tuple(kept), weights, shares_of(weights, scores[kept], seen), temperature, loss)


def _not_negligible(shares: NDArray[np.float64], costly: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Return which members stay, (M,) bool.

    The smallest ones go as long as they make up `NEGLIGIBLE` together, then each group of costly ones that makes up no
    more than `COSTLY`.
    """
    order = np.argsort(shares)
    found = np.ones(len(shares), np.bool_)
    found[order[np.cumsum(shares[order]) <= NEGLIGIBLE]] = False
    for group in costly:
        if shares[group].sum() <= COSTLY and (found & ~group).any():
            found &= ~group
    return found


def shares_of(
    weights: NDArray[np.float64], scores: NDArray[np.float64], seen: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the share of each member, (M,), in the spread of the weighted scores (M, n, K) over the classes.

    The score of a class that a member had not learnt is far below all others, or any: it says nothing of the member.
    """
    centred = (scores - scores.mean(2, keepdims=True, where=seen)) * seen
    spread = weights * np.sqrt((centred**2).sum((1, 2)) / seen.sum())
    return np.asarray(spread / spread.sum() if spread.any() else weights)


def _weights(
    scores: NDArray[np.float64], priors: Scores, labels: NDArray[np.int64], pixels: float, pull: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the weights of all members, (M,)."""
    members, count, classes = scores.shape
    share, at = error_share(count), np.arange(count)

    def loss(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, scale = softmax(theta[:members]), np.exp(theta[members])
        mean = np.tensordot(weights, scores, 1)
        logs = log_softmax(scale * mean + priors, axis=1)
        p = np.exp(logs)
        likely = (1 - share) * p[at, labels] + share / classes
        value = pixels * (-np.log(likely).mean() - EXTRA_PIXEL * logs.mean() / count)
        value += -(pull * np.log(weights)).sum() + SCALE_PRIOR * theta[members] ** 2
        own = (1 - share) * p[at, labels] / likely
        slope = p * own[:, None]  # of the loss by the scores
        slope[at, labels] -= own
        slope = pixels / count * (slope + EXTRA_PIXEL * (p - 1 / classes) / count)
        of_weights = scale * np.tensordot(scores, slope, ([1, 2], [0, 1]))
        of_theta = weights * (of_weights - (weights * of_weights).sum()) - (pull - pull.sum() * weights)
        of_scale = scale * (slope * mean).sum() + 2 * SCALE_PRIOR * theta[members]
        return float(value), np.append(of_theta, of_scale)

    start, bounds = np.append(np.log(pull / pull.sum()), 0.0), [(-8.0, 8.0)] * members + [(-3.0, 3.0)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 300})
    return np.asarray(softmax(found.x[:members]))
