"""The one graph that is shipped: raw tile in, classes, confidence and probabilities out.

It computes what `spectraldiff.models.classifier.Classifier` computes, with everything that is known beforehand folded
into constants (in float64): normalisation, step and the denoiser's preconditioning are one affine a band; the U-Net is
folded and lowered to 2-D convolutions in `spectraldiff_export.unet_2d`; PCA and the ViT's linear mapping are one
matrix, as are the linear members (`spectraldiff_export.token_map`); temperature, weights and prior are in the last
layers.

A `FovealViT` slides over the tile as convolutions.  A `SpectralViT` slides row by row: all windows of a tile at once
would need gigabytes of memory, and a row of windows stays in a processor's cache.  After its last attention only the
class token is read, so keys and values of the last block are never computed: its query is carried over to the tokens
instead, and the tokens' weighted mean to the output.
"""

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectraldiff.models.classifier import Classifier
from spectraldiff.models.foveal_vit import FovealSlide, FovealViT
from spectraldiff.models.linear_members import PixelContext, filtered
from spectraldiff.models.score_smoothing import GUIDES, ScorePart, Smoothing
from spectraldiff.models.vit import SpectralViT, TransformerBlock
from spectraldiff_export.token_map import TokenMap, contexts_by_source
from spectraldiff_runtime.classes import HIGHEST_UINT8


class DeployedClassifier(nn.Module):
    """A trained classifier with all its constants folded.

    Parameters
    ----------
    classifier
        The trained model; it is not changed.  The result has its floating-point type.

    Attributes
    ----------
    bands, halo
        B; pixels around a pixel that its class depends on.
    row_by_row
        Whether `reader` takes one row of windows after the other.
    front
        From a raw tile to tokens (`TokenMap`) or, row by row, to rows of token windows (`TokenRows`).
    reader
        From these (or one row of them) to class scores: `FovealSlide`, `EnsembleSlide` (smoothed scores, linear
        members, which read two tensors) or `RowClassifier`.
    verdict
        `Verdict`: from all class scores to the three outputs.
    knows_outside
        Whether a fourth output says how far pixels are from the training classes.
    """

    knows_outside = False
    __constants__ = ("bands", "halo", "row_by_row")

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.bands, self.halo = len(classifier.fill), classifier.halo
        vit = _tempered(classifier)
        self.row_by_row = isinstance(vit, SpectralViT)
        with torch.no_grad():
            front = TokenMap(classifier)
            self.front: nn.Module = TokenRows(front, vit.config.window) if isinstance(vit, SpectralViT) else front
            self.reader = self._reader(vit, classifier)
            self.verdict: nn.Module = Verdict(classifier.classes, self.row_by_row)
        self.to(classifier.fill.dtype).eval().requires_grad_(False)

    def forward(self, tile: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Classify a batch of raw tiles.

        Parameters
        ----------
        tile
            (N, B, h + 2 halo, w + 2 halo), raw units.

        Returns
        -------
        tuple
            Classes, (N, h, w) uint8 (past 254 classes int32), 1..K; confidence, (N, h, w), 0..1; and probabilities,
            (N, K, h, w).
        """
        scores = self._by_row(self.front(tile)) if self.row_by_row else self.reader(*self.front(tile))
        classes, confidence, probabilities = self.verdict(scores)
        return classes, confidence, probabilities

    def _reader(self, vit: SpectralViT | FovealViT | None, classifier: Classifier) -> nn.Module:
        iterations, linear = classifier.smoothing.iterations, classifier.linear
        if isinstance(vit, SpectralViT):
            if iterations or linear is not None:
                raise ValueError("a classifier that slides row by row has no smoothing and no linear members")
            return RowClassifier(vit)
        if vit is not None and linear is None and not iterations:
            return FovealSlide(vit)
        contexts = contexts_by_source(classifier)
        guides = min(GUIDES, len(classifier.pca_components)) if iterations else 0
        return EnsembleSlide(vit, classifier.vit_iterations, guides, contexts, iterations)

    def _by_row(self, rows: Tensor) -> Tensor:
        return torch.stack([self.reader(row) for row in rows.unbind(0)])


class EnsembleSlide(nn.Module):
    """All members of an ensemble on a map, and the smoothing of their scores: to (N, H', W', K).

    Reads what `TokenMap` gives: (N, C + G + L K, H, W) and, of members that read bands alone, (N, L' K, H, W).

    Parameters
    ----------
    vit
        The attention members, whose C channels come first; None for none.
    vit_iterations
        Iterations of smoothing of their scores.
    guides
        G, channels that guide the smoothing.
    contexts
        Of the L groups of linear members whose scores come last in the first tensor, and of the L' in the second.
    iterations
        The most of all members.
    """

    def __init__(
        self,
        vit: FovealViT | None,
        vit_iterations: int,
        guides: int,
        contexts: tuple[Sequence[PixelContext], Sequence[PixelContext]],
        iterations: int,
    ) -> None:
        super().__init__()
        self.slide: nn.Module | None = None if vit is None else FovealSlide(vit)
        self.width, self.radius = (0, 0) if vit is None else (vit.embed.out_features, vit.config.radius)
        self.vit_iterations, self.guides, self.contexts = vit_iterations, guides, contexts
        self.smoothing = Smoothing(iterations)

    def forward(self, x: Tensor, plain: Tensor | None = None) -> Tensor:
        parts, first = [], self.width + self.guides
        if self.slide is not None:
            scores = self.slide(x[:, : self.width]).permute(0, 3, 1, 2)  # (N, K, H - 2 r, W - 2 r)
            parts.append(ScorePart(scores, self.radius, self.vit_iterations))
        for scores, contexts in zip((x[:, first:], plain), self.contexts, strict=True):
            if contexts:
                assert scores is not None
                found = filtered(scores, contexts)
                parts += [ScorePart(s, c.radius, c.iterations) for s, c in zip(found, contexts, strict=True)]
        return self.smoothing.combined(parts, x[:, self.width : first]).permute(0, 2, 3, 1)


class TokenRows(nn.Module):
    """Tokens of a tile stacked so that entry i holds all windows of output row i.

    Maps (N, B, h + 2 halo, w + 2 halo) to (h, N, w + window - 1, window, C).
    """

    def __init__(self, tokens: TokenMap, window: int) -> None:
        super().__init__()
        self.tokens, self.window = tokens, window

    def forward(self, tile: Tensor) -> Tensor:
        tokens = self.tokens(tile)[0].permute(2, 0, 3, 1)  # (T', N, T', C)
        return shifted(tokens, self.window, 0, 3)  # (h, N, T', window, C)


class RowClassifier(nn.Module):
    """The SpectralViT on one row of windows: (N, w + window - 1, window, C) to class scores (N, w, K)."""

    position: Tensor

    def __init__(self, vit: SpectralViT) -> None:
        super().__init__()
        self.window = vit.config.window
        self.register_buffer("position", torch.cat([vit.cls[0], vit.position]).clone())  # (1 + window^2, C)
        blocks = [cast("TransformerBlock", block) for block in vit.blocks]
        self.blocks = nn.ModuleList(FoldedBlock(block) for block in blocks[:-1])
        self.last = FoldedBlock(blocks[-1], read_out=True)
        self.head = copy.deepcopy(vit.head).eval()

    def forward(self, row: Tensor) -> Tensor:
        windows = shifted(row, self.window, 1, 3)  # (N, w, window, window, C)
        tokens = windows.flatten(2, 3).flatten(0, 1)  # (N w, window^2, C)
        x = F.pad(tokens, (0, 0, 1, 0)) + self.position  # (N w, 1 + window^2, C)
        for block in self.blocks:
            x = block(x)
        return self.head(self.last(x)[:, 0]).unflatten(0, (windows.shape[0], -1))  # type: ignore[no-any-return]


class FoldedBlock(nn.Module):
    """A transformer block; with `read_out`, only its first token is wanted."""

    def __init__(self, block: TransformerBlock, read_out: bool = False) -> None:
        super().__init__()
        block = copy.deepcopy(block).eval()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.attention = ReadOut(block) if read_out else FoldedAttention(block)
        self.read_out = read_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(self.norm1(x))
        x = (x[:, :1] if self.read_out else x) + y
        return cast("Tensor", x + self.mlp(self.norm2(x)))


class FoldedAttention(nn.Module):
    """Multi-head self-attention with its scale in the query's weights: (M, S, C) to (M, S, C)."""

    def __init__(self, block: TransformerBlock) -> None:
        super().__init__()
        attention = block.attention
        self.heads = attention.heads
        weight, bias = _scaled(block)
        self.qkv, self.out = _linear(weight, bias), attention.out

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # (M, heads, S, C')
        weights = (q @ k.transpose(-2, -1)).softmax(-1)  # (M, heads, S, S)
        return cast("Tensor", self.out((weights @ v).transpose(1, 2).flatten(-2)))


class ReadOut(nn.Module):
    """The same attention where only the first token asks: (M, S, C) to (M, 1, C).

    With one query a head, q (W_k x + b_k) is (q W_k) x up to a constant that softmax does not see, and the weights'
    sum over W_v x + b_v is W_v times the mean token plus b_v.  So no token is mapped to a key or a value.
    """

    def __init__(self, block: TransformerBlock) -> None:
        super().__init__()
        attention, width = block.attention, block.attention.out.out_features
        self.heads = attention.heads
        weight, bias = _scaled(block)
        q, k, v = weight.view(3, self.heads, -1, width)  # each (heads, C', C)
        asked = k.transpose(1, 2) @ torch.cat([q, bias[:width].view(self.heads, -1, 1)], 2)  # (heads, C, C + 1)
        self.ask = _linear(asked[..., :-1].flatten(0, 1), asked[..., -1].flatten())
        out = attention.out.weight.double().view(width, self.heads, -1).transpose(0, 1)  # (heads, C, C')
        told = attention.out.bias.double() + attention.out.weight.double() @ bias[2 * width :]
        self.tell = _linear((out @ v).transpose(0, 1).flatten(1), told)

    def forward(self, x: Tensor) -> Tensor:
        query = self.ask(x[:, 0]).unflatten(-1, (self.heads, -1))  # (M, heads, C)
        mean = (query @ x.transpose(1, 2)).softmax(-1) @ x  # (M, heads, C)
        return cast("Tensor", self.tell(mean.flatten(1))[:, None])


class Verdict(nn.Module):
    """From class scores, (N, h, w, K) or with `rows_first` (h, N, w, K), to classes, confidence and probabilities."""

    def __init__(self, classes: int, rows_first: bool) -> None:
        super().__init__()
        self.kind = torch.uint8 if classes <= HIGHEST_UINT8 else torch.int32
        self.order = (1, 3, 0, 2) if rows_first else (0, 3, 1, 2)

    def forward(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        probabilities = scores.permute(self.order).softmax(1)  # (N, K, h, w)
        classes = (probabilities.argmax(1) + 1).to(self.kind)  # (N, h, w)
        return classes, probabilities.amax(1), probabilities


def shifted(x: Tensor, window: int, axis: int, new_axis: int) -> Tensor:
    """Stack all windows along `axis`: it shrinks by window - 1, and `new_axis` holds the position in the window."""
    # Counted from the end, the slices' limits are constants in the graph.
    parts = [x[(slice(None),) * axis + (slice(i, i + 1 - window or None),)] for i in range(window)]
    return torch.stack(parts, new_axis)


def _tempered(classifier: Classifier) -> SpectralViT | FovealViT | None:
    """Return a copy of the ViT whose scores are weighted, and divided by the temperature; None where there is none.

    The prior is added to them where no linear member takes it.
    """
    if classifier.vit is None:
        return None
    vit = copy.deepcopy(classifier.vit).eval()
    last, factor = cast("nn.Linear", vit.head[-1]), classifier.share.double() / classifier.temperature.double()
    for values in (last.weight, last.bias):
        values.data = (values.data.double() * factor).to(values.dtype)
    if classifier.linear is None:
        last.bias.data = (last.bias.data.double() + classifier.prior.double()).to(last.bias.dtype)
    return vit


def _scaled(block: TransformerBlock) -> tuple[Tensor, Tensor]:
    """Return weight (3 C, C) and bias (3 C,) float64 of query, key and value, the attention's scale in the query's."""
    qkv, width = block.attention.qkv, block.attention.out.out_features
    scale = torch.ones(3 * width, dtype=torch.float64)
    scale[:width] = (width // block.attention.heads) ** -0.5
    return qkv.weight.double() * scale[:, None], qkv.bias.double() * scale


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return a linear layer of the given weight (out, in) and bias (out,)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return layer
