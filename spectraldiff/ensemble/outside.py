"""How far a pixel is from the training classes: a distance, its context, and what it is among held-out pixels.

The distance is that to the nearest class mean in the pooled covariance within the classes (Mahalanobis), less that to
the scene in the scene's own covariance: what is odd for every class but common in the scene is no noise, it is a class
that has no labels. Ren et al. ("A simple fix to Mahalanobis distance for improving near-OOD detection", 2021) take the
training data as the background; here it is the whole scene, whose pixels need no labels.

In a basis in which both covariances are diagonal, the difference is again one quadratic form for all classes. No
direction counts less than `LEAST` of its distance to the class: what is far from everything is always far.

Context, components and shrinkage are chosen as the distance will be used: each class in turn is taken as one without
labels, and its pixels are ranked against held-out pixels of the others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.stats import rankdata

from spectraldiff.ensemble.context_inputs import BAND_COMPONENTS, ContextInputs, FeatureMap, first_of
from spectraldiff.ensemble.held_out_loss import Scores
from spectraldiff.ensemble.linear_fit import Labelled
from spectraldiff.models.linear_members import Outside, PixelContext
from spectraldiff_runtime.output.block import BEYOND

WINDOWS = (1, 3, 5, 9, 15)
SIZES = (10, 20, 40)  # components; more would take the map more than 5 % longer
SHRINKAGES = (0.03, 0.3)  # of the covariance within classes, towards the identity
LEAST = 0.05  # share of a direction's distance to the class that always counts
SCENE_PIXELS = 4_000  # that the scene's covariance is taken from, at most


@dataclass(frozen=True)
class OutsideFit:
    """A distance from the training, and what it says of held-out pixels.

    Attributes
    ----------
    module
        What a model computes.
    window, components, source
        What it reads: the mean of a square of `window` pixels along a side, so many components of ``"features"`` or of
        ``"bands"``.
    auroc
        How well it ranks the pixels of a class without labels above others, 0..1: the mean over all classes, each left
        out in turn; 0.5 by chance. NaN with fewer than three classes.
    percents
        (n,) of the training pixels, each by a distance that never saw its fold.
    errors
        Shares of wrong held-out pixels inside and outside, see `BEYOND`; NaN where there are none.
    """

    module: Outside
    window: int
    components: int
    source: str
    auroc: float
    percents: NDArray[np.int64]
    errors: tuple[float, float] = (float("nan"), float("nan"))

    def judged(self, scores: Scores, labels: NDArray[np.int64]) -> "OutsideFit":
        """Return the fit with the errors of held-out predictions, (n, K) scores with NaN where there are none."""
        known = np.asarray(np.isfinite(scores).all(1))
        wrong = np.where(known[:, None], scores, 0).argmax(1) != labels
        sides = (known & (self.percents <= BEYOND), known & (self.percents > BEYOND))
        inside, outside = (float(wrong[side].mean()) if side.any() else float("nan") for side in sides)
        return replace(self, errors=(inside, outside))

    def lines(self, layers: Sequence[NDArray[np.uint8]]) -> list[str]:
        """Return what the distance is and what it says of some scenes, (H, W) percent each, one sentence each."""
        window = f"the mean of {self.window} x {self.window} pixels" if self.window > 1 else "the pixel alone"
        found = [
            f"How far each pixel is from the training classes: the percentage of {len(self.percents):,} held-out "
            f"training pixels that are closer, by {self.components} components of the {self.source}, {window}.",
            f"{100 * share_beyond(layers):.1f} % of what is mapped is beyond {BEYOND} %, where {100 - BEYOND} % of "
            f"pixels like those of the training would be; `sdiff map --max-outside {BEYOND}` leaves these pixels out.",
        ]
        if not np.isnan(self.errors).any():
            inside, outside = (f"{100 * one:.1f} %" for one in self.errors)
            found.append(f"Of the held-out pixels {inside} are wrong within, and {outside} of those beyond.")
        if not np.isnan(self.auroc):
            found.append(
                f"Pixels of a class that is left out of the training are ranked above others with an AUROC of "
                f"{self.auroc:.2f} (each class in turn; 0.5 by chance)."
            )
        return found

    def as_dict(self) -> dict[str, object]:
        """Return plain values."""
        inside, outside = (None if np.isnan(one) else one for one in self.errors)
        return {
            "window": self.window,
            "components": self.components,
            "source": self.source,
            "auroc_of_left_out_classes": None if np.isnan(self.auroc) else self.auroc,
            "held_out_pixels": len(self.percents),
            "beyond_percent": BEYOND,
            "error_inside": inside,
            "error_outside": outside,
        }


def share_beyond(layers: Sequence[NDArray[np.uint8]]) -> float:
    """Return the share of pixels with data, 0..1, that are unlike the training, see `BEYOND`; NaN without any."""
    known = np.concatenate([layer[layer <= 100] for layer in layers]) if layers else np.zeros(0)
    return float((known > BEYOND).mean()) if len(known) else float("nan")


@dataclass(frozen=True)
class _Distance:
    """A quadratic form for each class: sum of curve z^2 + slope_k z + constant_k, with z = basis^T x."""

    basis: NDArray[np.float64]  # (P, P)
    curve: NDArray[np.float64]  # (P,)
    slopes: NDArray[np.float64]  # (K, P)
    constants: NDArray[np.float64]  # (K,)

    @classmethod
    def fit(
        cls,
        x: NDArray[np.float64],
        labels: NDArray[np.int64],
        scene: tuple[NDArray[np.float64], NDArray[np.float64]],
        shrinkage: float,
    ) -> "_Distance":
        """Fit to pixels (n, P) of classes from 0, some of which may be missing, and the scene's mean and covariance."""
        present, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
        means = np.zeros((len(present), x.shape[1]))
        np.add.at(means, numbers, x)
        means /= counts[:, None]
        inner = x - means[numbers]
        within = inner.T @ inner / max(len(x) - len(present), 1)
        scale = float(np.trace(within)) / len(within)
        within = (1 - shrinkage) * within + (shrinkage * scale + 1e-9) * np.eye(len(within))
        spread, basis = eigh(scene[1], within)  # basis^T within basis = 1, basis^T scene basis = diag(spread)
        share = np.minimum(1 / np.maximum(spread, 1e-9), 1 - LEAST)
        centre, means = scene[0] @ basis, means @ basis
        constants = (means**2).sum(1) - (share * centre**2).sum()
        return cls(basis, 1 - share, -2 * (means - share * centre), constants)

    def each(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the distance of pixels (n, P) to each class, (n, K)."""
        z = x @ self.basis
        return np.asarray((z**2 @ self.curve)[:, None] + z @ self.slopes.T + self.constants)


@dataclass(frozen=True)
class _Way:
    """What a distance reads, and its shrinkage."""

    name: str
    window: int
    size: int
    shrinkage: float


def fit_outside(inputs: ContextInputs, labelled: Labelled, reach: int, sources: Sequence[str]) -> OutsideFit:
    """Choose and fit a distance from the training classes.

    Parameters
    ----------
    inputs, labelled
        The training pixels.
    reach
        Pixels around a pixel that the distance may read.
    sources
        Names of the feature maps that it may read.
    """
    inputs = replace(inputs, maps={name: _first(inputs.maps[name]) for name in sources}, _kept={})
    around = replace(inputs, pixels=inputs.spread(SCENE_PIXELS), _kept={})
    best: tuple[float, _Way, NDArray[np.float64]] | None = None
    for way in _ways(inputs, reach, sources):
        held_out = _held_out(way, inputs, around, labelled)
        found = _auroc(held_out, labelled.labels)
        if best is None or found > best[0]:
            best = found, way, held_out
    assert best is not None
    auroc, way, held_out = best
    x = _read(inputs, way)
    module = _module(_Distance.fit(x, labelled.labels, _scene(way, around), way.shrinkage), way, inputs)
    far = np.nanmin(held_out, axis=1)
    module.steps = torch.from_numpy(np.append(np.quantile(far, np.arange(99) / 100), far.max())).float()
    percents = np.searchsorted(module.steps.double().numpy(), far, side="left")
    source = "bands" if way.name == BAND_COMPONENTS else "features"
    return OutsideFit(module, way.window, way.size, source, auroc, percents)


def _first(whole: FeatureMap) -> FeatureMap:
    """Return a feature map with those of its components that may be read: means over windows of all take long."""
    most = max(SIZES)
    return FeatureMap(first_of(whole.values, most), whole.weight[:most], whole.offset[:most])


def _ways(inputs: ContextInputs, reach: int, sources: Sequence[str]) -> Iterator[_Way]:
    for name in sources:
        most = inputs.maps[name].values.shape[2]
        sizes = dict.fromkeys(min(size, most) for size in SIZES)
        windows = [window for window in WINDOWS if window // 2 <= reach]
        for window, size, shrinkage in product(windows, sizes, SHRINKAGES):
            yield _Way(name, window, size, shrinkage)


def _read(inputs: ContextInputs, way: _Way) -> NDArray[np.float64]:
    return inputs.read(way.name, [PixelContext(way.window)])[0][:, : way.size]


def _scene(way: _Way, around: ContextInputs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and covariance of the scene."""
    x = _read(around, way)
    centre = x.mean(0)
    inner = x - centre
    return centre, inner.T @ inner / len(x) + 1e-9 * np.eye(x.shape[1])


def _held_out(way: _Way, inputs: ContextInputs, around: ContextInputs, labelled: Labelled) -> NDArray[np.float64]:
    """Return the distance of each training pixel to each class, (n, K), by the other folds; NaN for missing classes."""
    x, scene = _read(inputs, way), _scene(way, around)
    found = np.full((len(x), labelled.classes), np.nan)
    for held in labelled.folds:
        present = np.unique(labelled.labels[~held])
        distance = _Distance.fit(x[~held], labelled.labels[~held], scene, way.shrinkage)
        found[np.ix_(held, present)] = distance.each(x[held])
    return found


def _auroc(held_out: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the mean over classes of how well each is ranked above the others where it is left out; 0 .. 1."""
    classes, found = np.unique(labels), []
    for left_out in classes if len(classes) > 2 else ():
        distances = np.delete(held_out, left_out, axis=1)
        known = ~np.isnan(distances).all(axis=1)  # where the other folds hold pixels of one of the other classes
        far, own = np.nanmin(distances[known], axis=1, initial=np.inf), labels[known] == left_out
        count, others = int(own.sum()), int((~own).sum())
        if count and others:
            found.append((rankdata(far)[own].sum() - count * (count + 1) / 2) / (count * others))
    return float(np.mean(found)) if found else float("nan")


def _module(distance: _Distance, way: _Way, inputs: ContextInputs) -> Outside:
    """Return what a model computes: maps of the extractor's features."""
    whole = inputs.maps[way.name]
    weight = distance.basis.T @ whole.weight[: way.size]  # (P, D)
    found = Outside(way.window, way.size, len(distance.slopes), weight.shape[1])
    values = {
        "weight": weight,
        "bias": distance.basis.T @ whole.offset[: way.size],
        "curve": distance.curve,
        "slopes": distance.slopes,
        "constants": distance.constants,
    }
    for name, one in values.items():
        setattr(found, name, torch.from_numpy(one).float())
    return found
