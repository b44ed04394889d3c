"""Accuracy against figures worked out by hand and against slow, obvious twins."""

import json
import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from spectraldiff.accuracy.metrics import calibration, score
from spectraldiff_runtime.errors import LabelsError

# Worked by hand: class 1 has 4 pixels, 3 found, 1 unclassified; class 2 has 2, 1 found, 1 taken for 1.
REFERENCE = np.array([1, 1, 1, 1, 2, 2, 0, 0])
PREDICTED = np.array([1, 1, 1, 0, 2, 1, 2, 0])


def twin_kappa(reference, predicted):
    """Cohen's kappa from its definition: (observed - chance) / (1 - chance)."""
    pairs = [(r, p) for r, p in zip(reference.ravel(), predicted.ravel(), strict=True) if r]
    observed = sum(r == p for r, p in pairs) / len(pairs)
    chance = sum(sum(r == k for r, _ in pairs) * sum(p == k for _, p in pairs) / len(pairs) ** 2 for k in range(256))
    return (observed - chance) / (1 - chance)


def test_figures_worked_by_hand():
    accuracy = score(REFERENCE, PREDICTED, 2)
    assert accuracy.confusion.tolist() == [[1, 3, 0], [0, 1, 1]]
    assert accuracy.per_class == (0.75, 0.5)
    assert accuracy.pixels == 6
    assert accuracy.oa == pytest.approx(4 / 6)
    assert accuracy.aa == pytest.approx(0.625)
    # Observed 4/6; chance (4*4 + 2*1) / 36 = 1/2.
    assert accuracy.kappa == pytest.approx((4 / 6 - 1 / 2) / (1 / 2))


def test_users_accuracy_is_the_share_of_what_is_mapped():
    assert score(REFERENCE, PREDICTED, 2).users == (0.75, 1.0)
    nothing = score(np.array([1, 1, 2]), np.array([1, 1, 1]), 2).users
    assert nothing[0] == pytest.approx(2 / 3)
    assert math.isnan(nothing[1])


def test_random_maps_agree_with_slow_twins():
    generator = np.random.default_rng(0)
    reference, predicted = generator.integers(0, 6, (2, 40, 30)).astype(np.uint8)
    accuracy = score(reference, predicted, 5)
    scored = reference > 0
    for row in range(1, 6):
        for column in range(6):
            both = (reference == row) & (predicted == column)
            assert accuracy.confusion[row - 1, column] == both.sum()
    assert accuracy.oa == pytest.approx((reference == predicted)[scored].mean())
    assert accuracy.kappa == pytest.approx(twin_kappa(reference, predicted))
    assert accuracy.confusion.dtype == np.int64


def test_class_that_does_not_occur_counts_in_no_mean():
    accuracy = score(np.array([1, 1, 3]), np.array([1, 2, 3]), 3)
    assert accuracy.per_class[0] == 0.5
    assert math.isnan(accuracy.per_class[1])
    assert accuracy.aa == pytest.approx(0.75)


def test_perfect_map_of_one_class_has_no_kappa():
    accuracy = score(np.ones((2, 2)), np.ones((2, 2)), 2)
    assert accuracy.oa == 1.0
    assert math.isnan(accuracy.kappa)


def test_dictionary_is_strict_json():
    record = score(np.array([1, 1]), np.array([1, 1]), 2).as_dict()
    again = json.loads(json.dumps(record, allow_nan=False))
    assert again == {
        "oa": 1.0, "aa": 1.0, "kappa": None, "per_class": [1.0, None],
        "confusion": [[0, 2, 0], [0, 0, 0]], "pixels": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reference", "predicted", "words"),
    [
        ([1, 2], [1, 2, 1], r"reference is \(2,\) and the map \(3,\)"),
        ([0, 0], [1, 2], "the labels are 0 at every pixel"),
        ([1, 3], [1, 2], "reference has values from 1 to 3; wanted 0 to 2"),
        ([1, 2], [1, 7], "map has values from 1 to 7; wanted 0 to 2"),
    ],
)
def test_input_that_cannot_be_scored(reference, predicted, words):
    with pytest.raises(LabelsError, match=words):
        score(np.array(reference), np.array(predicted), 2)


def twin_ece(confidence, correct, bins):
    """Expected calibration error from its definition, bin by bin, each with its upper end."""
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if b == 0:
            inside |= confidence == 0
        if inside.any():
            total += inside.sum() * abs(correct[inside].mean() - confidence[inside].mean())
    return total / confidence.size


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_agrees_with_a_slow_twin(bins):
    generator = np.random.default_rng(3)
    confidence = generator.random((40, 50))
    correct = generator.random((40, 50)) < confidence**2
    found = calibration(confidence, correct, bins)
    assert found.ece == pytest.approx(twin_ece(confidence, correct, bins))
    assert found.ece > 0.1
    assert (sum(found.counts), len(found.counts)) == (2000, bins)


def test_calibration_worked_by_hand():
    confidence = np.array([0.5, 0.5, 0.9, 0.9, 0.9, 0.9], np.float32)
    found = calibration(confidence, np.array([1, 0, 1, 1, 1, 0], bool))
    assert found.counts[7] == 2
    assert found.counts[13] == 4
    assert (found.accuracy[7], found.accuracy[13]) == (0.5, 0.75)
    assert found.ece == pytest.approx(4 / 6 * 0.15)
    assert math.isnan(found.accuracy[0])
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["accuracy"][0] is None


def test_ends_of_the_scale_lie_in_the_outer_bins():
    found = calibration(np.array([0.0, 1.0]), np.array([False, True]))
    assert (found.counts[0], found.counts[-1], found.ece) == (1, 1, 0)


@pytest.mark.parametrize(
    ("confidence", "correct", "words"),
    [
        ([0.5], [True, False], r"\(1,\) and the marks \(2,\)"),
        ([], [], "no pixel has both"),
        ([0.5, 90.0], [True, True], "from 0.5 to 90: wanted 0 to 1"),
        ([0.5, float("nan")], [True, True], "wanted 0 to 1"),
    ],
)
def test_confidence_that_cannot_be_judged(confidence, correct, words):
    with pytest.raises(LabelsError, match=words):
        calibration(np.array(confidence, np.float64), np.array(correct, bool))


def test_macro_f1_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    truth, found = rng.integers(1, 5, 300), rng.integers(0, 6, 300)
    wanted = f1_score(truth, found, labels=range(1, 5), average="macro", zero_division=0)
    assert score(truth, found, 6).macro_f1 == pytest.approx(wanted)
