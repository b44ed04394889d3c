"""The deep methods' networks; each maps windows (N, w, w, B) of scaled bands to class scores (N, K).

They are written from the text of the papers. Details that these do not give are marked as assumed, here or in `deep`.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FILTERS = (8, 16, 32)  # of the 2-D and the 3-D CNN: this paper


class SpectrumCNN(nn.Module):
    """1-D CNN over the spectrum of the centre pixel: one convolution, batch norm, max-pooling, ReLU, linear.

    128 filters of 20 bands: Hong et al. 2021 (SpectralFormer), who describe the network of the same comparison.
    """

    filters, kernel, pool = 128, 20, 5  # the pooling is assumed

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        kernel = min(self.kernel, bands)
        pool = min(self.pool, bands - kernel + 1)
        self.convolution = nn.Conv1d(1, self.filters, kernel)
        self.norm = nn.BatchNorm1d(self.filters)
        self.pooling = nn.MaxPool1d(pool)
        self.head = nn.Linear(self.filters * ((bands - kernel + 1) // pool), classes)

    def forward(self, windows: Tensor) -> Tensor:
        radius = windows.shape[1] // 2
        x = windows[:, radius, radius, None]  # (N, 1, B)
        x = F.relu(self.pooling(self.norm(self.convolution(x))))  # (N, 128, L)
        return cast("Tensor", self.head(x.flatten(1)))


class PlaneCNN(nn.Module):
    """2-D CNN: three convolutions of 3 x 3 with batch norm and ReLU, all bands as input channels, linear.

    Without padding, 3 x 3 of a window of 9 x 9 pixels remain for the linear layer.
    """

    def __init__(self, bands: int, classes: int, window: int = 9) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((bands, *FILTERS), FILTERS, strict=False):
            layers += [nn.Conv2d(before, after, 3), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(FILTERS[-1] * (window - 6) ** 2, classes)

    def forward(self, windows: Tensor) -> Tensor:
        x = self.layers(windows.movedim(-1, 1))  # (N, 32, w - 6, w - 6)
        return cast("Tensor", self.head(x.flatten(1)))


class VolumeCNN(nn.Module):
    """3-D CNN: three convolutions of 3 x 3 x 3 with batch norm and ReLU, bands as the third dimension, linear.

    Without padding in space, 3 x 3 of a window of 9 x 9 pixels remain for the linear layer. Bands are padded and
    halved by max-pooling after the first two.
    """

    def __init__(self, bands: int, classes: int, window: int = 9) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((1, *FILTERS), FILTERS, strict=False):
            pool = nn.MaxPool3d((2, 1, 1), ceil_mode=True) if after != FILTERS[-1] else nn.Identity()
            layers += [nn.Conv3d(before, after, 3, padding=(1, 0, 0)), nn.BatchNorm3d(after), nn.ReLU(), pool]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(FILTERS[-1] * -(-bands // 4) * (window - 6) ** 2, classes)

    def forward(self, windows: Tensor) -> Tensor:
        x = self.layers(windows.movedim(-1, 1)[:, None])  # (N, 32, B / 4, w - 6, w - 6)
        return cast("Tensor", self.head(x.flatten(1)))


class MiniGCN(nn.Module):
    """One graph convolution between batch norms, then linear (Hong et al. 2020; 128 units).

    It maps spectra (N, B) and the normalised adjacency (N, N) of their graph to scores (N, K).
    """

    units = 128

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(bands)
        self.convolution = nn.Linear(bands, self.units)
        self.norm2 = nn.BatchNorm1d(self.units)
        self.head = nn.Linear(self.units, classes)

    def forward(self, spectra: Tensor, adjacency: Tensor) -> Tensor:
        x = adjacency @ self.convolution(self.norm(spectra))  # (N, 128)
        return cast("Tensor", self.head(F.relu(self.norm2(x))))


class Block(nn.Module):
    """Pre-norm transformer block with dropout in its MLP."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        drop = nn.Dropout(dropout)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), drop, nn.Linear(hidden, width), drop)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.out(self._attend(self.norm1(x)))
        return cast("Tensor", x + self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        """Mix tokens (N, S, C); written out, because the fused kernel's backward pass is slow on CPUs."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (N, heads, S, C / heads)
        weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1)  # (N, heads, S, S)
        mixed: Tensor = weights.to(v.dtype) @ v
        return mixed.transpose(1, 2).flatten(2)


class SpectralFormer(nn.Module):
    """Transformer over bands with group-wise embedding and cross-layer adaptive fusion (Hong et al. 2021).

    A token is one band: the windows of it and its neighbours, `GROUP` bands in all, mapped linearly. From the third
    block on, the input of a block is a learnt mix of the outputs of the two blocks before it.
    """

    group, width, depth, heads, mlp, dropout = 3, 64, 5, 4, 8, 0.1

    def __init__(self, bands: int, classes: int, window: int = 7) -> None:
        super().__init__()
        self.embed = nn.Linear(self.group * window**2, self.width)
        self.cls = nn.Parameter(torch.randn(1, 1, self.width) * 0.02)
        self.position = nn.Parameter(torch.randn(1 + bands, self.width) * 0.02)
        self.drop = nn.Dropout(self.dropout)
        self.blocks = nn.ModuleList(Block(self.width, self.heads, self.mlp, self.dropout) for _ in range(self.depth))
        self.mix = nn.Parameter(torch.tensor([1.0, 0.0]).repeat(self.depth - 2, 1))
        self.head = nn.Sequential(nn.LayerNorm(self.width), nn.Linear(self.width, classes))

    def forward(self, windows: Tensor) -> Tensor:
        bands = windows.flatten(1, 2).transpose(1, 2)  # (N, B, w^2)
        tokens = self.embed(grouped(bands, self.group))  # (N, B, C)
        x = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], 1) + self.position  # (N, 1 + B, C)
        x, outputs = self.drop(x), list[Tensor]()
        for number, block in enumerate(self.blocks):
            if number >= 2:
                last, skipped = self.mix[number - 2]
                x = last * outputs[-1] + skipped * outputs[-2]
            x = block(x)
            outputs.append(x)
        return cast("Tensor", self.head(x[:, 0]))


def grouped(bands: Tensor, group: int) -> Tensor:
    """Concatenate each band with its nearest neighbours, `group` bands in all: (N, B, V) to (N, B, group V).

    The spectrum is mirrored at its ends without repeating the last band.
    """
    radius, count = group // 2, bands.shape[1]
    steps = torch.arange(-radius, radius + 1, device=bands.device)
    index = (torch.arange(count, device=bands.device)[:, None] + steps).abs()  # (B, group)
    index = (count - 1) - ((count - 1) - index).abs()
    return bands[:, index.clamp(0, count - 1)].flatten(2)
