"""Compare the time of a map with its floor, the least time that this machine's limits allow.

The machine's ceilings are measured first: matrix products of each precision through ONNX Runtime, copies in memory,
reading a file. The operations of the model file are counted node by node on the tiles of a map of this scene, including
the halo. Divided by the rate of matrix products of their precision, measured directly before and after, they give the
floor of inference alone and of the whole map, file to file. There are five rounds; the ratios are medians. The bytes
that the nodes read and write, as ONNX Runtime fuses them, give another floor at the rate of a copy in the device's
memory; caches can be faster. At the end the ten slowest nodes are listed.

    python -m benchmarks.roofline --model demo/model.onnx --dataset indian-pines

On a GPU, synthetic scenes with the model's bands are mapped too: one of the size of the Houston scene from file to
file, and one of 1,024 x 1,024 pixels for the utilisation of the GPU. Presets are measured without a training, with
model files with random weights and 144 bands, in fp32 and in fp16:

    python -m benchmarks.roofline --device cuda --preset fast --preset paper --json gpu.json
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.roofline import synthetic
from benchmarks.roofline.ceilings import PRECISIONS, Ceiling, copy_speed, device_copy_speed, product_speed, read_speed
from benchmarks.roofline.operations import Count, count, read_events, record, total
from benchmarks.roofline.tables import show
from benchmarks.roofline.whole_maps import busy_share, map_made, watch
from spectraldiff.datasets import registry
from spectraldiff.models.presets import PRESETS
from spectraldiff_runtime import Model, map_scene
from spectraldiff_runtime.mapping.pipeline import map_concurrently
from spectraldiff_runtime.mapping.request import SourceOptions, gpu_budget
from spectraldiff_runtime.mapping.stages import gather, read_padded
from spectraldiff_runtime.model.model_file import read_card, read_model_bytes
from spectraldiff_runtime.model.session import cuda_provider
from spectraldiff_runtime.scene.nodata import NODATA_OF_FILE
from spectraldiff_runtime.tiling.memory_plan import make_plan
from spectraldiff_runtime.tiling.plan import Plan, largest_tile, strips, tiles_of_strip
from spectraldiff_runtime.window import Window

REPEATS = 5
# The quantities of each round of `measured`.
ROUND = ("floor_us_per_pixel", "inference_us_per_pixel", "inference_over_floor", "map_us_per_pixel", "map_over_floor")
TOP = 10
# Sides of tiles from which the operations of an infinite tile follow: they are quadratic in the side.
SMALL_SIDE = 16
# Runs of the profile: few, since each node of each turn of a loop is written down.
PROFILED_RUNS = 3
# Rows and columns of the scenes that are made: the one that is mapped from file to file, and the one for the GPU's use.
MAPPED, WATCHED = (synthetic.HEIGHT, synthetic.WIDTH), (1024, 1024)
# That of the scene that tiles are taken from on the CPU, where none is named.
SMALL_SCENE = (145, 145)


@dataclass(frozen=True)
class Tiles:
    """Real tiles of a scene, ready for the model.

    Attributes
    ----------
    batches
        (N, B, h + 2 halo, w + 2 halo) float32 each.
    kept
        Output pixels of one tile.
    padded
        Pixels of one tile with its halo.
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
    """Read up to `most` batches of the most frequent tile of the first strip of a scene, as a map does."""
    halo = model.card.halo
    with SourceOptions(None, NODATA_OF_FILE, False).open_raster(path, model.card, print) as scene:
        whole = Window(0, scene.height, 0, scene.width)
        plan = make_plan(model.card, 2 * model.size, scene, whole, gpu=gpu_budget(model))
        strip = next(strips(whole, plan, halo, scene.height, scene.width)).output
        tiles = tiles_of_strip(strip, plan.tile, plan.tile_columns)
        (height, width), _ = Counter((t.height, t.width) for t in tiles).most_common(1)[0]
        same = [t for t in tiles if (t.height, t.width) == (height, width)][: most * plan.batch]
        filled = None if model.gpu is None else largest_tile(whole, plan, halo, scene.height, scene.width)
        found = gather(model, scene, read_padded(scene, strip, halo), same, plan.batch, None, filled)
        batches = [batch.inputs for batch in found if batch.kept.size]
        padded = batches[0].shape[2] * batches[0].shape[3]
        return Tiles(batches, height * width, padded, plan, scene.height * scene.width)


def providers_of(model: Model) -> list[Any]:
    """Return the execution providers of ONNX Runtime for this model."""
    if model.gpu is None:
        return ["CPUExecutionProvider"]
    return [cuda_provider(model.gpu, model.card.precision == "fp16"), "CPUExecutionProvider"]


def ceilings(device: str, threads: int, path: Path) -> dict[str, Ceiling]:
    """Measure the limits of the machine, in operations or bytes per second."""
    found = {precision: product_speed(precision, device, threads) for precision in PRECISIONS[device]}
    for number in sorted({1, 2, threads}):
        found[copy_of(number)] = copy_speed(number)
    if device == "cuda":
        found["copy, device"] = device_copy_speed()
    found["read, cached"] = read_speed(path)
    return found


def copy_of(threads: int) -> str:
    """Return the name of the ceiling of copies in the host's memory."""
    return f"copy, {threads} thread{'s'[: threads > 1]}"


def without_end(data: bytes, model: Model) -> float:
    """Return the operations per pixel of a tile so large that its halo is negligible.

    A tile of side s takes a s^2 + b s + c; three sides give a.
    """
    first, second, third = (square(data, model, n * SMALL_SIDE).operations for n in (1, 2, 3))
    return (third - 2 * second + first) / (2 * SMALL_SIDE**2)


def square(data: bytes, model: Model, side: int) -> Count:
    """Count on a square tile of the training scene's mean spectrum."""
    padded = side + 2 * model.card.halo
    tile = np.empty((1, model.card.bands, padded, padded), np.float32)
    tile[:] = np.array(model.card.fill, np.float32)[:, None, None]
    return count(data, {"tile": tile}, providers_of(model), ["classes"])


def counted(data: bytes, model: Model, tiles: Tiles, speeds: dict[str, Ceiling]) -> dict[str, Any]:
    """Return operations and bytes per output pixel, including the halo.

    Raises
    ------
    ValueError
        The rate of a precision of the file was not measured.
    """
    found = count(data, tiles.one, providers_of(model), ["classes"])
    by_precision = found.by_precision()
    for precision in by_precision:
        if precision not in speeds or not speeds[precision].best:
            raise ValueError(f"'{model.path}' multiplies in {precision}, whose rate could not be measured here")
    least = (tiles.one["tile"].nbytes + model.size + tiles.kept) / tiles.kept
    return {
        "operations_per_pixel": {name: operations / tiles.kept for name, operations in by_precision.items()},
        "other_values_per_pixel": found.others / tiles.kept,
        "bytes_per_pixel_by_node": found.bytes / tiles.kept,
        "least_bytes_per_pixel": least,
        "padded_pixels_per_pixel": tiles.padded / tiles.kept,
        "halo_overhead": found.operations / tiles.kept / without_end(data, model),
    }


def measured(
    model: Model, tiles: Tiles, path: Path, device: str, operations: dict[str, float]
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Measure the floor, inference alone and the whole map from file to file, next to each other, in rounds.

    The speed of a shared machine changes within minutes. Therefore the rates of matrix products are measured again
    before and after each quantity that is compared with them; the better of the two gives its floor.

    Parameters
    ----------
    operations
        For each pixel, by precision.

    Returns
    -------
    tuple
        Medians over `REPEATS` rounds after a warm-up round, in microseconds per pixel; medians of the ratios within a
        round; and the rounds.
    """
    kept, rounds = tiles.kept * sum(len(batch) for batch in tiles.batches), []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "classes.tif"
        for number in range(REPEATS + 1):
            first = floor_of(operations, device, model.threads)
            inference = 1e6 * seconds_of(lambda: list(map_concurrently(model.run, tiles.batches, model.runs))) / kept
            second = floor_of(operations, device, model.threads)
            mapped = 1e6 * seconds_of(lambda: map_scene(model, path, out, overwrite=True)) / tiles.pixels
            third = floor_of(operations, device, model.threads)
            if number:
                values = (min(first, second, third), inference, inference / min(first, second))
                rounds.append(dict(zip(ROUND, (*values, mapped, mapped / min(second, third)), strict=True)))
    return {name: median(values[name] for values in rounds) for name in ROUND}, rounds


def floor_of(operations: dict[str, float], device: str, threads: int) -> float:
    """Return the microseconds of a pixel's operations at the current rates of matrix products."""
    return sum(1e6 * number / product_speed(name, device, threads).best for name, number in operations.items())


def seconds_of(run: Callable[[], object]) -> float:
    """Return the seconds of one run."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def top_nodes(data: bytes, model: Model, tiles: Tiles) -> tuple[list[dict[str, Any]], int]:
    """Return the slowest nodes, and the bytes that all executed nodes read and write for a tile.

    On a GPU, the time is that of launching a node's kernels.
    """
    where = providers_of(model)
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
    return rows, shapes.bytes


def equal_classes(model: Model, tiles: Tiles) -> float | None:
    """Return the share of a tile's pixels with the same class as on the CPU; None on the CPU itself."""
    if model.gpu is None:
        return None
    tile = tiles.batches[0][:1]
    return float((model.run(tile).classes == Model.open(model.path, "cpu").run(tile).classes).mean())


@dataclass(frozen=True)
class Made:
    """Synthetic scenes to map: their rows and columns, None for none; and their folder."""

    folder: Path
    mapped: tuple[int, int] | None
    watched: tuple[int, int] | None


def measure_made(model: Model, tiles: Tiles, scenes: Made) -> dict[str, Any]:
    """Return the figures of whole maps of synthetic scenes, see `benchmarks.roofline.whole_maps`."""
    found: dict[str, Any] = {"mapped": None, "watched": None, "inference_alone": None, "gpu_busy_share": None}
    if scenes.mapped is not None:
        found["mapped"] = map_made(model, scenes.folder, *scenes.mapped)
    if scenes.watched is not None:
        found["watched"] = map_made(model, scenes.folder, *scenes.watched)
        found["inference_alone"] = watch(model, tiles.batches, tiles.kept)
        found["gpu_busy_share"] = busy_share(found["watched"], found["inference_alone"])
    return found


def measure(
    model_path: Path, scene: Path, device: Any, threads: int | None, most: int, scenes: Made | None = None
) -> dict[str, Any]:
    """Return all figures of one run."""
    model, data = Model.open(model_path, device, threads), read_model_bytes(model_path)
    tiles, kind = take_tiles(model, scene, most), "cpu" if model.gpu is None else "cuda"
    speeds = ceilings(kind, model.threads, scene)
    figures = counted(data, model, tiles, speeds)
    medians, rounds = measured(model, tiles, scene, kind, figures["operations_per_pixel"])
    nodes, size = top_nodes(data, model, tiles)
    copy = speeds["copy, device" if kind == "cuda" else copy_of(model.threads)].best
    bytes_floor = 1e6 * size / tiles.kept / copy
    return {
        "model": str(model_path),
        "preset": model.card.preset,
        "precision": model.card.precision,
        "device": model.device,
        "threads": model.threads,
        "tile": tiles.plan.tile,
        "batch": tiles.plan.batch,
        "pixels": tiles.pixels,
        "ceilings": {name: speed._asdict() for name, speed in speeds.items()},
        **figures,
        **medians,
        "rounds": rounds,
        "bytes_floor_us_per_pixel": bytes_floor,
        "inference_over_larger_floor": min(
            medians["inference_over_floor"], medians["inference_us_per_pixel"] / bytes_floor
        ),
        "equal_classes": equal_classes(model, tiles),
        "nodes": nodes,
        **({} if scenes is None else measure_made(model, tiles, scenes)),
    }


def scene_of(options: argparse.Namespace, model: Path, folder: Path) -> Path:
    """Return the scene for tiles: the user's, a benchmark scene, or a synthetic one with the model's bands."""
    if options.scene is not None:
        return Path(options.scene)
    card, path = read_card(model), folder / f"{model.stem}.tif"
    if options.dataset is not None:
        registry.load(options.dataset).write(path)
    else:
        synthetic.write_scene(card, path, *(SMALL_SCENE if options.device == "cpu" else MAPPED))
    return path


def models_of(options: argparse.Namespace, folder: Path) -> list[Path]:
    """Return the given model files, and those made from presets."""
    precisions = ["fp32"] if options.device == "cpu" else ["fp32", "fp16"]
    found: list[Path] = list(options.model)
    for name in options.preset:
        found += synthetic.write_models(PRESETS[name], folder, precisions)
    return found or [Path("model.onnx")]


def main() -> None:
    """Measure, print the tables, and write JSON if requested: a list with an entry for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, action="append", default=[], help="a model file; repeatable")
    parser.add_argument(
        "--preset", choices=list(PRESETS), action="append", default=[], help="random weights instead; repeatable"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--scene", type=Path, help="a raster to map; one is made by default")
    source.add_argument("--dataset", help="a benchmark scene instead, written as a GeoTIFF first")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; all by default")
    parser.add_argument("--batches", type=int, default=4, help="batches of tiles that inference alone is measured on")
    for name, what in (("--mapped", "from file to file"), ("--watched", "to see how busy the GPU is")):
        size = f"{' x '.join(map(str, MAPPED if name == '--mapped' else WATCHED))} on cuda, none on cpu"
        text = f"make a scene of this size and map it {what}; by default {size}"
        parser.add_argument(name, type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help=text)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    if options.device == "cuda":
        options.mapped, options.watched = options.mapped or MAPPED, options.watched or WATCHED
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenes = Made(folder, options.mapped, options.watched)
        for model in models_of(options, folder):
            scene = scene_of(options, model, folder)
            results.append(measure(model, scene, options.device, options.threads, options.batches, scenes))
            show(results[-1])
            if options.json:  # what has been measured is kept, also when the next model fails
                options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
