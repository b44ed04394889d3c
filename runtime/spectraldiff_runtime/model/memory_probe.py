"""Measures a model's working memory in a separate process."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from spectraldiff_runtime.model.engine import Model

# Output pixels along the side of the tiles that are tried, and bytes that the larger one may be expected to take.
SMALL, LARGE = 8, 128
ENOUGH = 10**9
# What a run takes besides: outputs, small buffers, pages of code. Measured: 3 to 4 %.
BESIDES = 1.04
# ONNX Runtime says what it takes at this level and above, so: each time that it takes more for tensors and buffers.
INFO, TAKEN = 1, re.compile(r"Extended allocation by (\d+) bytes")


def measure_workspace(file: Path) -> float:
    """Return the bytes that a model file takes for each padded input pixel.

    ONNX Runtime chooses among algorithms with buffers of very different sizes, so this is measured, not computed: as
    what it asks for, with one thread. That is the same each time, on the same machine; what the system says that a
    process holds is not. The figure is rounded up by as much as 4 %.

    Raises
    ------
    RuntimeError
        The process that measures it failed.
    """
    taken, pixels = _measured(file, SMALL)
    if taken / pixels * (math.isqrt(pixels) + LARGE - SMALL) ** 2 <= ENOUGH:
        taken, pixels = _measured(file, LARGE)
    found = BESIDES * taken / pixels
    return float(2 ** (math.ceil(16 * math.log2(max(found, 1.0))) / 16))


def _measured(file: Path, side: int) -> tuple[int, int]:
    """Return the bytes that a run takes in a fresh process, and the padded pixels of its tile."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    command = [sys.executable, "-m", "spectraldiff_runtime.model.memory_probe", str(file), str(side)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    taken = sum(map(int, TAKEN.findall(done.stderr)))
    if done.returncode or not taken:
        raise RuntimeError(f"measuring the memory of '{file}' failed: {done.stderr[-1000:]}")
    return taken, int(done.stdout)


def _run(file: str, side: int) -> int:
    """Run one tile, and have ONNX Runtime say on stderr what it takes for it; return the tile's padded pixels."""
    model = Model.open(file, "cpu", threads=1)
    padded = side + 2 * model.card.halo
    tile = np.empty((1, model.card.bands, padded, padded), np.float32)
    tile[:] = np.array(model.card.fill, np.float32)[:, None, None]
    onnxruntime.set_default_logger_severity(INFO)
    model.run(tile, confidence=True, probabilities=True, outside=model.outside)
    return padded**2


if __name__ == "__main__":
    sys.stdout.write(str(_run(sys.argv[1], int(sys.argv[2]))))
