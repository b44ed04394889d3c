"""What is done to every part of a scene: read it, gather tiles from it, classify them.

`map_block` does it for one window at once, on a cluster's workers and in small; `mapping` runs the same steps as stages
that overlap.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.classes import class_dtype
from spectraldiff_runtime.mapping.pipeline import Meter
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.output.block import Block
from spectraldiff_runtime.scene.protocol import ArrayScene, Scene
from spectraldiff_runtime.tiling.gather import gather_tiles
from spectraldiff_runtime.tiling.memory_plan import Strip, tiles_of_strip
from spectraldiff_runtime.window import Window, source_window

# Says which pixels of a window are wanted: (h, w) bool.
Inside = Callable[[Window], NDArray[np.bool_]]
# Is told which pixels of a tile, (h, w) bool, have data and yet no score.
Lost = Callable[[Window, NDArray[np.bool_]], None]


@dataclass(frozen=True)
class Wanted:
    """Which values a map holds.

    Attributes
    ----------
    confidence, probabilities
        Whether they are wanted beside the classes.
    least
        Pixels of a lower confidence, 0..1, become unclassified.
    """

    confidence: bool = False
    probabilities: bool = False
    least: float = 0.0


@dataclass(frozen=True)
class Part:
    """Pixels of a scene in memory.

    Attributes
    ----------
    data
        (B, h, w), the scene's type, any strides.
    origin
        Row and column of the first pixel in the scene.
    mask
        (h, w), True where there is data; None where the scene has no mask.
    release
        To be called when `data` is needed no more.
    """

    data: NDArray[Any]
    origin: tuple[int, int]
    mask: NDArray[np.bool_] | None
    release: Callable[[], None]


@dataclass(frozen=True)
class Batch:
    """Tiles on their way to the model: `inputs` holds those of them that have any valid pixel.

    `release` is to be called when they are needed no more.
    """

    tiles: Sequence[Window]
    valid: NDArray[np.bool_]
    kept: NDArray[np.intp]
    inputs: NDArray[np.float32]
    release: Callable[[], None]


def map_block(
    model: Model,
    scene: Scene,
    window: Window,
    *,
    tile: int = 64,
    batch: int = 1,
    wanted: Wanted = Wanted(),
    lost: Lost = lambda *_: None,
) -> Block:
    """Map a window of a scene: a pure function of model, scene and window.

    Tiles without any valid pixel are not run. `lost` is as in `classify`.

    Returns
    -------
    Block
        Of the window's size.
    """
    card = model.card
    block = Block.empty(window.height, window.width, len(card.classes), wanted.confidence, wanted.probabilities)
    part, tiles = read_part(scene, window, card.halo), tiles_of_strip(window, tile, tile)
    size = None if model.gpu is None else (max(t.height for t in tiles), max(t.width for t in tiles))
    for gathered in gather(model, scene, part, tiles, batch, size=size):
        for place, piece in classify(model, gathered, wanted, lost=lost):
            if piece is not None:
                block.paste(piece, place.row0 - window.row0, place.col0 - window.col0)
        gathered.release()
    return block


def read_part(scene: Scene, window: Window, halo: int) -> Part:
    """Read what mapping `window` takes."""
    need = source_window(window, halo, scene.height, scene.width)
    where = need.row0, need.row1, need.col0, need.col1
    return Part(scene.read(*where), (need.row0, need.col0), scene.mask(*where), lambda: None)


class StripReader:
    """Reads the parts of a scene in their order, each pixel once: what later parts need of this one is kept."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._free: queue.SimpleQueue[NDArray[np.uint8]] = queue.SimpleQueue()
        self._left: _Held | None = None
        self._above, self._below = _Rows(), _Rows()

    def read(self, strip: Strip, meter: Meter) -> Part:
        """Read a part; `meter` counts the pixels and bytes that come from the file."""
        source = strip.source
        mask = self._scene.mask(source.row0, source.row1, source.col0, source.col1)
        if isinstance(self._scene, ArrayScene):
            data = self._scene.read(source.row0, source.row1, source.col0, source.col1)
            meter.count(source.height * source.width, data.nbytes)
            return Part(data, (source.row0, source.col0), mask, lambda: None)
        held = self._hold(source)
        self._fill(held, strip, meter)
        if self._left is not None:
            self._left.release()
        self._left = held
        return Part(held.data, (source.row0, source.col0), mask, held.release)

    def _fill(self, held: "_Held", strip: Strip, meter: Meter) -> None:
        """Copy what is kept, read the rest, and keep what the parts below need."""
        source, (row, col) = strip.source, strip.fresh
        if row > self._below.start >= 0 and self._below.stop == row:  # the first part of a new row of parts
            self._above, self._below = self._below, self._above
            self._below.forget()
        if self._above.holds(source.row0, row, source.col0, source.col1):
            held.data[:, : row - source.row0] = self._above.values[
                :, source.row0 - self._above.start :, source.col0 : source.col1
            ]
        else:
            self._load(held, Window(source.row0, row, source.col0, source.col1), meter)
        left = self._left
        if left is not None and (left.source.row1, left.source.col1) == (source.row1, col) and left.source.row0 <= row:
            before = left.data[:, row - left.source.row0 :, source.col0 - left.source.col0 :]
            held.data[:, row - source.row0 :, : col - source.col0] = before
        else:
            self._load(held, Window(row, source.row1, source.col0, col), meter)
        self._load(held, Window(row, source.row1, col, source.col1), meter)
        if strip.keep < source.row1:
            self._below.take(held.data[:, strip.keep - source.row0 :], strip.keep, source, self._scene.width)

    def _load(self, held: "_Held", window: Window, meter: Meter) -> None:
        """Read a window of the file to its place."""
        if not window.height or not window.width:
            return
        row, col = window.row0 - held.source.row0, window.col0 - held.source.col0
        place = held.data[:, row : row + window.height, col : col + window.width]
        self._scene.read(window.row0, window.row1, window.col0, window.col1, out=place)
        meter.count(window.height * window.width, place.nbytes)

    def _hold(self, source: Window) -> "_Held":
        """Return room for a part, (B, h, w): a buffer that is free again, or a new one.

        All bands of a row lie side by side in memory, so that rows are kept by one copy.
        """
        shape = source.height, len(self._scene.bands), source.width
        size = int(np.prod(shape)) * self._scene.dtype.itemsize
        buffer = np.empty(0, np.uint8)
        while buffer.nbytes < size:
            try:
                buffer = self._free.get_nowait()
            except queue.Empty:
                buffer = np.empty(size, np.uint8)
        data = buffer[:size].view(self._scene.dtype).reshape(shape).transpose(1, 0, 2)
        return _Held(data, source, lambda: self._free.put(buffer))


class _Rows:
    """The last rows of a row of parts, over the scene's whole width: (B, h, W)."""

    def __init__(self) -> None:
        self.start = self.stop = -1
        self.values: NDArray[Any] = np.empty((0, 0, 0))
        self._known: NDArray[np.bool_] = np.empty(0, np.bool_)

    def forget(self) -> None:
        """Hold nothing, and keep the room."""
        self.start = self.stop = -1
        self._known[:] = False

    def take(self, rows: NDArray[Any], start: int, source: Window, width: int) -> None:
        """Keep rows (B, h, w) of a part."""
        shape = rows.shape[1], rows.shape[0], width
        if self.values.shape != (shape[1], shape[0], width):
            self.values = np.empty(shape, rows.dtype).transpose(1, 0, 2)
            self._known = np.zeros(width, np.bool_)
        self.start, self.stop = start, start + rows.shape[1]
        self.values[:, :, source.col0 : source.col1] = rows
        self._known[source.col0 : source.col1] = True

    def holds(self, row0: int, row1: int, col0: int, col1: int) -> bool:
        """Whether all of these pixels, up to the last row, are here."""
        return self.start <= row0 and self.stop == row1 and bool(self._known[col0:col1].all())


class _Held:
    """A part's pixels, whose buffer is free when both reader and gatherer have let go of it."""

    def __init__(self, data: NDArray[Any], source: Window, free: Callable[[], None]) -> None:
        self.data, self.source = data, source
        self._free, self._users, self._lock = free, 2, threading.Lock()

    def release(self) -> None:
        """Let go of it."""
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self._free()


def gather(
    model: Model,
    scene: Scene,
    part: Part,
    tiles: Sequence[Window],
    batch: int,
    inside: Inside | None = None,
    size: tuple[int, int] | None = None,
) -> Iterator[Batch]:
    """Yield the tiles of a part as batches of at most `batch`, ready for the model.

    Parameters
    ----------
    inside
        Says which pixels are wanted; None for all.
    size
        Height and width that all tiles are filled up to, for a GPU: at each new shape every convolution is planned
        anew, which takes longer than to compute the fill. None where only tiles of one size are to run together.
    """
    card, room, whole = model.card, model.room, (scene.height, scene.width)
    fill = np.array(card.fill, np.float32)
    for some in _batches(tiles, batch, size is None):
        padded = _padded_size(size or (some[0].height, some[0].width), model.rectangular)
        take = None if room is None else room.take
        inputs, valid = gather_tiles(
            part.data, part.origin, whole, some, card.halo, fill, scene.nodata, padded, part.mask, take
        )
        if inside is not None:
            for mask, tile in zip(valid, some, strict=True):
                mask[: tile.height, : tile.width] &= inside(tile)
        kept = np.flatnonzero(valid.any(axis=(1, 2)))
        release = _nothing if room is None else partial(room.give, inputs)
        yield Batch(some, valid, kept, inputs if kept.size == len(some) else inputs[kept], release)


def _nothing() -> None:
    """Do nothing."""


def warm_up(scene: Scene, side: int, batch: int) -> None:
    """Have the kernel compiled, or loaded, that gathers batches of tiles of `side` pixels from a part of this scene.

    Loading it takes Numba most of a second, during which nothing else would be done.
    """
    bands = len(scene.bands)
    block = np.zeros((2, bands, 2), scene.dtype).transpose(1, 0, 2)  # strided as parts are: another kernel otherwise
    tiles = [Window(0, side, 0, side)] * batch
    gather_tiles(block, (0, 0), (2, 2), tiles, 0, np.zeros(bands, np.float32), scene.nodata)


def classify(
    model: Model, batch: Batch, wanted: Wanted, options: Any = None, lost: Lost = lambda *_: None
) -> Iterator[tuple[Window, Block | None]]:
    """Run a batch; yield each tile with its block, or with None where no pixel of it has data.

    Values far beyond any measurement, such as a nodata value that nobody told of, overflow: no class can be said near
    them. `lost` is told of these pixels, tile by tile.
    """
    kind = class_dtype(len(model.card.classes))
    order = {k: i for i, k in enumerate(batch.kept.tolist())}
    layers: list[NDArray[Any]] = []
    if order:
        predicted = model.run(
            batch.inputs,
            confidence=True,  # says which scores are no numbers
            probabilities=wanted.probabilities,
            options=options,
        )
        layers = [layer for layer in predicted if layer is not None]
    for k, tile in enumerate(batch.tiles):
        if k not in order:
            yield tile, None
            continue
        known, sure = batch.valid[k, : tile.height, : tile.width], layers[1][order[k]][: tile.height, : tile.width]
        good = known & np.isfinite(sure)
        if not np.array_equal(good, known):
            lost(tile, known & ~good)
        pieces = [np.where(good, layer[order[k]][..., : tile.height, : tile.width], 0) for layer in layers]
        yield tile, _block(pieces, wanted, kind)


def _block(layers: list[NDArray[Any]], wanted: Wanted, kind: np.dtype[Any]) -> Block:
    """Sort a tile's layers into a block; those below the least confidence lose their class."""
    classes, rest = layers[0].astype(kind, copy=False), layers[1:]
    confidence = rest.pop(0)
    if wanted.least > 0:
        classes = np.where(confidence < wanted.least, 0, classes).astype(kind)
    return Block(classes, confidence if wanted.confidence else None, rest[0] if rest else None)


def _batches(tiles: Sequence[Window], batch: int, same: bool) -> Iterator[list[Window]]:
    """Yield at most `batch` tiles at a time, in `same` only such of equal size."""
    by_size: dict[tuple[int, int], list[Window]] = {}
    for tile in tiles:
        by_size.setdefault((tile.height, tile.width) if same else (0, 0), []).append(tile)
    for some in by_size.values():
        for at in range(0, len(some), batch):
            yield some[at : at + batch]


def _padded_size(size: tuple[int, int], rectangular: bool) -> tuple[int, int]:
    """Return the size of the batch's output part: square where the graph takes nothing else."""
    return size if rectangular else (max(size), max(size))
