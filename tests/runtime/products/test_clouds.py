"""Clouds as products mark them: counted, and left out of maps and trainings where the user wants it."""

import json

import h5py
import numpy as np
import pytest
import rasterio

from spectraldiff_runtime.errors import SceneError, UsageError
from spectraldiff_runtime.products.recognise import open_scene, recognise
from tests.runtime.products import builders
from tests.runtime.products.cloud_masks import cloudy

MASKED = ("enmap", "desis", "emit", "tanager")
MASK_FILES = {"enmap": "*QL_QUALITY_CLOUD.TIF", "desis": "*QL_QUALITY-2.tif", "emit": "*_MASK_*.nc"}


@pytest.fixture(params=MASKED)
def made(request, tmp_path):
    return builders.ALL[request.param](tmp_path / "product")


def read(path):
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def on_map(made, values):
    if made.extra is None:
        return values
    glt_y, glt_x = made.extra
    return np.where(glt_y > 0, values[glt_y - 1, glt_x - 1], 0)


def test_clouds_are_counted_and_kept(made):
    with open_scene(made.path) as scene:
        np.testing.assert_array_equal(scene.clouds.cloudy, made.cloudy)
        assert scene.clouds.note.startswith(f"{made.cloudy.sum()} of {made.cloudy.size:,} pixels are cloudy")
        assert "kept; --clouds drop leaves them out" in scene.clouds.note
        mask = scene.mask(0, scene.height, 0, scene.width)
        assert mask is None or mask[made.cloudy].all()
        assert not scene.fingerprint()["clouds"]


def test_clouds_that_are_dropped_have_no_data(made):
    with open_scene(made.path) as kept, open_scene(made.path, clouds="drop") as scene:
        known = kept.mask(0, kept.height, 0, kept.width)
        wanted = ~made.cloudy if known is None else known & ~made.cloudy
        np.testing.assert_array_equal(scene.mask(0, scene.height, 0, scene.width), wanted)
        np.testing.assert_array_equal(scene.mask(9, 20, 21, 30), wanted[9:20, 21:30])
        np.testing.assert_array_equal(scene.select((1, 2)).mask(9, 20, 21, 30), wanted[9:20, 21:30])
        assert "left out" in scene.clouds.note
        assert scene.fingerprint()["clouds"]
        assert {file.name for file in kept.files} < {file.name for file in scene.files} or made.sensor == "Tanager"


@pytest.mark.parametrize("name", ["prisma", "neon", "aviris-ng", "aviris-classic", "aviris-3"])
def test_products_without_a_cloud_mask(name, tmp_path):
    made = builders.ALL[name](tmp_path)
    with open_scene(made.path) as scene:
        assert scene.clouds is None
    with pytest.raises(UsageError, match=r"has no cloud mask: wanted EnMAP, DESIS.*leave --clouds drop out"):
        open_scene(made.path, clouds="drop")


def test_a_raster_has_no_cloud_mask(tmp_path):
    path = builders.write_tif(tmp_path / "scene.tif", builders.values(9))
    with pytest.raises(UsageError, match=r"'.*scene.tif' has no cloud mask"):
        open_scene(path, clouds="drop")


@pytest.mark.parametrize("name", MASK_FILES)
def test_the_mask_was_not_delivered(name, tmp_path):
    made = builders.ALL[name](tmp_path)
    for pattern in (MASK_FILES[name], "*QL_QUALITY_CIRRUS.TIF"):
        for file in tmp_path.glob(pattern):
            file.unlink()
    with open_scene(made.path) as scene:
        assert scene.clouds is None
    with pytest.raises(UsageError, match="has no cloud mask"):
        open_scene(made.path, clouds="drop")


@pytest.mark.parametrize("name", MASK_FILES)
def test_a_mask_that_is_damaged(name, tmp_path):
    made = builders.ALL[name](tmp_path)
    (mask,) = tmp_path.glob(MASK_FILES[name])
    mask.write_bytes(mask.read_bytes()[: 200 if name == "emit" else 60])
    with open_scene(made.path) as scene:
        assert scene.clouds is None
        assert scene.warnings[0].startswith("clouds are not counted: '")
    with pytest.raises(SceneError, match=r"cannot be (opened|read)"):
        open_scene(made.path, clouds="drop")


def test_a_mask_of_another_size(tmp_path):
    made = builders.enmap(tmp_path)
    (mask,) = tmp_path.glob(MASK_FILES["enmap"])
    builders.write_tif(mask, np.zeros((9, 8, 1), "uint8"))
    with pytest.raises(SceneError, match=r"cloud mask '.*CLOUD.TIF' is 9 x 8 with 1 bands and its scene 29 x 37"):
        open_scene(made.path, clouds="drop")


def test_the_bands_of_emit_without_names(tmp_path):
    made = builders.emit(tmp_path)
    (mask,) = tmp_path.glob(MASK_FILES["emit"])
    with h5py.File(mask, "a") as file:
        del file["sensor_band_parameters"]
    with open_scene(made.path) as scene:
        np.testing.assert_array_equal(scene.clouds.cloudy, made.cloudy)


def test_clouds_in_a_zip(tmp_path):
    made = builders.enmap(tmp_path / "product")
    archive = builders.zipped(tmp_path / "product", tmp_path / "delivered.zip")
    with open_scene(archive, clouds="drop") as scene:
        np.testing.assert_array_equal(scene.clouds.cloudy, made.cloudy)
        assert scene.files == (archive,)


def test_a_folder_with_files_of_emit_alone_that_hold_no_reflectance(tmp_path):
    made = builders.emit(tmp_path)
    assert recognise(tmp_path).image == str(made.path)
    made.path.unlink()
    with pytest.raises(SceneError, match="another file of EMIT"):
        recognise(tmp_path)


def test_clouds_are_0_in_the_map(made, model_path, tmp_path, sdiff):
    shown = {}
    for choice in ("keep", "drop"):
        out = tmp_path / f"{choice}.tif"
        code, printed, said = sdiff("map", made.path, "-m", model_path, "-o", out, "--clouds", choice, "--json")
        assert code == 0, said
        assert f"{made.cloudy.sum()} of" in said
        assert json.loads(printed)["clouds"] == {"pixels": int(made.cloudy.sum()), "dropped": choice == "drop"}
        shown[choice] = read(out)
    assert (shown["keep"][on_map(made, made.cloudy) > 0] > 0).any()
    np.testing.assert_array_equal(shown["drop"] > 0, on_map(made, made.valid & ~made.cloudy))


def test_a_map_without_clouds_is_another_one(model_path, tmp_path, sdiff):
    made, out = builders.enmap(tmp_path / "product"), tmp_path / "map.tif"
    assert sdiff("map", made.path, "-m", model_path, "-o", out)[0] == 0
    code, _, said = sdiff("map", made.path, "-m", model_path, "-o", out, "--clouds", "drop", "--resume")
    assert code != 0
    assert "other options" in said or "clouds" in said or "scene" in said


def test_arrays_have_no_cloud_mask(model):
    from spectraldiff_runtime.mapping.map_scene import map_scene

    with pytest.raises(UsageError, match="an array has no cloud mask"):
        map_scene(model, np.ones((4, 5, 7), np.float32), clouds="drop")
    with pytest.raises(UsageError, match="clouds is 'some': wanted 'keep' or 'drop'"):
        map_scene(model, np.ones((4, 5, 7), np.float32), clouds="some")


def test_quality_layers_as_masks(model_path, tmp_path, sdiff):
    """Shadows have another value than 0; the mask of EMIT lies on the grid of its map."""
    made = builders.enmap(tmp_path / "product")
    (shadows,) = made.path.parent.glob("*CLOUDSHADOW.TIF")
    assert sdiff("map", made.path, "-m", model_path, "-o", tmp_path / "all.tif")[0] == 0
    whole = read(tmp_path / "all.tif")
    for name, options, wanted in (
        ("in", [], cloudy(whole.shape)),
        ("out", ["--mask-values", "0"], ~cloudy(whole.shape) & made.valid),
    ):
        out = tmp_path / f"{name}.tif"
        code, _, said = sdiff("map", made.path, "-m", model_path, "-o", out, "--mask", shadows, *options)
        assert code == 0, said
        with rasterio.open(out) as dataset:
            row, col = round((dataset.transform.f - made.transform.f) / -30), round((dataset.transform.c - 3e5) / 30)
            found = np.zeros_like(whole)
            found[row : row + dataset.height, col : col + dataset.width] = dataset.read(1)
        np.testing.assert_array_equal(found, np.where(wanted, whole, 0))


def test_a_raster_on_the_grid_of_emit(model_path, tmp_path, sdiff):
    made = builders.emit(tmp_path / "product")
    wanted = np.zeros(made.extra[0].shape, np.uint8)
    wanted[4:20, 9:30] = 2
    builders.write_tif(tmp_path / "mask.tif", wanted[..., None], made.crs, made.transform)
    assert sdiff("map", made.path, "-m", model_path, "-o", tmp_path / "all.tif")[0] == 0
    code, _, said = sdiff("map", made.path, "-m", model_path, "-o", tmp_path / "part.tif", "--mask",
                          tmp_path / "mask.tif", "--mask-values", "2,5")  # fmt: skip
    assert code == 0, said
    np.testing.assert_array_equal(read(tmp_path / "part.tif"), read(tmp_path / "all.tif")[4:20, 9:30])


def test_values_that_are_no_numbers(model_path, tmp_path, sdiff):
    made = builders.enmap(tmp_path / "product")
    code, _, said = sdiff("map", made.path, "-m", model_path, "-o", tmp_path / "m.tif", "--mask", made.path,
                          "--mask-values", "a")  # fmt: skip
    assert (code, "--mask-values has 'a': wanted numbers such as 1,2" in said) == (2, True)
