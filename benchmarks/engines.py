"""Run a model file with each engine that is installed, and compare classes, probabilities and time with ONNX Runtime.

The tile is a part of Indian Pines, mirrored at its edges. OpenVINO (`pip install openvino`) computes in float32, in
bfloat16, and as it does by default, bfloat16 where the processor has it. onnxruntime-web runs under node (`npm
install onnxruntime-web`, `--web FOLDER`). The reference evaluator of the package onnx is slow and gets a small tile.
One thread each. The time is CPU time where an engine runs in this process.

    python -m benchmarks.engines --model demo/model.onnx --web web
    python -m benchmarks.engines --model demo/model.onnx --side 192
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from spectraldiff.datasets import registry
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.model_file import read_card
from spectraldiff_runtime.window import reflect

RUNS, SIDE, SMALL = 5, 48, 2
OUTPUTS = ["classes", "probabilities"]
PRECISIONS = {"f32": "float32", "bf16": "bfloat16", None: "default"}
Arrays = list[NDArray[Any]]


@dataclass(frozen=True)
class Found:
    """What an engine gave: its version, classes and probabilities of the tile, and seconds of each run."""

    name: str
    version: str
    outputs: Arrays
    seconds: list[float]


def tile_of(card: ModelCard, side: int) -> NDArray[np.float32]:
    """Return a tile of Indian Pines (1, B, side + 2 halo, side + 2 halo)."""
    cube = registry.load("indian-pines").cube
    if cube.shape[2] != card.bands:
        raise SystemExit(
            f"the model has {card.bands} bands and Indian Pines {cube.shape[2]}: wanted a model of this scene"
        )
    rows = reflect(np.arange(-card.halo, side + card.halo), cube.shape[0])
    return np.ascontiguousarray(cube[rows][:, rows].transpose(2, 0, 1)[None], np.float32)


def timed(run: Callable[[], Arrays], runs: int = RUNS) -> tuple[Arrays, list[float]]:
    """Run once to warm up and then `runs` times."""
    outputs, seconds = run(), []
    for _ in range(runs):
        start = time.process_time()
        outputs = run()
        seconds.append(time.process_time() - start)
    return outputs, seconds


def onnx_runtime(model: Path, tile: NDArray[np.float32]) -> Found:
    """Run ONNX Runtime, the measure for the others."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return Found("ONNX Runtime", onnxruntime.__version__, *timed(lambda: session.run(OUTPUTS, {"tile": tile})))


def reference_evaluator(model: Path, tile: NDArray[np.float32]) -> Found:
    """Run the reference evaluator of ONNX."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(onnx.load(model))
    return Found(
        "ONNX reference evaluator", onnx.__version__, *timed(lambda: evaluator.run(OUTPUTS, {"tile": tile}), 1)
    )


def openvino(model: Path, tile: NDArray[np.float32], precision: str | None) -> Found | None:
    """Run OpenVINO, in a precision of `PRECISIONS`; None where it is not installed."""
    try:
        import openvino as ov
    except ImportError:
        return None
    facts: dict[str, Any] = {"INFERENCE_NUM_THREADS": 1}
    if precision is not None:
        facts["INFERENCE_PRECISION_HINT"] = precision
    compiled = ov.Core().compile_model(str(model), "CPU", facts)

    def run() -> Arrays:
        found = compiled({"tile": tile})
        return [np.asarray(found[name]) for name in OUTPUTS]

    return Found(f"OpenVINO, {PRECISIONS[precision]}", ov.__version__.partition("-")[0], *timed(run))


def web(model: Path, tile: NDArray[np.float32], folder: Path | None) -> Found | None:
    """Run onnxruntime-web under node; None where they are not there."""
    node = shutil.which("node")
    if node is None or folder is None:
        return None
    with tempfile.TemporaryDirectory() as work:
        given, out = Path(work, "tile"), Path(work, "out.json")
        given.write_bytes(tile.tobytes())
        script = Path(__file__).with_suffix(".js")
        command = [node, script, folder.resolve(), model, given, json.dumps(tile.shape), str(RUNS + 1), out]
        subprocess.run(list(map(str, command)), check=True, env=os.environ)
        facts = json.loads(out.read_text())
    inner = tile.shape[2] - 2 * read_card(model).halo
    outputs = [np.array(facts["classes"]).reshape(1, inner, inner), np.array(facts["probabilities"])]
    outputs[1] = outputs[1].reshape(1, -1, inner, inner)
    return Found("onnxruntime-web, WebAssembly", facts["version"], outputs, facts["seconds"][1:])


def line(found: Found, measure: Found) -> str:
    """Return a row of the table."""
    equal = float((found.outputs[0] == measure.outputs[0]).mean())
    largest = float(np.abs(found.outputs[1] - measure.outputs[1]).max())
    ratio = median(found.seconds) / median(measure.seconds)
    pixels = found.outputs[0].size
    return f"| {found.name} | {found.version} | {pixels:,} | {100 * equal:.2f} % | {largest:.1e} | {ratio:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--side", type=int, default=SIDE, help="pixels along a side of the tile, without the halo")
    parser.add_argument("--web", type=Path, help="folder in which onnxruntime-web was installed")
    given = parser.parse_args()
    card = read_card(given.model)
    tile, small = (tile_of(card, side) for side in (given.side, SMALL))
    measure, low = onnx_runtime(given.model, tile), onnx_runtime(given.model, small)
    print("| Engine | Version | Pixels | Equal classes | Largest difference | Time / ONNX Runtime |")
    print("|---|---|---|---|---|---|")
    print(line(measure, measure))
    for precision in PRECISIONS:
        found = openvino(given.model, tile, precision)
        print("OpenVINO is not installed" if found is None else line(found, measure))
    found = web(given.model, tile, given.web)
    print("node or onnxruntime-web (--web) is not there" if found is None else line(found, measure))
    print(line(reference_evaluator(given.model, small), low))


if __name__ == "__main__":
    main()
