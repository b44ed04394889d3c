"""What a cheaper model costs in accuracy: presets with smaller denoisers, earlier taps or no features, on real scenes.

    python -m benchmarks.ladder --out ladder --folder FOLDER          # FOLDER holds the scenes of `scenes.CASES`
    python -m benchmarks.ladder --out ladder --folder FOLDER --rungs product short --seeds 1
    python -m benchmarks.ladder --out ladder --folder FOLDER --write docs/performance.md --picture docs/pareto.png

Each rung is trained on the same training pixels and the same seeds as the default, as by `benchmarks.scenes`, whose
results in the output folder are read and never computed twice. `FILES` are rungs that need no training: other files of
the default's runs, which map the scene by themselves. Then each rung becomes a file, from its run on the first
case, and all files, a random forest and an SVM map the same pixels in turn, one thread each: microseconds a pixel are
medians over rounds. OA is that of the test pixels, AA that under equal shares of the classes.

``--against OLD.onnx`` times an earlier version's file in the same run.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.svm import SVC

from benchmarks.accuracy.methods import PRODUCT, Method
from benchmarks.accuracy.ours import fit_ours
from benchmarks.accuracy.problem import Context, Problem
from benchmarks.accuracy.run import WORK, compare
from benchmarks.accuracy.simple import SIMPLE, fit_simple, settings_of, title_of
from benchmarks.accuracy.store import Outcome, Result
from benchmarks.scenes import CASES, Case, Lines, denoisers_of, load, problem, put, spread
from spectraldiff.ensemble.prior import EQUAL, Prior
from spectraldiff.ensemble.selection import ATTENTION
from spectraldiff.models.classifier import Classifier, predict_scene
from spectraldiff.models.normaliser import filled_window
from spectraldiff.models.presets import FAST, Preset
from spectraldiff.models.settings import replaced
from spectraldiff.training.compute import choose_compute, keep_freed_memory
from spectraldiff.training.run_folder import SAMPLES, RunFolder
from spectraldiff.training.run_model import load_model, load_tensors
from spectraldiff_export.card import card_of
from spectraldiff_export.export import export_model, export_run
from spectraldiff_export.exported_model import ExportedModel
from spectraldiff_export.precision.agreement import lowered
from spectraldiff_runtime.errors import SpectralDiffError
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.model.model_file import seal

BEGIN, END = "<!-- begin: python -m benchmarks.ladder -->", "<!-- end: python -m benchmarks.ladder -->"
TREES, TILE, ROUNDS, TIMED_PIXELS = 100, 256, 5, 16_384
EARLIER = "the earlier version's file"
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


def _denoiser(steps: int = FAST.diffusion.steps, layer: int = FAST.features.layer, **network: Any) -> Preset:
    return replaced(FAST, diffusion={"network": network, "steps": steps}, features={"layer": layer})


RUNGS: Mapping[str, Rung] = {
    PRODUCT: Rung("the default: 12 positions, channels 16, 32, 8,000 steps", FAST),
    "before": Rung(
        "the default before: 24 positions, channels 16, 32, 32, 5,000 steps",
        _denoiser(5000, 2, most_positions=24, channels=(16, 32, 32)),
    ),
    "wide": Rung(
        "an earlier default: 32 positions, channels 32, 48, 64, 2,000 steps",
        _denoiser(2000, 2, positions=25, most_positions=None, channels=(32, 48, 64)),
    ),
    "short": Rung("2,000 steps", _denoiser(2000)),
    "coarse": Rung("8 positions, 10,000 steps", _denoiser(10_000, most_positions=8)),
    "fine": Rung("16 positions, 7,000 steps", _denoiser(7000, most_positions=16)),
    "tap0": Rung("the default's denoiser, first tap", replaced(FAST, features={"layer": 0})),
    "two": Rung(
        "two attention members, not three", replaced(FAST, classifier={"members": FAST.classifier.members[:2]})
    ),
    "raw": Rung("no features: raw bands", FAST.changed(features="raw")),
}

# Files of the default's runs that need no training of their own.
FILES: Mapping[str, str] = {
    "linear": "linear members alone: the default without attention members",
    "fp16": "the default in fp16",
    "int8": "the default in int8",
}


def method_of(name: str) -> Method:
    """Return the method of a rung or a file, for `benchmarks.accuracy.run.compare`."""
    if name in FILES:
        settings = {"preset": RUNGS[PRODUCT].preset.to_json(), "file": name}
        return Method(name, FILES[name], 1, settings, partial(fit_file, name))
    preset = RUNGS[name].preset
    return Method(name, RUNGS[name].title, 1, {"preset": preset.to_json()}, partial(fit_ours, name, preset))


def fit_file(name: str, problem: Problem, context: Context) -> Outcome:
    """Map the scene with one of `FILES`, made from the default's run of the same seed."""
    path = file_of(name, context.folder, problem)
    classifier, _ = load_model(RunFolder(context.folder / f"{PRODUCT}-seed{problem.seed}"))
    model = ExportedModel(Model.open(path, "cpu", threads=1), classifier.fill)
    offset = torch.from_numpy(Prior(EQUAL).logs(_classes(problem), model.classes)) - _prior(problem, model.classes)
    started = time.perf_counter()
    layers = predict_scene(model, problem.scene, offset)
    seconds, window = time.perf_counter() - started, 2 * model.model.card.halo + 1
    return Outcome(layers.classes, 0.0, seconds, {}, window, layers.confidence, layers.other)


def _classes(problem: Problem) -> NDArray[np.int64]:
    return problem.labels.astype(np.int64) - 1


def _prior(problem: Problem, classes: int) -> torch.Tensor:
    return torch.from_numpy(Prior().logs(_classes(problem), classes))


def leave_attention_out(classifier: Classifier, run: RunFolder, problem: Problem) -> None:
    """Leave the attention members out of a classifier; the scores of its linear members become as large as all were."""
    shares = {one["title"]: one["share"] for one in run.read_json("metrics.json")["ensemble"]["members"]}
    assert classifier.linear is not None
    classifier.vit = None
    classifier.smoothing.iterations = max(context.iterations for context in classifier.linear.contexts)
    for members in (classifier.linear, None if classifier.kernel is None else classifier.kernel.read):
        for values in () if members is None else (members.weight, members.bias):
            values /= 1 - shares.get(ATTENTION, 0.0)
    classifier.prior.copy_(_prior(problem, classifier.classes))


def file_of(name: str, folder: Path, problem: Problem) -> Path:
    """Return the file of a rung or of `FILES`, made anew from a finished run in `folder`: by the exporter of today.

    Lower precisions are not refused here, whatever they lose: the table shows it. A model without a U-Net has nothing
    to store in 8 bits: its int8 file is the default's own.
    """
    path = folder / f"{name}-seed{problem.seed}.onnx"
    run = RunFolder(folder / f"{PRODUCT if name in FILES else name}-seed{problem.seed}")
    if name not in FILES:
        export_run(run, path, overwrite=True)
    elif name == "linear":
        classifier, facts = load_model(run)
        leave_attention_out(classifier, run, problem)
        card = card_of(classifier, facts)
        side = 32 + 2 * card.halo
        tiles = [filled_window(problem.scene, classifier.fill, at, at + side, at, at + side) for at in (0, 32)]
        export_model(classifier, card, torch.stack(tiles), path, overwrite=True)
    elif name == "int8" and load_model(run)[0].extractor.denoiser is None:
        return file_of(PRODUCT, folder, problem)
    else:
        whole = onnx.load(file_of(PRODUCT, folder, problem))
        lower = lowered(whole, name, load_tensors(run, SAMPLES)["tiles"].numpy())
        path.write_bytes(seal(lower.SerializeToString(deterministic=True)))
    return path


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
            options.out, choose_compute("cpu"), 1, denoisers=options.out / (denoisers_of(case) + _trunk(name)),
            denoiser_seed=0 if options.one_denoiser else None,
        )  # fmt: skip
        results += compare(problems, [method_of(name)], options.out / case.name, context, Lines(case))
    return problems, results


def _trunk(name: str) -> str:
    """Return what the folder of a rung's denoisers ends in: nothing for the default's, as in `benchmarks.scenes`."""
    own = RUNGS[PRODUCT if name in FILES else name].preset.diffusion
    first = next(other for other, rung in RUNGS.items() if rung.preset.diffusion == own)
    return "" if first == PRODUCT else f"-{first}"


def timed(options: argparse.Namespace, case: Case, of: Problem) -> dict[str, float]:
    """Return microseconds a pixel of each rung's file, a random forest and an SVM, one thread, in turn."""
    runs: dict[str, Callable[[], object]] = {}
    pixels = {}
    files = {name: file_of(name, options.out / case.name / WORK, of) for name in options.rungs}
    for name, path in (files if options.against is None else files | {EARLIER: options.against}).items():
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
        cells = [method_of(name).title, f"{micro[name]:.1f}"]
        for results in found.values():
            own, base = figures(results, name), figures(results, PRODUCT)
            gain = f" ({spread(own['oa'] - base['oa'])})" if name != PRODUCT and len(base["oa"]) else ""
            cells.append(f"{spread(own['oa'])} / {spread(own['aa'])}{gain}")
        lines.append("| " + " | ".join(cells) + " |")
    cells = [f"{spread(figures(rs, best[t])['oa'])} ({title_of(best[t])})" for t, rs in found.items()]
    lines.append("| best simple method | - | " + " | ".join(cells) + " |")
    lines += [f"| {name} | {us:.1f} |" + " - |" * len(heads) for name, us in micro.items() if name not in options.rungs]
    return "\n".join(lines)


def draw(
    options: argparse.Namespace, found: Mapping[str, Sequence[Result]], micro: Mapping[str, float], path: Path
) -> None:
    """Draw OA against microseconds a pixel, one panel a case."""
    figure, axes = plt.subplots(1, len(found), figsize=(4 * len(found), 4.2), layout="constrained", squeeze=False)
    for panel, (title, results) in zip(axes[0], found.items(), strict=True):
        for at, (name, marker) in enumerate(zip(options.rungs, cycle("osD^v<>P"))):
            oa = figures(results, name)["oa"]
            error = oa.std(ddof=1) / len(oa) ** 0.5 if len(oa) > 1 else 0
            panel.errorbar(micro[name], oa.mean(), error, fmt=marker, color=f"C{at}", label=name)
        simple = max(float(figures(results, name)["oa"].mean()) for name in SIMPLE)
        panel.axhline(simple, color="0.6", linestyle="--", label="best simple method")
        panel.set(xlim=(0, 1.3 * max(micro[name] for name in options.rungs)), xlabel="microseconds a pixel, one thread")
        panel.set(ylabel="OA, %", title=title)
    names = axes[0, 0].get_legend_handles_labels()  # the same in all panels
    figure.legend(*names, loc="outside lower center", ncols=len(options.rungs) + 1, fontsize=9)
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
    parser.add_argument("--rungs", nargs="+", choices=[*RUNGS, *FILES], default=[*RUNGS, *FILES], metavar="RUNG")
    parser.add_argument("--cases", nargs="+", default=list(COMPARED), help="how their titles and splits begin")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="file of an earlier version, timed in the same run")
    parser.add_argument("--one-denoiser", action="store_true", help="all seeds share the denoiser of seed 0")
    parser.add_argument("--write", type=Path, help="Markdown file to put the table into")
    parser.add_argument("--picture", type=Path, help="PNG file to draw")
    return parser


if __name__ == "__main__":
    sys.exit(main())
