"""Feature vectors of scenes below each other: of all pixels, of square tiles round some, or computed where read."""

import mmap
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from spectraldiff.models.features import FeatureExtractor, features_at
from spectraldiff.models.padding import Pixels
from spectraldiff.models.pca import PCA, fit_pca
from spectraldiff_runtime.window import Window

TILE = 32  # pixels along the side of the tiles that are kept
# Bytes of features that memory holds, and the file in a run folder that holds more.
MOST, FEATURES = 2**30, "features.partial"
RELEASED = 2**28  # bytes that are read of such a file before the system may have their memory


class Mosaic(Protocol):
    """Feature vectors of several scenes below each other, (H, W, P): a tensor, or what is computed where it is read."""

    @property
    def shape(self) -> Sequence[int]:
        """(H, W, P)."""
        ...

    def __getitem__(self, key: Any, /) -> Tensor:
        """Return the vectors at (rows, columns): two slices, or two index tensors."""
        ...


@dataclass(frozen=True)
class Layout:
    """Where some scenes lie on a mosaic: below each other, each with a frame around it.

    Attributes
    ----------
    shapes
        (H, W) of each scene.
    frame
        Pixels around each scene.
    step
        The rows of a scene on the mosaic are filled up to a multiple of this.
    """

    shapes: tuple[tuple[int, int], ...]
    frame: int
    step: int = 1

    @cached_property
    def tops(self) -> list[int]:
        """The row of each scene's first pixel, and, last, where one more scene's would be."""
        heights = [-(-height // self.step) * self.step + 2 * self.frame for height, _ in self.shapes]
        return list(accumulate(heights, initial=self.frame))

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the mosaic."""
        width = max(-(-width // self.step) * self.step for _, width in self.shapes)
        return self.tops[-1] - self.frame, width + 2 * self.frame

    def on_scene(self, rows: slice, columns: slice) -> tuple[int, tuple[int, int, int, int]]:
        """Return the number of the scene around which a part of the mosaic lies, and the part's edges on it."""
        tops = self.tops
        index = bisect_right(tops, (rows.start + rows.stop - 1) // 2 + self.frame) - 1
        row, column = tops[index], self.frame
        return index, (rows.start - row, rows.stop - row, columns.start - column, columns.stop - column)

    def parts_of(self, windows: Sequence[tuple[int, Window]]) -> list[tuple[slice, slice]]:
        """Return rows and columns on the mosaic of windows of scenes, each with the number of its scene."""
        tops, frame = self.tops, self.frame
        return [(slice(tops[i] + w.row0, tops[i] + w.row1), slice(frame + w.col0, frame + w.col1)) for i, w in windows]

    def tiles_of(self, windows: Sequence[tuple[int, Window]]) -> Tensor:
        """Return row and column, counted in tiles, (m, 2), of all tiles that such windows touch."""
        return torch.cat(
            [
                torch.cartesian_prod(*(torch.arange(at.start // TILE, (at.stop - 1) // TILE + 1) for at in part))
                for part in self.parts_of(windows)
            ]
        )


class ComputedMosaic:
    """A mosaic whose values are computed where they are read.

    Parameters
    ----------
    size
        Rows and columns.
    channels
        P; 0 for single values, (H, W).
    read
        Returns (h, w, P), or (h, w), of two slices.
    """

    def __init__(self, size: Sequence[int], channels: int, read: Callable[[slice, slice], Tensor]) -> None:
        self.shape: tuple[int, ...] = (size[0], size[1], channels) if channels else (size[0], size[1])
        self._read = read

    def __getitem__(self, key: Any, /) -> Tensor:
        """Return the values of two slices."""
        rows, columns = key
        return self._read(rows, columns)


class TileMosaic:
    """A mosaic of which some square tiles are kept; elsewhere it is 0.

    Parameters
    ----------
    layout
        Where the scenes lie; its frame and step are multiples of `TILE`.
    tiles
        (m, 2) row and column of the tiles that are kept, counted in tiles.
    channels
        P.
    folder
        Where values lie that are more than `most` bytes; None for memory.
    most
        Bytes that memory may hold.
    device
        Where values are read to; the CPU by default.
    """

    def __init__(
        self,
        layout: Layout,
        tiles: Tensor,
        channels: int,
        folder: Path | None = None,
        most: int = MOST,
        device: torch.device | None = None,
    ) -> None:
        size, self.device, self.read = layout.size, device or torch.device("cpu"), 0
        self.layout, self.tiles = layout, tiles
        self.shape: tuple[int, ...] = (*size, channels)
        self.table = torch.full((-(-size[0] // TILE), -(-size[1] // TILE)), len(tiles), dtype=torch.int32)
        self.table[tiles[:, 0], tiles[:, 1]] = torch.arange(len(tiles), dtype=torch.int32)
        whole = (len(tiles) + 1) * TILE**2 * channels
        self.file: Path | None = None
        if folder is not None and 4 * whole > most:
            self.file = folder / FEATURES
            self.mapped = np.memmap(self.file, np.float32, "w+", shape=(whole,))
            self.flat = torch.from_numpy(self.mapped)
        else:
            self.flat = torch.zeros(whole)

    def __getstate__(self) -> dict[str, Any]:
        values = ("mapped", "flat") if self.file is not None else ()  # another process reads the same file
        return {name: value for name, value in vars(self).items() if name not in values}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.file is not None:
            self.mapped = np.memmap(self.file, np.float32, "r+")
            self.flat = torch.from_numpy(self.mapped)

    @property
    def values(self) -> Tensor:
        """(m + 1, TILE, TILE, P), the last one of zeros."""
        channels = self.shape[2]
        return self.flat[: (len(self.tiles) + 1) * TILE**2 * channels].view(-1, TILE, TILE, channels)

    def __getitem__(self, key: Any, /) -> Tensor:
        """Return the vectors at (rows, columns): two slices, or two index tensors."""
        rows, columns = key
        if isinstance(rows, slice):
            rows, columns = torch.arange(rows.start, rows.stop)[:, None], torch.arange(columns.start, columns.stop)
        rows, columns = rows.cpu(), columns.cpu()
        at = self.table[rows // TILE, columns // TILE].long()
        found = self.values[at, rows % TILE, columns % TILE]
        self._release(found.nbytes)
        return found.to(self.device)

    def write(self, number: int, values: Tensor) -> None:
        """Keep the values of a tile, (TILE, TILE, P)."""
        self.values[number] = values.cpu()
        self._release(values.nbytes)

    def _release(self, used: int) -> None:
        """Let the system have the memory of a file's values from time to time: they stay on disk."""
        self.read += used
        if self.file is not None and self.read > RELEASED:
            self.mapped._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
            self.read = 0

    def select(self, kept: Tensor) -> None:
        """Keep some of the components, by their indices in rising order; in place, for a copy may not fit."""
        before = self.values
        self.shape = (*self.shape[:2], len(kept))
        size = TILE**2 * len(kept)
        for number in range(len(self.tiles) + 1):
            self.flat[number * size : (number + 1) * size] = before[number][..., kept].flatten()
            self._release(before[number].nbytes)

    def remove(self) -> None:
        """Remove the file of the values, if there is one."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)


def tiles_around(pixels: Tensor, reach: int, size: Sequence[int]) -> Tensor:
    """Return the tiles, (m, 2), that hold what is at most `reach` pixels (Chebyshev) from a pixel, (n, 2)."""
    table = torch.zeros(-(-size[0] // TILE), -(-size[1] // TILE), dtype=torch.bool)
    first, last = (pixels - reach).clamp_min(0) // TILE, (pixels + reach) // TILE
    for (row0, column0), (row1, column1) in zip(first.tolist(), last.tolist(), strict=True):
        table[row0 : row1 + 1, column0 : column1 + 1] = True
    return table.nonzero()


@torch.no_grad()
def sampled_pca(
    extractor: FeatureExtractor,
    scenes: Sequence[Pixels],
    samples: Sequence[tuple[int, Window]],
    components: int,
    report: Callable[[int, int], None],
    band_components: int = 0,
) -> PCA:
    """Fit the PCA of `scene_features` to parts of large scenes.

    Parameters
    ----------
    extractor, components, report, band_components
        As of `scene_features`.
    scenes
        Read by window.
    samples
        The number of a scene, and a window of it, each.
    """

    def rows() -> Iterator[Tensor]:
        for done, (index, window) in enumerate(samples):
            report(done, len(samples))
            edges = window.row0, window.row1, window.col0, window.col1
            features = features_at(extractor, scenes[index], *edges)
            yield features.permute(1, 2, 0)[scenes[index].valid(*edges).to(features.device)]

    return fit_pca(rows(), components, scenes[0].shape[0], band_components)


@torch.no_grad()
def fill_tiles(
    extractor: FeatureExtractor,
    scenes: Sequence[Pixels],
    mosaic: TileMosaic,
    pca: PCA,
    report: Callable[[int, int], None],
) -> None:
    """Compute the components of all tiles of a mosaic of some scenes; `report` gets tiles done, and all."""
    for number, (row, column) in enumerate((mosaic.tiles * TILE).tolist()):
        report(number, len(mosaic.tiles))
        index, edges = mosaic.layout.on_scene(slice(row, row + TILE), slice(column, column + TILE))
        features = features_at(extractor, scenes[index], *edges)
        mosaic.write(number, pca(features[None])[0].permute(1, 2, 0))
    report(len(mosaic.tiles), len(mosaic.tiles))
