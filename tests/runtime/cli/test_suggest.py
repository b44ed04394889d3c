"""Points to label: where the model is unsure or the scene unlike its training, spread out, with the reason."""

import json
import sqlite3
from contextlib import closing
from dataclasses import asdict

import numpy as np
import pyogrio
import pytest
import shapely

import spectraldiff as sd
from spectraldiff_runtime import Model, map_scene
from spectraldiff_runtime.errors import UsageError
from spectraldiff_runtime.output.block import Block
from spectraldiff_runtime.suggest.choice import SuggestionSink
from spectraldiff_runtime.window import Window, tiles_of
from tests.runtime.mapping.test_map_outputs import polygons
from tests.tiny_model import CARD


def table(path):
    meta, _, shapes, data = pyogrio.raw.read(path)
    return meta, shapely.get_coordinates(shapely.from_wkb(shapes)), dict(zip(meta["fields"], data, strict=True))


def test_points_lie_on_pixels_and_say_why(outside_path, cube, write_scene, sdiff, tmp_path):
    out = tmp_path / "points.gpkg"
    code, printed, err = sdiff(
        "suggest", write_scene(), "--model", outside_path, "--count", 6, "--out", out, "--device", "cpu", "--json"
    )
    assert code == 0, err
    meta, points, columns = table(out)
    assert len(points) == 6
    assert "32616" in meta["crs"]
    assert list(columns) == ["class", "priority", "reason", "mapped", "confidence", "outside"]
    assert list(columns["class"]) == [None] * 6
    whole = map_scene(Model.open(outside_path, "cpu", 1), cube, confidence=True, outside=True)
    for (x, y), sure, far, reason in zip(
        points, columns["confidence"], columns["outside"], columns["reason"], strict=True
    ):
        column, row = (x - 480_000) / 20 - 0.5, (4_470_000 - y) / 20 - 0.5
        assert (column, row) == (round(column), round(row))
        assert sure == pytest.approx(whole.confidence[round(row), round(column)], abs=1e-5)
        assert far == whole.outside[round(row), round(column)]
        assert reason.startswith(("uncertain: '", "unlike the training: "))
    assert np.unique(points, axis=0).shape == (6, 2)
    assert np.median(columns["confidence"]) < np.median(whole.confidence)
    listed = json.loads(printed)["points"]
    assert [(one["x"], one["y"]) for one in listed] == [tuple(point) for point in points.tolist()]
    assert "6 points" in err


def test_from_python_it_is_the_same(outside_path, cube, write_scene, sdiff, tmp_path):
    scene, out, calls = write_scene(), tmp_path / "points.gpkg", []
    model = sd.Model.open(outside_path, "cpu", 1)
    found = sd.suggest(model, scene, out, count=6, progress=lambda *call: calls.append(call))
    own = tmp_path / "own.gpkg"
    code, printed, err = sdiff("suggest", scene, "--model", outside_path, "--count", 6, "--out", own, "--json", "-q")
    assert code == 0, err
    assert [asdict(one) for one in found] == json.loads(printed)["points"]
    assert np.array_equal(table(out)[1], table(own)[1])
    pixels = cube.shape[0] * cube.shape[1]
    assert calls[-1] == ("map", pixels, pixels)
    # An array has no place: rows and columns alone.
    alone = sd.suggest(model, cube, count=6, progress=False)
    assert [(one.row, one.column) for one in alone] == [(one.row, one.column) for one in found]
    assert {(one.x, one.y) for one in alone} == {(None, None)}
    with pytest.raises(UsageError, match="--count is 0"):
        sd.suggest(model, cube, count=0)


def test_points_lie_inside_the_mask_and_differ_with_no_tile(outside_path, write_scene, sdiff, tmp_path):
    mask = polygons(tmp_path / "aoi.gpkg", (2, 3, 12, 12), (20, 15, 30, 25))
    found = []
    for number, memory in enumerate(("4GB", "450MB")):
        out = tmp_path / f"{number}.gpkg"
        options = ("--model", outside_path, "--count", 5, "--out", out, "--mask", mask, "--max-memory", memory, "-q")
        code, _, err = sdiff("suggest", write_scene(), *options, "--device", "cpu")
        assert code == 0, err
        found.append(table(out)[1])
    np.testing.assert_array_equal(*found)
    columns, rows = (found[0][:, 0] - 480_000) // 20, (4_470_000 - found[0][:, 1]) // 20
    inside = ((columns >= 2) & (columns < 12) & (rows >= 3) & (rows < 12)) | (
        (columns >= 20) & (columns < 30) & (rows >= 15) & (rows < 25)
    )
    assert inside.all()


def test_a_raster_may_be_the_mask(outside_path, write_scene, sdiff, tmp_path):
    wanted = np.zeros((29, 37, 1), np.uint8)
    wanted[3:12, 2:12] = 1
    scene, out = write_scene(), tmp_path / "points.gpkg"
    mask = write_scene(values=wanted, name="wanted.tif")
    options = ("--model", outside_path, "--count", 5, "--out", out, "--mask", mask, "--device", "cpu", "-q")
    code, _, err = sdiff("suggest", scene, *options)
    assert code == 0, err
    points = table(out)[1]
    assert len(points) == 5
    columns, rows = (points[:, 0] - 480_000) // 20, (4_470_000 - points[:, 1]) // 20
    assert wanted[rows.astype(int), columns.astype(int), 0].all()


def test_a_model_without_the_outside_layer_goes_by_its_confidence(model_path, write_scene, sdiff, tmp_path):
    out = tmp_path / "points.gpkg"
    code, _, err = sdiff("suggest", write_scene(), "--model", model_path, "--count", 3, "--out", out, "--field", "crop")
    assert code == 0, err
    assert "cannot say what is unlike its training" in err
    assert list(table(out)[2]) == ["crop", "priority", "reason", "mapped", "confidence"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--count", "0"], "--count is 0: wanted 1 to 1,000"),
        (["--out", "points.shp"], "wanted a GeoPackage"),
        (["--field", "Reason"], "--field is 'Reason'"),
        (["--field", "a\x1b[31mb"], r"--field is 'a\x1b[31mb'"),
        (["--field", "a\udcff"], "wanted a name of visible characters"),
    ],
)
def test_what_cannot_be_is_refused(model_path, write_scene, sdiff, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    scene = write_scene()
    code, _, err = sdiff("suggest", scene, "--model", model_path, "--out", "points.gpkg", *options)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_scenes_without_a_place_or_data_are_refused(model_path, cube, write_scene, sdiff, tmp_path):
    options = ("--model", model_path, "--out", tmp_path / "points.gpkg", "-q")
    code, _, err = sdiff("suggest", write_scene("a.tif", transform=None, crs=None), *options)
    assert code == 1
    assert "points cannot be placed" in err
    code, _, err = sdiff("suggest", write_scene("b.tif", np.zeros_like(cube), nodata=0), *options)
    assert code == 1
    assert "no point to suggest" in err
    assert not (tmp_path / "points.gpkg").exists()


def test_a_file_that_exists_is_not_replaced(model_path, write_scene, sdiff, tmp_path):
    out = tmp_path / "points.gpkg"
    out.write_text("mine")
    options = ("--model", model_path, "--out", out, "--count", 2, "-q")
    assert sdiff("suggest", write_scene(), *options)[0] == 1
    assert out.read_text() == "mine"
    assert sdiff("suggest", write_scene(), *options, "--overwrite")[0] == 0
    assert len(table(out)[1]) == 2


def made(doubt: np.ndarray, outside: np.ndarray | None, count: int, side: int) -> list:
    """Return what is chosen of a map of one class, written tile by tile."""
    window = Window(0, doubt.shape[0], 0, doubt.shape[1])
    sink = SuggestionSink(window, CARD.classes, count)
    for tile in tiles_of(window, side):
        part = slice(tile.row0, tile.row1), slice(tile.col0, tile.col1)
        ones = np.ones(doubt[part].shape, np.uint8)
        confidence = (1 - doubt[part]).astype(np.float32)
        sink.write(tile, Block(ones, confidence, None, None if outside is None else outside[part]))
    return sink.chosen()


def test_the_choice_is_spread_over_unsure_parts_and_not_drawn_by_single_pixels():
    generator = np.random.default_rng(0)
    doubt = generator.uniform(0, 0.05, (80, 100))
    doubt[10:30, 10:30] = doubt[50:70, 60:80] = generator.uniform(0.4, 0.6, (20, 20))
    doubt[75, 5] = 1.0  # a single odd pixel
    for side in (80, 7):
        found = made(doubt, None, 8, side)
        places = np.array([(one.row, one.column) for one in found])
        first = ((places[:, 0] < 30) & (places[:, 1] < 30)).sum()
        second = ((places[:, 0] >= 50) & (places[:, 1] >= 60)).sum()
        assert min(first, second) >= 2
        assert not any((one.row, one.column) == (75, 5) for one in found[:4])
        assert all(one.outside is None for one in found)
    assert list(found) == made(doubt, None, 8, 80)


def test_what_is_unlike_the_training_is_the_reason_where_it_is_most_of_a_cell():
    doubt = np.full((60, 60), 0.1)
    outside = np.full((60, 60), 20, np.uint8)
    outside[20:40, 20:40] = 100
    found = made(doubt, outside, 5, 16)
    assert found[0].reason.startswith("unlike the training: 100%")
    assert 20 <= found[0].row < 40
    assert found[0].outside == 100
    assert any(one.reason.startswith("uncertain") for one in found)


def test_points_open_in_older_programs_without_a_warning(write_scene, model_path, tmp_path, sdiff):
    """GeoPackage 1.2: QGIS 3.22 and GDAL before 3.7 warn of newer ones."""
    out = tmp_path / "points.gpkg"
    code, _, err = sdiff("suggest", write_scene(), "--model", model_path, "--count", 3, "--out", out)
    assert code == 0, err
    with closing(sqlite3.connect(out)) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (10200,)
