"""A separate process in which GDAL makes a raster of a raw file.

GDAL and libtiff print on stderr, pass some write errors over, cannot be stopped in the middle and keep caches. Here
all of that is fenced in: what they print is caught, a kill stops them, the memory goes back, and every value is read
back from the disk and compared.
"""

import contextlib
import json
import logging
import os
import queue
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self, cast

CACHE = 16 * 2**20  # bytes of GDAL's block cache
COMPARED = 8 * 2**20  # bytes that are compared at once
OUTCOME = "\x1e"  # begins the line that says how a job went
SETTINGS = {
    "GDAL_CACHEMAX": CACHE,
    "GDAL_PAM_ENABLED": "NO",  # we write the sidecar
    "GDAL_NETCDF_BOTTOMUP": "NO",  # compare rows as they lie in the file, wherever its axis begins
    "GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE": "ALL",
}


@dataclass(frozen=True)
class TranscodeJob:
    """What the process is to do, in JSON's types.

    Attributes
    ----------
    vrt
        A VRT that shows the values as the raster that is wanted.
    target
        The file to write.
    driver, options
        GDAL's, for the file.
    table
        The item of GDAL's metadata that names the classes, see `attribute_table`; empty for none.
    """

    vrt: str
    target: str
    driver: str
    options: Mapping[str, str]
    table: str = ""


@dataclass(frozen=True)
class Outcome:
    """How it went: the error, None if there was none; GDAL's warnings; and all else that was printed."""

    error: str | None
    warnings: list[str]
    printed: str


class DifferenceError(Exception):
    """The file read back differs from what was written."""


def run(job: TranscodeJob) -> Outcome:
    """Do a job in a new process, which ends with this one at the latest.

    Raises
    ------
    OSError
        The process cannot be started.
    """
    with Transcoder() as transcoder:
        return transcoder.run(job)


class Transcoder:
    """The process, which may be started before there is a job; a context manager that ends it, also after Ctrl-C.

    Parameters
    ----------
    memory
        Bytes that it may take; None where nobody has planned for it.

    Raises
    ------
    OSError
        The process cannot be started.
    """

    def __init__(self, memory: int | None = None) -> None:
        self.memory = memory

    def __enter__(self) -> Self:
        command = [sys.executable, "-P", "-c", f"from {__name__} import main; main()"]
        paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": paths}, start_new_session=True,
        )  # fmt: skip
        self._stdin, self._stdout = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(BrokenPipeError):  # of what it did not read
                pipe.close()

    def run(self, job: TranscodeJob) -> Outcome:
        """Do a job and wait for its outcome."""
        with contextlib.suppress(BrokenPipeError):  # it says below why it ended
            self._stdin.write(json.dumps(asdict(job)).encode() + b"\n")
            self._stdin.flush()  # and not closed: its end tells the process that this one is gone
        lines: list[str] = []
        for line in iter(self._stdout.readline, b""):
            text = line.decode(errors="replace").rstrip("\n")
            if text.startswith(OUTCOME):
                return Outcome(printed="\n".join(line for line in lines if line), **json.loads(text[len(OUTCOME) :]))
            lines.append(text)
        last = lines[-1] if lines else ""
        return Outcome(f"GDAL ended with code {self._process.wait()}: {last}".rstrip(": "), [], "\n".join(lines))


def main() -> None:
    """Read jobs from stdin, a line each, do them, and print each outcome on a line of its own."""
    jobs: queue.SimpleQueue[TranscodeJob] = queue.SimpleQueue()
    threading.Thread(target=_read_jobs, args=(jobs,), daemon=True).start()
    import rasterio  # noqa: F401 (while there is no job yet)

    caught = _Caught()
    logging.getLogger("rasterio").addHandler(caught)
    while True:
        caught.messages = []
        error = _attempt(jobs.get())
        sys.stdout.write(f"\n{OUTCOME}" + json.dumps({"error": error, "warnings": caught.messages}) + "\n")
        sys.stdout.flush()


def _read_jobs(jobs: "queue.SimpleQueue[TranscodeJob]") -> None:
    """Pass jobs on, and end the process when the one that started it is gone."""
    for line in iter(sys.stdin.buffer.readline, b""):
        jobs.put(TranscodeJob(**json.loads(line)))
    os._exit(3)


class _Caught(logging.Handler):
    """Keeps what rasterio passes on of GDAL's warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.messages.append(text.partition(" in ")[2] if text.startswith("CPLE_") else text)


def _attempt(job: TranscodeJob) -> str | None:
    import rasterio

    from spectraldiff_runtime.gdal import GDAL_ERRORS

    try:
        with rasterio.Env(**SETTINGS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write(job)
            compare(job.vrt, job.target)
    except (*GDAL_ERRORS, SystemError, ValueError, DifferenceError) as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return None


def write(job: TranscodeJob) -> None:
    """Write the raster with its overviews and the names of its classes, and have the system write it out."""
    import rasterio.shutil

    from spectraldiff_runtime.geotiff.attribute_table import embed

    rasterio.shutil.copy(job.vrt, job.target, driver=job.driver, **job.options)
    if job.table and not embed(Path(job.target), job.table):
        raise DifferenceError("it has no place for the names of its classes")
    target = Path(job.target)
    for written in [one for one in target.rglob("*") if one.is_file()] if target.is_dir() else [target]:
        with written.open("rb+") as file:
            os.fsync(file.fileno())


def compare(wanted_path: str, found_path: str) -> None:
    """Compare two rasters value by value, and read every overview of the second.

    Raises
    ------
    DifferenceError
        They differ.
    rasterio.errors.RasterioError, rasterio._err.CPLE_BaseError
        A part cannot be read.
    """
    import numpy as np
    import rasterio

    with rasterio.open(wanted_path) as wanted, rasterio.open(found_path) as found:
        if (wanted.shape, wanted.dtypes) != (found.shape, found.dtypes):
            raise DifferenceError(f"read back, it has size {found.shape} and bands of {found.dtypes[0]}")
        for window in _windows(found):
            for band in found.indexes:  # one by one: a tile of all is decoded once, and takes memory once
                pair = wanted.read(band, window=window), found.read(band, window=window)
                if not np.array_equal(*pair, equal_nan=pair[0].dtype.kind == "f"):
                    raise DifferenceError(f"read back, it differs from row {window.row_off} on from what was written")
        levels = len(found.overviews(1))
    for level in range(levels):
        with rasterio.open(found_path, overview_level=level) as overview:
            for window in _windows(overview):
                for band in overview.indexes:
                    overview.read(band, window=window)


def _windows(raster: Any) -> Iterator[Any]:
    """Yield windows that cover the raster: one tile, or of a single band as many as `COMPARED` bytes hold."""
    from rasterio.windows import Window

    rows, cols = raster.block_shapes[0]
    width = cols * (max(1, COMPARED // (rows * cols * 8)) if raster.count == 1 else 1)
    for row in range(0, raster.height, rows):
        for col in range(0, raster.width, width):
            yield Window(col, row, min(width, raster.width - col), min(rows, raster.height - row))
