"""The first half of the graph: from a raw tile to what members read, one linear map of features and bands.

Rows of that map that read bands alone (many linear members do) are a map of their own, which never waits for the
features and never multiplies them by zero.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from spectraldiff.models.classifier import Classifier
from spectraldiff.models.features import FeatureExtractor
from spectraldiff.models.foveal_vit import FovealViT
from spectraldiff.models.linear_members import KernelMembers, PixelContext
from spectraldiff.models.padding import cropped
from spectraldiff_export.unet_2d import folded_unet

# Matrix (C, D) and bias (C,), float64.
Rows = tuple[Tensor, Tensor]


class TokenMap(nn.Module):
    """From a raw tile, (N, B, h + 2 halo, w + 2 halo), to what members read.

    The first tensor holds the ViT's tokens (a `FovealViT`'s are centred), then, where scores are smoothed, the guides,
    then the scores of linear members: (N, C + G + L K, T', T'). Those of linear members that read bands alone, or a
    kernel's features of them, are a second one, (N, L' K, T', T'), where there are any. The components that say how far
    a pixel is from the training are the last, (N, M, T', T').

    Attributes
    ----------
    components
        M where these components read features, and are rows of the first map; 0 where they have a map of their own.
    """

    reference: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        extractor = classifier.extractor
        scale, shift = _input_affine(extractor)
        low, gain, offset = _normalisation(classifier)
        self.register_buffer("reference", _per_band(low))
        self.register_buffer("scale", _per_band(gain * scale))
        self.register_buffer("shift", _per_band(offset * scale + shift))
        self.trunk = None if extractor.denoiser is None else folded_unet(extractor)
        self.rim = extractor.halo
        bands = len(low) if self.trunk is not None and extractor.concat_bands else 0
        order = torch.arange(len(low)) if self.trunk is None else self.trunk.order
        rows = [_as_read(one, order, bands, scale, shift) for one in _rows(classifier)]
        self.components = 0
        if classifier.outside is not None and (not bands or rows[-1][0][:, :-bands].any()):
            *rows, last = rows
            self.components = len(last[0])
            rows[0] = _joined([rows[0], last])  # one map of the features: they are read, and lowered, once
        self.maps = nn.ModuleList(LinearMap(one, bands) for one in rows)
        self.kernel = None if classifier.kernel is None else KernelMap(classifier, scale, shift)
        self.plain = classifier.linear is not None and bool(_by_source(classifier)[1])

    def forward(self, tile: Tensor) -> tuple[Tensor, ...]:
        x = (tile - self.reference) * self.scale + self.shift  # (N, B, T, T)
        features = x if self.trunk is None else self.trunk(x)  # (N, D, T', T')
        bands = cropped(x, self.rim)  # (N, B, T', T')
        first, *others = (cast("Tensor", one(features, bands)) for one in self.maps)
        if self.kernel is not None:
            scores = cast("Tensor", self.kernel(bands))
            others = [torch.cat([others[0], scores], 1), *others[1:]] if self.plain else [scores, *others]
        if not self.components:
            return first, *others
        return first[:, : -self.components], *others, first[:, -self.components :]


class LinearMap(nn.Module):
    """Some rows of the linear map from features and bands to tokens.

    Bands have a linear map of their own, whose result is added: features and bands are never joined. It is not part of
    `project`, so it stays float32 where the trunk is lowered.

    Parameters
    ----------
    rows
        Matrix and bias.
    bands
        How many columns, the last ones, are bands beside the features; 0 where features are all that there is.
    """

    band_map: Tensor | None
    band_bias: Tensor | None

    def __init__(self, rows: Rows, bands: int) -> None:
        super().__init__()
        matrix, bias = rows
        split = matrix.shape[1] - bands
        self.project = Projection(matrix[:, :split], bias) if matrix[:, :split].any() or not bands else None
        self.register_buffer("band_map", matrix[:, split:] if bands else None)
        self.register_buffer("band_bias", bias[:, None] if self.project is None else None)

    def forward(self, features: Tensor, bands: Tensor) -> Tensor:
        """Map (N, D, H, W) and (N, B, H, W) to (N, C, H, W)."""
        found = None if self.band_map is None else self.band_map @ bands.flatten(2)  # (N, C, H W)
        if self.project is None:
            assert found is not None
            assert self.band_bias is not None
            return (found + self.band_bias).unflatten(2, bands.shape[2:])  # type: ignore[no-any-return, no-untyped-call]
        tokens: Tensor = self.project(features)
        return tokens if found is None else tokens + found.view(tokens.shape)


class Projection(nn.Module):
    """A linear map of channels, (N, D, H, W) to (N, C, H, W).

    A product of matrices: a convolution would have ONNX Runtime order its many channels in blocks first.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias[:, None])

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight @ x.flatten(2) + self.bias).unflatten(2, x.shape[2:])  # type: ignore[no-any-return, no-untyped-call]


class KernelMap(nn.Module):
    """Members that read a kernel's features: from bands as the U-Net reads them, (N, B, H, W), to (N, L K, H, W)."""

    frequency: Tensor
    phase: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, classifier: Classifier, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        kernel = cast("KernelMembers", classifier.kernel)
        frequency = kernel.frequency.double() / scale
        self.register_buffer("frequency", frequency)
        phase = kernel.phase.double() - frequency @ shift.expand(frequency.shape[1])
        self.register_buffer("phase", phase.remainder(2 * torch.pi)[:, None])
        temperature = classifier.temperature.double()
        self.register_buffer("weight", (kernel.read.weight.double() / temperature).flatten(0, 1))
        self.register_buffer("bias", (kernel.read.bias.double() / temperature).flatten()[:, None])

    def forward(self, bands: Tensor) -> Tensor:
        lifted = (self.frequency @ bands.flatten(2) + self.phase).cos()  # (N, R, H W)
        return (self.weight @ lifted + self.bias).unflatten(2, bands.shape[2:])  # type: ignore[no-any-return, no-untyped-call]


def contexts_by_source(classifier: Classifier) -> tuple[list[PixelContext], list[PixelContext]]:
    """Return the contexts of linear members of which some read features, and of those that read bands alone.

    Last among these are those that read a kernel's features.
    """
    if classifier.linear is None:
        return [], []
    mixed, plain = _by_source(classifier)
    kernel = [] if classifier.kernel is None else classifier.kernel.contexts
    return [classifier.linear.contexts[n] for n in mixed], [*(classifier.linear.contexts[n] for n in plain), *kernel]


def _by_source(classifier: Classifier) -> tuple[list[int], list[int]]:
    """Return the numbers of these contexts."""
    assert classifier.linear is not None
    extractor, weight = classifier.extractor, classifier.linear.weight
    numbers = range(len(weight))
    if extractor.denoiser is None or not extractor.concat_bands:
        return list(numbers), []
    mixed = [n for n in numbers if weight[n, :, : -len(classifier.fill)].any()]
    if not mixed and classifier.vit is None and not classifier.smoothing.iterations:
        return list(numbers), []  # the first tensor is never empty
    return mixed, [n for n in numbers if n not in mixed]


def _rows(classifier: Classifier) -> list[Rows]:
    """Return the maps from features and bands to each tensor, PCA and the ViT's linear mapping as one."""
    components = classifier.pca_components.double()
    main: list[Rows] = []
    found: list[Sequence[Rows]] = [main]
    if classifier.vit is not None:
        weight, bias = classifier.vit.embed.weight.double(), classifier.vit.embed.bias.double()
        if isinstance(classifier.vit, FovealViT):
            weight, bias = classifier.vit.centred(weight), classifier.vit.centred(bias)
        matrix = weight @ components
        main.append((matrix, bias - matrix @ classifier.pca_mean.double()))
    if classifier.smoothing.iterations:
        chosen = classifier.smoothing.guides(torch.eye(len(components)).to(components)[..., None, None])[..., 0, 0].T
        matrix = chosen @ components
        main.append((matrix, -matrix @ classifier.pca_mean.double()))
    if classifier.linear is not None:
        mixed, plain = _by_source(classifier)
        weight, bias = classifier.linear.weight.double(), classifier.linear.bias.double()
        weight, bias = weight / classifier.temperature.double(), bias / classifier.temperature.double()
        bias[0] += classifier.prior.double()  # a constant passes all filters
        main.append((weight[mixed].flatten(0, 1), bias[mixed].flatten()))
        if plain:
            found.append([(weight[plain].flatten(0, 1), bias[plain].flatten())])
    if classifier.outside is not None:
        found.append([(classifier.outside.weight.double(), classifier.outside.bias.double())])
    return [_joined(rows) for rows in found]


def _joined(rows: Sequence[Rows]) -> Rows:
    return torch.cat([matrix for matrix, _ in rows]), torch.cat([bias for _, bias in rows])


def _as_read(rows: Rows, order: Tensor, bands: int, scale: Tensor, shift: Tensor) -> Rows:
    """Put the features' columns in the trunk's order, and map the last ones back to bands as the U-Net reads them."""
    matrix, bias = rows
    features = matrix[:, order]
    if not bands:
        return features, bias
    band_map = matrix[:, -bands:] / scale
    return torch.cat([features, band_map], 1), bias - band_map @ shift


def _per_band(values: Tensor) -> Tensor:
    return values[:, None, None]


def _normalisation(classifier: Classifier) -> tuple[Tensor, Tensor, Tensor]:
    """Return (low, gain, offset), (B,) float64: normalised = gain (raw - low) + offset.

    Subtracting `low` first is exact in float32 where a band's values are large and its range is small.
    """
    low, high = classifier.normaliser.low.double(), classifier.normaliser.high.double()
    varies = high > low
    gain = torch.where(varies, 2 / torch.where(varies, high - low, 1.0), 0.0)
    return low, gain, torch.where(varies, -1.0, 0.0).double()


def _input_affine(extractor: FeatureExtractor) -> tuple[Tensor, Tensor]:
    """Return scale and shift, (B,) or () float64, from normalised bands to what the U-Net reads at its step."""
    if extractor.denoiser is None:
        return torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    denoiser = extractor.denoiser
    t = torch.full((1,), extractor.timestep, device=denoiser.mean.device)
    scale, shift = denoiser.input_affine(t)
    return (scale * denoiser.schedule.at(t).sqrt()).double().flatten(), shift.double().flatten()
