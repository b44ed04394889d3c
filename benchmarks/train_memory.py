"""Memory and time of `sdiff train` on scenes of growing size with the same labels: python -m benchmarks.train_memory.

Each scene is a VRT that repeats a tiled GeoTIFF of 640 x 640 pixels and 200 bands of uint16; the labels lie in the
first copy. Each training runs in a process of its own, whose peak the kernel tells. Short trainings: memory does not
depend on steps. ``--corner 600 60000`` trains on bands alone, of VRTs of so many pixels a side with data in one corner
of 600 x 600 pixels: the large one has 3.6 billion pixels, and the same labels.
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

MEGAPIXELS, BANDS, CLASSES = (0.4, 2.5, 10.0, 40.0), 200, 4
PART, IN_CORNER = 640, 600  # pixels along the side of the file that a scene repeats, or holds in its corner
FIELD, FIELDS, APART = 10, 20, 120  # pixels along the side of a field, fields, and pixels between them
CORNER = rasterio.Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 4_400_000.0)


def write_scene(path: Path, side: int) -> None:
    """Write a scene of `side` pixels a side: a VRT that holds a small file again and again."""
    small = path.with_suffix(".tif")
    write_part(small, PART, BANDS)
    corners = [(x, y) for y in range(0, side, PART) for x in range(0, side, PART)]
    write_vrt(path, small, side, BANDS, corners)


def write_corner(path: Path, side: int) -> None:
    """Write a scene of three bands and `side` pixels a side: a VRT that holds a small file in its first corner."""
    small = path.with_suffix(".tif")
    write_part(small, IN_CORNER, 3)
    write_vrt(path, small, side, 3, [(0, 0)], "<NoDataValue>0</NoDataValue>")


def write_part(path: Path, side: int, bands: int) -> None:
    """Write fields of noisy spectra, `side` pixels a side, no value 0."""
    rng = np.random.default_rng(0)
    profile: dict[str, Any] = {
        "driver": "GTiff", "height": side, "width": side, "count": bands, "dtype": "uint16", "interleave": "pixel",
        "tiled": True, "blockxsize": 128, "blockysize": 128, "photometric": "minisblack", "alpha": "unspecified",
        "crs": "EPSG:32616", "transform": CORNER,
    }  # fmt: skip
    spectra = 2000 + 800 * np.sin(np.linspace(0, 6, bands) * np.arange(1, CLASSES + 1)[:, None])  # (K, B)
    cube = spectra[rng.integers(CLASSES, size=(side // FIELD, side // FIELD))].repeat(FIELD, 0).repeat(FIELD, 1)
    for number, (row, column) in enumerate(fields()):
        cube[row : row + FIELD, column : column + FIELD] = spectra[number % CLASSES]
    values = cube + rng.normal(0, 300, cube.shape)
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(values.clip(1, 65535).astype(np.uint16).transpose(2, 0, 1))


def write_vrt(path: Path, small: Path, side: int, bands: int, corners: list[tuple[int, int]], nodata: str = "") -> None:
    """Write a VRT of `side` pixels a side that holds a file at some places, column and row of their first pixels."""
    with rasterio.open(small) as raster:
        size = f'xSize="{raster.width}" ySize="{raster.height}"'
    text = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{band}">{nodata}'
        + "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="1">{small.name}</SourceFilename><SourceBand>{band}'
            f'</SourceBand><SrcRect xOff="0" yOff="0" {size}/><DstRect xOff="{x}" yOff="{y}" {size}/></SimpleSource>'
            for x, y in corners
        )
        + "</VRTRasterBand>"
        for band in range(1, bands + 1)
    )
    place = f"<SRS>EPSG:32616</SRS><GeoTransform>{CORNER.c}, {CORNER.a}, 0, {CORNER.f}, 0, {CORNER.e}</GeoTransform>"
    path.write_text(f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}">{place}{text}</VRTDataset>')


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


def train(folder: Path, steps: int, epochs: int, threads: int, features: str) -> None:
    """Train in this process; print seconds of reading and of all else, and the peak, as JSON."""
    from spectraldiff.api.runs import exported
    from spectraldiff.data.label_vectors import LabelFields
    from spectraldiff.data.source import SceneFiles, SceneSource
    from spectraldiff.options import TrainOptions
    from spectraldiff.training import session
    from spectraldiff.training.monitor import Monitor
    from spectraldiff.training.request import new_request

    raw = features == "raw"
    options = TrainOptions(
        split="per-class:100",
        split_by="pixel",
        features=features,
        diffusion_steps=None if raw else steps,
        epochs=epochs,
    )
    files = SceneFiles(str(folder / "scene.vrt"), (str(folder / "labels.geojson"),))
    source = SceneSource(scenes=(files,), fields=LabelFields("crop"))
    request, started = new_request(source, options), time.perf_counter()
    with rasterio.Env(GDAL_CACHEMAX=session.CACHE):
        scenes = request.load_scenes()
    read = time.perf_counter() - started
    place = session.RunPlace(folder / "run", threads=threads, exported=exported)
    run, _ = session.train(request, place, Monitor(), scenes)
    seconds = run.read_json("metrics.json")["seconds"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rest = time.perf_counter() - started - read
    print(json.dumps({"read": read, "rest": rest, "map": seconds["map"], "peak": peak}))


def measured(side: int, corner: bool, options: argparse.Namespace) -> dict[str, float]:
    """Return what a training takes on a scene of so many pixels a side, whole or with data in a corner alone."""
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        (write_corner if corner else write_scene)(folder / "scene.vrt", side)
        write_labels(folder / "labels.geojson")
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.train_memory", "--child", str(folder)]
        command += ["--features", "raw" if corner else "diffusion", "--threads", str(options.threads)]
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
    parser.add_argument("--threads", type=int, default=2, help="1 beside other work")
    parser.add_argument("--folder", default=None, help="for the scenes")
    parser.add_argument("--corner", type=int, nargs="*", help="pixels a side, of scenes with data in a corner alone")
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--features", default="diffusion", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        train(Path(options.child), options.steps, options.epochs, options.threads, options.features)
        return
    print("| million pixels | peak, GB | one pass, s | all else, s | of which maps, s |")
    print("|---|---|---|---|---|")
    whole = [(round((megapixels * 1e6) ** 0.5), False) for megapixels in options.megapixels]
    for side, corner in [(side, True) for side in options.corner] if options.corner else whole:
        one = measured(side, corner, options)
        row = (f"{one['peak'] / 1e9:.2f}", *(f"{one[key]:.0f}" for key in ("read", "rest", "map")))
        print(f"| {side**2 / 1e6:g} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
