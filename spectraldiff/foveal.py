"""FovealViT: one attention layer whose class token reads a wide window that is fine at its centre and coarse outside.

A class token that has read nothing yet is a constant, and so is its query.  With places that only shift the attention's
scores, the weight of a pixel is then exp(a) exp(b): a from the pixel alone, b from its place in the window alone.  So
attention over all windows of a map is the ratio of two convolutions of that map, see `FovealSlide`: the same function
as over each window by itself, at a hundredth of the operations of a transformer that sees each window anew.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectraldiff.vit import SpectralViT, ViTConfig

# Pixels along the side of the cells that share a place outside the centre.
CELL = 3
# Largest score of a pixel: beyond it, weights of one window would not fit into float32 together.
HIGHEST_SCORE = 20.0


class FovealViT(nn.Module):
    """Classifies the centre pixel of a window of feature vectors with one layer of attention.

    Parameters
    ----------
    config
        The network's shape; `fovea` pixels along the side of the centre have a place each, outside it `CELL` x `CELL`
        pixels share one; `window` and `fovea` are odd multiples of `CELL`; `depth` is 1.

    Raises
    ------
    ValueError
        The shape is another.
    """

    places: Tensor

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        sides = (config.window, _fovea(config))
        if any(side % (2 * CELL) != CELL for side in sides) or sides[1] > sides[0] or config.depth != 1:
            raise ValueError(
                f"depth {config.depth}, window {sides[0]} and fovea {sides[1]}: a foveal classifier has depth 1 and "
                f"sides that are odd multiples of {CELL}, the fovea within the window"
            )
        self.config, width = config, config.width
        self.embed = nn.Linear(config.components, width)
        self.norm1 = nn.LayerNorm(width)
        self.ask, self.value = nn.Linear(width, config.heads), nn.Linear(width, width)
        self.register_buffer("places", places(config), persistent=False)  # (window, window)
        sizes = torch.bincount(self.places.flatten()).float()  # (places,)
        # At first a cell weighs as much as a pixel of the centre.
        self.bias = nn.Parameter(-sizes.log()[:, None].repeat(1, config.heads))
        self.position = nn.Parameter(torch.randn(len(sizes), width) * 0.02)
        self.cls = nn.Parameter(torch.zeros(width))
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, config.mlp), nn.GELU(), nn.Linear(config.mlp, width))
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, config.mlp), nn.GELU(), nn.Dropout(config.dropout),
            nn.Linear(config.mlp, config.classes),
        )  # fmt: skip

    def forward(self, windows: Tensor) -> Tensor:
        """Map windows (M, window, window, P) to class scores (M, K)."""
        x = self.norm1(self.embed(windows.flatten(1, 2)))  # (M, window^2, C)
        place = self.places.flatten()
        weights = (self.score(x) + self.bias[place]).softmax(1)  # (M, window^2, heads)
        values = self.value(x).unflatten(-1, (self.config.heads, -1))  # (M, window^2, heads, C / heads)
        read = torch.einsum("msh,mshd->mhd", weights, values.to(weights.dtype))
        # Few places have a position vector: weights are added up place by place first.
        told = weights.new_zeros(len(x), len(self.bias), self.config.heads).index_add(1, place, weights)
        positions = self.position.view(len(self.position), self.config.heads, -1)  # (places, heads, C / heads)
        read = read + torch.einsum("msh,shd->mhd", told, positions.to(told.dtype))
        return self.classify(read.flatten(1))

    def score(self, x: Tensor) -> Tensor:
        """Return each head's score of each normalised token, (..., C) to (..., heads)."""
        return self.ask(x).clamp(-HIGHEST_SCORE, HIGHEST_SCORE)  # type: ignore[no-any-return]

    def classify(self, read: Tensor) -> Tensor:
        """Map what the class token read, (..., C), to class scores (..., K)."""
        x = self.cls + self.out(read)
        return self.head(x + self.mlp(self.norm2(x)))  # type: ignore[no-any-return]

    def slide(self, tokens: Tensor) -> Tensor:
        """Classify every pixel of a map of embedded tokens, (N, C, H, W), as `SpectralViT.slide` does."""
        scores: Tensor = FovealSlide(self)(tokens)  # (N, H', W', K)
        return scores.permute(0, 3, 1, 2)


class FovealSlide(nn.Module):
    """A `FovealViT` on a whole map: (N, C, H, W) embedded tokens to (N, H - 2 r, W - 2 r, K) class scores.

    With g = exp(a) for each head, e = exp(b) for each head and place, v the values and p the positions, the class token
    reads (e * (g v) + (e p) * g) / (e * g), where * slides a kernel over the map.  Outside the centre a kernel is
    constant on cells, so it is slid over sums of 3 x 3 pixels, three pixels at a step.

    Parameters
    ----------
    vit
        The trained classifier; it is not changed.
    """

    near: Tensor
    near_scores: Tensor
    far: Tensor
    far_scores: Tensor

    def __init__(self, vit: FovealViT) -> None:
        super().__init__()
        config = vit.config
        self.vit, self.heads, self.each = vit, config.heads, config.width // config.heads
        margin = config.radius - _fovea(config) // 2
        self.inner = slice(margin, -margin or None)
        centre = vit.places[self.inner, self.inner].contiguous()
        cells = vit.places[CELL // 2 :: CELL, CELL // 2 :: CELL].contiguous()
        near, near_scores = _kernels(vit, centre, torch.ones_like(centre))
        far, far_scores = _kernels(vit, cells, ~torch.isin(cells, centre))
        for name, kernel in (("near", near), ("near_scores", near_scores), ("far", far), ("far_scores", far_scores)):
            self.register_buffer(name, kernel)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.vit.norm1(tokens.permute(0, 2, 3, 1))  # (N, H, W, C)
        weights = self.vit.score(x).exp().permute(0, 3, 1, 2)  # (N, heads, H, W)
        values = self.vit.value(x).permute(0, 3, 1, 2)  # (N, C, H, W)
        values, width = values * weights.repeat_interleave(self.each, 1), values.shape[1]
        near, near_weights = (y[..., self.inner, self.inner] for y in (values, weights))
        cells, cell_weights = (F.avg_pool2d(y, CELL, 1) * CELL**2 for y in (values, weights))
        read = F.conv2d(near, self.near, groups=width)  # (N, C, H', W')
        read = read + F.conv2d(cells, self.far, groups=width, dilation=CELL)
        sums = F.conv2d(near_weights, self.near_scores)  # (N, C + heads, H', W')
        sums = sums + F.conv2d(cell_weights, self.far_scores, dilation=CELL)
        read = (read + sums[:, :width]) / sums[:, width:].repeat_interleave(self.each, 1)
        return self.vit.classify(read.permute(0, 2, 3, 1))


def _fovea(config: ViTConfig) -> int:
    assert config.fovea is not None
    return config.fovea


def places(config: ViTConfig) -> Tensor:
    """Return the number of the place of each pixel of the window, (window, window)."""
    steps, inner = range(-config.radius, config.radius + 1), _fovea(config) // 2

    def place(row: int, column: int) -> tuple[bool, int, int]:
        if max(abs(row), abs(column)) <= inner:
            return True, row, column
        return False, (row + config.radius) // CELL, (column + config.radius) // CELL

    names = [place(row, column) for row in steps for column in steps]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([numbers[name] for name in names]).view(config.window, config.window)


def _kernels(vit: FovealViT, where: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
    """Return the kernels for the values, (C, 1, side, side), and for the weights, (C + heads, heads, side, side).

    `where` and `used`, (side, side), are the places that the kernel's taps stand for, and whether they count.
    """
    config = vit.config
    weight = vit.bias.exp()[where].movedim(-1, 0) * used  # (heads, side, side)
    of_channel = weight.repeat_interleave(config.width // config.heads, 0)  # (C, side, side)
    entries = torch.cat([of_channel * vit.position[where].movedim(-1, 0), weight])  # (C + heads, side, side)
    head = torch.arange(config.heads, device=where.device)
    head = torch.cat([head.repeat_interleave(config.width // config.heads), head])
    scores = entries.new_zeros(len(entries), config.heads, *where.shape)
    scores[torch.arange(len(head), device=where.device), head] = entries
    return of_channel[:, None], scores


def new_vit(config: ViTConfig) -> "SpectralViT | FovealViT":
    """Return the untrained classifier of a shape."""
    return SpectralViT(config) if config.fovea is None else FovealViT(config)
