"""The file for Deepness in the plugin itself, in a QGIS without a window: the map of `sdiff map`.

Deepness 0.6.5 is Apache-2.0 and not part of this repository. DEEPNESS names the folders that hold the package
`deepness` and what it imports (onnxruntime, OpenCV), separated as those of PATH, for the Python of QGIS:

    pip install --python-version 3.11 --only-binary :all: --target packages onnxruntime==1.17.0 'numpy<2' \\
        opencv-python-headless==4.9.0.80
    DEEPNESS=packages:qgis-plugin-deepness/src pytest tests/export/test_deepness_plugin.py
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spectraldiff_export.deepness import deepness_bytes
from spectraldiff_runtime import map_scene
from spectraldiff_runtime.model.model_file import seal
from tests.runtime.mapping.test_qgis import qgis
from tests.tiny_model import CARD, UTM, onnx_bytes

SCRIPT = Path(__file__).with_name("in_deepness.py")


@pytest.mark.skipif("DEEPNESS" not in os.environ, reason="DEEPNESS names no folder with the plugin's source")
def test_the_plugin_makes_the_same_maps(model, write_scene, tmp_path):
    """A scene of many tiles, the same with holes, and one that is smaller than a tile."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(1, 900, (30, 40, 7)).repeat(9, 0).repeat(9, 1)
    whole = (coarse + rng.integers(0, 90, coarse.shape)).astype(np.uint16)
    holes = whole.copy()
    holes[60:90, 100:140], holes[200, 300, 4] = 0, 0
    card = replace(CARD, stored="uint16", nodata=0.0, pixel_size=(UTM.a, -UTM.e))
    (tmp_path / "deepness.onnx").write_bytes(deepness_bytes(seal(onnx_bytes(card))))
    scenes = [
        write_scene(f"{name}.tif", values=values, nodata=0)
        for name, values in (("whole", whole), ("holes", holes), ("small", whole[:60, :40]))
    ]
    made = [scene.with_suffix(".npy") for scene in scenes]
    pairs = [str(path) for pair in zip(scenes, made, strict=True) for path in pair]
    done = qgis(str(SCRIPT), str(tmp_path / "deepness.onnx"), *pairs, PYTHONPATH=os.environ["DEEPNESS"])
    assert done.returncode == 0, done.stderr
    for scene, path in zip(scenes, made, strict=True):
        np.testing.assert_array_equal(np.load(path), map_scene(model, scene).classes, scene.name)
    assert (np.load(made[1]) == 0).sum() == 30 * 40 + 1
