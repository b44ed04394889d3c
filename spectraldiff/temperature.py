"""Temperature scaling: one number that makes confidences mean what they say.

Guo et al., "On calibration of modern neural networks", 2017, Sec. 4.2: scores are divided by a temperature T before
the softmax, which changes no class. T is the one that gives held-out pixels the least negative log-likelihood.

A classifier is certain of the pixels that it was trained on, so T is fitted to a copy that never saw a fifth of them.
The fifth stands to the rest as the test pixels do to the training pixels: drawn pixel by pixel where they lie among
each other, polygon by polygon or patch by patch where they lie apart.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import label
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional as F

from spectraldiff.polygon_splits import share_of
from spectraldiff.scene import Scene
from spectraldiff.splits import Split
from spectraldiff.training import ClassifierTask

SHARE = 0.2
ENOUGH = 5  # training pixels of a class of which one is held out
LEAST = 5  # held-out pixels that a temperature is fitted to
HIGHEST = 10.0  # the temperature is from a tenth to ten
BATCH = 64


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


def hold_out(labels: NDArray[np.integer], places: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Choose the training pixels that the temperature is fitted to.

    Parameters
    ----------
    labels, places
        (n,) class and place of each training pixel.
    seed
        Makes every draw.

    Returns
    -------
    ndarray of shape (n,), bool
        About a fifth of each class, in whole places; never all of a class. None of a class with fewer than `ENOUGH`
        pixels. A class in one place only is drawn pixel by pixel.
    """
    generator, held = np.random.Generator(np.random.PCG64(seed)), np.zeros(len(labels), np.bool_)
    for value in np.unique(labels):
        pixels = np.flatnonzero(labels == value)
        if len(pixels) < ENOUGH:
            continue
        units = np.unique(places[pixels], return_inverse=True)[1]
        units = units if units.max() else np.arange(len(pixels))
        held[pixels[share_of(units, round(SHARE * len(pixels)), generator)]] = True
    return held


@torch.no_grad()
def window_scores(model: nn.Module, task: ClassifierTask, pixels: Tensor) -> Tensor:
    """Return the scores, (n, K) float64 on the CPU, of the windows around pixels, (n, 2), neither turned nor noised."""
    return torch.cat([model(task.windows(part)).double().cpu() for part in torch.split(pixels, BATCH)])


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
    smoothing = 1 / (len(labels) + 2)

    def loss(log_t: float) -> float:
        return float(F.cross_entropy(scores * math.exp(-log_t), labels, label_smoothing=smoothing))

    limit = math.log(HIGHEST)
    return math.exp(minimize_scalar(loss, bounds=(-limit, limit), method="bounded").x)


def too_few(pixels: int) -> Temperature:
    """Return the temperature of a training that has only so many pixels to hold out."""
    return Temperature(
        note=f"confidences are not calibrated: {pixels} training pixels can be held out for that (a fifth of each "
        f"class of {ENOUGH} or more) and {LEAST} are wanted; label more"
    )
