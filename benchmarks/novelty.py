"""Pixels of classes without labels: each class left out of the training in turn, and looked for by the outside layer.

    python -m benchmarks.novelty --out novelty --folder FOLDER --only EnMAP
    python -m benchmarks.novelty --out novelty --only "Indian Pines, paper" --features raw --epochs 2

FOLDER holds the scenes of `benchmarks.scenes`. For each class, the product is trained on the training pixels of all
others; AUROC is that of its pixels against the test pixels of the others, for the layer that ``sdiff map --outside``
writes (whole percents) and for 1 - confidence. One denoiser a scene serves all classes. Beyond 95 % should lie a
twentieth of the others, and as many of the class as can be. Each class is kept in the output folder and never runs
twice.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.accuracy.ours import _claimed, _take_denoiser, _training
from benchmarks.accuracy.problem import Context, Problem
from benchmarks.accuracy.store import write_text
from benchmarks.scenes import CASES, Case, denoisers_of, load, problem
from spectraldiff.models.classifier import predict_scene
from spectraldiff.models.presets import Preset, preset_named
from spectraldiff.splits.split import Split
from spectraldiff.training.compute import choose_compute, keep_freed_memory
from spectraldiff_runtime.errors import SpectralDiffError
from spectraldiff_runtime.output.block import BEYOND

DEFAULT = ("Indian Pines, paper", "EnMAP Potsdam")


@dataclass(frozen=True)
class LeftOut:
    """What was found of one class that was left out: AUROCs, and shares of pixels beyond `BEYOND` percent, 0..1."""

    title: str
    pixels: int
    outside: float
    doubt: float
    beyond: float
    others_beyond: float
    expected: float


def auroc(found: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Return the chance that a value of the first is above one of the second, ties counted half; 0..1."""
    ranks = rankdata(np.concatenate([found, others]))[: len(found)]
    return float((ranks.sum() - len(found) * (len(found) + 1) / 2) / (len(found) * len(others)))


def without(whole: Problem, value: int) -> Problem:
    """Return a problem whose training pixels are those of all classes but one, and whose test pixels those to judge."""
    scene, split = whole.scene, whole.split
    own = scene.labels == value
    train = split.train & ~own
    return Problem(scene, Split(split.name, split.seed, train, (split.test | split.train) & ~train))


def run_class(case: Case, whole: Problem, value: int, preset: Preset, out: Path, context: Context) -> LeftOut:
    """Train without a class, or read what was found before."""
    part = without(whole, value)
    path = out / case.name / f"{preset.features.source}-class{value}"
    settings = {"scene": part.facts(), "preset": preset.to_json()}
    run = _claimed(path, settings)
    if (path / "found.json").exists():
        return LeftOut(**json.loads((path / "found.json").read_text("utf-8")))
    if not preset.raw:
        _take_denoiser(run, preset, part, context)
    training = _training(run, preset, part, context, part.seed)
    fitted = training.train_classifier(preset, training.train_denoiser())
    layers = predict_scene(fitted.model, part.scene, torch.zeros_like(fitted.model.prior))
    own = part.split.test & (part.scene.labels == value)
    others = part.split.test & whole.split.test & (part.scene.labels != value)
    assert layers.outside is not None
    assert fitted.outside is not None
    far, doubt = layers.outside.astype(np.float64), 1 - layers.confidence.astype(np.float64)
    found = LeftOut(
        part.scene.classes[value - 1].name,
        int(own.sum()),
        auroc(far[own], far[others]),
        auroc(doubt[own], doubt[others]),
        float((far[own] > BEYOND).mean()),
        float((far[others] > BEYOND).mean()),
        fitted.outside.auroc,
    )
    write_text(path / "found.json", json.dumps(asdict(found), indent=2))
    shutil.rmtree(path / "figures", ignore_errors=True)
    return found


def table(rows: Sequence[LeftOut]) -> str:
    """Return a Markdown table, the mean in its last line."""
    head = ["| Left out | Pixels | AUROC, outside | AUROC, 1 - confidence | Beyond 95 %, % | Others beyond, % |"]
    head.append("|" + "---|" * 6)
    figures = ("outside", "doubt", "beyond", "others_beyond")
    lines = [_line(row.title, row.pixels, *(getattr(row, name) for name in figures)) for row in rows]
    means = [float(np.mean([getattr(row, name) for row in rows])) for name in figures]
    return "\n".join([*head, *lines, _line("mean", sum(row.pixels for row in rows), *means)])


def _line(title: str, pixels: int, outside: float, doubt: float, beyond: float, others: float) -> str:
    return f"| {title} | {pixels:,} | {outside:.3f} | {doubt:.3f} | {100 * beyond:.1f} | {100 * others:.1f} |"


def run(case: Case, options: argparse.Namespace, preset: Preset) -> str:
    """Leave each class of a case out in turn; return its table."""
    whole = problem(case, options.folder, load(case, options.folder), preset, options.seed)
    denoisers = (options.denoisers or options.out) / denoisers_of(case)
    context = Context(options.out, choose_compute("auto"), options.threads, denoisers=denoisers)
    values = [int(value) for value in np.unique(whole.labels)]
    rows = []
    for value in values[:: options.every]:
        rows.append(run_class(case, whole, value, preset, options.out, context))
        row = rows[-1]
        print(f"{case.title}: {row.title} {row.outside:.3f}, {row.doubt:.3f}", file=sys.stderr, flush=True)
    return f"{case.title}, {case.split}\n\n{table(rows)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    options = _parser().parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    changes = {"features": None if options.features == "diffusion" else "raw", "epochs": options.epochs}
    preset = preset_named("fast").changed(**changes)
    try:
        for case in CASES:
            name = f"{case.title}, {case.split}"
            wanted = [options.only] if options.only else DEFAULT
            if any(text.lower() in name.lower() for text in wanted):
                print(run(case, options, preset), flush=True)
    except SpectralDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.novelty", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--folder", type=Path, default=Path(), help="folder of the scenes")
    parser.add_argument("--denoisers", type=Path, help="folder of an earlier benchmark that holds denoisers")
    parser.add_argument("--only", default="", help="cases whose title or split holds this")
    parser.add_argument("--features", choices=["diffusion", "raw"], default="diffusion")
    parser.add_argument("--epochs", type=int, help="epochs of the attention members, those of the preset by default")
    parser.add_argument("--every", type=int, default=1, help="leave out every n-th class only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads; all by default")
    return parser


if __name__ == "__main__":
    sys.exit(main())
