"""The loss of held-out pixels: its formula, its bound for outliers, and the temperature that it chooses."""

import math

import numpy as np
import pytest

from spectraldiff.ensemble.held_out_loss import EXTRA_PIXEL, error_share, fit_temperature, log_priors, pixel_losses


def drawn(count: int, spread: float, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Return scores (count, classes) and classes that were drawn from their softmax."""
    generator = np.random.default_rng(0)
    scores = spread * generator.standard_normal((count, classes))
    noise = generator.gumbel(size=scores.shape)
    return scores, (scores + noise).argmax(1)


def test_the_loss_is_that_of_labels_some_of_which_are_wrong():
    scores, labels = drawn(30, 2.0)
    share = 1 / 32
    assert error_share(30) == share
    for own, label, found in zip(scores, labels, pixel_losses(scores, labels), strict=True):
        p = [math.exp(one) / sum(map(math.exp, own)) for one in own]
        expected = -math.log((1 - share) * p[label] + share / 4) - EXTRA_PIXEL / 30 * sum(map(math.log, p)) / 4
        assert found == pytest.approx(expected)


def test_one_wrong_label_does_not_set_the_temperature():
    scores, labels = drawn(1000, 3.0)
    before, _ = fit_temperature(scores, np.zeros_like(scores), labels)
    outlier = np.array([[200.0, 0, 0, 0]])  # a certain score of another class
    after, _ = fit_temperature(np.concatenate([scores, outlier]), np.zeros((1001, 4)), np.append(labels, 1))
    assert before == pytest.approx(1, rel=0.1)
    assert after == pytest.approx(before, rel=0.05)


@pytest.mark.parametrize("factor", [0.1, 1.0, 30.0])
def test_the_temperature_is_what_scores_were_multiplied_by(factor: float):
    scores, labels = drawn(20_000, 2.0)
    found, loss = fit_temperature(factor * scores, np.zeros_like(scores), labels)
    assert found == pytest.approx(factor, rel=0.1)
    assert loss == pytest.approx(pixel_losses(factor * scores / found, labels).mean())


def test_priors_are_not_divided_by_the_temperature():
    scores, _ = drawn(20_000, 2.0)
    priors = np.tile(np.log([0.7, 0.1, 0.1, 0.1]), (len(scores), 1))
    labels = (scores + priors + np.random.default_rng(1).gumbel(size=scores.shape)).argmax(1)
    assert fit_temperature(5 * scores, priors, labels)[0] == pytest.approx(5, rel=0.1)


def test_a_class_without_pixels_has_a_small_prior():
    np.testing.assert_allclose(np.exp(log_priors(np.array([0, 0, 2, 0]), 3)), [0.75, 0.125, 0.25])
