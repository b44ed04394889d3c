"""Peak memory of `sdiff map`, of its process and the processes that it starts, against what --max-memory allows.

The first table maps a window of a scene with a large model, whose weights are random and whose bands are many, for each
limit and set of outputs. The second maps sparse scenes of growing size, of 4 bands that are zero, with a tiny model.
Memory is read from /proc every 20 ms: the proportional share (PSS) of all processes together, or the resident memory
of the first where that is more. So it runs on Linux only.

    python -m benchmarks.map_memory --folder /tmp/memory
    python -m benchmarks.map_memory --folder /tmp/memory --only sizes --megapixels 4 64 1024
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from benchmarks.roofline.synthetic import write_models, write_scene
from spectraldiff.models.presets import PRESETS
from spectraldiff_runtime.classes import LandCoverClass, palette
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.model_file import CARD_KEY, read_card, seal

LIMITS = ("500MB", "1GB", "2GB", "4GB")
OUTPUTS: dict[str, tuple[str, ...]] = {
    "classes": (),
    "confidence": ("--confidence",),
    "probabilities": ("--probabilities",),
    "all": ("--confidence", "--probabilities", "--preview"),
}
BANDS, HEIGHT, WIDTH = 200, 400, 1500
TINY_BANDS, CLASSES = 4, 16
INTERVAL = 0.02


def tiny_model(path: Path) -> None:
    """Write a model file of one convolution of 3 x 3 pixels over 4 bands, for 16 classes."""
    weights = np.random.default_rng(0).normal(size=(CLASSES, TINY_BANDS, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["tile", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["index"], axis=1, keepdims=0),
        helper.make_node("Add", ["index", "one"], ["value"]),
        helper.make_node("Cast", ["value"], ["classes"], to=TensorProto.UINT8),
        helper.make_node("ReduceMax", ["probabilities", "axis"], ["confidence"], keepdims=0),
    ]
    constants = {"weights": weights, "one": np.array(1), "axis": np.array([1])}
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tiny",
        [value("tile", TensorProto.FLOAT, ["N", TINY_BANDS, "height", "width"])],
        [
            value("classes", TensorProto.UINT8, ["N", "h", "w"]),
            value("confidence", TensorProto.FLOAT, ["N", "h", "w"]),
            value("probabilities", TensorProto.FLOAT, ["N", CLASSES, "h", "w"]),
        ],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    classes = tuple(LandCoverClass(k, f"class {k}", colour) for k, colour in enumerate(palette(CLASSES), start=1))
    card = ModelCard(
        name="tiny", preset="tiny", features="raw", classes=classes, bands=TINY_BANDS, wavelengths=None, halo=1,
        nodata=None, fill=(0.0,) * TINY_BANDS,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {CARD_KEY: card.to_json()})
    onnx.checker.check_model(model)
    path.write_bytes(seal(model.SerializeToString()))


def sparse_scene(path: Path, side: int) -> None:
    """Write an ENVI scene of side x side pixels, uint16, that takes no room on the disk."""
    header = {
        "samples": side, "lines": side, "bands": TINY_BANDS, "header offset": 0, "file type": "ENVI Standard",
        "data type": 12, "interleave": "bsq", "byte order": 0,
    }  # fmt: skip
    path.with_suffix(".hdr").write_text("ENVI\n" + "".join(f"{key} = {value}\n" for key, value in header.items()))
    with path.open("wb") as file:
        file.truncate(side * side * TINY_BANDS * 2)


def peak(line: Sequence[str]) -> dict[str, Any]:
    """Run a program; return its exit code, what it said, seconds, and the peak of it and its children (bytes)."""
    start, most, own = time.perf_counter(), 0, 0
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            pids = _family(process.pid)
            most = max(most, sum(_field(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in pids))
            own = max(own, _field(f"/proc/{process.pid}/status", "VmHWM:"))
            time.sleep(INTERVAL)
        said = (process.stderr.read() if process.stderr else "").strip().splitlines()
    seconds = time.perf_counter() - start
    return {"code": process.returncode, "said": said[-1:], "seconds": seconds, "peak": max(most, own), "own": own}


def _family(pid: int) -> list[int]:
    found, waiting = [], [pid]
    while waiting:
        found.append(one := waiting.pop())
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{one}/task").iterdir():
                waiting += map(int, (thread / "children").read_text().split())
    return found


def _field(path: str, name: str) -> int:
    """Return a figure of a process in bytes; 0 where it has ended."""
    with contextlib.suppress(OSError):
        for row in Path(path).read_text().splitlines():
            if row.startswith(name):
                return 1024 * int(row.split()[1])
    return 0


def mapped(scene: Path, model: Path, limit: str, outputs: Sequence[str], *more: str) -> dict[str, Any]:
    """Map a scene and return how; the map is removed."""
    folder = scene.parent / "map"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    named = [
        part for name in outputs for part in (name, str(folder / ("map.png" if "view" in name else f"{name}.tif")))
    ]
    program = [sys.executable, "-m", "spectraldiff_runtime", "map", str(scene), "--model", str(model), "--quiet"]
    result = peak([*program, "--out", str(folder / "out.tif"), "--max-memory", limit, *named, *more])
    shutil.rmtree(folder)
    return result


def measure_limits(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Map the same window of a scene with each limit and set of outputs."""
    folder: Path = options.folder
    model, scene = folder / f"{options.preset}-fp32.onnx", folder / "scene.tif"
    if not model.exists():
        write_models(PRESETS[options.preset], folder, ["fp32"], BANDS)
    if not scene.exists():
        write_scene(read_card(model), scene, HEIGHT, WIDTH)
    window = ("--window", "0", "0", str(WIDTH), str(options.rows))
    return [
        {"limit": limit, "outputs": name, **mapped(scene, model, limit, OUTPUTS[name], *window)}
        for limit in options.limits
        for name in options.outputs
    ]


def measure_sizes(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Map sparse scenes of each size, with and without probabilities."""
    model, scene = options.folder / "tiny.onnx", options.folder / "sparse.img"
    tiny_model(model)
    rows = []
    for megapixels in options.megapixels:
        sparse_scene(scene, round((megapixels * 1e6) ** 0.5))
        rows += [
            {"megapixels": megapixels, "outputs": name, **mapped(scene, model, "1GB", OUTPUTS[name])}
            for name in ("classes", "probabilities")
        ]
    return rows


def show(rows: Sequence[dict[str, Any]], first: str) -> None:
    """Print a table on stderr."""
    table = Table(first, "outputs", "peak MB", "the process alone", "s", "exit", "said", box=None)
    for row in rows:
        sizes = f"{row['peak'] / 1e6:,.0f}", f"{row['own'] / 1e6:,.0f}"
        table.add_row(
            str(row[first]), row["outputs"], *sizes, f"{row['seconds']:.0f}", str(row["code"]), " ".join(row["said"])
        )
    Console(stderr=True, width=200).print(table)


def main() -> None:
    """Measure; print tables on stderr and JSON on stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--only", choices=["limits", "sizes"])
    parser.add_argument("--preset", choices=list(PRESETS), default="fast")
    parser.add_argument("--rows", type=int, default=HEIGHT)
    parser.add_argument("--limits", nargs="+", default=LIMITS)
    parser.add_argument("--outputs", nargs="+", choices=list(OUTPUTS), default=list(OUTPUTS))
    parser.add_argument("--megapixels", type=float, nargs="+", default=[4, 64])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    if options.only != "sizes":
        found["limits"] = measure_limits(options)
        show(found["limits"], "limit")
    if options.only != "limits":
        found["sizes"] = measure_sizes(options)
        show(found["sizes"], "megapixels")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
