"""A user's own files train to the accuracy of the built-in data set, to the last digit."""

import numpy as np
import rasterio

from benchmarks.own_data import SAME, part_of, train_both
from spectraldiff.data.label_vectors import is_vector
from spectraldiff.datasets import registry
from spectraldiff.training.compute import Compute


def test_geotiff_and_polygons_in_another_crs_train_like_the_built_in_scene(tiny_preset, tmp_path):
    part = part_of(registry.load("indian-pines"), slice(20, 70), slice(20, 80))
    assert len(part.classes) >= 5
    preset = tiny_preset.changed(features="raw", epochs=6)
    built_in, own = train_both(part, tmp_path, preset, "per-class:12", 1, Compute())
    assert is_vector(tmp_path / "labels.gpkg")
    for one in own["labels"]:
        assert one.pop("polygons") > 0
    for one in built_in["labels"]:
        assert one.pop("polygons") is None
    assert {key: built_in[key] for key in SAME} == {key: own[key] for key in SAME}
    assert own["accuracy"]["oa"] > 0.35
    pixels = []
    for name in ("built-in", "own"):
        with rasterio.open(tmp_path / name / "train_pixels.tif") as dataset:
            pixels.append(dataset.read(1))
            assert dataset.transform == rasterio.Affine(*part.transform)
    np.testing.assert_array_equal(*pixels)
