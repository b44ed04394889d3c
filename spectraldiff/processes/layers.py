"""The part of a batch that a process computes, and layers that compute on it what they would on all of the batch.

All draws are made for the whole batch, in each process alike, and each uses its own samples of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectraldiff.processes.group import Processes


@dataclass(frozen=True)
class Share:
    """What a process computes of a batch.

    Attributes
    ----------
    count
        Samples of the whole batch.
    own
        Those of this process, at least one.
    processes
        Those that share the batch.
    """

    count: int
    own: slice
    processes: Processes


_shares: list[Share] = []  # the one in use is the last


@contextmanager
def sharing(processes: Processes, count: int) -> Iterator[int]:
    """Compute this process's samples of a batch of `count` inside the block; give how many of them count.

    One process computes all. Where there are more processes than samples, some compute one that does not count, so that
    all draw the same.
    """
    if processes.count == 1:
        yield count
        return
    each = -(-count // processes.count)
    first = min(processes.rank * each, count - 1)
    own = max(0, min(each, count - processes.rank * each))
    _shares.append(Share(count, slice(first, first + max(own, 1)), processes))
    try:
        yield own
    finally:
        _shares.pop()


def own_samples() -> slice:
    """Return the samples of the batch that this process computes: all, but for `sharing`."""
    return _shares[-1].own if _shares else slice(None)


def whole_batch(samples: int) -> int:
    """Return the samples of the whole batch, of which this process computes so many."""
    return _shares[-1].count if _shares else samples


class Dropout(nn.Dropout):
    """Dropout whose draws depend on a sample's place in the whole batch.

    Parameters
    ----------
    p
        The share that is dropped.
    axis
        The axis of the samples in the order of the draws, which the input has as its first: 1 draws for the input's
        second axis first.
    """

    def __init__(self, p: float, axis: int = 0) -> None:
        super().__init__(p)
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        x = x.transpose(0, self.axis)
        if not _shares:
            return F.dropout(x.contiguous(), self.p).transpose(0, self.axis)
        shape = list(x.shape)
        shape[self.axis] = _shares[-1].count
        kept = F.dropout(x.new_ones(shape), self.p)
        return (x * kept.narrow(self.axis, _shares[-1].own.start, x.shape[self.axis])).transpose(0, self.axis)


class BatchNorm(nn.BatchNorm3d):
    """Batch norm, in training over the samples of all processes that share a batch; (N, C, L, H, W) in and out."""

    def forward(self, x: Tensor) -> Tensor:
        if not (_shares and self.training):
            return super().forward(x)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        found: Tensor = _NormOfAll.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, self, _shares[-1].processes
        )
        return found


class _NormOfAll(torch.autograd.Function):
    """Normalises by mean and variance of all processes' samples: one small sum over them forward, one backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm3d, processes: Processes
    ) -> Tensor:
        wide = weight.dtype  # the input's, or float32 for one in bfloat16
        variance, mean = torch.var_mean(x.to(wide), (0, 2, 3, 4), correction=0)
        size = torch.full_like(mean, x.numel() // x.shape[1])
        each = x.new_zeros((processes.count, 3, x.shape[1]), dtype=torch.float64)
        each[processes.rank] = torch.stack([size, mean, variance])
        processes.add_up(each)
        sizes, means, variances = each.unbind(1)  # (processes, C)
        total, part = sizes.sum(0), sizes / sizes.sum(0)
        middle = (part * means).sum(0)
        spread = (part * (variances + (means - middle) ** 2)).sum(0)
        assert norm.momentum is not None
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.lerp_(middle.to(wide), norm.momentum)
        norm.running_var.lerp_((spread * total / (total - 1)).to(wide), norm.momentum)
        mean, variance = middle.to(wide), spread.to(wide)
        ctx.save_for_backward(x, weight, mean, variance, total)
        ctx.eps, ctx.processes = norm.eps, processes
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, norm.eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, mean, variance, total = ctx.saved_tensors
        own: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
            gradients[0], x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        of_x, of_weight, of_bias = own  # as if mean and variance did not depend on x
        sums = torch.stack([of_weight, of_bias]).double()
        ctx.processes.add_up(sums)
        scale = (variance.double() + ctx.eps).rsqrt()
        slope = -weight * scale * scale * sums[0] / total
        shift = -weight * scale * sums[1] / total - slope * mean
        slope, shift = (one.to(weight)[:, None, None, None] for one in (slope, shift))
        of_x.addcmul_(x, slope).add_(shift)
        return of_x, of_weight, of_bias, None, None
