"""Splits that hold out whole scenes, and folds of scenes."""

import numpy as np
import pytest
from rasterio import Affine

from spectraldiff.splits.draw import Geometry, make_splits
from spectraldiff.splits.spec import parse_spec
from spectraldiff_runtime.errors import LabelsError, UsageError
from spectraldiff_runtime.geo.georeference import Georeference

NAMES = [f"plot_{number}" for number in range(8)]


def scenes(count: int = 8) -> list[np.ndarray]:
    """Each of the classes 1 and 2 in all scenes but the last, which has no labels; class 3 in the first one alone."""
    found = []
    for number in range(count):
        labels = np.zeros((6, 7 + number), np.uint8)
        labels[1:3, 1:4], labels[4, 2:5] = 1, 2
        found.append(labels if number < count - 1 else np.zeros_like(labels))
    found[0][0, 0] = 3
    return found


def splits_of(spec: str, seed: int = 0, **more: object):
    return make_splits(scenes(), spec, seed, geometry=Geometry(names=NAMES, window=3, **more))


def held_out(splits) -> list[int]:
    return [index for index, one in enumerate(splits) if one.test.any()]


def test_named_scenes_test_whole():
    splits = splits_of("scenes:test=plot_2, plot_5,plot_2")
    assert held_out(splits) == [2, 5]
    for split, labels in zip(splits, scenes(), strict=True):
        side, other = (split.test, split.train) if split.test.any() else (split.train, split.test)
        np.testing.assert_array_equal(side, labels > 0)
        assert not other.any()
    assert all(split.spatially_disjoint and split.by_scene for split in splits)
    assert {split.leakage for split in splits if split.test.any()} == {0.0}


def test_a_share_of_the_scenes_is_drawn_with_the_seed():
    drawn = [tuple(held_out(splits_of("by-scene:0.3", seed))) for seed in range(12)]
    assert drawn[0] == tuple(held_out(splits_of("by-scene:0.3", 0)))
    assert {len(one) for one in drawn} == {2}  # of seven with labels
    assert len(set(drawn)) > 3
    assert not {0, 7} & {index for one in drawn for index in one}  # alone has a class; has no labels
    assert [len(held_out(splits_of(f"by-scene:{share}"))) for share in (0.01, 0.99)] == [1, 6]


def test_a_class_of_held_out_scenes_alone_is_named():
    notes = splits_of("scenes:test=plot_0")[0].notes
    assert notes == ("no training pixels, so never mapped: class 3",)


def test_scenes_that_overlap_test_no_pixel_that_trains_in_another():
    places = [Georeference(None, Affine(1, 0, 100 * number, 0, -1, 0)) for number in range(8)]
    places[3] = Georeference(None, Affine(1, 0, 202, 0, -1, 0))  # two columns beside the second's
    splits = splits_of("scenes:test=plot_2", georeferences=places)
    assert splits[2].test.sum() < (scenes()[2] > 0).sum()
    assert "covered by a training pixel of another scene: " in splits[2].notes[0]


def test_folds_of_scenes():
    splits = splits_of("folds:4", by_scene=True)
    numbers = [set(np.unique(split.folds[split.train]).tolist()) for split in splits[1:-1]]
    assert all(len(one) == 1 for one in numbers)
    assert set().union(*numbers) == {1, 2, 3, 4}
    assert splits[0].measured == "4 folds of scenes"
    assert splits[0].units == "scenes"


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        ("scenes:test=plot_9", UsageError, "no scene is called 'plot_9': wanted one of plot_0, plot_1"),
        ("scenes:test=plot_7", LabelsError, "the scene 'plot_7' has no labels"),
        ("scenes:test=" + ",".join(NAMES[:-1]), LabelsError, "wanted some to train and some to test"),
        ("scenes:test=", UsageError, "names no scene: give scenes:test=NAME,NAME"),
        ("scenes:train=plot_1", UsageError, "names no scene"),
        ("scenes", UsageError, "names no scene"),
        ("by-scene", UsageError, "no number between 0 and 1"),
        ("by-scene:1", UsageError, "no number between 0 and 1"),
    ],
)
def test_refused(spec, kind, words):
    with pytest.raises(kind, match=words):
        splits_of(spec)


def test_names_of_several_scenes_and_a_scene_alone_are_refused():
    with pytest.raises(UsageError, match="'a' is the name of 2 scenes: give each a name of its own in a list"):
        make_splits(scenes(3), "scenes:test=a", 0, geometry=Geometry(names=["a", "b", "a"]))
    with pytest.raises(LabelsError, match=r"1 scene has labels, and by-scene:0\.5 holds out one at least"):
        make_splits(scenes(2), "by-scene:0.5", 0, geometry=Geometry(names=["a", "b"]))
    assert parse_spec("scenes:test=a b,c", None).names == ("a b", "c")
