"""Rasters are opened with GDAL here, with one line where that cannot be."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.gdal import GDAL_ERRORS, file_mode, is_remote, quiet_gdal, reason
from spectraldiff_runtime.limits import BANDS, PIXELS
from spectraldiff_runtime.raster_file import open_looked_at
from spectraldiff_runtime.scene.envi import check_envi_entries, check_envi_size, envi_tags


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
        dataset = open_looked_at(path)
    except (*GDAL_ERRORS, UnicodeError, ValueError) as error:
        raise SceneError(_why_not_open(path, error)) from error
    try:
        _check_opened(path, dataset)
    except BaseException:
        dataset.close()
        raise
    return dataset


def _why_not_open(path: str | Path, error: Exception) -> str:
    if "\0" in str(path) or not str(path):
        return f"{str(path)!r} is no file name: wanted a raster"
    kind = file_mode(path)
    if kind is not None and stat.S_ISDIR(kind):
        return f"'{path}' is a folder: wanted a raster file that GDAL reads"
    if not str(path).startswith("/vsi") and "://" not in str(path) and kind is None:
        return f"'{path}' does not exist: wanted a raster file; check the name"
    if is_remote(path):
        return f"'{path}' cannot be opened ({reason(error)}): check the address, the network and the credentials"
    marked = _header_with_mark(Path(path))
    if marked is not None:
        return (
            f"'{path}' cannot be opened: its header '{marked.name}' begins with a byte order mark, which GDAL does not "
            "read; wanted an ENVI header that begins with ENVI; save it without the mark (BOM)"
        )
    return f"'{path}' cannot be opened as a raster ({reason(error)}): wanted a file that GDAL reads"


def _header_with_mark(path: Path) -> Path | None:
    """Return the ENVI header of a file if it begins with a byte order mark; None for all else."""
    for header in (path.with_suffix(".hdr"), path.with_name(f"{path.name}.hdr")) if path.name else ():
        if header.is_file():
            with header.open("rb") as file:
                if file.read(7).startswith(b"\xef\xbb\xbfENVI"):
                    return header
    return None


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
    pixels = dataset.height * dataset.width
    if pixels > PIXELS or dataset.count > BANDS:
        raise SceneError(
            f"'{path}' has {dataset.height:,} x {dataset.width:,} pixels and {dataset.count:,} bands: "
            f"wanted at most {PIXELS:,} pixels and {BANDS:,} bands; check the file, or cut it"
        )
    if dataset.driver == "ENVI":
        check_envi_entries(path, envi_tags(dataset))
        check_envi_size(path, dataset)
