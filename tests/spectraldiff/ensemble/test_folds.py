"""Folds: groups whole, classes spread evenly, blocks at the distances of the pixels to be mapped."""

import numpy as np
import pytest

from spectraldiff.ensemble.folds import folds_like, folds_of_groups
from spectraldiff.splits.folds import FOLDS


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_held_out_whole_and_classes_are_spread_evenly(seed: int):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(5, 15, 60)
    groups = np.repeat(np.arange(60), sizes)
    labels = np.repeat(generator.permutation(np.arange(60) % 3), sizes)
    pixels = np.stack([np.arange(len(labels)), groups], 1)
    found = folds_of_groups(pixels, labels, groups, seed)
    assert found is not None
    assert (found.units, found.count) == ("polygons or patches", 60)
    for group in range(60):
        assert len(np.unique(found.numbers[groups == group])) == 1
    held_out = found.held_out()
    np.testing.assert_array_equal(np.sum(held_out, 0), np.ones(len(labels)))
    for label in range(3):
        counts = np.array([(labels[held] == label).sum() for held in held_out])
        assert len(counts) == FOLDS
        assert counts.max() - counts.min() <= sizes.max()
    again = folds_of_groups(pixels, labels, groups, seed)
    np.testing.assert_array_equal(again.numbers, found.numbers)


def test_there_are_no_more_folds_than_groups_and_none_of_one_group():
    labels, pixels = np.array([0, 0, 1, 1, 0]), np.zeros((5, 2), int)
    assert folds_of_groups(pixels, labels, np.zeros(5, int), 0) is None
    found = folds_of_groups(pixels, labels, np.array([0, 0, 1, 1, 2]), 0)
    assert len(found.held_out()) == 3
    assert (found.cut, found.title) == (0, "polygons or patches")  # pixels in one place cannot be cut


def test_a_class_in_one_group_is_held_out_in_blocks():
    """Held out whole, it could not be learnt in that fold."""
    pixels = grid(24)
    labels = np.where(pixels[:, 1] < 12, 0, np.where(pixels[:, 0] < 12, 1, 2))
    groups = np.where(labels == 0, pixels[:, 0] // 6, 9 + labels)
    found = folds_of_groups(pixels, labels, groups, 0)
    assert (found.cut, found.title) == (2, "polygons or patches (2 classes in smaller blocks)")
    for held in found.held_out():
        assert set(labels[~held]) == {0, 1, 2}
    for group in range(4):
        assert len(np.unique(found.numbers[groups == group])) == 1


def test_a_class_in_one_block_is_held_out_in_smaller_ones():
    """As far from the training pixels as 64 x 64 asks for, blocks would hold out two of the three classes whole."""
    pixels = np.concatenate([grid(128, 2), grid(8) + 3, grid(6) + 80])
    labels = np.repeat([0, 1, 2], [64**2, 64, 36])
    found = folds_like(pixels, labels, np.stack([np.arange(128), np.full(128, 160)], 1), 0)
    assert (found.units, found.cut) == ("blocks of 64 x 64 pixels", 2)
    assert found.count == 4 + 2 * 2 + 2 * 2  # blocks of 8 x 8 and of 4 x 4 pixels
    for held in found.held_out():
        assert set(labels[~held]) == {0, 1, 2}


def grid(side: int, step: int = 1) -> np.ndarray:
    """Return the pixels of a square, (n, 2)."""
    return np.stack(np.mgrid[0:side:step, 0:side:step], -1).reshape(-1, 2)


@pytest.mark.parametrize("gap", [1, 4, 16])
def test_blocks_are_as_large_as_the_pixels_to_be_mapped_are_far(gap: int):
    """Targets lie in a strip next to the training pixels, so far as pixels of a block lie from other blocks."""
    pixels = grid(96)
    labels = (pixels[:, 1] // 8) % 3
    rows, beyond = np.mgrid[:96, :gap].reshape(2, -1)
    found = folds_like(pixels, labels, np.stack([rows, 96 + beyond], 1), 0)
    side = 1 if found.units == "pixels" else int(found.units.split()[2])
    assert {1: 1, 4: 8, 16: 32}[gap] == side
    blocks = pixels // side
    for block in np.unique(blocks, axis=0)[:20]:
        assert len(np.unique(found.numbers[(blocks == block).all(1)])) == 1
    assert found.count == len(np.unique(blocks, axis=0))


def test_pixels_that_cannot_be_held_out_apart_are_still_two_folds():
    pixels = np.array([[3, 3], [3, 3]])
    found = folds_like(pixels, np.array([0, 1]), np.array([[9, 9]]), 0)
    assert [held.tolist() for held in found.held_out()] == [[True, False], [False, True]]
