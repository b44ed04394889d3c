"""Scenes that overlap: what trains in one of them is known in the other, whatever their grids and CRS."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import shapely

from spectraldiff.data.scene import LabelledScene
from spectraldiff.splits import overlap
from spectraldiff.splits.draw import Geometry, make_splits
from spectraldiff.splits.leakage import with_leakage
from spectraldiff.splits.overlap import near_trained_elsewhere
from spectraldiff.training.trainer import Training
from spectraldiff_runtime.errors import LabelsError
from spectraldiff_runtime.geo.georeference import Georeference, apply_transform
from spectraldiff_runtime.geo.reprojection import reproject_points

SHAPE = (24, 30)


def place_of(left=500_000.0, top=5_400_000.0, pixel=20.0, turned=0.0, crs="EPSG:32632", down=-1):
    a, b = pixel * math.cos(turned), pixel * math.sin(turned)
    return Georeference.of(crs, (a, b, left, b, down * a, top))


OWN = place_of()


def in_crs(place, crs):
    """Return a grid in another CRS that has about the pixels of `place`."""
    corners = np.array([apply_transform(place.transform, *at) for at in ((0, 0), (1, 0), (0, 1))])
    (x, y), right, lower = reproject_points(
        corners, rasterio.crs.CRS.from_user_input(place.crs), rasterio.crs.CRS.from_user_input(crs)
    )
    return Georeference.of(crs, (right[0] - x, lower[0] - x, x, right[1] - y, lower[1] - y, y))


PLACES = {
    "the same grid": OWN,
    "some pixels off": place_of(500_100.0, 5_399_900.0),
    "half a pixel off": place_of(500_110.0, 5_399_890.0),
    "coarser": place_of(500_100.0, 5_399_900.0, 60.0),
    "coarser, between": place_of(500_033.0, 5_400_041.0, 47.0),
    "finer": place_of(500_100.0, 5_399_900.0, 10.0),
    "turned": place_of(500_100.0, 5_399_900.0, 20.0, 0.6),
    "turned and coarser": place_of(500_100.0, 5_399_900.0, 50.0, math.pi / 4),
    "south up": place_of(500_100.0, 5_399_500.0, down=1),
    "another zone": in_crs(place_of(500_100.0, 5_399_900.0), "EPSG:32633"),
    "degrees": in_crs(place_of(500_100.0, 5_399_900.0, 30.0), "EPSG:4326"),
}  # fmt: skip


def covered_by(mask, place, target):
    """Return the outlines of a mask's pixels in the target's pixel coordinates, by its corners."""
    rows, columns = np.nonzero(mask)
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    points = np.stack([columns, rows], 1)[:, None] + corners  # (n, 4, 2)
    moved = np.stack(apply_transform(place.transform, *points.reshape(-1, 2).T), 1)
    moved = reproject_points(moved, *(rasterio.crs.CRS.from_user_input(p.crs) for p in (place, target)))
    return shapely.polygons(np.stack(apply_transform(~target.transform, *moved.T), 1).reshape(points.shape))


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("block", [7, overlap.BLOCK])
def test_the_pixels_that_another_scene_covers(name, block, monkeypatch):
    """All that lie in it, and none that it does not reach."""
    monkeypatch.setattr(overlap, "BLOCK", block)
    train = np.random.default_rng(1).random((26, 22)) < 0.3
    found = near_trained_elsewhere(0, [np.zeros(SHAPE, bool), train], [OWN, PLACES[name]], 0)
    covered = shapely.union_all(shapely.buffer(covered_by(train, PLACES[name], OWN), 1e-3, join_style="mitre"))
    pixels = shapely.box(*np.meshgrid(np.arange(30), np.arange(24)), *np.meshgrid(np.arange(1, 31), np.arange(1, 25)))
    shapely.prepare(covered)
    assert found.shape == SHAPE
    assert found.any()
    assert found[shapely.contains(covered, pixels)].all()
    assert shapely.area(shapely.intersection(covered, pixels[found])).min() > 0.01
    if name in ("the same grid", "some pixels off", "coarser", "south up"):
        np.testing.assert_array_equal(found, shapely.contains(covered, pixels))


def test_training_pixels_beyond_the_edge_is_as_near_as_any():
    train = np.zeros((4, 4), bool)
    train[1, 2] = True
    next_to = place_of(500_000.0 + 20 * 30, 5_400_000.0 - 20 * 5)  # the next column is this scene's first
    georeferences, trains = [OWN, next_to], [np.zeros(SHAPE, bool), train]
    assert near_trained_elsewhere(0, trains, georeferences, 2) is None
    wanted = np.zeros(SHAPE, bool)
    wanted[3:10, 29] = True
    np.testing.assert_array_equal(near_trained_elsewhere(0, trains, georeferences, 3), wanted)


def test_scenes_that_do_not_overlap():
    train = np.ones(SHAPE, bool)
    elsewhere = [
        place_of(900_000.0),
        place_of(crs="EPSG:32660"),
        place_of(crs=None),
        Georeference(),
        Georeference.of("EPSG:32632", (0, 0, 5e5, 0, 0, 5.4e6)),
    ]
    for other in elsewhere:
        assert near_trained_elsewhere(0, [train, train], [OWN, other], 5) is None
        assert near_trained_elsewhere(0, [train, train], [other, OWN], 5) is None
    assert near_trained_elsewhere(0, [train], [OWN], 5) is None
    unknown = place_of(crs=None)
    assert near_trained_elsewhere(0, [train, train], [unknown, unknown], 0).all()


def labels_of(seed):
    """Return fields of three classes with a number for each, and gaps."""
    values = np.random.default_rng(seed).integers(1, 4, (8, 10))
    labels = np.kron(values, np.ones((6, 6), np.uint8)).astype(np.uint8)
    groups = np.kron(np.arange(1, 81).reshape(8, 10), np.ones((6, 6), np.int32))
    labels[::6] = labels[:, ::6] = 0
    return labels, np.where(labels > 0, groups, 0)


def world_distance(split_a, split_b, columns):
    """Return how near a test pixel of the first comes to a training pixel of the second, so many columns east of it."""
    tests, trains = np.argwhere(split_a.test), np.argwhere(split_b.train) + np.array([0, columns])
    return min(int(np.abs(trains - pixel).max(axis=1).min()) for pixel in tests)


LINES = (place_of(), place_of(500_000.0 + 20 * 24))  # two flight lines, the second 24 columns to the east


@pytest.mark.parametrize("spec", ["disjoint", "disjoint:0.5"])
def test_disjoint_sides_of_overlapping_scenes_are_disjoint(spec):
    labels, _ = labels_of(0)
    both = [labels, np.roll(labels, -24, axis=1)]
    alone = make_splits(both, spec, 0, geometry=Geometry(window=5, buffer=3))
    splits = make_splits(both, spec, 0, geometry=Geometry(window=5, buffer=3, georeferences=LINES))
    assert min(world_distance(a, b, c) for a, b, c in ((*alone, 24), (*alone[::-1], -24))) <= 3
    assert min(world_distance(a, b, c) for a, b, c in ((*splits, 24), (*splits[::-1], -24))) == 4
    assert [s.leakage for s in splits] == [0, 0]
    left_out = sum(int(one.test.sum() - other.test.sum()) for one, other in zip(alone, splits, strict=True))
    line = f"not tested, since they are within 3 pixels of a training pixel of another scene: {left_out:,} pixels"
    assert line in splits[0].notes
    for one, other in zip(alone, splits, strict=True):
        np.testing.assert_array_equal(one.train, other.train)
        assert not (other.test & ~one.test).any()


def test_polygons_do_not_test_where_another_scene_trains():
    labels, groups = labels_of(0)
    both = [labels, labels.copy()]
    alone = make_splits(both, "fraction:0.3", 0, geometry=Geometry(groups=[groups, groups], window=1))
    georeferences = [place_of(), place_of()]
    splits = make_splits(
        both, "fraction:0.3", 0, geometry=Geometry(groups=[groups, groups], window=1, georeferences=georeferences)
    )
    assert [s.leakage for s in alone] == [0, 0]
    assert (with_leakage(alone, 1, georeferences)[0].leakage or 0) > 0.1
    for split, other, before in zip(splits, splits[::-1], alone, strict=True):
        assert split.leakage == 0
        np.testing.assert_array_equal(split.train, before.train)
        np.testing.assert_array_equal(split.test, before.test & ~other.train)
    assert splits[0].notes[0].startswith("not tested, since they are covered by a training pixel of another scene: ")


def test_random_pixels_stay_and_their_leakage_counts_the_other_scene():
    labels, _ = labels_of(0)
    both, georeferences = [labels, labels.copy()], [place_of(), place_of()]
    alone = make_splits(both, "per-class:9", 0, geometry=Geometry(window=5))
    splits = make_splits(both, "per-class:9", 0, geometry=Geometry(window=5, georeferences=georeferences))
    for one, other, far in zip(splits, alone, alone[::-1], strict=True):
        np.testing.assert_array_equal(one.train, other.train)
        np.testing.assert_array_equal(one.test, other.test)
        joint = replace(one, train=one.train | far.train)
        assert one.leakage == with_leakage([joint], 5)[0].leakage > other.leakage
        assert one.notes == other.notes


def test_a_finished_training_looks_at_the_other_scene_again(tiny_scene):
    """Smoothing reaches farther than the classifier's window, in this scene and in what overlaps it."""
    labels, _ = labels_of(0)
    both, georeferences = [labels, labels.copy()], [place_of(), place_of()]
    scene = LabelledScene("s", np.ones((*labels.shape, 1), np.uint8), labels, tiny_scene.classes)
    scenes = [replace(scene, crs=str(place.crs), transform=tuple(place.transform)[:6]) for place in georeferences]
    splits = make_splits(both, "per-class:9", 0, geometry=Geometry(window=5, georeferences=georeferences))
    training = SimpleNamespace(scenes=scenes, splits=splits)
    Training._update_leakage(training, 9)
    found = [split.leakage for split in training.splits]
    assert found == [split.leakage for split in with_leakage(splits, 9, georeferences)]
    assert min(found) > max(split.leakage for split in with_leakage(splits, 9))


def test_nothing_left_to_test_is_refused():
    labels = np.zeros((6, 20), np.uint8)
    labels[:, :8], labels[:, 12:] = 1, 2
    groups = np.where(labels > 0, labels, 0).astype(np.int32)
    both, georeferences = [labels, labels], [place_of(), place_of()]
    with pytest.raises(LabelsError, match="a training pixel of another scene covers every test pixel"):
        make_splits(both, "fraction:0.5", 0, geometry=Geometry(groups=[groups, groups], georeferences=georeferences))
    with pytest.raises(LabelsError, match="no test pixel is left more than 19 pixels from the training pixels"):
        make_splits(
            [labels, np.roll(labels, 1)], "disjoint:0.5", 0, geometry=Geometry(buffer=19, georeferences=georeferences)
        )


def test_a_class_that_another_scene_covers_is_named():
    labels = np.array([[1, 1, 2, 2, 0, 0]], np.uint8)
    groups = np.array([[1, 1, 2, 2, 0, 0]], np.int32)
    more = np.array([[1, 1, 2, 2, 1, 1]], np.uint8), np.array([[1, 1, 2, 2, 3, 3]], np.int32)
    for seed in range(20):
        splits = make_splits(
            [labels, more[0]],
            "fraction:0.5",
            seed,
            geometry=Geometry(groups=[groups, more[1]], georeferences=[place_of()] * 2),
        )
        tested = {int(v) for one, s in zip((labels, more[0]), splits, strict=True) for v in one[s.test]}
        assert ("no test pixels, so no accuracy: class 2" in splits[0].notes) == (2 not in tested)
        if tested == {1}:
            return
    pytest.fail("no seed leaves class 2 without a test pixel")
