"""Where, when and how the scenes of a training were taken."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio

from spectraldiff.data.origin import origin_facts
from spectraldiff.data.scene import LabelledScene
from spectraldiff_runtime.classes import LandCoverClass

CLASSES = (LandCoverClass(1, "a", (1, 2, 3)), LandCoverClass(2, "b", (4, 5, 6)))


@pytest.fixture
def scene():
    return LabelledScene(
        "one", np.zeros((50, 100, 3), np.uint16), np.zeros((50, 100), np.uint8), CLASSES, crs="EPSG:32616",
        transform=(20, 0, 500_000, 0, -30, 4_470_000), acquired="1992-06-12", band_names=("b1", "", "b3"),
    )  # fmt: skip


def test_one_scene(scene):
    found = origin_facts([scene])
    west, south, east, north = found["bounds"]
    assert (west, north) == (pytest.approx(-87, abs=1e-5), pytest.approx(40.38, abs=0.01))
    assert (east - west, north - south) == (
        pytest.approx(2000 / 84_900, rel=0.01),
        pytest.approx(1500 / 111_000, rel=0.01),
    )
    assert found["pixel_size"] == (20, 30)
    assert (found["acquired"], found["stored"]) == ("1992-06-12", "uint16")
    assert (found["scales"], found["offsets"]) == (None, None)
    assert found["band_names"] == ["b1", "", "b3"]


def test_several_scenes_say_what_they_share(scene):
    east = replace(scene, transform=(20, 0, 510_000, 0, -30, 4_470_000), acquired="1993-01-01")
    found = origin_facts([scene, east])
    assert found["bounds"][0] == origin_facts([scene])["bounds"][0]
    assert found["bounds"][2] == origin_facts([east])["bounds"][2]
    assert (found["pixel_size"], found["acquired"]) == ((20, 30), "")


def test_scale_and_offset_of_the_file(write_scene, tmp_path):
    path, labels = write_scene(), tmp_path / "labels.tif"
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.0001,) * 7, (0.0, 0.5) + (0.0,) * 5
        profile = {**dataset.profile, "count": 1, "dtype": "uint8"}
    with rasterio.open(labels, "w", **profile) as dataset:
        dataset.write(np.tile(np.uint8([1, 2]), (29, 19))[None, :, :37])
    found = LabelledScene.from_files(path, labels)
    assert origin_facts([found])["scales"] == [0.0001] * 7
    assert origin_facts([found])["offsets"] == [0, 0.5, 0, 0, 0, 0, 0]
    assert origin_facts([found, replace(found, scaling=None)])["scales"] is None


def test_what_is_not_known_is_none(scene):
    bare = replace(scene, crs=None, transform=None, band_names=(), acquired="")
    found = origin_facts([bare])
    assert (found["bounds"], found["pixel_size"], found["acquired"], found["band_names"]) == (None, None, "", None)
    assert origin_facts([scene, bare])["bounds"] is None
    degrees = replace(scene, crs="EPSG:4326", transform=(0.1, 0, 10, 0, -0.1, 50))
    assert origin_facts([degrees])["pixel_size"] is None
    assert origin_facts([degrees])["bounds"] == [10, 45, 20, 50]
