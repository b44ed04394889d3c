"""Kill a map or a training at random moments, go on with --resume, and compare with an undisturbed one.

Of a map all files must be the same and nothing else may be left; of a training the model and the tiles of its scene
must be the same (its reports hold times).

    python -m benchmarks.kills --folder /tmp/kills --kills 50
    python -m benchmarks.kills --folder /tmp/kills --kills 50 --scene demo/scene.tif --model demo/model.onnx
    python -m benchmarks.kills --folder /tmp/kills --kills 20 --train
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from safetensors.numpy import load_file

from benchmarks import tiny
from spectraldiff.training.run_folder import DATA, FACTS, MODEL, REQUEST, SAMPLES, STATE
from spectraldiff_runtime.output.journal import JOURNAL, PUBLISHING, unfinished_folder

NAMES = ("classes.tif", "confidence.tif", "probabilities.tif", "map.png")
SDIFF = (sys.executable, "-m", "spectraldiff_runtime")
SIDE = 300  # pixels of the scene that is made where none is given


class Killed(ABC):
    """A command that is killed, in a folder of its own."""

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
        """Return the phase in which it was killed, from the files that it left."""

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

    def __init__(self, folder: Path, scene: Path, labels: Path) -> None:
        super().__init__(folder)
        self._run = folder / "run"
        self._new = [*SDIFF, *tiny.training(scene, labels, self._run)]

    def line(self) -> list[str]:
        if (self._run / REQUEST).exists():
            return [*SDIFF, "train", "--resume", str(self._run), "-q"]
        return self._new

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
        left = {str(p): b"" for p in self._run.rglob("*") if p.name.endswith(".partial") or p.name == STATE}
        return left | {name: (self._run / name).read_bytes() for name in (MODEL, SAMPLES)}


def undisturbed(task: Killed) -> tuple[dict[str, bytes], float, float]:
    """Run without a kill; return what must come out, and the times when it began to write and ended."""
    start, begun = time.perf_counter(), 0.0
    process = subprocess.Popen(task.line())
    while process.poll() is None:
        if not begun and task.begun():
            begun = time.perf_counter() - start
        time.sleep(0.002)
    if process.returncode:
        raise RuntimeError(f"the undisturbed run ended with {process.returncode}")
    return task.contents(), begun, time.perf_counter() - start


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
            process = subprocess.Popen(task.line())
            time.sleep(instant)
            process.send_signal(signal.SIGKILL)
            if process.wait() == -signal.SIGKILL:
                break
        phase = task.phase()
        phases[phase] += 1
        code = 0 if phase == "ended" else subprocess.run(task.line(), check=False).returncode
        same = code == 0 and task.contents() == wanted
        identical += same
        if not same:
            print(f"killed after {instant:.2f} s, {phase}: exit {code}, another end", file=sys.stderr)
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
    parser.add_argument("--scene", type=Path, help="of a map; a tiny one by default")
    parser.add_argument("--model", type=Path, help="of a map; a tiny one by default")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options, extra = parser.parse_known_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    scene, model = options.scene or folder / "scene.tif", options.model or folder / "model.onnx"
    if options.train:
        tiny.write_labelled(scene, folder / "labels.tif")
        task: Killed = KilledTraining(folder / "training", scene, folder / "labels.tif")
    else:
        if options.scene is None:
            tiny.write_scene(scene, SIDE, SIDE)
        if options.model is None:
            tiny.write_model(model)
        task = KilledMap(folder / "map", scene, model, extra)
    print(json.dumps(measure(task, options.kills, options.seed), indent=2))


if __name__ == "__main__":
    main()
