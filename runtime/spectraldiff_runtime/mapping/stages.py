"""The steps of mapping a part of a scene: read it, gather tiles, classify them.

`map_block` does it for one window at once, on a cluster's workers and in small; `mapping` runs the same steps as stages
that overlap.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.classes import class_dtype
from spectraldiff_runtime.mapping.strip_reader import ScenePart
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.output.block import NO_OUTSIDE, Block, RequestedLayers
from spectraldiff_runtime.scene.protocol import Scene
from spectraldiff_runtime.tiling.gather import gather_tiles
from spectraldiff_runtime.tiling.plan import tiles_of_strip
from spectraldiff_runtime.window import Window, source_window

_MISSING = {"outside": NO_OUTSIDE}  # what stands for no result, where it is not 0
# Says which pixels of a window are requested: (h, w) bool.
Inside = Callable[[Window], NDArray[np.bool_]]
# Called with the pixels of a tile, (h, w) bool, that have data but no finite score.
OverflowCallback = Callable[[Window, NDArray[np.bool_]], None]


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
    requested: RequestedLayers = RequestedLayers(),
    on_overflow: OverflowCallback = lambda *_: None,
) -> Block:
    """Map a window of a scene: a pure function of model, scene and window.

    Tiles without any valid pixel are not run. `on_overflow` is as in `classify`.

    Returns
    -------
    Block
        Of the window's size.
    """
    card = model.card
    block = Block.empty(window.height, window.width, len(card.classes), requested)
    part, tiles = read_padded(scene, window, card.halo), tiles_of_strip(window, tile, tile)
    size = None if model.gpu is None else (max(t.height for t in tiles), max(t.width for t in tiles))
    for gathered in gather(model, scene, part, tiles, batch, size=size):
        for place, piece in classify(model, gathered, requested, on_overflow=on_overflow):
            if piece is not None:
                block.paste(piece, place.row0 - window.row0, place.col0 - window.col0)
        gathered.release()
    return block


def read_padded(scene: Scene, window: Window, halo: int) -> ScenePart:
    """Read what mapping `window` takes."""
    need = source_window(window, halo, scene.height, scene.width)
    where = need.row0, need.row1, need.col0, need.col1
    return ScenePart(scene.read(*where), (need.row0, need.col0), scene.mask(*where), lambda: None)


def gather(
    model: Model,
    scene: Scene,
    part: ScenePart,
    tiles: Sequence[Window],
    batch: int,
    inside: Inside | None = None,
    size: tuple[int, int] | None = None,
) -> Iterator[Batch]:
    """Yield the tiles of a part as batches of at most `batch`, ready for the model.

    Parameters
    ----------
    inside
        Says which pixels are requested; None for all.
    size
        Height and width that all tiles are filled up to. At each new shape the memory that ONNX Runtime keeps between
        runs grows, and a GPU plans every convolution anew. None where only tiles of one size are to run together.
    """
    card, buffers, whole = model.card, model.buffers, (scene.height, scene.width)
    fill = np.array(card.fill, np.float32)
    for some in _batches(tiles, batch, size is None):
        padded = _padded_size(size or (some[0].height, some[0].width), model.rectangular)
        take = None if buffers is None else buffers.acquire
        inputs, valid = gather_tiles(
            part.data, part.origin, whole, some, card.halo, fill, scene.nodata, padded, part.mask, take
        )
        if inside is not None:
            for mask, tile in zip(valid, some, strict=True):
                mask[: tile.height, : tile.width] &= inside(tile)
        kept = np.flatnonzero(valid.any(axis=(1, 2)))
        release = _nothing if buffers is None else partial(buffers.release, inputs)
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
    model: Model,
    batch: Batch,
    requested: RequestedLayers,
    options: Any = None,
    on_overflow: OverflowCallback = lambda *_: None,
) -> Iterator[tuple[Window, Block | None]]:
    """Run a batch; yield each tile with its block, or with None where no pixel of it has data.

    Values far beyond any measurement, such as an undeclared nodata value, overflow: pixels near them get no class.
    `on_overflow` is called with these pixels, tile by tile.
    """
    kind = class_dtype(len(model.card.classes))
    order = {k: i for i, k in enumerate(batch.kept.tolist())}
    layers: dict[str, NDArray[Any]] = {}
    if order:
        predicted = model.run(
            batch.inputs,
            confidence=True,  # says which scores are no numbers
            probabilities=requested.probabilities,
            outside=requested.asks_outside,
            options=options,
        )
        layers = {name: layer for name, layer in predicted._asdict().items() if layer is not None}
    for k, tile in enumerate(batch.tiles):
        if k not in order:
            yield tile, None
            continue
        own = {name: layer[order[k]][..., : tile.height, : tile.width] for name, layer in layers.items()}
        known = batch.valid[k, : tile.height, : tile.width]
        good = known & np.isfinite(own["confidence"])
        if not np.array_equal(good, known):
            on_overflow(tile, known & ~good)
        pieces = {name: np.where(good, layer, _MISSING.get(name, 0)) for name, layer in own.items()}
        yield tile, _block(pieces, requested, kind)


def _block(layers: dict[str, NDArray[Any]], requested: RequestedLayers, kind: np.dtype[Any]) -> Block:
    """Sort a tile's layers into a block; pixels that are too unsure or too far from the training lose their class."""
    classes, confidence = layers["classes"].astype(kind, copy=False), layers["confidence"]
    outside = layers.get("outside")
    if requested.min_confidence > 0:
        classes = np.where(confidence < requested.min_confidence, 0, classes).astype(kind)
    if outside is not None:
        classes = np.where(requested.unlike(outside), 0, classes).astype(kind)
    return Block(classes, confidence if requested.confidence else None, layers.get("probabilities"), outside)


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
