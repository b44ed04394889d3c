"""Read products as delivered as `sdiff map` does, and compare that with reading the file from end to end.

Each product is written anew with the layout of the provider's files (tiles, chunks, compression), with values that
compress about as reflectances do. One pass reads it strip by strip, as mapping does: the good bands, in memory for
mapping. The other reads all values with plain GDAL or h5py, in whole blocks of the file. Both passes alternate, each in
one thread, and the file is in the system's cache: processor time is counted, which is what a pass takes on an idle
machine. A product's line says

- MB of values for each second of processor time, of both, and their ratio;
- bytes that were read from the file for each byte of the file.

    python -m benchmarks.product_reading --rows 600 --columns 500 --bands 200
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np
import rasterio
from rasterio.windows import Window as RasterioWindow
from rich.console import Console
from rich.table import Table

from spectraldiff_runtime.gdal import quiet_gdal
from spectraldiff_runtime.mapping.pipeline import StageStats
from spectraldiff_runtime.mapping.strip_reader import StripReader
from spectraldiff_runtime.products.hdf5_scene import Hdf5Scene
from spectraldiff_runtime.products.recognise import open_scene
from spectraldiff_runtime.tiling.memory_plan import make_plan
from spectraldiff_runtime.tiling.plan import Plan, strips
from spectraldiff_runtime.window import Window
from tests.runtime.products import builders
from tests.tiny_model import CARD

HALO, PART, CACHE = 8, 128 * 2**20, 64 * 2**20
# Chunks as the providers write them (rows, columns, bands; bands first for the last two).
CHUNKS = {"emit": (256, 249, 57), "neon": (336, 39, 14), "tanager": (16, 128, 128), "aviris-3": (16, 128, 128)}


def size_builders(rows: int, columns: int, bands: int) -> None:
    """Have the products written in a realistic size."""
    builders.HEIGHT, builders.WIDTH, builders.EMIT_SIZE = rows, columns, (rows, columns)
    builders.WAVES = np.linspace(400, 2450, bands)
    builders.VNIR = np.concatenate([[0.0], np.linspace(970, 402, bands // 4 - 1)])
    builders.SWIR = np.concatenate([[0.0], np.linspace(2490, 943, bands - bands // 4 - 1)])
    builders.CHUNKS = {name: _within(name, chunk, rows, columns, bands) for name, chunk in CHUNKS.items()}
    builders.TILE = 512


def _within(name: str, chunk: tuple[int, int, int], rows: int, columns: int, bands: int) -> tuple[int, ...]:
    size = (bands, rows, columns) if name in ("tanager", "aviris-3") else (rows, columns, bands)
    return tuple(min(pair) for pair in zip(chunk, size, strict=True))


def plan_of(scene: Any) -> Plan:
    """Return the plan of a map by a model of the scene's bands, with the usual memory."""
    bands = len(scene.bands)
    card = replace(CARD, bands=bands, halo=HALO, fill=(0.0,) * bands, wavelengths=None)
    return make_plan(card, 1 << 20, scene, Window(0, scene.height, 0, scene.width))


def read_as_mapping(path: Path) -> int:
    """Read the good bands strip by strip; return the bytes of values."""
    with open_scene(path) as scene, rasterio.Env(GDAL_CACHEMAX=CACHE):
        reader, stats, plan = StripReader(scene), StageStats("read"), plan_of(scene)
        for strip in strips(Window(0, scene.height, 0, scene.width), plan, HALO, scene.height, scene.width):
            reader.read(strip, stats).release()
        return scene.height * scene.width * len(scene.bands) * scene._stored.itemsize


def read_plainly(path: Path) -> int:
    """Read all values in the order of the file's blocks; return their bytes."""
    with open_scene(path, "all") as scene:
        cubes = [cube.name for cube in scene.layout.cubes] if isinstance(scene, Hdf5Scene) else []
    return _read_hdf5(path, cubes) if cubes else _read_raster(path)


def _read_hdf5(path: Path, names: list[str]) -> int:
    with h5py.File(path) as file:
        done = 0
        for name in names:
            data = file[name]
            per_row = data.size // data.shape[0] * data.dtype.itemsize
            step = max(PART // 8 // per_row, 1)
            if data.chunks is not None:
                step = max(step // data.chunks[0], 1) * data.chunks[0]
            for row in range(0, data.shape[0], step):
                done += data[row : row + step].nbytes
    return done


def _read_raster(path: Path) -> int:
    with quiet_gdal(), rasterio.Env(GDAL_CACHEMAX=CACHE), rasterio.open(path) as file:
        height, done = file.block_shapes[0][0], 0
        if file.driver == "ENVI":
            height = max(PART // 8 // (file.width * file.count * 4), 1)
        for row in range(0, file.height, height):
            done += file.read(window=RasterioWindow(0, row, file.width, min(height, file.height - row))).nbytes
    return done


def bytes_from_files() -> int:
    """Return how many bytes this process has read so far, by the system's count."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["rchar"])


def measured(work: Callable[[Path], int], path: Path) -> tuple[float, float]:
    """Return MB of values for each second of processor time, and bytes read from the file."""
    before, start = bytes_from_files(), time.process_time()
    done = work(path)
    return done / 1e6 / (time.process_time() - start), bytes_from_files() - before


def compare(path: Path, passes: int) -> dict[str, float]:
    """Return the medians of alternating passes."""
    pairs = [(measured(read_as_mapping, path), measured(read_plainly, path)) for _ in range(passes + 1)][1:]
    ours, plain = (median(pair[i][0] for pair in pairs) for i in (0, 1))
    ratio = median(pair[0][0] / pair[1][0] for pair in pairs)
    size = path.stat().st_size
    return {
        "file_mb": size / 1e6, "mb_per_s": ours, "plain_mb_per_s": plain, "ratio": ratio,
        "bytes_read_per_byte": pairs[0][0][1] / size, "plain_bytes_read_per_byte": pairs[0][1][1] / size,
    }  # fmt: skip


def main() -> None:
    """Run the benchmark and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--columns", type=int, default=500)
    parser.add_argument("--bands", type=int, default=200)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--products", nargs="+", choices=builders.ALL, default=list(builders.ALL))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    size_builders(options.rows, options.columns, options.bands)
    found = {}
    for name in options.products:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = compare(builders.ALL[name](Path(folder)).path, options.passes)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    table = Table("Product", "File MB", "MB/s", "Plain MB/s", "Ratio", "Bytes read per byte", "Plain", box=None)
    for name, line in found.items():
        values = [f"{line['file_mb']:.0f}", f"{line['mb_per_s']:.0f}", f"{line['plain_mb_per_s']:.0f}"]
        rest = ("ratio", "bytes_read_per_byte", "plain_bytes_read_per_byte")
        table.add_row(name, *values, *(f"{line[key]:.2f}" for key in rest))
    Console().print(table)


if __name__ == "__main__":
    main()
