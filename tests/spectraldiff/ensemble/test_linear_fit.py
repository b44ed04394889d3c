"""Linear candidates against scikit-learn and against the formulas, pixel by pixel and fold by fold."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from spectraldiff.ensemble import linear_fit
from spectraldiff.ensemble.held_out_loss import log_priors, pixel_losses
from spectraldiff.ensemble.linear_fit import ABSENT, Labelled, LinearFit, fit_lda, fit_logistic

CLASSES, SIZE = 3, 6


def problem(counts: tuple[int, ...] = (40, 40, 40), distance: float = 1.5) -> tuple[np.ndarray, Labelled]:
    """Return feature vectors, and labels in four folds that have a quarter of each class."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), counts)
    spread = np.diag([3, 2, 1, 1, 0.5, 0.1]) @ np.linalg.qr(generator.standard_normal((SIZE, SIZE)))[0]
    x = (
        distance * generator.standard_normal((CLASSES, SIZE))[labels]
        + generator.standard_normal((len(labels), 6)) @ spread
    )
    numbers = np.concatenate([np.arange(count) % 4 for count in counts])
    return x, Labelled(labels, [numbers == fold for fold in range(4)], CLASSES)


def centred(weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return weight and bias, (D + 1, K), less what is the same for all classes."""
    both = np.concatenate([weight, bias[None]])
    return both - both.mean(1, keepdims=True)


def same_direction(found: np.ndarray, wanted: np.ndarray, tolerance: float) -> float:
    """Check that two arrays are equal up to a factor above 0, and return it: `found` is divided by a temperature."""
    factor = float((found * wanted).sum() / (wanted**2).sum())
    assert factor > 0
    assert np.abs(found - factor * wanted).max() < tolerance * np.abs(found).max()
    return factor


@pytest.mark.parametrize("shrinkage", linear_fit.SHRINKAGES)
def test_lda_is_that_of_scikit_learn(monkeypatch: pytest.MonkeyPatch, shrinkage: float):
    monkeypatch.setattr(linear_fit, "SHRINKAGES", (shrinkage,))
    x, labelled = problem()
    found = fit_lda(x, labelled, None)

    def twin(used: np.ndarray) -> LinearDiscriminantAnalysis:
        lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=np.full(CLASSES, 1 / CLASSES))
        return lda.fit(x[used], labelled.labels[used])

    whole = twin(np.ones(len(x), bool))
    factor = same_direction(
        centred(found.weight, found.bias), centred(whole.coef_.T, whole.intercept_ - np.log(1 / CLASSES)), 1e-4
    )
    for held in labelled.folds:
        scores = twin(~held).decision_function(x[held])
        wanted = scores - scores.mean(1, keepdims=True)
        own = found.held_out[held] - found.held_out[held].mean(1, keepdims=True)
        # scikit-learn divides the covariance by n, here it is divided by n - K.
        assert same_direction(own, wanted, 1e-4) == pytest.approx(factor * (87 / 90) / (117 / 120), rel=1e-3)


def test_lda_shrinks_towards_the_noise(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(linear_fit, "SHRINKAGES", (0.3,))
    x, labelled = problem((30, 50, 20))
    target = np.diag(np.arange(1.0, SIZE + 1))
    found = fit_lda(x, labelled, target)
    means = np.stack([x[labelled.labels == k].mean(0) for k in range(CLASSES)])
    within = sum(np.outer(v - means[k], v - means[k]) for v, k in zip(x, labelled.labels, strict=True)) / (
        100 - CLASSES
    )
    inverse = np.linalg.inv(0.7 * within + 0.3 * target * np.trace(within) / np.trace(target))
    wanted = centred(inverse @ means.T, -0.5 * np.array([mean @ inverse @ mean for mean in means]))
    same_direction(centred(found.weight, found.bias), wanted, 1e-4)


def test_the_likelier_shrinkage_counts_more(monkeypatch: pytest.MonkeyPatch):
    """The mean over all shrinkages is nearly that of the best one where it is much likelier."""
    x, labelled = problem((12, 12, 12))
    x = np.concatenate([x, np.random.default_rng(1).standard_normal((36, 25))], 1)
    fits = {}
    for shrinkages in ((1e-4,), (0.4,), (1e-4, 0.4)):
        monkeypatch.setattr(linear_fit, "SHRINKAGES", shrinkages)
        fits[shrinkages] = fit_lda(x, labelled, None)
    assert fits[0.4,].loss < fits[1e-4,].loss - 0.1
    assert fits[1e-4, 0.4].loss == pytest.approx(fits[0.4,].loss, abs=0.02)


def test_a_class_without_pixels_is_never_found():
    x, labelled = problem((40, 40, 0))
    found = fit_lda(x, labelled, None)
    assert (found.bias[2] < found.bias[:2] + 0.01 * ABSENT).all()
    assert (x @ found.weight + found.bias).argmax(1).max() == 1


@pytest.mark.parametrize("penalty", linear_fit.PENALTIES)
def test_logistic_regression_is_that_of_scikit_learn(monkeypatch: pytest.MonkeyPatch, penalty: float):
    """A constant feature stands for the intercept, whose penalty is another one."""
    monkeypatch.setattr(linear_fit, "PENALTIES", (penalty,))
    monkeypatch.setattr(linear_fit, "ITERATIONS", 1000)
    x, labelled = problem()
    found = fit_logistic(x, labelled)
    constant = np.sqrt(penalty / 1e-3)

    def twin(used: np.ndarray) -> np.ndarray:
        z = np.concatenate([x, np.full((len(x), 1), constant)], 1)
        model = LogisticRegression(C=1 / (penalty * used.sum()), fit_intercept=False, tol=1e-8, max_iter=10_000)
        coefficients = model.fit(z[used], labelled.labels[used]).coef_.T
        return np.concatenate([coefficients[:-1], constant * coefficients[-1:]])

    factor = same_direction(centred(found.weight, found.bias), twin(np.ones(len(x), bool)), 1e-2)
    for held in labelled.folds:
        coefficients = twin(~held)
        wanted = x[held] @ coefficients[:-1] + coefficients[-1]
        own = found.held_out[held] - found.held_out[held].mean(1, keepdims=True)
        assert same_direction(own, wanted, 1e-2) == pytest.approx(factor, rel=1e-2)


def test_scores_of_the_regression_are_without_prior(monkeypatch: pytest.MonkeyPatch):
    """The log prior is added in the training, where pixels of a class are few."""
    monkeypatch.setattr(linear_fit, "PENALTIES", (0.01,))
    monkeypatch.setattr(linear_fit, "ITERATIONS", 1000)
    x, labelled = problem((60, 20, 8), distance=0.5)
    labels, priors = labelled.labels, log_priors(labelled.labels, CLASSES)

    def loss(values: np.ndarray) -> float:
        weight, bias = values[:-CLASSES].reshape(SIZE, CLASSES), values[-CLASSES:]
        logs = log_softmax(x @ weight + bias + priors, axis=1)
        fit = -logs[np.arange(len(x)), labels].mean()
        return float(fit + 0.005 * (weight**2).sum() + 0.5e-3 * (bias**2).sum())

    best = minimize(loss, np.zeros((SIZE + 1) * CLASSES)).x
    found = fit_logistic(x, labelled)
    wanted = centred(best[:-CLASSES].reshape(SIZE, CLASSES), best[-CLASSES:])
    same_direction(centred(found.weight, found.bias), wanted, 1e-2)


@pytest.mark.parametrize("fit", [lambda x, labelled: fit_lda(x, labelled, None), fit_logistic])
def test_the_loss_is_that_of_the_held_out_scores(fit):
    x, labelled = problem((60, 30, 30))
    found: LinearFit = fit(x, labelled)
    wanted = pixel_losses(found.held_out + labelled.priors(), labelled.labels).mean()
    assert found.loss == pytest.approx(wanted, rel=1e-3)
    assert found.loss < np.log(CLASSES)


def test_priors_are_those_of_the_other_folds():
    _, labelled = problem((8, 4, 4))
    odd = Labelled(labelled.labels, [np.arange(16) < 4, np.arange(16) >= 4], CLASSES)
    np.testing.assert_allclose(np.exp(odd.priors()[0]), [1 / 3] * 3)
    np.testing.assert_allclose(np.exp(odd.priors()[-1]), [1, 0.125, 0.125])
    assert odd.seen()[:4].all()
    np.testing.assert_array_equal(odd.seen()[4:], np.tile([True, False, False], (12, 1)))
