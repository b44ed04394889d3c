"""Six simple methods, tuned on training pixels only: SVM, random forest and shrinkage LDA, on one pixel or 5 x 5 means.

This is what a user would otherwise run. All read standardised bands; means over 5 x 5 pixels leave out missing ones.
SVM and LDA are tuned by stratified cross-validation on the training pixels; the forest has 300 trees.
"""

import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV, PredefinedSplit, StratifiedKFold
from sklearn.svm import SVC

from benchmarks.accuracy.classical import PART, Estimator, folds
from benchmarks.accuracy.problem import Context, Problem
from benchmarks.accuracy.store import Outcome

FOLDS = 5
TREES = 300
COSTS = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)
GAMMAS = (0.1, 0.3, 1.0, 4.0)  # divided by the number of bands
SHRINKAGES = ("auto", 1e-4, 1e-3, 1e-2, 0.1, 0.5)
SIDES = (1, 5)

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "svm": {"kernel": "rbf", "costs": COSTS, "gammas": GAMMAS, "folds": FOLDS},
    "rf": {"trees": TREES},
    "lda": {"shrinkages": SHRINKAGES, "folds": FOLDS},
}
TITLES = {"svm": "SVM", "rf": "random forest", "lda": "LDA"}
# Name: estimator and side of the mean.
SIMPLE = {f"{kind}-{side}x{side}": (kind, side) for side in SIDES for kind in SETTINGS}


def title_of(name: str) -> str:
    """Return what tables call one of `SIMPLE`."""
    kind, side = SIMPLE[name]
    return f"{TITLES[kind]}, {'one pixel' if side == 1 else f'{side} x {side} mean'}"


def settings_of(name: str) -> dict[str, Any]:
    """Return all that decides the result of one of `SIMPLE`, except scene, split and seed."""
    kind, side = SIMPLE[name]
    return {"side": side, **SETTINGS[kind]}


def fit_simple(name: str, problem: Problem, context: Context) -> Outcome:
    """Fit one of `SIMPLE` to the training pixels and map the scene."""
    kind, side = SIMPLE[name]
    context.report("fitting", 0, 1)
    started = time.perf_counter()
    spectra = means(problem.standardised, problem.scene.valid, side)
    estimator = _estimator(kind, problem, context.threads)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Only one sample available")  # a class of one pixel has no spread
        estimator.fit(spectra[problem.split.train], problem.labels)
    fitted = time.perf_counter()
    pixels = spectra[problem.scene.valid]
    starts = range(0, len(pixels), PART)
    found = []
    for done, start in enumerate(starts, start=1):
        found.append(estimator.predict(pixels[start : start + PART]))
        context.report("mapping", done, len(starts))
    chosen = {k: float(v) for k, v in getattr(estimator, "best_params_", {}).items() if not isinstance(v, str)}
    return Outcome(problem.map_of(np.concatenate(found)), fitted - started, time.perf_counter() - fitted, chosen)


def means(pixels: NDArray[np.float32], valid: NDArray[np.bool_], side: int) -> NDArray[np.float32]:
    """Return the mean spectrum of the pixels with data in the square around each pixel, (H, W, B).

    Parameters
    ----------
    pixels
        (H, W, B) float32, 0 where there is no data.
    valid
        (H, W) bool.
    side
        Odd number of pixels along the side of the square; edges are mirrored.
    """
    if side == 1:
        return pixels
    total = uniform_filter(pixels, (side, side, 1), mode="mirror")
    share = uniform_filter(valid.astype(np.float32), side, mode="mirror")[..., None]
    return np.asarray(np.where(valid[..., None], total / np.maximum(share, 1e-6), 0), dtype=np.float32)


def _estimator(kind: str, problem: Problem, threads: int) -> Estimator:
    if kind == "rf":
        return RandomForestClassifier(TREES, random_state=problem.seed, n_jobs=threads)
    least = int(np.bincount(problem.labels)[np.unique(problem.labels)].min())
    if least > 1:
        parts = StratifiedKFold(min(FOLDS, least), shuffle=True, random_state=problem.seed)
    else:  # a class of one pixel lies in one fold
        parts = PredefinedSplit(folds(problem.labels, problem.seed))
    return GridSearchCV(*_grid(kind, problem.scene.cube.shape[2]), cv=parts, n_jobs=threads)


def _grid(kind: str, bands: int) -> tuple[Estimator, dict[str, Any]]:
    if kind == "svm":
        return SVC(kernel="rbf", cache_size=500), {"C": COSTS, "gamma": [gamma / bands for gamma in GAMMAS]}
    return LinearDiscriminantAnalysis(solver="lsqr"), {"shrinkage": SHRINKAGES}
