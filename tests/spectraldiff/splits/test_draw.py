"""Splits: the paper's counts, counts and shares per class, seeds, and labels that do not suffice."""

import zlib

import numpy as np
import pytest

from spectraldiff.splits.draw import Geometry, make_split, make_splits
from spectraldiff.splits.leakage import leakage, mean_leakage
from spectraldiff.splits.mosaic import cut, joined
from spectraldiff.splits.spec import PAPER_COUNTS, paper_scenes
from spectraldiff.splits.split import Split
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import LabelsError, UsageError


def labels_with(*counts: int) -> np.ndarray:
    """Return (H, 7) labels with `counts[k - 1]` pixels of class k, shuffled, and some unlabelled."""
    flat = np.repeat(np.arange(len(counts) + 1), (11, *counts))
    flat = np.append(flat, np.zeros(-len(flat) % 7, dtype=flat.dtype))
    np.random.default_rng(3).shuffle(flat)
    return flat.reshape(-1, 7).astype(np.uint8)


def counts_of(labels, mask):
    return np.bincount(labels[mask], minlength=labels.max() + 1)[1:].tolist()


def test_paper_takes_table_1_counts_of_each_class():
    totals = (46, 1428, 830, 237, 483, 730, 28, 478, 20, 972, 2455, 593, 205, 1265, 386, 93)
    labels = labels_with(*totals)
    split = make_split(labels, "paper", 0, "indian-pines")
    assert counts_of(labels, split.train) == [3, 146, 77, 21, 33, 72, 7, 37, 2, 88, 275, 49, 23, 140, 41, 10]
    assert counts_of(labels, split.test) == [a - b for a, b in zip(totals, PAPER_COUNTS["indian-pines"], strict=True)]


def test_paper_counts_have_the_published_totals():
    totals = {name: (len(PAPER_COUNTS[name]), sum(PAPER_COUNTS[name])) for name in paper_scenes()}
    assert totals == {
        "indian-pines": (16, 1024), "indian-pines-ehu": (16, 1024),
        "pavia-university": (9, 2138), "houston": (15, 1502),
    }  # fmt: skip


@pytest.mark.parametrize(("spec", "wanted"), [("per-class:5", [5, 5, 5]), ("fraction:0.25", [10, 2, 2])])
def test_counts_of_other_specs(spec, wanted):
    labels = labels_with(40, 10, 8)
    split = make_split(labels, spec, 1)
    assert counts_of(labels, split.train) == wanted


@pytest.mark.parametrize("share", ["0.001", "0.999"])
def test_fraction_leaves_every_class_a_pixel_on_both_sides(share):
    labels = labels_with(40, 2)
    split = make_split(labels, f"fraction:{share}", 0)
    assert min(counts_of(labels, split.train)) >= 1
    assert min(counts_of(labels, split.test)) >= 1


@pytest.mark.parametrize("spec", ["per-class:5", "fraction:0.3"])
def test_every_labelled_pixel_is_on_exactly_one_side(spec):
    labels = labels_with(40, 10, 8)
    split = make_split(labels, spec, 0)
    assert (split.train.shape, split.train.dtype, split.test.dtype) == (labels.shape, bool, bool)
    np.testing.assert_array_equal(split.train ^ split.test, labels > 0)
    assert not (split.train & split.test).any()


def test_seed_decides_the_pixels():
    labels = labels_with(40, 30)
    first, again, other = (make_split(labels, "per-class:9", seed).train for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_pixels_of_a_seed_stay_the_same_in_later_versions():
    labels = np.tile(np.array([1, 2], dtype=np.uint8), (2, 5))
    split = make_split(labels, "per-class:2", 0)
    expected = np.random.Generator(np.random.PCG64(0))
    drawn = [np.flatnonzero(labels == k)[expected.choice(10, 2, replace=False)] for k in (1, 2)]
    assert sorted(np.flatnonzero(split.train)) == sorted(np.concatenate(drawn))


def test_classes_without_pixels_are_passed_over():
    labels = labels_with(10, 0, 10)
    assert counts_of(labels, make_split(labels, "per-class:3", 0).train) == [3, 0, 3]


def test_half_of_a_class_with_no_more_pixels_than_wanted_trains_and_is_named():
    classes = [LandCoverClass(1, "Woods", (0, 1, 2)), LandCoverClass(2, "Oats", (3, 4, 5))]
    labels = labels_with(40, 7, 2, 8)
    split = make_split(labels, "per-class:7", 0, None, classes)
    assert counts_of(labels, split.train) == [7, 3, 1, 7]
    assert counts_of(labels, split.test) == [33, 4, 1, 1]
    named = 'class 2 "Oats" (3 of 7 pixels), class 3 (1 of 2 pixels)'
    assert split.notes == (f"too small for per-class:7, so half of the class trains: {named}",)


def test_indian_pines_with_30_pixels_of_each_class():
    """Two classes have 28 and 20 labelled pixels."""
    totals = (46, 1428, 830, 237, 483, 730, 28, 478, 20, 972, 2455, 593, 205, 1265, 386, 93)
    labels = labels_with(*totals)
    assert counts_of(labels, make_split(labels, "per-class:30", 0).train) == [30] * 6 + [14, 30, 10] + [30] * 7


def test_too_few_pixels_name_class_found_and_wanted():
    classes = [LandCoverClass(1, "Woods", (0, 1, 2)), LandCoverClass(2, "Oats", (3, 4, 5))]
    with pytest.raises(LabelsError, match=r'class 2 "Oats" has 1 labelled pixel; per-class:6 wants 6'):
        make_split(labels_with(40, 1), "per-class:6", 0, None, classes)


def test_paper_on_labels_that_lack_a_class():
    with pytest.raises(LabelsError, match="class 1 has 1 labelled pixel; paper wants 3"):
        make_split(labels_with(1, 1428), "paper", 0, "indian-pines")


def test_labels_that_are_0_everywhere():
    with pytest.raises(LabelsError, match="0 everywhere"):
        make_split(np.zeros((3, 3), dtype=np.uint8), "per-class:1", 0)


@pytest.mark.parametrize(
    ("spec", "dataset", "words"),
    [
        ("paper", None, "no training counts for your own scene"),
        ("paper", "salinas", "no training counts for the data set 'salinas', only for indian-pines"),
        ("disjointed", None, "folds:N, paper, per-class:N, fraction:F, disjoint"),
        ("paper:3", "houston", "folds:N, paper, per-class:N, fraction:F, disjoint"),
        ("per-class:0", None, "whole number above 0"),
        ("per-class:x", None, "whole number above 0"),
        ("per-class", None, "whole number above 0"),
        ("fraction:1", None, "between 0 and 1"),
        ("fraction:nan", None, "between 0 and 1"),
        ("fraction:", None, "between 0 and 1"),
        ("disjoint:2", None, "between 0 and 1"),
        ("disjoint:", None, "between 0 and 1"),
        ("file:", None, "folds:N, paper"),
        ("file:train.tif", None, "for one scene"),
        ("maps/tiles.TIF", None, "to train on the nonzero pixels of a raster, give file:maps/tiles.TIF$"),
        ("fraction:\u0660.\u0661", None, "between 0 and 1"),
    ],
)
def test_specs_that_cannot_be_meant(spec, dataset, words):
    with pytest.raises(UsageError, match=words) as caught:
        make_split(labels_with(40, 10), spec, 0, dataset)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_negative_seed():
    with pytest.raises(UsageError, match="seed is -1"):
        make_split(labels_with(40, 10), "per-class:2", -1)


def marked_in(labels, count):
    marked = np.where(np.random.default_rng(0).random(labels.shape) < count / labels.size, labels, 0)
    return marked.astype(labels.dtype)


def test_file_says_which_pixels_train():
    labels = labels_with(40, 30)
    marked = marked_in(labels, 20)
    split = make_split(labels, "file:somewhere/train.tif", 0, marked=marked)
    np.testing.assert_array_equal(split.train, marked > 0)
    np.testing.assert_array_equal(split.test, (labels > 0) & (marked == 0))
    assert (split.name, split.notes) == ("file:train.tif", ())


def test_pixels_of_the_file_without_a_label_are_passed_over_and_one_sided_classes_named():
    labels = np.array([[1, 1, 2, 2, 0]], np.uint8)
    split = make_split(labels, "file:t.tif", 0, marked=np.array([[1, 0, 0, 0, 2]], np.uint8))
    assert split.train.tolist() == [[True, False, False, False, False]]
    assert split.notes == ("no training pixels, so never mapped: class 2",)


@pytest.mark.parametrize(
    "marked",
    [[[1, 0, 1, 0]], [[255, 0, 255, 0]], [[2, 0, 2, 0]], [[211, 0, 50000, 0]], [[2, 0, 1, 0]]],
    ids=["mask", "mask of 255", "mask of a class's number", "codes of classes", "other numbers of classes"],
)
def test_file_with_a_mask_or_other_numbers_of_the_classes(marked):
    """One value marks all training pixels; several stand for classes, which trainings number anew."""
    split = make_split(np.array([[1, 1, 2, 2]], np.uint8), "file:t.tif", 0, marked=np.array(marked, np.uint16))
    assert split.train.tolist() == [[True, False, True, False]]
    assert split.test.tolist() == [[False, True, False, True]]


@pytest.mark.parametrize(
    ("marked", "words"),
    [
        (
            [[7, 0, 7, 9]],
            "'t.tif' has the value 7 on pixels of class 1 and of class 2, such as row 0, column 2: wanted",
        ),
        ([[0, 0, 0, 0]], "marks none"),
        ([[1, 1, 2, 2]], "marks all"),
        ([[5, 5, 5, 5]], "marks all"),
    ],
)
def test_file_that_does_not_fit_the_labels(marked, words):
    with pytest.raises(LabelsError, match=words):
        make_split(np.array([[1, 1, 2, 2]], np.uint8), "file:t.tif", 0, marked=np.array(marked, np.uint8))


@pytest.mark.parametrize("window", [1, 3, 5])
def test_leakage_is_that_of_looking_into_every_window(window):
    rng = np.random.default_rng(5)
    side = rng.integers(0, 12, (17, 23))
    train, test = side == 1, side == 2
    r = window // 2
    hits = [train[max(0, i - r) : i + r + 1, max(0, j - r) : j + r + 1].any() for i, j in np.argwhere(test)]
    assert leakage(train, test, window) == np.mean(hits)
    assert leakage(train, np.zeros_like(test), window) is None


def test_splits_know_their_leakage_where_the_window_is_known():
    labels = np.ones((9, 9), np.uint8)
    labels[:, 5:] = 2
    assert make_split(labels, "per-class:1", 0).leakage is None
    assert make_split(labels, "per-class:1", 0, geometry=Geometry(window=17)).leakage == 1
    assert make_split(labels, "per-class:1", 0, geometry=Geometry(window=1)).leakage == 0


def test_leakage_of_several_scenes_is_weighted_by_test_pixels():
    def split(pixels, share):
        return Split("s", 0, np.zeros((1, 9), bool), np.arange(9)[None] < pixels, share)

    assert mean_leakage([split(1, 1.0), split(3, 0.0), split(0, None)]) == 0.25
    assert mean_leakage([split(2, None)]) is None


def test_counts_of_several_scenes_are_those_of_all_together():
    several = [labels_with(40, 10), labels_with(6, 0, 30), labels_with(30, 2)[:9]]
    splits = make_splits(several, "per-class:9", 3)
    total = np.sum([np.bincount(one[s.train], minlength=4) for one, s in zip(several, splits, strict=True)], axis=0)
    assert total.tolist() == [0, 9, 9, 9]
    for one, split in zip(several, splits, strict=True):
        assert split.train.shape == one.shape
        np.testing.assert_array_equal(split.train ^ split.test, one > 0)


def test_several_scenes_are_joined_and_cut_apart_again():
    arrays = [np.ones((3, 4), int), np.full((2, 6), 2), np.full((1, 1), 3)]
    mosaic = joined(arrays, 2)
    assert mosaic.shape == (12, 6)
    assert np.bincount(mosaic.ravel())[1:].tolist() == [12, 12, 1]
    for one, back in zip(arrays, cut(mosaic, [a.shape for a in arrays], 2), strict=True):
        np.testing.assert_array_equal(one, back)
    assert joined(arrays[:1], 7) is arrays[0]


@pytest.mark.parametrize(
    ("spec", "groups", "wanted"),
    [
        ("per-class:3", False, "42c447eb"),
        ("fraction:0.3", False, "5f9e4bc0"),
        ("per-class:3", True, "369b6101"),
        ("fraction:0.3", True, "b758795b"),
        ("disjoint:0.4", False, "9e2e6b1b"),
    ],
)
def test_every_split_of_a_seed_stays_the_same_in_later_versions(spec, groups, wanted):
    """Its pixels, by the checksum of both sides."""
    labels = np.kron(np.arange(1, 13).reshape(3, 4) % 3 + 1, np.ones((4, 5), np.uint8)).astype(np.uint8)
    labels[::4] = labels[:, ::5] = 0
    polygons = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((4, 5), np.int32)) if groups else None
    split = make_split(labels, spec, 4, geometry=Geometry(groups=[polygons], window=3, buffer=1))
    assert f"{zlib.crc32(np.packbits([split.train, split.test])):08x}" == wanted


def test_windows_of_one_scene_hold_no_training_pixels_of_another():
    labels = np.array([[1, 1, 2, 2]], np.uint8)
    splits = make_splits([labels] * 3, "disjoint:0.4", 0, geometry=Geometry(window=3, buffer=2))
    assert {s.leakage for s in splits if s.test.any()} == {0.0}
    assert sum(s.test.sum() for s in splits) > 0
