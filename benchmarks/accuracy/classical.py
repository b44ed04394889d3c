"""The pixel-wise classical methods, through scikit-learn: KNN, random forest and SVM on spectra scaled to 0..1."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from benchmarks.accuracy.problem import Context, Problem
from benchmarks.accuracy.store import Outcome

# The paper's settings.
NEIGHBOURS = 5
TREES, CRITERION = 200, "entropy"
GAMMAS = tuple(2.0**k for k in range(-3, 5))
COSTS = tuple(10.0**k for k in range(-2, 5))
FOLDS = 5

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "knn": {"neighbours": NEIGHBOURS},
    "rf": {"trees": TREES, "criterion": CRITERION},
    "svm": {"kernel": "rbf", "gammas": GAMMAS, "costs": COSTS, "folds": FOLDS},
}
PART = 4096  # pixels classified at once between two progress reports

Estimator = Any  # scikit-learn has no types


def knn(problem: Problem, threads: int) -> Estimator:
    """Return the K-nearest-neighbours classifier."""
    return KNeighborsClassifier(NEIGHBOURS, n_jobs=threads)


def random_forest(problem: Problem, threads: int) -> Estimator:
    """Return the random forest."""
    return RandomForestClassifier(TREES, criterion=CRITERION, random_state=problem.seed, n_jobs=threads)


def svm(problem: Problem, threads: int) -> Estimator:
    """Return the SVM with two parameters chosen by cross-validation."""
    grid = {"C": COSTS, "gamma": GAMMAS}
    parts = PredefinedSplit(folds(problem.labels, problem.seed))
    return GridSearchCV(SVC(kernel="rbf", cache_size=500), grid, cv=parts, n_jobs=threads)


def folds(labels: NDArray[Any], seed: int) -> NDArray[np.intp]:
    """Return the fold, 0..4, of each of n training pixels.

    The members of a class are spread over the folds as evenly as their number allows; a class of two lies in two folds.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    fold = np.empty(len(labels), dtype=np.intp)
    fold[by_class] = np.arange(len(labels)) % FOLDS
    return fold


ESTIMATORS: Mapping[str, Callable[[Problem, int], Estimator]] = {"knn": knn, "rf": random_forest, "svm": svm}


def fit_classical(name: str, problem: Problem, context: Context) -> Outcome:
    """Fit one of `ESTIMATORS` to the training pixels and map the scene."""
    context.report("fitting", 0, 1)
    started = time.perf_counter()
    estimator = ESTIMATORS[name](problem, context.threads)
    estimator.fit(problem.pixels[problem.split.train], problem.labels)
    fitted = time.perf_counter()
    spectra = problem.pixels[problem.scene.valid]
    starts = range(0, len(spectra), PART)
    classes = []
    for done, start in enumerate(starts, start=1):
        classes.append(estimator.predict(spectra[start : start + PART]))
        context.report("mapping", done, len(starts))
    predicted = problem.map_of(np.concatenate(classes))
    chosen = {k: float(v) for k, v in getattr(estimator, "best_params_", {}).items()}
    return Outcome(predicted, fitted - started, time.perf_counter() - fitted, chosen)
