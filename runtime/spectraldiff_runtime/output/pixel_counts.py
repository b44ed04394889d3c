"""How many pixels of a map have each value."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from spectraldiff_runtime.errors import OutputError
from spectraldiff_runtime.scene.open import open_dataset
from spectraldiff_runtime.window import Window, tiles_of

# Values that are counted at once, and the side of the windows that a raster is counted in.
CHUNK, SIDE = 2**20, 2048


def counts(parts: Iterable[NDArray[Any]], values: int) -> tuple[int, ...]:
    """Return the pixels of each value, 0..values - 1, in arrays of any shape."""
    total = np.zeros(values, np.int64)
    for part in parts:
        for row in np.array_split(part.ravel(), max(1, part.size // 2**20)):
            total += np.bincount(row, minlength=values)
    return tuple(int(count) for count in total)


def raw_chunks(raw: Path, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """Yield the values of a raw file, not all at once."""
    with raw.open("rb") as file:
        while (values := np.fromfile(file, dtype, CHUNK)).size:
            yield values


def count_values(path: Path, classes: int) -> tuple[int, ...]:
    """Return the pixels of each value, 0..K, of a class raster; OutputError where it is damaged."""
    try:
        with open_dataset(path) as dataset:
            windows = tiles_of(Window(0, dataset.height, 0, dataset.width), SIDE)
            parts = (dataset.read(1, window=((w.row0, w.row1), (w.col0, w.col1))) for w in windows)
            return counts(parts, classes + 1)
    except (RasterioError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise OutputError(f"the map '{path}' is damaged ({reason}): map again with --overwrite") from error
