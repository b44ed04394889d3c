"""Two of the same at once: how long a training step and a map take alone and beside another, all cores for each.

    python -m benchmarks.side_by_side --model demo/model.onnx

Each side is a process of its own. It runs once with threads that wait passively (OMP_WAIT_POLICY, as ``sdiff`` sets it)
and once with threads that spin while they wait. Two that share the cores without loss take twice as long as one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

POLICIES = ("PASSIVE", "ACTIVE")
WORKS = ("denoiser", "classifier", "map")


def work(name: str, model: Path | None, scene: Path | None, seconds: float) -> None:
    """Run one side: warm up, say so, wait for a line of input, and print the median seconds of a step or a map."""
    from benchmarks import train_speed
    from benchmarks.map_speed import seconds_of_map
    from spectraldiff.datasets.registry import load
    from spectraldiff.models.normaliser import filled, normaliser_of
    from spectraldiff.models.presets import FAST
    from spectraldiff.training.compute import choose_compute, keep_freed_memory
    from spectraldiff_runtime import Model

    keep_freed_memory()
    if name == "map":
        assert model is not None
        assert scene is not None
        opened, out = Model.open(model, "cpu"), scene.with_name(f"classes-{os.getpid()}.tif")
        seconds_of_map(opened, scene, out, (0, 0, 64, 64))

        def step() -> None:
            seconds_of_map(opened, scene, out)
    else:
        compute, embedded = choose_compute("cpu"), load("indian-pines")
        normaliser, fill = normaliser_of(embedded)
        pixels = normaliser(filled(embedded, fill)[None])[0]
        if name == "denoiser":
            loop = train_speed.denoiser_loop(pixels, FAST, compute, channels_last=True)
        else:
            loop = train_speed.classifier_loop(pixels, embedded.labels, FAST, compute)
        step = train_speed.whole_step(loop)
        for _ in range(train_speed.WARM):
            step()
    print("ready", flush=True)
    sys.stdin.readline()
    times: list[float] = []
    started = time.perf_counter()
    while time.perf_counter() - started < seconds or not times:
        before = time.perf_counter()
        step()
        times.append(time.perf_counter() - before)
    print(median(times), flush=True)


def together(number: int, arguments: list[str], policy: str) -> list[float]:
    """Start so many sides, let them go at the same time, and return the seconds of a step of each."""
    environment = {**os.environ, "OMP_WAIT_POLICY": policy}
    line = [sys.executable, "-m", "benchmarks.side_by_side", *arguments]
    sides = [
        subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(number)
    ]
    for side in sides:
        assert side.stdout is not None
        if side.stdout.readline() != "ready\n":
            raise SystemExit("one of the processes ended before it was ready")
    for side in sides:
        assert side.stdin is not None
        side.stdin.write("\n")
        side.stdin.flush()
    return [float(side.communicate()[0]) for side in sides]


def measure(works: list[str], arguments: list[str], rounds: int) -> Table:
    """Return the table: alone and two at once, alternately, for each way of waiting."""
    table = Table("Work", "Threads that wait", "alone, ms", "two at once, ms each", "times as long")
    for name in works:
        alone: dict[str, list[float]] = {policy: [] for policy in POLICIES}
        both: dict[str, list[float]] = {policy: [] for policy in POLICIES}
        for _, policy in ((r, p) for r in range(rounds) for p in POLICIES):
            alone[policy] += together(1, [*arguments, "--side", name], policy)
            both[policy] += together(2, [*arguments, "--side", name], policy)
        for policy in POLICIES:
            one, two = median(alone[policy]), median(both[policy])
            waits = {"PASSIVE": "passively (sdiff)", "ACTIVE": "spinning"}[policy]
            table.add_row(name, waits, f"{1000 * one:.0f}", f"{1000 * two:.0f}", f"{two / one:.2f}")
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="model file; without one, maps are left out")
    parser.add_argument("--pixels", type=int, default=512, help="rows and columns of the mapped mosaic")
    parser.add_argument("--seconds", type=float, default=15, help="of each run")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--scene", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=WORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        work(options.side, options.model, options.scene, options.seconds)
        return
    from benchmarks.map_speed import write_mosaic
    from spectraldiff.datasets.registry import load

    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--seconds", str(options.seconds)]
        if options.model:
            scene = Path(folder) / "scene.tif"
            write_mosaic(load("indian-pines").cube, scene, options.pixels)
            arguments += ["--model", str(options.model), "--scene", str(scene)]
        works = [name for name in WORKS if options.model or name != "map"]
        Console().print(measure(works, arguments, options.rounds))


if __name__ == "__main__":
    main()
