"""Values that are probably no measurements are named, and ordinary scenes are left in peace."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import rasterio

from spectraldiff.data.value_checks import check_data, check_range, scale_doubts, value_doubts
from spectraldiff.datasets import registry
from spectraldiff_runtime.errors import SceneError


@pytest.fixture
def reflectance(tiny_scene):
    return replace(tiny_scene, cube=(tiny_scene.cube / 10_000).astype(np.float32))


def test_ordinary_scenes_have_none(tiny_scene, reflectance):
    assert value_doubts(tiny_scene) == value_doubts(reflectance) == ()
    assert value_doubts(registry.load("indian-pines")) == ()


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


def test_bands_are_called_by_their_number_in_the_file(reflectance):
    reflectance.cube[3, 4, 7] = 1e6
    scene = replace(reflectance, numbers=tuple(range(20, 32)), band_names=("",) * 7 + ("nir",) + ("",) * 4)
    assert "such as 1e+06 in band 27 ('nir') (usual" in value_doubts(scene)[0]
    scene.cube[..., :2] = np.nan
    with pytest.raises(SceneError, match=r"^bands 20, 21 have no data .* with --bands 22-31, or check the file$"):
        check_data(scene)
    scene.cube[:] = np.nan
    with pytest.raises(SceneError, match="has no data in any pixel: see"):
        check_data(scene)


def test_a_band_that_holds_nothing_but_its_nodata_value(reflectance):
    reflectance.cube[..., 4] = -9999
    check_data(reflectance)
    with pytest.raises(SceneError, match=r"^band 5 has no data in any pixel of the scene 'tiny'"):
        check_data(replace(reflectance, nodata=-9999))


def test_what_float32_holds_is_taken(tiny_scene, reflectance):
    for factor in (1e-30, 1, 1e34):
        check_range(replace(reflectance, cube=reflectance.cube.astype(np.float64) * factor))
    check_range(tiny_scene)
    cube = reflectance.cube.astype(np.float64)
    cube[2, 3, 4], cube[..., 1] = 1e-300, 0  # next to ordinary ones, and a band of zeros
    check_range(replace(reflectance, cube=cube))
    cube[..., 1] = 1e-300
    with pytest.raises(SceneError, match=r"no value larger than 1e-300 in band 2, and float32"):
        check_range(replace(reflectance, cube=cube))
    cube[..., 1], cube[2, 3, 4], cube[2, 4, 4] = 0, 3e38, -2e38  # each can be held, and their difference cannot
    with pytest.raises(SceneError, match=r"has a value of 3e\+38 in band 5, and float32"):
        check_range(replace(reflectance, cube=cube))


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
