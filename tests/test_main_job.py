"""The main job, as users type it: train, export, map, evaluate; and that the deployed path is the trained model."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from spectraldiff_runtime import Model, map_scene
from spectraldiff_runtime.cli import run
from spectraldiff_runtime.geotiff.class_raster import read_classes

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def job(tiny_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the three lines were run."""
    folder = tmp_path_factory.mktemp("job")
    scene, labels = tiny_files
    (folder / "scene.tif").write_bytes(scene.read_bytes())
    short = ["--diffusion-steps", "20", "--epochs", "12", "--components", "8", "--split", "per-class:10"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["train", "scene.tif", "--labels", str(labels), *short]) == 0
        assert run(["export", "--out", "model.onnx"]) == 0
        assert run(["map", "scene.tif", "--out", "classes.tif"]) == 0
    return folder


def test_evaluation_of_the_map_is_what_training_reported(
    job: Path, tiny_files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    trained = json.loads((job / "runs" / "scene-fast-001" / "metrics.json").read_text())["accuracy"]
    exclude = job / "runs" / "scene-fast-001" / "train_pixels.tif"
    command = [
        "evaluate",
        str(job / "classes.tif"),
        "--labels",
        str(tiny_files[1]),
        "--exclude",
        str(exclude),
        "--json",
    ]
    assert run(command) == 0
    mapped = json.loads(capsys.readouterr().out)
    assert {key: mapped[key] for key in trained} == trained
    assert trained["oa"] > 0.5


def test_map_lies_where_the_scene_lies_and_has_its_classes(job: Path, tiny_files: tuple[Path, Path]) -> None:
    with rasterio.open(job / "scene.tif") as scene, rasterio.open(job / "classes.tif") as classes:
        assert (classes.crs, classes.transform, classes.shape) == (scene.crs, scene.transform, scene.shape)
        assert (classes.dtypes, classes.nodata) == (("uint8",), 0)
        assert classes.read(1).min() >= 1
    assert read_classes(job / "classes.tif") == read_classes(tiny_files[1])


def test_the_map_is_the_same_however_it_is_cut(job: Path, tiny_scene: object) -> None:
    cube = tiny_scene.cube  # type: ignore[attr-defined]
    results = [
        map_scene(Model.open(job / "model.onnx", "cpu", threads), cube, tile=tile, batch=batch, confidence=True)
        for tile, batch, threads in ((4, 3, 1), (9, 8, 2), (16, 1, 1), (32, 1, 2))
    ]
    for result in results[1:]:
        assert result.classes is not None
        np.testing.assert_array_equal(result.classes, results[0].classes)
        np.testing.assert_allclose(result.confidence, results[0].confidence, atol=1e-4)


def test_info_of_all_three(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file, word in (
        ("runs/scene-fast-001", "per-class:10"),
        ("model.onnx", "Meadow"),
        ("classes.tif", "EPSG:32616"),
    ):
        assert run(["info", str(job / file)]) == 0
        assert word in capsys.readouterr().out
        assert run(["info", str(job / file), "--json"]) == 0
        json.loads(capsys.readouterr().out)


def test_nothing_else_is_left_behind(job: Path) -> None:
    assert sorted(p.name for p in job.iterdir()) == [
        "classes.tif",
        "classes.tif.aux.xml",
        "model.json",
        "model.md",
        "model.onnx",
        "runs",
        "scene.tif",
    ]
