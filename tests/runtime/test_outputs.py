"""Outputs appear whole or not at all."""

import errno
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio

from spectraldiff_runtime.errors import OutputError
from spectraldiff_runtime.geotiff import RasterOutput
from spectraldiff_runtime.outputs import PartialFile, check_apart, commit, output_error
from spectraldiff_runtime.scene import Georeference

PLACE = Georeference.of("EPSG:32616", (20, 0, 5, 0, -20, 9))


def noise(height=600, width=500):
    return np.random.default_rng(0).integers(0, 5, (height, width), dtype=np.uint8)


@pytest.mark.parametrize("step", [1, 7, 255, 256, 257, 600])
def test_rows_arrive_in_any_portion(tmp_path, card, step):
    path, values = tmp_path / "classes.tif", noise()
    with RasterOutput.of_classes(path, 600, 500, card.classes, PLACE, None, False) as output:
        for row in range(0, 600, step):
            output.append(values[row : row + step])
        assert not path.exists()
        commit([output])
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(1), values)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["classes.tif", "classes.tif.aux.xml"]


def test_confidence(tmp_path):
    path, values = tmp_path / "confidence.tif", np.linspace(0, 1, 300 * 20, dtype=np.float32).reshape(300, 20)
    with RasterOutput.of_confidence(path, 300, 20, PLACE, None, False) as output:
        output.append(values)
        commit([output])
    with rasterio.open(path) as dataset:
        assert (dataset.dtypes[0], dataset.nodata) == ("float32", 0)
        np.testing.assert_array_equal(dataset.read(1), values)


def write(path, card, values, step=64, others=(), height=None):
    """Write a class raster in portions, and finish it with other outputs."""
    size = height or values.shape[0], values.shape[1]
    with RasterOutput.of_classes(path, *size, card.classes, PLACE, None, False) as output:
        for row in range(0, len(values), step):
            output.append(values[row : row + step])
        commit([output, *others])


class Broken(PartialFile):
    """An output that cannot be finished."""

    def finish(self):
        raise output_error(self.path, OSError(errno.EIO, "broken"))


def test_too_few_rows_are_a_defect_and_leave_nothing(tmp_path, card):
    with pytest.raises(ValueError, match="300 of 600 rows"):
        write(tmp_path / "classes.tif", card, noise(300), height=600)
    assert list(tmp_path.iterdir()) == []


def test_none_of_several_appears_when_one_fails(tmp_path, card):
    with Broken(tmp_path / "other.png", False) as other, pytest.raises(OutputError, match="Input/output error"):
        write(tmp_path / "classes.tif", card, noise(), others=[other])
    assert list(tmp_path.iterdir()) == []


def test_overwriting_takes_what_belonged_to_the_old_raster_along(tmp_path):
    path = tmp_path / "confidence.tif"
    for name in ("confidence.tif", "confidence.tif.aux.xml", "confidence.tif.ovr"):
        (tmp_path / name).write_text("old")
    with RasterOutput.of_confidence(path, 2, 2, PLACE, None, True) as output:
        output.append(np.ones((2, 2), np.float32))
        assert path.read_text() == "old"
        commit([output])
    assert [p.name for p in tmp_path.iterdir()] == ["confidence.tif"]


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
        tmp_path / ("long" * 70): "cannot be written",
        unwritable_folder(tmp_path) / "classes.tif": "cannot be written",
    }
    for path, words in cases.items():
        with pytest.raises(OutputError, match=words) as caught:
            PartialFile(path, overwrite=False)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "x"


def test_a_device_is_not_replaced_even_when_asked():
    with pytest.raises(OutputError, match="no plain file"):
        PartialFile(Path("/dev/null"), overwrite=True)


def test_files_must_differ(tmp_path):
    scene = tmp_path / "scene.tif"
    (tmp_path / "link.tif").symlink_to(scene)
    check_apart({"--out": tmp_path / "a.tif", "--preview": tmp_path / "b.png"}, [scene])
    with pytest.raises(OutputError, match=r"--confidence .* the same file as what --out names"):
        check_apart({"--out": scene, "--confidence": tmp_path / "." / "scene.tif"}, [])
    with pytest.raises(OutputError, match=r"--out .* the same file as the input"):
        check_apart({"--out": tmp_path / "link.tif"}, [scene])


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of 256 kB, where this is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("rows", [300, 600, 1000, 1400])
def test_a_full_disk(small_disk, card, capfd, rows):
    """It fills while rows are written, while overviews are built, or at the end: each is noticed."""
    values = np.random.default_rng(0).integers(0, 256, (rows, 700), dtype=np.uint8)
    with pytest.raises(OutputError, match=r"the disk is full \(.* kB free in"):
        write(small_disk / "classes.tif", card, values)
    assert list(small_disk.iterdir()) == []
    assert capfd.readouterr() == ("", "")


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from spectraldiff_runtime.cli import main
main()
"""


@pytest.mark.parametrize("limit", [0, 1000, 20_000])
def test_no_room_for_the_file(python, write_scene, model_path, tmp_path, listing, limit):
    """As a full disk, but where nothing can be mounted."""
    rng = np.random.default_rng(0)
    scene = write_scene(values=rng.integers(0, 1000, (400, 300, 7)).astype(np.uint16))
    before = listing()
    done = python(
        "-c", LIMITED.format(limit=limit), "map", scene, "--out", tmp_path / "classes.tif", "--model", model_path,
        "--confidence", tmp_path / "confidence.tif", "--preview", tmp_path / "map.png", "-q",
    )  # fmt: skip
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (1, 1), done.stderr
    assert lines[0].startswith("sdiff: error: '")
    assert "cannot be written (File too large)" in lines[0]
    assert listing() == before


def test_no_room_for_the_cache_of_compiled_kernels(python, write_scene, model_path, tmp_path):
    done = python(
        "-c", LIMITED.format(limit=10_000), "map", write_scene(), "--out", tmp_path / "classes.tif",
        "--model", model_path, "-q", env={"NUMBA_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "classes.tif").exists()
