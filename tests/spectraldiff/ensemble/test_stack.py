"""Weights by held-out likelihood: their gradient, and what they do with good, equal and useless members."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from spectraldiff.ensemble import stack
from spectraldiff.ensemble.stack import fit_stack

COUNT, CLASSES = 300, 4


def members(*noises: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores (M, n, K) with so much noise each, log priors of 0, and labels drawn from the scores without."""
    generator = np.random.default_rng(0)
    truth = 3 * generator.standard_normal((COUNT, CLASSES))
    labels = (truth + generator.gumbel(size=truth.shape)).argmax(1)
    scores = np.stack([truth + noise * generator.standard_normal(truth.shape) for noise in noises])
    return scores, np.zeros_like(truth), labels


def test_the_gradient_is_that_of_differences(monkeypatch: pytest.MonkeyPatch):
    found = []

    def minimise(loss, start, **options):
        found.append(loss)
        return minimize(loss, start, **options)

    minimize = stack.minimize
    monkeypatch.setattr(stack, "minimize", minimise)
    scores, priors, labels = members(1.0, 2.0, 4.0)
    fit_stack(scores, priors - 0.1 * np.arange(CLASSES), labels, 40.0, (0.5, 0.3, 0.2))
    loss = found[0]
    for theta in (np.zeros(4), np.array([0.7, -1.2, 0.1, 0.4])):
        slope = approx_fprime(theta, lambda values: loss(values)[0], 1e-6)
        np.testing.assert_allclose(loss(theta)[1], slope, rtol=1e-4, atol=1e-4)


def test_equal_members_have_equal_weights_and_better_ones_higher():
    scores, priors, labels = members(1.0, 1.0)
    scores[1] = scores[0]
    np.testing.assert_allclose(fit_stack(scores, priors, labels, COUNT).weights, [0.5, 0.5], atol=1e-3)
    found = fit_stack(*members(0.5, 4.0), COUNT)
    assert found.kept == (0, 1)
    assert found.weights[0] > 0.8
    assert found.weights.sum() == pytest.approx(1)


def test_members_that_mislead_leave_where_pixels_are_many():
    scores, priors, labels = members(0.5, 0.5, 1.0)
    scores[2] = np.roll(scores[2], 1, axis=1)  # each class has the score of another one
    found = fit_stack(scores, priors, labels, 100_000.0)
    assert found.kept == (0, 1)
    assert len(found.weights) == 2
    alone = fit_stack(scores[:2], priors, labels, 100_000.0)
    np.testing.assert_allclose(found.weights, alone.weights, atol=1e-3)


def test_of_no_pixels_the_weights_are_those_of_the_prior():
    scores, priors, labels = members(0.5, 4.0)
    np.testing.assert_allclose(fit_stack(scores, priors, labels, 1e-6).weights, [0.5, 0.5], atol=1e-3)
    found = fit_stack(scores, priors, labels, 1e-6, (0.9, 0.1)).weights
    np.testing.assert_allclose(found, [0.9, 0.1], atol=1e-3)


def test_the_loss_is_no_higher_than_that_of_the_best_member():
    scores, priors, labels = members(1.5, 1.5, 1.5)
    found = fit_stack(scores, priors, labels, COUNT)
    assert found.loss < min(fit_stack(scores[[one]], priors, labels, COUNT).loss for one in range(3))
    mean = np.tensordot(found.weights, scores[list(found.kept)], 1) / found.temperature
    np.testing.assert_allclose(found.apply(scores), mean)


def test_members_that_together_make_up_next_to_nothing_leave():
    """Their scores are flat: the weights alone would keep them."""
    scores, priors, labels = members(0.5, 0.5, 1.0, 1.0, 1.0)
    scores[2] *= 0.001
    scores[3] *= 0.025
    scores[4] *= 0.025
    found = fit_stack(scores, priors, labels, COUNT)
    assert found.kept in {(0, 1, 3), (0, 1, 4)}  # both flat ones would be more than two percent
    assert found.shares.sum() == pytest.approx(1)
    assert found.shares[-1] < 0.05
    assert found.weights.sum() == pytest.approx(1)
    assert found.weights[-1] > 0.1


def group(*members):
    found = np.zeros(4, np.bool_)
    found[list(members)] = True
    return found


def test_costly_members_leave_where_they_make_up_little():
    scores, priors, labels = members(0.5, 0.5, 1.0, 1.0)
    scores[2] *= 0.03
    scores[3] *= 0.03
    assert fit_stack(scores, priors, labels, COUNT).kept == (0, 1, 2, 3)
    far = fit_stack(scores, priors, labels, COUNT, costly=[group(3)])
    assert far.kept == (0, 1, 2)
    assert far.shares.sum() == pytest.approx(1)
    both = fit_stack(scores, priors, labels, COUNT, costly=[group(3), group(2, 3)]).shares
    assert len(both) == 3, "both together would be more than a twentieth"
    assert fit_stack(scores, priors, labels, COUNT, costly=[group(0)]).kept == (0, 1, 2, 3), "the best one stays"
    assert fit_stack(scores[3:], priors, labels, COUNT, costly=[np.ones(1, np.bool_)]).kept == (0,)


def test_a_member_does_not_leave_for_what_another_one_says_of_classes_that_it_had_not_learnt():
    scores, priors, labels = members(0.5, 0.5, 0.5)
    wanted = fit_stack(scores, priors, labels, COUNT)
    seen = np.ones(priors.shape, np.bool_)
    seen[: COUNT // 3, 1] = False
    scores[0][~seen] = -1e3
    assert len(fit_stack(scores, priors, labels, COUNT).kept) < 3
    found = fit_stack(scores, priors, labels, COUNT, seen=seen)
    assert found.kept == wanted.kept == (0, 1, 2)
    assert found.shares.min() > 0.1
