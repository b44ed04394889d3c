"""Raw files that are interleaved by line (BIL) or hold band by band (BSQ): each byte is read once, to its place.

GDAL reads blocks of BIL several times, and copies what it reads of BSQ twice more.
"""

import os
import re
from collections import deque
from collections.abc import Mapping, Sequence
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.errors import SceneError

# Entries of ENVI headers about the storage layout; optional ones may be empty.
ENVI_ENTRIES = {
    "data_type": (r"\d+", "ENVI's number of a type, such as 12 for uint16"),
    "interleave": ("bsq|bil|bip", "bsq, bil or bip"),
    "byte_order": ("[01]?", "0 or 1"),
    "header_offset": (r"\d*", "a number of bytes"),
}

# Whole lines are read in parts of about this many bytes.
CHUNK = 8 * 2**20
# The most places that one call may read to: what Linux and macOS take.
PIECES = 1024


class RawFile:
    """An uncompressed file whose lines hold all bands, one after the other (BIL), or that holds band by band (BSQ).

    Parameters
    ----------
    path
        The file.
    offset
        Bytes before the first line.
    dtype
        Type of the values as stored, with its byte order.
    bands, height, width
        Bands, lines, and values of each band in a line.
    by_line
        Whether it is BIL.
    """

    def __init__(
        self, path: Path, offset: int, dtype: np.dtype[Any], bands: int, height: int, width: int, by_line: bool
    ) -> None:
        self._file: FileIO = path.open("rb", buffering=0)
        self._offset, self._dtype, self._by_line = offset, dtype, by_line
        self._bands, self._height, self._width = bands, height, width

    def read(self, bands: Sequence[int], row0: int, row1: int, col0: int, col1: int, out: NDArray[Any]) -> bool:
        """Fill `out`, (B, h, w) of any strides, with the bands of these numbers, from 1; False if GDAL is to do it.

        That is where BSQ is not copied from whole lines as it is.

        Raises
        ------
        OSError
            The file ends before that part does, or cannot be read.
        """
        whole = (col0, col1) == (0, self._width)
        direct = whole and hasattr(os, "preadv") and out.dtype == self._dtype and out.strides[2] == out.itemsize
        if not self._by_line:
            for band, plane in zip(bands, out, strict=True) if direct else ():
                self._read_into(((band - 1) * self._height + row0) * self._width, list(plane))
            return direct
        lines, every = out.transpose(1, 0, 2), tuple(bands) == tuple(range(1, self._bands + 1))
        if direct and every and lines[0].flags.c_contiguous:
            self._read_into(row0 * self._bands * self._width, list(lines))
        elif whole:
            self._read_lines(bands, row0, row1, out)
        else:
            self._read_pieces(bands, row0, col0, col1, out)
        return True

    def _read_into(self, first: int, arrays: Sequence[NDArray[Any]]) -> None:
        """Fill arrays, each contiguous, with what lies in the file from one value on: nothing is copied twice."""
        position, left = self._offset + first * self._dtype.itemsize, deque(a.data.cast("B") for a in arrays)
        while left:
            got = os.preadv(self._file.fileno(), list(islice(left, PIECES)), position)
            if not got:
                raise OSError("the file ends too early")
            position += got
            while left and got >= len(left[0]):
                got -= len(left.popleft())
            if got:
                left[0] = left[0][got:]

    def _read_lines(self, bands: Sequence[int], row0: int, row1: int, out: NDArray[Any]) -> None:
        size = self._bands * self._width
        step = max(1, CHUNK // (size * self._dtype.itemsize))
        every = tuple(bands) == tuple(range(1, self._bands + 1))
        wanted = slice(None) if every else np.array(bands) - 1
        for row in range(row0, row1, step):
            n = min(step, row1 - row)
            lines = self._values(row * size, n * size).reshape(n, self._bands, self._width)
            out[:, row - row0 : row - row0 + n] = lines[:, wanted].transpose(1, 0, 2)

    def _read_pieces(self, bands: Sequence[int], row0: int, col0: int, col1: int, out: NDArray[Any]) -> None:
        for row in range(out.shape[1]):
            for at, band in enumerate(bands):
                first = ((row0 + row) * self._bands + band - 1) * self._width + col0
                out[at, row] = self._values(first, col1 - col0)

    def _values(self, first: int, count: int) -> NDArray[Any]:
        values = np.empty(count * self._dtype.itemsize, np.uint8)
        left = values.data
        self._file.seek(self._offset + first * self._dtype.itemsize)
        while left:
            got = self._file.readinto(left)
            if not got:
                raise OSError("the file ends too early")
            left = left[got:]
        return values.view(self._dtype)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def envi_tags(dataset: Any) -> dict[str, str]:
    """Return an open raster's entries of an ENVI header, keys in lower case: GDAL reads them in any, and keeps them."""
    return {key.lower(): text for key, text in dataset.tags(ns="ENVI").items()}


def open_raw(dataset: Any) -> RawFile | None:
    """Return the file behind an open ENVI raster, BIL or BSQ; None for any other raster."""
    header, path = envi_tags(dataset), Path(dataset.name)
    plain = header.get("file_compression", "0") == "0" and "major_frame_offsets" not in header
    interleave = header.get("interleave", "").lower()
    if dataset.driver != "ENVI" or interleave not in ("bil", "bsq") or not plain or not path.is_file():
        return None
    order = ">" if header.get("byte_order", "0").strip() != "0" else "<"
    dtype = np.dtype(dataset.dtypes[0]).newbyteorder(order)
    size = dataset.count, dataset.height, dataset.width
    return RawFile(path, header_offset(header), dtype, *size, by_line=interleave == "bil")


def header_offset(header: dict[str, str]) -> int:
    """Return the bytes before the values of an ENVI file; 0 where the header has no number, as GDAL does."""
    try:
        return max(0, int(header.get("header_offset", "0")))
    except ValueError:
        return 0


def check_envi_entries(path: str | Path, header: dict[str, str]) -> None:
    """Refuse invalid layout entries of an ENVI header, which GDAL would silently replace by defaults."""
    for entry, (pattern, wanted) in ENVI_ENTRIES.items():
        found = header.get(entry, "").strip()
        if re.fullmatch(pattern, found, re.IGNORECASE) is None:
            name, what = entry.replace("_", " "), f"'{found}'" if found else "none"
            raise SceneError(f"the header of '{path}' has {what} as {name}: wanted {wanted}; mend the header")


def check_envi_size(path: str | Path, dataset: Any) -> None:
    """Refuse an ENVI file that is shorter than its header says: GDAL would read zeros there."""
    sizes = _envi_sizes(path, dataset)
    if sizes is not None and sizes[0] < sizes[1]:
        raise SceneError(
            f"'{path}' is cut short: it has {sizes[0]:,} bytes and its header wants {sizes[1]:,}; "
            "copy or download it again"
        )


def size_warnings(path: str | Path, dataset: Any) -> tuple[str, ...]:
    """Return a warning if the file's size does not match its header; else nothing.

    A file may well end with bytes that belong to no pixel, so this is no error.
    """
    sizes = _envi_sizes(path, dataset) if dataset.driver == "ENVI" else None
    if sizes is None or sizes[0] == sizes[1]:
        return ()
    return (
        f"'{path}' has {sizes[0]:,} bytes and its header wants {sizes[1]:,}: "
        "check samples, lines, bands, data type and header offset in it",
    )


def _envi_sizes(path: str | Path, dataset: Any) -> tuple[int, int] | None:
    """Return the bytes that an ENVI file has and those that its header wants; None if it is compressed."""
    header = envi_tags(dataset)
    data = Path(dataset.files[0]) if dataset.files else Path(path)
    if header.get("file_compression", "0") != "0" or not data.is_file():
        return None
    values = dataset.count * dataset.height * dataset.width
    return data.stat().st_size, header_offset(header) + values * np.dtype(dataset.dtypes[0]).itemsize


def envi_header(text: str) -> dict[str, str]:
    """Return the ``key = value`` pairs of an ENVI header, keys in lower case, braces taken off."""
    pairs = re.findall(r"^[ \t]*([^=\n{}]+?)[ \t]*=[ \t]*(\{[^}]*\}|[^\n]*)", text, re.MULTILINE)
    return {key.lower(): value.strip().strip("{}").strip() for key, value in pairs}


def envi_wavelengths(header: Mapping[str, str]) -> NDArray[np.float64] | None:
    """Return the wavelengths of an ENVI header in nm, None if it has none."""
    if "wavelength" not in header:
        return None
    values = np.array([float(text) for text in header["wavelength"].split(",")])
    micrometres = header.get("wavelength units", "").lower().startswith("micro") or values.max() < 100
    return values * 1000.0 if micrometres else values


def envi_grid(header: Mapping[str, str]) -> tuple[str, tuple[float, ...]] | None:
    """Return CRS and transform of an ENVI header's ``map info``, None unless it is plain UTM on WGS 84."""
    parts = [part.strip() for part in header.get("map info", "").split(",")]
    plain = len(parts) >= 10 and parts[0].upper() == "UTM" and parts[9].upper().replace(" ", "") == "WGS-84"
    if not plain or any("rotation" in part.lower() for part in parts):
        return None
    column, row, east, north, width, height = (float(part) for part in parts[1:7])
    zone = (32700 if parts[8].lower() == "south" else 32600) + int(parts[7])
    # The header counts pixels from 1 and gives the place of that pixel's upper left corner.
    left, top = east - (column - 1) * width, north + (row - 1) * height
    return f"EPSG:{zone}", (width, 0.0, left, 0.0, -height, top)
