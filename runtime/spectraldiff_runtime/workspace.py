"""How much memory a model takes while it runs, measured in a process of its own."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from .engine import Model

# Output pixels along the side of the tiles that are tried, and bytes that the larger one may be expected to take.
SMALL, LARGE = 8, 64
ENOUGH = 10**9


def measure_workspace(file: Path) -> float | None:
    """Return the bytes that a model file takes for each padded input pixel; None where the system does not tell.

    ONNX Runtime chooses among algorithms with buffers of very different sizes, so this is measured, not computed. The
    figure is rounded up by as much as 4 %, because it varies a little.

    Raises
    ------
    RuntimeError
        The process that measures it failed.
    """
    if not Path("/proc/self/status").exists():
        return None
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    command = [sys.executable, "-m", "spectraldiff_runtime.workspace", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of '{file}' failed: {done.stderr}")
    return float(2 ** (math.ceil(16 * math.log2(max(float(done.stdout), 1.0))) / 16))


def _measure(file: str) -> float:
    """Run tiles of two sizes, the larger one if that is affordable, and return bytes for each padded pixel."""
    model = Model.open(file, "cpu")
    found = 0.0
    for side in (SMALL, LARGE):
        padded = (side + 2 * model.card.halo) ** 2
        if found * padded <= ENOUGH:
            found = _growth(model, side) / padded
    return found


def _growth(model: Model, side: int) -> float:
    """Return how far above what is held now running one tile takes the process."""
    side += 2 * model.card.halo
    tile = np.empty((1, model.card.bands, side, side), np.float32)
    tile[:] = np.array(model.card.fill, np.float32)[:, None, None]
    before = _status("VmRSS")
    model.run(tile, confidence=True, probabilities=True)
    return max(_status("VmHWM") - before, 0.0)


def _status(key: str) -> float:
    """Return one of the kernel's figures of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
    sys.stdout.write(f"{_measure(sys.argv[1])}\n")
