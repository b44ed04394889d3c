"""Compare maps with our model files, file to file, with the straightforward pipeline that the paper implies.

The scene is a mosaic of mirrored copies of a benchmark scene, written once as a GeoTIFF. Our pipeline maps it to a
class raster, as `sdiff map` does. The straightforward pipeline, in PyTorch with the networks of the preset `paper`,
maps a corner of the same file, because the whole file would take hours: U-Net features of 64 x 64 tiles, all kept in
memory; a PCA to 1,200 components; and the published classifier, with 13 x 13 windows that a data loader cuts out pixel
by pixel. Its networks are not trained, which changes the map but not the time. All run alternately in one run.

    python -m benchmarks.map_speed --model demo/model.onnx --model demo/int8.onnx
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from math import isqrt
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.windows import Window
from rich.console import Console
from rich.table import Table
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from spectraldiff.data.scene import LabelledScene
from spectraldiff.datasets import registry
from spectraldiff.models.classifier import extractor_for, new_denoiser
from spectraldiff.models.normaliser import normaliser_of
from spectraldiff.models.padding import mirrored
from spectraldiff.models.presets import PAPER
from spectraldiff_runtime import Model, map_scene

REPEATS = 5
TILE = 64
ROWS = 128
# The published classifier.
WINDOW, COMPONENTS, WIDTH, DEPTH, HEADS, HEAD_WIDTH, MLP_WIDTH, BATCH = 13, 1200, 64, 2, 20, 64, 64, 64


class PublishedAttention(nn.Module):
    """Self-attention whose inner width is larger than its outer width."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * HEADS * HEAD_WIDTH, bias=False)
        self.out = nn.Linear(HEADS * HEAD_WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        n, length, _ = tokens.shape
        split = self.qkv(self.norm(tokens)).view(n, length, 3, HEADS, HEAD_WIDTH)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # (N, heads, T, 64) each
        weights = (query @ key.transpose(2, 3) * HEAD_WIDTH**-0.5).softmax(3)  # (N, heads, T, T)
        joined: Tensor = self.out((weights @ value).transpose(1, 2).reshape(n, length, -1))
        return joined


class PublishedClassifier(nn.Module):
    """A transformer over the 169 pixels of a window and a class token; windows are (N, 13, 13, 1200)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embed = nn.Linear(COMPONENTS, WIDTH)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.place = nn.Parameter(torch.randn(1, WINDOW**2 + 1, WIDTH))
        self.attentions = nn.ModuleList(PublishedAttention() for _ in range(DEPTH))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, MLP_WIDTH), nn.GELU(), nn.Linear(MLP_WIDTH, WIDTH))
            for _ in range(DEPTH)
        )
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, classes))

    def forward(self, windows: Tensor) -> Tensor:
        pixels = self.embed(windows.flatten(1, 2))  # (N, 169, 64)
        tokens = torch.cat([self.token.expand(len(pixels), -1, -1), pixels], 1) + self.place  # (N, 170, 64)
        for attention, mlp in zip(self.attentions, self.mlps, strict=True):
            tokens = tokens + attention(tokens)
            tokens = tokens + mlp(tokens)
        scores: Tensor = self.head(tokens[:, 0])
        return scores


class Windows(Dataset[Tensor]):
    """The window of PCA vectors around each pixel, one at a time."""

    def __init__(self, features: Tensor) -> None:
        self.features = features
        self.width = features.shape[1] - WINDOW + 1

    def __len__(self) -> int:
        return (self.features.shape[0] - WINDOW + 1) * self.width

    def __getitem__(self, index: int) -> Tensor:
        row, column = divmod(index, self.width)
        return self.features[row : row + WINDOW, column : column + WINDOW]


class Straightforward:
    """The pipeline that the paper implies, with untrained networks for a scene's bands and classes."""

    def __init__(self, scene: LabelledScene) -> None:
        torch.manual_seed(0)
        bands = scene.cube.shape[2]
        denoiser = new_denoiser(PAPER, bands, torch.zeros(bands), torch.ones(bands))
        self.normaliser, _ = normaliser_of(scene)
        self.extractor = extractor_for(PAPER, denoiser).eval()
        self.classifier = PublishedClassifier(len(scene.classes)).eval()

    @torch.no_grad()
    def map(self, path: Path, side: int, out: Path) -> dict[str, float]:
        """Map a corner of a raster to a `.npy` file of classes; return the seconds of each stage."""
        started = time.perf_counter()
        with rasterio.open(path) as file:
            cube = file.read(window=Window(0, 0, side, side))
        pixels = self.normaliser(torch.from_numpy(cube.astype(np.float32))[None])[0]
        features = scene_tiles(self.extractor, pixels)  # (H, W, D)
        featured = time.perf_counter()
        components = reduced(features)
        projected = time.perf_counter()
        classes = torch.cat([self.classifier(batch).argmax(1) + 1 for batch in DataLoader(Windows(components), BATCH)])
        np.save(out, classes.view(side, side).numpy().astype(np.uint8))
        ended = time.perf_counter()
        return {"features": featured - started, "PCA": projected - featured, "classifier": ended - projected}


def reduced(features: Tensor) -> Tensor:
    """Return the PCA of features (H, W, D), with a mirrored margin for the windows of the outermost pixels."""
    height, width, dims = features.shape
    found = PCA(COMPONENTS, random_state=0).fit_transform(features.reshape(-1, dims).numpy())
    components = torch.from_numpy(found.astype(np.float32)).view(height, width, -1)
    return mirrored(components.permute(2, 0, 1), WINDOW // 2).permute(1, 2, 0).contiguous()


def scene_tiles(extractor: nn.Module, pixels: Tensor) -> Tensor:
    """Return the features of a scene, (H, W, D), computed in tiles of 64 pixels."""
    halo = int(extractor.halo)  # type: ignore[arg-type]
    padded, side = mirrored(pixels, halo), TILE + 2 * halo
    rows = []
    for row in range(0, pixels.shape[1], TILE):
        tiles = [padded[None, :, row : row + side, c : c + side] for c in range(0, pixels.shape[2], TILE)]
        rows.append(torch.cat([extractor(tile)[0] for tile in tiles], 2))
    return torch.cat(rows, 1).permute(1, 2, 0)


def write_mosaic(cube: NDArray[Any], path: Path, side: int) -> None:
    """Write side x side pixels of mirrored copies of a cube (H, W, B) that join, a strip at a time."""
    rows, columns = (walked(n, side) for n in cube.shape[:2])
    place = {"crs": "EPSG:32616", "transform": rasterio.Affine(20, 0, 480_000, 0, -20, 4_470_000)}
    profile = {"driver": "GTiff", "tiled": True, "blockxsize": 256, "blockysize": 256, "bigtiff": "if_safer", **place}
    with rasterio.open(
        path, "w", height=side, width=side, count=cube.shape[2], dtype=cube.dtype, interleave="band", **profile
    ) as file:
        for row in range(0, side, ROWS):
            strip = cube[rows[row : row + ROWS]][:, columns]
            file.write(strip.transpose(2, 0, 1), window=Window(0, row, side, len(strip)))


def walked(n: int, side: int) -> NDArray[np.int64]:
    """Return `side` indices that run from 0 to n - 1, back to 0, and so on."""
    at = np.arange(side) % (2 * n)
    return np.where(at < n, at, 2 * n - 1 - at)


def seconds_of_map(model: Model, scene: Path, out: Path, window: tuple[int, int, int, int] | None = None) -> float:
    """Return the seconds of one map of the scene, file to file."""
    started = time.perf_counter()
    map_scene(model, scene, out, window=window, overwrite=True)
    return time.perf_counter() - started


def measure(
    models: Sequence[Path], dataset: str, data_dir: Path | None, side: int, pixels: int, repeats: int, folder: Path
) -> dict[str, Any]:
    """Run all of them alternately; return microseconds per pixel, and the speed-ups of ours.

    Parameters
    ----------
    side
        Rows and columns of the mosaic.
    pixels
        Approximate number of pixels for the straightforward pipeline: the square of a suitable side.
    repeats
        Number of its maps; ours are always repeated `REPEATS` times.
    """
    scene, path, out = registry.load(dataset, data_dir), folder / "scene.tif", folder / "classes.tif"
    write_mosaic(scene.cube, path, side)
    opened = [Model.open(model, "cpu") for model in models]
    corner, theirs = min(side, isqrt(pixels)), Straightforward(scene)
    for model in opened:  # loads the kernels, and the file into the cache
        seconds_of_map(model, path, out, (0, 0, corner, corner))
    seconds: list[list[float]] = [[] for _ in models]
    stages: list[dict[str, float]] = []
    for turn in range(max(REPEATS, repeats)):
        if turn < repeats:
            stages.append(theirs.map(path, corner, folder / "classes.npy"))
        for model, times in zip(opened, seconds, strict=True) if turn < REPEATS else ():
            times.append(seconds_of_map(model, path, out))
    slow = {name: 1e6 * median(stage[name] for stage in stages) / corner**2 for name in stages[0]}
    whole = sum(slow.values())
    fast = [1e6 * median(times) / side**2 for times in seconds]
    return {
        "scene": dataset,
        "side": side,
        "threads": [opened[0].threads, torch.get_num_threads()],
        "models": [
            {
                "model": str(name), "preset": model.card.preset, "oa": (model.card.accuracy or {}).get("oa"),
                "us_per_pixel": us, "seconds": times, "times_faster": whole / us,
            }
            for name, model, us, times in zip(models, opened, fast, seconds, strict=True)
        ],
        "straightforward_pixels": corner**2,
        "straightforward_us_per_pixel": whole,
        "straightforward_stages_us_per_pixel": slow,
    }  # fmt: skip


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    side = result["side"]
    table = Table("Pipeline", "us a pixel", "times faster", title=f"{result['scene']}, {side} x {side} pixels, CPU")
    for model in result["models"]:
        label = f"{model['model']} ({model['preset']})"
        table.add_row(label, f"{model['us_per_pixel']:,.0f}", f"{model['times_faster']:.1f}")
    table.add_row("straightforward", f"{result['straightforward_us_per_pixel']:,.0f}", "1")
    for name, value in result["straightforward_stages_us_per_pixel"].items():
        table.add_row(f"  {name}", f"{value:,.0f}", "")
    Console().print(table)


def main() -> None:
    """Measure, print a table, and write JSON if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, action="append", help="a model file; repeatable")
    parser.add_argument("--dataset", default="indian-pines")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--side", type=int, default=1024, help="rows and columns of the mosaic that is mapped")
    parser.add_argument("--pixels", type=int, default=4096, help="pixels for the straightforward pipeline, >= 1225")
    parser.add_argument("--repeats", type=int, default=1, help="runs of the straightforward pipeline")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    if min(isqrt(options.pixels), options.side) ** 2 < COMPONENTS or options.repeats < 1:
        parser.error(f"{COMPONENTS} components take 1225 --pixels, --side 35 and one of --repeats at least")
    models = options.model or [Path("model.onnx")]
    with tempfile.TemporaryDirectory() as folder:
        result = measure(
            models, options.dataset, options.data_dir, options.side, options.pixels, options.repeats, Path(folder)
        )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))
    show(result)


if __name__ == "__main__":
    main()
