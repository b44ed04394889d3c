"""Temperature scaling and the number of smoothing iterations, fitted to pixels that were held out of the training.

Guo et al., "On calibration of modern neural networks", 2017, Sec. 4.2: scores are divided by a temperature T before
the softmax, which changes no class. T is the one that gives held-out pixels the least negative log-likelihood. The
number of iterations of `spectraldiff.models.score_smoothing` is the mean of all numbers, each weighted by the
likelihood of those pixels: many where a scene has large homogeneous regions, none where it has not.

A classifier is overconfident on the pixels that it was trained on, so both are fitted to a copy that never saw a fifth
of them.  The fifth relates to the rest as the test pixels do to the training pixels: drawn pixel by pixel where they
are mixed, polygon by polygon or patch by patch where they are spatially disjoint.  Where a fifth has few pixels, other
fifths follow, each with a copy of its own.
"""

import math
from dataclasses import dataclass

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from spectraldiff.ensemble.mosaic import Mosaic
from spectraldiff.models.foveal_vit import FovealViT
from spectraldiff.models.padding import cropped
from spectraldiff.models.score_smoothing import RADIUS, Smoothing
from spectraldiff.models.vit import SpectralViT
from spectraldiff.splits.hold_out import ENOUGH, SHARE

TILE = 32  # pixels along the side of the tiles that held-out pixels are classified in
LEAST = 5  # held-out pixels that a temperature is fitted to
HIGHEST = 10.0  # the temperature is from a tenth to ten


@dataclass(frozen=True)
class Temperature:
    """What scores are divided by, and where that comes from.

    Attributes
    ----------
    value
        T; 1 leaves the confidences as they are.
    pixels
        Held-out training pixels that it was fitted to; 0 for none.
    note
        Why there is none, in one line; else empty.
    """

    value: float = 1.0
    pixels: int = 0
    note: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return plain values."""
        return {"value": self.value, "held_out_pixels": self.pixels}


@dataclass(frozen=True)
class HeldOut:
    """What pixels show that copies of a classifier were not trained on.

    Attributes
    ----------
    temperature
        Fitted to them.
    iterations
        Of smoothing, chosen by them.
    """

    temperature: Temperature
    iterations: int


@torch.no_grad()
def smoothed_scores(vit: SpectralViT | FovealViT, mosaic: Mosaic, pixels: Tensor, smoothing: Smoothing) -> Tensor:
    """Return the class scores of some pixels after 0, 1, 2, ... iterations of smoothing.

    Parameters
    ----------
    vit
        In evaluation mode.
    mosaic
        (H, W, P) features, with a rim of the window's radius and the smoothing's halo around each scene.
    pixels
        (n, 2) row and column on the mosaic.
    smoothing
        With the most iterations.

    Returns
    -------
    Tensor
        (iterations + 1, n, K) float64 on the CPU.
    """
    rim, found = vit.config.radius + smoothing.halo, []
    tiles = torch.div(pixels, TILE, rounding_mode="floor")
    order = []
    for tile in torch.unique(tiles, dim=0):
        inside = (tiles == tile).all(1)
        chosen = pixels[inside]
        first, last = chosen.amin(0), chosen.amax(0)
        rows, columns = (slice(int(f) - rim, int(g) + rim + 1) for f, g in zip(first, last, strict=True))
        features = mosaic[rows, columns][None]  # (1, h, w, P)
        tokens = vit.embed(features).movedim(-1, 1)
        guides = smoothing.guides(cropped(features.movedim(-1, 1), vit.config.radius))
        at = chosen - first
        scores = [  # after each iteration, from smaller and smaller maps
            cropped(one, smoothing.halo - RADIUS * iteration)[0, :, at[:, 0], at[:, 1]].T
            for iteration, one in enumerate(smoothing.each(vit.slide(tokens), guides))
        ]
        found.append(torch.stack(scores).double().cpu())
        order.append(inside.nonzero()[:, 0].cpu())
    return torch.cat(found, 1)[:, torch.cat(order).argsort()]


def choose(scores: Tensor, labels: Tensor) -> HeldOut:
    """Choose the number of smoothing iterations, and the best temperature for it.

    The number is the mean of all numbers, each weighted by the likelihood of all pixels at its best temperature (the
    posterior's mean, all numbers being as probable before): where few pixels are held out, many numbers are nearly as
    likely as the likeliest, which chance alone picks. Of the mean a fifth is taken off: the copies that gave the scores
    lack a fifth of the training pixels, and the fewer of them there are, the farther it pays to look.

    Parameters
    ----------
    scores
        (iterations + 1, n, K), as `smoothed_scores` returns them.
    labels
        (n,) their classes, 0 .. K - 1.
    """
    found = [fit_temperature(one, labels) for one in scores]
    losses = torch.tensor([_loss(one / t, labels) for one, t in zip(scores, found, strict=True)], dtype=torch.float64)
    likelihoods = torch.softmax(-losses * len(labels), 0)
    iterations = round((1 - SHARE) * float((likelihoods * torch.arange(len(scores))).sum()))
    return HeldOut(Temperature(found[iterations], len(labels)), iterations)


def cross_calibrated(scores: Tensor, labels: Tensor, folds: Tensor) -> Tensor:
    """Return the scores of each pixel with smoothing and temperature that the other folds' pixels choose, (n, K).

    Parameters
    ----------
    scores, labels
        As of `choose`.
    folds
        (n,) the fold of each pixel.
    """
    found = torch.empty_like(scores[0])
    for fold in sorted(set(folds.tolist())):
        held = folds == fold
        rest = int((~held).sum())
        chosen = too_few(rest) if rest < LEAST else choose(scores[:, ~held], labels[~held])
        found[held] = scores[chosen.iterations][held] / chosen.temperature.value
    return found


def fit_temperature(scores: Tensor, labels: Tensor) -> float:
    """Return the temperature with the least negative log-likelihood, from 1 / `HIGHEST` to `HIGHEST`.

    Parameters
    ----------
    scores
        (n, K) of pixels that the model was not trained on.
    labels
        (n,) their classes, 0 .. K - 1.

    Notes
    -----
    One more pixel, of no class in particular, counts among the n: where all are right, the likelihood alone would make
    the model certain of everything (Platt, "Probabilistic outputs for support vector machines", 1999, Sec. 2.2).
    """
    limit = math.log(HIGHEST)
    best = minimize_scalar(
        lambda log_t: _loss(scores * math.exp(-log_t), labels), bounds=(-limit, limit), method="bounded"
    )
    return math.exp(best.x)


def _loss(scores: Tensor, labels: Tensor) -> float:
    return float(F.cross_entropy(scores, labels, label_smoothing=1 / (len(labels) + 2)))


def too_few(pixels: int) -> HeldOut:
    """Return the outcome of a training that has too few pixels to hold out."""
    note = (
        f"confidences are not calibrated: {pixels} training pixels can be held out for that (a fifth of each "
        f"class of {ENOUGH} or more) and {LEAST} are wanted; label more"
    )
    return HeldOut(Temperature(note=note), 0)
