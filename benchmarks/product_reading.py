"""Read products as delivered as `sdiff map` does, and compare that with reading the file from end to end.

Each product is written anew with the layout of the provider's files (tiles, chunks, compression), with values that
compress about as reflectances do. One pass reads it strip by strip, as mapping does: the good bands, in memory for
mapping. The other reads all values with plain GDAL or h5py, in whole blocks of the file. Both passes alternate, each in
one thread, and the file is in the system's cache: processor time is counted, which is what a pass takes on an idle
machine. The first pass of each is not counted: its memory comes from the system, as that of the first strips of a map
does; all later strips use it again. Where values are physical ones by a scale of each file (PRISMA), both passes give
these, as float32; the rate of reading its numbers alone is printed, too. A product's line says

- MB of stored values for each second of processor time, of both, and their ratio;
- bytes that were read from the file for each byte of the file.

    python -m benchmarks.product_reading --rows 600 --columns 500 --bands 200
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
# That of a small model, beside which reading counts: strips are whole blocks.
WORKSPACE = 2048.0
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


def _within(name: str, chunk: tuple[int, int, int], rows: int, columns: int, bands: int) -> tuple[int, int, int]:
    size = (bands, rows, columns) if name in ("tanager", "aviris-3") else (rows, columns, bands)
    first, second, third = (min(pair) for pair in zip(chunk, size, strict=True))
    return first, second, third


def plan_of(scene: Any) -> Plan:
    """Return the plan of a map by a small model of the scene's bands, with the usual memory."""
    bands = len(scene.bands)
    card = replace(CARD, bands=bands, halo=HALO, fill=(0.0,) * bands, wavelengths=None, workspace=WORKSPACE)
    return make_plan(card, 1 << 20, scene, Window(0, scene.height, 0, scene.width))


class MappingPasses:
    """Passes of reading as mapping does; each opens the file anew and takes the memory of the one before."""

    def __init__(self, path: Path) -> None:
        self._path, self._buffers = path, StripReader(None)._free  # type: ignore[arg-type]

    @contextmanager
    def opened(self) -> Iterator[Callable[[], int]]:
        """Open the file; yield what reads the good bands strip by strip, and returns the bytes of stored values."""
        with open_scene(self._path) as scene, rasterio.Env(GDAL_CACHEMAX=CACHE):
            reader, stats, plan = StripReader(scene), StageStats("read"), plan_of(scene)
            reader._free = self._buffers

            def read() -> int:
                for strip in strips(Window(0, scene.height, 0, scene.width), plan, HALO, scene.height, scene.width):
                    reader.read(strip, stats).release()
                return int(scene.height * scene.width * len(scene.bands) * scene._stored.itemsize)

            yield read
            if reader._left is not None:
                reader._left.release()


def reading_plainly(path: Path, scene: Any, *, scaled: bool) -> Callable[[], int]:
    """Return what reads all values in the order of the file's blocks, and returns their bytes."""
    if not isinstance(scene, Hdf5Scene):
        return lambda: _read_raster(path)
    layout = scene.layout
    ends = np.cumsum([len(cube.places) for cube in layout.cubes])[:-1]
    factors = list(zip(np.split(layout.scales, ends), np.split(layout.offsets, ends), strict=True))
    return lambda: _read_hdf5(path, [cube.name for cube in layout.cubes], factors if scaled else [])


def _read_hdf5(path: Path, names: list[str], factors: list[tuple[Any, Any]]) -> int:
    """Read data sets, and scale them where there are factors: those of PRISMA have rows, bands and columns."""
    with h5py.File(path) as file:
        done = 0
        for i, name in enumerate(names):
            data = file[name]
            per_row = data.size // data.shape[0] * data.dtype.itemsize
            step = max(PART // 8 // per_row, 1)
            if data.chunks is not None:
                step = max(step // data.chunks[0], 1) * data.chunks[0]
            for row in range(0, data.shape[0], step):
                values = data[row : row + step]
                done += values.nbytes
                if factors:
                    scale, offset = (some.astype(np.float32)[None, :, None] for some in factors[i])
                    values = values * scale + offset
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


def measured(work: Callable[[], int]) -> tuple[float, float]:
    """Return MB of values for each second of processor time, and bytes read from the file."""
    before, start = bytes_from_files(), time.process_time()
    done = work()
    return done / 1e6 / (time.process_time() - start), bytes_from_files() - before


def compare(path: Path, passes: int) -> dict[str, float]:
    """Return the medians of alternating passes."""
    mapping, found = MappingPasses(path), []
    with open_scene(path) as scene:
        plain, stored = (reading_plainly(path, scene, scaled=scaled) for scaled in (scene.scaled, False))
        alone = [measured(stored)[0] for _ in range(passes)] if scene.scaled else []
    for _ in range(passes + 1):
        with mapping.opened() as ours:
            found.append((measured(ours), measured(plain)))
    found = found[1:]
    size, medians = path.stat().st_size, [median(pair[i][0] for pair in found) for i in (0, 1)]
    return {
        "file_mb": size / 1e6, "mb_per_s": medians[0], "plain_mb_per_s": medians[1],
        "ratio": median(pair[0][0] / pair[1][0] for pair in found),
        "bytes_read_per_byte": found[0][0][1] / size, "plain_bytes_read_per_byte": found[0][1][1] / size,
        **({"stored_mb_per_s": median(alone)} if alone else {}),
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
    for name, line in found.items():
        if "stored_mb_per_s" in line:
            print(f"{name}: its stored numbers alone are read at {line['stored_mb_per_s']:.0f} MB/s")


if __name__ == "__main__":
    main()
