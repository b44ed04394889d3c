"""How a scene is cut up: parts that are read once, tiles that are run, all within a bound on memory.

The file is read in parts of whole storage blocks, from left to right and from top to bottom. What the halo of later
parts needs of this one is kept, so no block is read twice; a part's map therefore ends a halo before the last row and
column that were read.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from spectraldiff_runtime.errors import UsageError
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.scene.protocol import Scene
from spectraldiff_runtime.window import Window, cuts, reach, source_window

MEGABYTE = 10**6
DEFAULT_MEMORY = 4000 * MEGABYTE

# What a mapping process holds before it reads anything: Python, NumPy, Numba's compiler, GDAL and ONNX Runtime.
BASE = 400 * MEGABYTE
# How the rest is shared out; what is left over is for the queues of results, the journal and the allocators.
INFERENCE_SHARE, PARTS_SHARE, BATCHES_SHARE, CACHE_SHARE = 0.55, 0.22, 0.12, 0.06

# Of a GPU's memory that is free, what its runs may take together; a share stays for cuDNN and for inputs.
GPU_SHARE = 0.8

# What inference and batches may take together of a model that is too large for its share, or where the user says so.
MOST_SHARE = 0.8

# One part is gathered from, one waits, one is being read.
PARTS_HELD = 3
PART_BYTES = 128 * MEGABYTE
# Batches that may wait between two stages, and those that the two stages hold themselves.
DEPTH, BATCHES_HELD = 2, 2

# A tile of this many halos computes a quarter more pixels than it keeps.
TILE_IN_HALOS = 18
SMALLEST_TILE, COMMON_TILE, LARGEST_TILE, GPU_TILE = 8, 64, 384, 256

# Bytes of working memory for each band and padded pixel, where the model's card does not say.
WORKSPACE_PER_BAND = 400


@dataclass(frozen=True)
class Plan:
    """How a scene is cut up.

    Attributes
    ----------
    tile
        The most rows of output pixels of a tile.
    batch
        Tiles for each run of the model.
    rows, columns
        What is read at a time: multiples of the file's blocks where memory allows.
    cache
        Bytes of GDAL's block cache.
    tile_columns
        The most columns of output pixels of a tile.
    """

    tile: int
    batch: int
    rows: int
    columns: int
    cache: int
    tile_columns: int

    def as_dict(self) -> dict[str, int]:
        """Return the plan as JSON knows it."""
        return asdict(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Plan":
        """Return the plan that `as_dict` described; ValueError or TypeError if it is none."""
        plan = cls(**{key: int(value) for key, value in values.items()})
        if min(plan.tile, plan.tile_columns, plan.batch, plan.rows, plan.columns) < 1:
            raise ValueError(values)
        return plan


def make_plan(
    card: ModelCard,
    model_bytes: int,
    scene: Scene,
    window: Window,
    *,
    max_memory: int = DEFAULT_MEMORY,
    tile: int | None = None,
    batch: int | None = None,
    gpu: "GpuRoom | None" = None,
) -> Plan:
    """Fit tiles, batches and strips into `max_memory` bytes.

    Parameters
    ----------
    model_bytes
        Size of the model file: its weights are held twice.
    tile, batch
        What the user asked for; None to choose. Tiles that the user asks for, and a GPU's, are square, and no larger
        than `window`.
    gpu
        The GPU that inference runs on; None on the CPU.

    Raises
    ------
    UsageError
        Not even the smallest tile fits, or not the one asked for.
    """
    left = max_memory - BASE - 2 * model_bytes
    room = _Room(card, left, gpu)
    tiles, longest = batch or 1, max(window.height, window.width)
    asked = None if tile is None else min(tile, longest)
    chosen = asked or room.tile(_preferred_tile(card.halo) if gpu is None else GPU_TILE, tiles)
    needed = room.needed(chosen, tiles)
    if needed > left * MOST_SHARE:
        least = BASE + 2 * model_bytes + int(room.needed(asked or SMALLEST_TILE, tiles) / MOST_SHARE) + 1
        raise UsageError(
            f"--max-memory {max_memory // MEGABYTE}MB does not hold this model on tiles of {chosen} pixels: "
            f"give at least {-(-least // MEGABYTE)}MB" + (" or a smaller --tile or --batch" if tile or batch else "")
        )
    rows, columns = _part(card, scene, window, chosen, min(left * PARTS_SHARE, (left - needed) / 2))
    height, width = scene.blocks
    block = height * width * len(scene.bands) * scene.dtype.itemsize
    cache = int(max(16 * MEGABYTE, min(2 * block, left * CACHE_SHARE, (left - needed) / 4)))
    shape = (chosen, chosen)
    if tile is None and gpu is None:
        bands = _spans(window.row0, window.row1, rows, card.halo, scene.height)
        shape = _shape(chosen, card.halo, bands, _spans(window.col0, window.col1, columns, card.halo, scene.width))
    return Plan(shape[0], tiles, rows, columns, cache, shape[1])


@dataclass(frozen=True)
class GpuRoom:
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
class _Room:
    """What tiles need of the memory that is left, and of a GPU's."""

    card: ModelCard
    left: int
    gpu: GpuRoom | None = None

    def _bytes(self, tile: int, batch: int) -> tuple[float, float]:
        """Return the bytes of inference, and of the batches on their way to it."""
        workspace = self.card.workspace or WORKSPACE_PER_BAND * self.card.bands
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


def _shape(tile: int, halo: int, rows: "list[_Span]", columns: "list[_Span]") -> tuple[int, int]:
    """Return rows and columns of the tiles that parts are best cut into: with the least to compute twice.

    None is larger, with its halo, than a square tile of `tile`.
    """
    rim = 2 * halo
    high, wide = (Counter(span.stop - span.start for span in spans) for spans in (rows, columns))

    def padded(lengths: Counter[int], most: int) -> int:
        return sum(count * (n + -(-n // most) * rim) for n, count in lengths.items())

    sides = {-(-n // pieces) for n in high for pieces in range(1, -(-n // tile) + 2)}
    shapes = [(side, (tile + rim) ** 2 // (side + rim) - rim) for side in sorted(sides)]
    fitting = [(tile, tile), *(shape for shape in shapes if shape[1] >= 1)]
    return min(fitting, key=lambda shape: padded(high, shape[0]) * padded(wide, shape[1]))


def _part(card: ModelCard, scene: Scene, window: Window, tile: int, share: float) -> tuple[int, int]:
    """Return the rows and columns to read at a time."""
    block_rows, block_columns = min(scene.blocks[0], scene.height), min(scene.blocks[1], scene.width)
    pixel = len(scene.bands) * scene.dtype.itemsize
    source, rim = source_window(window, card.halo, scene.height, scene.width), 2 * card.halo
    kept = 2 * rim * source.width * pixel  # the rows for the parts below, and those of the parts above
    limit = max(share - kept, share / 2) / PARTS_HELD

    def fitting(other: int, size: float) -> int:
        """Return how many rows (or columns) beside the halo's fit, where there are `other` columns (or rows)."""
        return int(size / ((other + rim) * pixel)) - rim

    rows = -(-tile // block_rows) * block_rows
    if (most := max(fitting(block_columns, limit), 1)) < rows:
        rows = most // block_rows * block_rows or most
    columns = max(min(fitting(rows, PART_BYTES), source.width), min(tile, fitting(rows, limit)), 1)
    columns = -(-columns // block_columns) * block_columns
    if fitting(rows, limit) < columns:
        columns = max(fitting(rows, limit) // block_columns, 1) * block_columns
    if columns >= source.width:  # a narrow scene: more rows
        wanted = min(fitting(source.width, PART_BYTES), fitting(source.width, limit))
        rows = max(rows, wanted // block_rows * block_rows)
    return rows, columns


@dataclass(frozen=True)
class Strip:
    """A part of the scene that is read at once.

    Attributes
    ----------
    output
        The window of the map that it is enough for.
    source
        The pixels that this takes.
    fresh
        The first row and the first column of them that no part before has read.
    keep
        The first row that the parts below need.
    """

    output: Window
    source: Window
    fresh: tuple[int, int]
    keep: int


class _Span(NamedTuple):
    """The same along one axis."""

    start: int
    stop: int
    first: int
    last: int
    fresh: int


def strips(window: Window, plan: Plan, halo: int, height: int, width: int) -> Iterator[Strip]:
    """Yield the parts of a window of a scene (height, width), from left to right and from top to bottom.

    What is fresh ends at multiples of `plan.rows` and `plan.columns` of the file.
    """
    bands = _spans(window.row0, window.row1, plan.rows, halo, height)
    columns = _spans(window.col0, window.col1, plan.columns, halo, width)
    for row, below in zip(bands, [*bands[1:], None], strict=True):
        for col in columns:
            output = Window(row.start, row.stop, col.start, col.stop)
            source = Window(row.first, row.last, col.first, col.last)
            yield Strip(output, source, (row.fresh, col.fresh), row.last if below is None else below.first)


def _spans(start: int, stop: int, step: int, halo: int, n: int) -> list[_Span]:
    """Cut start..stop of an axis of `n` pixels where enough has been read of it."""
    first, last = reach(start, stop, halo, n)
    spans, done, read = [], start, first
    while done < stop:
        end, read_to = done, read
        while end == done:  # a step may be less than the halo
            read_to = min((read_to // step + 1) * step, last)
            end = stop if read_to == last else max(done, min(read_to - halo, stop))
        top = reach(done, stop, halo, n)[0]
        spans.append(_Span(done, end, top, read_to, max(read, top)))
        done, read = end, read_to
    return spans


def tiles_of_strip(strip: Window, rows: int, columns: int) -> list[Window]:
    """Cut a strip into tiles of at most `rows` x `columns` pixels, all about as large, row by row."""
    parts = _even(strip.col0, strip.col1, columns)
    return [Window(r0, r1, c0, c1) for r0, r1 in _even(strip.row0, strip.row1, rows) for c0, c1 in parts]


def largest_tile(window: Window, plan: Plan, halo: int, height: int, width: int) -> tuple[int, int]:
    """Return height and width that every tile of a window of a scene (height, width) fits into."""

    def longest(spans: list[_Span], most: int) -> int:
        return max(_share(s.stop - s.start, most) for s in spans)

    rows = _spans(window.row0, window.row1, plan.rows, halo, height)
    columns = _spans(window.col0, window.col1, plan.columns, halo, width)
    return longest(rows, plan.tile), longest(columns, plan.tile_columns)


def _even(start: int, stop: int, most: int) -> list[tuple[int, int]]:
    return cuts(start, stop, _share(stop - start, most))


def _share(length: int, most: int) -> int:
    """Return the length of the pieces, all about as long, that `length` is cut into; at most `most`."""
    return -(-length // -(-length // most))
