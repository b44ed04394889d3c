"""Opening rasters with our errors and none of GDAL's noise."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from .errors import SceneError
from .lines import header_offset

# What reading and writing through rasterio may raise; some of GDAL's errors come as they are.
GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError)

REMOTE = re.compile(r"/vsi(curl|s3|gs|az|adls|oss|swift|webhdfs|hdfs)(_streaming)?/|(?!file:)[a-z][a-z0-9+]+://", re.I)


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


def _why_not_open(path: str | Path, error: Exception) -> str:
    if "\0" in str(path):
        return f"{str(path)!r} is no file name: wanted a raster"
    target = Path(path)
    if target.is_dir():
        return f"'{path}' is a folder: wanted a raster file that GDAL reads"
    if not str(path).startswith("/vsi") and "://" not in str(path) and not target.exists():
        return f"'{path}' does not exist: wanted a raster file; check the name"
    if is_remote(path):
        return f"'{path}' cannot be opened ({reason(error)}): check the address, the network and the credentials"
    return f"'{path}' cannot be opened as a raster ({reason(error)}): wanted a file that GDAL reads"


def _check_opened(path: str | Path, dataset: Any) -> None:
    if dataset.count == 0:
        inside = dataset.subdatasets
        hint = f"it holds {len(inside)} data sets; name one of them, such as '{inside[0]}'" if inside else ""
        raise SceneError(f"'{path}' has no bands: wanted a raster; {hint or 'check the file'}")
    if dataset.driver == "ENVI":
        _check_envi_size(path, dataset)


def _check_envi_size(path: str | Path, dataset: Any) -> None:
    """Refuse an ENVI file that is shorter than its header says: GDAL would read zeros there."""
    header = dataset.tags(ns="ENVI")
    data = Path(dataset.files[0]) if dataset.files else Path(path)
    if header.get("file_compression", "0") != "0" or not data.is_file():
        return
    values = dataset.count * dataset.height * dataset.width
    wanted = header_offset(header) + values * np.dtype(dataset.dtypes[0]).itemsize
    found = data.stat().st_size
    if found < wanted:
        raise SceneError(
            f"'{path}' is cut short: it has {found:,} bytes and its header wants {wanted:,}; copy or download it again"
        )


def reason(error: BaseException) -> str:
    """Return the first line of the innermost cause: GDAL's own words."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(getattr(error, "errmsg", "") or error) or type(error).__name__
    return text.splitlines()[0].strip().rstrip(".")
