"""Intervals of the overall accuracy, by polygon or patch."""

import numpy as np
import pytest
from scipy.stats import binomtest

from spectraldiff.accuracy.interval import oa_interval


def strips(hits: list[list[bool]]) -> tuple[np.ndarray, np.ndarray]:
    """Labels of class 1 in strips that do not touch, one row each, and a map that is right where it is said."""
    width = max(len(own) for own in hits)
    labels, found = np.zeros((2, 2 * len(hits), width), np.uint8)
    for row, own in enumerate(hits):
        labels[2 * row, : len(own)] = 1
        found[2 * row, : len(own)] = np.where(own, 1, 2)
    return labels, found


def test_single_pixels_give_wilsons_interval():
    labels, found = strips([[number % 5 > 0] for number in range(101)])
    got = oa_interval([labels], [found], [None])
    wanted = binomtest(80, 101).proportion_ci(method="wilson")
    assert (got.units, got.of) == (101, "patch")
    assert (got.low, got.high) == pytest.approx((wanted.low, wanted.high), abs=0.002)


def test_pixels_of_a_patch_that_are_alike_count_as_one():
    one = oa_interval(*[[a] for a in strips([[n % 5 > 0] for n in range(50)])], [None])
    ten = oa_interval(*[[a] for a in strips([[n % 5 > 0] * 10 for n in range(50)])], [None])
    assert ten.units == one.units == 50
    assert (ten.low, ten.high) == pytest.approx((one.low, one.high), abs=1e-9)


def test_where_all_is_right_there_is_doubt_left_by_the_number_of_patches():
    got = oa_interval(*[[a] for a in strips([[True] * 7] * 30)], [None])
    wanted = binomtest(30, 30).proportion_ci(method="wilson")
    assert (got.low, got.high) == pytest.approx((wanted.low, 1.0), abs=1e-9)


def test_polygons_that_touch_are_units_and_scenes_add_up():
    labels, found = np.ones((4, 6), np.uint8), np.ones((4, 6), np.uint8)
    groups = np.repeat([[1, 1, 2, 2, 3, 3]], 4, axis=0).astype(np.int32)
    assert oa_interval([labels], [found], [None]) is None  # one patch
    got = oa_interval([labels], [found], [groups])
    assert (got.units, got.of) == (3, "polygon")
    assert oa_interval([labels] * 2, [found] * 2, [groups] * 2).units == 6


def test_it_holds_what_it_promises_for_patches_that_differ():
    generator, held = np.random.default_rng(0), 0
    for _ in range(200):
        chances = generator.beta(8, 2, 60)  # the accuracy of each patch; 0.8 on average
        sizes = generator.integers(1, 30, 60)
        hits = [list(generator.random(size) < chance) for chance, size in zip(chances, sizes, strict=True)]
        got = oa_interval(*[[a] for a in strips(hits)], [None])
        held += got.low <= 0.8 <= got.high
    assert 180 <= held <= 199
