"""Tables like the paper's from results: Tables II to IV, V (ablation) and VI (grid). Figures are in percent."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.accuracy.methods import ABLATION, TITLES, grid_cells
from benchmarks.accuracy.paper import GRID_LAYERS, GRID_TIMESTEPS, MEASURES, published
from benchmarks.accuracy.paper import TITLES as MEASURE_TITLES
from benchmarks.accuracy.store import Result
from spectraldiff.data.scene import LabelledScene

DASH = "-"


@dataclass(frozen=True)
class Report:
    """Results of one scene and one split, ready to be shown.

    Attributes
    ----------
    scene, dataset, split
        The mapped scene; the data set's name selects the paper's figures.
    results
        Any number of seeds per method.
    """

    scene: LabelledScene
    dataset: str
    split: str
    results: Sequence[Result]

    def of(self, method: str) -> list[Result]:
        """Return the results of one method, by seed."""
        return sorted((r for r in self.results if r.method == method), key=lambda r: r.seed)

    def methods(self) -> list[str]:
        """Return the methods of Tables II to IV that have results, in the paper's order."""
        return [name for name in TITLES if self.of(name)]

    def values(self, method: str, figure: str) -> list[float]:
        """Return one figure of a method for each of its seeds, times 100: one of `MEASURES`, or leakage."""
        return [100 * float(getattr(result, figure)) for result in self.of(method)]


def comparison(report: Report) -> Table:
    """Return a table like Tables II to IV: classes, then OA, AA and kappa, by method; the paper's figures below."""
    table = Table("Class", title=_title(report, "accuracy on the test pixels, %"))
    for name in report.methods():
        table.add_column(TITLES[name], justify="right")
    classes = [c.name for c in report.scene.classes]
    measures = [MEASURE_TITLES[m] for m in MEASURES]
    rows = [*classes, *measures, *(f"{title}, paper" for title in measures), "leakage", "training, s", "whole map, s"]
    ends = np.cumsum((len(classes), len(measures), len(measures))) - 1  # rows with a line below them
    cells = zip(*(_column(report, name) for name in report.methods()), strict=True)
    for number, (title, texts) in enumerate(zip(rows, cells, strict=True)):
        table.add_row(title, *texts, end_section=number in ends)
    return table


def _column(report: Report, name: str) -> list[str]:
    """Return the cells of one method, from top to bottom."""
    results = report.of(name)
    classes = 100 * np.array([r.per_class for r in results])  # (seeds, K)
    return [
        *(spread(values) for values in classes.T.tolist()),
        *(spread(report.values(name, m)) for m in MEASURES),
        *(_paper(report, name, m) for m in MEASURES),
        f"{np.mean(report.values(name, 'leakage')):.1f}",
        f"{np.mean([r.train_seconds for r in results]):.0f}",
        f"{np.mean([r.map_seconds for r in results]):.0f}",
    ]


def ablation(report: Report) -> Table:
    """Return a table like Table V: the same transformer on raw and on diffusion features, and the difference."""
    table = Table("Features", title=_title(report, "features, %"))
    for measure in MEASURES:
        table.add_column(MEASURE_TITLES[measure], justify="right")
        table.add_column("paper", justify="right")
    for name, title in zip(ABLATION, ("raw", "diffusion"), strict=True):
        cells = [(spread(report.values(name, m)), _paper(report, name, m)) for m in MEASURES]
        table.add_row(title, *(text for pair in cells for text in pair), end_section=name == ABLATION[-1])
    gains = [(gain(*(report.values(name, m) for name in ABLATION)), "") for m in MEASURES]
    table.add_row("gain, standard error", *(text for pair in gains for text in pair))
    return table


def grid(report: Report) -> Table:
    """Return a table like Table VI: OA by layer index and timestep."""
    table = Table("Layer index", title=_title(report, "OA of SpectralDiff, %, by layer index and timestep"))
    for t in GRID_TIMESTEPS:
        table.add_column(f"t = {t}", justify="right")
    names = {place: name for name, place in grid_cells().items()}
    done = {result.method for result in report.results}
    for layer in GRID_LAYERS:
        if done.isdisjoint(names[layer, t] for t in GRID_TIMESTEPS):
            continue  # the preset's denoiser does not have this layer
        cells = (report.values(names[layer, t], "oa") for t in GRID_TIMESTEPS)
        table.add_row(str(layer), *map(spread, cells))
    return table


def as_json(report: Report) -> dict[str, Any]:
    """Return all figures as plain values: fractions, None if undefined, and every seed separately."""
    return {
        "dataset": report.dataset,
        "split": report.split,
        "classes": [c.name for c in report.scene.classes],
        "methods": {name: _method_json(report, name) for name in dict.fromkeys(r.method for r in report.results)},
    }


def _method_json(report: Report, name: str) -> dict[str, Any]:
    results, known = report.of(name), published(report.dataset, report.split, name)
    figures = {m: [_defined(getattr(r, m)) for r in results] for m in MEASURES}
    return {
        "seeds": [r.seed for r in results],
        **figures,
        "per_class": [[_defined(share) for share in r.per_class] for r in results],
        "paper_percent": {m: getattr(known, m) for m in MEASURES},
        "leakage": [r.leakage for r in results],
        "train_seconds": [r.train_seconds for r in results],
        "map_seconds": [r.map_seconds for r in results],
    }


def spread(values: Sequence[float]) -> str:
    """Return mean and sample standard deviation as text; only the mean of one value, a dash for none."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return DASH
    mean = f"{np.mean(known):.2f}"
    return mean if len(known) == 1 else f"{mean} +- {np.std(known, ddof=1):.2f}"


def gain(before: Sequence[float], after: Sequence[float]) -> str:
    """Return the mean difference of paired values and its standard error as text; no error for one pair."""
    differences = np.subtract(after, before)
    if not differences.size:
        return DASH
    mean = f"{differences.mean():+.2f}"
    if differences.size == 1:
        return mean
    return f"{mean} +- {differences.std(ddof=1) / math.sqrt(differences.size):.2f}"


def _paper(report: Report, method: str, measure: str) -> str:
    value = getattr(published(report.dataset, report.split, method), measure)
    return DASH if value is None else f"{value:.2f}"


def _title(report: Report, what: str) -> str:
    seeds = len({r.seed for r in report.results})
    return f"{report.scene.name}, split {report.split}, {seeds} seed{'s' if seeds != 1 else ''}: {what}"


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value
