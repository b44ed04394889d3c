"""Scenes in another unit than the model's are mapped with one line about it."""

import numpy as np
import pytest

from spectraldiff_runtime import map_scene
from spectraldiff_runtime.mapping.dask_cluster import ClusterOptions


def warnings_of(model, scene, **options):
    said = []
    map_scene(model, scene, tile=8, warn=said.append, **options)
    return said


@pytest.mark.parametrize(
    ("factor", "words"), [(1e-4, "1/10,000 of those"), (0.01, "1/100 of those"), (100, "100 times those")]
)
def test_values_in_another_unit_are_said_once(model, cube, factor, words):
    said = warnings_of(model, cube * np.float32(factor))
    assert len(said) == 1
    assert said[0].startswith(f"the values of 'array' are about {words} that the model was trained on, in all bands")


@pytest.mark.parametrize("factor", [0.2, 1, 5])
def test_bright_and_dark_scenes_are_none(model, cube, factor):
    assert warnings_of(model, cube * np.float32(factor)) == []


def test_one_band_as_usual_is_enough(model, cube):
    dark = cube.astype(np.float32)
    dark[:, :, 1:] *= 1e-3  # water is dark in most bands, and not in blue
    assert warnings_of(model, dark) == []


def test_what_has_no_data_does_not_tell(model, cube):
    """Zeros that nobody called nodata, missing pixels and negative values at the scene's beginning."""
    values = cube * np.float32(1e-4)
    values[:8] = 0
    values[8:16] = -9999
    assert len(warnings_of(model, values, nodata=-9999)) == 1
    assert warnings_of(model, np.full((8, 8, 7), -3, np.int16)) == []


def test_a_cluster_says_it_too(model, write_scene, cube):
    scene = write_scene(values=cube * np.float32(1e-4))
    assert warnings_of(model, scene, cluster=ClusterOptions(None, 1, 1)) == warnings_of(model, scene)
