"""Measure training steps per second, and the gain of each choice: all variants alternately, in one run.

The denoiser's step is measured with all choices, and with each one reverted: channels last, memory that is kept instead
of returned to the system, float32 or bfloat16.  The classifier's step is measured with windows cut by index, and with
the same windows from a data loader with one worker per core.

    python -m benchmarks.train_speed --dataset indian-pines
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from spectraldiff.datasets.registry import load
from spectraldiff.models.classifier import new_denoiser
from spectraldiff.models.foveal_vit import new_vit
from spectraldiff.models.normaliser import filled, normaliser_of
from spectraldiff.models.padding import mirrored
from spectraldiff.models.presets import FAST, PAPER, Preset, preset_named
from spectraldiff.training.compute import Compute, choose_compute, keep_freed_memory
from spectraldiff.training.loop import Loop
from spectraldiff.training.tasks import ClassifierTask, DiffusionTask

SEED = 0
WARM = 3  # warm-up steps


def denoiser_loop(pixels: Tensor, preset: Preset, compute: Compute, channels_last: bool) -> Loop:
    """Return the denoiser's loop of `sdiff train` on a scene's normalised pixels, (B, H, W)."""
    torch.manual_seed(SEED)
    flat = pixels.flatten(1)
    denoiser = new_denoiser(preset, len(flat), flat.mean(1), flat.std(1)).to(compute.device)
    if channels_last:
        denoiser.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    settings = preset.diffusion
    task = DiffusionTask(denoiser, [pixels], settings.instance, settings.loop.batch)
    return Loop(denoiser, task, settings.steps, settings.loop, compute, SEED)


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """The classifier's windows, one at a time, for a data loader."""

    def __init__(self, task: ClassifierTask) -> None:
        self.task = task

    def __len__(self) -> int:
        return len(self.task.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.task.windows(self.task.pixels[index : index + 1])[0], self.task.labels[index]


def classifier_loop(pixels: Tensor, labels: Any, preset: Preset, compute: Compute) -> Loop:
    """Return the classifier's loop on random features of the scene's size; its speed does not depend on values."""
    torch.manual_seed(SEED)
    settings, components = preset.classifier, preset.components.most
    radius = settings.window // 2
    scene = mirrored(pixels[:1], radius)[0]
    features = torch.randn(*scene.shape, components, device=compute.device)
    features = features.bfloat16() if compute.bf16 else features
    chosen = np.random.default_rng(SEED).permutation(np.argwhere(labels > 0))[:1024]
    where = torch.from_numpy(chosen + radius).to(compute.device)
    classes = torch.from_numpy(labels[tuple(chosen.T)].astype(np.int64) - 1).to(compute.device)
    vit = new_vit(preset.vit(components, int(labels.max()), preset.members())).to(compute.device)
    task = ClassifierTask(vit, features, where, classes, settings.loop.batch, settings.noise, SEED, settings.balance)
    return Loop(vit, task, settings.steps(task.steps), settings.loop, replace(compute, micro_batch=None), SEED)


def from_loader(loop: Loop) -> Callable[[], None]:
    """Return the same step with windows from a data loader instead."""
    task = loop.task
    assert isinstance(task, ClassifierTask)
    loader = DataLoader(Windows(task), task.batch, shuffle=True, num_workers=torch.get_num_threads())
    batches = endless(loader)

    def step() -> None:
        windows, labels = next(batches)
        loop.optimiser.zero_grad()
        with loop.compute.autocast():
            loss = F.cross_entropy(loop.model(windows.to(loop.compute.device)).float(), labels.to(loop.compute.device))
        loss.backward()  # type: ignore[no-untyped-call]
        loop.optimiser.step()

    return step


def endless(loader: DataLoader[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the loader's batches, epoch after epoch."""
    while True:
        yield from loader


def whole_step(loop: Loop) -> Callable[[], None]:
    """Return one step of a loop, as `Loop.run` does it."""
    loop.model.train()

    def step() -> None:
        loop.history.append(loop.train_step())

    return step


def seconds(ways: dict[str, Callable[[], None]], steps: int, device: torch.device) -> dict[str, float]:
    """Return the median seconds of a step of each variant; they run alternately."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(WARM + steps):
        for name, step in ways.items():
            started = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= WARM:
                times[name].append(time.perf_counter() - started)
    return {name: median(values) for name, values in times.items()}


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Return the median seconds of a step of every variant."""
    scene = load(options.dataset, options.data_dir)
    preset, compute = preset_named(options.preset), choose_compute(options.device)
    if not options.give_back:
        keep_freed_memory()
    normaliser, fill = normaliser_of(scene)
    pixels = normaliser(filled(scene, fill)[None])[0].to(compute.device)
    loops = {"denoiser": denoiser_loop(pixels, preset, compute, True)}
    if not options.give_back:
        loops["denoiser, channels first"] = denoiser_loop(pixels, preset, compute, False)
        other = Compute(compute.device, not compute.bf16, compute.micro_batch)
        loops[f"denoiser, {'bfloat16' if other.bf16 else 'float32'}"] = denoiser_loop(pixels, preset, other, True)
    ways = {name: whole_step(loop) for name, loop in loops.items()}
    if not options.give_back:
        ways["classifier"] = whole_step(classifier_loop(pixels, scene.labels, preset, compute))
        ways["classifier, data loader"] = from_loader(classifier_loop(pixels, scene.labels, preset, compute))
    return seconds(ways, options.steps, compute.device)


def given_back(arguments: list[str]) -> dict[str, float]:
    """Measure the denoiser in a process that returns memory to the system, which a process cannot switch back to."""
    line = [sys.executable, "-m", "benchmarks.train_speed", *arguments, "--give-back"]
    told = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    return {f"{name}, memory given back": value for name, value in json.loads(told).items()}


def show(times: dict[str, float]) -> None:
    """Print the table."""
    table = Table("Step", "ms", "steps a second", "times as long", title="Training")
    for name, value in times.items():
        base = times[name.partition(",")[0]]
        table.add_row(name, f"{1000 * value:.0f}", f"{1 / value:.2f}", f"{value / base:.2f}")
    Console().print(table)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="indian-pines")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--preset", default=FAST.name, choices=(FAST.name, PAPER.name))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--give-back", action="store_true", help=argparse.SUPPRESS)
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(given)
    times = measure(options)
    if options.give_back:
        print(json.dumps(times))
        return
    show({**times, **given_back(given)})


if __name__ == "__main__":
    main()
