"""The memory that inference takes: no more than its tensors need, and what the card says."""

import subprocess
import sys

import pytest

from spectraldiff_runtime.model.memory_probe import SMALL, _measured, measure_workspace

GROWTH = """
import sys
import numpy as np
import onnxruntime
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.model.memory_guard import held_memory
model = Model.open(sys.argv[1], "cpu", threads=1)
run = model.session.run
if sys.argv[2] == "plain":
    run = onnxruntime.InferenceSession(open(sys.argv[1], "rb").read(), providers=["CPUExecutionProvider"]).run
tile = np.ones((1, model.card.bands, 1204, 1204), np.float32)
before = held_memory()
for _ in range(3):
    run(["classes"], {"tile": tile})
print((held_memory("VmHWM") - before) / tile[0, 0].size)
"""


def growth(path, kind: str) -> float:
    """Return the bytes a pixel that three runs of a tile take, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", GROWTH, str(path), kind], capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_runs_take_less_memory_than_with_onnx_runtimes_defaults(model_path):
    assert growth(model_path, "ours") < 0.75 * growth(model_path, "plain")


def test_the_measured_workspace_is_what_runs_take(model_path):
    found, taken = measure_workspace(model_path), growth(model_path, "ours")
    # Both vary by some per cent, and what a process takes besides is much for a model as small as this.
    assert 0.8 * taken < found < 3 * taken


def test_it_is_the_same_each_time(model_path, monkeypatch):
    found = set()
    for threshold in (2**16, 2**20, 2**30):  # where the C library places what is asked for, and what it holds besides
        monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(threshold))
        found.add(_measured(model_path, SMALL))
    assert len(found) == 1


def test_a_file_that_does_not_open_is_said(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(RuntimeError, match="measuring the memory"):
        measure_workspace(path)
