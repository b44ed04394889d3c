"""Closed-form members of the ensemble: linear scores of a pixel's context.

A context is the mean of a square window, or what some iterations of smoothing by similarity make of the features. Both
are linear, so the scores of a filtered feature map are the filtered scores of that map: only K channels are filtered,
and all members of one context are one linear map.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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


def filtered(scores: Tensor, contexts: Sequence[PixelContext]) -> list[Tensor]:
    """Cut (N, G K, H, W) into the K channels of each context and take the mean of its window."""
    parts = scores.chunk(len(contexts), 1)
    return [mean_filter(part, context.window) for part, context in zip(parts, contexts, strict=True)]


def mean_filter(x: Tensor, window: int) -> Tensor:
    """Return the mean over the square around each pixel, (N, C, H, W) to (N, C, H - window + 1, W - window + 1)."""
    return x if window == 1 else F.avg_pool2d(F.avg_pool2d(x, (window, 1), 1), (1, window), 1)
