"""Principal components scaled to unit variance."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from scipy.stats import f as f_distribution
from torch import Tensor
from torch.nn import functional as F

# A component's least standard deviation, as a share of the root mean square of the mean feature vector.
SMALLEST_DEVIATION = 2e-3
# How many standard deviations above chance a component should separate the classes, and by how many the last ones
# together must fall short of that, again in deviations of chance, before they are left out.
EVIDENCE, SHORT = 0.5, 4.0


@dataclass(frozen=True)
class PCA:
    """Principal components scaled to unit variance: `components @ (features - mean)`.

    Attributes
    ----------
    mean
        (D,) mean feature vector.
    components
        (P, D), each row divided by the standard deviation along it.
    explained
        Share of the variance that the P components hold, 0 .. 1; without those of the bands alone.
    band_components
        How many of the P, the last ones, are principal components of the bands alone, where these are concatenated to
        the features.
    """

    mean: Tensor
    components: Tensor
    explained: float
    band_components: int = 0

    def __call__(self, features: Tensor) -> Tensor:
        """Map (N, D, H, W) to (N, P, H, W)."""
        return torch.einsum("pd,ndhw->nphw", self.components, features - self.mean[:, None, None])

    def discriminative(self, values: Tensor, labels: Tensor) -> Tensor:
        """Return the indices of the discriminative components, of features and of bands alone, see `discriminative`."""
        first = values.shape[1] - self.band_components
        found = torch.arange(discriminative(values[:, :first], labels))
        if not self.band_components:
            return found
        return torch.cat([found, first + torch.arange(discriminative(values[:, first:], labels))])

    def select(self, kept: Tensor) -> "PCA":
        """Return the PCA with the components of these indices, in rising order."""
        first = len(self.components) - self.band_components
        of_bands = int((kept >= first).sum())
        variances = self.components[:first].square().sum(1).reciprocal()
        share = float(variances[kept[: len(kept) - of_bands]].sum() / variances.sum())
        return PCA(self.mean, self.components[kept], share * self.explained, of_bands)

    def to(self, device: torch.device) -> "PCA":
        """Return the PCA on another device."""
        return replace(self, mean=self.mean.to(device), components=self.components.to(device))


def fit_pca(batches: Iterator[Tensor], components: int, bands: int = 0, band_components: int = 0) -> PCA:
    """Fit `components` principal components to feature vectors that arrive as (M, D) batches.

    With `band_components`, so many more are of the last `bands` features alone.

    Fewer are kept where the covariance has a lower rank (a direction without variance cannot be scaled to unit
    variance) or where a direction's deviation falls below `SMALLEST_DEVIATION` of the features themselves: scaling
    it would amplify their float32 rounding into visible noise.
    """
    count, total, scatter = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        rows = batch.double()
        count += len(rows)
        total = total + rows.sum(0)
        scatter = scatter + rows.T @ rows
    mean = total / count
    covariance = (scatter - count * torch.outer(mean, mean)) / max(count - 1, 1)
    scaled, explained = _principal(mean, covariance, components)
    if not band_components:
        return PCA(mean.float(), scaled.float(), explained)
    alone, _ = _principal(mean[-bands:], covariance[-bands:, -bands:], band_components)
    alone = F.pad(alone, (len(mean) - bands, 0))
    return PCA(mean.float(), torch.cat([scaled, alone]).float(), explained, len(alone))


def _principal(mean: Tensor, covariance: Tensor, components: int) -> tuple[Tensor, float]:
    """Return (P, D) scaled principal components of features of this mean and covariance, and the share they hold."""
    variance, vectors = torch.linalg.eigh(covariance)
    variance, vectors = variance.flip(0), vectors.flip(1)
    floor = torch.maximum(variance[0] * 1e-7, mean.square().mean() * SMALLEST_DEVIATION**2)
    kept = min(components, max(1, int((variance > floor).sum())))
    scaled = vectors[:, :kept] / variance[:kept].sqrt()
    return scaled.T.contiguous(), float(variance[:kept].sum() / variance.clamp_min(0).sum())


def discriminative(values: Tensor, labels: Tensor) -> int:
    """Return how many of the first principal components separate the classes.

    Components that vary from pixel to pixel only, whatever the class, are noise that unit variance has amplified.  A
    component's F is the variance between classes over that within them; by chance it is about 1 with a known deviation
    (one-way analysis of variance).  The last components are left out where the sum of their F falls clearly short of
    half a deviation above chance each.

    Parameters
    ----------
    values
        (n, P) components of the training pixels.
    labels
        (n,) their classes.

    Returns
    -------
    int
        1 .. P; P where there are too few pixels to tell: as many as classes, or up to four more.
    """
    classes, numbers = torch.unique(labels.cpu(), return_inverse=True)
    between, within = len(classes) - 1, len(numbers) - len(classes)
    if between < 1 or within <= 4:
        return values.shape[1]
    x, counts = values.double().cpu(), torch.bincount(numbers).double()
    sums = x.new_zeros(len(classes), x.shape[1]).index_add(0, numbers, x)
    means = sums / counts[:, None]
    outer = (counts[:, None] * (means - x.mean(0)).square()).sum(0) / between
    inner = (x - means[numbers]).square().sum(0) / within
    found = outer / inner.clamp_min(torch.finfo(torch.float64).tiny)  # F of each component
    expected, deviation = (float(value) for value in f_distribution.stats(between, within, moments="mv"))
    beyond = ((found - expected) / deviation**0.5 - EVIDENCE).cumsum(0)
    best = int(beyond.argmax())
    left_out = len(beyond) - 1 - best
    return best + 1 if beyond[best] - beyond[-1] > SHORT * left_out**0.5 else len(beyond)
