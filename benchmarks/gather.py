"""Compare the kernel that gathers tiles with a plain copy of the same number of bytes.

Each pass gathers all tiles of a scene that is larger than any cache. It then copies the same number of bytes, tile by
tile, from an array of that size to a buffer, with the same number of threads. Bytes count both when read and when
written. The result is the ratio of the two speeds over alternating passes.

    python -m benchmarks.gather --threads 1 2
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from spectraldiff_runtime.tiling.gather import gather_tiles, limit_threads
from spectraldiff_runtime.window import Window, tiles_of

# The axes (band, row, column) in their order in memory. Strips of files are held as BIL.
ORDERS = {"BSQ": (0, 1, 2), "BIL": (1, 0, 2), "BIP": (1, 2, 0)}
DTYPES = ("uint16", "float32")


def make_scene(bands: int, side: int, order: str, dtype: str) -> NDArray[Any]:
    """Return a scene (B, H, W) of random values with the memory order `order`."""
    axes = ORDERS[order]
    shape = tuple((bands, side, side)[axis] for axis in axes)
    values = np.random.default_rng(0).integers(1, 10_000, shape, np.uint16).astype(dtype)
    return values.transpose(np.argsort(axes))


def inner_tiles(side: int, tile: int, halo: int) -> list[Window]:
    """Return the tiles of a scene that need no mirrored pixels."""
    inner = Window(halo, side - halo, halo, side - halo)
    return [w for w in tiles_of(inner, tile) if (w.height, w.width) == (tile, tile)]


def gather_all(scene: NDArray[Any], tiles: list[Window], halo: int, nodata: float | None) -> None:
    """Gather tile after tile."""
    fill = np.zeros(scene.shape[0], np.float32)
    for tile in tiles:
        gather_tiles(scene, (0, 0), (scene.shape[1], scene.shape[2]), [tile], halo, fill, nodata)


def copy_all(source: NDArray[np.uint8], chunks: int, threads: int, pool: ThreadPoolExecutor) -> None:
    """Copy the source in chunks to one buffer, each chunk with all threads."""
    size = source.size // chunks
    buffer = np.empty(size, np.uint8)
    edges = np.linspace(0, size, threads + 1).astype(int)
    for at in range(0, chunks * size, size):
        parts = [(buffer[a:b], source[at + a : at + b]) for a, b in pairwise(edges)]
        if threads == 1:
            np.copyto(*parts[0])
        else:
            list(pool.map(lambda part: np.copyto(*part), parts))


def alternate(first: Callable[[], None], second: Callable[[], None], repeats: int) -> Iterator[tuple[float, float]]:
    """Yield the seconds of both functions, run alternately, after one warm-up pass."""
    for number in range(repeats + 1):
        started = time.perf_counter()
        first()
        between = time.perf_counter()
        second()
        if number:
            yield between - started, time.perf_counter() - between


def measure(
    scene: NDArray[Any], tile: int, halo: int, threads: int, nodata: float | None, repeats: int
) -> dict[str, float]:
    """Return the medians of the gigabytes per second of gather and copy, and of their ratio."""
    tiles = inner_tiles(scene.shape[1], tile, halo)
    values = scene.shape[0] * (tile + 2 * halo) ** 2 * len(tiles)
    moved = values * (scene.dtype.itemsize + 4)
    source = np.ones(moved // 2, np.uint8)
    limit_threads(threads)
    with ThreadPoolExecutor(threads) as pool:
        gather = partial(gather_all, scene, tiles, halo, nodata)
        copy = partial(copy_all, source, len(tiles), threads, pool)
        times = list(alternate(gather, copy, repeats))
    speeds = {"gather": median(moved / g for g, _ in times), "copy": median(moved / c for _, c in times)}
    return {**{name: speed / 1e9 for name, speed in speeds.items()}, "ratio": median(c / g for g, c in times)}


def main() -> None:
    """Measure every order, type and number of threads; print a table, and write JSON if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bands", type=int, default=200)
    parser.add_argument("--side", type=int, default=512, help="rows and columns of the scene")
    parser.add_argument("--tile", type=int, default=128)
    parser.add_argument("--halo", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--nodata", type=float, help="compare each value with this one")
    parser.add_argument("--repeats", type=int, default=5, help="the median is reported")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    rows, table = [], Table("Order", "Type", "Threads", "Gather GB/s", "Copy GB/s", "Ratio")
    for order, dtype in product(ORDERS, DTYPES):
        scene = make_scene(options.bands, options.side, order, dtype)
        for threads in options.threads:
            found = measure(scene, options.tile, options.halo, threads, options.nodata, options.repeats)
            rows.append({"order": order, "dtype": dtype, "threads": threads, **found})
            table.add_row(order, dtype, str(threads), *(f"{value:.2f}" for value in found.values()))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))
    Console().print(table)


if __name__ == "__main__":
    main()
