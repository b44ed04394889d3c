"""The map: the same however it is cut, and the same as the model run on the whole scene at once."""

import warnings

import numpy as np
import pytest
import rasterio

from spectraldiff_runtime import ArrayScene, Model, RasterScene, map_block, map_scene, mapping
from spectraldiff_runtime.errors import OutputError, SceneError, UsageError
from spectraldiff_runtime.mapping import wavelength_difference
from spectraldiff_runtime.tiling import Window


def untiled(model, cube, missing=None):
    """Run the model once on the whole scene, padded by NumPy: what every map must be."""
    filled = cube.astype(np.float32)
    if missing is not None:
        filled[missing] = model.card.fill
    halo = model.card.halo
    padded = np.pad(filled, ((halo, halo), (halo, halo), (0, 0)), "reflect").transpose(2, 0, 1)[None]
    out = model.run(padded, confidence=True, probabilities=True)
    good = np.ones(cube.shape[:2], bool) if missing is None else ~missing
    return np.where(good, out.classes[0], 0), np.where(good, out.confidence[0], 0)


def holes(cube):
    missing = np.zeros(cube.shape[:2], bool)
    missing[5:9, 6:20] = missing[0, 0] = missing[28, 30:] = True
    return missing


@pytest.mark.parametrize("tile", [1, 5, 8, 16, 29, 37, 64])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_map_does_not_depend_on_tiles_and_batches(model, cube, tile, batch):
    missing = holes(cube)
    data = np.where(missing[..., None], 9999, cube).astype(np.uint16)
    result = map_scene(model, data, tile=tile, batch=batch, confidence=True, nodata=9999)
    classes, confidence = untiled(model, cube, missing)
    np.testing.assert_array_equal(result.classes, classes)
    np.testing.assert_allclose(result.confidence, confidence, atol=1e-5)
    assert len(np.unique(classes)) == 5


@pytest.mark.parametrize("threads", [1, 2])
def test_the_map_does_not_depend_on_threads(model_path, model, cube, threads):
    again = map_scene(Model.open(model_path, "cpu", threads), cube, confidence=True, tile=8, batch=3)
    classes, confidence = untiled(model, cube)
    np.testing.assert_array_equal(again.classes, classes)
    np.testing.assert_allclose(again.confidence, confidence, atol=1e-5)


@pytest.mark.parametrize("tile", [5, 16, 64])
def test_a_model_that_wants_squares_gives_the_same_map(model, square_model, cube, tile):
    assert not square_model.rectangular
    shapes = set()
    original = square_model.session.run

    class Watched:
        def run(self, names, feeds):
            shapes.add(feeds["tile"].shape[2:])
            return original(names, feeds)

    object.__setattr__(square_model, "session", Watched())
    np.testing.assert_array_equal(map_scene(square_model, cube, tile=tile).classes, untiled(model, cube)[0])
    assert all(height == width for height, width in shapes)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 40), (1, 2)])
@pytest.mark.parametrize("tile", [2, 64])
def test_scenes_smaller_than_the_halo(model, cube, shape, tile):
    small = cube.repeat(2, axis=1)[: shape[0], : shape[1]]
    np.testing.assert_array_equal(map_scene(model, small, tile=tile).classes, untiled(model, small)[0])


def test_the_order_of_reading_does_not_matter(model, cube, monkeypatch):
    whole = map_scene(model, cube, tile=8).classes
    monkeypatch.setattr(mapping, "READ_BYTES", 1)  # one tile at a time
    np.testing.assert_array_equal(map_scene(model, cube, tile=8).classes, whole)


def test_any_window_is_a_part_of_the_map(model, cube):
    whole, _ = untiled(model, cube)
    for window in (Window(0, 29, 0, 37), Window(3, 11, 30, 37), Window(28, 29, 0, 1)):
        block = map_block(model, ArrayScene(cube), window, tile=4, batch=2, probabilities=True)
        np.testing.assert_array_equal(block.classes, whole[window.row0 : window.row1, window.col0 : window.col1])
        assert block.confidence is None
        assert block.probabilities.shape == (4, window.height, window.width)
        np.testing.assert_array_equal(block.probabilities.argmax(0) + 1, block.classes)


def test_every_layout_gives_the_same_map(model, laid_out_scene, cube, tmp_path):
    out = tmp_path / "classes.tif"
    result = map_scene(model, laid_out_scene, out, tile=8, confidence=tmp_path / "conf.tif")
    assert result.classes is None
    with rasterio.open(out) as dataset:
        np.testing.assert_array_equal(dataset.read(1), map_scene(model, cube).classes)
    with rasterio.open(tmp_path / "conf.tif") as dataset:
        np.testing.assert_allclose(dataset.read(1), map_scene(model, cube, confidence=True).confidence, atol=1e-5)


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32", "float64"])
def test_every_type_gives_the_same_map(model, cube, dtype):
    np.testing.assert_array_equal(map_scene(model, cube.astype(dtype)).classes, untiled(model, cube)[0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_unclassified(model, cube, value):
    missing = holes(cube)
    data = cube.astype(np.float32)
    data[missing, 3] = value
    result = map_scene(model, data, confidence=True, probabilities=True, tile=8)
    np.testing.assert_array_equal(result.classes, untiled(model, cube, missing)[0])
    assert not result.confidence[missing].any()
    assert not result.probabilities[:, missing].any()
    assert np.isfinite(result.probabilities).all()
    assert result.pixels[0] == missing.sum()


def test_constant_bands_are_mapped(model):
    result = map_scene(model, np.full((6, 7, 7), 300, np.int16))
    assert len(np.unique(result.classes)) == 1
    assert result.classes[0, 0] > 0


def test_a_scene_without_data_is_a_map_of_zeros_and_a_warning(model, write_scene, cube, tmp_path):
    path = write_scene(values=np.full_like(cube, 65535), nodata=65535)
    with pytest.warns(UserWarning, match="no pixel of .*scene.tif"):
        result = map_scene(model, path, tmp_path / "classes.tif")
    assert result.pixels == (29 * 37, 0, 0, 0, 0)
    with rasterio.open(tmp_path / "classes.tif") as dataset:
        assert not dataset.read(1).any()


def test_tiles_without_data_are_not_run(model, cube):
    seen = []
    counted = Model(model.card, "cpu", 1, True, model.session)
    original = model.session

    class Watched:
        def run(self, names, feeds):
            seen.append(feeds["tile"].shape[0])
            return original.run(names, feeds)

    object.__setattr__(counted, "session", Watched())
    data = cube[:16, :16].copy()
    data[:8] = 0
    data[:, :8] = 0
    map_scene(counted, data, tile=8, batch=4, nodata=0)
    assert seen == [1]


def test_figures(model, write_scene, cube, tmp_path):
    steps = []
    result = map_scene(model, write_scene(), tmp_path / "classes.tif", tile=10, progress=steps.append)
    figures = result.as_dict()
    assert sum(steps) == sum(result.pixels) == 29 * 37
    assert sum(c["pixels"] for c in figures["classes"]) == 29 * 37
    assert figures["classes"][0]["hectares"] == pytest.approx(0.04 * result.pixels[1])
    assert figures["pixels_per_second"] > 0
    assert figures["out"] == str(tmp_path / "classes.tif")


def test_bands_are_chosen(model, write_scene, cube):
    wide = np.concatenate([cube[:, :, :1] * 0, cube], axis=2)
    chosen = map_scene(model, wide, bands=range(2, 9)).classes
    np.testing.assert_array_equal(chosen, untiled(model, cube)[0])
    path = write_scene(values=wide)
    np.testing.assert_array_equal(map_scene(model, path, bands=range(2, 9)).classes, chosen)


@pytest.mark.parametrize(("bands", "words"), [(9, "such as --bands 1-7"), (5, "5 bands in use and the model wants 7")])
def test_wrong_band_count(model, bands, words):
    with pytest.raises(SceneError, match=words):
        map_scene(model, np.zeros((4, 4, bands), np.uint8))


@pytest.mark.parametrize(
    "options",
    [
        {"tile": 0}, {"batch": 0}, {"preview": "x.png"}, {"confidence": "x.tif"},
        {"out": "y.tif", "probabilities": True}, {"out": "y.tif", "confidence": True},
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(model, cube, options):
    with pytest.raises(UsageError):
        map_scene(model, cube, **options)


def test_an_open_scene_has_its_bands_and_nodata(model, write_scene):
    with RasterScene(write_scene()) as scene:
        assert map_scene(model, scene).classes.shape == (29, 37)
        with pytest.raises(UsageError, match="opened already"):
            map_scene(model, scene, nodata=3)


@pytest.mark.parametrize(("shift", "differs"), [(0.0, False), (1.9, False), (24.9, False), (25.1, True), (-60.0, True)])
def test_wavelengths_within_half_a_band(card, shift, differs):
    scene = np.array(card.wavelengths)
    scene[3] += shift
    assert (wavelength_difference(card, scene) is not None) == differs
    assert wavelength_difference(card, None) is None


def test_other_wavelengths_are_a_warning(model, write_scene, tmp_path):
    same = write_scene("same.tif", waves=[400, 450, 500, 550, 600, 650, 700])
    other = write_scene("other.tif", waves=[1400, 1450, 1500, 1550, 1600, 1650, 1700])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        map_scene(model, same)
    with pytest.warns(UserWarning, match=r"other wavelengths .* 1400.0 nm .* 400.0 nm"):
        map_scene(model, other)


def test_the_scene_is_never_overwritten(model, write_scene, listing):
    path = write_scene()
    before = listing()
    with pytest.raises(OutputError, match="the same file as the input"):
        map_scene(model, path, path, overwrite=True)
    assert listing() == before


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
    assert (tags["SPECTRALDIFF_MODEL"], tags["SPECTRALDIFF_PRESET"]) == ("tiny", "fast")
    assert '"oa": 0.9' in tags["SPECTRALDIFF_ACCURACY"]
