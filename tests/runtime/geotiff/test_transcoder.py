"""The process that makes rasters: it compares what it wrote, and does not outlive the one that started it."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import rasterio

from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.gdal import GDAL_ERRORS
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.geotiff import transcoder
from spectraldiff_runtime.geotiff.spec import (
    MAX_THREADS,
    Format,
    class_spec,
    creation_options,
    probability_spec,
    raster_memory,
)
from spectraldiff_runtime.geotiff.transcoder import DifferenceError, TranscodeJob, compare, run, write
from spectraldiff_runtime.geotiff.vrt import vrt_text

PLACE = Georeference.of("EPSG:32616", (20, 0, 480_000, 0, -20, 4_470_000))
OPTIONS = {"BLOCKSIZE": "128", "COMPRESS": "DEFLATE"}


@pytest.fixture(autouse=True)
def shared_transcoder():
    """Each test starts the process anew."""


@pytest.fixture
def job(tmp_path):
    """A job of 500 x 700 classes in tiles of 128."""
    values = np.random.default_rng(0).integers(1, 200, (500, 700), np.uint8)
    (tmp_path / "raw").write_bytes(values.tobytes())
    text = vrt_text(class_spec(500, 700, [], PLACE, {}), tmp_path / "raw", 128)
    return TranscodeJob(text, str(tmp_path / "map.tif"), "COG", OPTIONS)


@pytest.fixture
def settings():
    with rasterio.Env(**transcoder.SETTINGS):
        yield


def test_a_job_is_done(job):
    outcome = run(job)
    assert (outcome.error, outcome.warnings, outcome.printed) == (None, [], "")
    with rasterio.open(job.target) as dataset:
        assert dataset.overviews(1) == [2, 4, 8]


def test_warnings_and_errors_come_back(job):
    outcome = run(TranscodeJob(job.vrt, job.target, "COG", {**OPTIONS, "FOO": "1"}))
    assert outcome.error is None
    assert outcome.warnings == ["driver COG does not support creation option FOO"]
    assert "missing" in str(run(TranscodeJob("/missing.vrt", job.target, "COG", {})).error)


def test_a_process_that_dies_is_an_error(job, monkeypatch):
    monkeypatch.setattr(transcoder.sys, "executable", "/bin/false")
    outcome = run(job)
    assert outcome.error == "GDAL ended with code 1"


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("window_bytes", [1, 10**5, 10**9])
def test_every_value_is_compared(job, tmp_path, monkeypatch, window_bytes):
    """One changed value in any corner is found, with windows of any size."""
    monkeypatch.setattr(transcoder, "COMPARED", window_bytes)
    write(job)
    compare(job.vrt, job.target)
    raw = tmp_path / "raw"
    whole = raw.read_bytes()
    for at in (0, 699, 500 * 350 + 11, 700 * 499, 700 * 500 - 1):
        raw.write_bytes(whole[:at] + b"\0" + whole[at + 1 :])
        with pytest.raises(DifferenceError, match=f"differs from row {at // 700 // 128 * 128} on"):
            compare(job.vrt, job.target)


@pytest.mark.usefixtures("settings")
def test_a_raster_of_another_shape_or_type(job, tmp_path):
    write(job)
    for spec in (class_spec(700, 500, [], PLACE, {}), probability_spec(250, 350, [], PLACE, {})):
        other = vrt_text(spec, tmp_path / "raw", 128)
        with pytest.raises((DifferenceError, *GDAL_ERRORS)):
            compare(other, job.target)


@pytest.mark.usefixtures("settings")
def test_a_file_cut_short_anywhere_is_found(job):
    """Overviews lie before the tiles, so that both are hit."""
    write(job)
    target = Path(job.target)
    whole = target.read_bytes()
    for share in (0.0, 0.01, 0.2, 0.5, 0.9, 0.999):
        target.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises((DifferenceError, *GDAL_ERRORS)):
            compare(job.vrt, job.target)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("level", [0, 2])
def test_a_damaged_overview_is_found(job, level):
    write(job)
    with rasterio.open(job.target) as dataset:
        offset = int(dataset.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1, ovr=level))
    with Path(job.target).open("rb+") as file:
        file.seek(offset)
        file.write(bytes(500))
    with pytest.raises(GDAL_ERRORS):
        compare(job.vrt, job.target)


MEASURE = """
import json, sys
from pathlib import Path
import numpy, rasterio
from spectraldiff_runtime.geotiff.transcoder import SETTINGS, TranscodeJob, compare, write
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
job, before = TranscodeJob(**json.loads(sys.stdin.read())), peak()
with rasterio.Env(**SETTINGS):
    write(job)
    compare(job.vrt, job.target)
print(peak() - before)
"""


@pytest.mark.parametrize(("form", "count"), [(Format(), 15), (Format("GTiff"), 15), (Format(blocksize=256), 30)])
def test_it_takes_no_more_memory_than_planned(tmp_path, subprocess_environment, form, count):
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc here")
    spec = probability_spec(600, 700, [LandCoverClass(k, f"{k}", (k, k, k)) for k in range(1, count + 1)], PLACE, {})
    np.random.default_rng(0).random(count * 600 * 700, np.float32).tofile(tmp_path / "raw")
    planned = raster_memory(count, "float32", form)
    options = creation_options(spec, form, planned)
    job = TranscodeJob(
        vrt_text(spec, tmp_path / "raw", form.blocksize), str(tmp_path / "map.tif"), form.driver, options
    )
    line = [sys.executable, "-c", MEASURE]
    done = subprocess.run(
        line, input=json.dumps(asdict(job)), capture_output=True, text=True, env=subprocess_environment, check=True
    )
    assert int(done.stdout) < planned


def test_threads_follow_the_memory():
    spec = probability_spec(600, 700, [LandCoverClass(k, f"{k}", (k, k, k)) for k in range(1, 4)], PLACE, {})
    room = [raster_memory(3, "float32", Format(), threads) for threads in (1, 2)]
    found = [creation_options(spec, Format(), memory)["NUM_THREADS"] for memory in (0, *room, room[1] - 1, None)]
    assert found == ["1", "1", "2", "1", str(min(os.cpu_count(), MAX_THREADS))]


def children(process):
    """Return the processes that a process started."""
    listed = Path(f"/proc/{process}/task/{process}/children")
    return [int(word) for word in listed.read_text().split()] if listed.exists() else pytest.skip("no /proc here")


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_it_ends_with_the_process_that_started_it(job, tmp_path, subprocess_environment):
    """Even after SIGKILL: a second run must not meet the first one's writer."""
    (tmp_path / "raw").write_bytes(np.random.default_rng(0).random((8, 1500, 1500), np.float32).tobytes())
    classes = [LandCoverClass(v, "name", (0, 0, 0)) for v in range(1, 9)]
    text = vrt_text(probability_spec(1500, 1500, classes, PLACE, {}), tmp_path / "raw", 128)
    work = json.dumps(asdict(TranscodeJob(text, job.target, "COG", OPTIONS)))
    code = f"from spectraldiff_runtime.geotiff.transcoder import TranscodeJob, run; run(TranscodeJob(**{work}))"
    parent = subprocess.Popen([sys.executable, "-c", code], env=subprocess_environment)
    assert wait_for(Path(job.target).exists, 60)
    (child,) = children(parent.pid)
    parent.kill()
    parent.wait()
    assert wait_for(lambda: not Path(f"/proc/{child}").exists(), 5)
