"""Held-out scores of the ensemble: the weights, too, are those of the other folds."""

import numpy as np
import torch

from spectraldiff.ensemble.calibration import cross_calibrated
from spectraldiff.ensemble.linear_fit import Labelled, LinearFit
from spectraldiff.ensemble.selection import AttentionScores, cross_fitted, weigh
from spectraldiff.models.settings import LinearMember

PIXELS, CLASSES = 120, 3


def problem():
    """Return three candidates, one of them good and one bad, attention scores, and labels in four folds."""
    rng = np.random.default_rng(2)
    labels, folds = rng.integers(0, CLASSES, PIXELS), np.arange(PIXELS) % 4
    truth = np.eye(CLASSES)[labels]
    scores = [power * truth + rng.normal(0, 1, truth.shape) for power in (3.0, 0.5, -1.0)]
    fits = [(LinearMember("lda", "bands"), LinearFit(np.zeros((2, 3)), np.zeros(3), one, 0.0)) for one in scores]
    attention = AttentionScores(np.arange(PIXELS), 2 * truth + rng.normal(0, 1, truth.shape), 1)
    return fits, Labelled(labels, [folds == fold for fold in range(4)], CLASSES), attention


def test_labels_of_a_fold_do_not_change_its_scores():
    fits, labelled, attention = problem()
    before = cross_fitted(fits, labelled, attention, PIXELS)
    held, changed = labelled.folds[1], labelled.labels.copy()
    changed[held] = np.roll(changed[held], 1)  # as many of each class
    after = cross_fitted(fits, Labelled(changed, labelled.folds, CLASSES), attention, PIXELS)
    np.testing.assert_array_equal(after[held], before[held])
    assert (after[~held] != before[~held]).any()


def test_the_scores_are_those_of_the_stack_of_the_other_folds():
    fits, labelled, attention = problem()
    candidates = [member for member, _ in fits]
    for some in (attention, None):
        found = cross_fitted(fits, labelled, some, PIXELS)
        held = labelled.folds[2]
        scores, rest = np.stack([fit.held_out for _, fit in fits]), ~held
        own = None if some is None else some.of(rest)
        priors, seen = labelled.priors()[rest], labelled.seen()[rest]
        stack, mix = weigh(scores[:, rest], own, priors, labelled.labels[rest], PIXELS * 0.75, candidates, seen)
        linear = np.tensordot(stack.weights, scores[list(stack.kept)][:, held], 1) / stack.temperature
        expected = linear
        if some is not None and mix.attention:
            expected = mix.linear * linear + mix.attention * some.scores[held] / mix.attention_temperature
            expected /= mix.temperature
        np.testing.assert_allclose(found[held], expected)
        assert (found.argmax(1) == labelled.labels).mean() > 0.85


def test_scores_of_some_pixels_keep_their_places():
    _, _, attention = problem()
    chosen = np.arange(PIXELS) % 3 > 0
    some = attention.of(chosen)
    np.testing.assert_array_equal(some.scores, attention.scores[chosen])
    np.testing.assert_array_equal(some.pixels, np.arange(chosen.sum()))


def test_temperatures_are_those_of_the_other_folds():
    fits, labelled, _ = problem()
    scores, labels = torch.from_numpy(10 * fits[0][1].held_out)[None], torch.from_numpy(labelled.labels)
    folds = torch.arange(PIXELS) % 4
    before, changed = cross_calibrated(scores, labels, folds), labels.clone()
    changed[folds == 1] = (changed[folds == 1] + 1) % CLASSES
    after = cross_calibrated(scores, changed, folds)
    assert torch.equal(after[folds == 1], before[folds == 1])
    assert not torch.equal(after[folds == 0], before[folds == 0])
