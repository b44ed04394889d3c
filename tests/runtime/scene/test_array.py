"""Scenes in memory."""

import numpy as np
import pytest

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.scene.array import ArrayScene


def test_an_array_is_the_same_scene(cube):
    scene = ArrayScene(cube)
    assert (scene.height, scene.width, len(scene.bands), scene.dtype) == (29, 37, 7, cube.dtype)
    assert np.shares_memory(scene.read(1, 3, 4, 6), cube)
    np.testing.assert_array_equal(scene.read(1, 3, 4, 6), cube[1:3, 4:6].transpose(2, 0, 1))


def test_bands_of_an_array(cube):
    waves = np.arange(400.0, 407.0)
    scene = ArrayScene(cube, (1, 2, 3, 4, 5, 6, 7), waves).select([7, 1], "chosen")
    assert (scene.bands, scene.nodata, scene.wavelengths.tolist(), scene.note) == ((7, 1), (7, 1), [406, 400], "chosen")
    out = np.empty((2, 1, 3), np.uint16)
    assert scene.read(4, 5, 1, 4, out=out) is out
    np.testing.assert_array_equal(out, cube[4:5, 1:4, [6, 0]].transpose(2, 0, 1))
    assert scene.select([1]).nodata == 1
    assert scene.cube is cube
    assert (scene.mask(0, 1, 0, 1), scene.blocks, dict(scene.bad_bands)) == (None, (1, 37), {})


@pytest.mark.parametrize("values", [np.zeros((3, 4)), np.zeros((3, 0, 2)), np.zeros((3, 4, 2), complex)])
def test_arrays_that_are_no_scene(values):
    with pytest.raises(SceneError, match="wanted"):
        ArrayScene(values)
