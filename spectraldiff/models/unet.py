"""The denoising U-Net (paper, Fig. 2): it compresses the spectrum and keeps space.

Instances go in and out as (N, B, K, K).  Inside, the spectrum is the depth of a 3-D convolution: (N, C, L, K, K).

Two ways of treating the rim of an instance exist.  In training each convolution pads it with zeros, so that instances
keep their size.  Features of a scene are computed without any spatial padding (`valid`): every layer consumes a rim of
its input, the caller supplies real pixels for it, and a pixel's features do not depend on how the scene was cut.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectraldiff.processes.layers import BatchNorm

Kernel = tuple[int, int, int]


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a `DenoisingUNet`; the defaults are the paper's.

    Attributes
    ----------
    bands
        B, any number from 1: the spectrum is padded by repeating its edge bands and cropped at the end.
    stem_stride
        s, spectral stride of the first convolution (and of the last, transposed).  1 in the paper.
    stem_channels, channels
        Channels of the first convolution and of each down-sampling block.
    first_kernel, second_kernel
        (spectral, row, column) kernels of the two layers of a block.
    resample_kernel
        Kernel of the strided and of the transposed convolutions; the spectral stride is 2.
    stem_width
        Spatial kernel of the first and last convolution.
    embedding
        Width of the step embedding.
    """

    bands: int
    stem_stride: int = 1
    stem_channels: int = 16
    channels: tuple[int, ...] = (32, 64, 128)
    first_kernel: Kernel = (3, 3, 3)
    second_kernel: Kernel = (3, 3, 3)
    resample_kernel: Kernel = (4, 5, 5)
    stem_width: int = 3
    embedding: int = 64

    @property
    def stem_kernel(self) -> Kernel:
        """Kernel of the first convolution: 3 bands at stride 1, about twice the stride otherwise."""
        s = self.stem_stride
        taps = 3 if s == 1 else 2 * s - s % 2
        return (taps, self.stem_width, self.stem_width)

    @property
    def padded_bands(self) -> int:
        """B rounded up to what the strides divide."""
        multiple = int(self.stem_stride * 2 ** len(self.channels))
        return math.ceil(self.bands / multiple) * multiple

    def halo(self, layer: int) -> int:
        """Return how many pixels of rim the features at layer index `layer` consume on each side."""
        block = self._layers_radius + _radius(self.resample_kernel)
        return _radius(self.stem_kernel) + block * (len(self.channels) + layer)

    def skip_rim(self, block: int) -> int:
        """Return by how many pixels on each side the skip into up-sampling block `block` is too large."""
        pair = 2 * _radius(self.resample_kernel)  # one convolution down, one up
        return pair + block * (pair + 2 * self._layers_radius)

    @property
    def _layers_radius(self) -> int:
        return _radius(self.first_kernel) + _radius(self.second_kernel)

    def feature_shape(self, layer: int) -> tuple[int, int]:
        """Return (channels, spectral positions) of the features at layer index `layer`."""
        reversed_channels = (self.channels[-1], *reversed(self.channels))
        positions = self.padded_bands // self.stem_stride // 2 ** (len(self.channels) - layer)
        return reversed_channels[layer], positions


def _radius(kernel: Kernel) -> int:
    return kernel[1] // 2  # kernels are square in space


class Conv(nn.Conv3d):
    """3-D convolution, "same" along the spectrum (up to its stride) and, on demand, without spatial padding."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1) -> None:
        spectral = (kernel[0] - stride + 1) // 2
        super().__init__(inputs, outputs, kernel, (stride, 1, 1), (spectral, kernel[1] // 2, kernel[2] // 2))

    def forward(self, x: Tensor, valid: bool = False) -> Tensor:
        padding = cast("Kernel", self.padding)
        padding = (padding[0], 0, 0) if valid else padding
        if self.kernel_size[0] == 3 and x.shape[2] == 2 and x.is_cpu and torch.is_autocast_enabled("cpu"):
            # In bfloat16, PyTorch's CPU library leaves the gradient of three taps on two positions unset.
            with torch.autocast("cpu", enabled=False):
                return F.conv3d(x.float(), self.weight, self.bias, self.stride, padding)
        return F.conv3d(x, self.weight, self.bias, self.stride, padding)


class UpConv(nn.ConvTranspose3d):
    """Transposed 3-D convolution that multiplies the spectral length by its stride."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel, stride: int) -> None:
        spectral = (kernel[0] - stride) // 2
        super().__init__(inputs, outputs, kernel, (stride, 1, 1), (spectral, kernel[1] // 2, kernel[2] // 2))

    def forward(self, x: Tensor, valid: bool = False) -> Tensor:  # type: ignore[override]
        padding = cast("Kernel", self.padding)
        if valid:  # padding k - 1 leaves only the positions that see k real pixels
            padding = (padding[0], self.kernel_size[1] - 1, self.kernel_size[2] - 1)
        return F.conv_transpose3d(x, self.weight, self.bias, self.stride, padding)


class DoubleLayer(nn.Module):
    """Two layers of convolution, batch norm and ReLU with the step embedding added between them."""

    def __init__(self, inputs: int, outputs: int, config: UNetConfig) -> None:
        super().__init__()
        self.conv1 = Conv(inputs, outputs, config.first_kernel)
        self.norm1 = BatchNorm(outputs)
        self.step = nn.Linear(config.embedding, outputs)
        self.conv2 = Conv(outputs, outputs, config.second_kernel)
        self.norm2 = BatchNorm(outputs)

    def forward(self, x: Tensor, embedding: Tensor, valid: bool) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x, valid)))  # (N, C, L, K, K)
        x = x + self.step(embedding)[:, :, None, None, None]
        return F.relu(self.norm2(self.conv2(x, valid)))


class DownBlock(nn.Module):
    """Two layers, then a strided convolution that halves the spectrum."""

    def __init__(self, inputs: int, outputs: int, config: UNetConfig) -> None:
        super().__init__()
        self.layers = DoubleLayer(inputs, outputs, config)
        self.down = Conv(outputs, outputs, config.resample_kernel, 2)

    def forward(self, x: Tensor, embedding: Tensor, valid: bool) -> tuple[Tensor, Tensor]:
        skip = self.layers(x, embedding, valid)  # (N, C, L, K, K)
        return self.down(skip, valid), skip  # (N, C, L / 2, K, K)


class UpBlock(nn.Module):
    """A transposed convolution that doubles the spectrum, the skip concatenated, then two layers.

    Parameters
    ----------
    inputs, outputs
        Channels; the skip has `outputs` channels.
    rim
        Pixels that the skip has too many on each side when nothing is padded.
    config
        The network's shape.
    """

    def __init__(self, inputs: int, outputs: int, rim: int, config: UNetConfig) -> None:
        super().__init__()
        self.rim = rim
        self.up = UpConv(inputs, inputs, config.resample_kernel, 2)
        self.layers = DoubleLayer(inputs + outputs, outputs, config)

    def forward(self, x: Tensor, skip: Tensor, embedding: Tensor, valid: bool) -> Tensor:
        x = self.up(x, valid)  # (N, C_in, 2 L, K, K)
        if valid:
            bottom, right = (size - self.rim for size in skip.shape[-2:])
            skip = skip[..., self.rim : bottom, self.rim : right]
        x = torch.cat([x, skip], 1)  # (N, C_in + C, 2 L, K, K)
        return cast("Tensor", self.layers(x, embedding, valid))  # (N, C, 2 L, K, K)


class StepEmbedding(nn.Module):
    """Sinusoidal embedding of the diffusion step, followed by a linear layer and ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies = width // 2
        self.linear = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        exponent = torch.arange(self.frequencies, device=t.device) / (self.frequencies - 1)
        angle = t[:, None].float() * torch.exp(-math.log(10000.0) * exponent)  # (N, E / 2)
        waves = torch.cat([angle.sin(), angle.cos()], 1).to(self.linear.weight.dtype)  # (N, E)
        return F.relu(self.linear(waves))


class DenoisingUNet(nn.Module):
    """Predicts from a noisy instance and its step the noise (or what the denoiser makes of the output).

    Layer index 0, 1, 2 names the input of the first, second, third up-sampling block: the taps of the diffusion
    features (paper, Section III-B).

    Parameters
    ----------
    config
        The network's shape.
    """

    band_index: Tensor

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = (config.stem_channels, *config.channels)
        self.stem = Conv(1, config.stem_channels, config.stem_kernel, config.stem_stride)
        self.down = nn.ModuleList(DownBlock(a, b, config) for a, b in pairwise(widths))
        ups = [config.channels[-1], *reversed(config.channels)]
        self.up = nn.ModuleList(UpBlock(a, b, config.skip_rim(n), config) for n, (a, b) in enumerate(pairwise(ups)))
        if config.stem_stride == 1:
            self.last: Conv | UpConv = Conv(ups[-1], 1, config.stem_kernel)
        else:
            self.last = UpConv(ups[-1], 1, (config.stem_kernel[0], 1, 1), config.stem_stride)
        self.embed = StepEmbedding(config.embedding)
        padding = config.padded_bands - config.bands
        index = torch.arange(config.padded_bands) - padding // 2
        self.register_buffer("band_index", index.clamp(0, config.bands - 1), persistent=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Map instances (N, B, K, K), float, and steps (N,) to (N, B, K, K)."""
        embedding = self.embed(t)
        x, skips = self.encode(x, embedding, valid=False)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = block(x, skip, embedding, valid=False)  # (N, C, L, K, K)
        x = self.last(x)[:, 0]  # (N, padded bands, K, K)
        first = (self.config.padded_bands - self.config.bands) // 2
        return x[:, first : first + self.config.bands]

    def features(self, x: Tensor, t: Tensor, layer: int) -> Tensor:
        """Return the activations at layer index `layer`.

        Parameters
        ----------
        x
            (N, B, K, K), with `config.halo(layer)` pixels of rim on each side.
        t
            (N,) steps.
        layer
            0 .. number of up-sampling blocks - 1.

        Returns
        -------
        Tensor
            (N, C, L, K - 2 halo, K - 2 halo) with (C, L) = `config.feature_shape(layer)`.
        """
        embedding = self.embed(t)
        x, skips = self.encode(x, embedding, valid=True)
        for block, skip in list(zip(self.up, reversed(skips), strict=True))[:layer]:
            x = block(x, skip, embedding, valid=True)
        return x

    def encode(self, x: Tensor, embedding: Tensor, valid: bool) -> tuple[Tensor, list[Tensor]]:
        """Run stem and down-sampling blocks; return the bottleneck and the skips, first block first."""
        x = self.stem(x.index_select(1, self.band_index)[:, None], valid)  # (N, C, L, K, K)
        skips: list[Tensor] = []
        for block in self.down:
            x, skip = block(x, embedding, valid)
            skips.append(skip)
        return x, skips


def parameter_count(modules: Sequence[nn.Module]) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for module in modules for p in module.parameters())
