"""SpectralViT: a transformer over the window of feature vectors around a pixel (paper, Section III-C).

A token is one pixel of the window: its feature vector, mapped linearly, plus the embedding of its position there.
A class token reads the window and an MLP head turns it into class scores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectraldiff.models.settings import Member, widest_window
from spectraldiff.processes.layers import Dropout

# Draws normal noise of a shape.
Noise = Callable[[Sequence[int]], Tensor]


@dataclass(frozen=True)
class ViTConfig:
    """Shape of the classifier: a `SpectralViT`, or a `spectraldiff.models.foveal_vit.FovealViT` of some members.

    Attributes
    ----------
    components
        P, length of a pixel's feature vector.
    classes
        K.
    members
        The ensemble whose mean counts; more than one with a fovea only.
    width, depth, heads
        Token width, number of blocks, attention heads; the paper's text has five blocks of four heads.
    mlp
        Hidden width of the blocks' MLPs.
    dropout
        Share of activations dropped in training, in attention output and MLP.
    fovea
        Pixels along the side of the window's centre that have a position each, see `spectraldiff.models.foveal_vit`;
        None where all pixels are tokens of their own.
    band_components
        How many of the components, the last ones, are of the bands alone: what members with the source ``"bands"``
        read, and no others. 0 where there are no such members.
    """

    components: int
    classes: int
    members: tuple[Member, ...] = (Member(window=9),)
    width: int = 64
    depth: int = 5
    heads: int = 4
    mlp: int = 128
    dropout: float = 0.1
    fovea: int | None = None
    band_components: int = 0

    @property
    def window(self) -> int:
        """Pixels along the side of the largest window of a member."""
        return widest_window(self.members)

    @property
    def radius(self) -> int:
        """Pixels from the centre of the window to its edge."""
        return self.window // 2


class Attention(nn.Module):
    """Multi-head self-attention; with `queries`, only the first so many tokens are queries."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, queries: int | None = None) -> Tensor:
        width = x.shape[-1]
        if queries is None:
            q, k, v = self.qkv(x).chunk(3, -1)  # each (M, S, C)
        else:
            weight, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(x[:, :queries], weight[:width], bias[:width])  # (M, Q, C)
            k, v = F.linear(x, weight[width:], bias[width:]).chunk(2, -1)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))  # (M, heads, S, C / heads)
        # Written out: for windows this small the fused CPU kernel's backward pass takes three times as long.
        weights = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)  # (M, heads, Q, S)
        y = weights.to(v.dtype) @ v
        return cast("Tensor", self.out(y.transpose(1, 2).flatten(-2)))  # (M, Q, C)


class TransformerBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attention = Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = nn.Sequential(nn.Linear(config.width, config.mlp), nn.GELU(), nn.Linear(config.mlp, config.width))
        self.drop = Dropout(config.dropout)

    def forward(self, x: Tensor, queries: int | None = None) -> Tensor:
        y = self.drop(self.attention(self.norm1(x), queries))
        x = (x if queries is None else x[:, :queries]) + y
        return cast("Tensor", x + self.drop(self.mlp(self.norm2(x))))


class SpectralViT(nn.Module):
    """Classifies the centre pixel of a window of feature vectors.

    Parameters
    ----------
    config
        The network's shape.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.components, config.width)
        self.position = nn.Parameter(torch.randn(config.window**2, config.width) * 0.02)
        self.cls = nn.Parameter(torch.zeros(1, 1, config.width))
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.depth))
        self.head = nn.Sequential(
            nn.LayerNorm(config.width), nn.Linear(config.width, config.mlp), nn.GELU(), Dropout(config.dropout),
            nn.Linear(config.mlp, config.classes),
        )  # fmt: skip

    def forward(self, windows: Tensor) -> Tensor:
        """Map windows (M, window, window, P) to class scores (M, K)."""
        return self.classify(self.embed(windows.flatten(1, 2)))  # (M, window^2, C)

    def losses(self, windows: Tensor, labels: Tensor, noise: Noise | None = None) -> Tensor:
        """Return the cross-entropy, (M,), of each of the windows, (M, window, window, P), of classes from 0, (M,).

        With `noise`, the windows' values get some of it.
        """
        if noise is not None:
            windows = windows + noise(windows.shape)
        return F.cross_entropy(self(windows).float(), labels, reduction="none")

    @property
    def noise_values(self) -> int:
        """The values of noise that one window gets at a time, at most."""
        return self.config.window**2 * self.config.components

    def classify(self, tokens: Tensor) -> Tensor:
        """Map embedded tokens (M, window^2, C) to class scores (M, K)."""
        x = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens + self.position], 1)  # (M, 1 + window^2, C)
        for block in self.blocks[:-1]:
            x = block(x)
        x = self.blocks[-1](x, queries=1)  # nothing but the class token is read after the last block
        return cast("Tensor", self.head(x[:, 0]))

    def slide(self, tokens: Tensor) -> Tensor:
        """Classify every pixel of a map of embedded tokens.

        Parameters
        ----------
        tokens
            (N, C, H, W), embedded once for each pixel.

        Returns
        -------
        Tensor
            (N, K, H - 2 r, W - 2 r) class scores, r the window's radius.
        """
        size = self.config.window
        height, width = (length - size + 1 for length in tokens.shape[2:])
        rows = torch.stack([tokens[:, :, i : i + height] for i in range(size)], -1)  # (N, C, H', W, window)
        columns = [rows[:, :, :, j : j + width] for j in range(size)]
        windows = torch.stack(columns, -1)  # (N, C, H', W', row, column)
        windows = windows.permute(0, 2, 3, 4, 5, 1)  # (N, H', W', window, window, C)
        scores = self.classify(windows.reshape(-1, size * size, tokens.shape[1]))
        return scores.view(len(tokens), height, width, -1).permute(0, 3, 1, 2)
