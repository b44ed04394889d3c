"""Arguments of `map_scene`: what is taken and what is refused."""

import numpy as np
import pytest

from spectraldiff_runtime import RasterScene, map_scene
from spectraldiff_runtime.errors import OutputError, SceneError, UsageError
from spectraldiff_runtime.geotiff.spec import Format


@pytest.mark.parametrize(
    ("bands", "words"),
    [
        (range(7), "has 7 bands and --bands asks for band 0: choose from 1-7"),
        (range(2, 9), "asks for band 8: choose from 1-7"),
        ([-1] * 7, "asks for band -1"),
        ([1, 2, 3, 4, 5, 6, 6], "asks for band 6 of .* twice"),
        ([], "has 7 bands and none is chosen: choose from 1-7"),
        ([1.0] * 7, "bands is .*: wanted whole numbers"),
        ("1-7", "bands is '1-7': wanted whole numbers"),
        (7, "bands is 7: wanted whole numbers"),
    ],
)
def test_bands_that_are_not_there(model, write_scene, cube, bands, words):
    for scene in (cube, write_scene()):
        with pytest.raises((SceneError, UsageError), match=words):
            map_scene(model, scene, bands=bands)


def test_numbers_of_numpy_are_numbers(model, write_scene, cube, tmp_path, listing):
    scene = write_scene(values=np.concatenate([cube, cube], axis=2))
    options = {
        "bands": (range(1, 8), np.arange(1, 8)), "tile": (8, np.int64(8)), "batch": (2, np.uint8(2)),
        "min_confidence": (0.5, np.float32(0.5)), "nodata": (3, np.int16(3)), "max_memory": (10**9, np.int64(10**9)),
        "window": ((1, 2, 20, 21), np.array([1, 2, 20, 21])), "percent": (True, np.bool_(True)),
        "form": (Format("GTiff", 64), Format("GTiff", np.int64(64))),
    }  # fmt: skip
    out, layers = tmp_path / "classes.tif", {"confidence": tmp_path / "confidence.tif"}
    map_scene(model, scene, out, **{name: plain for name, (plain, _) in options.items()}, **layers)
    wanted = listing()
    numbers = {name: number for name, (_, number) in options.items()}
    assert map_scene(model, scene, out, **numbers, **layers, resume=True).skipped
    map_scene(model, scene, out, **numbers, **layers, overwrite=True)
    assert listing() == wanted
    west, north = 480_000.0, 4_470_000.0
    bounds = np.array([west, north - 100, west + 60, north], np.float32)
    assert map_scene(model, scene, bands=range(1, 8), bounds=bounds).classes.shape == (5, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tile": 9.5}, "tile is 9.5: wanted a whole number"),
        ({"tile": "8"}, "tile is '8': wanted a whole number"),
        ({"batch": 2.0}, "batch is 2.0: wanted a whole number"),
        ({"max_memory": "1GB"}, "max_memory is '1GB': wanted a whole number"),
        ({"min_confidence": "half"}, "min_confidence is 'half': wanted a number"),
        ({"nodata": "x"}, "nodata is 'x': wanted a number, 'file'"),
        ({"nodata": [1, 2]}, "nodata is .*: wanted a number"),
        ({"window": (0.5, 0, 5, 5)}, "window is .*: wanted COL ROW WIDTH HEIGHT, four whole numbers"),
        ({"window": (0, 0, 5)}, "wanted COL ROW WIDTH HEIGHT, four whole numbers"),
        ({"window": "0 0 5 5"}, "window is '0 0 5 5': wanted COL ROW"),
        ({"window": 5}, "window is 5: wanted COL ROW"),
        ({"bounds": ("a", 0, 1, 1)}, "bounds is .*: wanted W S E N, four numbers"),
        ({"bounds": (0, 0, 1)}, "wanted W S E N, four numbers"),
        ({"form": Format(blocksize=512.0)}, "blocksize is 512.0: wanted a whole number"),
    ],
)
def test_options_of_other_types(model, write_scene, tmp_path, listing, options, words):
    path = write_scene()
    before = listing()
    with pytest.raises(UsageError, match=words) as caught:
        map_scene(model, path, tmp_path / "classes.tif", **options)
    assert "\n" not in str(caught.value)
    assert listing() == before


def test_something_else_than_a_scene(model, cube):
    with pytest.raises(UsageError, match="the scene is a list: wanted a raster's path"):
        map_scene(model, cube.tolist())


@pytest.mark.parametrize("name", ["classes.png", "classes.shp", "classes.xyz"])
def test_rasters_have_the_suffix_of_one(model, tmp_path, name):
    own = {"out": "classes.jpg"} if name.endswith(".png") else {"out": name}
    for files in (own, {"out": "classes.tif", "confidence": name}, {"out": "c.TIFF", "probabilities": name}):
        words = r"\.gpkg, \.png, \.nc or \.zarr" if files is own else r"wanted \.tif or \.tiff"
        with pytest.raises(OutputError, match=words):
            map_scene(model, tmp_path / "no-scene.tif", **{key: tmp_path / path for key, path in files.items()})


@pytest.mark.parametrize(
    ("bands", "words"),
    [(9, "name the 7 bands that it was trained"), (5, "5 bands in use and the model wants 7")],
)
def test_wrong_band_count(model, bands, words):
    with pytest.raises(SceneError, match=words):
        map_scene(model, np.zeros((4, 4, bands), np.uint8))


@pytest.mark.parametrize(
    "options",
    [
        {"tile": 0}, {"batch": 0}, {"preview": "x.png"}, {"confidence": "x.tif"},
        {"out": "y.tif", "probabilities": True}, {"out": "y.tif", "confidence": True}, {"percent": True},
        {"min_confidence": 1.5}, {"min_confidence": -0.1}, {"resample_bands": True},
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


def test_the_scene_is_never_overwritten(model, write_scene, listing):
    path = write_scene()
    before = listing()
    with pytest.raises(OutputError, match="the same file as the input"):
        map_scene(model, path, path, overwrite=True)
    assert listing() == before
