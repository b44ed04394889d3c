"""The U-Net up to the tapped layer with all that is known folded, and in 2-D convolutions.

Batch norms are in the convolutions before them, the step embedding is one constant a layer.  A convolution that works
along the spectrum alone is a 2-D one on images of spectral position by pixel; one that works in space alone is a 2-D
one on all positions below each other.  Both views cost nothing, and runtimes are several times faster in 2-D.  Of the
published network's, which do both at once, the taps along the spectrum become channels.

A convolution in space then spoils the rows where one position's image meets the next one's.  They stay where they are
until the end: cutting them off after each convolution would copy the largest tensors there are.
"""

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectraldiff.models.features import FeatureExtractor
from spectraldiff.models.unet import Conv, DenoisingUNet, DoubleLayer, DownBlock, UpBlock, UpConv

# Height and width of the images whose pixels lie in a row in memory.
Size = tuple[int, int]


def spread(x: Tensor, dim: int, size: Size) -> Tensor:
    """Split dimension `dim` in two."""
    return cast("Tensor", x.unflatten(dim, size))  # type: ignore[no-untyped-call]


def inner(x: Tensor, dim: int, rim: int) -> Tensor:
    """Cut a rim off both ends of dimension `dim`."""
    return x[(slice(None),) * dim + (slice(rim, -rim),)] if rim else x


class Trunk(nn.Module):
    """Bands as the network reads them, (N, B, T, T), to features (N, C L, T' + 2 S, T').

    Attributes
    ----------
    spoilt
        S, rows above and below the features that hold nothing of use.
    """

    band_index: Tensor

    def __init__(self, extractor: FeatureExtractor) -> None:
        super().__init__()
        assert extractor.denoiser is not None
        network = cast("DenoisingUNet", extractor.denoiser.network)
        self.register_buffer("band_index", network.band_index.clone())
        embedding = network.embed(torch.full((1,), extractor.timestep, device=network.band_index.device)).double()
        self.stem = flat(network.stem)
        downs = [FlatDown(cast("DownBlock", block), embedding) for block in network.down]
        rows, skips = self.stem.rows, []  # rows that are cut off on each side so far, and at each skip
        for down in downs:
            skips.append(rows + down.layers.rows)
            rows = skips[-1] + down.down.rows
        # What lies beyond the tap is left out, so that no file holds its weights.
        blocks = [cast("UpBlock", block) for block in network.up][: extractor.layer]
        ups = []
        for block, skip in zip(blocks, reversed(skips), strict=False):
            ups.append(FlatUp(block, embedding, rows - skip))
            rows = skip + ups[-1].rows
        self.down, self.up = nn.ModuleList(downs), nn.ModuleList(ups)
        self.spoilt = extractor.halo - rows

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
    """A transposed convolution, the skip connection, then two layers.

    Parameters
    ----------
    before
        Rows on each side that were cut off between the skip and this block.

    Attributes
    ----------
    rows
        Those between the skip and this block's result.
    """

    def __init__(self, block: UpBlock, embedding: Tensor, before: int) -> None:
        super().__init__()
        self.up = UpPair(block.up)
        self.layers = FlatLayers(block.layers, embedding, block.up.out_channels)
        self.rim = before + self.up.rows, block.rim
        self.rows = self.rim[0] + self.layers.rows

    def forward(self, x: Tensor, size: Size, skip: Tensor) -> tuple[Tensor, Size]:
        x, size = self.up(x, size)
        skip = inner(inner(skip, 3, self.rim[0]), 4, self.rim[1]).flatten(3)
        return cast("tuple[Tensor, Size]", self.layers(x, size, skip))


class FlatLayers(nn.Module):
    """Two layers of convolution and ReLU, the step's constant between them folded where it can be.

    Where a skip connection adds channels, from the `own`-th on, the first convolution is the sum of one of each: the
    two are never copied into one tensor, which would be the largest of the network.
    """

    step: Tensor

    def __init__(self, layers: DoubleLayer, embedding: Tensor, own: int | None = None) -> None:
        super().__init__()
        step = F.linear(embedding, layers.step.weight.double(), layers.step.bias.double())[0]  # (C,)
        first, second = _folded(layers.conv1, layers.norm1), _folded(layers.conv2, layers.norm2)
        self.adds = second.kernel_size[0] > 1  # the padding of the spectrum lacks the constant
        if not self.adds:
            assert second.bias is not None
            second.bias = nn.Parameter(second.bias + second.weight.sum((2, 3, 4)) @ step)
        self.register_buffer("step", step[:, None, None] if self.adds else torch.zeros(0))
        self.skip = None if own is None else flat(_part(first, slice(own, None), bias=False))
        self.conv1 = flat(first, relu=True) if own is None else flat(_part(first, slice(own), bias=True))
        self.conv2 = flat(second, relu=True)
        self.rows = self.conv1.rows + self.conv2.rows

    def forward(self, x: Tensor, size: Size, skip: Tensor | None = None) -> tuple[Tensor, Size]:
        x, after = self.conv1(x, size)
        if self.skip is not None:
            x = F.relu(x + self.skip(skip, size)[0])
        size = after
        return cast("tuple[Tensor, Size]", self.conv2(x + self.step if self.adds else x, size))


class FlatConv(nn.Module):
    """A convolution on (N, C, L, H W) and its image's size.

    Attributes
    ----------
    rows
        Those that it cuts off on each side.
    """

    rows = 0


class SpectralConv(FlatConv):
    """A convolution along the spectrum alone, on images of L by H W pixels; parameters as `SolidConv` has them."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, stride: int, padding: tuple[int, int], relu: bool = False
    ) -> None:
        super().__init__()
        own = min(padding)  # what the convolution pads itself, at both ends
        self.relu, self.padding = relu, (padding[0] - own, padding[1] - own)
        self.conv = _conv2d(weight[..., 0], bias, (stride, 1), (own, 0))

    def forward(self, x: Tensor, size: Size) -> tuple[Tensor, Size]:
        y = self.conv(F.pad(x, (0, 0, *self.padding)) if any(self.padding) else x)  # (N, O, L', H W)
        return F.relu(y) if self.relu else y, size


class SpatialConv(FlatConv):
    """A convolution in space alone, on one image of L H by W pixels, and ReLU where asked for.

    Columns are not padded.  All rows stay, but those where one position's image meets the next one's are spoilt.
    """

    def __init__(self, conv: Conv, relu: bool) -> None:
        super().__init__()
        self.relu, self.rim = relu, conv.kernel_size[1] // 2
        self.conv = _conv2d(conv.weight[:, :, 0], conv.bias, (1, 1), (self.rim, 0))

    def forward(self, x: Tensor, size: Size) -> tuple[Tensor, Size]:
        positions = x.shape[2]
        y = self.conv(spread(x, 3, size).flatten(2, 3))  # (N, O, L H, W')
        y = spread(F.relu(y) if self.relu else y, 2, (positions, size[0]))
        return y.flatten(3), (size[0], size[1] - 2 * self.rim)


class SolidConv(FlatConv):
    """A convolution that is not separable, on images of H by W pixels with its spectral taps in their channels.

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
        self.rows = weight.shape[3] // 2
        self.conv = _conv2d(weight.transpose(1, 2).flatten(1, 2), bias, (1, 1), (0, 0))  # (O, taps C, side, side)

    def forward(self, x: Tensor, size: Size) -> tuple[Tensor, Size]:
        y = F.pad(x.transpose(1, 2), (0, 0, 0, 0, *self.padding))  # (N, L + padding, C, H W)
        last = y.shape[1] - self.taps  # where the last window along the spectrum begins
        y = torch.cat([y[:, tap : tap + last + 1 : self.stride] for tap in range(self.taps)], 2)  # (N, L', taps C, H W)
        positions = y.shape[1]
        y = self.conv(spread(y.flatten(0, 1), 2, size))  # (N L', O, H', W')
        after = cast("Size", tuple(y.shape[2:]))
        y = spread((F.relu(y) if self.relu else y).flatten(2), 0, (-1, positions))
        return y.transpose(1, 2), after  # (N, O, L', H' W')


class UpPair(FlatConv):
    """A transposed convolution that doubles the spectrum: one convolution for even, one for odd positions.

    Between positions l - 1 and l lie the outputs 2 l - 1 and 2 l: of the even one the taps are 3 and 1, of the odd one
    2 and 0.
    """

    def __init__(self, conv: UpConv) -> None:
        super().__init__()
        weight = conv.weight.transpose(0, 1).flip(3, 4)  # (O, C, 4, side, side) of a convolution that is not transposed
        # Padded on one side only: the other side's position would belong to no output.
        self.even = _along_spectrum(weight[:, :, [3, 1]], conv.bias, 1, (1, 0))
        self.odd = _along_spectrum(weight[:, :, [2, 0]], conv.bias, 1, (0, 1))
        self.rows = self.even.rows

    def forward(self, x: Tensor, size: Size) -> tuple[Tensor, Size]:
        (even, after), (odd, _) = self.even(x, size), self.odd(x, size)  # (N, O, L, H' W')
        return torch.stack([even, odd], 3).flatten(2, 3), after  # (N, O, 2 L, H' W')


def flat(conv: nn.Module, relu: bool = False) -> FlatConv:
    """Return a convolution on (N, C, L, H W), in 2-D."""
    assert isinstance(conv, Conv)
    if conv.kernel_size[1:] != (1, 1) and conv.kernel_size[0] == conv.stride[0] == 1:
        return SpatialConv(conv, relu)
    padding = cast("tuple[int, ...]", conv.padding)[0]
    return _along_spectrum(conv.weight, conv.bias, conv.stride[0], (padding, padding), relu)


def _along_spectrum(
    weight: Tensor, bias: Tensor | None, stride: int, padding: tuple[int, int], relu: bool = False
) -> FlatConv:
    kind = SpectralConv if weight.shape[3:] == (1, 1) else SolidConv
    return kind(weight, bias, stride, padding, relu)


def _conv2d(weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]) -> nn.Conv2d:
    outputs, inputs, height, width = weight.shape
    conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding)
    conv.weight = nn.Parameter(weight.contiguous())
    conv.bias = nn.Parameter(torch.zeros(outputs) if bias is None else bias.clone())
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
