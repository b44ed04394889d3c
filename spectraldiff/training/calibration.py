"""Temperature scaling and the number of smoothing steps: what is fitted to pixels that were held out of the training.

Guo et al., "On calibration of modern neural networks", 2017, Sec. 4.2: scores are divided by a temperature T before
the softmax, which changes no class. T is the one that gives held-out pixels the least negative log-likelihood. The
number of steps of `spectraldiff.smoothing` follows from the mean of all, each as likely as it makes those pixels: far
where the ground lies in large pieces, none where it does not.

A classifier is certain of the pixels that it was trained on, so both are fitted to a copy that never saw a fifth of
them.  The fifth stands to the rest as the test pixels do to the training pixels: drawn pixel by pixel where they lie
among each other, polygon by polygon or patch by patch where they lie apart.  Where a fifth is little, other fifths
follow, each with a copy of its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import label
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from spectraldiff.data.scene import Scene
from spectraldiff.models.features import cropped
from spectraldiff.models.foveal_vit import FovealViT
from spectraldiff.models.score_smoothing import RADIUS, Smoothing
from spectraldiff.models.vit import SpectralViT
from spectraldiff.splits.by_polygon import share_of
from spectraldiff.splits.draw import Split

SHARE = 0.2
ENOUGH = 5  # training pixels of a class of which one is held out
FOLDS = 5  # fifths at most, and held-out pixels beyond which there is no further one
PLENTY = 500
TILE = 32  # pixels along the side of the tiles that held-out pixels are classified in
LEAST = 5  # held-out pixels that a temperature is fitted to
HIGHEST = 10.0  # the temperature is from a tenth to ten
CLEARLY = 2.0  # standard errors


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
    """What the pixels that copies of a classifier never saw say of it.

    Attributes
    ----------
    temperature
        Fitted to them.
    steps
        Of smoothing, chosen by them.
    losses
        (n,) negative log-likelihood of each at that temperature, after those steps; in the same order for all
        classifiers of a training.
    """

    temperature: Temperature
    steps: int
    losses: Tensor

    def worse(self, other: "HeldOut") -> bool:
        """Whether the other makes the held-out pixels likelier, by more than `CLEARLY` standard errors."""
        gain = self.losses - other.losses
        return len(gain) > 1 and bool(gain.mean() > CLEARLY * gain.std() / len(gain) ** 0.5)


def places(scenes: Sequence[Scene], splits: Sequence[Split]) -> NDArray[np.int64]:
    """Return the number of the place of each training pixel, (n,), scene after scene in order of rows.

    A place is what is held out together: a pixel, or a polygon or patch where `Split.apart`.
    """
    found, top = [], 0
    for scene, split in zip(scenes, splits, strict=True):
        numbers = patches(np.where(split.train, scene.labels, 0), scene.groups)[split.train]
        found.append(numbers + top)
        top = max(top, int(found[-1].max(initial=0)))
    joined = np.concatenate(found)
    return joined if any(split.apart for split in splits) else np.arange(len(joined))


def patches(labels: NDArray[np.integer], groups: NDArray[np.int32] | None) -> NDArray[np.int64]:
    """Return the number of the patch of equal label that a pixel is in, (H, W) from 1; 0 without a label.

    A patch is a polygon's pixels where `groups` names one, else pixels that touch each other, also at their corners.
    """
    numbers, top = np.zeros(labels.shape, np.int64), 0
    for value in np.unique(labels[labels > 0]):
        found, count = label(labels == value, np.ones((3, 3)))
        numbers[found > 0] = found[found > 0] + top
        top += count
    return numbers if groups is None else np.where((groups > 0) & (labels > 0), groups + np.int64(top), numbers)


def hold_out(labels: NDArray[np.integer], places: NDArray[np.int64], seed: int) -> list[NDArray[np.bool_]]:
    """Choose the training pixels that temperature and smoothing are fitted to.

    Parameters
    ----------
    labels, places
        (n,) class and place of each training pixel.
    seed
        Makes every draw.

    Returns
    -------
    list of ndarray of shape (n,), bool
        Up to `FOLDS` sets without a common pixel, as many as hold `PLENTY` pixels together. Each has about a fifth of
        each class, in whole places; never all of a class. None of a class with fewer than `ENOUGH` pixels. A class in
        one place only is drawn pixel by pixel.
    """
    generator, free = np.random.Generator(np.random.PCG64(seed)), np.ones(len(labels), np.bool_)
    classes = [pixels for value in np.unique(labels) if len(pixels := np.flatnonzero(labels == value)) >= ENOUGH]
    folds: list[NDArray[np.bool_]] = []
    while len(folds) < FOLDS and (~free).sum() < PLENTY:
        held = np.zeros(len(labels), np.bool_)
        for pixels in classes:
            alone, left = len(np.unique(places[pixels])) == 1, pixels[free[pixels]]
            if len(left):
                units = np.arange(len(left)) if alone else np.unique(places[left], return_inverse=True)[1]
                held[left[share_of(units, round(SHARE * len(pixels)), generator)]] = True
        if not held.any():
            break
        free &= ~held
        folds.append(held)
    return folds


@torch.no_grad()
def smoothed_scores(vit: SpectralViT | FovealViT, sheet: Tensor, pixels: Tensor, smoothing: Smoothing) -> Tensor:
    """Return the class scores of some pixels after 0, 1, 2, ... steps of smoothing.

    Parameters
    ----------
    vit
        In evaluation mode.
    sheet
        (H, W, P) features, with a rim of the window's radius and the smoothing's halo around each scene.
    pixels
        (n, 2) row and column on the sheet.
    smoothing
        With the most steps.

    Returns
    -------
    Tensor
        (steps + 1, n, K) float64 on the CPU.
    """
    rim, found = vit.config.radius + smoothing.halo, []
    tiles = torch.div(pixels, TILE, rounding_mode="floor")
    order = []
    for tile in torch.unique(tiles, dim=0):
        inside = (tiles == tile).all(1)
        spots = pixels[inside]
        first, last = spots.amin(0), spots.amax(0)
        rows, columns = (slice(int(f) - rim, int(g) + rim + 1) for f, g in zip(first, last, strict=True))
        features = sheet[rows, columns][None]  # (1, h, w, P)
        tokens = vit.embed(features).movedim(-1, 1)
        guides = smoothing.guides(cropped(features.movedim(-1, 1), vit.config.radius))
        at = spots - first
        scores = [  # of each step, from maps that are smaller and smaller
            cropped(one, smoothing.halo - RADIUS * step)[0, :, at[:, 0], at[:, 1]].T
            for step, one in enumerate(smoothing.each(vit.slide(tokens), guides))
        ]
        found.append(torch.stack(scores).double().cpu())
        order.append(inside.nonzero()[:, 0].cpu())
    return torch.cat(found, 1)[:, torch.cat(order).argsort()]


def choose(scores: Tensor, labels: Tensor) -> HeldOut:
    """Choose the number of steps of smoothing, and the temperature that suits it best.

    The mean of the numbers of steps, each weighted by the likelihood of all pixels at its best temperature (the
    posterior's mean, all numbers being as probable before): where few pixels are held out, many numbers are nearly as
    likely as the likeliest, which chance alone picks. Of the mean a fifth is taken off: the copies that gave the scores
    lack a fifth of the training pixels, and the fewer of them there are, the farther it pays to look.

    Parameters
    ----------
    scores
        (steps + 1, n, K), as `smoothed_scores` returns them.
    labels
        (n,) their classes, 0 .. K - 1.
    """
    found = [fit_temperature(one, labels) for one in scores]
    losses = torch.tensor([_loss(one / t, labels) for one, t in zip(scores, found, strict=True)], dtype=torch.float64)
    likelihoods = torch.softmax(-losses * len(labels), 0)
    steps = round((1 - SHARE) * float((likelihoods * torch.arange(len(scores))).sum()))
    of_each = F.cross_entropy(scores[steps] / found[steps], labels, reduction="none")
    return HeldOut(Temperature(found[steps], len(labels)), steps, of_each)


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
    """Return what a training knows that has only so many pixels to hold out."""
    note = (
        f"confidences are not calibrated: {pixels} training pixels can be held out for that (a fifth of each "
        f"class of {ENOUGH} or more) and {LEAST} are wanted; label more"
    )
    return HeldOut(Temperature(note=note), 0, torch.zeros(0))
