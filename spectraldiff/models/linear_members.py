"""Closed-form members of the ensemble: linear scores of a pixel's context, of its features or of a kernel's.

A context is the mean of a square window, or what some iterations of smoothing by similarity make of the features. Both
are linear, so the scores of a filtered feature map are the filtered scores of that map: only K channels are filtered,
and all members of one context are one linear map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, order=True)
class PixelContext:
    """What a linear member reads around a pixel.

    Attributes
    ----------
    window
        Pixels along the side of the square whose mean it reads, odd; 1 for the pixel alone.
    iterations
        Iterations of smoothing by similarity, see `spectraldiff.models.score_smoothing`.
    """

    window: int = 1
    iterations: int = 0

    @property
    def radius(self) -> int:
        """Pixels from the centre of the window to its edge."""
        return self.window // 2


class LinearMembers(nn.Module):
    """Linear members, merged by their contexts; their weights in the ensemble are part of their scores.

    Parameters
    ----------
    contexts
        G different contexts.
    features, classes
        D and K.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, contexts: Sequence[PixelContext], features: int, classes: int) -> None:
        super().__init__()
        self.contexts = tuple(contexts)
        self.register_buffer("weight", torch.zeros(len(contexts), classes, features))
        self.register_buffer("bias", torch.zeros(len(contexts), classes))

    def forward(self, features: Tensor) -> list[Tensor]:
        """Map features (N, D, H, W) to the scores of each context, (N, K, H - 2 r, W - 2 r) with its radius r."""
        scores = F.conv2d(features, self.weight.flatten(0, 1)[..., None, None], self.bias.flatten())  # (N, G K, H, W)
        return filtered(scores, self.contexts)


class KernelMembers(nn.Module):
    """Linear members that read random Fourier features of a pixel's bands: regressions with a Gaussian kernel.

    The mean product of two pixels' features cos(frequency @ bands + phase) comes near a Gaussian kernel of the two
    (Rahimi and Recht, "Random features for large-scale kernel machines", 2007, Sec. 2). Where a window's mean is read,
    it is the mean of its pixels' features.

    Parameters
    ----------
    contexts
        Different contexts, without smoothing.
    bands, features, classes
        B, R and K.
    """

    frequency: Tensor
    phase: Tensor

    def __init__(self, contexts: Sequence[PixelContext], bands: int, features: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("frequency", torch.zeros(features, bands))
        self.register_buffer("phase", torch.zeros(features))
        self.read = LinearMembers(contexts, features, classes)

    @property
    def contexts(self) -> tuple[PixelContext, ...]:
        """What is read around a pixel."""
        return self.read.contexts

    def forward(self, features: Tensor) -> list[Tensor]:
        """Map features (N, D, H, W), the last B of them bands, to the scores of each context, as `LinearMembers`."""
        bands = features[:, -self.frequency.shape[1] :]
        lifted = F.conv2d(bands, self.frequency[..., None, None], self.phase).cos()
        return cast("list[Tensor]", self.read(lifted))


class Outside(nn.Module):
    """How far a pixel is from the training classes, in percent of training-like pixels that are closer.

    Parameters
    ----------
    window
        Pixels along the side of the square whose mean features are read, odd.
    components, classes, features
        M, K and D.

    Attributes
    ----------
    weight, bias
        (M, D) and (M,): features to components z in which distances are sums of squares.
    curve, slopes, constants
        (M,), (K, M) and (K,): the distance to class k is the sum of curve z^2 + slopes_k z, plus constants_k.
    steps
        (100,) rising distances: j percent of the pixels that were held out are closer than the j-th, from 0; all but
        the farthest are closer than the last.
    """

    weight: Tensor
    bias: Tensor
    curve: Tensor
    slopes: Tensor
    constants: Tensor
    steps: Tensor

    def __init__(self, window: int, components: int, classes: int, features: int) -> None:
        super().__init__()
        self.window = window
        self.register_buffer("weight", torch.zeros(components, features))
        self.register_buffer("bias", torch.zeros(components))
        self.register_buffer("curve", torch.ones(components))
        self.register_buffer("slopes", torch.zeros(classes, components))
        self.register_buffer("constants", torch.zeros(classes))
        self.register_buffer("steps", torch.arange(100.0))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Window, components and classes."""
        return self.window, self.slopes.shape[1], self.slopes.shape[0]

    @property
    def radius(self) -> int:
        """Pixels from the centre of the window to its edge."""
        return self.window // 2

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, D, H, W) to percent, (N, H - 2 r, W - 2 r) uint8, 0..100, with the window's radius r."""
        return self.percent(self.distance(self.components(features)))

    def components(self, features: Tensor) -> Tensor:
        """Map features (N, D, H, W) to components (N, M, H, W)."""
        return F.conv2d(features, self.weight[..., None, None], self.bias)

    def distance(self, x: Tensor) -> Tensor:
        """Map components (N, M, H, W) to the distance of their mean to the nearest class, (N, 1, H', W')."""
        z = mean_filter(x, self.window)
        # The sum of squares is a convolution: the sums of ONNX Runtime depend on the batch.
        squares = F.conv2d(z.square(), self.curve[None, :, None, None])
        return squares + F.conv2d(z, self.slopes[..., None, None], self.constants).amin(1, keepdim=True)

    def percent(self, distance: Tensor) -> Tensor:
        """Map distances (N, 1, H, W) to percent, (N, H, W) uint8."""
        # Tens first, then the ten steps in question: a fifth of the comparisons.
        none = self.steps.new_full((10,), torch.inf)  # what a distance beyond all steps is compared with
        steps = torch.cat([self.steps, none]).view(11, 10)
        tens = (distance > steps[:10, -1:, None]).to(distance.dtype).sum(1)  # (N, H, W)
        ones = (distance.movedim(1, -1) > steps[tens.long()]).to(distance.dtype).sum(-1)
        return (10 * tens + ones).to(torch.uint8)


def filtered(scores: Tensor, contexts: Sequence[PixelContext]) -> list[Tensor]:
    """Cut (N, G K, H, W) into the K channels of each context and take the mean of its window."""
    parts = scores.chunk(len(contexts), 1)
    return [mean_filter(part, context.window) for part, context in zip(parts, contexts, strict=True)]


def mean_filter(x: Tensor, window: int) -> Tensor:
    """Return the mean over the square around each pixel, (N, C, H, W) to (N, C, H - window + 1, W - window + 1)."""
    return x if window == 1 else F.avg_pool2d(F.avg_pool2d(x, (window, 1), 1), (1, window), 1)
