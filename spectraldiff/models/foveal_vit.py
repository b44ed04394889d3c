"""FovealViT: one attention layer whose class token reads a wide window that is fine at its centre and coarse outside.

A class token that has read nothing yet is a constant, and so is its query.  With positions that only shift the
attention's scores, the weight of a pixel is then exp(a) exp(b): a from the pixel alone, b from its position in the
window alone.  So attention over all windows of a map is the ratio of two convolutions of that map, see `FovealSlide`:
the same function as over each window by itself, at a hundredth of the operations of a transformer that sees each window
anew.

The ensemble's members differ in their first weights, in their windows and in the components that they read.  Their mean
is right more often than one of them (Lakshminarayanan et al. 2017), and one linear map embeds a token for all of them.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectraldiff.models.settings import components_read
from spectraldiff.models.vit import Noise, SpectralViT, ViTConfig
from spectraldiff.processes.layers import Dropout

# Pixels along the side of the cells that share a position outside the centre.
CELL = 3
# Components up to which noise is drawn for each of them: with more, for each channel of a token.
DIRECT = 128
# What is added to variances, as `torch.nn.functional.layer_norm` does.
EPSILON = 1e-5
# Largest score of a pixel: beyond it, weights of one window would not fit into float32 together.
HIGHEST_SCORE = 20.0


class FovealViT(nn.Module):
    """Classifies the centre pixel of a window of feature vectors with one layer of attention.

    Parameters
    ----------
    config
        The network's shape, with M members; `fovea` pixels along the side of the centre have a position each, outside
        it `CELL` x `CELL` pixels share one; all windows and `fovea` are odd multiples of `CELL`; `depth` is 1.
        With `band_components`, both kinds of components have members that read them.

    Raises
    ------
    ValueError
        The shape is another.
    """

    position_index: Tensor

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        _check_shape(config)
        self.config, width, members = config, config.width, len(config.members)
        self.embed = nn.Linear(config.components, members * width)
        read = torch.zeros_like(self.embed.weight)
        for member in range(members):
            read[_own(member, width), self._components(member)] = 1
        self.embed.weight.data.mul_(read)  # what a member does not read has no gradient, and stays 0
        self.ask, self.value = MemberLinear(members, width, config.heads), MemberLinear(members, width, width)
        self.register_buffer("position_index", position_index(config), persistent=False)  # (window, window)
        sizes = torch.bincount(self.position_index.flatten()).float()  # (positions,)
        # At first a cell weighs as much as a pixel of the centre.
        self.bias = nn.Parameter(-sizes.log()[:, None].repeat(1, members * config.heads))
        self.position = nn.Parameter(torch.randn(len(sizes), members * width) * 0.02)
        self.cls = nn.Parameter(torch.zeros(members, width))
        self.out = MemberLinear(members, width, width)
        self.mlp = nn.Sequential(
            MemberLinear(members, width, config.mlp), nn.GELU(), MemberLinear(members, config.mlp, width)
        )
        self.head = nn.Sequential(
            MemberLinear(members, width, config.mlp), nn.GELU(), Dropout(config.dropout, axis=1),
            MemberLinear(members, config.mlp, config.classes),
        )  # fmt: skip

    def forward(self, windows: Tensor) -> Tensor:
        """Map windows (N, window, window, P) to class scores (N, K), the mean of all members'."""
        return self.each(windows).mean(1)

    def losses(self, windows: Tensor, labels: Tensor, noise: Noise | None = None) -> Tensor:
        """Return the mean cross-entropy of the members, each by itself, (N,); `labels`, (N,), are from 0.

        With `noise`, the windows' values get some of it, each member other values.
        """
        scores = self.each(windows, noise).float().transpose(1, 2)  # (N, K, M)
        return F.cross_entropy(scores, labels[:, None].expand(-1, scores.shape[2]), reduction="none").mean(1)

    @property
    def noise_values(self) -> int:
        """The values of noise that one window gets at a time, at most."""
        return self.config.window**2 * max(self.config.width, DIRECT)

    def each(self, windows: Tensor, noise: Noise | None = None) -> Tensor:
        """Map windows (N, window, window, P) to the class scores of each member, (N, M, K)."""
        if torch.is_autocast_enabled(windows.device.type):  # once, not for each member
            windows = windows.to(torch.get_autocast_dtype(windows.device.type))
        members = range(len(self.config.members))
        return self.classify(torch.stack([self._read(member, windows, noise) for member in members], 1))

    def _read(self, member: int, windows: Tensor, noise: Noise | None = None) -> Tensor:
        """Return what the class token of a member reads of windows (N, window, window, P), (N, C)."""
        config, inside = self.config, self._inside(member)
        position = self.position_index[inside, inside].flatten()
        channels, heads = _own(member, config.width), _own(member, config.heads)
        components = self._components(member)
        tokens = windows[:, inside, inside, components].flatten(1, 2)
        weight = self.embed.weight[channels, components]
        x = F.linear(tokens, weight, self.embed.bias[channels])  # (N, S, C)
        if noise is not None:
            root = _noise_root(weight)
            x = x + F.linear(noise((*tokens.shape[:2], root.shape[1])), root)
        x = normed(x)
        weights = (clamped(self.ask.one(member, x)) + self.bias[position, heads]).softmax(1)  # (N, S, heads)
        # Each head's weights read all channels, of which its own are kept: that takes no copy of the values.
        read = weights.transpose(1, 2) @ self.value.one(member, x).to(weights.dtype)  # (N, heads, C)
        read = read.view(len(x), config.heads, config.heads, -1).diagonal(dim1=1, dim2=2).transpose(1, 2)
        # There are few position vectors: weights are added up position by position first.
        sums = weights.new_zeros(len(x), len(self.bias), config.heads).index_add(1, position, weights)
        positions = self.position[:, channels].unflatten(-1, (config.heads, -1))  # type: ignore[no-untyped-call]
        read = read + torch.einsum("nsh,shd->nhd", sums, positions.to(sums.dtype))  # (N, heads, C / heads)
        return read.flatten(1)

    def reads(self) -> Tensor:
        """Return which positions each head of each member reads, (positions, M heads) bool."""
        found = torch.zeros_like(self.bias, dtype=torch.bool)
        for member in range(len(self.config.members)):
            inside = self._inside(member)
            found[self.position_index[inside, inside].flatten(), _own(member, self.config.heads)] = True
        return found

    def _inside(self, member: int) -> slice:
        """Return the rows, and columns, of the window that a member reads."""
        margin = (self.config.window - self.config.members[member].window) // 2
        return slice(margin, self.config.window - margin)

    def _components(self, member: int) -> slice:
        """Return the components that a member reads."""
        return components_read(self.config.members[member], self.config.components, self.config.band_components)

    def classify(self, read: Tensor) -> Tensor:
        """Map what the class tokens read, (..., M, C), to class scores (..., M, K)."""
        x = self.cls + self.out(read)
        x = x + self.mlp(normed(x))
        return self.head(normed(x))  # type: ignore[no-any-return]

    def slide(self, tokens: Tensor) -> Tensor:
        """Classify every pixel of a map of embedded tokens, (N, M C, H, W), as `SpectralViT.slide` does."""
        scores: Tensor = FovealSlide(self)(self.centred(tokens.transpose(0, 1)).transpose(0, 1))  # (N, H', W', K)
        return scores.permute(0, 3, 1, 2)

    def centred(self, values: Tensor) -> Tensor:
        """Take the mean of each member's away from values, (M C, ...)."""
        each = _split(values, 0, (len(self.config.members), -1))
        return (each - each.mean(1, keepdim=True)).flatten(0, 1)


def _check_shape(config: ViTConfig) -> None:
    """Raise ValueError where a foveal classifier cannot have this shape."""
    windows, fovea = [member.window for member in config.members], _fovea(config)
    if config.depth != 1 or any(side % (2 * CELL) != CELL for side in (*windows, fovea)) or fovea > min(windows):
        raise ValueError(
            f"depth {config.depth}, windows {windows} and fovea {fovea}: a foveal classifier has depth 1, and windows "
            f"and a fovea that are odd multiples of {CELL}, with no window smaller than the fovea"
        )
    readers = sum(member.source == "bands" for member in config.members)
    if bool(config.band_components) != bool(readers) or readers == len(windows):
        raise ValueError(
            f"{config.band_components} components of bands alone and {readers} of {len(windows)} members that read "
            "them: wanted none of both, or some of both and a member for the other components"
        )


def _noise_root(weight: Tensor) -> Tensor:
    """Return R, (C, r), so that R z is distributed as `weight` z, (C, P) times (P,): with fewer values z if P is large.

    z is standard normal, so that only R R' counts.
    """
    if weight.shape[1] <= DIRECT:
        return weight
    with torch.autocast(weight.device.type, enabled=False):
        square = weight @ weight.T
        ridge = 1e-6 * square.diagonal().mean() * torch.eye(len(square), device=weight.device)
        root: Tensor = torch.linalg.cholesky(square + ridge)
        return root


def _own(member: int, size: int) -> slice:
    """Return what is a member's own of `size` values each, side by side."""
    return slice(member * size, (member + 1) * size)


class MemberLinear(nn.Module):
    """M linear maps side by side: (..., M, inputs) to (..., M, outputs)."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)  # as of nn.Linear
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("...mi,moi->...mo", x, self.weight.to(x.dtype))
        return y + self.bias.to(y.dtype)

    def one(self, member: int, x: Tensor) -> Tensor:
        """Apply one of the maps: (..., inputs) to (..., outputs)."""
        return F.linear(x, self.weight[member], self.bias[member])


def normed(x: Tensor) -> Tensor:
    """Give each member's vector mean 0 and variance 1, (..., C).

    There is no gain and no offset: a linear map follows, which has them.
    """
    return F.layer_norm(x, x.shape[-1:])


def clamped(scores: Tensor) -> Tensor:
    """Keep scores where the weights of one window fit into float32 together."""
    return scores.clamp(-HIGHEST_SCORE, HIGHEST_SCORE)


class FovealSlide(nn.Module):
    """A `FovealViT` on a whole map: (N, M C, H, W) centred tokens to (N, H - 2 r, W - 2 r, K) class scores.

    Tokens are embedded and centred: the mean of a member's C is 0, which changes nothing, as each norm takes it away.
    What is left of the first norm is a factor for each pixel and member. It is taken to the weights, so that tokens
    keep their layout.

    With g = exp(a) for each head, e = exp(b) for each head and position, v the values and p the position vectors, the
    class token reads (e * (g v) + (e p) * g) / (e * g), where * slides a kernel over the map.  Outside the centre a
    kernel is constant on cells, so it is slid over means of 3 x 3 pixels with a stride of three pixels.

    Parameters
    ----------
    vit
        The trained classifier; it is not changed.
    """

    ask: Tensor
    ask_bias: Tensor
    value: Tensor
    cls: Tensor
    near: Tensor
    near_scores: Tensor
    far: Tensor
    far_scores: Tensor

    def __init__(self, vit: FovealViT) -> None:
        super().__init__()
        config = vit.config
        self.members, self.each = len(config.members), config.width // config.heads
        self.out, self.mlp, self.head = (
            nn.ModuleList(_member(layer, number) for number in range(self.members))
            for layer in (vit.out, vit.mlp, vit.head)
        )
        for out, value in zip(self.out, vit.value.bias, strict=True):
            out.bias = nn.Parameter(out.bias + out.weight @ value)
        self.register_buffer("ask", vit.ask.weight)  # (M, heads, C)
        self.register_buffer("ask_bias", vit.ask.bias[..., None])
        self.register_buffer("value", vit.value.weight)  # (M, C, C)
        self.register_buffer("cls", vit.cls)
        margin = config.radius - _fovea(config) // 2
        self.inner = slice(margin, -margin or None)
        centre = vit.position_index[self.inner, self.inner].contiguous()
        cells = vit.position_index[CELL // 2 :: CELL, CELL // 2 :: CELL].contiguous()
        near, near_scores = _kernels(vit, centre, torch.ones_like(centre))
        # Of the mean of a cell's pixels: of their sum, ONNX Runtime would order its channels anew for the factor.
        far, far_scores = (CELL**2 * kernel for kernel in _kernels(vit, cells, ~torch.isin(cells, centre)))
        for name, kernel in (("near", near), ("near_scores", near_scores), ("far", far), ("far_scores", far_scores)):
            self.register_buffer(name, kernel)

    def forward(self, tokens: Tensor) -> Tensor:
        size, width = tokens.shape[2:], tokens.shape[1]
        x = _split(tokens.flatten(2), 1, (self.members, -1))  # (N, M, C, H W)
        mean = torch.ones_like(self.value[:1, :1]) / x.shape[2]
        factor = (mean @ x.square() + EPSILON).rsqrt()  # (N, M, 1, H W)
        weights = clamped(self.ask @ x * factor + self.ask_bias).exp()  # (N, M, heads, H W)
        values = self.value @ x  # (N, M, C, H W)
        shares = (weights * factor).repeat_interleave(self.each, 2)
        values, weights = (_split(y.flatten(1, 2), 2, size) for y in (values * shares, weights))
        near, near_weights = (y[..., self.inner, self.inner] for y in (values, weights))
        cells, cell_weights = (F.avg_pool2d(y, CELL, 1) for y in (values, weights))
        read = F.conv2d(near, self.near, groups=width)  # (N, M C, H', W')
        read = read + F.conv2d(cells, self.far, groups=width, dilation=CELL)
        # The weights' sums member by member: a convolution of all would multiply one member's weights for the others.
        parts = (y.chunk(self.members, 1) for y in (near_weights, cell_weights, read))
        kernels = self.near_scores, self.far_scores
        each = (self._read(*one) for one in zip(*parts, *kernels, strict=True))
        layers = zip(each, self.cls, self.out, self.mlp, self.head, strict=True)
        return sum(_scores(*one) for one in layers) / self.members  # type: ignore[return-value]

    def _read(self, near: Tensor, cells: Tensor, read: Tensor, near_scores: Tensor, far_scores: Tensor) -> Tensor:
        """Return what a member's class token reads, (N, H', W', C), of its weights and weighted values."""
        sums = F.conv2d(near, near_scores) + F.conv2d(cells, far_scores, dilation=CELL)  # (N, C + heads, H', W')
        width = read.shape[1]
        found = (read + sums[:, :width]) / sums[:, width:].repeat_interleave(self.each, 1)
        return found.permute(0, 2, 3, 1)


def _split(x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Split a dimension in several."""
    return x.unflatten(dim, sizes)  # type: ignore[no-any-return, no-untyped-call]


def _scores(x: Tensor, cls: Tensor, out: nn.Module, mlp: nn.Module, head: nn.Module) -> Tensor:
    """Map what a member's class token reads, (..., C), to its class scores, (..., K)."""
    y = cls + out(x)
    y = y + mlp(normed(y))
    return head(normed(y))  # type: ignore[no-any-return]


def _member(layer: nn.Module, member: int) -> nn.Module:
    """Return one member's own part of some layers."""
    if isinstance(layer, MemberLinear):
        return _linear(layer.weight[member], layer.bias[member])
    if isinstance(layer, nn.Sequential):
        return nn.Sequential(*(_member(one, member) for one in layer))
    return layer


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return a linear layer of the given weight (out, in) and bias (out,)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())
    return layer


def _fovea(config: ViTConfig) -> int:
    assert config.fovea is not None
    return config.fovea


def position_index(config: ViTConfig) -> Tensor:
    """Return the index of the position of each pixel of the window, (window, window)."""
    steps, inner = range(-config.radius, config.radius + 1), _fovea(config) // 2

    def position(row: int, column: int) -> tuple[bool, int, int]:
        if max(abs(row), abs(column)) <= inner:
            return True, row, column
        return False, (row + config.radius) // CELL, (column + config.radius) // CELL

    names = [position(row, column) for row in steps for column in steps]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    found = [numbers[name] for name in names]
    return torch.tensor(found, device="cpu").view(config.window, config.window)


def _kernels(vit: FovealViT, where: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
    """Return kernels for the values, (M C, 1, side, side), and the weights, (M, C + heads, heads, side, side).

    `where` and `used`, (side, side), are the positions that the kernel's taps stand for, and whether they count.
    """
    heads, members = vit.config.heads, len(vit.config.members)
    weight = (vit.bias.exp() * vit.reads())[where].movedim(-1, 0) * used  # (M heads, side, side)
    of_channel = weight.repeat_interleave(vit.config.width // heads, 0)  # (M C, side, side)
    positions = of_channel * vit.position[where].movedim(-1, 0)
    entries = torch.cat([_split(y, 0, (members, -1)) for y in (positions, weight)], 1)  # (M, C + heads, side, side)
    head = torch.arange(heads, device=where.device)
    head = torch.cat([head.repeat_interleave(vit.config.width // heads), head])  # (C + heads,)
    own = F.one_hot(head, heads).to(entries)[..., None, None]  # (C + heads, heads, 1, 1)
    return of_channel[:, None], entries[:, :, None] * own


def new_vit(config: ViTConfig) -> "SpectralViT | FovealViT":
    """Return the untrained classifier of a shape; ValueError where it has members without a fovea."""
    if config.fovea is None and len(config.members) != 1:
        raise ValueError(f"{len(config.members)} members: only a foveal classifier can have more than one")
    return SpectralViT(config) if config.fovea is None else FovealViT(config)
