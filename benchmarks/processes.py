"""Compare trainings that several processes share with one process's: losses step by step, time and bytes of a step.

Each count of processes is started by torchrun, as `sdiff train` is, and trains the denoiser and the classifier of a
preset on a synthetic scene. With --device cuda each process computes on a GPU of its own.

    python -m benchmarks.processes --counts 1 2 --steps 10
    python -m benchmarks.processes --counts 1 2 4 8 --steps 20 --preset paper --device cuda --precision bfloat16

The last column is one process again, with weights that differ in their last bit: what rounding alone does to the
losses.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.train_speed import classifier_loop, denoiser_loop
from spectraldiff.models.presets import FAST, PAPER, Preset, preset_named
from spectraldiff.models.settings import replaced
from spectraldiff.processes.group import Processes, joined
from spectraldiff.processes.launch import follows, launched
from spectraldiff.training.compute import choose_compute, keep_freed_memory
from spectraldiff.training.loop import Loop, serve

Found = dict[str, Any]
WARM = 2  # steps that are not timed


def scene(bands: int, side: int) -> tuple[Tensor, Any]:
    """Return smooth spectra of four classes with noise, (B, H, W) in -1..1, and the classes, (H, W) from 1."""
    draw = torch.Generator().manual_seed(0)
    labels = 1 + np.add.outer(np.arange(side) * 2 // side * 2, np.arange(side) * 2 // side)
    waves = torch.linspace(0, 3, bands)
    spectra = torch.stack([torch.sin(waves * (number + 1)) for number in range(4)], 1)  # (B, 4)
    pixels = 0.7 * spectra[:, torch.from_numpy(labels - 1)] + 0.1 * torch.randn(bands, side, side, generator=draw)
    return pixels.clamp(-1, 1), labels


def measured(loop: Loop) -> Found:
    """Run a loop and return its losses, and the seconds and the bytes that are added up of one step."""
    times, losses, sent = [time.perf_counter()], [], 0
    add_up = Processes.add_up

    def counted(self: Processes, values: Tensor) -> None:
        nonlocal sent
        sent += values.nbytes
        add_up(self, values)

    def report(step: int, total: int, loss: float) -> None:
        losses.append(loss)
        times.append(time.perf_counter())

    Processes.add_up = counted  # type: ignore[method-assign]
    try:
        loop.run(report)
    finally:
        Processes.add_up = add_up  # type: ignore[method-assign]
    each = np.diff(times)[min(WARM, len(losses) - 1) :].tolist()
    return {"losses": losses, "seconds": median(each), "bytes": sent / len(losses)}


def lead(options: argparse.Namespace) -> Found:
    """Train both networks with the processes that torchrun has started, and say what was found."""
    preset: Preset = preset_named(options.preset)
    if options.batch is not None:
        preset = replaced(preset, diffusion={"loop": {"batch": options.batch}})
    with joined() as processes:
        compute = replace(choose_compute(options.device, processes), bf16=options.precision == "bfloat16")
        pixels, labels = scene(options.bands, options.side)
        kind = torch.float64 if options.precision == "float64" else torch.float32
        pixels, found = pixels.to(compute.device, kind), {}
        for name in options.loops:
            if name == "denoiser":
                loop = denoiser_loop(pixels, preset, compute, True)
            else:
                loop = classifier_loop(pixels, labels, preset, replace(compute, micro_batch=None))
                task: Any = loop.task
                task.features, task.bank = task.features.to(kind), task.bank.to(kind)
            loop = Loop(loop.model.to(kind), loop.task, options.steps, loop.settings, loop.compute, loop.seed)
            if options.rounded:
                change_last_bits(loop.model)
            found[name] = measured(loop)
        return found


@torch.no_grad()
def change_last_bits(model: nn.Module) -> None:
    """Change each weight by about its last bit."""
    draw = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        change = torch.randn(weight.shape, generator=draw, dtype=weight.dtype).to(weight.device)
        weight.mul_(1 + torch.finfo(weight.dtype).eps / 2 * change)


def started(count: int, *arguments: str) -> Found:
    """Measure in so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), "-m", "--"]
        line += ["benchmarks.processes", *arguments, "--into", str(out)]
        subprocess.run(line, check=True)
        found: Found = json.loads(out.read_text())
        return found


def show(found: dict[str, Found]) -> None:
    """Print a table of each loop: its losses, with the largest difference from the first column, time and bytes."""
    first = next(iter(found))
    for loop, base in found[first].items():
        of_each = {name: one[loop] for name, one in found.items()}
        table = Table("Step", *of_each, title=f"Losses of the {loop}")
        for step in range(len(base["losses"])):
            table.add_row(str(step + 1), *(f"{one['losses'][step]:.7f}" for one in of_each.values()))
        table.add_section()
        table.add_row("largest relative difference", *(f"{difference(one, base):.1e}" for one in of_each.values()))
        table.add_row("ms a step", *(f"{1000 * one['seconds']:.0f}" for one in of_each.values()))
        table.add_row("bytes added up a step", *(f"{one['bytes']:,.0f}" for one in of_each.values()))
        Console().print(table)


def difference(one: Found, base: Found) -> float:
    """Return the largest relative difference of the losses of any step."""
    a, b = np.array(one["losses"]), np.array(base["losses"])
    return float((abs(a - b) / abs(b)).max())


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--loops", nargs="+", default=["denoiser", "classifier"], choices=("denoiser", "classifier"))
    parser.add_argument("--preset", default=FAST.name, choices=(FAST.name, PAPER.name))
    parser.add_argument("--batch", type=int, help="Instances a step; the preset's by default.")
    parser.add_argument("--bands", type=int, default=200)
    parser.add_argument("--side", type=int, default=64, help="Pixels along the side of the scene.")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16", "float64"))
    parser.add_argument("--rounded", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="Write the figures, too.")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(given)
    keep_freed_memory()
    if options.into is None:
        found = {f"{count} processes" if count > 1 else "1 process": started(count, *given) for count in options.counts}
        found["1, last bits changed"] = started(1, *given, "--rounded")
        show(found)
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=1))
    else:
        if follows():
            serve()
        else:
            options.into.write_text(json.dumps(lead(options)))
        if launched() > 1:  # threads of PyTorch can abort an orderly end of the interpreter, after all is done
            sys.stderr.flush()
            os._exit(0)


if __name__ == "__main__":
    main()
