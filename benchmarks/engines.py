"""Run a model file with each engine that is installed, and compare classes, probabilities and time with ONNX Runtime.

The tile is a part of Indian Pines, mirrored at its edges. OpenVINO (`pip install openvino`) computes in float32, in
bfloat16, and as it does by default, bfloat16 where the processor has it. tract and OpenCV come from PyPI, too (`pip
install tract 'opencv-python-headless>=5'`). onnxruntime-web and onnxruntime-node run under node (`npm install
onnxruntime-web onnxruntime-node`, `--web FOLDER`). `--onnxruntime` names folders with other versions of ONNX Runtime
(`pip install --target FOLDER onnxruntime==1.15.1 'numpy<2'`). The reference evaluator of the package onnx is slow and
gets a small tile. One thread each. The time is CPU time of the process that runs the engine; ONNX Runtime runs again
beside each, for the ratio. An engine that fails has its error in the table.

    python -m benchmarks.engines --model demo/model.onnx --web web --onnxruntime ort-1.15 ort-1.17
    python -m benchmarks.engines --model demo/model.onnx --side 192
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
NODE = {"onnxruntime-web": "onnxruntime-web, WebAssembly", "onnxruntime-node": "onnxruntime-node"}
Arrays = list[NDArray[Any]]
# Another version of ONNX Runtime, alone with the NumPy that it was built for.
ALONE = """
import json, sys, time
import numpy, onnxruntime
model, tile, shape, runs, out, *names = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
given = {"tile": numpy.fromfile(tile, numpy.float32).reshape(json.loads(shape))}
outputs, seconds = session.run(names, given), []
for _ in range(int(runs)):
    start = time.process_time()
    outputs = session.run(names, given)
    seconds.append(time.process_time() - start)
numpy.savez(out, *outputs)
print(json.dumps([onnxruntime.__version__, seconds]))
"""


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

    evaluator: Any = ReferenceEvaluator(onnx.load(model))
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


def onnx_runtime_in(model: Path, tile: NDArray[np.float32], folder: Path) -> Found:
    """Run the ONNX Runtime that was installed into a folder, in a process of its own."""
    with tempfile.TemporaryDirectory() as work:
        given, out = Path(work, "tile"), Path(work, "out.npz")
        given.write_bytes(tile.tobytes())
        command = [sys.executable, "-c", ALONE, model, given, json.dumps(tile.shape), RUNS, out, *OUTPUTS]
        environment = os.environ | {"PYTHONPATH": str(folder.resolve())}
        said = subprocess.run(list(map(str, command)), check=True, env=environment, stdout=subprocess.PIPE).stdout
        version, seconds = json.loads(said)
        with np.load(out) as stored:
            outputs = [stored[name] for name in stored.files]
    return Found("ONNX Runtime", version, outputs, seconds)


def tract(model: Path, tile: NDArray[np.float32]) -> Found | None:
    """Run tract; None where it is not installed."""
    try:
        import tract as engine
    except ImportError:
        return None
    graph = engine.onnx().load(model)
    graph.set_input_fact(0, ",".join(map(str, (*tile.shape, "f32"))))
    for number in range(graph.output_count()):
        graph.set_output_fact(number, None)  # shapes follow from the input's
    names = [output.name for output in onnx.load(model).graph.output]  # tract calls outputs after the nodes before them
    places = [names.index(name) for name in OUTPUTS]
    plan = graph.into_model().into_runnable()

    def run() -> Arrays:
        found = plan.run([tile])
        return [found[place].to_numpy() for place in places]

    return Found("tract", engine.version(), *timed(run))


def opencv(model: Path, tile: NDArray[np.float32]) -> Found | None:
    """Run OpenCV's network module; None where OpenCV is not installed, or is older than version 5."""
    try:
        import cv2
    except ImportError:
        return None
    if int(cv2.__version__.partition(".")[0]) < 5:
        return None
    cv2.setNumThreads(1)
    network = cv2.dnn.readNetFromONNX(str(model), cv2.dnn.ENGINE_NEW)
    names = [output.name for output in onnx.load(model).graph.output]  # it gives all or none

    def run() -> Arrays:
        network.setInput(tile, "tile")
        found = dict(zip(names, network.forward(names), strict=True))
        return [np.asarray(found[name]) for name in OUTPUTS]

    return Found("OpenCV", cv2.__version__, *timed(run))


def node(model: Path, tile: NDArray[np.float32], folder: Path | None, package: str) -> Found | None:
    """Run a package of `NODE` under node; None where they are not there."""
    program = shutil.which("node")
    if program is None or folder is None or not (folder / "node_modules" / package).is_dir():
        return None
    with tempfile.TemporaryDirectory() as work:
        given, out = Path(work, "tile"), Path(work, "out.json")
        given.write_bytes(tile.tobytes())
        script = Path(__file__).with_suffix(".js")
        command = [program, script, folder.resolve(), package, model, given, json.dumps(tile.shape), RUNS + 1, out]
        subprocess.run(list(map(str, command)), check=True, env=os.environ)
        facts = json.loads(out.read_text())
    inner = tile.shape[2] - 2 * read_card(model).halo
    outputs = [np.array(facts["classes"]).reshape(1, inner, inner), np.array(facts["probabilities"])]
    outputs[1] = outputs[1].reshape(1, -1, inner, inner)
    return Found(NODE[package], facts["version"], outputs, facts["seconds"][1:])


def line(found: Found, measure: Found) -> str:
    """Return a row of the table."""
    equal = float((found.outputs[0] == measure.outputs[0]).mean())
    largest = float(np.abs(found.outputs[1] - measure.outputs[1]).max())
    ratio = median(found.seconds) / median(measure.seconds)
    pixels = found.outputs[0].size
    return f"| {found.name} | {found.version} | {pixels:,} | {100 * equal:.2f} % | {largest:.1e} | {ratio:.2f} |"


def row(name: str, model: Path, tile: NDArray[np.float32], engine: Callable[[], Found | None]) -> str:
    """Return an engine's row of the table, or why there is none."""
    try:
        found = engine()
    except Exception as error:  # whatever an engine throws at a file that it cannot run belongs to its row
        return f"| {name} | | | {type(error).__name__}: {str(error).strip().partition(chr(10))[0]} | | |"
    return f"{name} is not installed" if found is None else line(found, onnx_runtime(model, tile))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--side", type=int, default=SIDE, help="pixels along a side of the tile, without the halo")
    parser.add_argument("--web", type=Path, help="folder in which onnxruntime-web and onnxruntime-node were installed")
    parser.add_argument("--onnxruntime", type=Path, nargs="*", default=[], help="folders of other versions")
    given = parser.parse_args()
    card, model = read_card(given.model), given.model
    tile, small = (tile_of(card, side) for side in (given.side, SMALL))
    engines: list[tuple[str, Callable[[], Found | None]]] = [
        ("ONNX Runtime", lambda: onnx_runtime(model, tile)),
        *((f"ONNX Runtime in {folder}", partial(onnx_runtime_in, model, tile, folder)) for folder in given.onnxruntime),
        *((name, partial(node, model, tile, given.web, package)) for package, name in NODE.items()),
        *((f"OpenVINO, {name}", partial(openvino, model, tile, hint)) for hint, name in PRECISIONS.items()),
        ("tract", lambda: tract(model, tile)),
        ("OpenCV 5", lambda: opencv(model, tile)),
    ]
    print("| Engine | Version | Pixels | Equal classes | Largest difference | Time / ONNX Runtime |")
    print("|---|---|---|---|---|---|")
    for name, engine in engines:
        print(row(name, model, tile, engine), flush=True)
    print(row("ONNX reference evaluator", model, small, lambda: reference_evaluator(model, small)))


if __name__ == "__main__":
    main()
