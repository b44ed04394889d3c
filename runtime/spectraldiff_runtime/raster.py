"""Scenes on disk: any raster that GDAL reads, by windows, with our errors and none of GDAL's noise."""

import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterioWindow

from .errors import SceneError
from .scene import NODATA_OF_FILE as NODATA_OF_FILE
from .scene import ArrayScene as ArrayScene
from .scene import Georeference as Georeference
from .scene import Nodata as Nodata
from .scene import Scene as Scene
from .scene import check_dtype

# What reading and writing through rasterio may raise; some of GDAL's errors come as they are.
GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError)

MICROMETRES = re.compile(r"um|µm|μm|micromet(er|re)s?|microns?", re.IGNORECASE)
NANOMETRES = re.compile(r"nm|nanomet(er|re)s?", re.IGNORECASE)


class RasterScene:
    """A raster that GDAL reads, opened for reading by windows; a context manager.

    Parameters
    ----------
    path
        A file, or any name that GDAL opens.
    bands
        Numbers of the bands to use, from 1, in the model's order; None for all.
    nodata
        ``"file"`` for the file's own value, a number to use instead, or None for none.

    Raises
    ------
    SceneError
        The raster is missing, unreadable, complex, cut short, or its bands differ in type or nodata.
    """

    def __init__(self, path: str | Path, bands: Sequence[int] | None = None, nodata: Nodata = NODATA_OF_FILE) -> None:
        self.name = str(path)
        self._dataset = _open(path)
        try:
            self._describe(bands, nodata)
        except BaseException:
            self.close()
            raise

    def _describe(self, bands: Sequence[int] | None, nodata: Nodata) -> None:
        dataset = self._dataset
        self.height, self.width = dataset.height, dataset.width
        self.bands = _chosen_bands(self.name, dataset, bands)
        self.dtype = _one_dtype(self.name, [dataset.dtypes[band - 1] for band in self.bands])
        file_nodata = [dataset.nodatavals[band - 1] for band in self.bands]
        self.nodata = _one_nodata(self.name, file_nodata) if nodata == NODATA_OF_FILE else nodata
        known = read_wavelengths(dataset)
        self.wavelengths = None if known is None else known[np.array(self.bands) - 1]
        self.georeference = read_georeference(dataset)
        self.files = tuple(Path(file) for file in dataset.files)

    def read(self, row0: int, row1: int, col0: int, col1: int) -> NDArray[Any]:
        """Return a part, (B, h, w), native dtype.

        Raises
        ------
        SceneError
            The file is damaged or cut short there.
        """
        window = RasterioWindow(col0, row0, col1 - col0, row1 - row0)
        try:
            with quiet_gdal():
                return np.asarray(self._dataset.read(list(self.bands), window=window))
        except GDAL_ERRORS as error:
            raise SceneError(
                f"'{self.name}' cannot be read at rows {row0} to {row1} ({_reason(error)}): "
                "the file is damaged or cut short; copy or download it again"
            ) from error

    def close(self) -> None:
        """Close the file."""
        with quiet_gdal():
            self._dataset.close()

    def __enter__(self) -> "RasterScene":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
        dataset = _open(path)
        try:
            yield dataset
        finally:
            dataset.close()


def _open(path: str | Path) -> Any:
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


def _why_not_open(path: str | Path, error: Exception) -> str:
    if "\0" in str(path):
        return f"{str(path)!r} is no file name: wanted a raster"
    target = Path(path)
    if target.is_dir():
        return f"'{path}' is a folder: wanted a raster file that GDAL reads"
    if "://" not in str(path) and not str(path).startswith("/vsi") and not target.exists():
        return f"'{path}' does not exist: wanted a raster file; check the name"
    return f"'{path}' cannot be opened as a raster ({_reason(error)}): wanted a file that GDAL reads"


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
    wanted = int(header.get("header_offset", "0")) + values * np.dtype(dataset.dtypes[0]).itemsize
    found = data.stat().st_size
    if found < wanted:
        raise SceneError(
            f"'{path}' is cut short: it has {found:,} bytes and its header wants {wanted:,}; copy or download it again"
        )


def _reason(error: BaseException) -> str:
    """Return the first line of the innermost cause: GDAL's own words."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(getattr(error, "errmsg", "") or error) or type(error).__name__
    return text.splitlines()[0].strip().rstrip(".")


def _chosen_bands(name: str, dataset: Any, bands: Sequence[int] | None) -> tuple[int, ...]:
    chosen = tuple(bands) if bands is not None else tuple(range(1, dataset.count + 1))
    missing = [band for band in chosen if not 1 <= band <= dataset.count]
    if missing:
        raise SceneError(
            f"'{name}' has {dataset.count} bands and --bands asks for band {missing[0]}: choose from 1-{dataset.count}"
        )
    return chosen


def _one_dtype(name: str, dtypes: Sequence[str]) -> np.dtype[Any]:
    if len(set(dtypes)) > 1:
        kinds = ", ".join(sorted(set(dtypes)))
        raise SceneError(f"'{name}' has bands of different types ({kinds}): wanted one; choose with --bands")
    if dtypes[0].startswith("complex"):
        raise SceneError(f"'{name}' holds {dtypes[0]} values: wanted real numbers; convert it first")
    dtype: np.dtype[Any] = np.dtype(dtypes[0])
    check_dtype(dtype, f"'{name}'")
    return dtype


def _one_nodata(name: str, values: Sequence[float | None]) -> float | None:
    if len({"nan" if value != value else value for value in values}) > 1:
        raise SceneError(
            f"'{name}' has bands with different nodata values: wanted one; give --nodata VALUE or --nodata none"
        )
    return values[0]


def read_georeference(dataset: Any) -> Georeference:
    """Return where an open dataset lies; a raster without any has an identity transform, left out here."""
    gcps, gcps_crs = dataset.gcps
    transform = None if dataset.transform.is_identity else dataset.transform
    return Georeference(dataset.crs, transform, tuple(gcps), gcps_crs, dataset.rpcs)


def read_wavelengths(dataset: Any) -> NDArray[np.float64] | None:
    """Return the centre wavelengths of all bands of an open rasterio dataset.

    Per-band tags ``wavelength`` and ``wavelength_units`` come first, then GDAL's
    ``CENTRAL_WAVELENGTH_UM`` (which GDAL rounds to whole nanometres for ENVI files), then the ENVI
    header's list. Without a unit, values below 100 are micrometres.

    Returns
    -------
    ndarray of shape (B,), float64, or None
        Nanometres, in band order; None unless every band has one.
    """
    numbers = range(1, dataset.count + 1)
    tags = [dataset.tags(band) for band in numbers]
    envi = dataset.tags(ns="ENVI")
    unit = envi.get("wavelength_units")
    per_band = [_nanometres(t.get("wavelength"), t.get("wavelength_units", unit)) for t in tags]
    if None in per_band:
        imagery = [dataset.tags(band, ns="IMAGERY").get("CENTRAL_WAVELENGTH_UM") for band in numbers]
        per_band = [_nanometres(text, "um") for text in imagery]
    if None in per_band:
        texts = envi.get("wavelength", "").strip().strip("{}").split(",")
        per_band = [_nanometres(text, unit) for text in texts]
    if None in per_band or len(per_band) != dataset.count:
        return None
    return np.array(per_band, dtype=np.float64)


def _nanometres(text: str | None, unit: str | None) -> float | None:
    """Return a wavelength in nm; None where the text is no positive number or the unit is unknown."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    if not math.isfinite(value) or value <= 0:
        return None
    name = (unit or "").strip()
    if name.lower() in {"", "unknown"}:
        return value * 1000 if value < 100 else value
    if MICROMETRES.fullmatch(name):
        return value * 1000
    return value if NANOMETRES.fullmatch(name) else None
