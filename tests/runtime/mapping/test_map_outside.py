"""The layer of pixels that are unlike the training: its values, what it takes from a map, and models without it."""

import json

import numpy as np
import pytest
import rasterio

from spectraldiff_runtime import Model, map_scene
from spectraldiff_runtime.errors import UsageError
from spectraldiff_runtime.mapping import job
from tests.runtime.mapping.test_map_outputs import polygons, read


@pytest.fixture
def model(outside_path):
    return Model.open(outside_path, "cpu", threads=1)


@pytest.fixture
def holed(cube):
    """The scene with pixels without data, a whole tile among them."""
    values = cube.copy()
    values[4, 7] = values[:11, 20:] = 0
    return values


def test_the_layer_is_what_the_graph_gives(model, holed, write_scene, tmp_path):
    arrays = map_scene(model, holed, nodata=0, confidence=True, outside=True)
    known = holed.any(axis=2)
    wanted = (100 * (1 - arrays.confidence)).astype(np.uint8)
    assert np.abs(arrays.outside.astype(int) - wanted)[known].max() <= 1
    assert (arrays.outside[~known] == 255).all()
    assert arrays.unlike is None  # nobody asked to leave any out
    path = write_scene(values=holed, nodata=0)
    for tile, batch in ((10, 1), (8, 3), (40, 2)):
        map_scene(
            model, path, tmp_path / "c.tif", outside=tmp_path / "outside.tif", tile=tile, batch=batch, overwrite=True
        )
        np.testing.assert_array_equal(read(tmp_path / "outside.tif"), arrays.outside)
    with rasterio.open(tmp_path / "outside.tif") as dataset:
        assert (dataset.dtypes, dataset.nodata) == (("uint8",), 255)


def test_pixels_too_far_from_the_training_lose_their_class_and_are_counted(model, holed, write_scene, tmp_path):
    whole = map_scene(model, holed, nodata=0, outside=True)
    most = int(np.median(whole.outside[whole.outside <= 100]))
    far = (whole.outside > most) & (whole.outside <= 100)
    assert 0 < far.sum() < far.size
    result = map_scene(model, holed, nodata=0, outside=True, max_outside=most)
    np.testing.assert_array_equal(result.classes, np.where(far, 0, whole.classes))
    np.testing.assert_array_equal(result.outside, whole.outside)
    assert result.unlike == result.as_dict()["unlike_training_pixels"] == far.sum()
    filed = map_scene(model, write_scene(values=holed, nodata=0), tmp_path / "c.tif", max_outside=most)
    np.testing.assert_array_equal(read(tmp_path / "c.tif"), result.classes)
    assert filed.unlike == far.sum()
    assert not (tmp_path / "outside.tif").exists()


def test_beyond_the_mask_nothing_is_known(model, cube, write_scene, tmp_path):
    mask = polygons(tmp_path / "aoi.gpkg", (2, 3, 10, 9), (20, 15, 30, 25))
    inside = np.zeros((29, 37), bool)
    inside[3:9, 2:10] = inside[15:25, 20:30] = True
    options = {"mask": mask, "window": (0, 0, 37, 29), "tile": 4, "max_outside": 0}
    result = map_scene(model, write_scene(), tmp_path / "c.tif", outside=tmp_path / "outside.tif", **options)
    whole = map_scene(model, cube, outside=True).outside
    np.testing.assert_array_equal(read(tmp_path / "outside.tif"), np.where(inside, whole, 255))
    assert result.unlike == ((whole > 0) & inside).sum()


def test_the_summary_and_json_say_how_many_pixels_are_unlike(outside_path, write_scene, sdiff, tmp_path):
    options = ("--outside", tmp_path / "outside.tif", "--max-outside", 30, "--json", "--device", "cpu")
    code, out, err = sdiff("map", write_scene(), "--model", outside_path, "--out", tmp_path / "c.tif", *options)
    assert code == 0
    count = json.loads(out)["unlike_training_pixels"]
    assert count == (read(tmp_path / "outside.tif") > 30).sum() > 0
    assert f"Unlike the training, and therefore unclassified: {count:,} pixels" in err
    assert json.loads(out)["outside"] == str(tmp_path / "outside.tif")
    # Where no pixel is to lose its class, nothing is said of such pixels.
    code, out, err = sdiff(
        "map",
        write_scene(),
        "--model",
        outside_path,
        "--out",
        tmp_path / "d.tif",
        *options[:1],
        tmp_path / "o.tif",
        "--json",
    )
    assert (code, json.loads(out)["unlike_training_pixels"]) == (0, None)
    assert "therefore unclassified" not in err


@pytest.mark.parametrize("options", [("--outside", "outside.tif"), ("--max-outside", "95")])
def test_a_model_without_the_layer_says_so(model_path, write_scene, sdiff, tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    code, out, err = sdiff("map", write_scene(), "--model", model_path, "--out", "c.tif", *options)
    assert (code, out) == (2, "")
    assert "cannot say which pixels are unlike its training" in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "c.tif").exists()


@pytest.mark.parametrize("most", [-1, 101, 2.5])
def test_what_is_no_whole_percentage_is_refused(model, cube, most):
    with pytest.raises(UsageError, match="max_outside"):
        map_scene(model, cube, max_outside=most)


def test_maps_with_another_limit_are_not_taken_for_each_other(model, write_scene, tmp_path):
    scene, out = write_scene(), tmp_path / "c.tif"
    map_scene(model, scene, out, max_outside=40)
    assert map_scene(model, scene, out, max_outside=40, resume=True).skipped
    with pytest.raises(Exception, match="most outside"):
        map_scene(model, scene, out, max_outside=50, resume=True)


def test_a_scene_that_is_mostly_unlike_the_training_is_warned_of(model, holed, write_scene, tmp_path, monkeypatch):
    """Without any option, and whether or not the layer is kept."""
    outside = map_scene(model, holed, nodata=0, outside=True).outside
    known = outside <= 100
    beyond = int(np.quantile(outside[known], 0.3))
    share = (outside[known] > beyond).mean()
    assert 0.5 < share < 0.95
    monkeypatch.setattr(job, "BEYOND", beyond)
    said: list[str] = []
    map_scene(model, holed, nodata=0, tile=8, warn=said.append)
    assert len(said) == 1
    assert f"{share:.0%} of the pixels of 'array' are unlike the training, where {100 - beyond} % are usual" in said[0]
    again: list[str] = []
    map_scene(model, holed, nodata=0, outside=True, max_outside=90, warn=again.append)
    assert again == said
    monkeypatch.setattr(job, "BEYOND", int(np.quantile(outside[known], 0.7)))
    map_scene(model, write_scene(values=holed, nodata=0), tmp_path / "c.tif", warn=said.append)
    assert len(said) == 1
    assert read(tmp_path / "c.tif").any()
