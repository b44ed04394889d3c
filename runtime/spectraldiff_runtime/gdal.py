"""Opening rasters with our errors and none of GDAL's noise."""

import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import rasterio
from rasterio import shutil
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from spectraldiff_runtime.errors import SceneError

# What reading and writing through rasterio may raise; some of GDAL's errors come as they are.
GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError)

REMOTE = re.compile(r"/vsi(curl|s3|gs|az|adls|oss|swift|webhdfs|hdfs)(_streaming)?/|(?!file:)[a-z][a-z0-9+]+://", re.I)


@contextmanager
def quiet_gdal() -> Iterator[None]:
    """Keep GDAL's own messages off stderr; errors still arrive as exceptions."""
    with rasterio.Env(CPL_LOG=os.devnull), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def is_remote(path: str | Path) -> bool:
    """Whether GDAL reads a raster of that name from another machine."""
    return REMOTE.match(str(path)) is not None


def check_plain(path: str | Path) -> None:
    """Refuse pipes, sockets and devices: opening a pipe would wait for whoever writes to it.

    Raises
    ------
    SceneError
    """
    kind = file_mode(path)
    if kind is not None and not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        raise SceneError(f"'{path}' is a pipe or a device: wanted a file; copy what it gives to one first")


def decoded(content: bytes) -> str:
    """Return the text of bytes: UTF-8, with or without a byte order mark, or else Latin-1."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def described(dataset: Any) -> ElementTree.Element:
    """Return all that GDAL knows of an open raster, as it writes it into a VRT; without bands where XML cannot say it.

    rasterio does not pass on some of it, such as category names, and nothing that is not UTF-8.
    """
    with MemoryFile(ext=".vrt") as file:
        shutil.copy(dataset, file.name, driver="VRT")
        text = decoded(file.read())
    try:
        return ElementTree.fromstring(text)  # noqa: S314 (GDAL wrote it)
    except ElementTree.ParseError:  # a text with a control character
        return ElementTree.Element("VRTDataset")


def file_mode(path: str | Path) -> int | None:
    """Return the mode of what has this name here; None for nothing, as for names that only GDAL knows."""
    try:
        return Path(path).stat().st_mode
    except (OSError, ValueError):  # also a name that is too long, and a loop of links
        return None


def reason(error: BaseException) -> str:
    """Return the first line of the innermost cause: GDAL's own words."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(getattr(error, "errmsg", "") or error) or type(error).__name__
    return text.splitlines()[0].strip().rstrip(".")
