"""SpectralDiff and the raw transformer, through the training pipeline that `sdiff train` runs.

Each training has a run folder and continues after an interruption. All trainings with diffusion features and the same
seed share one denoiser, which is trained without labels and depends neither on the split nor on timestep, layer and
members.
"""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy.problem import Context, Problem, Report
from benchmarks.accuracy.store import Outcome, check_same, plain, write_text
from spectraldiff.ensemble.prior import EQUAL, Prior
from spectraldiff.models.classifier import predict_scene
from spectraldiff.models.presets import Preset
from spectraldiff.training.monitor import Monitor
from spectraldiff.training.run_folder import STATE, RunFolder
from spectraldiff.training.run_model import load_model
from spectraldiff.training.trainer import Training

CLAIM = "settings.json"


class _Progress(Monitor):
    """Forwards the pipeline's progress."""

    def __init__(self, report: Report) -> None:
        self.report, self.title = report, ""

    def stage(self, title: str, unit: str) -> None:
        self.title = title

    def progress(self, done: int, total: int, loss: float | None = None) -> None:
        self.report(self.title, done, total)


def fit_ours(name: str, preset: Preset, problem: Problem, context: Context) -> Outcome:
    """Train the pipeline with `preset` and map the scene with the model in its run folder."""
    settings = {"scene": problem.facts(), "preset": preset.to_json()}
    run = _claimed(context.folder / f"{name}-seed{problem.seed}", settings)
    if not run.finished:
        if not preset.raw and not (run.path / STATE).exists():
            _take_denoiser(run, preset, problem, context)
        _training(run, preset, problem, context, problem.seed).finish()
    started = time.perf_counter()
    model, _ = load_model(run)
    report, classes = context.report, model.classes
    labels = problem.labels.astype(np.int64) - 1
    offset = torch.from_numpy(Prior(EQUAL).logs(labels, classes) - Prior().logs(labels, classes))
    layers = predict_scene(
        model.to(context.compute.device), problem.scene, offset, lambda done, n: report("mapping", done, n)
    )
    seconds = run.read_json("metrics.json")["seconds"]
    trained = sum(s for stage, s in seconds.items() if not stage.endswith("map"))
    chosen = {"smoothing iterations": float(model.smoothing.iterations), "temperature": float(model.temperature)}
    mapped = time.perf_counter() - started
    return Outcome(layers.classes, trained, mapped, chosen, 2 * model.halo + 1, layers.confidence, layers.other)


def _take_denoiser(run: RunFolder, preset: Preset, problem: Problem, context: Context) -> None:
    """Train the seed's denoiser, or the shared one, if it does not exist yet, and start the run from its state."""
    seed = problem.seed if context.denoiser_seed is None else context.denoiser_seed
    settings = {"scene": problem.facts_of_scene(seed), "diffusion": preset.to_json()["diffusion"]}
    shared = _claimed((context.denoisers or context.folder) / f"denoiser-seed{seed}", settings)
    _training(shared, preset, problem, context, seed).train_denoiser()
    copy = run.path / f"{STATE}.partial"
    shutil.copyfile(shared.path / STATE, copy)
    copy.replace(run.path / STATE)


def _training(run: RunFolder, preset: Preset, problem: Problem, context: Context, seed: int) -> Training:
    monitor = _Progress(context.report)
    return Training(run, problem.scene, problem.split, preset, seed, context.compute, monitor)


def _claimed(path: Path, settings: Mapping[str, Any]) -> RunFolder:
    """Return the run folder at `path`; RunError if it was started with other settings."""
    path.mkdir(parents=True, exist_ok=True)
    claim = path / CLAIM
    if claim.exists():
        check_same(path, json.loads(claim.read_text("utf-8")), settings)
    else:
        write_text(claim, json.dumps(plain(settings), indent=2))
    return RunFolder(path)
