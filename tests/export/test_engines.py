"""An exported file in other engines than ONNX Runtime: equal classes. What is not installed is skipped and said."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import rasterio

from benchmarks import engines
from spectraldiff_runtime import Model, map_scene
from tests.tiny_model import ROOT

SMOOTHED, KERNEL = "raw, linear members, smoothed five times", "foveal, members with a kernel"
IN_TRACT = """
import sys
from pathlib import Path
import numpy
from benchmarks import engines
model, tile, out = map(Path, sys.argv[1:])
numpy.savez(out, *engines.tract(model, numpy.load(tile)).outputs)
"""


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


@pytest.mark.parametrize("package", engines.NODE)
def test_under_node(given, package):
    folder = Path(os.environ.get("ONNXRUNTIME_WEB", ROOT))
    if shutil.which("node") is None or not (folder / "node_modules" / package).is_dir():
        pytest.skip(f"{package} is not there: npm install {package}, and ONNXRUNTIME_WEB names that folder")
    path, tile, measure = given
    check(engines.node(path, tile, folder, package), measure)


def test_tract(given):
    pytest.importorskip("tract", reason="tract is not installed: pip install tract")
    path, tile, measure = given
    check(engines.tract(path, tile), measure)


@pytest.mark.parametrize("kind", [KERNEL, SMOOTHED])
def test_tract_with_members_of_all_kinds(onnx_of, classifier_of, tiles_for, tmp_path, kind):
    """It moves slices towards the input: with two directions of slices an iteration, each took ten times longer."""
    pytest.importorskip("tract", reason="tract is not installed: pip install tract")
    path, tile, out = (tmp_path / name for name in ("model.onnx", "tile.npy", "out.npz"))
    path.write_bytes(onnx_of(kind))
    np.save(tile, tiles_for(classifier_of(kind), 1, 20).numpy())
    command = [sys.executable, "-c", IN_TRACT, path, tile, out]
    subprocess.run(list(map(str, command)), check=True, cwd=ROOT, timeout=300)
    with np.load(out) as stored:
        found = engines.Found("tract", "", [stored[name] for name in stored.files], [1.0])
    check(found, engines.onnx_runtime(path, np.load(tile)))


@pytest.mark.parametrize("kind", [KERNEL, SMOOTHED])
def test_openvino_with_members_of_all_kinds(onnx_of, classifier_of, tiles_for, tmp_path, kind):
    pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install openvino")
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_of(kind))
    tile = tiles_for(classifier_of(kind), 1, 20).numpy()
    check(engines.openvino(path, tile, "f32"), engines.onnx_runtime(path, tile))


@pytest.mark.parametrize("kind", ["foveal, linear members", KERNEL, SMOOTHED])
def test_opencv(onnx_of, classifier_of, tiles_for, tmp_path, kind):
    """Models of the default's kind: other presets have a Scan, which OpenCV 5.0 does not know."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'opencv-python-headless>=5'")
    if int(cv2.__version__.partition(".")[0]) < 5:
        pytest.skip(f"OpenCV is of version {cv2.__version__}: pip install 'opencv-python-headless>=5'")
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_of(kind))
    tile = tiles_for(classifier_of(kind), 1, 20).numpy()
    check(engines.opencv(path, tile), engines.onnx_runtime(path, tile))


def test_onnx_runtime_of_another_folder(given):
    """Here the same version, in a process that sees no other folder of packages before it."""
    path, tile, measure = given
    found = engines.onnx_runtime_in(path, tile, Path(onnxruntime.__file__).parents[1])
    check(found, measure)
    assert (found.version, len(found.seconds)) == (onnxruntime.__version__, engines.RUNS)


def test_rows_of_engines_that_fail_or_are_not_there(given):
    path, tile, measure = given

    def failing():
        raise RuntimeError("no such operator\nat line 1")

    assert engines.row("Fails", path, tile, failing) == "| Fails | | | RuntimeError: no such operator | | |"
    assert engines.row("Absent", path, tile, lambda: None) == "Absent is not installed"
    pixels = f"{measure.outputs[0].size:,}"
    there = engines.row("ONNX Runtime", path, tile, lambda: measure)
    assert there.startswith(f"| ONNX Runtime | {onnxruntime.__version__} | {pixels} | 100.00 % | 0.0e+00 | ")


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
