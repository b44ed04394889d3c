"""Kill a map at random moments, continue with --resume, and compare all files with those of an uninterrupted run.

python -m benchmarks.kills --folder /tmp/kills --model demo/model.onnx --scene demo/scene.tif --kills 50
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from spectraldiff_runtime.output.journal import JOURNAL, PUBLISHING, unfinished_folder

NAMES = ("classes.tif", "confidence.tif", "probabilities.tif", "map.png")


def command(scene: Path, model: Path, folder: Path, extra: list[str]) -> list[str]:
    """Return the command that maps the scene with all outputs."""
    out = dict(zip(("--out", "--confidence", "--probabilities", "--preview"), NAMES, strict=True))
    files = [part for option, name in out.items() for part in (option, str(folder / name))]
    program = [sys.executable, "-m", "spectraldiff_runtime", "map", str(scene), "--model", str(model)]
    return [*program, *files, "--resume", "--quiet", *extra]


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def phase(folder: Path) -> str:
    """Return the phase in which a map was killed, from the files that it left."""
    unfinished = unfinished_folder(folder / NAMES[0])
    if not (unfinished / JOURNAL).exists():
        return "ended" if (folder / NAMES[0]).exists() else "starting"
    if f"\n{PUBLISHING} ".encode() in (unfinished / JOURNAL).read_bytes():
        return "naming the files"
    return "finishing" if list(folder.glob(".*.partial*")) else "mapping"


def undisturbed(line: list[str], folder: Path) -> tuple[dict[str, bytes], float, float]:
    """Map without a kill; return the files, and the times when the journal appeared and the process ended."""
    start, begun = time.perf_counter(), 0.0
    process = subprocess.Popen(line)
    while process.poll() is None:
        if not begun and (unfinished_folder(folder / NAMES[0]) / JOURNAL).exists():
            begun = time.perf_counter() - start
        time.sleep(0.002)
    if process.returncode:
        raise RuntimeError(f"the undisturbed map ended with {process.returncode}")
    return contents(folder), begun, time.perf_counter() - start


def measure(options: argparse.Namespace, extra: list[str]) -> dict[str, Any]:
    """Return the phases in which the map was killed, and the number of identical resumed maps."""
    folder: Path = options.folder / "map"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    line = command(options.scene, options.model, folder, extra)
    wanted, begun, ended = undisturbed(line, folder)
    rng, phases, identical = np.random.default_rng(options.seed), Counter[str](), 0
    for _ in track(range(options.kills), "Killing", console=Console(stderr=True)):
        shutil.rmtree(folder)
        folder.mkdir()
        while True:
            instant = rng.uniform(0.9 * begun, ended)
            process = subprocess.Popen(line)
            time.sleep(instant)
            process.send_signal(signal.SIGKILL)
            if process.wait() == -signal.SIGKILL:
                break
        phases[phase(folder)] += 1
        done = subprocess.run(line, check=False)
        identical += done.returncode == 0 and contents(folder) == wanted
    return {
        "kills": options.kills,
        "phases": dict(phases),
        "identical": identical,
        "undisturbed_s": ended,
        "files": {name: len(data) for name, data in wanted.items()},
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--scene", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path("model.onnx"))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options, extra = parser.parse_known_args()
    print(json.dumps(measure(options, extra), indent=2))


if __name__ == "__main__":
    main()
