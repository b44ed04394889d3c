"""Memory and time of `sdiff train` on scenes of growing size with the same labels: python -m benchmarks.train_memory.

Each scene is a sparse tiled GeoTIFF of 200 bands of uint16: noise round the labels, 0 elsewhere, all of it valid. Each
training runs in a process of its own, whose peak the kernel tells. Short trainings: memory does not depend on steps.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window

MEGAPIXELS, BANDS, CLASSES = (0.4, 2.5, 10.0, 40.0), 200, 4
FIELD, FIELDS, APART = 10, 20, 120  # pixels along the side of a field, fields, and pixels between them
CORNER = rasterio.Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 4_400_000.0)


def write_scene(path: Path, side: int) -> None:
    """Write a scene of `side` pixels a side, of which only the part with labels takes room on the disk."""
    rng = np.random.default_rng(0)
    profile: dict[str, Any] = {
        "driver": "GTiff", "height": side, "width": side, "count": BANDS, "dtype": "uint16", "interleave": "pixel",
        "tiled": True, "blockxsize": 128, "blockysize": 128, "sparse_ok": True, "bigtiff": "yes",
        "crs": "EPSG:32616", "transform": CORNER, "photometric": "minisblack", "alpha": "unspecified",
    }  # fmt: skip
    spectra = 2000 + 800 * np.sin(np.linspace(0, 6, BANDS) * np.arange(1, CLASSES + 1)[:, None])  # (K, B)
    with rasterio.open(path, "w", **profile) as raster:
        for number, (row, column) in enumerate(fields()):
            values = spectra[number % CLASSES] + rng.normal(0, 300, (FIELD + 80, FIELD + 80, BANDS))
            window = Window(column - 40, row - 40, FIELD + 80, FIELD + 80)
            raster.write(values.astype(np.uint16).transpose(2, 0, 1), window=window)


def fields() -> list[tuple[int, int]]:
    """Return row and column of the first pixel of each field: all within 600 x 600 pixels."""
    return [(45 + number // 5 * APART, 45 + number % 5 * APART) for number in range(FIELDS)]


def write_labels(path: Path) -> None:
    """Write the fields as polygons: 2,000 pixels."""
    features = []
    for number, (row, column) in enumerate(fields()):
        corners = [(0, 0), (0, FIELD), (FIELD, FIELD), (FIELD, 0), (0, 0)]
        ring = [CORNER * (column + x, row + y) for y, x in corners]
        crop = {"crop": "abcdefgh"[number % CLASSES]}
        features.append({"type": "Feature", "properties": crop, "geometry": {"type": "Polygon", "coordinates": [ring]}})
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32616"}}
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))


def train(folder: Path, steps: int, epochs: int) -> None:
    """Train in this process; print seconds of reading and of all else, and the peak, as JSON."""
    from spectraldiff.api.runs import exported
    from spectraldiff.data.label_vectors import LabelFields
    from spectraldiff.data.source import SceneFiles, SceneSource
    from spectraldiff.options import TrainOptions
    from spectraldiff.training import session
    from spectraldiff.training.monitor import Monitor
    from spectraldiff.training.request import new_request

    options = TrainOptions(split="per-class:100", split_by="pixel", diffusion_steps=steps, epochs=epochs)
    files = SceneFiles(str(folder / "scene.tif"), (str(folder / "labels.geojson"),))
    source = SceneSource(scenes=(files,), fields=LabelFields("crop"))
    request, started = new_request(source, options), time.perf_counter()
    with rasterio.Env(GDAL_CACHEMAX=session.CACHE):
        scenes = request.load_scenes()
    read = time.perf_counter() - started
    run, _ = session.train(request, session.RunPlace(folder / "run", threads=2, exported=exported), Monitor(), scenes)
    seconds = run.read_json("metrics.json")["seconds"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rest = time.perf_counter() - started - read
    print(json.dumps({"read": read, "rest": rest, "map": seconds["map"], "peak": peak}))


def measured(megapixels: float, options: argparse.Namespace) -> dict[str, float]:
    """Return what a training on a scene of so many million pixels takes."""
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_scene(folder / "scene.tif", round((megapixels * 1e6) ** 0.5))
        write_labels(folder / "labels.geojson")
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.train_memory", "--child", str(folder)]
        command += ["--steps", str(options.steps), "--epochs", str(options.epochs)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print one row a size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megapixels", type=float, nargs="*", default=MEGAPIXELS)
    parser.add_argument("--steps", type=int, default=20, help="of the denoiser")
    parser.add_argument("--epochs", type=int, default=1, help="of the classifier")
    parser.add_argument("--folder", default=None, help="for the scenes")
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        train(Path(options.child), options.steps, options.epochs)
        return
    print("| million pixels | peak, GB | one pass, s | all else, s | of which maps, s |")
    print("|---|---|---|---|---|")
    for megapixels in options.megapixels:
        one = measured(megapixels, options)
        row = (f"{one['peak'] / 1e9:.2f}", *(f"{one[key]:.0f}" for key in ("read", "rest", "map")))
        print(f"| {megapixels:g} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
