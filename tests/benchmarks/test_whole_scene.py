"""Scenes and models of the benchmark of large scenes, and the figures that it takes from the kernel."""

import os

import numpy as np
import pytest
import rasterio

from benchmarks import whole_scene
from spectraldiff.data.scene import LabelledScene
from spectraldiff_runtime import Model, map_scene
from spectraldiff_runtime.classes import LandCoverClass


@pytest.fixture
def scene() -> LabelledScene:
    """Return a scene of 20 x 30 pixels and 200 bands with three classes."""
    cube = np.random.default_rng(0).integers(1, 5000, (20, 30, 200)).astype(np.uint16)
    labels = np.ones((20, 30), np.uint8)
    cube[:, 15:, 100:] += 3000
    cube[:10, 15:, :50] += 5000
    labels[:, 15:], labels[:10, 15:] = 2, 3
    classes = [LandCoverClass(1, "left", (255, 0, 0)), LandCoverClass(2, "right", (0, 255, 0))]
    classes.append(LandCoverClass(3, "above", (0, 0, 255)))
    return LabelledScene("small", cube, labels, classes, wavelengths=None)


@pytest.mark.parametrize("layout", ["tiled", "tiled-pixel-deflate", "bsq", "bip"])
def test_a_mosaic_has_the_rows_and_columns_that_its_size_names(scene, tmp_path, layout):
    path = whole_scene.scene_path(tmp_path, layout, "45x70", 50)
    whole_scene.write_mosaic(scene, path, "45x70", layout, 50)
    chosen = scene.cube[:, :, whole_scene.chosen_bands(scene, 50)].transpose(2, 0, 1)
    with rasterio.open(path) as file:
        values = file.read()
    assert values.shape == (50, 45, 70)
    assert np.array_equal(values[:, :20, :30], chosen)
    assert np.array_equal(values[:, 20:40, :30], chosen[:, ::-1])
    assert np.array_equal(values[:, :, 30:60], values[:, :, :30][:, :, ::-1])


@pytest.mark.parametrize("name", whole_scene.MODELS)
def test_models_map_tiles_as_the_whole(scene, tmp_path, name):
    whole_scene.MODELS[name](scene, tmp_path / "model.onnx")
    model = Model.open(tmp_path / "model.onnx", "cpu")
    cube = scene.cube[:, :, whole_scene.chosen_bands(scene, whole_scene.BANDS[name])]
    whole, tiled = (map_scene(model, cube, tile=tile).classes for tile in (30, 8))
    assert np.array_equal(whole, tiled)
    assert len(np.unique(whole)) > 1


def test_cpu_seconds_are_those_of_the_process_and_of_what_it_started():
    before, _ = whole_scene.cpu_seconds(os.getpid())
    begun = whole_scene.machine_seconds()
    while os.times().user + os.times().system < before + 0.2:
        pass
    assert 0.1 < whole_scene.cpu_seconds(os.getpid())[0] - before < 60
    assert whole_scene.machine_seconds() - begun > 0.1


def test_maps_that_differ_are_no_measurement():
    rows = [{"scene": "a.tif", "seconds": second, "digest": "same"} for second in (3.0, 1.0, 2.0)]
    assert whole_scene.median(rows)["seconds"] == 2.0
    with pytest.raises(RuntimeError, match=r"maps of a\.tif differ"):
        whole_scene.median([*rows, {"scene": "a.tif", "seconds": 1.0, "digest": "other"}])
