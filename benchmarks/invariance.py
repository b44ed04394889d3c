"""Map one scene in many variants and count the pixels whose class differs: none should.

Tile sizes, batch sizes and numbers of threads are combined, including the whole scene as one tile. Then the scene is
stored with other layouts and data types, mapped in pieces by bounds, and mapped by Dask workers, one of which is killed
half-way.

    python -m benchmarks.invariance --model demo/model.onnx
    python -m benchmarks.invariance --model model.onnx --scene scene.tif --bands 1-130,135-224
"""

import argparse
import json
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from benchmarks.whole_scene import LAYOUTS
from spectraldiff.data.scene import LabelledScene
from spectraldiff.datasets import registry
from spectraldiff_runtime import MapResult, Model, map_scene
from spectraldiff_runtime.cli.options import parse_bands
from spectraldiff_runtime.mapping.dask_cluster import ClusterOptions

TILES, BATCHES, THREADS = (32, 48, 64, 96), (1, 3, 8), (1, 2)
DTYPES = ("int16", "uint16", "float32")
WORKERS = (1, 4)
# Small enough that a worker dies during the map.
KILLED_TILE = 16
# Enough memory for eight of the largest tiles at once.
MEMORY = 12 * 10**9

Way = tuple[str, NDArray[np.uint8], NDArray[np.float32]]


def arrays(name: str, found: MapResult) -> Way:
    """Return the name of a variant with its classes and confidences."""
    assert found.classes is not None
    assert found.confidence is not None
    return name, found.classes, found.confidence


def by_tiles(models: dict[int, Model], scene: LabelledScene) -> Iterator[Way]:
    """Map the array with every tile size, batch and number of threads."""
    whole = max(scene.labels.shape)
    ways = [*product(TILES, BATCHES, THREADS), *((whole, 1, threads) for threads in THREADS)]
    for tile, batch, threads in ways:
        found = map_scene(models[threads], scene.cube, tile=tile, batch=batch, confidence=True, max_memory=MEMORY)
        yield arrays(f"tile {tile}, batch {batch}, threads {threads}", found)


def write(scene: LabelledScene, path: Path, layout: str, dtype: str) -> Path:
    """Write the scene with a layout and a data type."""
    path = path / f"{layout}-{dtype}.{'img' if 'driver' in LAYOUTS[layout] else 'tif'}"
    height, width, bands = scene.cube.shape
    assert scene.transform is not None
    profile = {"driver": "GTiff", **LAYOUTS[layout], "crs": scene.crs, "transform": rasterio.Affine(*scene.transform)}
    if "blockxsize" in profile:
        profile |= {"blockxsize": 64, "blockysize": 64}
    with rasterio.open(path, "w", height=height, width=width, count=bands, dtype=dtype, **profile) as dataset:
        dataset.write(scene.cube.transpose(2, 0, 1).astype(dtype))
    return path


def by_files(model: Model, scene: LabelledScene, folder: Path) -> Iterator[Way]:
    """Map the scene from files of every layout and type."""
    for layout, dtype in product(LAYOUTS, DTYPES):
        path = write(scene, folder, layout, dtype)
        yield arrays(f"{layout} {dtype}", map_scene(model, path, confidence=True))
        path.unlink()


def by_bounds(model: Model, path: Path) -> Way:
    """Map nine pieces by their bounds and merge them."""
    with rasterio.open(path) as dataset:
        (height, width), transform = dataset.shape, dataset.transform
    classes, confidence = np.zeros((height, width), np.uint8), np.zeros((height, width), np.float32)
    rows, cols = ([0, size // 3, size // 2 + 7, size] for size in (height, width))
    for r0, r1 in pairwise(rows):
        for c0, c1 in pairwise(cols):
            west, north = transform.c + transform.a * c0, transform.f + transform.e * r0
            east, south = transform.c + transform.a * c1, transform.f + transform.e * r1
            found = map_scene(model, path, bounds=(west, south, east, north), confidence=True)
            assert found.classes is not None
            assert found.confidence is not None
            classes[r0:r1, c0:c1] += found.classes
            confidence[r0:r1, c0:c1] += found.confidence
    return "nine bounds", classes, confidence


def by_workers(model: Model, path: Path) -> Iterator[Way]:
    """Map with Dask workers; in the last map, of many small windows, one is killed after the first window."""
    for workers in WORKERS:
        cluster = ClusterOptions(None, workers, 1)
        yield arrays(f"{workers} Dask workers", map_scene(model, path, confidence=True, cluster=cluster))
    killed: list[int] = []

    def kill(pixels: int) -> None:
        if not killed and pixels:
            killed.append(worker_processes()[0])
            os.kill(killed[0], signal.SIGKILL)

    found = map_scene(model, path, confidence=True, tile=KILLED_TILE, cluster=ClusterOptions(None, 4, 1), progress=kill)
    assert killed
    yield arrays("4 Dask workers, one killed", found)


def worker_processes() -> list[int]:
    """Return the process IDs of this process's Dask workers: the computing children of its nannies."""
    import psutil

    children = [c for c in psutil.Process().children(recursive=True) if c.status() != psutil.STATUS_ZOMBIE]
    return [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]


def measure(model_path: Path, scene: LabelledScene) -> dict[str, Any]:
    """Return for each variant the differing pixels and the largest difference of confidence from the first one."""
    models = {threads: Model.open(model_path, "cpu", threads) for threads in THREADS}
    found: list[dict[str, Any]] = []
    first: Way | None = None
    with tempfile.TemporaryDirectory() as name, Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("Mapping", total=None)
        for way in every_way(models, scene, Path(name)):
            first = first or way
            label, classes, confidence = way
            found.append({
                "way": label,
                "differing_pixels": int((classes != first[1]).sum()),
                "largest_confidence_difference": float(np.abs(confidence - first[2]).max()),
            })  # fmt: skip
            bar.update(task, description=label, advance=1)
    return {
        "scene": scene.name,
        "pixels": scene.labels.size,
        "maps": len(found),
        "differing_pixels": max(row["differing_pixels"] for row in found),
        "largest_confidence_difference": max(row["largest_confidence_difference"] for row in found),
        "ways": found,
    }


def every_way(models: dict[int, Model], scene: LabelledScene, folder: Path) -> Iterator[Way]:
    """Map the scene in all variants."""
    yield from by_tiles(models, scene)
    yield from by_files(models[2], scene, folder)
    path = write(scene, folder, "tiled", "uint16")
    yield by_bounds(models[2], path)
    yield from by_workers(models[2], path)


def read_scene(path: Path, bands: Sequence[int] | None) -> LabelledScene:
    """Return a scene of a file, without labels; its values from 0 to 32,767, which all types hold."""
    with rasterio.open(path) as dataset:
        cube = dataset.read(bands).clip(0, np.iinfo(np.int16).max).astype(np.uint16)
        place = {"crs": dataset.crs and dataset.crs.to_wkt(), "transform": tuple(dataset.transform)[:6]}
    pixels = np.ascontiguousarray(cube.transpose(1, 2, 0))
    return LabelledScene(path.stem, pixels, np.zeros(pixels.shape[:2], np.uint8), (), **place)


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("model.onnx"))
    parser.add_argument("--dataset", default="indian-pines")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--scene", type=Path, help="a raster in the place of a data set")
    parser.add_argument("--bands", help="of the raster, as those of `sdiff map`; all by default")
    options = parser.parse_args()
    if options.scene is None:
        scene = registry.load(options.dataset, options.data_dir)
    else:
        bands = "all" if options.bands is None else parse_bands(options.bands)
        scene = read_scene(options.scene, None if bands == "all" else bands)
    print(json.dumps(measure(options.model, scene), indent=2))


if __name__ == "__main__":
    main()
