"""A disk that fills up while a map is made: one line, what is done stays, and --resume ends with the same bytes."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio

from spectraldiff_runtime.cli import run
from spectraldiff_runtime.gdal import quiet_gdal
from spectraldiff_runtime.geotiff import encode
from spectraldiff_runtime.output import file_sink, journal, raw_layers

DISK = 3_000_000  # bytes
LAYERS = {"--out": "classes.tif", "--confidence": "confidence.tif", "--probabilities": "p.tif", "--preview": "map.png"}


class SmallDisk:
    """A real disk that can be filled and emptied: the folder `maps` in it is for maps."""

    def __init__(self, root: Path) -> None:
        self.root, self.maps, self._ballast = root, root / "maps", root / "ballast"
        self.maps.mkdir()

    @property
    def free(self) -> int:
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Fill it up to so many bytes, which are rounded down to whole pages."""
        with self._ballast.open("ab", buffering=0) as file:
            size = max(0, self.free - leave)
            while size > 0:
                size -= file.write(b"\xff" * min(size, 2**16))

    def make_room(self) -> None:
        self._ballast.unlink()

    def files(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.maps)): p.read_bytes() for p in self.maps.rglob("*") if p.is_file()}


@pytest.fixture(autouse=True)
def shared_transcoder():
    """Each test starts the process anew."""


@pytest.fixture
def small_disk(tmp_path) -> Iterator[SmallDisk]:
    """Mount a disk in memory, where this is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    yield SmallDisk(folder)
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """A scene whose maps take 1 + 4 + 16 bytes for each of 120 x 100 pixels, and a little for the picture."""
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    values = np.random.default_rng(0).integers(0, 1000, (7, 120, 100)).astype(np.uint16)
    place = {"crs": "EPSG:32616", "transform": rasterio.Affine(20, 0, 480_000, 0, -20, 4_470_000)}
    with (
        quiet_gdal(),
        rasterio.open(path, "w", driver="GTiff", height=120, width=100, count=7, dtype="uint16", **place) as dataset,
    ):
        dataset.write(values)
    return path


def line(scene: Path, model: Path, folder: Path) -> list[str]:
    """Return the command that maps the scene with all layers into a folder."""
    named = [part for option, name in LAYERS.items() for part in (option, str(folder / name))]
    return ["map", str(scene), "--model", str(model), *named, "--tile", "32", "-q"]


@pytest.fixture(scope="module")
def whole(scene, model_path, tmp_path_factory) -> dict[str, bytes]:
    """What the map's files hold on a disk with room."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(line(scene, model_path, folder)) == 0
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def sdiff_map(scene, model_path, capfd) -> Callable[..., tuple[int, list[str]]]:
    """Map the scene into a folder; return the exit code and the lines on stderr."""

    def call(folder: Path, *options: str) -> tuple[int, list[str]]:
        capfd.readouterr()
        code = run([*line(scene, model_path, folder), *options])
        return code, capfd.readouterr().err.splitlines()

    return call


def when(monkeypatch, place, name: str, do: Callable[[], None], call: int = 1) -> None:
    """Do something just before a function is called for the n-th time."""
    original, calls = getattr(place, name), []

    def wrapped(*arguments, **options):
        calls.append(name)
        if len(calls) == call:
            do()
        return original(*arguments, **options)

    monkeypatch.setattr(place, name, wrapped)


# When the disk is filled: before which call of what, and how many bytes are left.
PHASES = {
    "first pixels": (raw_layers.RawFiles, "write", 1, 0),
    "pixels half-way": (raw_layers.RawFiles, "write", 20, 0),
    "pixels of one layer only": (raw_layers.RawFiles, "write", 3, 8192),
    "journal": (journal.Journal, "sync", 1, 0),
    "first raster": (encode, "encode", 1, 0),
    "middle of a raster": (encode, "encode", 2, 16_384),
    "last raster": (encode, "encode", 3, 40_960),
    "preview": (file_sink, "PreviewOutput", 1, 0),
}


def assert_one_line(lines: list[str], folder: Path) -> None:
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"sdiff: error: '{folder}")
    assert "the disk is full (" in lines[0]
    assert "make room" in lines[0]


@pytest.mark.parametrize("phase", PHASES)
def test_a_disk_that_fills_up(small_disk, sdiff_map, whole, monkeypatch, phase):
    place, name, call, left = PHASES[phase]
    with monkeypatch.context() as patched:
        when(patched, place, name, lambda: small_disk.fill(left), call)
        code, lines = sdiff_map(small_disk.maps)
    assert code == 1
    assert_one_line(lines, small_disk.maps)
    assert lines[0].endswith("what is done is kept: go on with --resume")
    assert {Path(name).parts[0] for name in small_disk.files()} == {"classes.tif.unfinished"}
    small_disk.make_room()
    assert sdiff_map(small_disk.maps, "--resume") == (0, [])
    assert small_disk.files() == whole


def test_a_disk_that_stays_full(small_disk, sdiff_map, whole, monkeypatch):
    """Trying again changes nothing, neither in what is kept nor in what is said."""
    with monkeypatch.context() as patched:
        when(patched, raw_layers.RawFiles, "write", small_disk.fill, 20)
        _, first = sdiff_map(small_disk.maps)
    raw = {name: data for name, data in small_disk.files().items() if name.endswith(".raw")}
    for options in (["--resume"], ["--resume", "--quiet"]):
        code, lines = sdiff_map(small_disk.maps, *options)
        assert (code, lines) == (1, first)
    code, lines = sdiff_map(small_disk.maps)
    assert code == 1
    assert "holds an unfinished map" in lines[0]
    assert set(raw) == {name for name in small_disk.files() if name.endswith(".raw")}
    small_disk.make_room()
    assert sdiff_map(small_disk.maps, "--resume") == (0, [])
    assert small_disk.files() == whole


def test_a_disk_that_is_full_from_the_start(small_disk, sdiff_map, whole):
    """Where nothing can be begun, nothing is left."""
    small_disk.fill()
    code, lines = sdiff_map(small_disk.maps)
    assert code == 1
    assert_one_line(lines, small_disk.maps)
    assert small_disk.files() == {}
    small_disk.make_room()
    assert sdiff_map(small_disk.maps, "--resume") == (0, [])
    assert small_disk.files() == whole
