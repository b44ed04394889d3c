"""One side of the benchmark of two at once does real steps and says how long they take."""

import io
import sys

import pytest

from benchmarks import side_by_side


@pytest.mark.training
@pytest.mark.parametrize("name", ["denoiser", "classifier"])
def test_a_side_waits_for_the_other_and_prints_its_seconds(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    side_by_side.work(name, None, None, 0.0)
    ready, seconds = capsys.readouterr().out.split()
    assert ready == "ready"
    assert 0 < float(seconds) < 600
