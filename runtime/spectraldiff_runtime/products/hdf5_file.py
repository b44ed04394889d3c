"""HDF5 and netCDF-4 files: opened with our errors, and what their attributes say."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.gdal import quiet_gdal
from spectraldiff_runtime.limits import HDF5_LIST
from spectraldiff_runtime.raster_file import check_hdf5

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# What h5py raises where a file is damaged or cut short, and Python where an entry is of another kind than expected.
HDF5_ERRORS = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError)


def is_hdf5(path: Path) -> bool:
    """Whether a local file begins as HDF5 and netCDF-4 files do."""
    try:
        with path.open("rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False


def open_hdf5(path: str | Path, cache: int = 1 << 20) -> h5py.File:
    """Open a file for reading.

    Parameters
    ----------
    cache
        Bytes of inflated chunks that each data set may hold.

    Raises
    ------
    SceneError
        The file is damaged or cut short, or names others that may not be, see `check_hdf5`.
    """
    check_hdf5(path)
    try:
        return h5py.File(path, "r", rdcc_nbytes=cache, rdcc_nslots=10007, rdcc_w0=1.0)
    except OSError as error:
        raise SceneError(
            f"'{path}' cannot be opened as HDF5 ({reason(error)}): the file is damaged or cut short; copy or download "
            "it again"
        ) from error


@contextmanager
def described(path: Path) -> Iterator[h5py.File]:
    """Open a file to read what it says of itself; an entry that is missing or damaged becomes a SceneError."""
    with quiet_gdal(), open_hdf5(path) as file:
        try:
            yield file
        except HDF5_ERRORS as error:
            raise SceneError(
                f"'{path}' is damaged, or laid out otherwise than its product is ({reason(error)}): copy or download "
                "it again"
            ) from error


def reason(error: BaseException) -> str:
    """Return the first line of what h5py says."""
    return str(error.args[0] if error.args else error).splitlines()[0].strip().rstrip(".")


def check_layer(file: h5py.File, name: str, size: tuple[int, int]) -> None:
    """Raise SceneError where a file has no data set of numbers of that name and (height, width)."""
    data = file.get(name)
    if not isinstance(data, h5py.Dataset) or data.shape != size or data.dtype.kind not in "biuf":
        raise SceneError(
            f"'{file.filename}' has no layer '{name}' of {size[0]} x {size[1]} numbers: copy or download it again"
        )


def text(value: Any) -> str:
    """Return an attribute or a data set of one text as str, UTF-8 or else Latin-1; empty for None."""
    value = _values(value)
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size else ""
    if isinstance(value, bytes):
        try:
            return value.decode().strip("\0 ")
        except UnicodeDecodeError:
            return value.decode("latin-1").strip("\0 ")
    return "" if value is None else str(value).strip("\0 ")


def _values(value: Any) -> Any:
    """Return what an attribute or a data set holds; ValueError where that is more than products list."""
    if not isinstance(value, h5py.Dataset):
        return value
    if (value.size or 0) > HDF5_LIST:
        raise ValueError(f"'{value.name}' has {value.size:,} values: wanted {HDF5_LIST:,} at most")
    return value[()]


def number(value: Any) -> float:
    """Return an attribute or a data set of one number."""
    return float(numbers(value)[0])


def numbers(value: Any) -> NDArray[np.float64]:
    """Return an attribute or a data set as a list of numbers, (n,) float64."""
    found = np.asarray(_values(value))
    if found.dtype.kind == "c":
        raise ValueError("complex numbers")
    return found.astype(np.float64).reshape(-1)


def fill_value(dataset: h5py.Dataset, *names: str) -> float | None:
    """Return the first of some attributes of a data set as a number, ``_FillValue`` by default; None without."""
    for name in names or ("_FillValue",):
        if name in dataset.attrs:
            return number(dataset.attrs[name])
    return None


def nanometres(values: NDArray[np.float64], unit: str) -> NDArray[np.float64]:
    """Return wavelengths in nm; without a known unit, values below 100 are micrometres."""
    micro = unit.lower().startswith(("micro", "um", "µm", "μm"))
    nano = unit.lower().startswith(("nano", "nm"))
    known = values[np.isfinite(values) & (values > 0)]
    return values * 1000 if micro or (not nano and known.size and known.max() < 100) else values
