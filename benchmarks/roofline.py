"""The two numbers: how long a map must take on this machine, and how long it takes.

The machine's ceilings are measured first: matrix products of each precision through ONNX Runtime, copies in memory,
reading a file. The model file's operations are counted node by node on the tiles that a map of this scene has, halo
included; at the best measured rate of their precision they give the floor. Inference alone and the whole map, file to
file, are measured beside it, and the ten nodes that take most of the time.

    python -m benchmarks.roofline --model demo/model.onnx --dataset indian-pines
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.ceilings import PRECISIONS, Ceiling, copy_speed, device_copy_speed, product_speed, providers, read_speed
from benchmarks.operations import Count, count, read_events, record, total
from spectraldiff import datasets
from spectraldiff_runtime import Model, map_scene
from spectraldiff_runtime.engine import read_model_bytes
from spectraldiff_runtime.planning import Plan, make_plan, strips, tiles_of_strip
from spectraldiff_runtime.runs import Source
from spectraldiff_runtime.scene import NODATA_OF_FILE
from spectraldiff_runtime.stages import gather, read_part
from spectraldiff_runtime.tiling import Window

REPEATS = 5
TOP = 10
# Sides of the tiles whose operations give those of a tile without end: they grow with the square of the side.
SMALL_SIDE = 16
# Runs of the profile: few, since each node of each turn of a loop is written down.
PROFILED_RUNS = 3


@dataclass(frozen=True)
class Tiles:
    """Real tiles of a scene, ready for the model.

    Attributes
    ----------
    batches
        (N, B, h + 2 halo, w + 2 halo) float32 each.
    kept
        Pixels of the map that one tile gives.
    padded
        Pixels that the model computes for it.
    """

    batches: list[NDArray[np.float32]]
    kept: int
    padded: int
    plan: Plan
    pixels: int

    @property
    def one(self) -> dict[str, Any]:
        """Return the first tile as the model's input."""
        return {"tile": self.batches[0][:1]}


def take_tiles(model: Model, path: Path, most: int) -> Tiles:
    """Read up to `most` batches of the most frequent tile of the first part of a scene, as a map would."""
    halo = model.card.halo
    with Source(str(path), None, NODATA_OF_FILE, False).open(model.card, print) as scene:
        whole = Window(0, scene.height, 0, scene.width)
        plan = make_plan(model.card, model.size, scene, whole)
        strip = next(strips(whole, plan, halo, scene.height, scene.width)).output
        tiles = tiles_of_strip(strip, plan.tile)
        (height, width), _ = Counter((t.height, t.width) for t in tiles).most_common(1)[0]
        same = [t for t in tiles if (t.height, t.width) == (height, width)][: most * plan.batch]
        found = gather(model, scene, read_part(scene, strip, halo), same, plan.batch)
        batches = [batch.inputs for batch in found if batch.kept.size]
        padded = (height + 2 * halo) * (width + 2 * halo)
        return Tiles(batches, height * width, padded, plan, scene.height * scene.width)


def ceilings(device: str, threads: int, path: Path) -> dict[str, Ceiling]:
    """Measure what the machine can do at most, operations or bytes a second."""
    found = {precision: product_speed(precision, device, threads) for precision in PRECISIONS[device]}
    for number in sorted({1, 2, threads}):
        found[f"copy, {number} thread{'s'[: number > 1]}"] = copy_speed(number)
    if device == "cuda":
        found["copy, device"] = device_copy_speed()
    found["read, cached"] = read_speed(path)
    return found


def without_end(data: bytes, model: Model) -> float:
    """Return the operations for each pixel of a tile so large that its halo is nothing.

    A tile of side s takes a s^2 + b s + c; three sides give a.
    """
    first, second, third = (square(data, model, n * SMALL_SIDE).operations for n in (1, 2, 3))
    return (third - 2 * second + first) / (2 * SMALL_SIDE**2)


def square(data: bytes, model: Model, side: int) -> Count:
    """Count on a square tile of the training scene's mean spectrum."""
    padded = side + 2 * model.card.halo
    tile = np.empty((1, model.card.bands, padded, padded), np.float32)
    tile[:] = np.array(model.card.fill, np.float32)[:, None, None]
    return count(data, {"tile": tile}, providers(model.device), ["classes"])


def counted(data: bytes, model: Model, tiles: Tiles, speeds: dict[str, Ceiling]) -> dict[str, Any]:
    """Return what the file says of each kept pixel, halo included, and how long that must take.

    Raises
    ------
    ValueError
        Nothing measured is the rate of a precision that the file computes in.
    """
    found = count(data, tiles.one, providers(model.device), ["classes"])
    by_precision = found.by_precision()
    for precision in by_precision:
        if precision not in speeds or not speeds[precision].best:
            raise ValueError(f"'{model.path}' multiplies in {precision}, whose rate could not be measured here")
    seconds = sum(operations / speeds[precision].best for precision, operations in by_precision.items())
    least = (tiles.one["tile"].nbytes + model.size + tiles.kept) / tiles.kept
    return {
        "operations_per_pixel": {name: operations / tiles.kept for name, operations in by_precision.items()},
        "other_values_per_pixel": found.others / tiles.kept,
        "bytes_per_pixel_by_node": found.bytes / tiles.kept,
        "least_bytes_per_pixel": least,
        "padded_pixels_per_pixel": tiles.padded / tiles.kept,
        "halo_overhead": found.operations / tiles.kept / without_end(data, model),
        "floor_us_per_pixel": 1e6 * seconds / tiles.kept,
    }


def measured(model: Model, tiles: Tiles, path: Path) -> dict[str, float]:
    """Return the microseconds for each pixel of inference alone, and of the whole map from file to file."""
    kept = tiles.kept * sum(len(batch) for batch in tiles.batches)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "classes.tif"
        inference = seconds_of(lambda: [model.run(batch) for batch in tiles.batches])
        mapped = seconds_of(lambda: map_scene(model, path, out, overwrite=True))
    return {"inference_us_per_pixel": 1e6 * inference / kept, "map_us_per_pixel": 1e6 * mapped / tiles.pixels}


def seconds_of(run: Callable[[], object]) -> float:
    """Return the median seconds of several runs, after one that does not count."""
    times = []
    for number in range(REPEATS + 1):
        started = time.perf_counter()
        run()
        if number:
            times.append(time.perf_counter() - started)
    return median(times)


def top_nodes(data: bytes, model: Model, tiles: Tiles) -> tuple[list[dict[str, Any]], float | None]:
    """Return the nodes that take most, as ONNX Runtime runs them, and the GPU's busy share where it tells."""
    where = providers(model.device)
    shapes = total(read_events(record(data, tiles.one, where, ["classes"], packed=False)))
    known = {(node.name, node.operator): node.operations for node in shapes.nodes}
    entries = record(data, tiles.one, where, ["classes"], threads=model.threads, runs=PROFILED_RUNS)
    nodes = total(read_events(entries), shapes_known=False).nodes
    whole = sum(node.seconds for node in nodes)
    rows = [
        {
            "name": node.name,
            "operator": node.operator,
            "share": node.seconds / whole,
            "us_per_pixel": 1e6 * node.seconds / PROFILED_RUNS / tiles.kept,
            "gigaflops": PROFILED_RUNS * known.get((node.name, node.operator), 0) / max(node.seconds, 1e-9) / 1e9,
        }
        for node in sorted(nodes, key=lambda node: node.seconds, reverse=True)[:TOP]
    ]
    return rows, busy_share(entries)


def busy_share(entries: Sequence[dict[str, Any]]) -> float | None:
    """Return the share of the time in which any GPU kernel ran; None where the profile holds no kernels."""
    spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in entries if e.get("cat") == "Kernel")
    if not spans:
        return None
    busy, end = 0, spans[0][0]
    for start, stop in spans:
        busy, end = busy + max(0, stop - max(start, end)), max(end, stop)
    return float(busy / (end - spans[0][0]))


def measure(model_path: Path, scene: Path, device: Any, threads: int | None, most: int) -> dict[str, Any]:
    """Return all figures of one run."""
    model, data = Model.open(model_path, device, threads), read_model_bytes(model_path)
    tiles = take_tiles(model, scene, most)
    speeds = ceilings(model.device, model.threads, scene)
    figures = {**counted(data, model, tiles, speeds), **measured(model, tiles, scene)}
    floor = figures["floor_us_per_pixel"]
    nodes, busy = top_nodes(data, model, tiles)
    return {
        "model": str(model_path),
        "device": model.device,
        "threads": model.threads,
        "tile": tiles.plan.tile,
        "batch": tiles.plan.batch,
        "pixels": tiles.pixels,
        "ceilings": {name: speed._asdict() for name, speed in speeds.items()},
        **figures,
        "inference_over_floor": figures["inference_us_per_pixel"] / floor,
        "map_over_floor": figures["map_us_per_pixel"] / floor,
        "gpu_busy_share": busy,
        "nodes": nodes,
    }


def show(result: dict[str, Any]) -> None:
    """Print the tables for people, on stderr."""
    console = Console(stderr=True)
    table = Table("Ceiling", "Best", "Median of five", title=f"{result['device']}, {result['threads']} threads")
    for name, speed in result["ceilings"].items():
        unit = "GB/s" if "," in name else "Gop/s"
        cells = [f"{speed[key] / 1e9:,.1f} {unit}" for key in ("best", "median")]
        table.add_row(name, *(["none", speed["reason"]] if speed["reason"] else cells))
    console.print(table)
    table = Table("For each pixel of the map", "", title=f"tiles of {result['tile']}, batches of {result['batch']}")
    for precision, operations in result["operations_per_pixel"].items():
        table.add_row(f"operations in {precision}", f"{operations / 1e6:,.2f} M")
    table.add_row("values of other nodes", f"{result['other_values_per_pixel'] / 1e3:,.1f} k")
    table.add_row("bytes, all nodes", f"{result['bytes_per_pixel_by_node'] / 1e3:,.1f} kB")
    table.add_row("bytes, input, weights and map only", f"{result['least_bytes_per_pixel'] / 1e3:,.1f} kB")
    table.add_row("padded pixels", f"{result['padded_pixels_per_pixel']:.2f}")
    table.add_row("operations over those without a halo", f"{result['halo_overhead']:.2f}")
    table.add_row("floor", f"{result['floor_us_per_pixel']:,.1f} us")
    for name in ("inference", "map"):
        ratio = result[f"{name}_over_floor"]
        table.add_row(name, f"{result[f'{name}_us_per_pixel']:,.1f} us = {ratio:.2f} floors")
    if result["device"] == "cuda":
        busy = result["gpu_busy_share"]
        table.add_row("GPU busy", "this ONNX Runtime does not record it" if busy is None else f"{busy:.0%}")
    console.print(table)
    table = Table("Node", "Operator", "Share", "us a pixel", "Gop/s", title="What takes most")
    for node in result["nodes"]:
        cells = [f"{node['share']:.1%}", f"{node['us_per_pixel']:,.1f}", f"{node['gigaflops']:,.1f}"]
        table.add_row(node["name"], node["operator"], *cells)
    console.print(table)


def main() -> None:
    """Measure, print the tables, and JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("model.onnx"))
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--scene", type=Path, help="a raster to map")
    source.add_argument("--dataset", default="indian-pines", help="a benchmark scene, written as a GeoTIFF first")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; all by default")
    parser.add_argument("--batches", type=int, default=4, help="batches of tiles that inference alone is measured on")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scene = options.scene
        if scene is None:
            scene = Path(folder) / "scene.tif"
            datasets.load(options.dataset).write(scene)
        result = measure(options.model, scene, options.device, options.threads, options.batches)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))
    show(result)


if __name__ == "__main__":
    main()
