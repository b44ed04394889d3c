"""What a cheaper model costs in accuracy: presets with smaller denoisers, earlier taps or no features, on real scenes.

    python -m benchmarks.ladder --out ladder --folder FOLDER          # FOLDER holds the scenes of `scenes.CASES`
    python -m benchmarks.ladder --out ladder --folder FOLDER --rungs default small --seeds 1
    python -m benchmarks.ladder --out ladder --folder FOLDER --write docs/performance.md --picture docs/pareto.png

Each rung is trained on the same training pixels and the same seeds as the default, as by `benchmarks.scenes`, whose
results in the output folder are read and never computed twice. Then each rung becomes a file, from its run on the first
case, and all files, a random forest and an SVM map the same pixels in turn, one thread each: microseconds a pixel are
medians over rounds. OA is that of the test pixels, AA that under equal shares of the classes.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.svm import SVC

from benchmarks.accuracy.methods import Method
from benchmarks.accuracy.ours import fit_ours
from benchmarks.accuracy.problem import Context, Problem
from benchmarks.accuracy.run import WORK, compare
from benchmarks.accuracy.simple import SIMPLE, fit_simple, settings_of, title_of
from benchmarks.accuracy.store import Result
from benchmarks.scenes import CASES, Case, Lines, denoisers_of, load, problem, put, spread
from spectraldiff.models.presets import FAST, Preset
from spectraldiff.models.settings import replaced
from spectraldiff.training.compute import choose_compute, keep_freed_memory
from spectraldiff.training.run_folder import RunFolder
from spectraldiff_export.export import export_run
from spectraldiff_runtime.errors import SpectralDiffError
from spectraldiff_runtime.model.engine import Model

BEGIN, END = "<!-- begin: python -m benchmarks.ladder -->", "<!-- end: python -m benchmarks.ladder -->"
TREES, TILE, ROUNDS, TIMED_PIXELS = 100, 256, 5, 16_384
# The cases of `benchmarks.scenes` on which rungs are compared; files are made and timed on the first.
COMPARED = ("Indian Pines, paper", "Indian Pines, per-class:10", "EnMAP Potsdam", "Salinas-A, per-class:5")


@dataclass(frozen=True)
class Rung:
    """A preset that costs less, or more, than the default.

    Attributes
    ----------
    title
        What the table calls it.
    preset
        What is trained.
    """

    title: str
    preset: Preset


def _net(**network: Any) -> Preset:
    return replaced(FAST, diffusion={"network": network})


RUNGS: Mapping[str, Rung] = {
    "default": Rung("the default: 25 positions, channels 32, 48, 64", FAST),
    "half": Rung("13 positions", _net(positions=13)),
    "small": Rung("channels 16, 32, 32", _net(channels=(16, 32, 32))),
    "coarse": Rung("13 positions, channels 16, 32, 32", _net(channels=(16, 32, 32), positions=13)),
    "tap0": Rung("the default's denoiser, first tap", replaced(FAST, features={"layer": 0})),
    "raw": Rung("no features: raw bands", FAST.changed(features="raw")),
}


def method_of(name: str, rung: Rung) -> Method:
    """Return the method of a rung, for `benchmarks.accuracy.run.compare`."""
    return Method(name, rung.title, 1, {"preset": rung.preset.to_json()}, partial(fit_ours, name, rung.preset))


def simple_methods() -> list[Method]:
    """Return the six simple methods."""
    return [Method(n, title_of(n), SIMPLE[n][1], settings_of(n), partial(fit_simple, n)) for n in SIMPLE]


def cases_of(names: Sequence[str]) -> list[Case]:
    """Return the cases whose title and split begin as the names do."""
    return [case for name in names for case in CASES if f"{case.title}, {case.split}".startswith(name)]


def train(options: argparse.Namespace, case: Case) -> tuple[list[Problem], list[Result]]:
    """Train all rungs on a case; return one problem a seed, and all results."""
    scene = load(case, options.folder)
    problems = [problem(case, options.folder, scene, FAST, seed) for seed in range(options.seeds)]
    results = compare(problems, simple_methods(), options.out / case.name, Context(options.out), Lines(case))
    for name in options.rungs:
        context = Context(
            options.out, choose_compute("cpu"), 1, denoisers=options.out / f"{denoisers_of(case)}-{_trunk(name)}",
            denoiser_seed=0 if options.one_denoiser else None,
        )  # fmt: skip
        results += compare(problems, [method_of(name, RUNGS[name])], options.out / case.name, context, Lines(case))
    return problems, results


def _trunk(name: str) -> str:
    """Return the first rung with the denoiser of this one."""
    return next(other for other, rung in RUNGS.items() if rung.preset.diffusion == RUNGS[name].preset.diffusion)


def timed(options: argparse.Namespace, case: Case, of: Problem) -> dict[str, float]:
    """Return microseconds a pixel of each rung's file, a random forest and an SVM, one thread, in turn."""
    runs: dict[str, Callable[[], object]] = {}
    pixels = {}
    for name in options.rungs:
        path = options.out / f"{name}.onnx"
        run = RunFolder(options.out / case.name / WORK / f"{name}-seed0")
        export_run(run, path, overwrite=True)
        model = Model.open(path, "cpu", threads=1)
        tile = _tile(of.scene.cube, TILE + 2 * model.card.halo)
        runs[name], pixels[name] = partial(model.run, tile), TILE * TILE
    rows = np.resize(of.pixels[of.scene.valid], (TIMED_PIXELS, of.scene.cube.shape[2]))
    train = of.pixels[of.split.train]
    for name, estimator in (
        (f"random forest, {TREES} trees", RandomForestClassifier(TREES, random_state=0, n_jobs=1)),
        ("SVM", SVC(C=100.0, gamma="scale", cache_size=500)),
    ):
        runs[name], pixels[name] = partial(estimator.fit(train, of.labels).predict, rows), TIMED_PIXELS
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, call in runs.items():
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    return {name: 1e6 * median(found) / pixels[name] for name, found in times.items()}


def _tile(cube: NDArray[Any], side: int) -> NDArray[np.float32]:
    """Return a tile (1, B, side, side) float32 of a scene and its mirrored copies."""
    rows, columns = (np.pad(np.arange(n), (0, max(0, side - n)), mode="reflect")[:side] for n in cube.shape[:2])
    return np.ascontiguousarray(cube[rows][:, columns].transpose(2, 0, 1)[None], dtype=np.float32)


def figures(results: Sequence[Result], method: str) -> dict[str, NDArray[np.float64]]:
    """Return OA and AA (under equal shares where the method gives it), percent, by seed."""
    found = sorted((r for r in results if r.method == method), key=lambda r: r.seed)
    aa = [r.aa if r.equal_aa is None else r.equal_aa for r in found]
    return {"oa": 100 * np.array([r.oa for r in found]), "aa": 100 * np.array(aa)}


def table(options: argparse.Namespace, found: Mapping[str, Sequence[Result]], micro: Mapping[str, float]) -> str:
    """Return the Markdown table: microseconds, and OA / AA on each case with the difference from the default's OA."""
    heads = [f"{title}: OA / AA (OA less the default's)" for title in found]
    lines = ["| Model | us a pixel | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(heads)]
    best = {
        title: max(SIMPLE, key=lambda n, rs=results: float(figures(rs, n)["oa"].mean()))  # type: ignore[misc]
        for title, results in found.items()
    }
    for name in options.rungs:
        cells = [RUNGS[name].title, f"{micro[name]:.1f}"]
        for results in found.values():
            own, base = figures(results, name), figures(results, "default")
            gain = f" ({spread(own['oa'] - base['oa'])})" if name != "default" and len(base["oa"]) else ""
            cells.append(f"{spread(own['oa'])} / {spread(own['aa'])}{gain}")
        lines.append("| " + " | ".join(cells) + " |")
    cells = [f"{spread(figures(rs, best[t])['oa'])} ({title_of(best[t])})" for t, rs in found.items()]
    lines.append("| best simple method | - | " + " | ".join(cells) + " |")
    lines += [f"| {name} | {us:.1f} |" + " - |" * len(heads) for name, us in micro.items() if name not in RUNGS]
    return "\n".join(lines)


def draw(
    options: argparse.Namespace, found: Mapping[str, Sequence[Result]], micro: Mapping[str, float], path: Path
) -> None:
    """Draw OA against microseconds a pixel, one panel a case."""
    figure, axes = plt.subplots(1, len(found), figsize=(4 * len(found), 4.2), layout="constrained", squeeze=False)
    for panel, (title, results) in zip(axes[0], found.items(), strict=True):
        for name in options.rungs:
            oa = figures(results, name)["oa"]
            error = oa.std(ddof=1) / len(oa) ** 0.5 if len(oa) > 1 else 0
            panel.errorbar(micro[name], oa.mean(), error, fmt="o", color="tab:red" if name == "default" else "tab:blue")
            panel.annotate(name, (micro[name], oa.mean()), (5, 4), textcoords="offset points", fontsize=8)
        simple = max(float(figures(results, name)["oa"].mean()) for name in SIMPLE)
        panel.axhline(simple, color="0.6", linestyle="--", label="best simple method")
        panel.set(xlim=(0, 1.3 * max(micro[name] for name in options.rungs)), xlabel="microseconds a pixel, one thread")
        panel.set(ylabel="OA, %", title=title)
        panel.legend(loc="best", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    options = _parser().parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(1)
    try:
        found, first = {}, None
        for case in cases_of(options.cases):
            problems, results = train(options, case)
            first = first or (case, problems[0])
            found[f"{case.title}, {'its tiles' if not case.drawn else case.split}"] = results
        assert first is not None
        micro = timed(options, *first)
        text = table(options, found, micro)
        if options.write is not None:
            put(options.write, text, BEGIN, END)
        if options.picture is not None:
            draw(options, found, micro, options.picture)
    except SpectralDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ladder", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of results, runs and files")
    parser.add_argument("--folder", type=Path, required=True, help="folder of the scenes")
    parser.add_argument("--rungs", nargs="+", choices=list(RUNGS), default=list(RUNGS), metavar="RUNG")
    parser.add_argument("--cases", nargs="+", default=list(COMPARED), help="how their titles and splits begin")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--one-denoiser", action="store_true", help="all seeds share the denoiser of seed 0")
    parser.add_argument("--write", type=Path, help="Markdown file to put the table into")
    parser.add_argument("--picture", type=Path, help="PNG file to draw")
    return parser


if __name__ == "__main__":
    sys.exit(main())
