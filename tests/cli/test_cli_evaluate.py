"""`sdiff evaluate`: figures, excluded pixels, names, and grids that do not match."""

import json
from pathlib import Path

import numpy as np
import pytest

from spectraldiff_runtime.class_map import LandCoverClass, write_class_raster
from spectraldiff_runtime.cli import run

CLASSES = (LandCoverClass(1, "Grass", (0, 200, 0)), LandCoverClass(2, "Water", (0, 0, 200)))
PLACE = {"crs": "EPSG:32616", "transform": (20.0, 0.0, 500240.0, 0.0, -20.0, 4480260.0)}
LABELS = np.array([[1, 1, 1, 1], [2, 2, 0, 0]], dtype=np.uint8)
PREDICTED = np.array([[1, 1, 1, 0], [2, 1, 2, 0]], dtype=np.uint8)
EXCLUDED = np.array([[1, 0, 0, 0], [0, 0, 0, 2]], dtype=np.uint8)


@pytest.fixture
def rasters(tmp_path: Path) -> dict[str, str]:
    values = {"map": PREDICTED, "labels": LABELS, "exclude": EXCLUDED}
    for name, raster in values.items():
        write_class_raster(tmp_path / f"{name}.tif", raster, CLASSES, **PLACE)
    return {name: str(tmp_path / f"{name}.tif") for name in values}


def evaluated(capsys, rasters, *options) -> dict:
    assert run(["evaluate", rasters["map"], "--labels", rasters["labels"], "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_figures_as_json(capsys, rasters):
    found = evaluated(capsys, rasters)
    assert found["oa"] == pytest.approx(4 / 6)
    assert found["aa"] == pytest.approx(0.625)
    assert found["kappa"] == pytest.approx(1 / 3)
    assert found["per_class"] == [0.75, 0.5]
    assert found["confusion"] == [[1, 3, 0], [0, 1, 1]]
    assert (found["pixels"], found["excluded_pixels"]) == (6, 0)
    assert found["classes"] == ["Grass", "Water"]


def test_excluded_pixels_are_left_out(capsys, rasters):
    found = evaluated(capsys, rasters, "--exclude", rasters["exclude"])
    assert (found["pixels"], found["excluded_pixels"]) == (5, 1)
    assert found["confusion"] == [[1, 2, 0], [0, 1, 1]]


def test_report_for_people(capsys, rasters):
    command = ["evaluate", rasters["map"], "--labels", rasters["labels"], "--exclude", rasters["exclude"]]
    assert run(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "5 pixels scored (1 excluded)"
    assert lines[1] == "OA 60.00  AA 58.33  kappa x 100 28.57"
    table = [line.split() for line in lines[3:]]
    assert table == [
        ["class", "pixels", "found", "%", "none", "1", "2"],
        ["1", "Grass", "3", "66.67", "1", "2", "."],
        ["2", "Water", "2", "50.00", ".", "1", "1"],
    ]


def test_wide_matrix_is_neither_cut_nor_wrapped(capsys, tmp_path):
    classes = [LandCoverClass(v, f"A land-cover class with a long name {v}", (v, v, v)) for v in range(1, 61)]
    values = np.repeat(np.arange(1, 61, dtype=np.uint8), 20).reshape(60, 20)
    write_class_raster(tmp_path / "m.tif", values, classes)
    assert run(["evaluate", str(tmp_path / "m.tif"), "--labels", str(tmp_path / "m.tif")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 + 1 + 60
    assert lines[-1].split()[-1] == "20"
    assert "A land-cover class with a long name 60" in lines[-1]


def test_names_come_from_the_map_where_labels_have_none(capsys, rasters, tmp_path):
    write_class_raster(tmp_path / "labels.tif", LABELS, (), **PLACE, overwrite=True)
    assert evaluated(capsys, rasters)["classes"] == ["Grass", "Water"]


def test_other_names_in_map_and_labels_are_worth_a_warning(capsys, rasters, tmp_path):
    other = (LandCoverClass(1, "Asphalt", (0, 200, 0)), CLASSES[1])
    write_class_raster(tmp_path / "labels.tif", LABELS, other, **PLACE, overwrite=True)
    assert run(["evaluate", rasters["map"], "--labels", rasters["labels"], "--json"]) == 0
    assert "class 1 is 'Asphalt' in" in capsys.readouterr().err


def failure(capsys, arguments) -> str:
    assert run(["evaluate", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("sdiff: error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("values", "place", "words"),
    [
        (LABELS[:, :3], PLACE, "2 rows x 3 columns"),
        (LABELS, {**PLACE, "crs": "EPSG:32615"}, "EPSG:32615"),
        (LABELS, {**PLACE, "transform": (20.0, 0.0, 500260.0, 0.0, -20.0, 4480260.0)}, "(500260, 4480260)"),
        (LABELS * 0, PLACE, "the labels are 0 at every pixel"),
    ],
)
@pytest.mark.parametrize("name", ["labels", "exclude"])
def test_rasters_that_do_not_match(capsys, rasters, tmp_path, name, values, place, words):
    if name == "exclude" and not values.any():
        values = np.ones_like(LABELS)
    write_class_raster(tmp_path / f"{name}.tif", values, CLASSES, **place, overwrite=True)
    options = [rasters["map"], "--labels", rasters["labels"], "--exclude", rasters["exclude"]]
    assert words in failure(capsys, options)


def test_rasters_without_georeference_match_by_size(capsys, rasters, tmp_path):
    write_class_raster(tmp_path / "labels.tif", LABELS, CLASSES, overwrite=True)
    assert evaluated(capsys, rasters)["pixels"] == 6


def test_raster_that_is_missing(capsys, rasters, tmp_path):
    assert "nowhere.tif' does not exist" in failure(capsys, [rasters["map"], "--labels", str(tmp_path / "nowhere.tif")])
