"""Raw files that are interleaved by line: GDAL reads their blocks several times over, this reads each byte once."""

from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Whole lines are read in parts of about this many bytes.
CHUNK = 8 * 2**20


class LineFile:
    """An uncompressed file whose lines hold all bands, one after the other (BIL).

    Parameters
    ----------
    path
        The file.
    offset
        Bytes before the first line.
    dtype
        Type of the values as stored, with its byte order.
    bands, width
        Bands, and values of each of them in a line.
    """

    def __init__(self, path: Path, offset: int, dtype: np.dtype[Any], bands: int, width: int) -> None:
        self._file: FileIO = path.open("rb", buffering=0)
        self._offset, self._dtype, self._bands, self._width = offset, dtype, bands, width

    def read(self, bands: Sequence[int], row0: int, row1: int, col0: int, col1: int, out: NDArray[Any]) -> None:
        """Fill `out`, (B, h, w) of any strides, with the bands of these numbers, from 1.

        Raises
        ------
        OSError
            The file ends before that part does, or cannot be read.
        """
        if (col0, col1) == (0, self._width):
            self._read_lines(bands, row0, row1, out)
        else:
            self._read_pieces(bands, row0, col0, col1, out)

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


def open_lines(dataset: Any) -> LineFile | None:
    """Return the file behind an open ENVI raster that is interleaved by line; None for any other raster."""
    header, path = dataset.tags(ns="ENVI"), Path(dataset.name)
    plain = header.get("file_compression", "0") == "0" and "major_frame_offsets" not in header
    if dataset.driver != "ENVI" or header.get("interleave", "").lower() != "bil" or not plain or not path.is_file():
        return None
    order = ">" if header.get("byte_order", "0").strip() != "0" else "<"
    dtype = np.dtype(dataset.dtypes[0]).newbyteorder(order)
    return LineFile(path, header_offset(header), dtype, dataset.count, dataset.width)


def header_offset(header: dict[str, str]) -> int:
    """Return the bytes before the values of an ENVI file; 0 where the header has no number, as GDAL does."""
    try:
        return max(0, int(header.get("header_offset", "0")))
    except ValueError:
        return 0
