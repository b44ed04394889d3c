"""Opening rasters with our errors and none of GDAL's noise."""

import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.scene.envi import header_offset

# What reading and writing through rasterio may raise; some of GDAL's errors come as they are.
GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError)

REMOTE = re.compile(r"/vsi(curl|s3|gs|az|adls|oss|swift|webhdfs|hdfs)(_streaming)?/|(?!file:)[a-z][a-z0-9+]+://", re.I)

# What ENVI headers say of how values lie; what may be left out may be empty.
ENVI_ENTRIES = {
    "data_type": (r"\d+", "ENVI's number of a type, such as 12 for uint16"),
    "interleave": ("bsq|bil|bip", "bsq, bil or bip"),
    "byte_order": ("[01]?", "0 or 1"),
    "header_offset": (r"\d*", "a number of bytes"),
}


@contextmanager
def quiet_gdal() -> Iterator[None]:
    """Keep GDAL's own messages off stderr; errors still arrive as exceptions."""
    with rasterio.Env(CPL_LOG=os.devnull), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextmanager
def open_dataset(path: str | Path) -> Iterator[Any]:
    """Open a raster for reading as a rasterio dataset, with our errors.

    Raises
    ------
    SceneError
        The file is missing, a folder, or nothing that GDAL reads as a raster.
    """
    with quiet_gdal():
        dataset = open_raster(path)
        try:
            yield dataset
        finally:
            dataset.close()


def open_raster(path: str | Path) -> Any:
    """Open a raster as `open_dataset` does, for a caller that closes it."""
    check_plain(path)
    try:
        with quiet_gdal():
            dataset = rasterio.open(path)
    except (*GDAL_ERRORS, UnicodeError, ValueError) as error:
        raise SceneError(_why_not_open(path, error)) from error
    try:
        _check_opened(path, dataset)
    except BaseException:
        dataset.close()
        raise
    return dataset


def is_remote(path: str | Path) -> bool:
    """Whether GDAL reads a raster of that name from another machine."""
    return REMOTE.match(str(path)) is not None


def check_plain(path: str | Path) -> None:
    """Refuse pipes, sockets and devices: opening a pipe would wait for whoever writes to it.

    Raises
    ------
    SceneError
    """
    kind = _kind(path)
    if kind is not None and not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        raise SceneError(f"'{path}' is a pipe or a device: wanted a file; copy what it gives to one first")


def _kind(path: str | Path) -> int | None:
    """Return the mode of what has this name here; None for nothing, as for names that only GDAL knows."""
    try:
        return Path(path).stat().st_mode
    except (OSError, ValueError):  # also a name that is too long, and a loop of links
        return None


def _why_not_open(path: str | Path, error: Exception) -> str:
    if "\0" in str(path) or not str(path):
        return f"{str(path)!r} is no file name: wanted a raster"
    kind = _kind(path)
    if kind is not None and stat.S_ISDIR(kind):
        return f"'{path}' is a folder: wanted a raster file that GDAL reads"
    if not str(path).startswith("/vsi") and "://" not in str(path) and kind is None:
        return f"'{path}' does not exist: wanted a raster file; check the name"
    if is_remote(path):
        return f"'{path}' cannot be opened ({reason(error)}): check the address, the network and the credentials"
    return f"'{path}' cannot be opened as a raster ({reason(error)}): wanted a file that GDAL reads"


def _check_opened(path: str | Path, dataset: Any) -> None:
    if dataset.count == 0:
        inside = dataset.subdatasets
        hint = (
            f"it holds {len(inside)} data sets; name the one that has all bands, such as '{inside[0]}', "
            "or stack those of one band each with gdalbuildvrt -separate"
            if inside
            else ""
        )
        raise SceneError(f"'{path}' has no bands: wanted a raster; {hint or 'check the file'}")
    if dataset.driver == "ENVI":
        _check_envi_entries(path, dataset.tags(ns="ENVI"))
        _check_envi_size(path, dataset)


def _check_envi_entries(path: str | Path, header: dict[str, str]) -> None:
    """Refuse entries of an ENVI header where GDAL would guess without a word how the values lie."""
    for entry, (pattern, wanted) in ENVI_ENTRIES.items():
        found = header.get(entry, "").strip()
        if re.fullmatch(pattern, found, re.IGNORECASE) is None:
            name, what = entry.replace("_", " "), f"'{found}'" if found else "none"
            raise SceneError(f"the header of '{path}' has {what} as {name}: wanted {wanted}; mend the header")


def _check_envi_size(path: str | Path, dataset: Any) -> None:
    """Refuse an ENVI file that is shorter than its header says: GDAL would read zeros there."""
    sizes = _envi_sizes(path, dataset)
    if sizes is not None and sizes[0] < sizes[1]:
        raise SceneError(
            f"'{path}' is cut short: it has {sizes[0]:,} bytes and its header wants {sizes[1]:,}; "
            "copy or download it again"
        )


def doubt_about(path: str | Path, dataset: Any) -> str:
    """Say why an open raster may be another than its header describes; empty without a doubt.

    A file may well end with bytes that belong to no pixel, so this is no error.
    """
    sizes = _envi_sizes(path, dataset) if dataset.driver == "ENVI" else None
    if sizes is None or sizes[0] == sizes[1]:
        return ""
    return (
        f"'{path}' has {sizes[0]:,} bytes and its header wants {sizes[1]:,}: "
        "check samples, lines, bands, data type and header offset in it"
    )


def _envi_sizes(path: str | Path, dataset: Any) -> tuple[int, int] | None:
    """Return the bytes that an ENVI file has and those that its header wants; None if it is compressed."""
    header = dataset.tags(ns="ENVI")
    data = Path(dataset.files[0]) if dataset.files else Path(path)
    if header.get("file_compression", "0") != "0" or not data.is_file():
        return None
    values = dataset.count * dataset.height * dataset.width
    return data.stat().st_size, header_offset(header) + values * np.dtype(dataset.dtypes[0]).itemsize


def reason(error: BaseException) -> str:
    """Return the first line of the innermost cause: GDAL's own words."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(getattr(error, "errmsg", "") or error) or type(error).__name__
    return text.splitlines()[0].strip().rstrip(".")
