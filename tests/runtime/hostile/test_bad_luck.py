"""What the system refuses anywhere: one line, the right exit code, no traceback."""

import errno
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from spectraldiff_runtime import cli
from spectraldiff_runtime.bad_luck import what_happened
from tests.runtime.hostile.kit import Kit

LONG = "a" * 300
SDIFF = (sys.executable, "-m", "spectraldiff_runtime")

Run = Callable[[Sequence[object], str], subprocess.CompletedProcess[str]]


@pytest.fixture
def shell(kit: Kit, subprocess_environment) -> Run:
    """Run `sdiff` in a shell that redirects its streams."""

    def call(arguments: Sequence[object], redirection: str) -> subprocess.CompletedProcess[str]:
        line = f'"$@" {redirection}'
        command = ["sh", "-c", line, "sh", *SDIFF, *(str(a) for a in arguments)]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=300,
            env=subprocess_environment,
            cwd=kit.folder,
            check=False,
        )

    return call


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", LONG),
        ("map", LONG, "--out", "o.tif"),
        ("map", "s.tif", "--out", "o.tif", "--model", LONG),
        ("map", "s.tif", "--out", LONG),
        ("map", "s.tif", "--out", "o.tif", "--mask", LONG),
        ("map", "s.tif", "--out-dir", LONG),
        ("evaluate", LONG, "--labels", LONG),
        ("train", "--scene", LONG, "--labels", LONG),
        ("train", "--resume", LONG),
        ("export", "--run", LONG, "--out", "m.onnx"),
        ("export", "--run", "r", "--out", LONG),
        ("reconstruct", "--run", LONG),
        ("datasets", "--data-dir", LONG),
        ("datasets", "write", "indian-pines", LONG),
    ],
)
def test_names_that_are_too_long(kit: Kit, sdiff, monkeypatch, arguments):
    monkeypatch.chdir(kit.folder)
    kit.write("s.tif")
    code, _, err = sdiff(*arguments)
    assert code in (1, 2) or (arguments[:2] == ("datasets", "--data-dir") and code == 0)
    assert len(err.splitlines()) == (1 if code else 0), err
    assert "Traceback" not in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [("info", "s.tif"), ("--help",)])
def test_a_full_stdout(kit: Kit, shell: Run, arguments):
    kit.write("s.tif")
    done = shell(arguments, ">/dev/full")
    assert (done.returncode, done.stderr.splitlines()) == (1, [done.stderr.strip()])
    assert "No space left on device" in done.stderr


def test_a_closed_stdout(kit: Kit, shell: Run):
    kit.write("s.tif")
    done = shell(("info", "s.tif"), ">&-")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert "stdout" in done.stderr


def test_a_map_needs_no_stdout_and_gets_none_of_its_files_as_one(kit: Kit, shell: Run):
    kit.write("s.tif")
    done = shell(("map", "s.tif", "--model", kit.model_path, "--out", "o.tif", "-q"), "<&- >&- 2>&-")
    assert done.returncode == 0
    assert kit.out.with_name("o.tif").is_file()


def test_a_deleted_working_folder(kit: Kit, subprocess_environment):
    kit.write("s.tif")
    gone = kit.folder / "gone"
    gone.mkdir()
    line = ("map", "../s.tif", "--model", kit.model_path, "--out", kit.out)
    command = ["sh", "-c", 'cd "$1"; rmdir "$1"; shift; "$@"', "sh", str(gone), *SDIFF, *map(str, line)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=subprocess_environment)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.ENAMETOOLONG, "File name too long", LONG),
            "(300 characters) cannot be used (File name too long)",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/tmp/x"),
            "'/tmp/x' cannot be used (No space left on device): make room",
        ),
        (
            OSError(errno.EMFILE, "Too many open files"),
            "the system refused (Too many open files): allow more open files",
        ),
        (OSError(errno.EIO, "Input/output error", b"/x"), "check the file, its folder and the disk"),
        (OSError("odd"), "the system refused (odd)"),
        (OSError(errno.EBADF, "stdout is closed"), "give stdout a file or a terminal"),
    ],
)
def test_what_is_said(error, words):
    assert words in what_happened(error)


def test_every_error_of_the_system_is_one_line(sdiff, monkeypatch):
    def fail(_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "/x")

    monkeypatch.setattr(cli, "app", lambda *_, **__: fail(None))
    code, _, err = sdiff("map")
    assert code == 1
    assert err.startswith("sdiff: error: '/x' cannot be used (Input/output error): check the file")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("can't start new thread"), "can't start new thread"),
        (ImportError("/x/y.so: failed to map segment from shared object"), "failed to map segment from shared object"),
        (RuntimeError("[a.cpp:1] DefaultCPUAllocator: can't allocate memory: 9 bytes"), "9 bytes"),
        (RuntimeError("could not create a primitive"), "could not create a primitive"),
    ],
)
def test_no_room_for_a_thread_or_a_library_is_one_line(sdiff, monkeypatch, error, reason):
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", lambda *_, **__: fail(None))
    code, _, err = sdiff("map")
    assert code == 1
    assert err.startswith(f"sdiff: error: the system refused ({reason}): allow more memory")
    assert len(err.splitlines()) == 1


def test_other_errors_stay_what_they_are(sdiff, monkeypatch):
    def fail(_: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(cli, "app", lambda *_, **__: fail(None))
    with pytest.raises(RuntimeError, match="of ours"):
        sdiff("map")


def test_a_compiled_module_that_is_cut_short_is_no_ctrl_c(kit, subprocess_environment):
    """Python leaves one where the size of files is limited; Typer made an interruption of it."""
    cache = kit.folder / "cache"
    environment = subprocess_environment | {"PYTHONPYCACHEPREFIX": str(cache), "PYTHONDONTWRITEBYTECODE": ""}

    def run() -> subprocess.CompletedProcess[str]:
        command = [*SDIFF, "map", "none.tif", "--model", "none.onnx", "--out", str(kit.folder / "map.tif")]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)

    assert "none" in run().stderr
    (compiled,) = cache.rglob("spectraldiff_runtime/cli/map.*.pyc")
    compiled.write_bytes(compiled.read_bytes()[:100])
    done = run()
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("sdiff: error: a compiled module of Python is cut short (")
    assert "__pycache__" in line
