"""The benchmark of scenes: its simple methods, its table, and one small case from files to table."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio

from benchmarks import scenes
from benchmarks.accuracy.simple import SIMPLE, means
from benchmarks.accuracy.store import Result
from spectraldiff_runtime.errors import SceneError


def result(tmp_path, method, seed, oa, aa=0.5):
    return Result(method, seed, oa, aa, 0.4, (aa,), 0.3, 0.02, 0.9, 1.0, 1.0, tmp_path / "map.npy", aa)


def test_means_leave_out_pixels_without_data():
    pixels = np.random.default_rng(0).normal(size=(9, 8, 2)).astype(np.float32)
    valid = np.ones((9, 8), bool)
    valid[4, 4] = False
    pixels[~valid] = 0
    found = means(pixels, valid, 5)
    around = np.s_[2:7, 2:7]
    wanted = pixels[around][valid[around]]
    assert found[4, 3] == pytest.approx(pixels[2:7, 1:6][valid[2:7, 1:6]].mean(0), abs=1e-5)
    assert not found[4, 4].any()
    assert len(wanted) == 24
    assert means(pixels, valid, 1) is pixels


def test_the_table_compares_with_the_best_simple_method_seed_by_seed(tmp_path):
    figures = dict.fromkeys(SIMPLE, (0.5, 0.6)) | {"lda-5x5": (0.7, 0.9), "product": (0.8, 0.9), "raw": (0.6, 0.6)}
    results = [result(tmp_path, name, seed, oa) for name, both in figures.items() for seed, oa in enumerate(both)]
    text = scenes.table([scenes.Row(scenes.Case("Here", "per-class:5"), results)])
    row = text.splitlines()[-1]
    assert "80.0 +- 10.0 (LDA, 5 x 5 mean)" in row
    assert "85.0 +- 5.0 / 50.0 +- 0.0 / 40.0 +- 0.0" in row
    assert row.split(" | ")[-1].startswith("+5.0 +- 5.0; +0.0 +- 0.0")
    assert len({line.count("|") for line in text.splitlines()}) == 1


def test_the_table_goes_between_its_two_comments(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{scenes.BEGIN}\nold\n{scenes.END}\nafter\n")
    scenes.put(page, "| new |")
    assert page.read_text() == f"before\n{scenes.BEGIN}\n\n| new |\n\n{scenes.END}\nafter\n"
    page.write_text("no place")
    with pytest.raises(SceneError, match="no place for the table"):
        scenes.put(page, "| new |")


def test_an_own_scene_with_a_raster_of_training_pixels(tmp_path, tiny_files, capsys):
    scene, labels = tiny_files
    with rasterio.open(labels) as dataset:
        marked, profile = dataset.read(1), dataset.profile
    marked[:, ::2] = 0
    with rasterio.open(tmp_path / "train.tif", "w", **profile) as dataset:
        dataset.write(marked, 1)
    line = ["--out", tmp_path / "out", "--own", scene, labels, "--split", tmp_path / "train.tif"]
    line += ["--seeds", "1", "--threads", "1", "--methods", "lda-1x1", "lda-5x5"]
    assert scenes.main([str(word) for word in line]) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2].partition(" OA")[0] for line in said] == ["LDA, one pixel", "LDA, 5 x 5 mean"]
    assert all(float(line.split("OA ")[1].split(",")[0]) > 95 for line in said)


def test_simple_methods_are_tuned_where_a_class_has_one_training_pixel(tmp_path, tiny_files, capsys):
    scene, labels = tiny_files
    with rasterio.open(labels) as dataset:
        marked, profile = dataset.read(1), dataset.profile
    single = np.flatnonzero(marked.ravel() == 1)
    marked[:, ::2] = 0
    marked[marked == 1] = 0
    marked.ravel()[single[:1]] = 1
    with rasterio.open(tmp_path / "train.tif", "w", **profile) as dataset:
        dataset.write(marked, 1)
    line = ["--out", tmp_path / "out", "--own", scene, labels, "--split", tmp_path / "train.tif"]
    line += ["--seeds", "1", "--threads", "1", "--methods", "svm-1x1", "lda-1x1"]
    assert scenes.main([str(word) for word in line]) == 0
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_bands_without_data_are_left_out(tmp_path, tiny_scene):
    scene = replace(tiny_scene, cube=tiny_scene.cube.copy())
    scene.cube[..., 3] = 0
    scene.write(tmp_path / "scene.tif", labels=tmp_path / "labels.tif")
    with rasterio.open(tmp_path / "scene.tif", "r+") as dataset:
        dataset.nodata = 0
    found = scenes.load(scenes.Case("own", "per-class:5", "scene.tif", "labels.tif"), tmp_path)
    assert found.cube.shape[2] == tiny_scene.cube.shape[2] - 1
    assert found.valid.all()
