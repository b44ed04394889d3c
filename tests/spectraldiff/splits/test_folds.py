"""Folds: all labels train, and whole polygons or patches are held out."""

import numpy as np
import pytest

from spectraldiff.splits.draw import Geometry, make_split, make_splits
from spectraldiff_runtime.errors import LabelsError, UsageError
from spectraldiff_runtime.geo.georeference import Georeference
from tests.spectraldiff.splits.test_by_polygon import polygons


@pytest.mark.parametrize("seed", range(5))
def test_all_labels_train_and_whole_polygons_are_held_out(seed):
    labels, groups = polygons([10] * 12, [3, 40, 5, 7, 12, 9, 4, 20])
    split = make_split(labels, "folds", seed, geometry=Geometry(groups=[groups]))
    np.testing.assert_array_equal(split.train, labels > 0)
    assert not split.test.any()
    np.testing.assert_array_equal(split.scored, labels > 0)
    for polygon in np.unique(groups):
        assert len(np.unique(split.folds[groups == polygon])) == 1
    for value in (1, 2):
        assert set(split.folds[labels == value].tolist()) == {1, 2, 3, 4, 5}
    assert (split.name, split.measured, split.leakage) == ("folds:5 by polygon", "5 folds of polygons", None)
    assert split.spatially_disjoint


def test_the_same_seed_draws_the_same_folds():
    labels, groups = polygons([10] * 12, [5] * 9)
    one, same, other = (
        make_split(labels, "folds", seed, geometry=Geometry(groups=[groups])).folds for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_fewer_groups_than_folds():
    labels, groups = polygons([6, 6], [5, 5, 5])
    split = make_split(labels, "folds:7", 0, geometry=Geometry(groups=[groups]))
    assert split.folds.max() <= 5
    assert split.measured == f"{split.folds.max()} folds of polygons"
    for value in (1, 2):  # never all of a class in one fold
        assert len(np.unique(split.folds[labels == value])) > 1


def test_a_class_in_one_polygon_is_cut_into_blocks_and_named():
    labels, groups = polygons([10] * 6, [30])
    split = make_split(labels, "folds", 0, geometry=Geometry(groups=[groups]))
    own = split.folds[labels == 2]
    assert np.bincount(own)[1:].tolist() == [6] * 5
    assert np.count_nonzero(np.diff(own.astype(int))) == 4  # five blocks side by side
    assert split.notes == ("in one polygon only, so held out block by block and optimistic: class 2",)


def test_a_class_of_one_pixel_is_trained_but_not_scored():
    labels, groups = polygons([10] * 6, [1], [5, 5])
    split = make_split(labels, "folds", 0, geometry=Geometry(groups=[groups]))
    assert split.train[labels == 2].all()
    assert not split.scored[labels == 2].any()
    assert split.scored[labels != 2].all()
    assert split.notes == ("one labelled pixel only, so no accuracy: class 2",)
    with pytest.raises(LabelsError, match="no class has two labelled pixels"):
        make_split(np.array([[1, 0, 2]], np.uint8), "folds", 0)


def test_a_patch_with_most_of_a_class_is_cut_into_blocks():
    """Held out whole, it would leave its class to small patches: on EnMAP Potsdam 53.6 % instead of 63.3 were right."""
    labels = np.zeros((30, 20), np.uint8)
    labels[:20, :10], labels[24:26, 4:8], labels[28:, :4] = 1, 1, 1  # 200, 8 and 8 pixels
    labels[:8, 14:], labels[10:18, 14:] = 2, 2
    split = make_split(labels, "folds", 0, geometry=Geometry(window=3))
    counts = np.bincount(split.folds[labels == 1], minlength=6)[1:]
    assert counts.max() <= 0.25 * counts.sum()
    assert all(len(np.unique(split.folds[rows, 14:])) == 1 for rows in (slice(8), slice(10, 18)))
    assert "a patch has more than half of its class's pixels" in " ".join(split.notes)
    assert split.notes[-1].endswith(": class 1")
    polygons = np.where(labels > 0, 1 + (np.arange(30) >= 22)[:, None] + 2 * (labels == 2), 0).astype(np.int32)
    drawn = make_split(labels, "folds", 0, geometry=Geometry(groups=[polygons], window=3))
    assert len(np.unique(drawn.folds[:20, :10])) == 1  # a polygon stays whole


def test_patches_where_labels_are_no_polygons():
    labels = np.zeros((20, 20), np.uint8)
    for top in (0, 6, 12):
        labels[top : top + 3, :4], labels[top : top + 3, 10:14] = 1, 2
    split = make_split(labels, "folds", 0, geometry=Geometry(window=3))
    assert (split.name, split.measured) == ("folds:5 by patch", "5 folds of patches")
    assert all(len(np.unique(split.folds[top : top + 3, :4])) == 1 for top in (0, 6, 12))
    assert split.spatially_disjoint  # no window of 3 x 3 reaches another patch
    assert not make_split(labels, "folds", 0, geometry=Geometry(window=15)).spatially_disjoint


def test_blocks_where_each_class_is_one_patch():
    labels = np.repeat([[1] * 20 + [2] * 20], 10, axis=0).astype(np.uint8)
    split = make_split(labels, "folds:4", 0)
    assert split.name == "folds:4 by block"
    assert len(split.notes) == 1
    assert "accuracy is optimistic" in split.notes[0]
    for value in (1, 2):
        assert np.bincount(split.folds[labels == value])[1:].tolist() == [50] * 4


def test_pixels_where_these_are_asked_for():
    labels, groups = polygons([20, 20], [30, 10])
    split = make_split(labels, "folds", 0, geometry=Geometry(groups=[None], by_pixel=True))
    assert split.name == "folds:5 by pixel"
    assert np.bincount(split.folds[labels == 1])[1:].tolist() == [8] * 5
    assert len(np.unique(split.folds[groups == 1])) == 5


def test_groups_of_several_scenes_are_different_ones():
    labels, groups = polygons([5] * 3, [5] * 3)
    splits = make_splits([labels, labels], "folds", 0, geometry=Geometry(groups=[groups, groups]))
    folds = np.concatenate([split.folds.ravel() for split in splits])
    joined = np.concatenate([groups.ravel(), groups.ravel() + 6])
    assert all(len(np.unique(folds[joined == group])) == 1 for group in range(1, 13))
    assert any((a.folds != b.folds).any() for a in splits for b in splits)


def test_a_place_that_another_scene_trains_in_another_fold_is_not_scored():
    labels, groups = polygons([5] * 3, [5] * 3)
    place = Georeference.of("EPSG:32632", (10.0, 0.0, 0.0, 0.0, -10.0, 0.0))
    geometry = Geometry(groups=[groups, groups], georeferences=[place, place])
    one, other = make_splits([labels, labels], "folds", 0, geometry=geometry)
    free = make_splits([labels, labels], "folds", 0, geometry=Geometry(groups=[groups, groups]))
    same = free[0].folds == free[1].folds
    np.testing.assert_array_equal(one.scored, same)
    np.testing.assert_array_equal(other.scored, same)
    assert one.train.all()
    assert f"covers them: {2 * int((~same).sum())} pixels" in one.notes[-1]


@pytest.mark.parametrize("spec", ["folds:1", "folds:", "folds:x", "folds:51"])
def test_numbers_of_folds_that_cannot_be_meant(spec):
    with pytest.raises(UsageError, match="2 to 50"):
        make_split(np.array([[1, 1, 2, 2]], np.uint8), spec, 0)
