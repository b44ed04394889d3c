"""Scenes and sensors of other kinds, from training to the accuracy of the map: any bands, classes, types and gaps."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from spectraldiff.checkpoint import create_run
from spectraldiff.outcome import Evaluation
from spectraldiff.pipeline import Training, write_pixels
from spectraldiff.presets import Preset
from spectraldiff.request import Request
from spectraldiff.scene import Scene
from spectraldiff.training import Compute
from spectraldiff_runtime.class_map import LandCoverClass, palette
from spectraldiff_runtime.cli import run

HEIGHT, WIDTH = 30, 44


@dataclass(frozen=True)
class Stranger:
    """A kind of scene: its sensor, its classes, and how it is labelled."""

    bands: int
    classes: int
    dtype: str
    split: str
    nodata: float | None = None
    constant: bool = False

    def scene(self) -> Scene:
        """Return fields of 6 x 7 pixels with a smooth spectrum for each class, and noise."""
        generator = np.random.default_rng(0)
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        truth = 1 + (rows // 6 * (WIDTH // 7 + 1) + columns // 7) % self.classes
        waves = np.sin(np.outer(generator.uniform(1, 9, self.classes), np.linspace(0.3, 1, self.bands)))
        level = generator.uniform(0.15, 0.7, (self.classes, 1))
        cube = (level + 0.1 * waves)[truth - 1] + generator.normal(0, 0.01, (HEIGHT, WIDTH, self.bands))
        cube = (cube if self.dtype == "float32" else 10_000 * cube).astype(self.dtype)
        if self.constant:
            cube[..., [1, -1]] = 0.3 if self.dtype == "float32" else 3000
        if self.nodata is not None:
            cube[:3], cube[:, :2], cube[rows + columns < 12] = self.nodata, self.nodata, self.nodata
        names = [LandCoverClass(i, f"Class {i}", c) for i, c in enumerate(palette(self.classes), 1)]
        place = (5.0, 0.0, 5e5, 0.0, -5.0, 5e6)
        return Scene("s", cube, truth.astype(np.uint8), tuple(names), None, "EPSG:32633", place, self.nodata)


STRANGERS = {
    "5 bands of reflectance": Stranger(5, 4, "float32", "per-class:20"),
    "48 bands, 2 classes, a border": Stranger(48, 2, "int16", "per-class:5", nodata=-9999),
    "103 bands, 30 classes, a border": Stranger(103, 30, "uint16", "fraction:0.3", nodata=0, constant=True),
    "224 bands, few labels, a border": Stranger(224, 6, "float32", "per-class:5", nodata=-1, constant=True),
    "one band": Stranger(1, 2, "int16", "fraction:0.2"),
}


def trained(kind: Stranger, preset: Preset) -> Evaluation:
    """Train on a stranger's files into the folder ``run``."""
    kind.scene().write("s.tif", labels="l.tif")
    request = Request(replace(preset, diffusion_steps=6, epochs=6), kind.split, 0, False, scene="s.tif", labels="l.tif")
    scene = request.load_scene()
    folder, split = create_run(Path("run")), request.make_split(scene)
    write_pixels(folder, scene, split)
    return Training(folder, scene, split, request.preset, 0, Compute()).finish().found


@pytest.mark.parametrize("name", list(STRANGERS))
def test_a_strangers_scene_is_learnt(name, tiny_preset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = trained(STRANGERS[name], tiny_preset)
    mapped = found.maps[0]
    np.testing.assert_array_equal(mapped.predicted > 0, mapped.scene.valid)
    np.testing.assert_array_equal(mapped.confidence > 0, mapped.scene.valid)
    assert len(np.unique(mapped.predicted[mapped.scene.valid])) > 1
    assert found.accuracy.oa > 1.3 / STRANGERS[name].classes


def test_a_strangers_map_is_that_of_the_training(tiny_preset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = trained(STRANGERS["103 bands, 30 classes, a border"], tiny_preset)
    assert run(["export", "--run", "run", "--out", "m.onnx", "-q"]) == 0
    assert run(["map", "s.tif", "--model", "m.onnx", "--out", "c.tif", "--confidence", "f.tif", "-q"]) == 0
    capsys.readouterr()
    check = ["evaluate", "c.tif", "--labels", "l.tif", "--exclude", "run/train_pixels.tif", "--confidence", "f.tif"]
    assert run([*check, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    with rasterio.open("c.tif") as dataset:
        same = dataset.read(1) == found.maps[0].predicted
    assert same.mean() > 0.998  # hardly trained, two classes may be as probable to the last digit
    assert report["pixels"] == found.accuracy.pixels
    assert report["oa"] == pytest.approx(found.accuracy.oa, abs=2e-3)
    assert report["calibration"]["ece"] == pytest.approx(found.calibration.ece, abs=2e-3)
