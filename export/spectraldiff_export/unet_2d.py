"""The U-Net up to the tapped layer with all that is known folded, and in 2-D convolutions.

Batch norms are in the convolutions before them, the step embedding is one constant a layer.

Where every convolution works along the spectrum alone or in space alone (`SeparableTrunk`), all tensors are images with
the channels of all spectral positions, (N, L C, H, W). What happens along the spectrum between two ReLUs is one linear
map of a pixel's values, however many convolutions it was; one in space is the same at each position: a convolution in
groups. Nothing is copied, padded or ordered anew between them.

The published network's convolutions do both at once (`SolidTrunk`): their taps along the spectrum become channels of a
2-D convolution, in which runtimes are several times faster than in 3-D.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectraldiff.models.features import FeatureExtractor
from spectraldiff.models.padding import cropped
from spectraldiff.models.unet import Conv, DenoisingUNet, DoubleLayer, DownBlock, UpBlock, UpConv

# Height and width of the images whose pixels lie in a row in memory.
Size = tuple[int, int]
# From pixels' values, (N, D) float64, to (N, C, L, 1, 1): linear but for a constant.
AlongSpectrum = Callable[[Tensor], Tensor]


def folded_unet(extractor: FeatureExtractor) -> "SeparableTrunk | SolidTrunk":
    """Return the U-Net of an extractor, folded, up to its layer."""
    assert extractor.denoiser is not None
    network = copy.deepcopy(cast("DenoisingUNet", extractor.denoiser.network)).double()
    embedding = network.embed(torch.full((1,), extractor.timestep, device=network.band_index.device))
    config = network.config
    spectral = [(config.stem_width, config.stem_width), config.first_kernel[1:], config.resample_kernel[1:]]
    separable = config.second_kernel[0] == 1 and all(side == (1, 1) for side in spectral)
    return (SeparableTrunk if separable else SolidTrunk)(network, embedding, extractor.layer)


class SeparableTrunk(nn.Module):
    """Bands as the network reads them, (N, B, T, T), to features (N, L C, T', T').

    Parameters
    ----------
    network
        In float64.
    embedding
        (1, E), of the step.
    layer
        Layer index of the features; what lies beyond it is left out, so that no file holds its weights.

    Attributes
    ----------
    order
        (D,), which of the network's features, (C, L) in a row, each channel is.
    """

    def __init__(self, network: DenoisingUNet, embedding: Tensor, layer: int) -> None:
        super().__init__()
        downs: list[SeparableLayers] = []
        ups: list[SeparableLayers] = []
        along: AlongSpectrum = partial(_stem, network)
        width = network.config.bands
        for block in (cast("DownBlock", one) for one in network.down):
            downs.append(SeparableLayers(along, [width], block.layers, embedding))
            along, width = partial(_down, block, downs[-1].shape), downs[-1].width
        skips = list(reversed(downs))
        blocks = [cast("UpBlock", block) for block in network.up]
        for n, up in enumerate(blocks[:layer]):
            # The first one's input comes from its skip alone.
            widths = [width, skips[n].width] if n else [width]
            along = partial(_up, up, along, skips[n].shape, widths)
            ups.append(SeparableLayers(along, widths, up.layers, embedding))
            along, width = partial(_values, ups[-1].shape), ups[-1].width
        self.down, self.up = nn.ModuleList(downs), nn.ModuleList(ups)
        self.rims = [up.rim for up in blocks]
        self.last = None if layer else _multiplied_out(along, width, embedding)
        channels, positions = network.config.feature_shape(layer)
        self.order = torch.arange(channels * positions).view(channels, positions).T.flatten()

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for layers in self.down:
            x = layers(x)
            skips.append(x)
        for n, layers in enumerate(self.up):
            x = layers(x, cropped(skips[-1 - n], self.rims[n])) if n else layers(x)
        return x if self.last is None else cast("Tensor", self.last(x))


class SeparableLayers(nn.Module):
    """Two layers of convolution and ReLU, and all that happens along the spectrum before them.

    Parameters
    ----------
    along
        From the values of pixels of all inputs, joined, to the input of `layers`.
    widths
        Channels of each input.
    layers
        The first convolution works along the spectrum alone, the second in space alone.
    embedding
        (1, E), of the step.

    Attributes
    ----------
    shape, width
        (C, L) of the result, (N, L C, H, W), and their product.
    """

    def __init__(self, along: AlongSpectrum, widths: Sequence[int], layers: DoubleLayer, embedding: Tensor) -> None:
        super().__init__()
        first, second = _folded(layers.conv1, layers.norm1), _folded(layers.conv2, layers.norm2)
        whole = _multiplied_out(lambda values: first(along(values)), sum(widths), embedding)
        parts = torch.split(whole.weight, list(widths), 1)
        self.along = nn.ModuleList(_conv(weight, None if n else whole.bias) for n, weight in enumerate(parts))
        positions = len(whole.weight) // first.out_channels
        self.shape, self.width = (second.out_channels, positions), second.out_channels * positions
        assert second.bias is not None
        bias = second.bias + second.weight.sum((2, 3, 4)) @ layers.step(embedding)[0]
        self.space = _conv(second.weight[:, :, 0].repeat(positions, 1, 1, 1), bias.repeat(positions), positions)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        y = self.along[0](x)
        if skip is not None:
            y = y + self.along[1](skip)
        return F.relu(self.space(F.relu(y)))


def _stem(network: DenoisingUNet, values: Tensor) -> Tensor:
    padded = values[:, network.band_index]
    return cast("Tensor", network.stem(padded[:, None, :, None, None]))


def _values(shape: tuple[int, int], values: Tensor) -> Tensor:
    """Return pixels' values, (N, L C), as (N, C, L, 1, 1)."""
    channels, positions = shape
    return values.view(-1, positions, channels).transpose(1, 2)[..., None, None]


def _down(block: DownBlock, shape: tuple[int, int], values: Tensor) -> Tensor:
    return cast("Tensor", block.down(_values(shape, values)))


def _up(block: UpBlock, along: AlongSpectrum, skip: tuple[int, int], widths: Sequence[int], values: Tensor) -> Tensor:
    own, *others = torch.split(values, list(widths), 1)
    return torch.cat([block.up(along(own)), _values(skip, others[0] if others else own)], 1)


def _multiplied_out(along: AlongSpectrum, width: int, like: Tensor) -> nn.Conv2d:
    """Return what a linear map does to pixels' values as a convolution of 1 x 1, (N, D, H, W) to (N, L C, H, W).

    It is computed in the type and on the device of `like`.
    """
    unit = torch.eye(width, dtype=like.dtype, device=like.device)
    values = along(torch.cat([torch.zeros_like(unit[:1]), unit]))  # (1 + D, C, L, 1, 1)
    constant, found = values[..., 0, 0].transpose(1, 2).flatten(1).tensor_split([1])  # (1, L C) and (D, L C)
    return _conv((found - constant).T[..., None, None], constant[0])


def spread(x: Tensor, dim: int, size: Size) -> Tensor:
    """Split dimension `dim` in two."""
    return cast("Tensor", x.unflatten(dim, size))  # type: ignore[no-untyped-call]


class SolidTrunk(nn.Module):
    """Bands as the network reads them, (N, B, T, T), to features (N, C L, T', T'); as `SeparableTrunk`."""

    band_index: Tensor

    def __init__(self, network: DenoisingUNet, embedding: Tensor, layer: int) -> None:
        super().__init__()
        self.register_buffer("band_index", network.band_index.clone())
        self.stem = flat(network.stem)
        self.down = nn.ModuleList(FlatDown(cast("DownBlock", block), embedding) for block in network.down)
        self.up = nn.ModuleList(FlatUp(cast("UpBlock", block), embedding) for block in network.up[:layer])
        channels, positions = network.config.feature_shape(layer)
        self.order = torch.arange(channels * positions)

    def forward(self, x: Tensor) -> Tensor:
        size = cast("Size", tuple(x.shape[2:]))
        x, size = self.stem(x.index_select(1, self.band_index)[:, None].flatten(3), size)  # (N, C, L, H W)
        skips = []
        for block in self.down:
            x, size, skip = block(x, size)
            skips.append(skip)
        for block, skip in zip(self.up, reversed(skips), strict=False):
            x, size = block(x, size, skip)
        return spread(x.flatten(1, 2), 2, size)


class FlatDown(nn.Module):
    """Two layers, then a strided convolution; gives its result and size, and the skip, (N, C, L, H, W)."""

    def __init__(self, block: DownBlock, embedding: Tensor) -> None:
        super().__init__()
        self.layers, self.down = FlatLayers(block.layers, embedding), flat(block.down)

    def forward(self, x: Tensor, size: Size) -> tuple[Tensor, Size, Tensor]:
        skip, size = self.layers(x, size)
        x, smaller = self.down(skip, size)
        return x, smaller, spread(skip, 3, size)


class FlatUp(nn.Module):
    """A transposed convolution, the skip connection, then two layers."""

    def __init__(self, block: UpBlock, embedding: Tensor) -> None:
        super().__init__()
        self.up, self.rim = UpPair(block.up), block.rim
        self.layers = FlatLayers(block.layers, embedding, block.up.out_channels)

    def forward(self, x: Tensor, size: Size, skip: Tensor) -> tuple[Tensor, Size]:
        x, size = self.up(x, size)
        return cast("tuple[Tensor, Size]", self.layers(x, size, cropped(skip, self.rim).flatten(3)))


class FlatLayers(nn.Module):
    """Two layers of convolution and ReLU, the step's constant between them folded where it can be.

    Where a skip connection adds channels, from the `own`-th on, the first convolution is the sum of one of each: the
    two are never copied into one tensor, which would be the largest of the network.
    """

    step: Tensor

    def __init__(self, layers: DoubleLayer, embedding: Tensor, own: int | None = None) -> None:
        super().__init__()
        step = layers.step(embedding)[0]  # (C,)
        first, second = _folded(layers.conv1, layers.norm1), _folded(layers.conv2, layers.norm2)
        self.adds = second.kernel_size[0] > 1  # the padding of the spectrum lacks the constant
        if not self.adds:
            assert second.bias is not None
            second.bias = nn.Parameter(second.bias + second.weight.sum((2, 3, 4)) @ step)
        self.register_buffer("step", step[:, None, None] if self.adds else torch.zeros(0))
        self.skip = None if own is None else flat(_part(first, slice(own, None), bias=False))
        self.conv1 = flat(first, relu=True) if own is None else flat(_part(first, slice(own), bias=True))
        self.conv2 = flat(second, relu=True)

    def forward(self, x: Tensor, size: Size, skip: Tensor | None = None) -> tuple[Tensor, Size]:
        x, after = self.conv1(x, size)
        if self.skip is not None:
            x = F.relu(x + self.skip(skip, size)[0])
        size = after
        return cast("tuple[Tensor, Size]", self.conv2(x + self.step if self.adds else x, size))


class SolidConv(nn.Module):
    """A convolution on (N, C, L, H W), of images of that size, as one in 2-D with its spectral taps in the channels.

    Runtimes are made for 2-D: on a GPU, cuDNN refused a 3-D convolution in float16 whose kernel is the published
    network's.

    Parameters
    ----------
    weight, bias
        (O, C, taps, side, side) and (O,).
    stride, padding
        Along the spectrum; positions of zeros before and after it.
    relu
        Whether ReLU follows.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, stride: int, padding: tuple[int, int], relu: bool = False
    ) -> None:
        super().__init__()
        self.taps, self.stride, self.padding, self.relu = weight.shape[2], stride, padding, relu
        self.conv = _conv(weight.transpose(1, 2).flatten(1, 2), bias)  # (O, taps C, side, side)

    def forward(self, x: Tensor, size: Size) -> tuple[Tensor, Size]:
        y = F.pad(x.transpose(1, 2), (0, 0, 0, 0, *self.padding))  # (N, L + padding, C, H W)
        last = y.shape[1] - self.taps  # where the last window along the spectrum begins
        y = torch.cat([y[:, tap : tap + last + 1 : self.stride] for tap in range(self.taps)], 2)  # (N, L', taps C, H W)
        positions = y.shape[1]
        y = self.conv(spread(y.flatten(0, 1), 2, size))  # (N L', O, H', W')
        after = cast("Size", tuple(y.shape[2:]))
        y = spread((F.relu(y) if self.relu else y).flatten(2), 0, (-1, positions))
        return y.transpose(1, 2), after  # (N, O, L', H' W')


class UpPair(nn.Module):
    """A transposed convolution that doubles the spectrum: one convolution for even, one for odd positions.

    Between positions l - 1 and l lie the outputs 2 l - 1 and 2 l: of the even one the taps are 3 and 1, of the odd one
    2 and 0.
    """

    def __init__(self, conv: UpConv) -> None:
        super().__init__()
        weight = conv.weight.transpose(0, 1).flip(3, 4)  # (O, C, 4, side, side) of a convolution that is not transposed
        # Padded on one side only: the other side's position would belong to no output.
        self.even = SolidConv(weight[:, :, [3, 1]], conv.bias, 1, (1, 0))
        self.odd = SolidConv(weight[:, :, [2, 0]], conv.bias, 1, (0, 1))

    def forward(self, x: Tensor, size: Size) -> tuple[Tensor, Size]:
        (even, after), (odd, _) = self.even(x, size), self.odd(x, size)  # (N, O, L, H' W')
        return torch.stack([even, odd], 3).flatten(2, 3), after  # (N, O, 2 L, H' W')


def flat(conv: nn.Module, relu: bool = False) -> SolidConv:
    """Return a convolution on (N, C, L, H, W), in 2-D."""
    assert isinstance(conv, Conv)
    padding = cast("tuple[int, ...]", conv.padding)[0]
    return SolidConv(conv.weight, conv.bias, conv.stride[0], (padding, padding), relu)


def _conv(weight: Tensor, bias: Tensor | None, groups: int = 1) -> nn.Conv2d:
    """Return a convolution without padding, of weight (O, C / groups, h, w) and bias (O,)."""
    outputs, inputs, height, width = weight.shape
    conv = nn.Conv2d(inputs * groups, outputs, (height, width), groups=groups, bias=bias is not None)
    conv.weight = nn.Parameter(weight.clone(memory_format=torch.contiguous_format))
    conv.bias = None if bias is None else nn.Parameter(bias.clone())
    return conv


def _part(conv: Conv, channels: slice, bias: bool) -> Conv:
    """Return what a convolution makes of some of its input channels."""
    part = copy.deepcopy(conv)
    part.weight = nn.Parameter(conv.weight[:, channels].clone())
    part.in_channels = part.weight.shape[1]
    if not bias:
        part.bias = None
    return part


def _folded(conv: Conv, norm: nn.BatchNorm3d) -> Conv:
    """Return a convolution, float64, with the batch norm after it, in evaluation mode, folded in."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    conv = copy.deepcopy(conv).double()
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = torch.zeros(()) if conv.bias is None else conv.bias
    offset = (bias - norm.running_mean.double()) * gain + norm.bias.double()
    conv.weight, conv.bias = nn.Parameter(conv.weight * gain[:, None, None, None, None]), nn.Parameter(offset)
    return conv
