"""Rasters that cannot be written: what is said, and what is left."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import OutputError
from spectraldiff_runtime.geotiff import encode as encode_module
from spectraldiff_runtime.geotiff.encode import ArrayRaster, encode
from spectraldiff_runtime.geotiff.spec import Format, class_spec, probability_spec
from spectraldiff_runtime.geotiff.transcoder import Outcome
from tests.runtime.geotiff.rasters import CLASSES, FORMATS, PLACE, encoded, patches

# More than fit into 4 bits a pixel.
MANY = tuple(LandCoverClass(k, f"class {k}", (k, 0, 0)) for k in range(1, 200))


@pytest.fixture(autouse=True)
def shared_transcoder():
    """Each test starts the process anew."""


@pytest.mark.parametrize("change", [-1, 1])
def test_a_raw_file_of_another_size(tmp_path, change):
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(81 + change))
    with pytest.raises(OutputError, match=f"has {81 + change} bytes and the raster has 81"):
        encode(raw, tmp_path / "map.tif", tmp_path / "map.tif", class_spec(9, 9, CLASSES, PLACE, {}), FORMATS[0])
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


@contextmanager
def disk(folder, kilobytes):
    """Mount a small disk, where this is allowed."""
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("no mount command")
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("driver", ["COG", "GTiff"])
@pytest.mark.parametrize("room", [8, 120, 500, 740])
def test_a_full_disk(tmp_path, capfd, driver, room):
    """It fills in the header, in the overviews, in the tiles, or just before the end: each is noticed."""
    raw, values = tmp_path / "raw", np.random.default_rng(0).integers(0, 256, (700, 900), dtype=np.uint8)
    raw.write_bytes(values.tobytes())
    with disk(tmp_path / "disk", room) as folder:
        path = folder / "map.tif"
        with pytest.raises(
            OutputError, match=r"map.tif' cannot be written: the disk is full \(.* kB free in"
        ) as caught:
            encode(raw, path, path, class_spec(700, 900, MANY, PLACE, {}), Format(driver))
        assert "\n" not in str(caught.value)
        assert list(folder.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert raw.exists()


def test_a_full_disk_at_the_sidecar(tmp_path, monkeypatch):
    def full(path, classes):
        Path(f"{path}.aux.xml").write_text("<PAM")
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(encode_module, "write_class_sidecar", full)
    with pytest.raises(OutputError, match="the disk is full"):
        encoded(tmp_path, patches(9, 9), class_spec(9, 9, CLASSES, PLACE, {}))
    assert [p.name for p in tmp_path.iterdir()] == ["map.tif.raw"]


@pytest.mark.parametrize("kilobytes", [0, 100])
def test_a_limit_of_file_sizes(tmp_path, kilobytes, capfd, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # Python would leave compiled modules that were cut short
    spec = class_spec(700, 900, MANY, PLACE, {})
    values = np.random.default_rng(0).integers(0, 256, (700, 900), dtype=np.uint8)
    (tmp_path / "raw").write_bytes(values.tobytes())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot be written \(File too large\)"):
            encode(tmp_path / "raw", tmp_path / "map.tif", tmp_path / "map.tif", spec, FORMATS[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome("read back, it differs", [], ""), r"cannot be written \(read back, it differs\)"),
        (Outcome("Unknown error.", [], "TIFF: No space left on device."), "the disk is full"),
        (Outcome("bad", ["Input/output error in x"], ""), r"\(Input/output error\)"),
    ],
)
def test_what_lies_behind_an_error(tmp_path, monkeypatch, outcome, words):
    monkeypatch.setattr(encode_module, "run", lambda job: outcome)
    with pytest.raises(OutputError, match=words):
        encoded(tmp_path, patches(9, 9), class_spec(9, 9, CLASSES, PLACE, {}))
    assert [p.name for p in tmp_path.iterdir()] == ["map.tif.raw"]


@pytest.fixture
def slow_work(tmp_path):
    """A raster that takes seconds."""
    values = np.random.default_rng(0).random((8, 1500, 1500), np.float32)
    (tmp_path / "raw").write_bytes(values.tobytes())
    return tmp_path / "raw", probability_spec(1500, 1500, CLASSES[:8], PLACE, {})


def children():
    """Return the processes that this one started and that are still there."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return path.read_text().split() if path.exists() else pytest.skip("no list of children here")


def test_an_interrupt_ends_it_at_once_and_leaves_nothing(tmp_path, slow_work):
    target, before = tmp_path / "map.tif", set(children())

    def interrupt():
        deadline = time.monotonic() + 60
        while not target.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        sent.append(time.monotonic())
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    sent = []
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        encode(slow_work[0], target, target, slow_work[1], FORMATS[0])
    assert time.monotonic() - sent[0] < 1.5
    thread.join()
    assert set(children()) == before
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize("room", [100, 200])
def test_an_array_that_cannot_be_written_leaves_nothing(tmp_path, room):
    """The disk fills in the raw file or in the raster."""
    values = np.random.default_rng(0).integers(0, 255, (400, 400), np.uint8)
    spec = class_spec(400, 400, CLASSES, PLACE, {})
    with disk(tmp_path / "disk", room) as folder:
        with (
            ArrayRaster(folder / "map.tif", False, values, spec) as output,
            pytest.raises(OutputError, match="the disk is full"),
        ):
            output.finish()
        assert list(folder.iterdir()) == []
