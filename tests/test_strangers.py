"""Scenes and sensors of other kinds, from training to the accuracy of the map: any bands, classes, types and gaps."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio

from benchmarks.strangers import Made
from spectraldiff.data.source import SceneFiles
from spectraldiff.models.presets import Preset
from spectraldiff.training.compute import Compute
from spectraldiff.training.request import Request
from spectraldiff.training.results import Evaluation
from spectraldiff.training.run_folder import create_run, write_pixels
from spectraldiff.training.trainer import Training
from spectraldiff_runtime.cli import run

small = partial(Made, 30, 44, field=6)
STRANGERS = {
    "5 bands of reflectance": small(5, 4, "float32", "per-class:20"),
    "48 bands, 2 classes, a border": small(48, 2, "int16", "per-class:5", nodata=-9999),
    "103 bands, 30 classes, a border": small(103, 30, "uint16", "fraction:0.3", nodata=0, constant=True),
    "224 bands, few labels, a border": small(224, 6, "float32", "per-class:5", nodata=-1, constant=True),
    "one band": small(1, 2, "int16", "fraction:0.2"),
}


def trained(kind: Made, preset: Preset) -> Evaluation:
    """Train on a stranger's files into the folder ``run``."""
    kind.scene().write("s.tif", labels="l.tif")
    request = Request(
        preset.changed(diffusion_steps=6, epochs=12), kind.split, 0, False, scenes=(SceneFiles("s.tif", ("l.tif",)),)
    )
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
