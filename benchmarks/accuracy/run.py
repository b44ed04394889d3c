"""The loop over seeds and methods: what has finished is read, the rest is run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.accuracy.methods import Method
from benchmarks.accuracy.problem import Context, Problem, Report
from benchmarks.accuracy.store import Result, Store
from spectraldiff.accuracy.metrics import score
from spectraldiff.data.scene import LabelledScene
from spectraldiff.training.request import Request

RESULTS, WORK = "results", "work"


def problem_of(scene: LabelledScene, request: Request) -> Problem:
    """Return the problem of one seed: the very split that `sdiff train` draws for this request."""
    return Problem(scene, request.make_split(scene))


class Watcher:
    """Told what runs; this one is silent."""

    def begin(self, method: Method, problem: Problem) -> Report:
        """Begin a training; return what it reports to."""
        return lambda stage, done, total: None

    def end(self, method: Method, result: Result, known: bool) -> None:
        """End a training; `known` where its result was in the folder already."""


def compare(
    problems: Sequence[Problem], methods: Sequence[Method], folder: Path, context: Context, watcher: Watcher
) -> list[Result]:
    """Run each method on each problem, unless its result is in the folder already.

    Parameters
    ----------
    problems
        One a seed.
    methods
        In the order of the table.
    folder
        Of results and run folders; made where it is missing.
    context
        Where and how to compute; its folder and report are set here.
    watcher
        Told before and after each training.

    Raises
    ------
    RunError
        A result in the folder was made with other settings or is damaged; found before anything is run.
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
    return store.write(method.name, problem.seed, _settings(problem, method), outcome, accuracy, leakage)


def _settings(problem: Problem, method: Method) -> dict[str, object]:
    return {**problem.facts(), **method.settings}
