"""Splits by polygon: whole polygons on either side."""

import numpy as np
import pytest

from spectraldiff.splits.draw import Geometry, make_split, make_splits


def polygons(*sizes):
    """Return labels and groups, (1, W): `sizes[k - 1]` are the pixels of each polygon of class k."""
    labels = [value for value, of_class in enumerate(sizes, start=1) for size in of_class for _ in range(size)]
    flat = [size for of_class in sizes for size in of_class]
    groups = np.repeat(np.arange(1, len(flat) + 1), flat)
    return np.array([labels], np.uint8), groups[None].astype(np.int32)


def sides_of(groups, split):
    return set(groups[split.train].tolist()), set(groups[split.test].tolist())


@pytest.mark.parametrize("seed", range(5))
def test_fraction_draws_whole_polygons_up_to_the_share(seed):
    labels, groups = polygons([10] * 20, [3, 40, 5, 7, 12, 9, 4, 20])
    split = make_split(labels, "fraction:0.3", seed, geometry=Geometry(groups=[groups]))
    train, test = sides_of(groups, split)
    assert not train & test
    np.testing.assert_array_equal(split.train | split.test, labels > 0)
    assert split.train[labels == 1].sum() == 60
    assert split.train[labels == 2].sum() == pytest.approx(30, abs=12)
    assert (split.name, split.notes) == ("fraction:0.3 by polygon", ())


@pytest.mark.parametrize("share", ["0.01", "0.99"])
def test_fraction_leaves_a_polygon_on_both_sides(share):
    labels, groups = polygons([50, 60], [30, 80, 20])
    train, test = sides_of(groups, make_split(labels, f"fraction:{share}", 0, geometry=Geometry(groups=[groups])))
    for of_class in ({1, 2}, {3, 4, 5}):
        assert train & of_class
        assert test & of_class


@pytest.mark.parametrize("seed", range(5))
def test_per_class_draws_pixels_in_half_of_the_polygons(seed):
    labels, groups = polygons([10] * 8, [4] * 6)
    split = make_split(labels, "per-class:12", seed, geometry=Geometry(groups=[groups]))
    train, test = sides_of(groups, split)
    assert not train & test
    assert [int(split.train[labels == k].sum()) for k in (1, 2)] == [12, 12]
    assert len(test & set(range(1, 9))) == 4
    assert len(test & set(range(9, 15))) == 3
    neither = (labels > 0) & ~split.train & ~split.test
    assert set(groups[neither].tolist()) <= set(range(1, 15)) - test


def test_per_class_takes_more_polygons_where_half_hold_too_few_pixels():
    labels, groups = polygons([5, 5, 5, 30], [10] * 4)
    for seed in range(6):
        split = make_split(labels, "per-class:30", seed, geometry=Geometry(groups=[groups]))
        assert [int(split.train[labels == k].sum()) for k in (1, 2)] == [30, 30]
        assert split.test[labels == 1].any()
        assert split.test[labels == 2].sum() == 10


@pytest.mark.parametrize("seed", range(5))
def test_per_class_that_would_take_every_polygon_takes_half_of_the_class(seed):
    labels, groups = polygons([20, 20], [10] * 4, [35, 5], [1, 1, 1], [9])
    split = make_split(labels, "per-class:30", seed, geometry=Geometry(groups=[groups]))
    train, test = sides_of(groups, split)
    assert train & test == {12}
    assert [int(split.train[labels == k].sum()) for k in (1, 2, 3, 4, 5)] == [20, 30, 30, 1, 4]
    assert min(int(split.test[labels == k].sum()) for k in (1, 2, 3, 4, 5)) >= 1
    named = "class 1 (20 of 40 pixels), class 4 (1 of 3 pixels), class 5 (4 of 9 pixels)"
    assert split.notes[0] == f"too small for per-class:30, so half of the class trains: {named}"
    assert len(split.notes) == 2


@pytest.mark.parametrize("spec", ["per-class:5", "fraction:0.25"])
def test_a_class_in_one_polygon_is_split_by_pixel_and_named(spec):
    labels, groups = polygons([20], [10, 10])
    split = make_split(labels, spec, 0, geometry=Geometry(groups=[groups]))
    assert split.train[labels == 1].sum() == 5
    assert split.test[labels == 1].sum() == 15
    assert split.notes == ("in one polygon only, so split by pixel and optimistic: class 1",)


def test_points_beside_polygons_are_drawn_one_by_one():
    labels, groups = polygons([6, 6])
    labels = np.append(labels, [[1] * 8], axis=1)
    groups = np.append(groups, [[0] * 8], axis=1)
    split = make_split(labels, "fraction:0.5", 1, geometry=Geometry(groups=[groups]))
    assert split.train.sum() == pytest.approx(10, abs=3)
    assert not (set(groups[split.train].tolist()) & set(groups[split.test].tolist())) - {0}


def test_seed_decides_the_polygons():
    labels, groups = polygons([5] * 12, [5] * 12)
    first, again, other = (
        make_split(labels, "fraction:0.5", seed, geometry=Geometry(groups=[groups])).train for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_polygons_of_two_scenes_are_different_ones():
    """Both scenes count their polygons from 1; a class with one polygon in each has two."""
    labels, groups = polygons([20], [10, 10])
    splits = make_splits([labels, labels], "fraction:0.5", 0, geometry=Geometry(groups=[groups, groups]))
    assert splits[0].notes == ()
    assert {bool(s.train[labels == 1].all()) for s in splits} == {True, False}
    assert {bool(s.test[labels == 1].all()) for s in splits} == {True, False}


def test_a_scene_without_polygons_beside_one_with_them():
    labels, groups = polygons([20, 20], [10, 10])
    first, second = make_splits([labels, labels], "fraction:0.5", 0, geometry=Geometry(groups=[groups, None]))
    for split in (first, second):
        np.testing.assert_array_equal(split.train ^ split.test, labels > 0)
    assert not set(groups[first.train].tolist()) & set(groups[first.test].tolist())
