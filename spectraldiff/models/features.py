"""Features of whole scenes: U-Net activations (or the raw bands) at every pixel, reduced by PCA.

The extractor works on padded tiles and consumes its halo, so a feature depends on the pixels around it and never on the
tile that it was computed in.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import f as f_distribution
from torch import Tensor, nn
from torch.nn import functional as F

from spectraldiff.models.diffusion import Denoiser
from spectraldiff.models.unet import DenoisingUNet
from spectraldiff_runtime.window import reflect


class Normaliser(nn.Module):
    """Maps each band to [-1, 1] by the training scene's range; a constant band becomes 0.

    Parameters
    ----------
    low, high
        (B,) smallest and largest valid value of each band, raw units.
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.register_buffer("low", low.float())
        self.register_buffer("high", high.float())

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return (scale, shift), each (B,), with normalised = scale * raw + shift."""
        span = self.high - self.low
        scale = torch.where(span > 0, 2 / span.clamp_min(torch.finfo(torch.float32).tiny), torch.zeros_like(span))
        return scale, torch.where(span > 0, -1 - scale * self.low, torch.zeros_like(span))

    def forward(self, raw: Tensor) -> Tensor:
        """Normalise (N, B, H, W)."""
        scale, shift = self.affine()
        return raw * scale[:, None, None] + shift[:, None, None]


class FeatureExtractor(nn.Module):
    """Diffusion features at (timestep, layer index), the raw bands, or both side by side.

    Parameters
    ----------
    denoiser
        The trained denoiser; None for raw bands only.
    timestep
        t, 1 .. T: how noisy the instance is said to be.  The noisy instance is replaced by its mean,
        sqrt(alpha_bar_t) x0, so that features depend on scene and model alone.
    layer
        Layer index, 0 .. 2.
    raw
        Whether the normalised bands stand beside the diffusion features.
    """

    def __init__(self, denoiser: Denoiser | None, timestep: int, layer: int, raw: bool) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.timestep = timestep
        self.layer = layer
        self.raw = raw

    @property
    def halo(self) -> int:
        """Pixels of rim that the features consume on each side."""
        return 0 if self.denoiser is None else self._network().config.halo(self.layer)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised pixels (N, B, T, T) to features (N, D, T - 2 halo, T - 2 halo)."""
        if self.denoiser is None:
            return x
        t = torch.full((1,), self.timestep, device=x.device)
        scale, shift = self.denoiser.input_affine(t)
        scale = scale * self.denoiser.schedule.at(t).sqrt()  # the mean of x_t
        y = self._network().features(scale * x + shift, t, self.layer).flatten(1, 2)  # (N, C L, T', T')
        return torch.cat([y, cropped(x, self.halo)], 1) if self.raw else y

    def _network(self) -> DenoisingUNet:
        assert self.denoiser is not None
        assert isinstance(self.denoiser.network, DenoisingUNet)
        return self.denoiser.network


def cropped(x: Tensor, rim: int) -> Tensor:
    """Cut `rim` pixels off each side of (..., H, W)."""
    return x if rim == 0 else x[..., rim:-rim, rim:-rim]


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
        Share of the variance that the P components hold, 0 .. 1; without those of `beside`.
    beside
        How many of the P, the last ones, are principal components of the bands alone, where these stand beside the
        features.
    """

    mean: Tensor
    components: Tensor
    explained: float
    beside: int = 0

    def __call__(self, features: Tensor) -> Tensor:
        """Map (N, D, H, W) to (N, P, H, W)."""
        return torch.einsum("pd,ndhw->nphw", self.components, features - self.mean[:, None, None])

    def telling(self, values: Tensor, labels: Tensor) -> Tensor:
        """Return the numbers of the components that tell classes apart: `telling` for features and for bands alone."""
        first = values.shape[1] - self.beside
        told = torch.arange(telling(values[:, :first], labels))
        if not self.beside:
            return told
        return torch.cat([told, first + torch.arange(telling(values[:, first:], labels))])

    def only(self, kept: Tensor) -> "PCA":
        """Return the PCA with the components of these numbers, in rising order."""
        beside = int((kept >= len(self.components) - self.beside).sum())
        variances = self.components[: len(self.components) - self.beside].square().sum(1).reciprocal()
        share = float(variances[kept[: len(kept) - beside]].sum() / variances.sum())
        return PCA(self.mean, self.components[kept], share * self.explained, beside)

    def to(self, device: torch.device) -> "PCA":
        """Return the PCA on another device."""
        return replace(self, mean=self.mean.to(device), components=self.components.to(device))


# A component's least standard deviation, as a share of the root mean square of the mean feature vector.
SMALLEST_DEVIATION = 2e-3


def fit_pca(batches: Iterator[Tensor], components: int, bands: int = 0, beside: int = 0) -> PCA:
    """Fit `components` principal components to feature vectors that arrive as (M, D) batches.

    With `beside`, so many more are of the last `bands` features alone.

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
    if not beside:
        return PCA(mean.float(), scaled.float(), explained)
    alone, _ = _principal(mean[-bands:], covariance[-bands:, -bands:], beside)
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


# How many standard deviations of chance a component should tell the classes apart, and by how many the last ones
# together must fall short of that, again in deviations of chance, before they are left out.
EVIDENCE, SHORT = 0.5, 4.0


def telling(values: Tensor, labels: Tensor) -> int:
    """Return how many of the first principal components tell the classes apart.

    Components that vary from pixel to pixel only, whatever grows there, are noise that unit variance has blown up.  A
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


# Pixels along the side of the tiles that features are computed in, and pixels that are enough for a covariance.
TILE = 32
PCA_PIXELS = 60_000
# Bytes of unreduced features that are kept between the two passes over a scene, not computed again.
KEPT = 2**30


def mirrored(scene: Tensor, rim: int) -> Tensor:
    """Mirror (B, H, W) by `rim` pixels at each edge, as often as needed, edge pixels not repeated."""
    rows, columns = (
        torch.from_numpy(reflect(np.arange(-rim, size + rim), size)).to(scene.device) for size in scene.shape[1:]
    )
    return scene[:, rows][:, :, columns]


def at_least(scene: Tensor, size: int) -> Tensor:
    """Mirror a scene (B, H, W) that is smaller than `size` pixels a side until it is large enough."""
    rim = max(0, -(-(size - min(scene.shape[1:])) // 2))
    return mirrored(scene, rim) if rim else scene


@torch.no_grad()
def scene_features(
    extractor: FeatureExtractor,
    scenes: Sequence[Tensor],
    valid: Sequence[Tensor],
    rim: int,
    components: int,
    report: Callable[[int, int], None],
    beside: int = 0,
) -> tuple[list[Tensor], PCA]:
    """Compute the features of scenes and a rim around each, and reduce them by one PCA.

    The PCA is fitted on the valid pixels of the scenes themselves, in tiles spread evenly over them where they are
    large.

    Parameters
    ----------
    extractor
        In evaluation mode.
    scenes
        (B, H, W) normalised pixels each, on the extractor's device.
    valid
        (H, W) bool each.
    rim
        Pixels to add on each side: the radius of the classifier's window, and the reach of the smoothing.
    components
        P wanted; fewer where the features' rank is lower.
    report
        Called with (tiles done, tiles in all).
    beside
        Principal components wanted of the bands alone, after the others; only where bands stand beside the features.

    Returns
    -------
    tuple
        (H + 2 rim, W + 2 rim, P) float32 features of each scene on its device, and the PCA.
    """
    cut = [_Tiles(extractor, scene, rim) for scene in scenes]
    inside = [F.pad(known, (rim,) * 4) for known in valid]
    tiles = [(s, n) for s, one in enumerate(cut) for n in range(len(one.corners))]
    every = max(1, sum(known.numel() for known in valid) // PCA_PIXELS)
    chosen = tiles[::every]
    total = len(chosen) + len(tiles)
    kept: dict[tuple[int, int], Tensor] = {}

    def rows() -> Iterator[Tensor]:
        for done, (s, n) in enumerate(chosen):
            report(done, total)
            features = cut[s][n]
            if sum(one.nbytes for one in kept.values()) + features.nbytes <= KEPT:
                kept[s, n] = features
            yield features.permute(1, 2, 0)[cut[s].crop(inside[s], n)]

    pca = fit_pca(rows(), components, len(scenes[0]), beside).to(scenes[0].device)
    reduced = [torch.empty((*known.shape, len(pca.components)), device=scenes[0].device) for known in inside]
    for done, (s, n) in enumerate(tiles, start=len(chosen)):
        report(done, total)
        features = kept.pop((s, n)) if (s, n) in kept else cut[s][n]
        cut[s].crop(reduced[s], n)[:] = pca(features[None])[0].permute(1, 2, 0)
    report(total, total)
    return reduced, pca


class _Tiles:
    """The features of a scene and its rim, tile by tile."""

    def __init__(self, extractor: FeatureExtractor, scene: Tensor, rim: int) -> None:
        self.extractor, self.halo = extractor, extractor.halo
        self.padded = mirrored(scene, rim + self.halo)
        height, width = (size + 2 * rim for size in scene.shape[1:])
        self.corners = [(r, c) for r in range(0, height, TILE) for c in range(0, width, TILE)]

    def __getitem__(self, n: int) -> Tensor:
        """Return tile n, (D, h, w); tiles at the lower and right edges are smaller."""
        row, column = self.corners[n]
        side = TILE + 2 * self.halo
        features: Tensor = self.extractor(self.padded[None, :, row : row + side, column : column + side])
        return features[0]

    def crop(self, x: Tensor, n: int) -> Tensor:
        """Return the part of (H + 2 rim, W + 2 rim, ...) that tile n covers."""
        row, column = self.corners[n]
        return x[row : row + TILE, column : column + TILE]
