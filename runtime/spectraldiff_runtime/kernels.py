"""Numba kernels: from a block of the scene, in whatever type and order it has, to padded float tiles.

The public function checks, a private driver makes indices, a private kernel computes. The kernel
takes any strides: Numba compiles one version for each type and memory order that it meets.
"""

import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numba import config, get_num_threads, njit, prange, set_num_threads
from numpy.typing import NDArray

from .interrupts import interrupts_held_back
from .scene import NodataOfBands, nodata_of_each
from .scene import native_nodata as native_nodata
from .tiling import Window, reflect

# Numba's own threads take one kernel at a time: a second launch from another thread ends the process.
_LAUNCH = threading.Lock()


# What a launch may have to compile: the kernel of a line, and what drives it.
COMPILED_FUNCTIONS = 2
# Batches up to this size are gathered by the calling thread alone: waking others would take longer.
SMALL_BYTES = 8 * 2**20


def _compiled(function: Callable[..., None], parallel: bool = False) -> Callable[..., None]:
    """Compile without the GIL, and keep the result on disk where some folder takes it."""
    try:
        return njit(nogil=True, cache=True, parallel=parallel)(function)
    except RuntimeError:  # no folder for the cache can be written: compile at each start instead
        return njit(nogil=True, parallel=parallel)(function)


def gather_tiles(
    block: NDArray[Any],
    origin: tuple[int, int],
    scene_size: tuple[int, int],
    tiles: list[Window],
    halo: int,
    fill: NDArray[np.float32],
    nodata: NodataOfBands,
    size: tuple[int, int] | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Gather tiles with their halos into one batch, and say which of their pixels have data.

    Beyond the scene's edges the scene is reflected. A pixel has no data where `mask` is False, or any band
    equals its `nodata` (compared in the block's own type) or is not finite as float32; its spectrum becomes
    `fill`. Safe to call from several threads: they take turns.

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
        One value for all bands or a tuple of B; None for none. A value that the block's type cannot hold
        never matches.
    size
        Height and width of the output part of the batch; as large as the largest tile if None. What lies
        beyond a smaller tile and its halo is `fill`, and beyond the tile nothing counts as data.
    mask
        Shape (h, w) as the block, True where there is data; None for everywhere.

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
    if mask is not None and mask.shape != block.shape[1:]:
        raise ValueError(f"block {block.shape} and mask {mask.shape} do not fit each other")
    if not tiles:
        raise ValueError("no tiles to gather")
    height = max(t.height for t in tiles) if size is None else size[0]
    width = max(t.width for t in tiles) if size is None else size[1]
    rows = _indices([(t.row0, t.row1) for t in tiles], height, halo, scene_size[0], origin[0], block.shape[1])
    cols = _indices([(t.col0, t.col1) for t in tiles], width, halo, scene_size[1], origin[1], block.shape[2])
    batch, valid = _drive(_native(block), rows, cols, halo, fill.astype(np.float32), nodata, mask)
    for good, tile in zip(valid, tiles, strict=True):
        good[tile.height :], good[:, tile.width :] = False, False
    return batch, valid


@lru_cache(maxsize=64)
def _markers(nodata: NodataOfBands, bands: int, dtype: np.dtype[Any]) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Return for each band whether it has a nodata value, (B,), and that value in `dtype`, (B,)."""
    values = nodata_of_each(nodata, bands)
    if len(values) != bands:
        raise ValueError(f"{len(values)} nodata values and {bands} bands do not fit each other")
    native = [native_nodata(value, dtype) for value in values]
    has_nodata = np.array([value is not None for value in native])
    return has_nodata, np.array([0 if value is None else value for value in native], dtype)


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
    nodata: NodataOfBands,
    mask: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    n, height = rows.shape
    width = cols.shape[1]
    batch = np.empty((n, block.shape[0], height, width), np.float32)
    valid = np.zeros((n, height - 2 * halo, width - 2 * halo), np.bool_)
    held = (cols >= 0).sum(axis=1)
    markers = _markers(nodata, block.shape[0], block.dtype)
    known = np.empty((0, 0), np.bool_) if mask is None else np.ascontiguousarray(mask, np.bool_)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which is no data
        _run(block, rows, cols, held, halo, fill, *markers, known, block.dtype.kind == "f", batch, valid)
    return batch, valid


def _run(*arguments: Any) -> None:
    batch: NDArray[np.float32] = arguments[-2]
    gather = _gather if batch.nbytes > SMALL_BYTES else _gather_alone
    with _LAUNCH, interrupts_held_back():
        for _ in range(COMPILED_FUNCTIONS):
            try:
                return gather(*arguments)
            except OSError:  # one more is compiled, but Numba could not keep the result: its disk is full, say
                pass
        return gather(*arguments)


@_compiled
def _gather_line(
    line: int,
    block: Any,
    rows: Any,
    cols: Any,
    held: Any,
    halo: int,
    fill: Any,
    has_nodata: Any,
    nodata: Any,
    mask: Any,
    fractional: bool,
    batch: Any,
    valid: Any,
) -> None:
    """Fill one row of one tile, all bands of it while it is in the cache."""
    _, bands, height, width = batch.shape
    tile = line // height
    y = line % height
    row = rows[tile, y]
    used = held[tile] if row >= 0 else 0
    bad = np.zeros(width, np.bool_)
    bad[used:] = True
    if mask.size:
        for x in range(used):
            bad[x] = not mask[row, cols[tile, x]]
    first = cols[tile, 0]
    straight = used > 0 and cols[tile, used - 1] - first == used - 1  # no mirrored column: loops without indices
    for band in range(bands):
        source, target, marker = block[band, row], batch[tile, band, y], nodata[band]
        if straight:
            for x in range(used):
                target[x] = np.float32(source[first + x])
        else:
            for x in range(used):
                target[x] = np.float32(source[cols[tile, x]])
        if fractional:
            for x in range(used):
                bad[x] |= not np.isfinite(target[x])
        if has_nodata[band]:
            for x in range(used):
                bad[x] |= source[cols[tile, x]] == marker
    for x in range(width):
        if bad[x]:
            for band in range(bands):
                batch[tile, band, y, x] = fill[band]
    if halo <= y < height - halo:
        for x in range(halo, width - halo):
            valid[tile, y - halo, x - halo] = not bad[x]


def _gather_together(
    block: Any,
    rows: Any,
    cols: Any,
    held: Any,
    halo: int,
    fill: Any,
    has_nodata: Any,
    nodata: Any,
    mask: Any,
    fractional: bool,
    batch: Any,
    valid: Any,
) -> None:
    """Fill `batch` and `valid`, with all threads."""
    for line in prange(batch.shape[0] * batch.shape[2]):
        _gather_line(
            line, block, rows, cols, held, halo, fill, has_nodata, nodata, mask, fractional, batch, valid
        )  # fmt: skip


_gather = _compiled(_gather_together, parallel=True)


@_compiled
def _gather_alone(
    block: Any,
    rows: Any,
    cols: Any,
    held: Any,
    halo: int,
    fill: Any,
    has_nodata: Any,
    nodata: Any,
    mask: Any,
    fractional: bool,
    batch: Any,
    valid: Any,
) -> None:
    """Fill `batch` and `valid`, with this thread."""
    for line in range(batch.shape[0] * batch.shape[2]):
        _gather_line(
            line, block, rows, cols, held, halo, fill, has_nodata, nodata, mask, fractional, batch, valid
        )  # fmt: skip


def limit_threads(threads: int) -> None:
    """Let the kernels use at most `threads` threads (and no more than the machine has)."""
    wanted = max(1, min(threads, int(getattr(config, "NUMBA_NUM_THREADS", 1))))
    with interrupts_held_back():
        if get_num_threads() != wanted:
            set_num_threads(wanted)
