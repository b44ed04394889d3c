"""Kill a map or a training at random moments, go on with --resume, and compare with an undisturbed one.

Of a map all files must be the same and nothing else may be left; of a training the model, the tiles of its scene and
the pixels of both sides must be the same and the other files be there (reports hold times). With --each-stage, a
training is killed in each of its stages: it tells each stage when it begins, and is killed before the next. Its
processes are forks of one that has imported everything, so that a kill takes little more than the training does.

    python -m benchmarks.kills --folder /tmp/kills --kills 50
    python -m benchmarks.kills --folder /tmp/kills --kills 50 --scene demo/scene.tif --model demo/model.onnx
    python -m benchmarks.kills --folder /tmp/kills --kills 20 --train
    python -m benchmarks.kills --folder /tmp/kills --train --each-stage 1
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from safetensors.numpy import load_file

from benchmarks import tiny
from spectraldiff.training.run_folder import (
    DATA,
    FACTS,
    MODEL,
    REQUEST,
    SAMPLES,
    STATE,
    TEST_PIXELS,
    TRAIN_PIXELS,
)
from spectraldiff_runtime.output.journal import JOURNAL, PUBLISHING, unfinished_folder

NAMES = ("classes.tif", "confidence.tif", "probabilities.tif", "map.png")
SDIFF = (sys.executable, "-m", "spectraldiff_runtime")
SIDE = 300  # pixels of the scene that is made where none is given
WATCHED = "--watched"  # before the arguments of `sdiff`: run them here, and tell the stages
STAGE = "stage: "
ATTEMPTS = 8  # to kill in a stage that may be over sooner
SAVE_EVERY = 0.1  # seconds: stages of seconds are gone on with from their middle, too
# What a training imports.
IMPORTED = (
    "spectraldiff.cli.train_output",
    "spectraldiff.training.session",
    "spectraldiff_export.export",
    "rich.table",
)
# Functions whose begin begins a stage, besides those of which the training tells itself.
BEGINS = {
    "spectraldiff.training.request.Request.load_scenes": "data",
    "spectraldiff.training.session.create_run": "run folder",
    "spectraldiff.training.fit_ensemble.choose": "choice of members",
    "spectraldiff.training.fit_ensemble.EnsembleFit._outside": "distance from the training",
    "spectraldiff.training.trainer.Training.write": "report",
    "spectraldiff.training.trainer.save_model": "model",
    "spectraldiff.training.run_folder.RunFolder.drop_state": "end",
}


class Killed(ABC):
    """A command that is killed, in a folder of its own."""

    code_of_ended = 0  # of the command that goes on where it had ended

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def line(self) -> list[str]:
        """Return the command that begins, or goes on."""

    @abstractmethod
    def begun(self) -> bool:
        """Whether it has begun to write."""

    @abstractmethod
    def phase(self) -> str:
        """Return the phase in which it was killed, from the files that it left; "ended" where nothing is left to do."""

    @abstractmethod
    def contents(self) -> dict[str, bytes]:
        """Return what must be as undisturbed."""


class KilledMap(Killed):
    """A map with all outputs."""

    def __init__(self, folder: Path, scene: Path, model: Path, extra: list[str]) -> None:
        super().__init__(folder)
        out = dict(zip(("--out", "--confidence", "--probabilities", "--preview"), NAMES, strict=True))
        files = [part for option, name in out.items() for part in (option, str(folder / name))]
        self._line = [*SDIFF, "map", str(scene), "--model", str(model), *files, "--resume", "--quiet", *extra]
        self._unfinished = unfinished_folder(folder / NAMES[0])

    def line(self) -> list[str]:
        return self._line

    def begun(self) -> bool:
        return (self._unfinished / JOURNAL).exists()

    def phase(self) -> str:
        if not self.begun():
            return "ended" if (self.folder / NAMES[0]).exists() else "starting"
        if f"\n{PUBLISHING} ".encode() in (self._unfinished / JOURNAL).read_bytes():
            return "naming the files"
        return "finishing" if list(self.folder.glob(".*.partial*")) else "mapping"

    def contents(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.folder)): p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}


class KilledTraining(Killed):
    """A training on a tiny scene, on diffusion features."""

    code_of_ended = 1  # it says that it is finished

    def __init__(self, folder: Path, scene: Path, labels: Path, extra: list[str]) -> None:
        super().__init__(folder)
        self._run = folder / "run"
        self._begin = [sys.executable, "-m", "benchmarks.kills", WATCHED]
        self._new = [*self._begin, *tiny.training(scene, labels, self._run), *extra]

    def line(self) -> list[str]:
        if (self._run / REQUEST).exists():
            return [*self._begin, "train", "--resume", str(self._run), "-q"]
        return self._new

    def watched(self) -> list[str]:
        """Return the arguments of `watch` for it."""
        return self.line()[len(self._begin) :]

    def begun(self) -> bool:
        return self._run.exists()

    def phase(self) -> str:
        if (self._run / FACTS).exists():
            return "ended"
        if not (self._run / DATA).exists():
            return "beginning" if (self._run / REQUEST).exists() else "starting"
        if (self._run / MODEL).exists():
            return "writing the model"
        if not (self._run / STATE).exists():
            return "before the first stage"
        stages = [key for key in load_file(self._run / STATE) if key.endswith(".seconds")]
        return f"in or after stage {len(stages)}"

    def contents(self) -> dict[str, bytes]:
        same = (MODEL, SAMPLES, TRAIN_PIXELS, TEST_PIXELS, DATA)
        files = [path for path in self._run.rglob("*") if path.is_file()]
        return {str(p.relative_to(self._run)): p.read_bytes() if p.name in same else b"" for p in files}


def watch(arguments: list[str]) -> int:
    """Run `sdiff` here and tell each stage when it begins, on stdout; return its exit code."""
    from spectraldiff.cli.train_output import TerminalMonitor
    from spectraldiff.training import monitor
    from spectraldiff_runtime.cli import run

    monitor.SAVE_EVERY = SAVE_EVERY
    for name, stage in BEGINS.items():
        owner, _, function = name.rpartition(".")
        tell_before(_found(owner), function, lambda *_, stage=stage: stage)
    tell_before(TerminalMonitor, "stage", lambda _, title, unit: title)
    return run(arguments)


def tell_before(owner: Any, name: str, stage: Callable[..., str]) -> None:
    """Have a function tell that a stage begins, by its arguments, whenever it is called."""
    whole = getattr(owner, name)

    @wraps(whole)
    def told(*values: Any, **named: Any) -> Any:
        print(STAGE + stage(*values), flush=True)
        return whole(*values, **named)

    setattr(owner, name, told)


def _found(name: str) -> Any:
    """Return a module, or a class of one."""
    module, _, last = name.rpartition(".")
    return getattr(import_module(module), last) if last[0].isupper() else import_module(name)


def undisturbed(task: Killed) -> tuple[dict[str, bytes], float, float]:
    """Run without a kill; return what must come out, and the times when it began to write and ended."""
    start, begun = time.perf_counter(), 0.0
    process = subprocess.Popen(task.line(), stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if not begun and task.begun():
            begun = time.perf_counter() - start
        time.sleep(0.002)
    if process.returncode:
        raise RuntimeError(f"the undisturbed run ended with {process.returncode}")
    return task.contents(), begun, time.perf_counter() - start


class Forked:
    """A fork of this process that begins a training, or goes on with it, and tells its stages."""

    def __init__(self, task: KilledTraining) -> None:
        read, write = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.dup2(write, 1)
            os._exit(watch(task.watched()))
        os.close(write)
        self._told = os.fdopen(read)

    def stages(self) -> Iterator[str]:
        """Yield the stages as they begin, until the process ends."""
        with self._told as lines:
            for line in lines:
                yield line.removeprefix(STAGE).strip()

    def ended(self) -> int:
        """Return the exit code, or the signal below 0."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def stages_of(task: KilledTraining) -> dict[str, float]:
    """Run undisturbed; return the stages in turn, with the seconds that each takes."""
    began: dict[str, float] = {}
    process = Forked(task)
    for stage in process.stages():
        began.setdefault(stage, time.perf_counter())
    ends = [*list(began.values())[1:], time.perf_counter()]
    if code := process.ended():
        raise RuntimeError(f"the undisturbed run ended with {code}")
    return {stage: end - start for (stage, start), end in zip(began.items(), ends, strict=True)}


def killed_in(task: KilledTraining, stage: str, wait: float) -> bool:
    """Begin the task anew and kill it so many seconds after a stage began; whether that stage was its last."""
    shutil.rmtree(task.folder, ignore_errors=True)
    task.folder.mkdir(parents=True)
    process, last = Forked(task), ""
    for last in process.stages():
        if last == stage:
            time.sleep(wait)
            os.kill(process.pid, signal.SIGKILL)
    return process.ended() == -signal.SIGKILL and last == stage


def measure_stages(task: KilledTraining, times: int, seed: int) -> dict[str, Any]:
    """Return how often the task came out as undisturbed that was killed so many times in each stage."""
    shutil.rmtree(task.folder, ignore_errors=True)
    task.folder.mkdir(parents=True)
    for name in IMPORTED:
        import_module(name)
    stages = stages_of(task)
    wanted, rng, rows = task.contents(), np.random.default_rng(seed), []
    for stage, seconds in stages.items():
        row: dict[str, Any] = {"stage": stage, "seconds": round(seconds, 3), "kills": 0, "identical": 0, "left": []}
        for _ in range(times):
            waits = (rng.uniform(0, seconds) / 2**attempt for attempt in range(ATTEMPTS))
            if not any(killed_in(task, stage, wait) for wait in waits):
                continue
            row["kills"] += 1
            row["left"].append(task.phase())
            process = Forked(task)
            for _ in process.stages():
                pass
            row["identical"] += came_out(task, process.ended(), row["left"][-1], wanted, f"in {stage}")
        print(json.dumps(row), file=sys.stderr)
        rows.append(row)
    total = {key: sum(row[key] for row in rows) for key in ("kills", "identical")}
    return {**total, "undisturbed_s": sum(stages.values()), "stages": rows}


def came_out(task: Killed, code: int, phase: str, wanted: dict[str, bytes], killed: str) -> bool:
    """Whether a killed task that was gone on with came out as wanted; else say how it did not."""
    found = task.contents()
    names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if not names and code == (task.code_of_ended if phase == "ended" else 0):
        return True
    print(f"killed {killed}: exit {code}, other files: {', '.join(names) or 'none'}", file=sys.stderr)
    return False


def measure(task: Killed, kills: int, seed: int) -> dict[str, Any]:
    """Return the phases in which the task was killed, and how many that went on came out as undisturbed."""
    shutil.rmtree(task.folder, ignore_errors=True)
    task.folder.mkdir(parents=True)
    wanted, begun, ended = undisturbed(task)
    rng, phases, identical = np.random.default_rng(seed), Counter[str](), 0
    for _ in track(range(kills), "Killing", console=Console(stderr=True)):
        while True:
            shutil.rmtree(task.folder)
            task.folder.mkdir()
            instant = rng.uniform(0.9 * begun, ended)
            process = subprocess.Popen(task.line(), stdout=subprocess.DEVNULL)
            time.sleep(instant)
            process.send_signal(signal.SIGKILL)
            if process.wait() == -signal.SIGKILL:
                break
        phase = task.phase()
        phases[phase] += 1
        code = subprocess.run(task.line(), check=False, stdout=subprocess.DEVNULL).returncode
        identical += came_out(task, code, phase, wanted, f"after {instant:.2f} s, {phase}")
    return {
        "kills": kills,
        "phases": dict(phases),
        "identical": identical,
        "undisturbed_s": ended,
        "files": {name: len(data) for name, data in wanted.items()},
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--train", action="store_true", help="a training, not a map")
    parser.add_argument("--each-stage", type=int, help="kills of a training in each stage, in place of --kills")
    parser.add_argument("--scene", type=Path, help="of a map; a tiny one by default")
    parser.add_argument("--model", type=Path, help="of a map; a tiny one by default")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    if WATCHED in sys.argv:
        at = sys.argv.index(WATCHED)
        sys.exit(watch(sys.argv[at + 1 :]))
    options, extra = parser.parse_known_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    scene, model = options.scene or folder / "scene.tif", options.model or folder / "model.onnx"
    if options.train:
        tiny.write_labelled(scene, folder / "labels.tif")
        training = KilledTraining(folder / "training", scene, folder / "labels.tif", extra)
        if options.each_stage:
            print(json.dumps(measure_stages(training, options.each_stage, options.seed), indent=2))
            return
        task: Killed = training
    else:
        if options.scene is None:
            tiny.write_scene(scene, SIDE, SIDE)
        if options.model is None:
            tiny.write_model(model)
        task = KilledMap(folder / "map", scene, model, extra)
    print(json.dumps(measure(task, options.kills, options.seed), indent=2))


if __name__ == "__main__":
    main()
