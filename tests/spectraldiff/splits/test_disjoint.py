"""Disjoint splits: the buffer between both sides, each class on both where the scene allows."""

import numpy as np
import pytest

from spectraldiff.datasets import registry
from spectraldiff.splits.disjoint import block_side, draw_disjoint, within
from spectraldiff.splits.draw import Geometry, make_split
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import LabelsError


def drawn(labels, share, buffer, seed=0):
    return draw_disjoint(labels, share, buffer, np.random.Generator(np.random.PCG64(seed)))


def fields(height, width, classes, side, seed=0):
    """Square fields of random classes, with unlabelled borders."""
    rng = np.random.default_rng(seed)
    grid = rng.integers(1, classes + 1, (-(-height // side), -(-width // side)))
    labels = np.kron(grid, np.ones((side, side), np.uint8))[:height, :width].astype(np.uint8)
    labels[::side] = labels[:, ::side] = 0
    return labels


def distance(train, test):
    """Chebyshev distance between the nearest pixels of both sides, by comparing all with all."""
    a, b = np.argwhere(train), np.argwhere(test)
    return min(int(np.abs(b - pixel).max(axis=1).min()) for pixel in a)


@pytest.mark.parametrize("buffer", [0, 1, 6])
def test_sides_are_farther_apart_than_the_buffer(buffer):
    labels = fields(48, 61, 4, 8)
    train, test = drawn(labels, 0.3, buffer)
    assert distance(train, test) > buffer
    assert not ((train | test) & (labels == 0)).any()
    near = within(train, buffer)
    np.testing.assert_array_equal(test, (labels > 0) & ~near)


def test_classes_with_many_fields_are_on_both_sides_in_about_the_share_asked_for():
    labels = fields(120, 120, 4, 10)
    for share in (0.2, 0.5):
        train, test = drawn(labels, share, 3)
        for value in range(1, 5):
            mine = labels == value
            assert test[mine].any()
            assert train[mine].mean() == pytest.approx(share, abs=0.1)


def test_two_small_fields_of_a_class_are_shared_out():
    """A class of two distant fields, each of them smaller than a block: one trains, one tests."""
    labels = np.zeros((80, 80), np.uint8)
    labels[10:70, 30:50] = 1
    labels[2:6, 2:6] = labels[74:78, 74:78] = 2
    train, test = drawn(labels, 0.5, 10)
    assert min(np.bincount(labels[train])[1:]) > 0
    assert min(np.bincount(labels[test])[1:]) > 0


def test_a_field_larger_than_the_buffer_is_cut():
    labels = np.zeros((60, 60), np.uint8)
    labels[5:55, 5:55] = 1
    labels[20:24, 8:40] = 2
    train, test = drawn(labels, 0.3, 12)
    assert all((side & (labels == value)).any() for side in (train, test) for value in (1, 2))


def test_seed_decides():
    labels = fields(60, 60, 3, 6)
    first, again, other = (drawn(labels, 0.3, 2, seed)[0] for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_indian_pines_has_every_class_on_both_sides_that_the_buffer_allows():
    """Alfalfa, Grass-pasture-mowed and Oats are single fields of 11 pixels at most: no disjoint pixels are left."""
    scene = registry.load("indian-pines")
    split = make_split(scene.labels, "disjoint", 0, None, scene.classes, geometry=Geometry(window=9, buffer=10))
    train, test = (np.bincount(scene.labels[side], minlength=17)[1:] for side in (split.train, split.test))
    assert (train > 0).all()
    assert [value for value, count in enumerate(test, start=1) if not count] == [1, 7, 9]
    assert "Alfalfa" in split.notes[0]
    assert "Oats" in split.notes[0]
    assert split.leakage == 0
    assert test.sum() > 0.25 * (scene.labels > 0).sum()


@pytest.mark.parametrize("distance", [0, 1, 3])
def test_within_is_a_box_around_each_pixel(distance):
    mask = np.random.default_rng(0).random((13, 17)) < 0.03
    wanted = np.zeros_like(mask)
    for row, column in np.argwhere(mask):
        rows, columns = (slice(max(0, at - distance), at + distance + 1) for at in (row, column))
        wanted[rows, columns] = True
    np.testing.assert_array_equal(within(mask, distance), wanted)


def test_a_scene_has_about_64_blocks_whatever_its_size():
    for shape in ((60, 60), (145, 145), (600, 500), (100, 4000)):
        side = block_side(shape)
        assert shape[0] * shape[1] / side**2 == pytest.approx(64, rel=0.2)


def test_a_scene_too_small_for_its_buffer_is_refused():
    labels = np.array([[1, 2, 1, 2]], np.uint8)
    with pytest.raises(LabelsError, match="no test pixel is left more than 9 pixels"):
        make_split(labels, "disjoint", 0, None, [LandCoverClass(1, "a", (0, 0, 0))], geometry=Geometry(buffer=9))
