"""The default preset compared with raw bands and an SVM, on scenes and sensors that it was not tuned to.

The scenes are Indian Pines with fewer bands, and synthetic scenes of other sizes, sensors and numbers of classes:
fields of smooth random spectra that differ from field to field, mixed at their edges, with uneven illumination, texture
and noise.

    python -m benchmarks.strangers --out strangers
    python -m benchmarks.strangers --out strangers --only "made, 224 bands" --diffusion-steps 400

Each training is kept in the output folder and not repeated, as in `benchmarks.accuracy`.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree

from benchmarks.accuracy.methods import PRODUCT, method_named
from benchmarks.accuracy.problem import Context
from benchmarks.accuracy.run import Watcher, compare, problem_of
from benchmarks.accuracy.store import Result
from spectraldiff.data.scene import LabelledScene
from spectraldiff.datasets import registry
from spectraldiff.models.presets import FAST, Preset
from spectraldiff.training.compute import choose_compute, keep_freed_memory
from spectraldiff.training.request import Request
from spectraldiff_runtime.classes import LandCoverClass, palette
from spectraldiff_runtime.errors import SpectralDiffError

METHODS = {"svm": "SVM, single pixels", "raw": "Raw bands", PRODUCT: "The default"}
FIELD = 18  # mean side of a synthetic field, in pixels
PLACE = (5.0, 0.0, 5e5, 0.0, -5.0, 5e6)  # affine transform, metres


@dataclass(frozen=True)
class Made:
    """A synthetic scene.

    Attributes
    ----------
    height, width, bands, classes
        Its size and number of classes.
    dtype
        ``"float32"`` holds reflectance in 0..1, an integer type holds it times 10,000.
    split
        Split of the labels, as for `sdiff train --split`.
    nodata
        The value of a border without data at the upper left; None for no border.
    constant
        Whether two bands are constant.
    field
        Mean side of a field, in pixels.
    """

    height: int
    width: int
    bands: int
    classes: int
    dtype: str
    split: str
    nodata: float | None = None
    constant: bool = False
    field: int = FIELD

    def scene(self) -> LabelledScene:
        """Return the scene; every pixel with data has a label."""
        generator = np.random.default_rng(0)
        fields, owners = self._fields(generator)
        spectra = self._spectra(owners, generator)[fields]  # (H, W, B)
        cube = gaussian_filter(spectra, (0.7, 0.7, 0))  # a pixel receives light from its neighbours' surfaces
        light = gaussian_filter(generator.normal(size=fields.shape), min(fields.shape) / 8)
        cube *= (1 + 0.1 * light / light.std())[..., None]
        texture = np.einsum("hwk,kb->hwb", generator.normal(0, 0.012, (*fields.shape, 4)), self._smooth(4, generator))
        cube += texture + generator.normal(0, 0.012, cube.shape)
        cube = (cube if self.dtype == "float32" else 10_000 * cube.clip(0)).astype(self.dtype)
        if self.constant:
            cube[..., [1, -1]] = 0.3 if self.dtype == "float32" else 3000
        if self.nodata is not None:
            rows, columns = np.indices(fields.shape)
            edge = max(2, min(fields.shape) // 12)
            cube[(rows < edge) | (columns < edge) | (rows + columns < 4 * edge)] = self.nodata
        names = [LandCoverClass(i, f"Class {i}", c) for i, c in enumerate(palette(self.classes), 1)]
        labels = (owners[fields] + 1).astype(np.uint8)
        return LabelledScene("made", cube, labels, tuple(names), None, "EPSG:32633", PLACE, self.nodata)

    def _fields(self, generator: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the number of the field of each pixel, (H, W), and the class from 0 of each field."""
        count = max(2 * self.classes, self.height * self.width // self.field**2)
        centres = generator.uniform((0, 0), (self.height, self.width), (count, 2))
        pixels = np.moveaxis(np.indices((self.height, self.width)), 0, -1)
        return KDTree(centres).query(pixels)[1], generator.permutation(np.arange(count) % self.classes)

    def _spectra(self, owners: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.float64]:
        """Return the spectrum of each field, (fields, B): that of its class plus half as much of its own."""
        level = generator.uniform(0.25, 0.45, (self.classes, 1))
        of_class = level + 0.04 * self._smooth(self.classes, generator)
        return np.asarray(of_class[owners] + 0.02 * self._smooth(len(owners), generator))

    def _smooth(self, count: int, generator: np.random.Generator) -> NDArray[np.float64]:
        """Return smooth random curves with standard deviation 1, (count, B)."""
        at = np.linspace(0, 1, self.bands)
        pitch, phase, size = (generator.uniform(low, high, (count, 6, 1)) for low, high in ((1, 25), (0, 6.3), (0, 1)))
        return np.asarray((size * np.sin(pitch * at + phase)).sum(1))


@dataclass(frozen=True)
class Subset:
    """Indian Pines in fewer bands, evenly chosen, as reflectance in 0..1 where `dtype` is ``"float32"``."""

    bands: int
    dtype: str
    split: str = "per-class:15"

    def scene(self) -> LabelledScene:
        """Return the scene."""
        whole = registry.load("indian-pines")
        chosen = np.linspace(0, whole.cube.shape[2] - 1, self.bands).round().astype(int)
        cube = whole.cube[..., chosen]
        if self.dtype == "float32":
            cube = (cube / np.float32(10_000)).astype(np.float32)
        wavelengths = None if whole.wavelengths is None else whole.wavelengths[chosen]
        return replace(whole, cube=cube, wavelengths=wavelengths)


SCENES: dict[str, Made | Subset] = {
    "Indian Pines, 5 bands, integers": Subset(5, "uint16"),
    "Indian Pines, 48 bands, reflectance in 0..1": Subset(48, "float32"),
    "Indian Pines, 103 bands, integers": Subset(103, "uint16"),
    "Indian Pines, 144 bands, reflectance in 0..1": Subset(144, "float32"),
    "made, 224 bands, 60 x 60, 2 classes, integers": Made(60, 60, 224, 2, "int16", "per-class:20"),
    "made, 48 bands, 120 x 120, 12 classes, reflectance": Made(120, 120, 48, 12, "float32", "per-class:10"),
    "made, 5 bands, 200 x 300, 9 classes, integers, border": Made(200, 300, 5, 9, "uint16", "per-class:20", nodata=0),
    "made, 144 bands, 600 x 600, 40 classes, reflectance": Made(600, 600, 144, 40, "float32", "per-class:10"),
}


def train(name: str, preset: Preset, out: Path, threads: int) -> list[Result]:
    """Train and score `METHODS` on one of `SCENES`, with seed 0."""
    kind = SCENES[name]
    scene = kind.scene()
    problem = problem_of(scene, Request(preset, kind.split, 0, compare_raw=False))
    methods = [method_named(method, preset, scene.cube.shape[2]) for method in METHODS]
    folder = out / re.sub(r"\W+", "-", name)
    return compare([problem], methods, folder, Context(folder, choose_compute("auto"), threads), _Lines(name))


class _Lines(Watcher):
    """Prints one line for each training."""

    def __init__(self, name: str) -> None:
        self.name = name

    def end(self, method: object, result: Result, known: bool) -> None:
        took = "done before" if known else f"{result.train_seconds:.0f} s"
        print(f"{self.name}: {METHODS[result.method]} {100 * result.oa:.2f} ({took})", file=sys.stderr, flush=True)


def show(results: dict[str, list[Result]]) -> Table:
    """Return OA and AA on the test pixels, in percent."""
    table = Table("Scene", "Split", *METHODS.values(), title="OA / AA on the pixels that did not train, %")
    for name, found in results.items():
        table.add_row(name, SCENES[name].split, *(f"{100 * one.oa:.2f} / {100 * one.aa:.2f}" for one in found))
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Train on all scenes, or on some; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.strangers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--only", default="", help="scenes whose name begins with this")
    parser.add_argument("--diffusion-steps", type=int, help="of the denoiser; the preset's by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads; all by default")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    preset = FAST.changed(diffusion_steps=options.diffusion_steps)
    wanted = [name for name in SCENES if name.startswith(options.only)]
    try:
        results = {name: train(name, preset, options.out, options.threads) for name in wanted}
    except SpectralDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    Console().print(show(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
