"""The layers of a map in progress: raw files that windows are written to in any order."""

import contextlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.errors import OutputError
from spectraldiff_runtime.window import Window

RAW = ".raw"  # ends the names of raw files
# All that there may be of a map; who adds one names it here, or it would not be removed.
LAYER_NAMES = ("classes", "confidence", "probabilities", "outside")
CHUNK = 2**24  # bytes that are filled at once


@dataclass(frozen=True)
class Layer:
    """One raw file of a map in progress: (count, height, width) of `dtype`, band after band.

    At first all its bytes are `fill`.
    """

    name: str
    dtype: np.dtype[Any]
    count: int = 1
    fill: int = 0


class RawFiles:
    """The raw files of a map's layers in a folder, (count, height, width) each, without headers.

    Parameters
    ----------
    size
        Height and width of the map.
    """

    def __init__(self, folder: Path, size: tuple[int, int], layers: Sequence[Layer]) -> None:
        self._folder, self._size = folder, size
        self._layers = {layer.name: layer for layer in layers}
        self._files: dict[str, io.FileIO] = {}

    def path(self, name: str) -> Path:
        """Return the path of a layer's file."""
        return self._folder / f"{name}{RAW}"

    def create(self) -> None:
        """Make the files; OSError where the disk takes none."""
        for layer in self._layers.values():
            file = self._files[layer.name] = io.FileIO(self.path(layer.name), "x+")
            file.truncate(self._bytes(layer))
            for start in range(0, self._bytes(layer) if layer.fill else 0, CHUNK):
                size = min(CHUNK, self._bytes(layer) - start)
                _write_at(file, start, np.full(size, layer.fill, np.uint8))

    def open(self) -> None:
        """Open the files of an earlier run.

        Raises
        ------
        OutputError
            One is missing or has another size.
        """
        for layer in self._layers.values():
            path = self.path(layer.name)
            if not path.is_file() or path.stat().st_size != self._bytes(layer):
                raise OutputError(f"'{path}' is missing or was changed: begin again with --overwrite")
            self._files[layer.name] = io.FileIO(path, "r+", opener=open_plain)

    def _bytes(self, layer: Layer) -> int:
        return layer.count * self._size[0] * self._size[1] * layer.dtype.itemsize

    def write(self, name: str, window: Window, values: NDArray[Any]) -> None:
        """Write a window of a layer, (h, w) or (count, h, w); OSError where the disk does not take it."""
        file, layer, (height, width) = self._files[name], self._layers[name], self._size
        bands = np.ascontiguousarray(values, layer.dtype).reshape(layer.count, window.height, window.width)
        for band, plane in enumerate(bands):
            start = (band * height + window.row0) * width + window.col0
            rows = [plane] if window.width == width else list(plane)
            for i, row in enumerate(rows):
                _write_at(file, (start + i * width) * layer.dtype.itemsize, row)

    def sync(self) -> None:
        """Have the system write everything out."""
        for file in self._files.values():
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()
        self._files = {}


def open_plain(path: str, flags: int) -> int:
    """Open a file for `io.FileIO`, and no link."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def _write_at(file: io.FileIO, position: int, values: NDArray[Any]) -> None:
    data = memoryview(values.data).cast("B")
    file.seek(position)
    while data:
        data = data[file.write(data) :]
