"""Patches of a class map as polygons: vectorised tile by tile, and dissolved where tiles meet.

A patch is all pixels of one class that touch along their sides. GDAL makes polygons of a tile; those that reach a seam
wait until the row of tiles beyond it is done. So memory holds a tile's polygons, and the patches that reach the row of
tiles in work: a patch that spans the whole scene is held whole, as numbers of its outline.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio import features

from spectraldiff_runtime.window import Window

SIDE = 256  # of a tile

# Returns the classes of a window, whole numbers (h, w) with 0 for none, and their confidence, (h, w) in 0..1.
Reader = Callable[[Window], tuple[NDArray[Any], NDArray[Any]]]


@dataclass(frozen=True)
class Patches:
    """Some patches: class, pixels, mean confidence in 0..1, and polygon, each (n,).

    The polygons count pixels: x is the column, y the row, (0, 0) the upper left corner of the map.
    """

    classes: NDArray[np.int64]
    pixels: NDArray[np.int64]
    confidence: NDArray[np.float64]
    polygons: NDArray[Any]


def patches_of(
    read: Reader, height: int, width: int, tile_done: Callable[[int], None] | None = None, side: int = SIDE
) -> Iterator[Patches]:
    """Yield all patches of a map of this size, in an order that depends on the map alone.

    Parameters
    ----------
    tile_done
        Called with the pixels of each tile.
    """
    waiting = _Waiting(width)
    for row0 in range(0, height, side):
        for col0 in range(0, width, side):
            window = Window(row0, min(row0 + side, height), col0, min(col0 + side, width))
            tile = _Tile.of(*read(window))
            reaching = tile.reaching(row0 > 0, window.row1 < height, col0 > 0, window.col1 < width)
            yield tile.patches(np.setdiff1d(np.arange(1, len(tile.pixels)), reaching), window)
            waiting.take(tile, reaching, window)
            if tile_done is not None:
                tile_done(window.height * window.width)
        yield waiting.closed()
    yield waiting.closed()


@dataclass(frozen=True)
class _Tile:
    """A tile's patches: label 1..n of each pixel, and by label the class, pixels, sum of confidence and outline."""

    labels: NDArray[np.int32]
    classes: NDArray[np.int64]
    pixels: NDArray[np.int64]
    sure: NDArray[np.float64]
    outlines: Sequence[Any]

    @classmethod
    def of(cls, classes: NDArray[Any], confidence: NDArray[Any]) -> "_Tile":
        found = list(features.shapes(classes, mask=classes > 0, connectivity=4))
        labels = np.zeros(classes.shape, np.int32)
        if found:  # inside an outline on the sides of pixels lie exactly its pixels
            numbered = [(shape, label) for label, (shape, _) in enumerate(found, start=1)]
            labels = features.rasterize(numbered, out=labels)
        size = len(found) + 1
        values = np.array([0, *(value for _, value in found)], np.int64)
        pixels = np.bincount(labels.ravel(), minlength=size)
        sure = np.bincount(labels.ravel(), confidence.ravel(), size).astype(np.float64)
        return cls(labels, values, pixels, sure, [shape["coordinates"] for shape, _ in found])

    def reaching(self, above: bool, below: bool, left: bool, right: bool) -> NDArray[Any]:
        """Return the labels at those sides beyond which the map goes on."""
        labels = self.labels
        sides = [labels[0] if above else [], labels[-1] if below else []]
        sides += [labels[:, 0] if left else [], labels[:, -1] if right else []]
        found = np.unique(np.concatenate(sides)).astype(np.int64)
        return found[found > 0]

    def polygons(self, labels: NDArray[Any], window: Window) -> NDArray[Any]:
        """Return the polygons of some labels."""
        outlines = [self.outlines[label - 1] for label in labels]
        if not outlines:
            return np.empty(0, object)
        rings = list(chain.from_iterable(outlines))
        corners = np.array(list(chain.from_iterable(rings)), np.float64)
        corners += np.array([window.col0, window.row0])
        made = shapely.linearrings(corners, indices=np.repeat(np.arange(len(rings)), [len(ring) for ring in rings]))
        of = np.repeat(np.arange(len(outlines)), [len(outline) for outline in outlines])
        return np.asarray(shapely.polygons(made, indices=of))

    def patches(self, labels: NDArray[Any], window: Window) -> Patches:
        """Return the patches of some labels."""
        pixels = self.pixels[labels]
        return Patches(self.classes[labels], pixels, self.sure[labels] / pixels, self.polygons(labels, window))


@dataclass
class _Part:
    """A patch as far as it is known: the polygons of its tiles."""

    value: int
    pixels: int
    sure: float
    polygons: list[Any] = field(default_factory=list)


class _Waiting:
    """The patches that reach a seam. Each has a number; those that turn out to be one have the lowest of theirs."""

    def __init__(self, width: int) -> None:
        self._above, self._below = np.zeros(width, np.int64), np.zeros(width, np.int64)
        self._left: NDArray[np.int64] | None = None
        self._parts: dict[int, _Part] = {}
        self._lower: dict[int, int] = {}
        self._next = 1

    def take(self, tile: _Tile, reaching: NDArray[Any], window: Window) -> None:
        """Take the patches of a tile that reach a seam, and join them with those above it and on its left."""
        numbers = np.zeros(len(tile.pixels), np.int64)
        numbers[reaching] = np.arange(self._next, self._next + len(reaching))
        self._next += len(reaching)
        for label, polygon in zip(reaching, tile.polygons(reaching, window), strict=True):
            number = int(numbers[label])
            part = _Part(int(tile.classes[label]), int(tile.pixels[label]), float(tile.sure[label]), [polygon])
            self._parts[number] = part
        self._join(self._above[window.col0 : window.col1], numbers[tile.labels[0]])
        if self._left is not None and window.col0:
            self._join(self._left, numbers[tile.labels[:, 0]])
        self._below[window.col0 : window.col1] = numbers[tile.labels[-1]]
        self._left = numbers[tile.labels[:, -1]]

    def _join(self, ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> None:
        """Join the patches on both sides of a seam where they have one class."""
        both = (ours > 0) & (theirs > 0)
        for pair in np.unique(np.stack([ours[both], theirs[both]], axis=1), axis=0):
            low, high = sorted(self._lowest(int(number)) for number in pair)
            one, other = self._parts[low], self._parts[high]
            if low != high and one.value == other.value:
                one.pixels, one.sure = one.pixels + other.pixels, one.sure + other.sure
                one.polygons += other.polygons
                self._lower[high] = low
                del self._parts[high]

    def _lowest(self, number: int) -> int:
        while number in self._lower:
            number = self._lower[number]
        return number

    def closed(self) -> Patches:
        """Return the patches that do not reach the next row of tiles."""
        self._above, self._below = self._below, np.zeros_like(self._below)
        numbers, at = np.unique(self._above, return_inverse=True)
        lowest = np.array([self._lowest(int(number)) for number in numbers], np.int64)
        self._above, self._lower, self._left = lowest[at], {}, None
        waiting = set(lowest.tolist())
        done = [self._parts.pop(number) for number in sorted(self._parts.keys() - waiting)]
        pixels = np.array([part.pixels for part in done], np.int64)
        return Patches(
            np.array([part.value for part in done], np.int64),
            pixels,
            np.array([part.sure for part in done]) / pixels,
            np.array([_dissolved(part.polygons) for part in done], object),
        )


def _dissolved(polygons: list[Any]) -> Any:
    """Return one polygon, without the corners that lie on seams alone."""
    merged = polygons[0] if len(polygons) == 1 else shapely.union_all(polygons)
    return shapely.simplify(shapely.normalize(merged), 0, preserve_topology=False)
