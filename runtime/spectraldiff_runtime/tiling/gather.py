"""Numba kernels: from a block of the scene, of any type and axis order, to padded float tiles.

The public function checks, a private driver makes indices, private kernels compute. They see a block as flat memory
with its steps: Numba compiles one version for each type, for any order of the axes.
"""

import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numba import config, get_num_threads, njit, prange, set_num_threads
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from spectraldiff_runtime.scene.nodata import NodataOfBands, nodata_of_each
from spectraldiff_runtime.scene.nodata import native_nodata as native_nodata
from spectraldiff_runtime.signals import interrupts_deferred
from spectraldiff_runtime.window import Window, reflect

# Numba's own threads take one kernel at a time: a second launch from another thread ends the process.
_LAUNCH = threading.Lock()


# Batches up to this size are gathered by the calling thread alone: waking others would take longer.
SMALL_BYTES = 8 * 2**20
# Rows of a tile that are filled together, band by band: contiguous memory for each band.
ROWS = 8
# Bands and pixels that are transposed together where a pixel's bands are adjacent: they fit caches and registers.
BANDS, PIXELS = 32, 8


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
    allocate: Callable[[tuple[int, ...]], NDArray[np.float32]] | None = None,
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
    allocate
        Returns memory for a batch of the given shape, float32 and contiguous; `numpy.empty` if None.

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
    shape = len(tiles), block.shape[0], rows.shape[1], cols.shape[1]
    batch = np.empty(shape, np.float32) if allocate is None else allocate(shape)
    valid = _drive(_native(block), rows, cols, halo, fill.astype(np.float32), nodata, mask, batch)
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
    """Return the block in a type that Numba knows (native byte order, no float16), aligned, and nothing reversed."""
    dtype = np.dtype(np.float32) if block.dtype == np.float16 else block.dtype.newbyteorder("=")
    block = block.astype(dtype, copy=False)
    plain = block.flags.aligned and all(step >= 0 and step % dtype.itemsize == 0 for step in block.strides)
    return block if plain else np.ascontiguousarray(block)


def _flat(block: NDArray[Any]) -> tuple[NDArray[Any], tuple[int, int, int]]:
    """Return a block as flat memory from its first value on, and its strides in values: bands, rows, columns.

    One compiled kernel serves every order of the axes and knows which axis is contiguous.
    """
    bands, rows, columns = (step // block.itemsize for step in block.strides)
    reach = sum((n - 1) * step for n, step in zip(block.shape, (bands, rows, columns), strict=True))
    flat = as_strided(block, (reach + 1 if block.size else 0,), (block.itemsize,), writeable=False)
    return flat, (bands, rows, columns)


def _indices(ranges: list[tuple[int, int]], size: int, halo: int, n: int, origin: int, held: int) -> NDArray[np.int64]:
    """Return the block's row (or column) index for each row of each tile, (N, size + 2 halo); -1 is padding."""
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
    batch: NDArray[np.float32],
) -> NDArray[np.bool_]:
    n, height = rows.shape
    valid = np.zeros((n, height - 2 * halo, cols.shape[1] - 2 * halo), np.bool_)
    held = (cols >= 0).sum(axis=1)
    markers = _markers(nodata, block.shape[0], block.dtype)
    known = np.empty((0, 0), np.bool_) if mask is None else np.ascontiguousarray(mask, np.bool_)
    with np.errstate(over="ignore", invalid="ignore"):  # without the JIT: infinite in float32 is no data
        _run(*_flat(block), rows, cols, held, halo, fill, *markers, known, block.dtype.kind == "f", batch, valid)
    return valid


def _run(*arguments: Any) -> None:
    batch: NDArray[np.float32] = arguments[-2]
    gather = _gather if batch.nbytes > SMALL_BYTES else _gather_serial
    with _LAUNCH, interrupts_deferred():
        try:
            return gather(*arguments)
        except OSError:  # it is compiled, but Numba could not keep the result: its disk is full, say
            return gather(*arguments)


@njit(nogil=True)
def _gather_rows(
    unit: int,
    flat: Any,
    steps: Any,
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
    """Fill up to `ROWS` rows of one tile; `missing` says which of their pixels have no data."""
    groups = -(-batch.shape[2] // ROWS)
    tile, top = unit // groups, unit % groups * ROWS
    row_index, columns, used = rows[tile, top : top + ROWS], cols[tile], held[tile]
    target, good = batch[tile], valid[tile]
    missing = np.zeros((len(row_index), batch.shape[3]), np.uint8)
    _mark_missing(missing, row_index, columns, used, mask)
    if steps[2] == 1:
        _copy_bands(flat, steps, row_index, columns[:used], has_nodata, nodata, fractional, target, top, missing)
    else:
        _transpose_bands(flat, steps, row_index, columns[:used], has_nodata, nodata, fractional, target, top, missing)
    _fill_missing(missing, top, halo, fill, target, good)


@njit(nogil=True)
def _mark_missing(missing: Any, row_index: Any, columns: Any, used: int, mask: Any) -> None:
    """Mark padding and masked pixels as missing."""
    for y in range(len(row_index)):
        row = row_index[y]
        missing[y, used if row >= 0 else 0 :] = 1
        if mask.size and row >= 0:
            for x in range(used):
                missing[y, x] = not mask[row, columns[x]]


@njit(nogil=True)
def _copy_bands(
    flat: Any,
    steps: Any,
    row_index: Any,
    columns: Any,
    has_nodata: Any,
    nodata: Any,
    fractional: bool,
    target: Any,
    top: int,
    missing: Any,
) -> None:
    """Fill the rows band by band where the columns are adjacent in memory."""
    used = len(columns)
    straight = used > 0 and columns[used - 1] - columns[0] == used - 1  # no mirrored column
    line = np.empty(used, flat.dtype)
    for band in range(target.shape[0]):
        for y in range(len(row_index)):
            start = band * steps[0] + row_index[y] * steps[1]
            if row_index[y] >= 0 and straight:
                source = flat[start + columns[0] : start + columns[0] + used]
                _copy_row(source, target[band, top + y], missing[y], has_nodata[band], nodata[band], fractional)
            elif row_index[y] >= 0:
                for x in range(used):
                    line[x] = flat[start + columns[x]]
                _copy_row(line, target[band, top + y], missing[y], has_nodata[band], nodata[band], fractional)


@njit(nogil=True)
def _transpose_bands(
    flat: Any,
    steps: Any,
    row_index: Any,
    columns: Any,
    has_nodata: Any,
    nodata: Any,
    fractional: bool,
    target: Any,
    top: int,
    missing: Any,
) -> None:
    """Fill the rows some bands at a time where the columns are not adjacent: transposed in the cache, then copied."""
    bands, used = target.shape[0], len(columns)
    transposed = np.empty((BANDS, len(row_index), used), flat.dtype)
    for first in range(0, bands, BANDS):
        count = min(BANDS, bands - first)
        for y in range(len(row_index)):
            if row_index[y] >= 0:
                _transpose(flat, first * steps[0] + row_index[y] * steps[1], steps, columns, count, y, transposed)
        for band in range(first, first + count):
            for y in range(len(row_index)):
                if row_index[y] >= 0:
                    source, line = transposed[band - first, y], target[band, top + y]
                    _copy_row(source, line, missing[y], has_nodata[band], nodata[band], fractional)


@njit(nogil=True)
def _transpose(flat: Any, start: int, steps: Any, columns: Any, count: int, y: int, transposed: Any) -> None:
    """Turn `count` bands of a row of pixels into as many rows, a few pixels at a time."""
    used = len(columns)
    even = used - used % PIXELS
    for x in range(0, even, PIXELS):
        for band in range(count):
            for i in range(PIXELS):
                transposed[band, y, x + i] = flat[start + columns[x + i] * steps[2] + band * steps[0]]
    for x in range(even, used):
        for band in range(count):
            transposed[band, y, x] = flat[start + columns[x] * steps[2] + band * steps[0]]


@njit(nogil=True, inline="always")
def _copy_row(source: Any, line: Any, missing: Any, check: bool, marker: Any, fractional: bool) -> None:
    """Copy a row of one band, and mark which of its values are no data; loops that a compiler makes wide."""
    used = len(source)
    for x in range(used):
        line[x] = np.float32(source[x])
    if check:
        for x in range(used):
            missing[x] |= np.uint8(source[x] == marker)
    if fractional:
        for x in range(used):
            missing[x] |= np.uint8(line[x] - line[x] != 0)  # neither infinity nor NaN gives 0


@njit(nogil=True)
def _fill_missing(missing: Any, top: int, halo: int, fill: Any, target: Any, good: Any) -> None:
    """Put `fill` where data is missing, and set which of the tile's own pixels have data."""
    for y in range(missing.shape[0]):
        row_missing, row = missing[y], top + y - halo
        if row_missing.any():
            for band in range(target.shape[0]):
                line = target[band, top + y]
                for x in range(len(row_missing)):
                    if row_missing[x]:
                        line[x] = fill[band]
        if 0 <= row < good.shape[0]:
            for x in range(good.shape[1]):
                good[row, x] = row_missing[halo + x] == 0


def _gather_parallel(
    flat: Any,
    steps: Any,
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
    for unit in prange(batch.shape[0] * -(-batch.shape[2] // ROWS)):
        _gather_rows(
            unit, flat, steps, rows, cols, held, halo, fill, has_nodata, nodata, mask, fractional, batch, valid
        )  # fmt: skip


_gather = _compiled(_gather_parallel, parallel=True)


@_compiled
def _gather_serial(
    flat: Any,
    steps: Any,
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
    for unit in range(batch.shape[0] * -(-batch.shape[2] // ROWS)):
        _gather_rows(
            unit, flat, steps, rows, cols, held, halo, fill, has_nodata, nodata, mask, fractional, batch, valid
        )  # fmt: skip


def limit_threads(threads: int) -> None:
    """Let the kernels use at most `threads` threads (and no more than the machine has)."""
    wanted = max(1, min(threads, int(getattr(config, "NUMBA_NUM_THREADS", 1))))
    with interrupts_deferred():
        if get_num_threads() != wanted:
            set_num_threads(wanted)
