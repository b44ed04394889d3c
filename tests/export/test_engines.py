"""An exported file in other engines than ONNX Runtime: equal classes. What is not installed is skipped and said."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio

from benchmarks import engines
from spectraldiff_runtime import Model, map_scene
from tests.tiny_model import ROOT


@pytest.fixture
def given(small, small_onnx, tiles_for, tmp_path):
    """A model file, a tile, and what ONNX Runtime gives."""
    path, tile = tmp_path / "model.onnx", tiles_for(small, 1, 5).numpy()
    path.write_bytes(small_onnx)
    return path, tile, engines.onnx_runtime(path, tile)


def check(found, measure):
    np.testing.assert_array_equal(found.outputs[0], measure.outputs[0])
    np.testing.assert_allclose(found.outputs[1], measure.outputs[1], rtol=0, atol=3e-5)
    assert np.unique(measure.outputs[0]).size > 1
    assert "| 100.00 % |" in engines.line(found, measure)


def test_the_reference_evaluator(given):
    path, tile, measure = given
    check(engines.reference_evaluator(path, tile), measure)


def test_openvino(given):
    pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install openvino")
    path, tile, measure = given
    check(engines.openvino(path, tile, "f32"), measure)


def test_onnxruntime_web(given):
    folder = Path(os.environ.get("ONNXRUNTIME_WEB", ROOT))
    if shutil.which("node") is None or not (folder / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("onnxruntime-web is not there: npm install onnxruntime-web, and ONNXRUNTIME_WEB names that folder")
    path, tile, measure = given
    check(engines.web(path, tile, folder), measure)


def test_the_python_of_the_documents_gives_the_map(model_path, cube, write_scene, tmp_path, monkeypatch, capsys):
    """The lines run as they stand, on a scene with a hole."""
    values = cube.copy()
    values[5:9, 6:12] = 0
    shutil.move(write_scene(values=values, nodata=0), tmp_path / "scene.tif")
    shutil.copy(model_path, tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "engines.md").read_text("utf-8"), re.DOTALL)
    found: dict[str, object] = {}
    exec(lines, found)
    with rasterio.open(tmp_path / "scene.tif") as scene:
        assert (scene.read_masks() == 0).any()
    wanted = map_scene(Model.open("model.onnx", "cpu", threads=1), "scene.tif").classes
    np.testing.assert_array_equal(found["classes"][0], wanted)
    assert "Unclassified" in capsys.readouterr().out
