"""The process around a command: signals at any moment and few open files end in one line."""

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.skipif(sys.platform == "win32", reason="signals and shells")]


@pytest.fixture
def shell(subprocess_environment, write_scene, model_path, tmp_path) -> Callable[[str], subprocess.CompletedProcess]:
    """Run a line of a shell in which $S is the program, SCENE and MODEL are files, in a folder of its own."""
    environment = {
        **subprocess_environment,
        "S": f"{sys.executable} -m spectraldiff_runtime",
        "SCENE": str(write_scene()),
        "MODEL": str(model_path),
    }

    def run(line: str) -> subprocess.CompletedProcess:
        command = ["sh", "-c", line]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)

    return run


def assert_one_line(done: subprocess.CompletedProcess, words: str, code: int = 1) -> None:
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
    assert done.stderr.startswith("sdiff: error: ")
    assert words in done.stderr


@pytest.mark.parametrize("number", [8, 10, 12, 14, 16, 64])
def test_few_open_files(shell, tmp_path, number):
    """How many a map needs depends on the system; the end is a map or one line, nothing between."""
    done = shell(f"ulimit -n {number}; $S map $SCENE --model $MODEL --out o.tif -q")
    if number == 64 or (number > 8 and done.returncode == 0):
        assert (done.returncode, done.stderr) == (0, "")
        assert shell("$S info o.tif").returncode == 0
        assert {"scene.tif", "o.tif"} <= {path.name for path in tmp_path.iterdir()}
    else:
        assert_one_line(done, "ulimit -n")
        assert {path.name for path in tmp_path.iterdir()} == {"scene.tif"}


# Presses Ctrl-C at the first import of a module.
PRESSED = """
import builtins, os, signal, sys
number, module = int(sys.argv.pop(1)), sys.argv.pop(1)
original, done = builtins.__import__, []

def importing(name, *rest):
    if name == module and not done:
        done.append(name)
        os.kill(os.getpid(), number)
    return original(name, *rest)

builtins.__import__ = importing
from spectraldiff_runtime.__main__ import sdiff
sdiff()
"""


@pytest.mark.parametrize("module", ["spectraldiff_runtime.cli", "typer", "numpy", "rasterio"])
def test_ctrl_c_at_any_import(python, write_scene, model_path, tmp_path, module):
    line = ["map", write_scene(), "--model", model_path, "--out", tmp_path / "o.tif", "-q"]
    done = python("-c", PRESSED, int(signal.SIGINT), module, *line)
    assert (done.returncode, done.stderr) == (130, "sdiff: interrupted\n")
    assert {path.name for path in tmp_path.iterdir()} == {"scene.tif"}


# Swallows what the handler raises, once, in one of the ways of libraries; the map must end all the same.
SWALLOWED = """
import os, signal, sys
from spectraldiff_runtime.mapping.job import ProgressReporter
number, way = int(sys.argv.pop(1)), sys.argv.pop(1)
original, done = ProgressReporter.report, []

class Callback:
    def __del__(self):
        os.kill(os.getpid(), number)
        for _ in range(100):
            pass

def report(self):
    if not done:
        done.append(1)
        if way == "callback":
            Callback()
        else:
            try:
                os.kill(os.getpid(), number)
                for _ in range(100):
                    pass
            except BaseException:
                pass
    return original(self)

ProgressReporter.report = report
from spectraldiff_runtime.__main__ import sdiff
sdiff()
"""
CODES = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated"), signal.SIGHUP: (129, "hung up")}


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("way", ["callback", "except"])
def test_a_signal_that_is_swallowed_comes_again(python, write_scene, model_path, tmp_path, number, way):
    line: Sequence[object] = ["map", write_scene(), "--model", model_path, "--out", tmp_path / "o.tif", "-q"]
    done = python("-c", SWALLOWED, int(number), way, *line)
    code, word = CODES[number]
    assert (done.returncode, done.stderr) == (code, f"sdiff: {word}\n")
    assert {path.name for path in tmp_path.iterdir()} == {"scene.tif"}


def test_nohup_goes_on(shell, tmp_path):
    line = "trap '' HUP; $S map $SCENE --model $MODEL --out o.tif -q & p=$!; sleep 0.5; kill -HUP $p; wait $p"
    assert shell(line).returncode == 0
    assert (tmp_path / "o.tif").exists()
