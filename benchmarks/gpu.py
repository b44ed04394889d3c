"""Maps on a GPU: file to file and inference alone, full in fp32 and fp16 and compact, and how busy the GPU is.

The full network is the default preset's, of full size and untrained, which changes the map but not the time: linear
members in each context that `--smoothing` iterations allow, and three attention members. The compact one is of the size
that `sdiff export --compact` writes, which has no lower precision. The scenes are noise in tiled GeoTIFFs of uint16.
What would begin after `--minutes` is left out, and the table says so.

    python -m benchmarks.gpu --folder scenes                                  # on a machine with a GPU, about 5 GB
    python -m benchmarks.gpu --folder scenes --device cpu --sizes 64x80 --models compact
"""

import argparse
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import onnx
import rasterio
import torch
from rasterio.windows import Window

from spectraldiff.ensemble.merge import context_of
from spectraldiff.models.classifier import Classifier, empty_classifier
from spectraldiff.models.linear_members import Outside
from spectraldiff.models.pca import PCA
from spectraldiff.models.presets import FAST
from spectraldiff_export.card import card_of
from spectraldiff_export.compact.student import DeployedStudent, Student, StudentShape
from spectraldiff_export.deployed_outside import deployed
from spectraldiff_export.onnx_graph import build
from spectraldiff_export.precision.agreement import lowered
from spectraldiff_runtime import Model, map_scene
from spectraldiff_runtime.model.model_file import seal

BANDS, CLASSES, BLOCK, HIGHEST = 144, 15, 256, 10_000
SIDE, SECONDS = 256, 8.0  # pixels along the side of the tiles of inference alone, and how long it runs
OUTSIDE = (5, 64, CLASSES)  # window, components and classes
NOT = "not measured (time)"
MODELS = ("full fp32", "full fp16", "compact")


def write_scene(path: Path, height: int, width: int) -> None:
    """Write noise, one strip of blocks at a time."""
    rng = np.random.default_rng(0)
    profile: dict[str, Any] = {
        "driver": "GTiff", "height": height, "width": width, "count": BANDS, "dtype": "uint16", "tiled": True,
        "blockxsize": BLOCK, "blockysize": BLOCK, "interleave": "pixel", "bigtiff": "if_safer",
        "photometric": "minisblack", "alpha": "unspecified",
    }  # fmt: skip
    strip = rng.integers(0, HIGHEST, (BANDS, BLOCK, width), np.uint16)
    with rasterio.open(path, "w", **profile) as raster:
        for row in range(0, height, BLOCK):
            rows = min(BLOCK, height - row)
            raster.write(np.roll(strip[:, :rows], row, 2), window=Window(0, row, width, rows))


def classifier(smoothing: int) -> Classifier:
    """Return the default preset's network with random weights."""
    torch.manual_seed(0)
    most = FAST.components.most
    allowed = [one for one in map(context_of, FAST.classifier.linear) if one.iterations <= smoothing]
    contexts = tuple(sorted(set(allowed)))
    shape = FAST.vit(most, CLASSES, FAST.members())
    channels, positions = FAST.unet(BANDS).feature_shape(FAST.features.layer)
    features = channels * positions + BANDS
    model = empty_classifier(FAST, BANDS, shape, features, smoothing, contexts=contexts, outside=OUTSIDE)
    model.normaliser.high += HIGHEST
    for values in (model.pca_components, *((model.linear.weight,) if model.linear else ())):
        values.normal_(std=0.05)
    return model.eval()


def write_model(path: Path, model: Classifier, kind: str) -> None:
    """Write the file of one of `MODELS`; the agreement of a lower precision is `sdiff export`'s to check."""
    classes = [{"value": k, "name": f"class {k}", "colour": [k, 0, 0]} for k in range(1, CLASSES + 1)]
    facts: dict[str, Any] = {
        "name": "noise", "classes": classes, "wavelengths": None, "nodata": None, "sensor": "", "attribution": "",
        "accuracy": {}, "versions": {},
    }  # fmt: skip
    card = card_of(model, facts)
    if kind == "compact":
        small = DeployedStudent(student(model))
        proto: onnx.ModelProto = build(small, replace(card, halo=small.halo).to_json())
    elif kind == "full fp16":
        side = 2 * model.halo + 8
        tiles = np.random.default_rng(1).uniform(0, HIGHEST, (2, BANDS, side, side)).astype(np.float32)
        proto = lowered(build(deployed(model), replace(card, precision="fp16").to_json()), "fp16", tiles)
    else:
        proto = build(deployed(model), card.to_json())
    path.write_bytes(seal(proto.SerializeToString()))


def student(model: Classifier) -> Student:
    """Return a compact model with random weights, and with the distance from the training that the full one has."""
    shape = StudentShape()
    components = min(shape.components, BANDS)
    pca = PCA(torch.zeros(BANDS), torch.randn(components, BANDS), float("nan"))
    found = Student(shape, model.normaliser, model.fill, pca, CLASSES)
    found.weight.normal_(std=0.05)
    found.outside = Outside(*OUTSIDE, BANDS)
    found.outside.weight.normal_(std=0.05)
    return found


@contextmanager
def watched() -> Iterator[list[float]]:
    """Collect how busy the GPU is, in percent, four times a second; nothing without `nvidia-smi`."""
    found: list[float] = []
    if shutil.which("nvidia-smi") is None:
        yield found
        return
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=250"]
    process = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
    try:
        yield found
    finally:
        process.terminate()
        found += [float(line) for line in process.communicate()[0].split() if line.replace(".", "").isdigit()]


def inference(model: Model) -> float:
    """Return microseconds a pixel of inference alone, on tiles in memory."""
    side = SIDE + 2 * model.card.halo
    tiles = np.random.default_rng(2).uniform(0, HIGHEST, (1, BANDS, side, side)).astype(np.float32)
    model.run(tiles)  # the first run chooses kernels
    runs, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        model.run(tiles)
        runs += 1
    return 1e6 * (time.perf_counter() - started) / (runs * SIDE * SIDE)


def row(path: Path, file: Path, device: str) -> list[str]:
    """Measure one scene with one model."""
    model = Model.open(file, device)
    alone = inference(model)
    out = path.with_name("classes.tif")
    with watched() as busy:
        result = map_scene(model, path, out, overwrite=True)
    pixels = result.height * result.width
    stages = {stage["stage"]: stage for stage in result.profile}
    read = min((s["busy_s"] for name, s in stages.items() if name.startswith("read")), default=float("nan"))
    bound = result.bottleneck or {"stage": "", "busy_share": 0}
    gigabytes = path.stat().st_size / 1e9
    return [
        model.device, f"{alone:.3f}", f"{1e6 * result.seconds / pixels:.3f}", f"{result.seconds:.1f}",
        f"{gigabytes / result.seconds:.2f}", f"{gigabytes / read:.2f}" if read else "-",
        f"{bound['stage']}, {bound['busy_share'] or 0:.0%}", f"{mean(busy):.0f} %" if busy else "-",
    ]  # fmt: skip


def main() -> None:
    """Print one row for each scene and model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for scenes and models")
    parser.add_argument("--sizes", nargs="+", default=["349x1905", "4000x4000"], help="height x width")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--smoothing", type=int, default=6, help="iterations")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0)
    options = parser.parse_args()
    started = time.perf_counter()
    options.folder.mkdir(exist_ok=True)
    head = ["Scene", "Model", "Device", "Inference alone, us", "File to file, us", "s", "GB/s", "GB/s of reading"]
    head += ["Bound by, busy", "GPU busy"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    network = classifier(options.smoothing)
    for size in options.sizes:
        height, width = map(int, size.split("x"))
        path = options.folder / f"noise-{size}.tif"
        if not path.exists():
            write_scene(path, height, width)
        for kind in options.models:
            file = options.folder / f"network-{options.smoothing}-{kind.replace(' ', '-')}.onnx"
            if time.perf_counter() - started > 60 * options.minutes:
                cells = [NOT]
            else:
                if not file.exists():
                    write_model(file, network, kind)
                cells = row(path, file, options.device)
            print(f"| {' | '.join([size, kind, *cells])} |", flush=True)


if __name__ == "__main__":
    main()
