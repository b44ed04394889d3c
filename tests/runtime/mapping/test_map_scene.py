"""The map: the same however it is cut, and the same as the model run on the whole scene at once."""

import warnings

import numpy as np
import pytest
import rasterio

from spectraldiff_runtime import ArrayScene, Model, RasterScene, map_block, map_scene
from spectraldiff_runtime.classes import LandCoverClass, palette
from spectraldiff_runtime.errors import OutputError, SceneError, UsageError
from spectraldiff_runtime.geotiff.class_raster import read_classes
from spectraldiff_runtime.geotiff.spec import Format
from spectraldiff_runtime.model.model_file import seal
from spectraldiff_runtime.output.block import Wanted
from spectraldiff_runtime.output.file_sink import percent_of
from spectraldiff_runtime.tiling import memory_plan
from spectraldiff_runtime.tiling.plan import Plan
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
    monkeypatch.setattr(memory_plan, "_part", lambda *_: (rows, columns))
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
        block = map_block(model, ArrayScene(cube), window, tile=4, batch=2, wanted=Wanted(probabilities=True))
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


def test_numbers_of_numpy_are_numbers(model, write_scene, cube, tmp_path, listing):
    scene = write_scene(values=np.concatenate([cube, cube], axis=2))
    options = {
        "bands": (range(1, 8), np.arange(1, 8)), "tile": (8, np.int64(8)), "batch": (2, np.uint8(2)),
        "min_confidence": (0.5, np.float32(0.5)), "nodata": (3, np.int16(3)), "max_memory": (10**9, np.int64(10**9)),
        "window": ((1, 2, 20, 21), np.array([1, 2, 20, 21])), "percent": (True, np.bool_(True)),
        "form": (Format("GTiff", 64), Format("GTiff", np.int64(64))),
    }  # fmt: skip
    out, beside = tmp_path / "classes.tif", {"confidence": tmp_path / "confidence.tif"}
    map_scene(model, scene, out, **{name: plain for name, (plain, _) in options.items()}, **beside)
    wanted = listing()
    numbers = {name: number for name, (_, number) in options.items()}
    assert map_scene(model, scene, out, **numbers, **beside, resume=True).skipped
    map_scene(model, scene, out, **numbers, **beside, overwrite=True)
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
    for files in ({"out": name}, {"out": "classes.tif", "confidence": name}, {"out": "c.TIFF", "probabilities": name}):
        with pytest.raises(OutputError, match=r"wanted \.tif or \.tiff"):
            map_scene(model, tmp_path / "no-scene.tif", **{key: tmp_path / path for key, path in files.items()})


@pytest.mark.parametrize(("bands", "words"), [(9, "such as --bands 1-7"), (5, "5 bands in use and the model wants 7")])
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
    assert percent_of(values).tolist() == [0, 1, 1, 1, 50, 100, 100]


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


def test_the_profile_adds_up(model, write_scene, tmp_path):
    result = map_scene(model, write_scene(), tmp_path / "classes.tif", tile=8)
    stages = {row["stage"]: row for row in result.as_dict()["profile"]}
    assert list(stages) == ["read", "gather", "infer", "write", "finish"]
    assert all(row["pixels"] == 29 * 37 for name, row in stages.items() if name != "read")
    assert stages["read"]["bytes"] == 29 * 37 * 7 * 2
    assert result.bounding_stage in result.profile
    for row in stages.values():
        assert 0 <= row["busy_s"] + row["waiting_for_input_s"] + row["waiting_for_room_s"] <= result.seconds * 1.01


@pytest.mark.parametrize(("rows", "columns"), [(8, 1000), (8, 8), (1, 1), (5, 16)])
def test_every_pixel_is_read_once(model, laid_out_scene, monkeypatch, rows, columns):
    monkeypatch.setattr(memory_plan, "_part", lambda *_: (rows, columns))
    result = map_scene(model, laid_out_scene, tile=8)
    assert result.profile[0]["bytes"] == 29 * 37 * 7 * 2


def test_a_finished_map_is_left_alone_with_resume(model, write_scene, tmp_path, listing):
    scene, out = write_scene(), tmp_path / "classes.tif"
    first = map_scene(model, scene, out, resume=True)
    before = listing()
    again = map_scene(model, scene, out, resume=True)
    assert (first.skipped, again.skipped) == (False, True)
    assert again.pixels == first.pixels
    assert listing() == before
    with pytest.raises(OutputError, match="--overwrite"):
        map_scene(model, scene, out, resume=True, min_confidence=0.3)
    with pytest.raises(OutputError, match="--overwrite"):
        map_scene(model, scene, out)
    assert listing() == before


def copied(source, target):
    """Put a map's raster, with what lies beside it, in the place of another."""
    target.write_bytes(source.read_bytes())


@pytest.mark.parametrize("name", ["confidence", "probabilities", "preview"])
def test_files_beside_a_finished_map_must_be_its_own(model, write_scene, cube, tmp_path, listing, name):
    first, second = write_scene(), write_scene("b.tif", values=cube[::-1])
    for scene, folder in ((first, tmp_path / "a"), (second, tmp_path / "b")):
        folder.mkdir()
        layers = {"confidence": folder / "c.tif", "probabilities": folder / "p.tif", "preview": folder / "m.png"}
        map_scene(model, scene, folder / "classes.tif", **layers)
        assert map_scene(model, scene, folder / "classes.tif", **layers, resume=True).skipped
    other = layers[name]
    copied(other, tmp_path / "a" / other.name)
    before = listing()
    layers = {key: tmp_path / "a" / path.name for key, path in layers.items()}
    words = "another map" if name == "preview" else "another scene: other name"
    with pytest.raises(OutputError, match=f"{other.name}' belongs to .*{words}.*replace it with --overwrite"):
        map_scene(model, first, tmp_path / "a" / "classes.tif", **layers, resume=True)
    assert listing() == before


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"min_confidence": 0.3}, r"another least confidence \(0.0; now 0.3\)"),
        ({"nodata": 7}, r"another scene: other nodata"),
        ({"window": (0, 0, 5, 5)}, r"another window \(\[0, 29, 0, 37\]; now \[0, 5, 0, 5\]\)"),
        ({"confidence": "c.tif"}, r"another set of outputs"),
        ({"percent": True}, r'another confidence type \("float32"; now "uint8"\)'),
        ({"form": Format("GTiff")}, r'another format: other driver \("COG"; now "GTiff"\)'),
    ],
)
def test_a_finished_map_of_other_options_says_which(model, write_scene, tmp_path, changed, words):
    scene, out = write_scene(), tmp_path / "classes.tif"
    map_scene(model, scene, out, resume=True)
    if "confidence" in changed:
        changed = {"confidence": tmp_path / changed["confidence"]}
    with pytest.raises(OutputError, match=f"classes.tif' belongs to a map with {words}.*: choose another name"):
        map_scene(model, scene, out, resume=True, **changed)


def test_a_finished_map_without_a_record_is_no_one_s(model, write_scene, tmp_path):
    scene, out = write_scene(), write_scene("classes.tif")
    with pytest.raises(OutputError, match=r"classes.tif' belongs to another map, or to none"):
        map_scene(model, scene, out, resume=True)


class InterruptError(Exception):
    """Stands for whatever ends a map early."""


def stop_after(pixels):
    """Return a progress callback that ends the map when so many pixels are done."""
    total = 0

    def progress(done):
        nonlocal total
        total += done
        if total >= pixels:
            raise InterruptError

    return progress


@pytest.mark.parametrize("pixels", [1, 300, 800])
def test_a_map_that_was_cut_off_goes_on_and_is_the_same(model, write_scene, tmp_path, listing, pixels):
    scene = write_scene()
    layers = {"confidence": tmp_path / "c.tif", "probabilities": tmp_path / "p.tif", "preview": tmp_path / "m.png"}
    out = tmp_path / "classes.tif"
    map_scene(model, scene, out, **layers, tile=4)
    whole = listing()
    for path in (out, *layers.values(), out.with_name("classes.tif.aux.xml")):
        path.unlink()
    with pytest.raises(InterruptError):
        map_scene(model, scene, out, **layers, tile=4, resume=True, progress=stop_after(pixels))
    assert not out.exists()
    assert (tmp_path / "classes.tif.unfinished" / "journal").exists()
    seen = []
    map_scene(model, scene, out, **layers, tile=9, resume=True, started=lambda scene, region, plan: seen.append(plan))
    assert seen[0].tile == 4  # it goes on as it was begun
    assert listing() == whole


def test_a_map_that_was_interrupted_leaves_nothing_unless_asked(model, write_scene, tmp_path, listing):
    scene = write_scene()
    before = listing()
    with pytest.raises(InterruptError):
        map_scene(model, scene, tmp_path / "classes.tif", tile=4, progress=stop_after(1))
    assert listing() == before


def test_panels_of_a_plan_are_kept_on_resume():
    plan = Plan(4, 1, 8, 16, 10, 4)
    assert Plan.of(plan.as_dict()) == plan


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
