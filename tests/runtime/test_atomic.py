"""Outputs appear whole or not at all."""

import errno
import os
import signal
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest

from spectraldiff_runtime.atomic import (
    PARTIAL,
    SIDECARS,
    PartialFile,
    check_distinct,
    check_sidecars,
    check_writable,
    commit,
    output_error,
    partial_folder,
    remove_partial,
)
from spectraldiff_runtime.errors import OutputError

pytestmark = pytest.mark.processes


class Broken(PartialFile):
    """An output that cannot be finished."""

    def finish(self):
        raise output_error(self.path, OSError(errno.EIO, "broken"))


def test_none_of_several_appears_when_one_fails(tmp_path):
    first, second = Path(tmp_path / "a.bin"), Path(tmp_path / "b.bin")

    class Fine(PartialFile):
        def finish(self):
            self.partial.write_bytes(b"whole")

    with Fine(first, False) as fine, Broken(second, False) as broken, pytest.raises(OutputError, match="Input/output"):
        commit([fine, broken])
    assert list(tmp_path.iterdir()) == []


def test_the_other_name_is_in_a_folder_that_nobody_can_guess_or_enter(tmp_path):
    path = tmp_path / "a.bin"
    with PartialFile(path, False) as first, PartialFile(path, False) as second:
        assert first.partial.parent != second.partial.parent
        assert first.partial.name == "a.bin"
        assert stat.S_IMODE(first.partial.parent.stat().st_mode) == 0o700
        assert PARTIAL.fullmatch(first.partial.parent.name)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    left, other, link = partial_folder(tmp_path / "a.bin"), tmp_path / "mine", partial_folder(tmp_path / "b.bin")
    for folder in (left, other):
        folder.mkdir()
        (folder / "file").touch()
    link.symlink_to(other)
    for folder in (left, other, link, tmp_path / "missing"):
        remove_partial(folder)
    assert sorted(tmp_path.iterdir()) == sorted([other, link])
    assert (other / "file").exists()


@pytest.mark.parametrize("moment", ["mkdir", "touch"])
def test_ctrl_c_while_the_folder_is_made(tmp_path, monkeypatch, moment):
    original = getattr(Path, moment)

    def interrupting(*arguments, **named):
        original(*arguments, **named)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Path, moment, interrupting)
    with pytest.raises(KeyboardInterrupt), PartialFile(tmp_path / "a.bin", False):
        pytest.fail("the interrupt was lost")
    with pytest.raises(KeyboardInterrupt):
        check_writable(tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_has_come_since_is_not_replaced(tmp_path, monkeypatch, links):
    """Also where the disk knows no links, as a memory card's."""

    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "a.bin"
    with PartialFile(path, False) as file:
        file.partial.write_text("ours")
        path.write_text("theirs")
        with pytest.raises(OutputError, match=r"a.bin' has come since .* and is not replaced: move it away"):
            file.publish()
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert path.read_text() == "theirs"
    path.unlink()
    with PartialFile(path, False) as file:
        file.partial.write_text("ours")
        file.publish()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.bin", "ours")]


def test_a_link_that_has_come_since_is_not_followed(tmp_path):
    path, victim = tmp_path / "a.bin", tmp_path / "victim"
    victim.write_text("precious")
    with PartialFile(path, True) as file:
        file.partial.write_text("ours")
        path.symlink_to(victim)
        file.publish()
    assert (victim.read_text(), path.read_text(), path.is_symlink()) == ("precious", "ours", False)


@pytest.mark.parametrize("suffix", SIDECARS)
def test_what_lies_next_to_a_raster(tmp_path, suffix):
    path, sidecar = tmp_path / "a.tif", tmp_path / f"a.tif{suffix}"
    sidecar.write_text("precious")
    with pytest.raises(OutputError, match=rf"'a.tif{suffix}' lies next to .*: choose another name, move it away"):
        check_sidecars(path, overwrite=False)
    check_sidecars(path, overwrite=True)
    with pytest.raises(OutputError, match=r"--out .* would have the input .* as a part: choose another name"):
        check_distinct({"--out": path}, [sidecar])


def test_a_link_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "disk" / "real.txt")
    with pytest.raises(OutputError, match="no plain file"):  # it leads nowhere yet
        PartialFile(tmp_path / "link.txt", True)
    (tmp_path / "disk" / "real.txt").write_text("old")
    with PartialFile(tmp_path / "link.txt", True) as output:
        output.partial.write_text("new")
        output.publish()
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "disk" / "real.txt").read_text() == "new"


def unwritable_folder(tmp_path: Path) -> Path:
    """Return a folder that takes no files, not even from root."""
    if os.geteuid() == 0:
        return Path("/proc")
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    return folder


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    cases = {
        tmp_path: "is a folder",
        tmp_path / "missing" / "classes.tif": "there is no folder",
        tmp_path / "file" / "classes.tif": "there is no folder",
        tmp_path / "file": "--overwrite",
        tmp_path / "pipe": "no plain file",
        tmp_path / "a\0b": "no file name",
        tmp_path / "a\udcffb": "no UTF-8",
        tmp_path / "a\udcff" / "classes.tif": "no UTF-8",
        tmp_path / ("long" * 70): "cannot be written",
        unwritable_folder(tmp_path) / "classes.tif": "cannot be written",
    }
    for path, words in cases.items():
        with pytest.raises(OutputError, match=words) as caught, PartialFile(path, overwrite=False):
            pytest.fail("it was begun")
        assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "x"


def test_a_device_is_not_replaced_even_when_asked():
    with pytest.raises(OutputError, match="no plain file"):
        PartialFile(Path("/dev/null"), overwrite=True)


def test_files_must_differ(tmp_path):
    scene = tmp_path / "scene.tif"
    (tmp_path / "link.tif").symlink_to(scene)
    check_distinct({"--out": tmp_path / "a.tif", "--preview": tmp_path / "b.png"}, [scene])
    with pytest.raises(OutputError, match=r"--confidence .* the same file as what --out names"):
        check_distinct({"--out": scene, "--confidence": tmp_path / "." / "scene.tif"}, [])
    with pytest.raises(OutputError, match=r"--out .* the same file as the input"):
        check_distinct({"--out": tmp_path / "link.tif"}, [scene])


LIMITED = """
import resource, sys
sys.dont_write_bytecode = True  # Python would leave compiled modules that were cut short
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from spectraldiff_runtime.cli import main
main()
"""


@pytest.fixture
def limited_map(python, write_scene, model_path, tmp_path):
    """Map a scene of 400 x 300 pixels where no file may grow past a limit; return how it ended."""
    rng = np.random.default_rng(0)
    scene = write_scene(values=rng.integers(0, 1000, (400, 300, 7)).astype(np.uint16))

    def run(limit: int, *options: object) -> subprocess.CompletedProcess[str]:
        return python(
            "-c", LIMITED.format(limit=limit), "map", scene, "--out", tmp_path / "classes.tif", "--model", model_path,
            "--confidence", tmp_path / "confidence.tif", "--preview", tmp_path / "map.png", "-q", *options,
        )  # fmt: skip

    return run


def assert_too_large(done: subprocess.CompletedProcess[str]) -> str:
    """Assert that one line says that a file was too large, and return it."""
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (1, 1), done.stderr
    assert lines[0].startswith("sdiff: error: '")
    assert "cannot be written (File too large)" in lines[0]
    return lines[0]


@pytest.mark.parametrize("limit", [0, 1000, 20_000])
def test_no_room_to_begin(limited_map, listing, limit):
    """As a full disk, but where nothing can be mounted: nothing was begun, and nothing is left."""
    before = listing()
    assert "--resume" not in assert_too_large(limited_map(limit))
    assert listing() == before


def test_no_room_for_the_rasters(limited_map, listing, tmp_path):
    """The raw values have room, up to 480,000 bytes, and a raster of whole tiles has not: they are kept."""
    plain = ["--of", "GTiff", "--co", "COMPRESS=NONE", "--blocksize", "64"]
    line = assert_too_large(limited_map(500_000, *plain))
    assert line.endswith("what is done is kept: go on with --resume")
    assert {Path(name).parts[0] for name in listing()} == {"scene.tif", "classes.tif.unfinished"}
    done = limited_map(5_000_000, *plain, "--resume")
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == {
        "scene.tif", "classes.tif", "classes.tif.aux.xml", "confidence.tif", "map.png",
    }  # fmt: skip


def test_no_room_for_the_cache_of_compiled_kernels(python, write_scene, model_path, tmp_path):
    done = python(
        "-c", LIMITED.format(limit=10_000), "map", write_scene(), "--out", tmp_path / "classes.tif",
        "--model", model_path, "-q", env={"NUMBA_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "classes.tif").exists()
