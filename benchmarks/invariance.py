"""Map one scene in many ways and count the pixels whose class differs: none should.

Tile sizes, batches and numbers of threads are combined; the whole scene as one tile is among them.

    python -m benchmarks.invariance --model demo/model.onnx
"""

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from spectraldiff import datasets
from spectraldiff_runtime import Model, map_scene

TILES, BATCHES, THREADS = (32, 48, 64, 96), (1, 3, 8), (1, 2)


def measure(model_path: Path, dataset: str, data_dir: Path | None) -> dict[str, object]:
    """Return how many maps were made, the most pixels that differ and the largest difference of confidence."""
    scene = datasets.load(dataset, data_dir)
    whole = max(scene.labels.shape)
    ways = [*product(TILES, BATCHES, THREADS), *((whole, 1, threads) for threads in THREADS)]
    models = {threads: Model.open(model_path, "cpu", threads) for threads in THREADS}
    first, pixels, confidence = None, 0, 0.0
    for tile, batch, threads in track(ways, "Mapping", console=Console(stderr=True)):
        found = map_scene(models[threads], scene.cube, tile=tile, batch=batch, confidence=True)
        assert found.classes is not None
        assert found.confidence is not None
        first = first or found
        pixels = max(pixels, int((found.classes != first.classes).sum()))
        confidence = max(confidence, float(np.abs(found.confidence - first.confidence).max()))
    return {
        "scene": dataset,
        "maps": len(ways),
        "pixels": scene.labels.size,
        "differing_pixels": pixels,
        "largest_confidence_difference": confidence,
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("model.onnx"))
    parser.add_argument("--dataset", default="indian-pines")
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    print(json.dumps(measure(options.model, options.dataset, options.data_dir), indent=2))


if __name__ == "__main__":
    main()
