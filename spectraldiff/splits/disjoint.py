"""Spatially disjoint training and test pixels: blocks of the scene, with a buffer between the two sides.

Block: a square of about a 64th of the scene's area. The pixels of one class in one block stay together. Which of them
train is decided by a seeded search that rewards each class for being on both sides, for a training share near the one
that is wanted, and for the test pixels that the buffer spares. A class that ends up on one side only is cut into blocks
of half the side, and the search is made again, down to 2 pixels.

Training pixels are those that the search chose. Test pixels are all others that are farther than the buffer from every
training pixel; what is nearer is on neither side.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

SMALLEST_SIDE = 2
RESTARTS = 6
PASSES = 8
ENOUGH = 5  # pixels of a class on a side: fewer say little


@dataclass(frozen=True)
class _Cell:
    """The pixels of one class in one block: flat indexes, and the box around all that is within the buffer of them."""

    value: int
    pixels: NDArray[np.int64]
    box: tuple[slice, slice]


def draw_disjoint(
    labels: NDArray[Any], share: float, buffer: int, generator: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Choose spatially disjoint training and test pixels.

    Parameters
    ----------
    labels
        (H, W), 0 = unlabelled, 1..K.
    share
        Share of each class that should train, 0..1.
    buffer
        Pixels (Chebyshev distance): no test pixel lies this near to a training pixel, or nearer.
    generator
        Makes every draw.

    Returns
    -------
    train, test : ndarray of shape (H, W), bool
    """
    train = _searched(labels, share, buffer, generator)
    near = within(train, buffer)
    return train, (labels != 0) & ~near


def within(mask: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    """Return the pixels at most `distance` (Chebyshev) from a pixel of the mask, (H, W)."""
    near = mask.astype(np.uint8)
    for axis in (0, 1):
        near = maximum_filter1d(near, 2 * distance + 1, axis=axis, mode="constant")
    return near.astype(np.bool_)


def block_side(shape: tuple[int, ...]) -> int:
    """Return the side of the blocks that a scene is cut into first."""
    return max(SMALLEST_SIDE, round(math.sqrt(shape[0] * shape[1]) / 8))


def _searched(labels: NDArray[Any], share: float, buffer: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Return the training pixels, with smaller blocks for classes that larger ones leave on one side."""
    counts = np.bincount(labels.ravel())
    sides = {int(value): block_side(labels.shape) for value in np.flatnonzero(counts) if value}
    while True:
        cells = [cell for value, side in sides.items() for cell in _cells(labels, value, side, buffer)]
        search = max(
            (_Search(labels, cells, share, generator) for _ in range(RESTARTS)), key=lambda found: found.worth()
        )
        lonely = [v for v in sides if not (search.train[v] and search.test[v]) and sides[v] > SMALLEST_SIDE]
        if not lonely:
            return search.mask()
        for value in lonely:
            sides[value] = max(SMALLEST_SIDE, sides[value] // 2)


def _cells(labels: NDArray[Any], value: int, side: int, buffer: int) -> list[_Cell]:
    """Cut the pixels of one class into those of each block."""
    flat = np.flatnonzero(labels == value)
    rows, columns = np.divmod(flat, labels.shape[1])
    blocks = (rows // side) * (labels.shape[1] // side + 1) + columns // side
    order = np.argsort(blocks, kind="stable")
    starts = np.flatnonzero(np.diff(blocks[order], prepend=-1))
    return [_Cell(value, part, _box(part, labels.shape[1], buffer)) for part in np.split(flat[order], starts[1:])]


def _box(pixels: NDArray[np.int64], width: int, buffer: int) -> tuple[slice, slice]:
    rows, columns = np.divmod(pixels, width)
    return tuple(slice(max(0, int(at.min()) - buffer), int(at.max()) + buffer + 1) for at in (rows, columns))  # type: ignore[return-value]


class _Search:
    """A hill climb from no training pixels: cells join or leave the training side while that is worth it.

    Attributes
    ----------
    train, test
        (K + 1,) pixels of each class on either side.
    """

    def __init__(
        self, labels: NDArray[Any], cells: Sequence[_Cell], share: float, generator: np.random.Generator
    ) -> None:
        self.labels, self.cells, self.share = labels, cells, share
        self.cover = np.zeros(labels.shape, np.int32)  # how many chosen cells reach a pixel with their buffer
        self.test = np.bincount(labels.ravel()).astype(np.float64)
        self.test[0] = 0
        self.all = self.test.copy()
        self.train = np.zeros_like(self.test)
        self.chosen = np.zeros(len(cells), np.bool_)
        self._climb(generator)

    def _climb(self, generator: np.random.Generator) -> None:
        values = np.array([cell.value for cell in self.cells])
        classes = np.unique(values)
        rarity = self.all[classes] * generator.lognormal(sigma=0.5, size=len(classes))
        for value in classes[np.argsort(rarity)]:
            self._begin(generator.permutation(np.flatnonzero(values == value)))
        for _ in range(PASSES):
            if not sum([self._toggled(int(i)) for i in generator.permutation(len(self.cells))]):
                return

    def _begin(self, cells: NDArray[np.int64]) -> None:
        """Give a class its training cells one by one, each time the best of those that were drawn first."""
        drawn: list[int] = cells[: max(2, -(-len(cells) // 2))].tolist()
        while drawn:
            best = max(drawn, key=lambda index: self._worth(*self._after(index)))
            if not self._toggled(best):
                return
            drawn.remove(best)

    def _toggled(self, index: int) -> bool:
        """Move a cell to the other side if that is worth it."""
        train, test = self._after(index)
        if self._worth(train, test) <= self.worth() + 1e-9:
            return False
        self.train, self.test = train, test
        self.cover[self.cells[index].box] += -1 if self.chosen[index] else 1
        self.chosen[index] ^= True
        return True

    def _after(self, index: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the pixels of each class on either side with a cell moved to the other one."""
        cell = self.cells[index]
        sign, only = (-1, 1) if self.chosen[index] else (1, 0)
        changed = np.bincount(self.labels[cell.box][self.cover[cell.box] == only], minlength=len(self.test))
        changed[0] = 0
        train = self.train.copy()
        train[cell.value] += sign * len(cell.pixels)
        return train, self.test - sign * changed

    def worth(self) -> float:
        """Return how good the two sides are."""
        return self._worth(self.train, self.test)

    def _worth(self, train: NDArray[np.float64], test: NDArray[np.float64]) -> float:
        """Add up the classes: roots, so that the first pixels count most; above all, every class must train."""
        wanted = np.maximum(self.all, 1)
        shares = np.minimum(train / (self.share * wanted), 1), np.minimum(test / ((1 - self.share) * wanted), 1)
        some, others = np.minimum(train / ENOUGH, 1), np.minimum(test / ENOUGH, 1)
        return float(np.sqrt(shares).sum() + (3 * some * (1 + others)).sum() + 100 * (train > 0).sum())

    def mask(self) -> NDArray[np.bool_]:
        """Return the training pixels, (H, W)."""
        train = np.zeros(self.labels.size, np.bool_)
        for index in np.flatnonzero(self.chosen).tolist():
            train[self.cells[index].pixels] = True
        return train.reshape(self.labels.shape)
