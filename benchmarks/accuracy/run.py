"""The loop over seeds and methods: finished results are read, the others are computed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.accuracy.methods import Method
from benchmarks.accuracy.problem import Context, Problem, Report
from benchmarks.accuracy.store import Result, Store
from spectraldiff.accuracy.metrics import calibration, score
from spectraldiff.data.scene import LabelledScene
from spectraldiff.training.request import Request

RESULTS, WORK = "results", "work"


def problem_of(scene: LabelledScene, request: Request) -> Problem:
    """Return the problem of one seed, with the split that `sdiff train` draws for this request."""
    return Problem(scene, request.make_split(scene))


class Watcher:
    """Receives the start and end of each training; this one does nothing."""

    def begin(self, method: Method, problem: Problem) -> Report:
        """Start a training; return the callback for its progress."""
        return lambda stage, done, total: None

    def end(self, method: Method, result: Result, known: bool) -> None:
        """End a training; `known` if its result was already in the folder."""


def compare(
    problems: Sequence[Problem], methods: Sequence[Method], folder: Path, context: Context, watcher: Watcher
) -> list[Result]:
    """Run each method on each problem if its result is not in the folder yet.

    Parameters
    ----------
    problems
        One per seed.
    methods
        In the order of the table.
    folder
        For results and run folders; created if it does not exist.
    context
        Where and how to compute; its folder and report are set here.
    watcher
        Called before and after each training.

    Raises
    ------
    RunError
        A result in the folder is damaged or was made with other settings; checked before anything runs.
    """
    store = Store(folder / RESULTS)
    context = replace(context, folder=folder / WORK)
    pairs = [(problem, method) for problem in problems for method in methods]
    known = [store.read(method.name, problem.seed, _settings(problem, method)) for problem, method in pairs]
    results = []
    for (problem, method), found in zip(pairs, known, strict=True):
        result = found
        if result is None:
            report = watcher.begin(method, problem)
            result = _run(store, problem, method, replace(context, report=report))
        watcher.end(method, result, known=found is not None)
        results.append(result)
    return results


def _run(store: Store, problem: Problem, method: Method, context: Context) -> Result:
    outcome = method.fit(problem, context)
    reference = np.where(problem.split.test, problem.scene.labels, 0)
    accuracy = score(reference, outcome.map, len(problem.scene.classes))
    leakage = problem.leakage(outcome.window or method.window)
    ece = None
    if outcome.confidence is not None:
        sure = (reference > 0) & (outcome.map > 0)
        ece = calibration(outcome.confidence[sure], (outcome.map == reference)[sure]).ece
    equal = None if outcome.equal is None else score(reference, outcome.equal, len(problem.scene.classes)).aa
    settings = _settings(problem, method)
    return store.write(method.name, problem.seed, settings, outcome, accuracy, leakage, ece, equal)


def _settings(problem: Problem, method: Method) -> dict[str, object]:
    return {**problem.facts(), **method.settings}
