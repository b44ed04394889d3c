"""How a scene is cut up: parts that are read once, tiles that are run, all within a bound on memory.

The file is read in parts, from left to right and from top to bottom. What the halo of later parts needs of this one is
kept, so no pixel is read twice; a part's map therefore ends a halo before the last row and column that were read. Parts
are whole storage blocks, or even parts of the window where this saves more of the model's work than it costs to decode
blocks again that parts share.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from spectraldiff_runtime.errors import UsageError
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.scene.protocol import Scene
from spectraldiff_runtime.tiling.plan import Plan, axis_spans
from spectraldiff_runtime.window import Window, source_window

MEGABYTE = 10**6
DEFAULT_MEMORY = 4000 * MEGABYTE

# What a mapping process holds before it reads anything: Python, NumPy, Numba's compiler, GDAL and ONNX Runtime.
BASE = 400 * MEGABYTE
# What the process that makes the rasters holds while it waits and this one holds all that it was planned for; and what
# this one holds, without the model's weights, while that one works.
WAITING, FINISHING = 40 * MEGABYTE, 330 * MEGABYTE
# How the rest is shared out; what is left over is for the queues of results, the journal and the allocators.
INFERENCE_SHARE, STRIPS_SHARE, BATCHES_SHARE, CACHE_SHARE = 0.55, 0.22, 0.12, 0.06

# Of a GPU's memory that is free, what its runs may take together; a share stays for cuDNN and for inputs.
GPU_SHARE = 0.8

# What inference and batches may take together of a model that is too large for its share, or where the user says so.
MOST_SHARE = 0.8

# One part is gathered from, one waits, one is being read.
STRIPS_HELD = 3
STRIP_BYTES = 128 * MEGABYTE
# What a part has at most: of few bands, more pixels would take memory as the scene grows, and save no time.
STRIP_PIXELS = 2**20
# Batches that may wait between two stages, and those that the two stages hold themselves.
DEPTH, BATCHES_HELD = 2, 2

# A tile of this many halos computes a quarter more pixels than it keeps.
TILE_IN_HALOS = 18
# A part of this many halos in height computes half as many rows again as it keeps; what has less is read in pieces.
LEAST_ROWS_IN_HALOS = 4
# Parts that an axis may be cut into beyond those that memory asks for, where tiles fit them better.
MORE_PARTS = 3
# Decoding a pixel counts as computing one whose working memory is so many times the pixel's own bytes. 1 to 2.4 were
# measured (deflate, 200 bands, one thread); it is more because many threads may compute beside the one that reads.
DECODING = 4
SMALLEST_TILE, COMMON_TILE, LARGEST_TILE, GPU_TILE = 8, 64, 384, 256


def make_plan(
    card: ModelCard,
    held: int,
    scene: Scene,
    window: Window,
    *,
    max_memory: int = DEFAULT_MEMORY,
    tile: int | None = None,
    batch: int | None = None,
    gpu: "GpuBudget | None" = None,
    rasters: int = 0,
) -> Plan:
    """Fit tiles, batches and strips into `max_memory` bytes.

    Parameters
    ----------
    held
        Bytes that are held throughout: the model's weights, twice, and of a scene in sensor geometry its map and its
        lookup table.
    tile, batch
        What the user asked for; None to choose. Tiles that the user asks for, and a GPU's, are square, and no larger
        than `window`.
    gpu
        The GPU that inference runs on; None on the CPU.
    rasters
        Bytes that the process takes at the end which makes the rasters; 0 where there is none.

    Raises
    ------
    UsageError
        Not even the smallest tile fits, or not the one asked for; or the rasters cannot be made.
    """
    waiting = min(rasters, WAITING)
    left = max_memory - BASE - waiting - held
    room = _MemoryBudget(card, left, gpu)
    tiles, longest = batch or 1, max(window.height, window.width)
    asked = None if tile is None else min(tile, longest)
    chosen = asked or room.tile(_preferred_tile(card.halo) if gpu is None else GPU_TILE, tiles)
    needed = room.needed(chosen, tiles)
    ending = FINISHING + held + rasters if rasters else 0
    if needed > left * MOST_SHARE or ending > max_memory:
        least = BASE + waiting + held + int(room.needed(asked or SMALLEST_TILE, tiles) / MOST_SHARE) + 1
        what = (
            f"this model on tiles of {chosen} pixels" if ending <= max_memory else "what makes the rasters at the end"
        )
        smaller = " or a smaller --tile or --batch" if tile or batch else ""
        raise UsageError(
            f"--max-memory {max_memory // MEGABYTE}MB does not hold {what}: give at least "
            f"{-(-max(least, ending) // MEGABYTE)}MB"
            + (smaller if ending <= max_memory else " or a smaller --blocksize")
        )
    rows, columns = _strip_size(card, scene, window, chosen, min(left * STRIPS_SHARE, (left - needed) / 2))
    height, width = scene.blocks
    block = height * width * len(scene.bands) * scene.dtype.itemsize
    cache = int(max(16 * MEGABYTE, min(2 * block, left * CACHE_SHARE, (left - needed) / 4)))
    if tile is not None or gpu is not None:
        return Plan(chosen, tiles, rows, columns, cache, chosen)
    high, wide = _best_cuts(
        _cuts(window.row0, window.row1, rows, height, chosen, card.halo, scene.height),
        _cuts(window.col0, window.col1, columns, width, chosen, card.halo, scene.width),
        (chosen + 2 * card.halo) ** 2,
        DECODING * len(scene.bands) * scene.dtype.itemsize / card.workspace_per_pixel,
    )
    return Plan(high.tile, tiles, high.part, wide.part, cache, wide.tile, high.first, wide.first)


@dataclass(frozen=True)
class GpuBudget:
    """The GPU that runs tiles.

    Attributes
    ----------
    free
        Bytes of its memory that nobody holds; None where that is not known.
    runs
        How many runs may be under way at once in this process, and `sharing` how many processes do the same.
    """

    free: int | None
    runs: int
    sharing: int = 1

    def holds(self, workspace: float) -> bool:
        """Whether runs of `workspace` bytes each fit."""
        return self.free is None or workspace * self.runs * self.sharing <= self.free * GPU_SHARE


@dataclass(frozen=True)
class _MemoryBudget:
    """What tiles need of the memory that is left, and of a GPU's."""

    card: ModelCard
    left: int
    gpu: GpuBudget | None = None

    def _bytes(self, tile: int, batch: int) -> tuple[float, float]:
        """Return the bytes of inference, and of the batches on their way to it."""
        workspace = self.card.workspace_per_pixel
        pixels = batch * (tile + 2 * self.card.halo) ** 2
        held = DEPTH + BATCHES_HELD + (0 if self.gpu is None else self.gpu.runs - 1)
        return workspace * pixels, 4 * self.card.bands * pixels * held

    def holds(self, tile: int, batch: int) -> bool:
        inference, batches = self._bytes(tile, batch)
        if self.gpu is not None:
            return self.gpu.holds(inference) and batches <= self.left * (INFERENCE_SHARE + BATCHES_SHARE)
        return inference <= self.left * INFERENCE_SHARE and batches <= self.left * BATCHES_SHARE

    def needed(self, tile: int, batch: int) -> float:
        """Return the bytes of the host's memory that both take."""
        inference, batches = self._bytes(tile, batch)
        return batches if self.gpu is not None else inference + batches

    def tile(self, preferred: int, batch: int) -> int:
        """Return the largest tile up to `preferred` of which a batch fits."""
        tile = preferred
        while tile > SMALLEST_TILE and not self.holds(tile, batch):
            tile -= 8
        return tile


def _preferred_tile(halo: int) -> int:
    wanted = -(-TILE_IN_HALOS * halo // 16) * 16
    return min(max(wanted, COMMON_TILE), LARGEST_TILE)


class _Cut(NamedTuple):
    """A way to cut an axis: into parts that are read up to `first` and multiples of `part` from there, and into tiles.

    Attributes
    ----------
    tile
        The most pixels of a tile; `largest` are those of the largest with its halo, which all are filled up to.
    computed, decoded
        Pixels of all tiles, and of the blocks that all parts need.
    parts
        How many there are.
    """

    part: int
    first: int
    tile: int
    largest: int
    computed: int
    decoded: int
    parts: int


def _best_cuts(rows: list[_Cut], columns: list[_Cut], most: int, decoding: float) -> tuple[_Cut, _Cut]:
    """Return the cuts of both axes with the least to compute and to decode, and of these the fewest parts.

    At each new shape the memory that ONNX Runtime keeps between runs would grow, so all tiles are filled up to the
    largest. None is larger, with its halo, than `most` pixels. To decode a pixel takes `decoding` of computing it.
    """

    def cost(cuts: tuple[_Cut, _Cut]) -> tuple[float, int]:
        high, wide = cuts
        computed = high.computed * wide.computed + decoding * high.decoded * wide.decoded
        return computed, high.parts * wide.parts

    return min((cuts for cuts in product(rows, columns) if cuts[0].largest * cuts[1].largest <= most), key=cost)


def _cuts(start: int, stop: int, most: int, block: int, tile: int, halo: int, n: int) -> list[_Cut]:
    """Return the ways to cut start..stop of an axis of `n` pixels into parts of up to `most`, and these into tiles."""
    length, block, parts = stop - start, min(block, n), {(most, 0): None}
    fewest = -(-length // most)
    for count in range(fewest, fewest + MORE_PARTS + 1):
        even = -(-length // count)
        parts[even, start + halo] = None
        parts[min(-(-even // block) * block, most), 0] = None
    return [cut for part, first in parts for cut in _tile_cuts(start, stop, part, first, block, tile, halo, n)]


def _tile_cuts(start: int, stop: int, part: int, first: int, block: int, tile: int, halo: int, n: int) -> list[_Cut]:
    """Return the ways to cut such parts into tiles."""
    spans, found = axis_spans(start, stop, part, halo, n, first), []
    decoded = sum(-(-span.last // block) - span.fresh // block for span in spans if span.last > span.fresh) * block
    lengths = Counter(span.stop - span.start for span in spans)
    for side in sorted({tile} | {-(-size // pieces) for size in lengths for pieces in range(1, -(-size // tile) + 2)}):
        pieces = {size: -(-size // side) for size in lengths}
        largest = max(-(-size // pieces[size]) for size in lengths) + 2 * halo
        computed = largest * sum(count * pieces[size] for size, count in lengths.items())
        found.append(_Cut(part, first, side, largest, computed, decoded, len(spans)))
    return found


def _strip_size(card: ModelCard, scene: Scene, window: Window, tile: int, share: float) -> tuple[int, int]:
    """Return the rows and columns to read at a time."""
    block_rows, block_columns = min(scene.blocks[0], scene.height), min(scene.blocks[1], scene.width)
    pixel = len(scene.bands) * scene.dtype.itemsize
    source, rim = source_window(window, card.halo, scene.height, scene.width), 2 * card.halo
    kept = 2 * rim * source.width * pixel  # the rows for the parts below, and those of the parts above
    limit, usual = max(share - kept, share / 2) / STRIPS_HELD, min(STRIP_BYTES, STRIP_PIXELS * pixel)

    def fitting(other: int, size: float) -> int:
        """Return how many rows (or columns) next to the halo's fit, where there are `other` columns (or rows)."""
        return int(size / ((other + rim) * pixel)) - rim

    rows = -(-tile // block_rows) * block_rows
    # A scene that is stored line by line and is too wide for enough lines: parts of lines, which are read more often.
    wide, pieces = block_columns, 1
    while wide > tile and fitting(wide, limit) < min(rows, LEAST_ROWS_IN_HALOS * card.halo):
        pieces += 1
        wide = max(-(-block_columns // pieces), tile)
    block_columns = wide
    if (most := max(fitting(block_columns, limit), 1)) < rows:
        rows = most // block_rows * block_rows or most
    columns = max(min(fitting(rows, usual), source.width), min(tile, fitting(rows, limit)), 1)
    columns = -(-columns // block_columns) * block_columns
    if fitting(rows, limit) < columns:
        columns = max(fitting(rows, limit) // block_columns, 1) * block_columns
    if columns >= source.width:  # a narrow scene: more rows
        wanted = min(fitting(source.width, usual), fitting(source.width, limit))
        rows = max(rows, wanted // block_rows * block_rows)
    return rows, columns
