"""Layers that compute on shares of a batch what they compute on the whole."""

from dataclasses import dataclass, field
from threading import Barrier, Thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spectraldiff.processes.group import Processes
from spectraldiff.processes.layers import BatchNorm, Dropout, _NormOfAll, own_samples, sharing, whole_batch


@dataclass(frozen=True)
class Threads(Processes):
    """Adds up over threads that stand for processes."""

    barrier: Any = None
    given: dict[int, Tensor] = field(default_factory=dict)

    def add_up(self, values: Tensor) -> None:
        self.given[self.rank] = values.clone()
        self.barrier.wait(60)
        found = sum(self.given[rank] for rank in range(self.count))
        self.barrier.wait(60)
        assert isinstance(found, Tensor)
        values.copy_(found)


@pytest.mark.parametrize("parts", [(3, 5), (1, 6, 1)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_batch_norm_over_several_processes(parts: tuple[int, ...], channels_last: bool) -> None:
    """Outputs, all gradients and running statistics are those of the whole batch."""
    torch.manual_seed(0)
    x, weights = 3 + 2 * torch.randn(8, 4, 3, 5, 5), torch.randn(8, 4, 3, 5, 5)
    if channels_last:
        x = x.to(memory_format=torch.channels_last_3d)
    whole = nn.BatchNorm3d(4)
    nn.init.normal_(whole.weight)
    nn.init.normal_(whole.bias)
    norms = [BatchNorm(4) for _ in parts]
    for norm in norms:
        norm.load_state_dict(whole.state_dict())
    wanted_x = x.clone().requires_grad_()
    wanted = whole(wanted_x)
    (wanted * weights).sum().backward()
    barrier, given, found = Barrier(len(parts)), {}, {}

    def work(rank: int) -> None:
        at, norm = slice(sum(parts[:rank]), sum(parts[: rank + 1])), norms[rank]
        own = x[at].clone().requires_grad_()
        y: Any = _NormOfAll.apply(own, norm.weight, norm.bias, norm, Threads(rank, len(parts), None, barrier, given))
        (y * weights[at]).sum().backward()
        found[rank] = y.detach(), own.grad

    threads = [Thread(target=work, args=(rank,)) for rank in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(torch.cat([found[rank][0] for rank in range(len(parts))]), wanted.detach())
    torch.testing.assert_close(torch.cat([found[rank][1] for rank in range(len(parts))]), wanted_x.grad)
    for name in ("weight", "bias"):
        total = sum(getattr(norm, name).grad for norm in norms)
        torch.testing.assert_close(total, getattr(whole, name).grad)
    for norm in norms:
        torch.testing.assert_close(norm.running_mean, whole.running_mean)
        torch.testing.assert_close(norm.running_var, whole.running_var)


def test_batch_norm_of_one_process_is_pytorchs() -> None:
    torch.manual_seed(0)
    x, ours, theirs = torch.randn(4, 3, 2, 5, 5), BatchNorm(3), nn.BatchNorm3d(3)
    assert torch.equal(ours(x), theirs(x))
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_dropout_of_a_sample_does_not_depend_on_who_computes_it(axis: int, count: int) -> None:
    torch.manual_seed(0)
    x, dropout = torch.randn(7, 3, 40), Dropout(0.4, axis)
    torch.manual_seed(5)
    whole = dropout(x)
    assert 0.3 < float((whole == 0).float().mean()) < 0.5
    parts = []
    for rank in range(count):
        torch.manual_seed(5)
        with sharing(Processes(rank, count), 7):
            parts.append(dropout(x[own_samples()]))
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0)
    assert torch.equal(dropout.eval()(x), x)


@pytest.mark.parametrize(("samples", "count"), [(16, 2), (16, 3), (5, 4), (2, 4), (1, 3)])
def test_shares_cover_a_batch_once(samples: int, count: int) -> None:
    """Who has nothing to do computes a sample that does not count."""
    seen = []
    for rank in range(count):
        with sharing(Processes(rank, count), samples) as own:
            part = list(range(samples))[own_samples()]
            assert len(part) == max(own, 1)
            assert whole_batch(len(part)) == samples
            seen += part[:own]
    assert seen == list(range(samples))
    assert own_samples() == slice(None)
    assert whole_batch(4) == 4
