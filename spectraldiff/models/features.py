"""Features of scenes: U-Net activations (or the raw bands) at every pixel, or round some pixels, reduced by PCA.

The extractor works on padded tiles and consumes its halo, so a feature depends on the pixels around it and never on the
tile that it was computed in.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectraldiff.models.diffusion import Denoiser
from spectraldiff.models.padding import Pixels, WholePixels, cropped
from spectraldiff.models.pca import PCA, fit_pca
from spectraldiff.models.unet import DenoisingUNet


class FeatureExtractor(nn.Module):
    """Diffusion features at (timestep, layer index), the raw bands, or both concatenated.

    Parameters
    ----------
    denoiser
        The trained denoiser; None for raw bands only.
    timestep
        t, 1 .. T: how noisy the instance is said to be.  The noisy instance is replaced by its mean,
        sqrt(alpha_bar_t) x0, so that features depend on scene and model alone.
    layer
        Layer index, 0 .. 2.
    concat_bands
        Whether the normalised bands are concatenated to the diffusion features.
    """

    def __init__(self, denoiser: Denoiser | None, timestep: int, layer: int, concat_bands: bool) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.timestep = timestep
        self.layer = layer
        self.concat_bands = concat_bands

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
        return torch.cat([y, cropped(x, self.halo)], 1) if self.concat_bands else y

    def _network(self) -> DenoisingUNet:
        assert self.denoiser is not None
        assert isinstance(self.denoiser.network, DenoisingUNet)
        return self.denoiser.network


# Pixels along the side of the tiles that features are computed in, and pixels that are enough for a covariance.
TILE = 32
PCA_PIXELS = 60_000
# Bytes of unreduced features that are kept between the two passes over a scene, not computed again.
KEPT = 2**28


@torch.no_grad()
def scene_features(
    extractor: FeatureExtractor,
    scenes: Sequence[Tensor | Pixels],
    valid: Sequence[Tensor],
    rim: int,
    components: int,
    report: Callable[[int, int], None],
    band_components: int = 0,
) -> tuple[list[Tensor], PCA]:
    """Compute the features of scenes and a rim around each, and reduce them by one PCA.

    The PCA is fitted on the valid pixels of the scenes themselves, in tiles spread evenly over them where they are
    large.

    Parameters
    ----------
    extractor
        In evaluation mode.
    scenes
        (B, H, W) normalised pixels each, on the extractor's device: tensors, or what is read by window.
    valid
        (H, W) bool each.
    rim
        Pixels to add on each side: the radius of the classifier's window, and the reach of the smoothing.
    components
        P wanted; fewer where the features' rank is lower.
    report
        Called with (tiles done, tiles in all).
    band_components
        Principal components wanted of the bands alone, after the others; only where bands are concatenated.

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

    device = valid[0].device
    pca = fit_pca(rows(), components, scenes[0].shape[0], band_components).to(device)
    reduced = [torch.empty((*known.shape, len(pca.components)), device=device) for known in inside]
    for done, (s, n) in enumerate(tiles, start=len(chosen)):
        report(done, total)
        features = kept.pop((s, n)) if (s, n) in kept else cut[s][n]
        cut[s].crop(reduced[s], n)[:] = pca(features[None])[0].permute(1, 2, 0)
    report(total, total)
    return reduced, pca


class _Tiles:
    """The features of a scene and its rim, tile by tile."""

    def __init__(self, extractor: FeatureExtractor, scene: Tensor | Pixels, rim: int) -> None:
        self.extractor, self.halo, self.rim = extractor, extractor.halo, rim
        self.pixels: Pixels = WholePixels(scene) if isinstance(scene, Tensor) else scene
        self.height, self.width = (size + 2 * rim for size in scene.shape[1:])
        self.corners = [(r, c) for r in range(0, self.height, TILE) for c in range(0, self.width, TILE)]

    def __getitem__(self, n: int) -> Tensor:
        """Return tile n, (D, h, w); tiles at the lower and right edges are smaller."""
        row, column = self.corners[n]
        bottom, right = min(row + TILE, self.height), min(column + TILE, self.width)
        return features_at(
            self.extractor, self.pixels, row - self.rim, bottom - self.rim, column - self.rim, right - self.rim
        )

    def crop(self, x: Tensor, n: int) -> Tensor:
        """Return the part of (H + 2 rim, W + 2 rim, ...) that tile n covers."""
        row, column = self.corners[n]
        return x[row : row + TILE, column : column + TILE]


def features_at(extractor: FeatureExtractor, pixels: Pixels, row0: int, row1: int, col0: int, col1: int) -> Tensor:
    """Return the features of a window of a scene, (D, h, w), which may reach beyond the scene."""
    halo = extractor.halo
    found: Tensor = extractor(pixels.window(row0 - halo, row1 + halo, col0 - halo, col1 + halo)[None])
    return found[0]
