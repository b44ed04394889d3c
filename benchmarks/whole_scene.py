"""Map scenes of growing size with a small model: memory, bytes read, time, and how well the stages overlap.

The scenes are mosaics of real pixels of Indian Pines with 50 bands, from mirrored copies that join at their edges. The
model is deliberately small (linear discriminants of the mean of 5 x 5 pixels), so that reading and writing matter.
Memory and bytes are the kernel's figures of the mapping process: its peak resident size, and the bytes read through the
file system minus those read when mapping 64 x 64 pixels, which are the program itself.

    python -m benchmarks.whole_scene --folder /tmp/scenes --sizes 2000 4000 8000
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import rasterio
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from rasterio.windows import Window
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from spectraldiff.data.scene import LabelledScene
from spectraldiff.datasets import registry
from spectraldiff_runtime.atomic import PartialFile
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.model_file import CARD_KEY, seal

BANDS, HALO, ROWS, SMALL = 50, 2, 512, 64

LAYOUTS: dict[str, dict[str, Any]] = {
    "tiled": {"tiled": True, "blockxsize": 512, "blockysize": 512, "interleave": "band"},
    "tiled-pixel": {"tiled": True, "blockxsize": 256, "blockysize": 256, "interleave": "pixel"},
    "striped": {"interleave": "band"},
    "pixel": {"interleave": "pixel"},
    "bsq": {"driver": "ENVI", "interleave": "bsq"},
    "bil": {"driver": "ENVI", "interleave": "bil"},
    "bip": {"driver": "ENVI", "interleave": "bip"},
}


def scene_path(folder: Path, layout: str, size: int) -> Path:
    """Return the path of a scene."""
    return folder / f"{layout}-{size}.{'img' if 'driver' in LAYOUTS[layout] else 'tif'}"


def chosen_bands(scene: LabelledScene) -> NDArray[np.int64]:
    """Return 50 bands spread over the scene's."""
    return np.linspace(0, scene.cube.shape[2] - 1, BANDS).astype(np.int64)


def write_mosaic(scene: LabelledScene, path: Path, size: int, layout: str) -> None:
    """Write size x size pixels, tiled with mirrored copies of the scene, a strip at a time."""
    cube = scene.cube[:, :, chosen_bands(scene)]
    block = np.concatenate([cube, cube[::-1]], 0)
    block = np.concatenate([block, block[:, ::-1]], 1).transpose(2, 0, 1).astype(np.uint16)  # (B, 2 H, 2 W)
    columns = np.arange(size) % block.shape[2]
    profile = {"driver": "GTiff", "bigtiff": "if_safer", **LAYOUTS[layout]}
    place = {"crs": "EPSG:32616", "transform": rasterio.Affine(20, 0, 480_000, 0, -20, 4_470_000)}
    with (
        PartialFile(path, overwrite=True) as file,
        rasterio.open(
            file.partial, "w", height=size, width=size, count=BANDS, dtype="uint16", **profile, **place
        ) as dataset,
    ):
        for row in track(range(0, size, ROWS), f"Writing {path.name}", console=Console(stderr=True)):
            rows = np.arange(row, min(row + ROWS, size)) % block.shape[1]
            dataset.write(block[:, rows][:, :, columns], window=Window(0, row, size, len(rows)))
        dataset.close()
        header = file.partial.with_suffix(".hdr")
        if header.exists():
            header.replace(path.with_suffix(".hdr"))
        file.publish()


def write_model(scene: LabelledScene, path: Path) -> None:
    """Write the linear discriminants of the mean of 5 x 5 pixels as a model file."""
    cube = scene.cube[:, :, chosen_bands(scene)].astype(np.float64)
    known = scene.labels > 0
    found = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(cube[known], scene.labels[known])
    side = 2 * HALO + 1
    weights = np.asarray(found.coef_)[:, :, None, None].astype(np.float32)
    card = ModelCard(
        name=scene.name,
        preset="linear",
        features="raw",
        classes=scene.classes,
        bands=BANDS,
        wavelengths=None,
        halo=HALO,
        nodata=None,
        fill=tuple(cube.mean((0, 1)).tolist()),
    )
    spatial, inner = ["height", "width"], ["height_out", "width_out"]
    nodes = [
        helper.make_node("Conv", ["tile", "weights", "bias"], ["scores"]),
        helper.make_node("AveragePool", ["scores"], ["means"], kernel_shape=[side, side]),
        helper.make_node("Softmax", ["means"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["means"], ["index"], axis=1, keepdims=0),
        helper.make_node("Cast", ["index"], ["small"], to=TensorProto.UINT8),
        helper.make_node("Add", ["small", "one"], ["classes"]),
        helper.make_node("ReduceMax", ["probabilities", "axis"], ["confidence"], keepdims=0),
    ]
    constants = [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.asarray(found.intercept_, np.float32), "bias"),
        numpy_helper.from_array(np.array(1, np.uint8), "one"),
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("tile", TensorProto.FLOAT, ["N", BANDS, *spatial])],
        [
            helper.make_tensor_value_info("classes", TensorProto.UINT8, ["N", *inner]),
            helper.make_tensor_value_info("confidence", TensorProto.FLOAT, ["N", *inner]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(scene.classes), *inner]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {CARD_KEY: card.to_json()})
    onnx.checker.check_model(model)
    path.write_bytes(seal(model.SerializeToString()))


def map_and_watch(scene: Path, model: Path, out: Path, extra: list[str], program: int = 0) -> dict[str, Any]:
    """Map a scene in a separate process; return its own figures and those of the kernel.

    `program` is the number of bytes that the program itself reads.
    """
    command = [sys.executable, "-m", "spectraldiff_runtime", "map", str(scene), "--model", str(model)]
    command += ["--out", str(out), "--overwrite", "--quiet", "--json", *extra]
    with tempfile.TemporaryFile("w+") as output:
        process, peak = subprocess.Popen(command, stdout=output), 0
        while not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            peak = max(peak, peak_memory(process.pid))
            time.sleep(0.05)
        output.seek(0)
        facts = json.loads(output.read())
    lines = Path(f"/proc/{process.pid}/io").read_text().splitlines()
    read = int(next(line.split()[1] for line in lines if line.startswith("rchar:"))) - program
    if process.wait():
        raise RuntimeError(f"mapping {scene} ended with {process.returncode}")
    size = scene.stat().st_size
    busy = max(facts["profile"], key=lambda stage: stage["busy_s"])
    return {
        "scene": scene.name,
        "pixels": facts["height"] * facts["width"],
        "gigabytes": size / 1e9,
        "peak_megabytes": peak / 1e6,
        "bytes_read": read,
        "bytes_read_over_size": read / size,
        "seconds": facts["seconds"],
        "bound_by": busy["stage"],
        "busy_share": busy["busy_share"],
        "profile": facts["profile"],
    }


def peak_memory(process: int) -> int:
    """Return the peak resident bytes of a process so far; `wait4` would include those of this process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return max((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), default=0)


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table on stderr."""
    table = Table(box=None)
    for name in ("Scene", "GB", "Peak MB", "Read / size", "s", "us/pixel", "Bound by", "busy"):
        table.add_column(name, justify="left" if name in ("Scene", "Bound by") else "right")
    for row in rows:
        table.add_row(
            row["scene"], f"{row['gigabytes']:.2f}", f"{row['peak_megabytes']:.0f}",
            f"{row['bytes_read_over_size']:.3f}", f"{row['seconds']:.1f}",
            f"{1e6 * row['seconds'] / row['pixels']:.2f}",
            row["bound_by"], f"{row['busy_share']:.0%}",
        )  # fmt: skip
    Console(stderr=True).print(table)


def main() -> None:
    """Create missing files, measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder for the scenes, about 10 GB")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 4000, 8000])
    parser.add_argument("--layouts", choices=LAYOUTS, nargs="+", default=["tiled"])
    parser.add_argument("--repeats", type=int, default=1)
    options, extra = parser.parse_known_args()
    options.folder.mkdir(exist_ok=True)
    model, pines, rows = options.folder / "linear.onnx", registry.load("indian-pines"), []
    write_model(pines, model)
    for layout in options.layouts:
        small = scene_path(options.folder, layout, SMALL)
        write_mosaic(pines, small, SMALL, layout)
        out = options.folder / "classes.tif"
        program = map_and_watch(small, model, out, extra)["bytes_read"] - small.stat().st_size
        for size in options.sizes:
            scene = scene_path(options.folder, layout, size)
            if not scene.exists():
                write_mosaic(pines, scene, size, layout)
            found = [map_and_watch(scene, model, out, extra, program) for _ in range(options.repeats)]
            rows.append(sorted(found, key=lambda row: row["seconds"])[len(found) // 2])
    show(rows)
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
