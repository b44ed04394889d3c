"""Values that are probably no measurements are named, and ordinary scenes are left in peace."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import rasterio

from spectraldiff import datasets
from spectraldiff.doubtful import scale_doubts, value_doubts
from spectraldiff_runtime.errors import SceneError


@pytest.fixture
def reflectance(tiny_scene):
    return replace(tiny_scene, cube=(tiny_scene.cube / 10_000).astype(np.float32))


def test_ordinary_scenes_have_none(tiny_scene, reflectance):
    assert value_doubts(tiny_scene) == value_doubts(reflectance) == ()
    assert value_doubts(datasets.load("indian-pines")) == ()


def test_missing_pixels_that_nobody_declared(tiny_scene, reflectance):
    reflectance.cube[:5] = -9999
    assert value_doubts(reflectance) == (
        "155 pixels have -9999 in every band: if it means no data, give --nodata -9999",
    )
    assert value_doubts(replace(reflectance, nodata=-9999)) == ()
    cube = tiny_scene.cube.copy()
    cube[0, 0] = 0
    assert value_doubts(replace(tiny_scene, cube=cube))[0].startswith("1 pixel has 0 in every band")


def test_lone_extremes(reflectance):
    reflectance.cube[3, 4, 7] = 1e6
    (line,) = value_doubts(reflectance)
    assert line.startswith("1 pixel has values far from all others, such as 1e+06 in band 8 (usual are 0.")


def test_constant_bands_are_no_doubt_but_a_constant_scene_is_refused(reflectance):
    reflectance.cube[..., 2] = 0
    reflectance.cube[..., 5] = 7
    assert value_doubts(reflectance) == ()
    reflectance.cube[:] = reflectance.cube[0, 0]
    with pytest.raises(SceneError, match=r"the same values in all pixels that have data \(806\): wanted"):
        value_doubts(reflectance)


def test_a_scale_that_is_asked_for_and_not_there(tiny_files, tmp_path):
    (line,) = scale_doubts(tiny_files[0])
    assert line.startswith(f"'{tiny_files[0]}' has neither scale nor offset, so --scaled leaves its values as they are")
    for scale, offset in ((0.5, 0), (1, -1)):
        scene = shutil.copy(tiny_files[0], tmp_path / "scene.tif")
        with rasterio.open(scene, "r+") as dataset:
            dataset.scales, dataset.offsets = [1] * 11 + [scale], [0] * 11 + [offset]
        assert scale_doubts(scene) == ()
