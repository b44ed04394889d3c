"""Rasters made of raw files: what GDAL reads of them."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rio_cogeo import cog_validate

from spectraldiff_runtime.atomic import commit
from spectraldiff_runtime.classes import LandCoverClass, palette
from spectraldiff_runtime.geo.georeference import Georeference, read_georeference
from spectraldiff_runtime.geotiff.class_raster import read_classes
from spectraldiff_runtime.geotiff.encode import ArrayRaster, EncodedRaster
from spectraldiff_runtime.geotiff.spec import Format, class_spec, confidence_spec, probability_spec
from spectraldiff_runtime.scene.open import open_dataset
from tests.runtime.geotiff.rasters import CLASSES, FORMATS, PLACE, TAGS, encoded, patches


def assert_valid(path, form):
    """A COG must pass rio-cogeo's strict check; every raster has the tiles asked for, also in its overviews."""
    with open_dataset(path) as dataset:
        strict = min(dataset.shape) > 1  # a line of pixels has no overviews, which the strict check would like
        valid, errors, warnings = cog_validate(path, strict=strict, quiet=True)
        assert valid or form.driver == "GTiff", (errors, warnings)
        levels, layout = dataset.overviews(1), dataset.tags(ns="IMAGE_STRUCTURE").get("LAYOUT")
        assert layout == "COG" or form.driver == "GTiff"
        assert dataset.block_shapes[0] == (form.blocksize, form.blocksize)
    for level in range(len(levels)):
        with rasterio.open(path, overview_level=level) as overview:
            assert max(overview.shape) >= form.blocksize // 2
            if form.driver == "COG":
                assert overview.block_shapes[0] == (form.blocksize, form.blocksize)


@pytest.mark.parametrize("form", FORMATS)
def test_a_class_raster(tmp_path, form):
    values = patches()
    path = encoded(tmp_path, values, class_spec(700, 900, CLASSES, PLACE, TAGS), form)
    assert_valid(path, form)
    assert read_classes(path) == CLASSES
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(1), values)
        assert (dataset.count, dataset.dtypes[0], dataset.nodata) == (1, "uint8", 0)
        assert (dataset.crs.to_epsg(), dataset.transform) == (32616, PLACE.transform)
        assert dataset.profile["compress"] == "deflate"
        assert dataset.descriptions == ("class",)
        assert dataset.colorinterp[0].name == "palette"
        assert dataset.colormap(1)[0] == (0, 0, 0, 0)
        assert TAGS.items() <= dataset.tags().items()
        assert dataset.tags()["TIFFTAG_SOFTWARE"].startswith("spectraldiff ")
        assert max(dataset.shape) / dataset.overviews(1)[-1] <= form.blocksize
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.tif", "map.tif.aux.xml"]


@pytest.mark.parametrize("form", FORMATS[:2])
def test_a_class_raster_of_300_classes(tmp_path, form):
    classes = [LandCoverClass(v, f"class {v}", c) for v, c in enumerate(palette(300), start=1)]
    values = patches(highest=300)
    path = encoded(tmp_path, values, class_spec(700, 900, classes, PLACE, {}), form)
    assert_valid(path, form)
    assert read_classes(path) == classes
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(1), values)
        assert (dataset.dtypes[0], dataset.nodata) == ("uint16", 0)
    with rasterio.open(path, overview_level=0) as overview:
        assert overview.colormap(1)[300][:3] == classes[-1].colour


@pytest.mark.parametrize("percent", [False, True])
def test_a_confidence_raster(tmp_path, percent):
    values = np.random.default_rng(0).random((600, 520), np.float32)
    values = (values * 99 + 1).astype(np.uint8) if percent else values
    values[:300, ::2] = 0
    spec = confidence_spec(600, 520, PLACE, TAGS, percent=percent)
    path = encoded(tmp_path, values, spec)
    assert_valid(path, FORMATS[0])
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(1), values)
        assert (dataset.dtypes[0], dataset.nodata) == (spec.dtype, 0)
    with rasterio.open(path, overview_level=0) as overview:  # no mean, with which unclassified pixels would mix in
        assert np.isin(overview.read(1), values).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.tif"]


@pytest.mark.parametrize("form", FORMATS[:2])
@pytest.mark.parametrize("count", [2, 3, 4, 17])
def test_probabilities(tmp_path, form, count):
    """Three and four bands are no colours and no opacity."""
    classes = [LandCoverClass(v, f"Ö {v}", c) for v, c in enumerate(palette(count), start=1)]
    values = np.random.default_rng(0).dirichlet(np.ones(count), (530, 120)).transpose(2, 0, 1).astype(np.float32)
    values[:, :99] = 0
    path = encoded(tmp_path, values, probability_spec(530, 120, classes, PLACE, TAGS), form)
    assert_valid(path, form)
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(), values)
        assert dataset.descriptions == tuple(c.name for c in classes)
        assert dataset.nodata is None
        assert all(flags[0].name == "all_valid" for flags in dataset.mask_flag_enums)
    with rasterio.open(path, overview_level=0) as overview:
        sums = overview.read().sum(axis=0)
        assert (np.isclose(sums, 1, atol=1e-5) | (sums == 0)).all()


GCPS = tuple(GroundControlPoint(r, c, 20.5 + c / 7, 50 - r / 3, 100.25) for r, c in [(0, 0), (0, 9), (9.5, 0), (9, 9)])
RPCS = RPC(
    height_off=300.5, height_scale=100, lat_off=50.25, lat_scale=0.1, long_off=20, long_scale=0.2, line_off=5,
    line_scale=5, samp_off=5, samp_scale=5, line_num_coeff=[k / 8 for k in range(20)], err_bias=0.5, err_rand=0.25,
    line_den_coeff=[1.0, *[0.0] * 19], samp_num_coeff=[k / 16 for k in range(20)], samp_den_coeff=[1.0, *[0.0] * 19],
)  # fmt: skip


ROTATED = (
    rasterio.Affine.translation(480_000.1, 4_470_000.7) @ rasterio.Affine.rotation(33) @ rasterio.Affine.scale(3.3)
)


PLACES = {
    "nothing": Georeference(),
    "crs alone": Georeference("EPSG:32616"),
    "no crs": Georeference(None, PLACE.transform),
    "rotated": Georeference("EPSG:32616", ROTATED),
    "degrees": Georeference("EPSG:4326", rasterio.Affine(0.1, 0, 20.1, 0, -0.1, 50.3)),
    "height": Georeference("EPSG:4326+5773", PLACE.transform),
    "proj": Georeference("+proj=laea +lat_0=51.5 +lon_0=9.3 +ellps=bessel +units=m", PLACE.transform),
    "points": Georeference(gcps=GCPS, gcps_crs=rasterio.crs.CRS.from_epsg(4326)),
    "points without crs": Georeference(gcps=GCPS),
    "rpcs": Georeference(rpcs=RPCS),
    "rpcs and transform": Georeference("EPSG:32616", PLACE.transform, rpcs=RPCS),
}


@pytest.mark.parametrize("form", FORMATS[:2], ids=["COG", "GTiff"])
@pytest.mark.parametrize("place", PLACES)
def test_where_it_lies_is_kept(tmp_path, place, form):
    wanted = PLACES[place]
    path = encoded(tmp_path, patches(10, 10), class_spec(10, 10, CLASSES, wanted, {}), form)
    with open_dataset(path) as dataset:
        found = read_georeference(dataset)
    assert found.transform == wanted.transform
    assert found.crs == (None if wanted.crs is None else rasterio.crs.CRS.from_user_input(wanted.crs))
    assert [(p.row, p.col, p.x, p.y, p.z) for p in found.gcps] == [(p.row, p.col, p.x, p.y, p.z) for p in wanted.gcps]
    assert found.gcps_crs == wanted.gcps_crs
    assert found.rpcs == wanted.rpcs


def test_a_scene_on_disk_and_its_map_lie_at_the_same_place(tmp_path, write_scene):
    """The CRS comes as rasterio's object from a file, not as a code."""
    with open_dataset(write_scene()) as scene:
        wanted = read_georeference(scene)
    path = encoded(tmp_path, patches(10, 10), class_spec(10, 10, CLASSES, wanted, {}))
    with open_dataset(path) as dataset:
        assert read_georeference(dataset) == wanted


@pytest.mark.parametrize("form", FORMATS[:2], ids=["COG", "GTiff"])
@pytest.mark.parametrize("size", [(1, 1), (1, 1500), (1500, 1), (512, 512), (513, 511), (3, 2), (1500, 3)])
def test_sizes(tmp_path, size, form):
    values = patches(*size)
    path = encoded(tmp_path, values, class_spec(*size, CLASSES, PLACE, {}), form)
    assert_valid(path, form)
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(1), values)
        assert bool(dataset.overviews(1)) == (max(size) > 512 and min(size) > 1)


def test_nan_is_a_value(tmp_path):
    values = np.full((4, 4), np.nan, np.float32)
    path = encoded(tmp_path, values, confidence_spec(4, 4, PLACE, {}, percent=False))
    with rasterio.open(path) as dataset:
        assert np.isnan(dataset.read(1)).all()


@pytest.mark.parametrize("driver", ["COG", "GTiff"])
def test_the_same_values_give_the_same_bytes(tmp_path, driver):
    """Whatever the threads, and whatever lay there before."""
    found = set()
    for threads in ("1", "2", "4"):
        (tmp_path / "map.tif").write_bytes(b"old" * 1000)
        (tmp_path / "map.tif.ovr.tmp").write_bytes(b"old")
        form = Format(driver, 128, {"num_threads": threads})
        found.add(encoded(tmp_path, patches(), class_spec(700, 900, CLASSES, PLACE, TAGS), form).read_bytes())
    assert len(found) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.tif", "map.tif.aux.xml"]


def test_names_with_spaces_and_letters_of_the_world(tmp_path):
    folder = tmp_path / "Karte & <ü> 地图"
    folder.mkdir()
    path = encoded(folder, patches(9, 9), class_spec(9, 9, CLASSES, PLACE, {}), name="a 'b' ü.tif")
    assert read_classes(path) == CLASSES


def test_relative_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert encoded(Path(), patches(9, 9), class_spec(9, 9, CLASSES, PLACE, {})).exists()


def test_outputs_appear_together_and_whole(tmp_path):
    values, path = patches(), tmp_path / "map.tif"
    (tmp_path / "raw").write_bytes(values.tobytes())
    for name in ("map.tif", "map.tif.ovr", "map.tif.msk", "map.tif.aux.xml"):
        (tmp_path / name).write_text("old")
    spec = class_spec(700, 900, CLASSES, PLACE, {})
    confidence = confidence_spec(700, 900, PLACE, {}, percent=False)
    with (
        EncodedRaster(path, True, tmp_path / "raw", spec, FORMATS[0]) as raster,
        ArrayRaster(tmp_path / "c.tif", False, values / np.float32(9), confidence) as other,
    ):
        raster.finish()
        assert path.read_text() == "old"
        commit([other, raster])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.tif", "map.tif", "map.tif.aux.xml", "raw"]
    assert read_classes(path) == CLASSES
