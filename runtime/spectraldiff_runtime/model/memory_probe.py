"""Measures a model's working memory in a separate process."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.model.memory_guard import STATUS, held_memory

# Output pixels along the side of the tiles that are tried, and bytes that the larger one may be expected to take.
SMALL, LARGE = 8, 128
ENOUGH = 10**9


def measure_workspace(file: Path) -> float | None:
    """Return the bytes that a model file takes for each padded input pixel; None on systems without /proc.

    ONNX Runtime chooses among algorithms with buffers of very different sizes, so this is measured, not computed. The
    figure is rounded up by as much as 4 %, because it varies a little.

    Raises
    ------
    RuntimeError
        The process that measures it failed.
    """
    if not STATUS.exists():
        return None
    taken, pixels = _measured(file, SMALL)
    if taken / pixels * (math.isqrt(pixels) + LARGE - SMALL) ** 2 <= ENOUGH:
        taken, pixels = _measured(file, LARGE)
    found = taken / pixels
    return float(2 ** (math.ceil(16 * math.log2(max(found, 1.0))) / 16))


def _measured(file: Path, side: int) -> tuple[float, int]:
    """Return the bytes that a run takes in a fresh process, and the padded pixels of its tile."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    command = [sys.executable, "-m", "spectraldiff_runtime.model.memory_probe", str(file), str(side)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of '{file}' failed: {done.stderr}")
    taken, pixels = done.stdout.split()
    return float(taken), int(pixels)


def _run(file: str, side: int) -> tuple[float, int]:
    """Run one tile; return how far above what is held now that takes this process, and the tile's padded pixels."""
    model = Model.open(file, "cpu")
    padded = side + 2 * model.card.halo
    tile = np.empty((1, model.card.bands, padded, padded), np.float32)
    tile[:] = np.array(model.card.fill, np.float32)[:, None, None]
    before = held_memory()
    model.run(tile, confidence=True, probabilities=True, outside=model.outside)
    return float(max(held_memory("VmHWM") - before, 0)), padded**2


if __name__ == "__main__":
    sys.stdout.write("{} {}".format(*_run(sys.argv[1], int(sys.argv[2]))))
