"""Numba kernels: from a block of the scene, in whatever type and order it has, to padded float tiles.

The public function checks, a private driver makes indices, a private kernel computes. The kernel
takes any strides: Numba compiles one version for each type and memory order that it meets.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import config, get_num_threads, njit, prange, set_num_threads
from numpy.typing import NDArray

from .interrupts import interrupts_held_back
from .tiling import Window, reflect


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compile for all cores without the GIL, and keep the result on disk where some folder takes it."""
    try:
        return njit(parallel=True, nogil=True, cache=True)(function)
    except RuntimeError:  # no folder for the cache can be written: compile at each start instead
        return njit(parallel=True, nogil=True)(function)


def gather_tiles(
    block: NDArray[Any],
    origin: tuple[int, int],
    scene_size: tuple[int, int],
    tiles: list[Window],
    halo: int,
    fill: NDArray[np.float32],
    nodata: float | None,
    size: tuple[int, int] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Gather tiles with their halos into one batch, and say which of their pixels have data.

    Beyond the scene's edges the scene is reflected. A pixel has no data where any band equals `nodata`
    (compared in the block's own type) or is not finite as float32; its spectrum becomes `fill`.

    Parameters
    ----------
    block
        Part of the scene, shape (B, h, w), any real dtype, any strides, raw units.
    origin
        Row and column of the block's first pixel in the scene.
    scene_size
        Height and width of the scene, where reflection happens.
    tiles
        Output windows in scene coordinates. The block must hold all that `tiling.source_window` names.
    halo
        Pixels around each tile.
    fill
        Shape (B,), raw units.
    nodata
        None for none. A value that the block's type cannot hold never matches.
    size
        Height and width of the output part of the batch; as large as the largest tile if None. What lies
        beyond a smaller tile and its halo is `fill`, and beyond the tile nothing counts as data.

    Returns
    -------
    batch : ndarray of shape (N, B, size[0] + 2 halo, size[1] + 2 halo), float32
    valid : ndarray of shape (N, size[0], size[1]), bool

    Raises
    ------
    ValueError
        Shapes or types do not fit, or a tile needs pixels that the block does not hold.
    """
    if block.ndim != 3 or block.dtype.kind not in "iuf" or fill.shape != (block.shape[0],):
        raise ValueError(f"block {block.shape} {block.dtype} and fill {fill.shape} do not fit each other")
    if not tiles:
        raise ValueError("no tiles to gather")
    height = max(t.height for t in tiles) if size is None else size[0]
    width = max(t.width for t in tiles) if size is None else size[1]
    rows = _indices([(t.row0, t.row1) for t in tiles], height, halo, scene_size[0], origin[0], block.shape[1])
    cols = _indices([(t.col0, t.col1) for t in tiles], width, halo, scene_size[1], origin[1], block.shape[2])
    marker = native_nodata(nodata, block.dtype)
    batch, valid = _drive(_native(block), rows, cols, halo, fill.astype(np.float32), marker)
    for mask, tile in zip(valid, tiles, strict=True):
        mask[tile.height :], mask[:, tile.width :] = False, False
    return batch, valid


def native_nodata(nodata: float | None, dtype: np.dtype[Any]) -> Any:
    """Return `nodata` as a scalar of `dtype`, or None where no value of that type can equal it."""
    if nodata is None or math.isnan(nodata):
        return None
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        fits = math.isfinite(nodata) and nodata == int(nodata) and limits.min <= nodata <= limits.max
        return dtype.type(int(nodata)) if fits else None
    with np.errstate(over="ignore"):
        value = dtype.type(nodata)
    return value if np.isfinite(value) else None


def _native(block: NDArray[Any]) -> NDArray[Any]:
    """Return the block in a type that Numba knows: native byte order, and no float16."""
    dtype = np.dtype(np.float32) if block.dtype == np.float16 else block.dtype.newbyteorder("=")
    return block.astype(dtype, copy=False)


def _indices(ranges: list[tuple[int, int]], size: int, halo: int, n: int, origin: int, held: int) -> NDArray[np.int64]:
    """Return where in the block each row (or column) of each tile lies, (N, size + 2 halo); -1 is surplus."""
    out = np.full((len(ranges), size + 2 * halo), -1, np.int64)
    for indices, (start, stop) in zip(out, ranges, strict=True):
        needed = reflect(np.arange(start - halo, stop + halo), n) - origin
        if stop - start > size or needed.min() < 0 or needed.max() >= held:
            raise ValueError(f"tile {start}..{stop} with halo {halo} does not lie in {size} or in the block")
        indices[: needed.size] = needed
    return out


def _drive(
    block: NDArray[Any],
    rows: NDArray[np.int64],
    cols: NDArray[np.int64],
    halo: int,
    fill: NDArray[np.float32],
    nodata: Any,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    n, height = rows.shape
    width = cols.shape[1]
    batch = np.empty((n, block.shape[0], height, width), np.float32)
    valid = np.zeros((n, height - 2 * halo, width - 2 * halo), np.bool_)
    held = (cols >= 0).sum(axis=1)
    has_nodata, marker = nodata is not None, block.dtype.type(0 if nodata is None else nodata)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which is no data
        _run(block, rows, cols, held, halo, fill, has_nodata, marker, batch, valid)
    return batch, valid


def _run(*arguments: Any) -> None:
    with interrupts_held_back():
        try:
            _gather(*arguments)
        except OSError:  # compiled, but Numba could not keep the result: its disk is full, say
            _gather(*arguments)


@_compiled
def _gather(
    block: Any,
    rows: Any,
    cols: Any,
    held: Any,
    halo: int,
    fill: Any,
    has_nodata: bool,
    nodata: Any,
    batch: Any,
    valid: Any,
) -> None:
    """Fill `batch` and `valid`: one row of one tile at a time, all bands of it while it is in the cache."""
    n, bands, height, width = batch.shape
    for line in prange(n * height):
        tile = line // height
        y = line % height
        row = rows[tile, y]
        used = held[tile] if row >= 0 else 0
        bad = np.zeros(width, np.bool_)
        bad[used:] = True
        for band in range(bands):
            for x in range(used):
                value = block[band, row, cols[tile, x]]
                number = np.float32(value)
                batch[tile, band, y, x] = number
                bad[x] |= not np.isfinite(number) or (has_nodata and value == nodata)
        for x in range(width):
            if bad[x]:
                for band in range(bands):
                    batch[tile, band, y, x] = fill[band]
        if halo <= y < height - halo:
            for x in range(halo, width - halo):
                valid[tile, y - halo, x - halo] = not bad[x]


def limit_threads(threads: int) -> None:
    """Let the kernels use at most `threads` threads (and no more than the machine has)."""
    wanted = max(1, min(threads, int(getattr(config, "NUMBA_NUM_THREADS", 1))))
    with interrupts_held_back():
        if get_num_threads() != wanted:
            set_num_threads(wanted)
