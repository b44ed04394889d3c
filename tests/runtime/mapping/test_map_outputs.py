"""What a map's files hold, and which part of the scene they show."""

import warnings

import numpy as np
import pytest
import rasterio

from spectraldiff_runtime import Model, map_scene
from spectraldiff_runtime.classes import LandCoverClass, palette
from spectraldiff_runtime.geotiff.class_raster import read_classes
from spectraldiff_runtime.geotiff.spec import Format
from spectraldiff_runtime.model.model_file import seal
from spectraldiff_runtime.output.file_sink import to_percent


def test_figures(model, write_scene, cube, tmp_path):
    steps = []
    result = map_scene(model, write_scene(), tmp_path / "classes.tif", tile=10, progress=steps.append)
    figures = result.as_dict()
    assert sum(steps) == sum(result.pixels) == 29 * 37
    assert sum(c["pixels"] for c in figures["classes"]) == 29 * 37
    assert figures["classes"][0]["hectares"] == pytest.approx(0.04 * result.pixels[1])
    assert figures["pixels_per_second"] > 0
    assert figures["out"] == str(tmp_path / "classes.tif")


@pytest.mark.parametrize("where", ["transform", "gcps", "rotated", "none", "geographic"])
def test_the_map_lies_where_the_scene_lies(model, write_scene, tmp_path, where):
    points = [rasterio.control.GroundControlPoint(r, c, 10.0 + c, 50.0 - r) for r, c in ((0, 0), (0, 30), (20, 0))]
    options = {
        "transform": {},
        "gcps": {"transform": None, "gcps": points, "crs": "EPSG:4326"},
        "rotated": {"transform": rasterio.Affine(3, 1, 500_000, 1, -3, 4_000_000)},
        "none": {"transform": None, "crs": None},
        "geographic": {"transform": rasterio.Affine(0.1, 0, 10, 0, -0.1, 50), "crs": "EPSG:4326"},
    }[where]
    path = write_scene(**options)
    map_scene(model, path, tmp_path / "classes.tif", confidence=tmp_path / "confidence.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        for name in ("classes.tif", "confidence.tif"):
            with rasterio.open(path) as scene, rasterio.open(tmp_path / name) as made:
                assert (made.crs, made.transform, made.shape) == (scene.crs, scene.transform, scene.shape)
                assert [g.asdict() | {"id": ""} for g in made.gcps[0]] == [
                    g.asdict() | {"id": ""} for g in scene.gcps[0]
                ]
                assert made.gcps[1] == scene.gcps[1]
                assert made.nodata == 0


def test_rpcs_are_kept(model, write_scene, tmp_path):
    from rasterio.rpc import RPC

    ones = [1.0] * 20
    rpcs = RPC(1.0, 2.0, 3.0, 4.0, ones, ones, 5.0, 6.0, 7.0, 8.0, ones, ones, 9.0, 10.0, 0.1, 0.2)
    path = write_scene(transform=None, crs=None, rpcs=rpcs)
    map_scene(model, path, tmp_path / "classes.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(tmp_path / "classes.tif") as made, rasterio.open(path) as scene:
            assert scene.rpcs is not None
            assert made.rpcs.to_gdal() == scene.rpcs.to_gdal()


def test_the_map_says_what_made_it(model, write_scene, tmp_path):
    map_scene(model, write_scene(), tmp_path / "classes.tif")
    with rasterio.open(tmp_path / "classes.tif") as dataset:
        tags = dataset.tags()
    assert len(tags["SPECTRALDIFF_FINGERPRINT"]) == 64
    assert (tags["SPECTRALDIFF_MODEL"], tags["SPECTRALDIFF_PRESET"]) == ("tiny", "fast")
    assert '"oa": 0.9' in tags["SPECTRALDIFF_ACCURACY"]


def read(path, band=1):
    with rasterio.open(path) as dataset:
        return dataset.read(band)


def test_all_layers_in_files(model, write_scene, cube, tmp_path):
    names = {name: tmp_path / f"{name}.tif" for name in ("confidence", "probabilities")}
    map_scene(model, write_scene(), tmp_path / "classes.tif", **names, tile=8, batch=2)
    arrays = map_scene(model, cube, confidence=True, probabilities=True)
    np.testing.assert_array_equal(read(tmp_path / "classes.tif"), arrays.classes)
    np.testing.assert_allclose(read(names["confidence"]), arrays.confidence, atol=1e-5)
    with rasterio.open(names["probabilities"]) as dataset:
        np.testing.assert_allclose(dataset.read(), arrays.probabilities, atol=1e-5)
        assert dataset.descriptions == tuple(c.name for c in model.card.classes)


def test_confidence_in_percent(model, write_scene, cube, tmp_path):
    map_scene(model, write_scene(), tmp_path / "classes.tif", confidence=tmp_path / "c.tif", percent=True)
    found, wanted = read(tmp_path / "c.tif"), map_scene(model, cube, confidence=True).confidence
    assert found.dtype == np.uint8
    assert np.abs(found / 100 - wanted).max() <= 0.005 + 1e-5
    values = np.array([0, 1e-6, 0.004, 0.006, 0.5, 0.999, 1], np.float32)
    assert to_percent(values).tolist() == [0, 1, 1, 1, 50, 100, 100]


def test_weak_pixels_lose_their_class_and_keep_their_confidence(model, write_scene, cube, tmp_path):
    whole = map_scene(model, cube, confidence=True)
    least = float(np.median(whole.confidence))
    result = map_scene(model, cube, min_confidence=least, confidence=True)
    weak = whole.confidence < least
    assert 0 < weak.sum() < weak.size
    np.testing.assert_array_equal(result.classes, np.where(weak, 0, whole.classes))
    np.testing.assert_array_equal(result.confidence, whole.confidence)
    assert result.pixels[0] == weak.sum()
    map_scene(model, write_scene(), tmp_path / "classes.tif", min_confidence=least)
    np.testing.assert_array_equal(read(tmp_path / "classes.tif"), result.classes)


@pytest.mark.parametrize("window", [(0, 0, 37, 29), (5, 3, 9, 11), (36, 28, 1, 1), (0, 20, 37, 9)])
def test_a_window_is_a_part_of_the_map(model, laid_out_scene, cube, tmp_path, window):
    col, row, width, height = window
    result = map_scene(model, laid_out_scene, tmp_path / "part.tif", window=window, tile=8)
    whole = map_scene(model, cube).classes
    part = whole[row : row + height, col : col + width]
    np.testing.assert_array_equal(read(tmp_path / "part.tif"), part)
    assert (result.height, result.width) == (height, width)
    assert sum(result.pixels) == height * width
    with rasterio.open(tmp_path / "part.tif") as made:
        assert made.transform == rasterio.Affine(20, 0, 480_000 + 20 * col, 0, -20, 4_470_000 - 20 * row)


def test_bounds_put_together_again_are_the_map(model, write_scene, cube, tmp_path):
    scene = write_scene()
    with rasterio.open(scene) as dataset:
        west, south, east, north = dataset.bounds
    middle_x, middle_y = west + 13 * 20, north - 11 * 20
    whole, made = map_scene(model, cube).classes, np.zeros((29, 37), np.uint8)
    for w, e in ((west, middle_x), (middle_x, east)):
        for s, n in ((south, middle_y), (middle_y, north)):
            path = tmp_path / f"{w}-{s}.tif"
            map_scene(model, scene, path, bounds=(w, s, e, n), tile=8)
            with rasterio.open(path) as part:
                row, col = round((north - part.bounds.top) / 20), round((part.bounds.left - west) / 20)
                made[row : row + part.height, col : col + part.width] += part.read(1)
    np.testing.assert_array_equal(made, whole)


def polygons(path, *boxes):
    """Write boxes in the scene's pixels, (col0, row0, col1, row1), as polygons."""
    import pyogrio
    import shapely

    shapes = [
        shapely.box(480_000 + 20 * c0, 4_470_000 - 20 * r1, 480_000 + 20 * c1, 4_470_000 - 20 * r0)
        for c0, r0, c1, r1 in boxes
    ]
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(shapes)), [], [], geometry_type="Polygon", crs="EPSG:32616", driver="GPKG"
    )
    return path


def test_only_what_lies_inside_the_mask(model, write_scene, cube, tmp_path):
    mask = polygons(tmp_path / "aoi.gpkg", (2, 3, 10, 9), (20, 15, 30, 25))
    inside = np.zeros((29, 37), bool)
    inside[3:9, 2:10] = inside[15:25, 20:30] = True
    whole = np.where(inside, map_scene(model, cube).classes, 0)
    runs, original = [], model.session.run

    class Watched:
        def run(self, names, feeds, options):
            runs.append(feeds["tile"].shape)
            return original(names, feeds, options)

    counted = Model(model.card, "cpu", 1, True, Watched())
    done = []
    result = map_scene(counted, write_scene(), tmp_path / "classes.tif", mask=mask, tile=4, progress=done.append)
    np.testing.assert_array_equal(read(tmp_path / "classes.tif"), whole[3:25, 2:30])
    assert result.pixels[0] == 22 * 28 - inside.sum()
    assert sum(done) == 22 * 28
    assert len(runs) <= 2 * 2 + 3 * 4
    full = map_scene(model, write_scene("again.tif"), mask=mask, window=(0, 0, 37, 29), confidence=True)
    np.testing.assert_array_equal(full.classes, whole)
    assert not full.confidence[~inside].any()


def test_plain_geotiff_with_options(model, write_scene, tmp_path):
    form = Format("GTiff", 128, {"COMPRESS": "LZW"})
    map_scene(model, write_scene(), tmp_path / "classes.tif", form=form)
    with rasterio.open(tmp_path / "classes.tif") as dataset:
        assert dataset.compression.name == "lzw"
        assert dataset.block_shapes == [(128, 128)]


def test_more_classes_than_a_byte_holds(build_onnx, changed_card, write_scene, cube, tmp_path):
    legend = tuple(LandCoverClass(i, f"Species {i}", colour) for i, colour in enumerate(palette(300), start=1))
    path = tmp_path / "model.onnx"
    path.write_bytes(seal(build_onnx(changed_card(classes=legend), classes=300)))
    model = Model.open(path, "cpu", threads=1)
    wanted = model.run(np.pad(cube.astype(np.float32), ((2, 2), (2, 2), (0, 0)), "reflect").transpose(2, 0, 1)[None])
    assert wanted.classes.max() > 255
    result = map_scene(model, write_scene(), tmp_path / "classes.tif", preview=tmp_path / "map.png", tile=16)
    with rasterio.open(tmp_path / "classes.tif") as dataset:
        assert dataset.dtypes == ("uint16",)
        np.testing.assert_array_equal(dataset.read(1), wanted.classes[0])
    assert read_classes(tmp_path / "classes.tif") == list(legend)
    assert sum(result.pixels) == 29 * 37
    assert map_scene(model, cube).classes.dtype == np.uint16
