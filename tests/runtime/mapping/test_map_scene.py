"""The map: the same however it is cut, and the same as the model run on the whole scene at once."""

import numpy as np
import pytest
import rasterio

from spectraldiff_runtime import ArrayScene, Model, map_block, map_scene
from spectraldiff_runtime.output.block import RequestedLayers
from spectraldiff_runtime.tiling import memory_plan
from spectraldiff_runtime.window import Window


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
        def run(self, names, feeds, options):
            shapes.add(feeds["tile"].shape[2:])
            return original(names, feeds, options)

    object.__setattr__(square_model, "session", Watched())
    np.testing.assert_array_equal(map_scene(square_model, cube, tile=tile).classes, untiled(model, cube)[0])
    assert all(height == width for height, width in shapes)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 40), (1, 2)])
@pytest.mark.parametrize("tile", [2, 64])
def test_scenes_smaller_than_the_halo(model, cube, shape, tile):
    small = cube.repeat(2, axis=1)[: shape[0], : shape[1]]
    np.testing.assert_array_equal(map_scene(model, small, tile=tile).classes, untiled(model, small)[0])


@pytest.mark.parametrize(("rows", "columns"), [(1, 1000), (3, 1000), (16, 1000), (1, 16), (8, 5), (16, 16)])
def test_strips_and_panels_do_not_change_the_map(model, laid_out_scene, cube, rows, columns, monkeypatch):
    monkeypatch.setattr(memory_plan, "_strip_size", lambda *_: (rows, columns))
    seen = []
    result = map_scene(
        model, laid_out_scene, confidence=True, tile=8, started=lambda scene, region, plan: seen.append(plan)
    )
    classes, confidence = untiled(model, cube)
    assert (seen[0].rows, seen[0].columns) == (rows, columns)
    np.testing.assert_array_equal(result.classes, classes)
    np.testing.assert_allclose(result.confidence, confidence, atol=1e-5)


def test_any_window_is_a_part_of_the_map(model, cube):
    whole, _ = untiled(model, cube)
    for window in (Window(0, 29, 0, 37), Window(3, 11, 30, 37), Window(28, 29, 0, 1)):
        block = map_block(
            model, ArrayScene(cube), window, tile=4, batch=2, requested=RequestedLayers(probabilities=True)
        )
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
        def run(self, names, feeds, options):
            seen.append(feeds["tile"].shape[0])
            return original.run(names, feeds, options)

    object.__setattr__(counted, "session", Watched())
    data = cube[:16, :16].copy()
    data[:8] = 0
    data[:, :8] = 0
    map_scene(counted, data, tile=8, batch=4, nodata=0)
    assert seen == [1]


def test_bands_are_chosen(model, write_scene, cube):
    wide = np.concatenate([cube[:, :, :1] * 0, cube], axis=2)
    chosen = map_scene(model, wide, bands=range(2, 9)).classes
    np.testing.assert_array_equal(chosen, untiled(model, cube)[0])
    path = write_scene(values=wide)
    np.testing.assert_array_equal(map_scene(model, path, bands=range(2, 9)).classes, chosen)


@pytest.mark.parametrize("bands", [None, [7, 1, 2, 3, 4, 5, 6]])
def test_masked_pixels_are_missing(model, cube, bands):
    missing = holes(cube)
    wide = np.concatenate([cube, cube[:, :, :1]], axis=2)
    masked = np.ma.array(wide, mask=np.zeros(wide.shape, bool))
    masked.mask[missing, 3] = masked.mask[20, 20, 7] = True  # band 8 is not in use
    order = list(range(1, 8)) if bands is None else bands
    result = map_scene(model, masked, bands=order, confidence=True, tile=8)
    wanted, confidence = untiled(model, wide[:, :, np.array(order) - 1], missing)
    np.testing.assert_array_equal(result.classes, wanted)
    np.testing.assert_allclose(result.confidence, confidence, atol=1e-5)
    np.testing.assert_array_equal(map_scene(model, np.ma.array(cube)).classes, untiled(model, cube)[0])


def test_the_profile_adds_up(model, write_scene, tmp_path):
    result = map_scene(model, write_scene(), tmp_path / "classes.tif", tile=8)
    stages = {row["stage"]: row for row in result.as_dict()["profile"]}
    assert list(stages) == ["read", "gather", "infer", "write", "finish"]
    assert all(row["pixels"] == 29 * 37 for name, row in stages.items() if name != "read")
    assert stages["read"]["bytes"] == 29 * 37 * 7 * 2
    assert result.bottleneck in result.profile
    for row in stages.values():
        assert 0 <= row["busy_s"] + row["waiting_for_input_s"] + row["waiting_for_room_s"] <= result.seconds * 1.01


@pytest.mark.parametrize(("rows", "columns"), [(8, 1000), (8, 8), (1, 1), (5, 16)])
def test_every_pixel_is_read_once(model, laid_out_scene, monkeypatch, rows, columns):
    monkeypatch.setattr(memory_plan, "_strip_size", lambda *_: (rows, columns))
    result = map_scene(model, laid_out_scene, tile=8)
    assert result.profile[0]["bytes"] == 29 * 37 * 7 * 2
