"""Maps that are killed, interrupted or stopped by an error, at chosen instants: nothing is lost and nothing is left."""

import fnmatch
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from spectraldiff_runtime import cli
from spectraldiff_runtime.cli import run
from spectraldiff_runtime.errors import MissingExtraError, SceneError
from spectraldiff_runtime.gdal import quiet_gdal
from spectraldiff_runtime.mapping import job, local
from spectraldiff_runtime.mapping.map_scene import map_scene
from spectraldiff_runtime.output import journal
from spectraldiff_runtime.scene.raster import RasterScene
from spectraldiff_runtime.signals import SIGNALS

pytestmark = pytest.mark.processes

LAYERS = {"--out": "classes.tif", "--confidence": "confidence.tif", "--probabilities": "p.tif", "--preview": "map.png"}
UNFINISHED = "classes.tif.unfinished"
PROMPT = 2.0  # seconds that a map may take to end

# Sends itself a signal just before the n-th call of a function of the package.
SIGNALLED = """
import os, sys
from importlib import import_module
from spectraldiff_runtime.cli import main

module, path, call, number = sys.argv[1], sys.argv[2].split("."), int(sys.argv[3]), int(sys.argv[4])
place, calls = import_module("spectraldiff_runtime." + module), []
for part in path[:-1]:
    place = getattr(place, part)
original = getattr(place, path[-1])

def wrapped(*arguments, **options):
    calls.append(1)
    if len(calls) == call:
        os.kill(os.getpid(), number)
    return original(*arguments, **options)

setattr(place, path[-1], wrapped)
del sys.argv[1:5]
main()
"""


@pytest.fixture(autouse=True)
def shared_transcoder():
    """Each test starts the process anew."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    values = np.random.default_rng(0).integers(0, 1000, (7, 120, 100)).astype(np.uint16)
    place = {"crs": "EPSG:32616", "transform": rasterio.Affine(20, 0, 480_000, 0, -20, 4_470_000)}
    with (
        quiet_gdal(),
        rasterio.open(path, "w", driver="GTiff", height=120, width=100, count=7, dtype="uint16", **place) as dataset,
    ):
        dataset.write(values)
    return path


def command(scene: Path, model: Path, folder: Path, *options: str) -> list[str]:
    named = [part for option, name in LAYERS.items() for part in (option, str(folder / name))]
    return ["map", str(scene), "--model", str(model), *named, "--tile", "16", "-q", *options]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def whole(scene, model_path, tmp_path_factory) -> dict[str, bytes]:
    """What the files of an undisturbed map hold."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(command(scene, model_path, folder)) == 0
    found = contents(folder)
    assert set(found) == {*LAYERS.values(), "classes.tif.aux.xml"}
    return found


@pytest.fixture
def resumed(scene, model_path, tmp_path, capfd) -> Callable[[], dict[str, bytes]]:
    """Go on with the map in the test's folder and return the files that are then there."""

    def call() -> dict[str, bytes]:
        capfd.readouterr()
        code = run(command(scene, model_path, tmp_path, "--resume"))
        assert (code, capfd.readouterr().err) == (0, "")
        return contents(tmp_path)

    return call


# Just before which call the process is killed, and what is then on the disk (a name, or a part of one).
KILLS = {
    "the folder has no journal": ("output.journal", "_sync", 1, f"{UNFINISHED}/journal.new"),
    "the journal has just begun": ("output.raw_layers", "RawFiles.write", 1, f"{UNFINISHED}/journal"),
    "half-way": ("output.raw_layers", "RawFiles.write", 90, f"{UNFINISHED}/classes.raw"),
    "between pixels and journal": ("output.journal", "Journal._append", 2, f"{UNFINISHED}/journal"),
    "all pixels are there": ("geotiff.encode", "encode", 1, ".classes.tif.*.partial/classes.tif"),
    "two rasters are there": ("geotiff.encode", "encode", 3, ".confidence.tif.*.partial/confidence.tif"),
    "no name is given": ("atomic", "PartialFile.publish", 1, ".map.png.*.partial/map.png"),
    "one name is given": ("atomic", "PartialFile.publish", 2, "confidence.tif"),
    "all names but the map's": ("atomic", "PartialFile.publish", 4, "map.png"),
    "all names are given": ("output.journal", "Journal.remove", 1, "classes.tif"),
}


@pytest.mark.parametrize("instant", KILLS)
def test_a_kill(scene, model_path, tmp_path, python, whole, resumed, instant):
    module, function, call, there = KILLS[instant]
    line = command(scene, model_path, tmp_path, "--resume")
    done = python("-c", SIGNALLED, module, function, call, int(signal.SIGKILL), *line)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    left = contents(tmp_path)
    assert fnmatch.filter(left, there)
    assert left != whole
    assert resumed() == whole
    assert resumed() == whole  # and leaves it as it is


def test_a_kill_without_resume_is_noticed_and_can_go_on(scene, model_path, tmp_path, python, whole, resumed, capfd):
    line = command(scene, model_path, tmp_path)
    python("-c", SIGNALLED, "output.raw_layers", "RawFiles.write", 70, int(signal.SIGKILL), *line)
    before = contents(tmp_path)
    capfd.readouterr()
    assert run(line) == 1
    assert f"'{tmp_path / UNFINISHED}' holds an unfinished map" in capfd.readouterr().err
    assert contents(tmp_path) == before
    assert resumed() == whole


@pytest.mark.parametrize("seen", ["classes.tif", "p.tif"])
def test_a_kill_while_a_raster_is_encoded(scene, model_path, tmp_path, subprocess_environment, whole, resumed, seen):
    """GDAL is at work in a process of its own, which must not go on without this one."""
    line = [sys.executable, "-m", "spectraldiff_runtime", *command(scene, model_path, tmp_path, "--resume")]
    for _ in range(10):  # the file is there for some milliseconds: on a busy machine they may pass unseen
        process = subprocess.Popen(line, env=subprocess_environment)
        while process.poll() is None and not sum(map(size, tmp_path.glob(f".{seen}.*.partial/{seen}"))):
            time.sleep(0.001)
        process.kill()
        if process.wait() == -signal.SIGKILL:
            break
        assert process.returncode == 0
        for path in tmp_path.iterdir():
            path.unlink()
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / UNFINISHED / "journal").exists()
    assert resumed() == whole


def size(path: Path) -> int:
    """Return a file's bytes; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize(
    ("module", "function", "call"), [("output.raw_layers", "RawFiles.write", 70), ("geotiff.encode", "encode", 2)]
)
def test_ctrl_c_with_resume_keeps_what_is_done(
    scene, model_path, tmp_path, python, whole, resumed, module, function, call
):
    line = command(scene, model_path, tmp_path, "--resume")
    done = python("-c", SIGNALLED, module, function, call, int(signal.SIGINT), *line)
    note = f"sdiff: what is done is kept in '{tmp_path / UNFINISHED}': go on with --resume"
    assert (done.returncode, done.stderr.splitlines()) == (130, [note, "sdiff: interrupted"])
    assert {Path(name).parts[0] for name in contents(tmp_path)} == {UNFINISHED}
    assert resumed() == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("module", "function", "call"), [("output.raw_layers", "RawFiles.write", 70), ("geotiff.encode", "encode", 2)]
)
def test_an_interruption_without_resume_leaves_nothing(
    scene, model_path, tmp_path, python, module, function, call, number
):
    line = command(scene, model_path, tmp_path)
    done = python("-c", SIGNALLED, module, function, call, int(number), *line)
    said = ["sdiff: interrupted" if number == signal.SIGINT else "sdiff: terminated"]
    code = 130 if number == signal.SIGINT else 128 + number
    assert (done.returncode, done.stderr.splitlines()) == (code, said)
    assert list(tmp_path.iterdir()) == []


class BrokenError(Exception):
    """Stands for any error."""


class Failure:
    """Raises at the n-th call, and knows when that was."""

    def __init__(self, original: Callable, call: int) -> None:
        self._original, self._left, self.at = original, call, 0.0

    def __get__(self, instance: object, owner: type) -> Callable:
        return lambda *arguments, **options: self(instance, *arguments, **options)

    def __call__(self, *arguments, **options):
        self._left -= 1
        if self._left == 0:
            self.at = time.monotonic()
            raise BrokenError
        return self._original(*arguments, **options)


STAGES = {
    "reading": (RasterScene, "read", 2),
    "gathering": (local, "gather", 2),
    "inferring": (local, "classify", 3),
    "writing": (journal.Journal, "write", 5),
    "counting": (job.ProgressReporter, "add", 4),
    "showing": (job.ProgressReporter, "report", 2),
}


@pytest.mark.parametrize("stage", STAGES)
def test_an_error_in_any_stage_ends_the_map_soon(model, scene, tmp_path, monkeypatch, stage):
    place, name, call = STAGES[stage]
    monkeypatch.setattr(
        "spectraldiff_runtime.tiling.memory_plan.STRIP_BYTES", 60_000
    )  # several parts of so small a scene
    failure = Failure(getattr(place, name), call)
    monkeypatch.setattr(place, name, failure)
    with pytest.raises(BrokenError):
        map_scene(model, scene, tmp_path / "classes.tif", tile=8)
    assert time.monotonic() - failure.at < PROMPT
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("sdiff-")] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("resume", [False, True])
def test_a_scene_that_ends_half_way(model, scene, tmp_path, monkeypatch, resume):
    """What was mapped before stays with --resume only."""
    monkeypatch.setattr("spectraldiff_runtime.tiling.memory_plan.STRIP_BYTES", 10_000)
    cut, out = tmp_path / "cut.tif", tmp_path / "classes.tif"
    cut.write_bytes(scene.read_bytes()[: scene.stat().st_size // 2])
    start = time.monotonic()
    with pytest.raises(SceneError, match="cut short"):
        map_scene(model, cut, out, tile=4, resume=resume)
    assert time.monotonic() - start < 10 * PROMPT
    left = {path.name for path in tmp_path.iterdir()} - {"cut.tif"}
    assert left == ({UNFINISHED} if resume else set())
    if resume:
        lines = (tmp_path / UNFINISHED / "journal").read_text().splitlines()
        assert len(lines) > 2


@pytest.mark.parametrize(("ending", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_an_interrupted_process_ends_at_once(monkeypatch, capsys, ending, code):
    """At the interpreter's orderly end, threads of ONNX Runtime that are in mid-work crash now and then."""
    ended = []

    def interrupted(*_, **__):
        raise ending

    def end(number):
        ended.append(number)
        raise RuntimeError("ended")

    monkeypatch.setattr("spectraldiff_runtime.cli.app", interrupted)
    monkeypatch.setattr("spectraldiff_runtime.cli.signal.signal", lambda *_: None)
    monkeypatch.setattr("spectraldiff_runtime.cli.os._exit", end)
    with pytest.raises(RuntimeError, match="ended"):
        cli.main()
    assert ended == [code]
    assert capsys.readouterr().err == {130: "sdiff: interrupted\n", 143: "sdiff: terminated\n"}[code]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("kind", [ImportError, MissingExtraError])
def test_a_signal_that_a_library_makes_an_error_of(monkeypatch, capsys, number, code, kind):
    """C code that imports a module gives an ImportError where the import was interrupted."""
    ended = []

    def importing(*_, **__):
        try:
            signal.raise_signal(number)
        except BaseException as error:
            raise kind("numpy failed to import") from error

    def end(number):
        ended.append(number)
        raise RuntimeError("ended")

    monkeypatch.setattr("spectraldiff_runtime.cli.app", importing)
    monkeypatch.setattr("spectraldiff_runtime.cli._ends", [])
    monkeypatch.setattr("spectraldiff_runtime.cli.os._exit", end)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with pytest.raises(RuntimeError, match="ended"):
            cli.main()
    finally:
        for other, handler in before.items():
            signal.signal(other, handler)
    assert ended == [code]
    assert capsys.readouterr().err == {130: "sdiff: interrupted\n", 143: "sdiff: terminated\n"}[code]
