"""Let system calls fail at each call of a map, a training and an export, go on, and compare with an undisturbed run.

A library in C (`faults.c`, compiled with gcc, put under the programs by LD_PRELOAD) makes one call on the files of a
folder fail, or that one and all later ones: reads, writes, syncs, namings, and the making of files and folders, by
Python and by GDAL. A fault is survived if

- no file has its final name and other content than undisturbed, nor after the error more than one line is on stderr;
- the exit code is 0 with all files as undisturbed, or 1; never a traceback;
- the same command, with --resume for a map and a training, then ends with 0, the same files and nothing else.

So it runs on Linux only.

    python -m benchmarks.faults --folder /tmp/faults --most 20
"""

import argparse
import errno
import json
import mmap
import os
import shutil
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import safetensors.numpy
from numba.core.registry import cpu_target
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks import tiny

KINDS = ("read", "write", "sync", "name", "make")
FAIL, SHORTER, SLOW = 1, 2, 3
# What happens to a call, its error number, and whether also to all later ones.
FAULTS = {
    "EIO": (FAIL, errno.EIO, 0),
    "EIO from then on": (FAIL, errno.EIO, 1),
    "ENOSPC from then on": (FAIL, errno.ENOSPC, 1),
    "EINTR": (FAIL, errno.EINTR, 0),
    "short from then on": (SHORTER, 0, 1),
    "slow": (SLOW, 0, 1),
}
# The faults that make sense for each kind of call.
TRANSFERS = ("EINTR", "short from then on", "slow")
SENSIBLE = {
    "read": ("EIO", "EIO from then on", *TRANSFERS),
    "write": ("EIO", "EIO from then on", "ENOSPC from then on", *TRANSFERS),
    "sync": ("EIO", "EIO from then on", "ENOSPC from then on", "slow"),
    "name": ("EIO", "EIO from then on", "ENOSPC from then on"),
    "make": ("EIO", "EIO from then on", "ENOSPC from then on"),
}
SHIM, STATE, PRELOAD = "FAULT_SHIM", "FAULT_STATE", "LD_PRELOAD"
# Imported once, before a process is forked for each run.
MODULES = {
    "map": ("spectraldiff_runtime.cli.map", "spectraldiff_runtime.mapping.map_scene"),
    "train": ("spectraldiff.cli.train", "spectraldiff.api.runs", "spectraldiff.training.trainer"),
    "export": ("spectraldiff_export.cli", "spectraldiff_export.verify", "spectraldiff_export.precision.fp16"),
}


@dataclass(frozen=True)
class Task:
    """A command that is disturbed.

    Attributes
    ----------
    line
        Its arguments, for the folder that it writes in.
    again
        What is added to go on, or the whole line in its place.
    same
        The ends of the names of the files that are the same at each run; others hold times.
    """

    name: str
    line: Callable[[Path], list[str]]
    again: Callable[[Path], list[str]]
    same: tuple[str, ...]


class Shim:
    """What the library is told, in memory that all processes share."""

    def __init__(self, state: Path, folder: Path) -> None:
        with state.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 4096)
        self._folder = os.fsencode(folder)

    def arm(self, kind: int, fault: tuple[int, int, int], at: int) -> None:
        """Have a fault happen to the `at`-th call of a kind, from 1; none with 0."""
        happens, number, lasting = fault
        head = struct.pack("4i6q", kind if at else -1, happens, number, lasting, at, *[0] * len(KINDS))
        self._memory[: len(head) + 2048] = head + self._folder.ljust(2048, b"\0")

    def disarm(self) -> list[int]:
        """Let all calls pass again; return how many there were of each kind."""
        *_, calls = struct.unpack("24s40s", self._memory[:64])
        self._memory[:64] = bytes(64)
        self._memory[64:2112] = bytes(2048)
        return list(struct.unpack("5q", calls))


def compile_shim(folder: Path) -> Path:
    """Compile the library; RuntimeError where there is no gcc for it."""
    library = folder / "faults.so"
    source = Path(__file__).with_name("faults.c")
    gcc = shutil.which("gcc")
    if gcc is None or not sys.platform.startswith("linux"):
        raise RuntimeError("faults are put under a program by a C library: wanted Linux and gcc")
    subprocess.run([gcc, "-shared", "-fPIC", "-O1", "-Wall", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def tasks(folder: Path, names: Sequence[str]) -> Iterator[Task]:
    """Write what the tasks read, and yield them."""
    given = folder / "given"
    given.mkdir()
    scene, model, labels = given / "scene.tif", given / "model.onnx", given / "labels.tif"
    if "map" in names:
        tiny.write_model(model)
        tiny.write_scene(scene, 40, 50)
        yield Task("map", lambda out: map_line(scene, model, out), lambda out: map_line(scene, model, out), ("",))
    if {"train", "export"} & set(names):
        tiny.write_labelled(given / "own.tif", labels)
    if "train" in names:
        yield Task(
            "train", lambda out: train_line(given, out / "run"), lambda out: resume_line(given, out / "run"),
            ("model.safetensors", "samples.safetensors", "_pixels.tif"),
        )  # fmt: skip
    if "export" in names:
        run = given / "run"
        code, said = called(train_line(given, run), folder)
        if code:
            raise RuntimeError(said)
        keep_graph(given / "graph")
        line = ["export", "--run", str(run), "-q", "--overwrite", "--out"]
        yield Task("export", lambda out: [*line, str(out / "m.onnx")], lambda out: [*line, str(out / "m.onnx")], ("",))


def keep_graph(path: Path) -> None:
    """Have PyTorch make the graph once: that takes most of an export's time, and writes nothing."""
    export: Any = import_module("spectraldiff_export.export")
    made = export.onnx_bytes

    def kept(*arguments: Any) -> bytes:
        if not path.exists():
            path.write_bytes(made(*arguments))
        return path.read_bytes()

    export.onnx_bytes = export._ENCODERS[".onnx"] = kept


def map_line(scene: Path, model: Path, out: Path) -> list[str]:
    """Return the arguments of a map with all outputs, in tiles of 16 pixels."""
    names = {"--confidence": "confidence.tif", "--probabilities": "probabilities.tif", "--preview": "map.png"}
    more = [part for option, name in names.items() for part in (option, str(out / name))]
    line = ["map", str(scene), "--model", str(model), "--out", str(out / "classes.tif"), *more]
    return [*line, "--tile", "16", "--threads", "1", "--resume", "-q"]


def train_line(given: Path, run: Path) -> list[str]:
    """Return the arguments of a training on raw bands, the shortest."""
    return tiny.training(given / "own.tif", given / "labels.tif", run, raw=True)


def resume_line(given: Path, run: Path) -> list[str]:
    """Return the arguments that go on with a training, or begin it anew where nothing was begun."""
    if (run / "model.json").exists():
        return ["info", str(run)]
    if (run / "run.json").exists():
        return ["train", "--resume", str(run), "-q"]
    return train_line(given, run)


def called(line: Sequence[str], folder: Path) -> tuple[int, list[str]]:
    """Run ``sdiff`` in a fork of this process; return its exit code and the lines on stderr."""
    said = folder / "stderr"
    pid = os.fork()
    if not pid:
        _child(line, said)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), said.read_text(errors="replace").splitlines()


def _child(line: Sequence[str], said: Path) -> NoReturn:
    code = 70
    try:
        null = os.open(os.devnull, os.O_RDWR)
        errors = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for number, file in enumerate((null, null, errors)):
            os.dup2(file, number)
        from spectraldiff_runtime.cli import run

        code = run(list(line))
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def contents(folder: Path, same: Sequence[str]) -> dict[str, object]:
    """Return every file below a folder with its bytes, or whether it is sound where these differ at each run."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock"]
    return {str(p.relative_to(folder)): p.read_bytes() if p.name.endswith(tuple(same)) else sound(p) for p in files}


def sound(path: Path) -> bool:
    """Whether a file of JSON, a picture or a page is whole."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text("utf-8"))
        elif path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
        elif path.suffix == ".html":
            return path.read_text("utf-8").rstrip().endswith("</html>")
        elif path.suffix == ".safetensors":
            safetensors.numpy.load_file(path)
    except (OSError, ValueError, SyntaxError, safetensors.SafetensorError):
        return False
    return path.stat().st_size > 0


def disturbed(
    task: Task, out: Path, shim: Shim, kind: int, fault: str, at: int, whole: dict[str, object]
) -> tuple[int, str]:
    """Run a task with a fault, and go on; return its exit code, and what is wrong: nothing if it was survived."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    shim.arm(kind, FAULTS[fault], at)
    code, said = called(task.line(out), out.parent)
    shim.disarm()
    found = contents(out, task.same)
    broken = [name for name in sorted(found.keys() & whole.keys()) if found[name] != whole[name]]
    if broken:
        return code, f"exit {code}, and broken: {broken}"
    errors = [line for line in said if not line.startswith("sdiff: warning: ")]
    if code not in (0, 1) or (code == 1 and (len(errors) != 1 or not errors[0].startswith("sdiff: error: "))):
        return code, f"exit {code}, said: {said[-3:]}"
    if code == 0 and (found != whole or errors):
        return code, f"exit 0 and another end: {differing(found, whole)} {errors[:1]}"
    again, said = called(task.again(out), out.parent)
    left = contents(out, task.same)
    if again or left != whole:
        return code, f"going on: exit {again}, {said[-1:]}, {differing(left, whole)}"
    return code, ""


def differing(found: dict[str, object], whole: dict[str, object]) -> list[str]:
    """Return the files that only one of two runs left, or that differ between them."""
    return [name for name in sorted(found.keys() | whole.keys()) if found.get(name) != whole.get(name)]


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Disturb each task at each of its calls, or at `most` that are spread over them."""
    folder: Path = options.folder
    out = folder / "out"
    shim = Shim(Path(os.environ[STATE]), out)
    for name in [name for task in options.tasks for name in MODULES[task]]:
        import_module(name)
    cpu_target.target_context.refresh()  # what Numba would import in each run
    rows = []
    for task in tasks(folder, options.tasks):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        shim.arm(-1, (0, 0, 0), 0)
        code, said = called(task.line(out), folder)
        calls, whole = shim.disarm(), contents(out, task.same)
        if code:
            raise RuntimeError(f"the undisturbed {task.name} ended with {code}: {said}")
        for kind, name in enumerate(KINDS):
            for fault in SENSIBLE[name] if name in options.calls else ():
                instants = spread(calls[kind], options.most)
                ends = {at: disturbed(task, out, shim, kind, fault, at, whole) for at in instants}
                wrong = {at: what for at, (_, what) in ends.items() if what}
                row = {"task": task.name, "calls": name, "of": calls[kind], "fault": fault, "instants": len(instants)}
                row |= {"stopped": sum(code != 0 for code, _ in ends.values())}
                rows.append({**row, "survived": len(instants) - len(wrong), "wrong": wrong})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def spread(calls: int, most: int) -> list[int]:
    """Return which of the calls, counted from 1, are disturbed: the first, the last and some between."""
    if calls <= most:
        return list(range(1, calls + 1))
    return sorted({1 + round(k * (calls - 1) / (most - 1)) for k in range(most)}) if most > 1 else [1 + calls // 2]


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print a table on stderr: instants that were survived, of those tried."""
    table = Table("task", "calls", *FAULTS, box=None)
    for task, kind, of in dict.fromkeys((row["task"], row["calls"], row["of"]) for row in rows):
        cells = {
            r["fault"]: f"{r['survived']}/{r['instants']}" for r in rows if (r["task"], r["calls"]) == (task, kind)
        }
        table.add_row(task, f"{kind} ({of})", *(cells.get(fault, "") for fault in FAULTS))
    Console(stderr=True, width=160).print(table)


def main() -> None:
    """Start again with the library under it, measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="a new folder")
    parser.add_argument("--tasks", nargs="+", choices=["map", "train", "export"], default=["map", "train", "export"])
    parser.add_argument("--calls", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--most", type=int, default=10_000, help="instants for each kind of call and fault")
    options = parser.parse_args()
    if STATE in os.environ:
        rows = measure(options)
        show(rows)
        print(json.dumps(rows, indent=2))
        raise SystemExit(any(row["wrong"] for row in rows))
    options.folder.mkdir(parents=True)
    options.folder = options.folder.resolve()
    (options.folder / "tmp").mkdir()
    state = options.folder / "state"
    state.write_bytes(bytes(4096))
    environment = {
        **os.environ, PRELOAD: str(compile_shim(options.folder)), STATE: str(state),
        "TMPDIR": str(options.folder / "tmp"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    raise SystemExit(
        subprocess.run([sys.executable, "-m", "benchmarks.faults", *sys.argv[1:]], env=environment).returncode
    )


if __name__ == "__main__":
    main()
