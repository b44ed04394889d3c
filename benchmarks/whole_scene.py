"""Map large scenes with a small model: memory, bytes read, time, and how well the stages overlap.

The scenes are mosaics of real pixels of Indian Pines, from mirrored copies that join at their edges. The models are
deliberately small, so that reading and writing matter:

- ``linear``: linear discriminants of the mean of 5 x 5 pixels, 50 bands
- ``student``: the cost of a compact file, 200 bands. A 1 x 1 convolution to 96 channels; four blocks of a depthwise
  5 x 5 convolution and a residual 96 -> 192 -> 96; 1 x 1 to the classes. The weights are random, and so are its classes

Memory, bytes and CPU time are the kernel's figures of the mapping process: its peak resident size; the bytes read
through the file system, and the CPU time with that of processes that it started, minus those of mapping 64 x 64 pixels,
which are the program itself. Before each map, the system forgets the file's pages, so that it is read from the disk.

    python -m benchmarks.whole_scene --folder /tmp/scenes --sizes 2000 4000 8000
    python -m benchmarks.whole_scene --folder /tmp/scenes --model student --sizes 4000 --layouts all --once
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
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
from spectraldiff_runtime.model.memory_probe import measure_workspace
from spectraldiff_runtime.model.model_file import CARD_KEY, seal

BANDS, HALO, ROWS, SMALL = {"linear": 50, "student": 200}, 2, 512, "64"
# Of the student: channels, channels between the two products of a block, and blocks.
CHANNELS, INNER, BLOCKS = 96, 192, 4

LAYOUTS: dict[str, dict[str, Any]] = {
    "tiled": {"tiled": True, "blockxsize": 512, "blockysize": 512, "interleave": "band"},
    "tiled-pixel": {"tiled": True, "blockxsize": 256, "blockysize": 256, "interleave": "pixel"},
    "striped": {"interleave": "band"},
    "pixel": {"interleave": "pixel"},
    "bsq": {"driver": "ENVI", "interleave": "bsq"},
    "bil": {"driver": "ENVI", "interleave": "bil"},
    "bip": {"driver": "ENVI", "interleave": "bip"},
}
DEFLATE = {"compress": "deflate", "predictor": 2, "num_threads": "all_cpus"}
LAYOUTS |= {f"{name}-deflate": LAYOUTS[name] | DEFLATE for name in ("tiled", "tiled-pixel", "pixel")}


def scene_path(folder: Path, layout: str, size: str, bands: int) -> Path:
    """Return the path of a scene."""
    return folder / f"{layout}-{bands}-{size}.{'img' if 'driver' in LAYOUTS[layout] else 'tif'}"


def chosen_bands(scene: LabelledScene, bands: int) -> NDArray[np.int64]:
    """Return so many bands spread over the scene's."""
    return np.linspace(0, scene.cube.shape[2] - 1, bands).astype(np.int64)


def rows_and_columns(size: str) -> tuple[int, int]:
    """Return the rows and columns that ``"2000x4000"`` or ``"4000"`` names."""
    rows, _, columns = size.partition("x")
    return int(rows), int(columns or rows)


def write_mosaic(scene: LabelledScene, path: Path, size: str, layout: str, bands: int) -> None:
    """Write a scene of that size, tiled with mirrored copies of another one, a strip at a time."""
    height, width = rows_and_columns(size)
    cube = scene.cube[:, :, chosen_bands(scene, bands)]
    block = np.concatenate([cube, cube[::-1]], 0)
    block = np.concatenate([block, block[:, ::-1]], 1).transpose(2, 0, 1).astype(np.uint16)  # (B, 2 H, 2 W)
    columns = np.arange(width) % block.shape[2]
    profile = {"driver": "GTiff", "bigtiff": "if_safer", **LAYOUTS[layout]}
    place = {"crs": "EPSG:32616", "transform": rasterio.Affine(20, 0, 480_000, 0, -20, 4_470_000)}
    with (
        PartialFile(path, overwrite=True) as file,
        rasterio.open(
            file.partial, "w", height=height, width=width, count=bands, dtype="uint16", **profile, **place
        ) as dataset,
    ):
        for row in track(range(0, height, ROWS), f"Writing {path.name}", console=Console(stderr=True)):
            rows = np.arange(row, min(row + ROWS, height)) % block.shape[1]
            dataset.write(block[:, rows][:, :, columns], window=Window(0, row, width, len(rows)))
        dataset.close()
        header = file.partial.with_suffix(".hdr")
        if header.exists():
            header.replace(path.with_suffix(".hdr"))
        file.publish()


def write_linear(scene: LabelledScene, path: Path) -> None:
    """Write the linear discriminants of the mean of 5 x 5 pixels as a model file."""
    cube = scene.cube[:, :, chosen_bands(scene, BANDS["linear"])].astype(np.float64)
    known = scene.labels > 0
    found = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(cube[known], scene.labels[known])
    side = 2 * HALO + 1
    weights = np.asarray(found.coef_)[:, :, None, None].astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["tile", "weights", "bias"], ["scores"]),
        helper.make_node("AveragePool", ["scores"], ["means"], kernel_shape=[side, side]),
    ]
    constants = {"weights": weights, "bias": np.asarray(found.intercept_, np.float32)}
    _write_model(scene, path, "linear", cube.mean((0, 1)), HALO, "means", nodes, constants)


def write_student(scene: LabelledScene, path: Path) -> None:
    """Write a network of random weights that costs what a compact file does as a model file."""
    cube = scene.cube[:, :, chosen_bands(scene, BANDS["student"])].astype(np.float64)
    draw, nodes, constants = np.random.default_rng(0), [], {}

    def conv(source: str, name: str, count: int, read: int, side: int = 1, group: int = 1) -> str:
        """Add a convolution from `read` channels a group to `count`."""
        weights = draw.normal(0, (2 / (read * side**2)) ** 0.5, (count, read, side, side))
        constants[f"{name}.weights"], constants[f"{name}.bias"] = (
            weights.astype(np.float32),
            np.zeros(count, np.float32),
        )
        nodes.append(helper.make_node("Conv", [source, f"{name}.weights", f"{name}.bias"], [name], group=group))
        return name

    x = conv("tile", "stem", CHANNELS, BANDS["student"])
    mean, spread = cube.mean((0, 1)), cube.std((0, 1))
    normalised = constants["stem.weights"][:, :, 0, 0] / spread
    constants["stem.weights"] = normalised[:, :, None, None].astype(np.float32)
    constants["stem.bias"] = -(normalised @ mean).astype(np.float32)
    for k in range(BLOCKS):
        x = conv(x, f"depthwise{k}", CHANNELS, 1, 2 * HALO + 1, CHANNELS)
        nodes.append(helper.make_node("Relu", [conv(x, f"wide{k}", INNER, CHANNELS)], [f"relu{k}"]))
        nodes.append(helper.make_node("Add", [x, conv(f"relu{k}", f"narrow{k}", CHANNELS, INNER)], [f"block{k}"]))
        x = f"block{k}"
    scores = conv(x, "scores", len(scene.classes), CHANNELS)
    _write_model(scene, path, "student", mean, HALO * BLOCKS, scores, nodes, constants)


MODELS = {"linear": write_linear, "student": write_student}


def _write_model(
    scene: LabelledScene,
    path: Path,
    preset: str,
    fill: NDArray[np.float64],
    halo: int,
    scores: str,
    nodes: list[onnx.NodeProto],
    constants: dict[str, NDArray[Any]],
) -> None:
    """Write a model file of the nodes that compute `scores`, (N, K, h, w), from ``tile``, and measure its memory."""
    card = ModelCard(
        name=scene.name, preset=preset, features="raw", classes=scene.classes, bands=len(fill), wavelengths=None,
        halo=halo, nodata=None, fill=tuple(fill.tolist()),
    )  # fmt: skip
    spatial, inner = ["height", "width"], ["height_out", "width_out"]
    nodes = [
        *nodes,
        helper.make_node("Softmax", [scores], ["probabilities"], axis=1),
        helper.make_node("ArgMax", [scores], ["index"], axis=1, keepdims=0),
        helper.make_node("Cast", ["index"], ["small"], to=TensorProto.UINT8),
        helper.make_node("Add", ["small", "one"], ["classes"]),
        helper.make_node("ReduceMax", ["probabilities", "axis"], ["confidence"], keepdims=0),
    ]
    constants = constants | {"one": np.array(1, np.uint8), "axis": np.array([1], np.int64)}
    graph = helper.make_graph(
        nodes,
        preset,
        [helper.make_tensor_value_info("tile", TensorProto.FLOAT, ["N", len(fill), *spatial])],
        [
            helper.make_tensor_value_info("classes", TensorProto.UINT8, ["N", *inner]),
            helper.make_tensor_value_info("confidence", TensorProto.FLOAT, ["N", *inner]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(scene.classes), *inner]),
        ],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    for _ in range(2):
        helper.set_model_props(model, {CARD_KEY: card.to_json()})
        path.write_bytes(seal(model.SerializeToString()))
        card = replace(card, workspace=card.workspace or measure_workspace(path))


def map_and_watch(
    scene: Path,
    model: Path,
    out: Path,
    extra: list[str],
    program: dict[str, Any] | None = None,
    checkout: Path | None = None,
) -> dict[str, Any]:
    """Map a scene in a separate process; return its own figures and those of the kernel.

    Parameters
    ----------
    program
        The result for a scene without much in it, which tells what the program itself reads and computes.
    checkout
        The folder of another checkout whose code is run; None for this one's.
    """
    paths = [str(checkout / "runtime"), str(checkout)] if checkout else [os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "spectraldiff_runtime", "map", str(scene), "--model", str(model)]
    command += ["--out", str(out), "--overwrite", "--quiet", "--json", *extra]
    forget(scene)
    before = machine_seconds()
    with tempfile.TemporaryFile("w+") as output:
        process, peak = subprocess.Popen(command, stdout=output, env=environment), 0
        while not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            peak = max(peak, peak_memory(process.pid))
            time.sleep(0.05)
        output.seek(0)
        facts = json.loads(output.read())
    machine = machine_seconds() - before
    lines = Path(f"/proc/{process.pid}/io").read_text().splitlines()
    counts = {line.split(": ")[0]: int(line.split()[1]) for line in lines}
    own, started = cpu_seconds(process.pid)
    if process.wait():
        raise RuntimeError(f"mapping {scene} ended with {process.returncode}")
    size, busy = scene.stat().st_size, max(facts["profile"], key=lambda stage: stage["busy_s"])
    read = counts["rchar"] - (program["bytes_read"] if program else size)
    return {
        "scene": scene.name,
        "pixels": facts["height"] * facts["width"],
        "gigabytes": size / 1e9,
        "peak_megabytes": peak / 1e6,
        "bytes_read": read,
        "bytes_read_over_size": read / size,
        "bytes_from_disk": counts["read_bytes"],
        "seconds": facts["seconds"],
        "cpu_s": own + started - (program["cpu_s"] if program else 0),
        "others_cpu_s": machine - own - started,
        "digest": hashlib.sha256(out.read_bytes()).hexdigest(),
        "bound_by": busy["stage"],
        "busy_share": busy["busy_share"],
        "profile": facts["profile"],
    }


def forget(path: Path) -> None:
    """Have the system drop a file's pages from memory, where it can, once they are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def machine_seconds() -> float:
    """Return the CPU seconds that the machine has spent on any process since it started."""
    user, nice, system, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def cpu_seconds(process: int) -> tuple[float, float]:
    """Return the CPU seconds of a process, and of the processes that it started and that have ended."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    user, system, of_children, system_of_children = (int(f) / os.sysconf("SC_CLK_TCK") for f in fields[11:15])
    return user + system, of_children + system_of_children


def peak_memory(process: int) -> int:
    """Return the peak resident bytes of a process so far; `wait4` would include those of this process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return max((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), default=0)


def microseconds(row: dict[str, Any], seconds: float) -> str:
    """Return seconds as microseconds a pixel."""
    return f"{1e6 * seconds / row['pixels']:.2f}"


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table on stderr: times are wall, CPU, and CPU of each stage's own thread, in microseconds a pixel."""
    table, stages = Table(box=None), [stage["stage"] for stage in rows[0]["profile"]]
    for name in (
        "Scene",
        "GB",
        "Peak MB",
        "Read / size",
        "s",
        "us/pixel",
        "CPU",
        *stages,
        "Others s",
        "Bound by",
        "busy",
    ):
        table.add_column(name, justify="left" if name in ("Scene", "Bound by") else "right")
    for row in rows:
        table.add_row(
            row["scene"], f"{row['gigabytes']:.2f}", f"{row['peak_megabytes']:.0f}",
            f"{row['bytes_read_over_size']:.3f}", f"{row['seconds']:.1f}", microseconds(row, row["seconds"]),
            microseconds(row, row["cpu_s"]), *(microseconds(row, stage.get("cpu_s", 0)) for stage in row["profile"]),
            f"{row['others_cpu_s']:.1f}", row["bound_by"], f"{row['busy_share']:.0%}",
        )  # fmt: skip
    Console(stderr=True, width=200).print(table)


def median(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the result of median time, of which all have the same map."""
    if len({row["digest"] for row in found}) > 1:
        raise RuntimeError(f"maps of {found[0]['scene']} differ")
    return sorted(found, key=lambda row: row["seconds"])[len(found) // 2]


def compare(now: dict[str, Any], before: dict[str, Any]) -> None:
    """Print what another checkout took for the same map, and whether it is the same map."""
    wall, cpu = now["seconds"] / before["seconds"], now["cpu_s"] / before["cpu_s"]
    same = "the same map" if now["digest"] == before["digest"] else "ANOTHER MAP"
    print(f"{now['scene']}: time {wall:.3f}, CPU {cpu:.3f} of the other checkout's; {same}", file=sys.stderr)


def main() -> None:
    """Create missing files, measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder for the scenes, about 10 GB")
    parser.add_argument("--model", choices=MODELS, default="linear")
    parser.add_argument("--sizes", nargs="+", default=["2000", "4000", "8000"], help="pixels a side, or ROWSxCOLUMNS")
    parser.add_argument("--layouts", choices=LAYOUTS, nargs="+", default=["tiled"])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--before", type=Path, help="another checkout, whose maps are made in turn with this one's")
    parser.add_argument("--once", action="store_true", help="remove each scene when it has been mapped")
    options, extra = parser.parse_known_args()
    options.folder.mkdir(exist_ok=True, parents=True)
    model, pines, rows = options.folder / f"{options.model}.onnx", registry.load("indian-pines"), []
    MODELS[options.model](pines, model)
    out, bands = options.folder / "classes.tif", BANDS[options.model]
    for layout in options.layouts:
        small = scene_path(options.folder, layout, SMALL, bands)
        write_mosaic(pines, small, SMALL, layout, bands)
        checkouts = [None, options.before] if options.before else [None]
        programs = [
            [map_and_watch(small, model, out, extra, checkout=checkout) for _ in range(2)][1]  # the first may compile
            for checkout in checkouts
        ]
        for size in options.sizes:
            scene = scene_path(options.folder, layout, size, bands)
            if not scene.exists():
                write_mosaic(pines, scene, size, layout, bands)
            found = [
                [map_and_watch(scene, model, out, extra, *ways) for ways in zip(programs, checkouts, strict=True)]
                for _ in range(options.repeats)
            ]
            now, *before = (median(list(some)) for some in zip(*found, strict=True))
            rows += [now, *before]
            for other in before:
                compare(now, other)
            if options.once:
                scene.unlink()
                scene.with_suffix(".hdr").unlink(missing_ok=True)
    show(rows)
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
