"""The shares of the classes that a map assumes."""

import os

import numpy as np
import pytest

from spectraldiff.ensemble.prior import Prior, prior_of, read_shares
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import LabelsError, SceneError, UsageError

CLASSES = tuple(LandCoverClass(value, name, (value, 0, 0)) for value, name in enumerate(("Water", "Bare soil"), 1))
LABELS = np.array([0, 0, 0, 1])


def test_shares_of_the_training_pixels_equal_ones_and_those_of_a_file(tmp_path):
    path = tmp_path / "shares.csv"
    path.write_text("class,share\nBare soil, 30\nWater,10\n", "utf-8")
    given = prior_of(str(path), read_shares(path), CLASSES)
    for prior, shares in ((Prior(), (0.75, 0.25)), (Prior("equal"), (0.5, 0.5)), (given, (0.25, 0.75))):
        np.testing.assert_allclose(np.exp(prior.logs(LABELS, 2)), shares)
    assert [one.other.name for one in (Prior(), Prior("equal"), given)] == ["equal", "training", "training"]
    assert given.title == "the shares of 'shares.csv'"


def test_classes_by_their_values(tmp_path):
    path = tmp_path / "shares.csv"
    path.write_text("1,0.9\n2,0.1\n")
    assert prior_of("training", None, CLASSES) == Prior()
    assert prior_of(str(path), read_shares(path), CLASSES).shares == pytest.approx((0.9, 0.1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Water,0.5\nBare soil,-1\n", "'Bare soil,-1'"),
        ("Water,-1\nBare soil,0.5\n", "'Water,-1'"),  # no header: its share is a number
        ("Water,0.5\nBare soil\n", "wanted a class and its share above 0"),
        ("Water,nan\nBare soil,0\n", "share above 0"),
        ("Water,0.5\nWater,0.5\n", "a class twice"),
        ("Water,1e308\nBare soil,1e308\n", "'Water,1e308': wanted a class and its share above 0"),  # no sum
        ("Water,1\nBare soil,1e-320\n", "share above 0"),
        (f"Water,1\nSoil,{'9' * 5000}\n", f"'Soil,{'9' * 95}'"),
        ("class,share\n", "no class"),
    ],
)
def test_files_that_are_no_shares(tmp_path, text, words):
    path = tmp_path / "shares.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        read_shares(path)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "shares.csv")
    with pytest.raises(SceneError, match="is a pipe or a device"):
        read_shares(tmp_path / "shares.csv")


def test_shares_that_do_not_fit_the_classes():
    with pytest.raises(LabelsError, match='no share of class 2 "Bare soil"'):
        prior_of("a.csv", (("Water", 0.5),), CLASSES)
    with pytest.raises(LabelsError, match="'Forest', which is no class"):
        prior_of("a.csv", (("Water", 0.5), ("Bare soil", 0.2), ("Forest", 0.3)), CLASSES)
    with pytest.raises(UsageError, match="training, equal, or a CSV file"):
        read_shares("none")
