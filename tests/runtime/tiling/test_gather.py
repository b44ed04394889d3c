"""Kernels against slow twins that anyone can check by reading."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from spectraldiff_runtime.scene.nodata import native_nodata
from spectraldiff_runtime.tiling.gather import BANDS, PIXELS, ROWS, _gather, gather_tiles
from spectraldiff_runtime.window import Window, source_window, tiles_of

DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"]


def mirrored(i: int, n: int) -> int:
    """Walk from 0 to i between the walls 0 and n - 1, one step at a time."""
    at, step = 0, 1
    for _ in range(abs(i)):
        if n == 1:
            return 0
        if not 0 <= at + step < n:
            step = -step
        at += step
    return at


def twin(scene, tiles, halo, fill, nodata, size, mask=None):
    """Gather pixel by pixel from a whole scene (B, H, W)."""
    bands, height, width = scene.shape
    batch = np.empty((len(tiles), bands, size[0] + 2 * halo, size[1] + 2 * halo), np.float32)
    valid = np.zeros((len(tiles), *size), bool)
    for n, tile in enumerate(tiles):
        for y in range(batch.shape[2]):
            for x in range(batch.shape[3]):
                good = y < tile.height + 2 * halo and x < tile.width + 2 * halo
                if good:
                    row = mirrored(tile.row0 - halo + y, height)
                    col = mirrored(tile.col0 - halo + x, width)
                    spectrum = scene[:, row, col]
                    with np.errstate(over="ignore"):
                        as_float = spectrum.astype(np.float32)
                    good = bool(np.isfinite(as_float).all())
                    missing = nodata if isinstance(nodata, tuple) else [nodata] * bands
                    good = good and not any(v == m for v, m in zip(spectrum.tolist(), missing, strict=True))
                    good = good and (mask is None or bool(mask[row, col]))
                batch[n, :, y, x] = as_float if good else fill
                if halo <= y < tile.height + halo and halo <= x < tile.width + halo:
                    valid[n, y - halo, x - halo] = good
    return batch, valid


def both(scene, window, tile, halo, nodata=None, size=None, mask=None):
    """Run kernel and twin on a scene (B, H, W); the kernel sees only the block that it is promised."""
    height, width = scene.shape[1:]
    fill = np.linspace(3, 4, scene.shape[0], dtype=np.float32)
    tiles = tiles_of(window, tile)
    need = source_window(window, halo, height, width)
    block = scene[:, need.row0 : need.row1, need.col0 : need.col1]
    side = size or (max(t.height for t in tiles), max(t.width for t in tiles))
    part = None if mask is None else mask[need.row0 : need.row1, need.col0 : need.col1]
    found = gather_tiles(block, (need.row0, need.col0), (height, width), tiles, halo, fill, nodata, size, part)
    return found, twin(scene, tiles, halo, fill, nodata, side, mask)


def assert_same(found, wanted):
    assert found[0].dtype == np.float32
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_array_equal(found[1], wanted[1])


def random_scene(dtype, shape=(3, 9, 11), seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 100, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_with_nodata(dtype):
    scene = random_scene(dtype)
    scene[1, 4, 5] = scene[2, 0, 0] = 77
    assert_same(*both(scene, Window(0, 9, 0, 11), 4, 2, nodata=77))


@pytest.mark.parametrize("order", ["big", "half", "bip", "bil", "fortran", "reversed"])
def test_every_memory_order(order):
    scene = random_scene("int16")
    view = {
        "big": lambda: scene.astype(">i2"),
        "half": lambda: (scene / 100).astype("float16"),
        "bip": lambda: np.ascontiguousarray(scene.transpose(1, 2, 0)).transpose(2, 0, 1),
        "bil": lambda: np.ascontiguousarray(scene.transpose(1, 0, 2)).transpose(1, 0, 2),
        "fortran": lambda: np.asfortranarray(scene),
        "reversed": lambda: scene[::-1, ::-1, ::-1],
    }[order]()
    assert_same(*both(view, Window(0, 9, 0, 11), 5, 2, nodata=-5))


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 2, 0), (2, 0, 1)])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_more_bands_rows_and_columns_than_are_taken_together(order, dtype):
    scene = random_scene(dtype, (2 * BANDS + 5, 2 * ROWS + 3, 2 * PIXELS + 3))
    scene[BANDS + 1, ROWS, PIXELS] = scene[-1, -1, -1] = 7
    if dtype == "float32":
        scene[2, 3, 4] = np.nan
    laid_out = np.ascontiguousarray(scene.transpose(order)).transpose(np.argsort(order))
    found, wanted = both(laid_out, Window(0, scene.shape[1], 1, scene.shape[2]), scene.shape[1], 2, nodata=7)
    assert_same(found, wanted)
    assert (~found[1]).any()


def test_steps_that_are_no_order_of_axes():
    scene = random_scene("int16", (6, 9, 11))
    packed = np.zeros(scene.shape, [("skipped", "i1"), ("value", "i2")])
    packed["value"] = scene
    for view in (
        np.ascontiguousarray(scene.transpose(1, 2, 0)).transpose(2, 0, 1)[::2],
        scene[:, ::2, ::2],
        packed["value"],
        np.broadcast_to(scene[:1], scene.shape),
    ):
        assert_same(*both(view, Window(0, view.shape[1], 0, view.shape[2]), 4, 2, nodata=-5))


@pytest.mark.parametrize("window", [(0, 4, 0, 4), (5, 9, 7, 11), (3, 6, 3, 6), (0, 9, 0, 11), (8, 9, 10, 11)])
@pytest.mark.parametrize("halo", [0, 1, 3, 8, 25])
def test_edges_are_reflected(window, halo):
    assert_same(*both(random_scene("uint16"), Window(*window), 3, halo))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 1), (2, 2), (2, 5)])
@pytest.mark.parametrize("halo", [0, 2, 7])
def test_scenes_smaller_than_the_halo(size, halo):
    assert_same(*both(random_scene("uint8", (2, *size)), Window(0, size[0], 0, size[1]), 4, halo))


def test_reflection_is_numpys():
    scene = random_scene("float32", (2, 5, 6))
    (batch, _), _ = both(scene, Window(0, 5, 0, 6), 6, 4)
    np.testing.assert_array_equal(batch[0], np.pad(scene, ((0, 0), (4, 4), (4, 4)), "reflect"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_that_are_not_finite_have_no_data(dtype, value):
    scene = random_scene(dtype)
    scene[0, 2, 2] = scene[2, 8, 10] = value
    found, wanted = both(scene, Window(0, 9, 0, 11), 4, 1)
    assert_same(found, wanted)
    assert (~found[1]).sum() >= 2
    assert np.isfinite(found[0]).all()


def test_a_double_beyond_float32_has_no_data():
    scene = random_scene("float64")
    scene[1, 3, 3] = 1e300
    found, wanted = both(scene, Window(0, 9, 0, 11), 11, 0)
    assert_same(found, wanted)
    assert not found[1][0, 3, 3]


def test_one_band_without_data_is_enough():
    scene = np.ones((3, 4, 4), np.uint16)
    scene[2, 1, 2] = 0
    (batch, valid), _ = both(scene, Window(0, 4, 0, 4), 4, 0, nodata=0)
    assert not valid[0, 1, 2]
    assert valid.sum() == 15
    np.testing.assert_array_equal(batch[0, :, 1, 2], np.linspace(3, 4, 3, dtype=np.float32))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize("nodata", [(77, None, 78), (None, -1.5, 1e300), (None, None, None), (77, 77, float("nan"))])
def test_nodata_of_each_band(dtype, nodata):
    scene = random_scene(dtype)
    scene[0, 1, 1], scene[1, 2, 2], scene[2, 3, 3], scene[2, 4, 4] = 77, 77, 78, 77
    assert_same(*both(scene, Window(0, 9, 0, 11), 5, 2, nodata=nodata))


@pytest.mark.parametrize("window", [(0, 9, 0, 11), (5, 9, 7, 11)])
def test_a_mask(window):
    mask = np.random.default_rng(0).random((9, 11)) < 0.7
    found, wanted = both(random_scene("uint16"), Window(*window), 4, 3, nodata=5, mask=mask)
    assert_same(found, wanted)
    assert (~found[1]).any()
    for view in (mask.astype(np.uint8) > 0, np.asfortranarray(mask), mask[::-1].copy()[::-1]):
        assert_same(both(random_scene("uint16"), Window(*window), 4, 3, nodata=5, mask=view)[0], wanted)


def test_several_threads_at_once():
    scene, fill = random_scene("uint16", (2, 9, 9)), np.zeros(2, np.float32)
    arguments = (scene, (0, 0), (9, 9), [Window(0, 9, 0, 9)], 2, fill, None)
    wanted = twin(scene, *arguments[3:], (9, 9))
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: gather_tiles(*arguments), range(100)):
            assert_same(found, wanted)


def test_surplus_of_a_padded_batch_is_fill_without_data():
    found, wanted = both(random_scene("int32"), Window(0, 3, 0, 11), 8, 2, size=(8, 8))
    assert_same(found, wanted)
    assert found[1][0, :3].all()
    assert not found[1][0, 3:].any()


@pytest.mark.parametrize(
    ("nodata", "dtype", "wanted"),
    [
        (None, "uint8", None), (255, "uint8", 255), (255.0, "uint8", 255), (256, "uint8", None),
        (-9999, "uint16", None), (-9999, "int16", -9999), (1.5, "int16", None), (np.nan, "float32", None),
        (np.inf, "int32", None), (2**53 + 1, "int64", 2**53 + 1), (1e300, "float32", None),
        (-3.4028234663852886e38, "float32", np.finfo("float32").min), (0.1, "float32", np.float32(0.1)),
    ],
)  # fmt: skip
def test_nodata_in_the_type_of_the_data(nodata, dtype, wanted):
    assert native_nodata(nodata, np.dtype(dtype)) == wanted


def test_large_integers_are_compared_exactly():
    scene = np.array([[[2**53, 2**53 + 1]]], np.int64)
    (_, valid), _ = both(scene, Window(0, 1, 0, 2), 2, 0, nodata=2**53 + 1)
    assert valid.tolist() == [[[True, False]]]


@pytest.mark.parametrize(
    "arguments",
    [
        {"block": np.zeros((2, 3), np.uint8)},
        {"block": np.zeros((2, 3, 3), complex)},
        {"fill": np.zeros(3, np.float32)},
        {"tiles": []},
        {"tiles": [Window(0, 3, 0, 3)], "halo": 1, "scene_size": (9, 9)},
        {"size": (2, 2)},
        {"nodata": (1, None, 2)},
        {"mask": np.ones((3, 4), bool)},
    ],
)
def test_what_does_not_fit_is_refused(arguments):
    good = {
        "block": np.zeros((2, 3, 3), np.uint8), "origin": (0, 0), "scene_size": (3, 3),
        "tiles": [Window(0, 3, 0, 3)], "halo": 0, "fill": np.zeros(2, np.float32), "nodata": None,
    }  # fmt: skip
    gather_tiles(**good)
    with pytest.raises(ValueError):  # noqa: PT011 (each has its own words, none of them a contract)
        gather_tiles(**{**good, **arguments})


WARMED = """
import sys
from spectraldiff_runtime import Model, RasterScene, map_scene
from spectraldiff_runtime.tiling.gather import _gather_serial
from spectraldiff_runtime.mapping.stages import warm_up
scene, model = sys.argv[1:]
with RasterScene(scene) as opened:
    warm_up(opened, 12, 1)
warmed = len(_gather_serial.signatures)
map_scene(Model.open(model, "cpu"), scene, tile=8)
print(warmed, len(_gather_serial.signatures))
"""


@pytest.mark.skipif(bool(os.environ.get("NUMBA_DISABLE_JIT")), reason="nothing is compiled then")
def test_warming_up_compiles_what_a_map_needs(python, model_path, write_scene):
    """In a process of its own, where nothing else has compiled anything."""
    done = python("-c", WARMED, write_scene(), model_path)
    assert done.stdout == "1 1\n", done.stdout + done.stderr


@pytest.mark.skipif(bool(os.environ.get("NUMBA_DISABLE_JIT")), reason="this is the run without the JIT")
def test_the_same_without_the_jit(python):
    assert hasattr(_gather, "signatures")  # compiled here, plain Python there
    done = python("-m", "pytest", "-p", "no:cacheprovider", Path(__file__), env={"NUMBA_DISABLE_JIT": "1"})
    assert done.returncode == 0, done.stdout[-2000:]
    assert " passed" in done.stdout
