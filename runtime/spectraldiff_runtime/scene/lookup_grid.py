"""Scenes in sensor geometry: which of their pixels lies where on a map."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.window import Window


@dataclass(frozen=True, eq=False)
class LookupGrid:
    """A geographic lookup table (GLT): the scene's pixel for each pixel of a grid on the map.

    Attributes
    ----------
    rows, columns
        (H, W) int32, row and column in the scene, from 0; -1 where the scene has no pixel.
    place
        Where the grid lies.
    """

    rows: NDArray[np.int32]
    columns: NDArray[np.int32]
    place: Georeference

    @property
    def height(self) -> int:
        """Rows of the grid."""
        return int(self.rows.shape[0])

    @property
    def width(self) -> int:
        """Columns of the grid."""
        return int(self.rows.shape[1])

    def gather(self, values: NDArray[Any], window: Window) -> NDArray[Any]:
        """Return a window of the grid, (..., h, w), from the scene's values (..., rows, columns); 0 outside of it."""
        part = slice(window.row0, window.row1), slice(window.col0, window.col1)
        rows, columns = self.rows[part], self.columns[part]
        return np.asarray(np.where(rows >= 0, values[..., rows, columns], values.dtype.type(0)))

    def pull_back(self, labels: NDArray[Any], shape: tuple[int, int]) -> tuple[NDArray[Any], int]:
        """Bring labels on the grid, (H, W) with 0 for none, to the scene's own pixels.

        A pixel of the scene may lie in several of the grid; where their labels differ, it gets none.

        Returns
        -------
        labels : ndarray of `shape`
        clashes : int
            How many pixels of the scene were left without a label for that reason.
        """
        used = (labels != 0) & (self.rows >= 0)
        highest = self.highest(labels, shape)
        lowest = np.full(shape, np.iinfo(labels.dtype).max, labels.dtype)
        np.minimum.at(lowest, (self.rows[used], self.columns[used]), labels[used])
        clash = (highest != 0) & (lowest != highest)
        highest[clash] = 0
        return highest, int(clash.sum())

    def highest(self, numbers: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
        """Return, for each pixel of the scene, the highest of the grid's numbers, (H, W) from 0, that lie on it."""
        used = (numbers != 0) & (self.rows >= 0)
        highest = np.zeros(shape, numbers.dtype)
        np.maximum.at(highest, (self.rows[used], self.columns[used]), numbers[used])
        return highest
