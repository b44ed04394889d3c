"""How a region is cut: strips that are read once, and the tiles of each strip."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import isqrt
from typing import Any, NamedTuple

from spectraldiff_runtime.window import Window, cuts, reach


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
        What is read at a time: multiples of the file's blocks, or even parts of the window.
    cache
        Bytes of GDAL's block cache.
    tile_columns
        The most columns of output pixels of a tile.
    first_row, first_column
        A row and a column of the file where a part's reading ends; others end at multiples of `rows` and `columns`
        from there.
    """

    tile: int
    batch: int
    rows: int
    columns: int
    cache: int
    tile_columns: int
    first_row: int = 0
    first_column: int = 0

    def square(self, halo: int) -> int:
        """Return the side of square tiles that take, with their halo, no more memory than those planned."""
        return isqrt((self.tile + 2 * halo) * (self.tile_columns + 2 * halo)) - 2 * halo

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


class Span(NamedTuple):
    """The same along one axis."""

    start: int
    stop: int
    first: int
    last: int
    fresh: int


def strips(window: Window, plan: Plan, halo: int, height: int, width: int) -> Iterator[Strip]:
    """Yield the parts of a window of a scene (height, width), from left to right and from top to bottom.

    What is fresh ends at multiples of `plan.rows` and `plan.columns` from `plan.first_row` and `plan.first_column` on.
    """
    bands, columns = _spans_of(window, plan, halo, height, width)
    for row, below in zip(bands, [*bands[1:], None], strict=True):
        for col in columns:
            output = Window(row.start, row.stop, col.start, col.stop)
            source = Window(row.first, row.last, col.first, col.last)
            yield Strip(output, source, (row.fresh, col.fresh), row.last if below is None else below.first)


def _spans_of(window: Window, plan: Plan, halo: int, height: int, width: int) -> tuple[list[Span], list[Span]]:
    return (
        axis_spans(window.row0, window.row1, plan.rows, halo, height, plan.first_row),
        axis_spans(window.col0, window.col1, plan.columns, halo, width, plan.first_column),
    )


def axis_spans(start: int, stop: int, step: int, halo: int, n: int, origin: int = 0) -> list[Span]:
    """Cut start..stop of an axis of `n` pixels where enough has been read of it: each `step` pixels, from `origin` on.

    With `start + halo` as origin, every `step` pixels of start..stop are a part.
    """
    first, last = reach(start, stop, halo, n)
    spans, done, read = [], start, first
    while done < stop:
        end, read_to = done, read
        while end == done:  # a step may be less than the halo
            read_to = min(origin + ((read_to - origin) // step + 1) * step, last)
            end = stop if read_to == last else max(done, min(read_to - halo, stop))
        top = reach(done, stop, halo, n)[0]
        spans.append(Span(done, end, top, read_to, max(read, top)))
        done, read = end, read_to
    return spans


def tiles_of_strip(strip: Window, rows: int, columns: int) -> list[Window]:
    """Cut a strip into tiles of at most `rows` x `columns` pixels, all about as large, row by row."""
    parts = _even_pieces(strip.col0, strip.col1, columns)
    return [Window(r0, r1, c0, c1) for r0, r1 in _even_pieces(strip.row0, strip.row1, rows) for c0, c1 in parts]


def largest_tile(window: Window, plan: Plan, halo: int, height: int, width: int) -> tuple[int, int]:
    """Return height and width that every tile of a window of a scene (height, width) fits into."""

    def longest(spans: list[Span], most: int) -> int:
        return max(_piece_length(s.stop - s.start, most) for s in spans)

    rows, columns = _spans_of(window, plan, halo, height, width)
    return longest(rows, plan.tile), longest(columns, plan.tile_columns)


def _even_pieces(start: int, stop: int, most: int) -> list[tuple[int, int]]:
    return cuts(start, stop, _piece_length(stop - start, most))


def _piece_length(length: int, most: int) -> int:
    """Return the length of the pieces, all about as long, that `length` is cut into; at most `most`."""
    return -(-length // -(-length // most))
