"""The benchmark of training steps: both ways of the classifier's step see the same windows, and all ways take turns."""

import numpy as np
import pytest
import torch

from benchmarks.train_speed import WARM, Windows, classifier_loop, from_loader, seconds, whole_step
from spectraldiff.models.presets import FAST
from spectraldiff.models.settings import Member, replaced
from spectraldiff.training.compute import Compute
from spectraldiff.training.tasks import ClassifierTask


@pytest.fixture(scope="module")
def loop():
    labels = np.arange(18 * 20).reshape(18, 20) % 3
    classifier = {"members": (Member(9), Member(9)), "network": {"width": 8, "mlp": 8}}
    small = replaced(FAST, components={"most": 4}, classifier=classifier)
    return classifier_loop(torch.zeros(5, 18, 20), labels, small, Compute())


def test_the_loader_gives_the_windows_of_the_task(loop):
    task = loop.task
    assert isinstance(task, ClassifierTask)
    data = Windows(task)
    assert len(data) == 240
    windows, labels = zip(*(data[i] for i in range(6)), strict=True)
    torch.testing.assert_close(torch.stack(windows), task.windows(task.pixels[:6]))
    assert torch.equal(torch.stack(labels), task.labels[:6])


def test_both_ways_train(loop):
    before = [p.detach().clone() for p in loop.model.parameters()]
    times = seconds({"index": whole_step(loop), "loader": from_loader(loop)}, 1, torch.device("cpu"))
    assert set(times) == {"index", "loader"}
    assert min(times.values()) > 0
    assert len(loop.history) == WARM + 1
    assert all(not torch.equal(a, b) for a, b in zip(before, loop.model.parameters(), strict=True))
