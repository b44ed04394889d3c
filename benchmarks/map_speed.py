"""Measure a map with our model file against the straightforward pipeline that the paper implies.

Both map the same scene on the CPU in one run.  Ours: `model.onnx` through ONNX Runtime, as `sdiff map` does it.  The
straightforward pipeline, with the networks of the preset `paper` in PyTorch: U-Net features of 64 x 64 tiles, all kept
in memory, a PCA of the whole scene, then a data loader that cuts the 13 x 13 window of one pixel after the other for
the SpectralViT.  Its networks are not trained here: that changes the map and not the time.

    python -m benchmarks.map_speed --model demo/model.onnx
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.decomposition import PCA
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spectraldiff import datasets
from spectraldiff.classifier import extractor_for, new_denoiser, normaliser_of
from spectraldiff.features import mirrored
from spectraldiff.presets import PAPER
from spectraldiff.scene import Scene
from spectraldiff.vit import SpectralViT
from spectraldiff_runtime import Model, map_scene

TILE = 64


class Windows(Dataset[Tensor]):
    """The window of PCA vectors around each pixel, one at a time."""

    def __init__(self, features: Tensor, window: int) -> None:
        self.features, self.window = features, window
        self.width = features.shape[1] - window + 1

    def __len__(self) -> int:
        return (self.features.shape[0] - self.window + 1) * self.width

    def __getitem__(self, index: int) -> Tensor:
        row, column = divmod(index, self.width)
        return self.features[row : row + self.window, column : column + self.window]


def ours(model: Model, scene: Scene) -> float:
    """Return the seconds of one map of the scene."""
    started = time.perf_counter()
    map_scene(model, scene.cube)
    return time.perf_counter() - started


@torch.no_grad()
def straightforward(scene: Scene) -> dict[str, float]:
    """Return the seconds of each stage of the pipeline that the paper implies."""
    torch.manual_seed(0)
    normaliser, _ = normaliser_of(scene)
    bands, radius = scene.cube.shape[2], PAPER.window // 2
    extractor = extractor_for(PAPER, new_denoiser(PAPER, bands, torch.zeros(bands), torch.ones(bands))).eval()
    vit = SpectralViT(PAPER.vit(PAPER.components, len(scene.classes))).eval()
    started = time.perf_counter()
    pixels = normaliser(torch.from_numpy(scene.cube.astype(np.float32)).permute(2, 0, 1)[None])[0]
    features = scene_tiles(extractor, pixels)  # (H, W, D)
    featured = time.perf_counter()
    height, width, dims = features.shape
    reduced = PCA(PAPER.components).fit_transform(features.reshape(-1, dims).numpy())
    reduced_map = torch.from_numpy(reduced.astype(np.float32)).view(height, width, -1)
    padded = mirrored(reduced_map.permute(2, 0, 1), radius).permute(1, 2, 0).contiguous()
    projected = time.perf_counter()
    classes = [vit(batch).argmax(1) for batch in DataLoader(Windows(padded, PAPER.window), PAPER.classifier.batch)]
    ended = time.perf_counter()
    assert len(torch.cat(classes)) == height * width
    return {"features": featured - started, "PCA": projected - featured, "classifier": ended - projected}


def scene_tiles(extractor: torch.nn.Module, pixels: Tensor) -> Tensor:
    """Return the features of a scene, (H, W, D), computed in tiles of 64 pixels."""
    halo = int(extractor.halo)  # type: ignore[arg-type]
    padded, side = mirrored(pixels, halo), TILE + 2 * halo
    rows = []
    for row in range(0, pixels.shape[1], TILE):
        tiles = [padded[None, :, row : row + side, c : c + side] for c in range(0, pixels.shape[2], TILE)]
        rows.append(torch.cat([extractor(tile)[0] for tile in tiles], 2))
    return torch.cat(rows, 1).permute(1, 2, 0)


def measure(model_path: Path, dataset: str, data_dir: Path | None, rows: int | None, repeats: int) -> dict[str, object]:
    """Run both on the same scene; return seconds, microseconds a pixel and their ratio."""
    scene = datasets.load(dataset, data_dir)
    scene = replace(scene, cube=np.ascontiguousarray(scene.cube[:rows]), labels=scene.labels[:rows])
    pixels = scene.labels.size
    model = Model.open(model_path, "cpu")
    ours(model, scene)  # compiles the gather kernel
    seconds = [ours(model, scene) for _ in range(repeats)]
    stages = straightforward(scene)
    mine, theirs = median(seconds) / pixels, sum(stages.values()) / pixels
    return {
        "scene": dataset,
        "pixels": pixels,
        "preset": model.card.preset,
        "threads": torch.get_num_threads(),
        "ours_us_per_pixel": 1e6 * mine,
        "straightforward_us_per_pixel": 1e6 * theirs,
        "straightforward_stages_us_per_pixel": {name: 1e6 * s / pixels for name, s in stages.items()},
        "ratio": theirs / mine,
    }


def main() -> None:
    """Measure, print a table, and write the JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("model.onnx"))
    parser.add_argument("--dataset", default="indian-pines")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--rows", type=int, help="map only the first rows of the scene")
    parser.add_argument("--repeats", type=int, default=3, help="maps with our model; the median counts")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    result = measure(options.model, options.dataset, options.data_dir, options.rows, options.repeats)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))
    table = Table("Pipeline", "us a pixel", title=f"{result['scene']}, {result['pixels']:,} pixels, CPU")
    table.add_row(f"ours ({result['preset']} preset, model.onnx)", f"{result['ours_us_per_pixel']:,.0f}")
    table.add_row("straightforward (paper preset, PyTorch)", f"{result['straightforward_us_per_pixel']:,.0f}")
    for name, value in result["straightforward_stages_us_per_pixel"].items():  # type: ignore[attr-defined]
        table.add_row(f"  {name}", f"{value:,.0f}")
    table.add_row("ratio", f"{result['ratio']:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
