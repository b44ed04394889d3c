"""What needs every pixel of a scene: validity, range and mean of each band, and values that stand out; one pass."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff.data.canvas import BLOCK
from spectraldiff.data.cube import PART, SceneCube
from spectraldiff_runtime.window import Window

if TYPE_CHECKING:
    from spectraldiff.data.scene import LabelledScene

SAMPLE = 20_000  # pixels that quantiles are taken from
LONGEST = 1000  # pixels of the longer side of a large scene's picture
# Wavelengths, in nm, that stand for red, green and blue.
RGB_NM = (640.0, 550.0, 460.0)
# Multiples of these, without their whole parts, fill a square evenly however many there are (Roberts' R2 sequence).
EVENLY = 0.7548776662466927, 0.5698402909980532


@dataclass(frozen=True)
class SceneStatistics:
    """What one pass over a scene finds.

    Attributes
    ----------
    valid
        Bool, see `LabelledScene.valid`.
    pixels
        How many these are.
    low, high
        (B,) smallest and largest value of each band, of the scene's type; 0 without valid pixels.
    mean
        (B,) float64.
    known
        (B,) bool: whether any pixel has data in the band.
    sample
        (m, B) valid pixels, spread evenly.
    constant
        How many valid pixels have one value in all bands, by that value.
    parts
        The windows of the pass, each with the ranges of its bands, (2, B).
    blocks
        Valid pixels of each block of `BLOCK` pixels along a side.
    look
        Of a large scene, every so many rows and columns of red, green and blue, (h, w, 3) raw values, which are valid,
        (h, w), and how many.
    digest
        SHA-256 of all values and of validity, of a scene that stays on disk; else empty.
    """

    valid: NDArray[np.bool_]
    pixels: int
    low: NDArray[Any]
    high: NDArray[Any]
    mean: NDArray[np.float64]
    known: NDArray[np.bool_]
    sample: NDArray[Any]
    constant: Counter[Any]
    parts: tuple[tuple[Window, NDArray[Any]], ...]
    blocks: NDArray[np.int64]
    look: tuple[NDArray[Any], NDArray[np.bool_], int]
    digest: str


def statistics_of(scene: "LabelledScene") -> SceneStatistics:
    """Return the statistics of a scene; those of a scene on disk are computed once."""
    cube = scene.cube
    if not isinstance(cube, SceneCube):
        return _passed(scene)
    if cube.passed is None or cube.passed[0] != repr(scene.nodata):
        cube.passed = repr(scene.nodata), _passed(scene)
    found: SceneStatistics = cube.passed[1]
    return found


def _parts(scene: "LabelledScene") -> list[Window]:
    if isinstance(scene.cube, SceneCube):
        return scene.cube.parts()
    height, width, bands = scene.cube.shape
    rows = max(1, PART // (width * bands * scene.cube.itemsize))
    return [Window(row, min(row + rows, height), 0, width) for row in range(0, height, rows)]


def _passed(scene: "LabelledScene") -> SceneStatistics:
    """Read each part of a scene once."""
    on_disk = isinstance(scene.cube, SceneCube)
    height, width, bands = scene.cube.shape
    valid, known, count = np.zeros(scene.labels.shape, np.bool_), np.zeros(bands, np.bool_), 0
    total, constant, sample = _Sum(scene.cube.dtype, bands), Counter[Any](), _Sample(height * width)
    digest, parts = hashlib.sha256(f"{scene.cube.dtype.str}{scene.cube.shape}".encode()), []
    blocks, look = np.zeros([-(-size // BLOCK) for size in (height, width)], np.int64), _Look(scene)
    for window in _parts(scene):
        values, good = scene.read(window)
        scene.place(valid, window, good)
        _add_counts(blocks, window, good)
        if scene.large:
            look.add(window, values, good)
        if on_disk:
            digest.update(values.data)
            digest.update(np.packbits(good).data)
        if not known.all():
            known |= _known(values, scene.nodata)
        pixels = values.reshape(-1, bands) if good.all() else values[good]  # (n, B)
        if not len(pixels):
            continue
        count += len(pixels)
        parts.append((window, np.stack([pixels.min(0), pixels.max(0)])))
        total.add(pixels)
        constant.update(_constant(pixels))
        if scene.large:
            sample.add(pixels)
    ranges = np.stack([one for _, one in parts]) if parts else np.zeros((1, 2, bands), scene.cube.dtype)
    return SceneStatistics(
        valid,
        count,
        ranges[:, 0].min(0),
        ranges[:, 1].max(0),
        total.values / max(count, 1),
        known,
        sample.thinned(bands) if scene.large else _spread(scene.cube, valid),
        constant,
        tuple(parts),
        blocks,
        (look.values, look.valid, look.step),
        digest.hexdigest() if on_disk else "",
    )


class _Look:
    """Every so many rows and columns of three bands of a scene, for its picture."""

    def __init__(self, scene: "LabelledScene") -> None:
        height, width, bands = scene.cube.shape
        self.bands, self.step = list(rgb_bands(bands, scene.wavelengths)), -(-max(height, width) // LONGEST)
        size = (-(-height // self.step), -(-width // self.step)) if scene.large else (0, 0)
        self.values, self.valid = np.zeros((*size, 3), scene.cube.dtype), np.zeros(size, np.bool_)

    def add(self, window: Window, values: NDArray[Any], good: NDArray[np.bool_]) -> None:
        row, column = -window.row0 % self.step, -window.col0 % self.step
        part = values[row :: self.step, column :: self.step][..., self.bands]
        top, left = -(-window.row0 // self.step), -(-window.col0 // self.step)
        at = slice(top, top + part.shape[0]), slice(left, left + part.shape[1])
        self.values[at], self.valid[at] = part, good[row :: self.step, column :: self.step]


def rgb_bands(bands: int, wavelengths: NDArray[np.float64] | None) -> tuple[int, int, int]:
    """Return the indexes of the bands for red, green and blue.

    They are the bands nearest to 640, 550 and 460 nm. Where wavelengths are not known or do not cover the
    visible, they are spread over the spectrum instead.
    """
    if wavelengths is not None:
        red, green, blue = (int(np.argmin(np.abs(wavelengths - nm))) for nm in RGB_NM)
        if len({red, green, blue}) == 3:
            return red, green, blue
    red, green, blue = (round(share * (bands - 1)) for share in (0.75, 0.5, 0.25))
    return red, green, blue


def _add_counts(blocks: NDArray[np.int64], window: Window, good: NDArray[np.bool_]) -> None:
    """Add the valid pixels of a window to those of the blocks."""
    starts = [
        np.unique([start, *range(-(-start // BLOCK) * BLOCK, stop, BLOCK)])
        for start, stop in ((window.row0, window.row1), (window.col0, window.col1))
    ]
    rows, columns = starts[0] - window.row0, starts[1] - window.col0
    counts = np.add.reduceat(np.add.reduceat(good, rows, axis=0, dtype=np.int64), columns, axis=1)
    blocks[np.ix_(starts[0] // BLOCK, starts[1] // BLOCK)] += counts


def spread_blocks(
    scenes: "Sequence[LabelledScene]", count: int, first: int = 0, shift: tuple[float, float] = (0.5, 0.5)
) -> list[tuple[int, Window]]:
    """Return blocks with data that are spread evenly over some scenes: the number of a scene, and the window.

    Those at the lower and right edges are moved inside: all have `BLOCK` pixels along a side where the scene has.

    Parameters
    ----------
    scenes
        A scene's share of the blocks is its share of the valid pixels; those with more than one block have one at
        least.
    count
        Blocks, about; fewer where the scenes have no more.
    first, shift
        Where the evenly spread sequence begins, 0 or more, and what is added to it, 0..1: others give other blocks.
    """
    each = [statistics_of(scene) for scene in scenes]
    total, found = sum(one.pixels for one in each), []
    for index, (scene, one) in enumerate(zip(scenes, each, strict=True)):
        wanted = max(1, round(count * one.pixels / max(total, 1)))
        height, width = scene.cube.shape[:2]
        for row, column in _spread_over(one.blocks, wanted, first, shift):
            top, left = (max(0, min(at * BLOCK, size - BLOCK)) for at, size in ((row, height), (column, width)))
            found.append((index, Window(top, min(top + BLOCK, height), left, min(left + BLOCK, width))))
    return found


def _spread_over(
    blocks: NDArray[np.int64], wanted: int, first: int, shift: tuple[float, float]
) -> list[tuple[int, int]]:
    """Return different blocks that are at least half full or, where these are too few, that hold any data."""
    full = np.argwhere(blocks >= BLOCK * BLOCK // 2)
    full = full if len(full) >= wanted else np.argwhere(blocks > 0)
    if len(full) <= wanted:
        return [(int(row), int(column)) for row, column in full]
    dense = 10 * len(full) > blocks.size
    found: dict[tuple[int, int], None] = {}
    for number in range(first * wanted, (first + 100) * wanted):
        if dense:
            row, column = (int((shift[a] + number * EVENLY[a]) % 1 * blocks.shape[a]) for a in (0, 1))
        else:
            row, column = full[int((shift[0] + number * EVENLY[0]) % 1 * len(full))].tolist()
        if blocks[row, column] > 0:
            found.setdefault((row, column))
        if len(found) == wanted:
            break
    return list(found)


def _known(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Return which bands have data in any pixel, (B,)."""
    known = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, np.bool_)
    if nodata is not None:
        known &= values != nodata
    return np.asarray(known.any(axis=(0, 1)))


def _constant(pixels: NDArray[Any]) -> dict[Any, int]:
    if pixels.shape[1] < 3:
        return {}
    few = pixels[(pixels[:, 0] == pixels[:, 1]) & (pixels[:, 0] == pixels[:, -1])]  # most are not, which is quick
    same = few[(few == few[:, :1]).all(axis=1), 0]
    values, counts = np.unique(same, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


class _Sum:
    """The sum of all pixels, (B,) float64, added up in their order; that of integers is exact."""

    def __init__(self, dtype: np.dtype[Any], bands: int) -> None:
        self.exact = dtype.kind in "iu" and dtype.itemsize <= 4
        self.values = np.zeros(bands)

    def add(self, pixels: NDArray[Any]) -> None:
        if self.exact:
            self.values += pixels.sum(axis=0, dtype=np.int64)
            return
        for first in range(0, len(pixels), 4096):
            some = pixels[first : first + 4096].astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):  # `check_range` says so
                self.values = np.add.reduce(np.concatenate([self.values[None], some]), axis=0)


class _Sample:
    """Every so many valid pixels of a scene of so many."""

    def __init__(self, pixels: int) -> None:
        self.step, self.seen, self.found = max(1, pixels // (4 * SAMPLE)), 0, list[NDArray[Any]]()

    def add(self, pixels: NDArray[Any]) -> None:
        self.found.append(pixels[-self.seen % self.step :: self.step].copy())
        self.seen += len(pixels)

    def thinned(self, bands: int) -> NDArray[Any]:
        whole = np.concatenate(self.found) if self.found else np.zeros((0, bands))
        return whole[:: max(1, -(-len(whole) // SAMPLE))]


def _spread(cube: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[Any]:
    """Return at most `SAMPLE` of the valid pixels of an array, (m, B)."""
    at = np.flatnonzero(valid)
    return np.asarray(cube[np.unravel_index(at[:: max(1, -(-len(at) // SAMPLE))], valid.shape)])


def far_pixels(
    scene: "LabelledScene", low: NDArray[Any], high: NDArray[Any], flat: tuple[Any, ...]
) -> Iterator[tuple[NDArray[Any], NDArray[np.bool_]]]:
    """Yield the valid pixels, (n, B), of each part that has any value outside of the bands' limits, and where it does.

    Parameters
    ----------
    low, high
        (B,).
    flat
        Pixels with one of these values in all bands are left out.
    """
    for window, (least, most) in statistics_of(scene).parts:
        if (least >= low).all() and (most <= high).all():
            continue
        values, good = scene.read(window)
        pixels = values[good]
        for value in flat:
            pixels = pixels[~(pixels == value).all(axis=1)]
        far = (pixels < low) | (pixels > high)
        if far.any():
            yield pixels, far
