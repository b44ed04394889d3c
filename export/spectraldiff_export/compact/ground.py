"""The ground that a student is taught on: windows spread evenly over scenes, with what the full model says of them.

A scene that the budget holds is shown whole, and every fifth block of `BLOCK` x `BLOCK` pixels is held out: its pixels
are seen around those that are taught, and nothing is taught of them.  Of a larger scene a sample of windows is shown,
those with labels first, and every fifth window is held out.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectraldiff.data.scene import LabelledScene
from spectraldiff.data.statistics import EVENLY
from spectraldiff.models.normaliser import filled_window
from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.window import Window

SIDE = 48  # pixels along the side of a window
BLOCK = 12  # and of the blocks that are held out
FIFTHS = 5  # one block, or one window, of so many is held out
BYTES = 2**29  # that the windows of all scenes may take together
PIXELS = 120_000  # that the full model is asked about, of all scenes together


@dataclass(frozen=True)
class GroundScene:
    """A scene to be taught on.

    Attributes
    ----------
    scene
        With labels or without.
    train, test
        Bool arrays like the scene's labels: which of these train and which test; None for none.
    """

    scene: LabelledScene
    train: NDArray[np.bool_] | None = None
    test: NDArray[np.bool_] | None = None

    def labels_in(self, window: Window, chosen: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        """Return the labels of a window, (h, w), 0 but at chosen pixels."""
        if chosen is None:
            return np.zeros((window.height, window.width), np.int64)
        found = self.scene.labels_in(window, np.where(chosen, self.scene.labels, 0))
        return found.astype(np.int64)


@dataclass(frozen=True)
class Patch:
    """A window of a scene and what is known of it.

    Attributes
    ----------
    scene, window
        Number of its scene, and where it lies there.
    raw
        (B, h + 2 r, w + 2 r) float32 raw pixels with the student's halo r around the window; missing ones filled.
    taught
        (K, h, w) probabilities by the full model.
    train, test
        (h, w) labels of the pixels that train and of those that test, 1..K; 0 for none.
    valid, held
        (h, w) bool: pixels with data, and those that are held out.
    """

    scene: int
    window: Window
    raw: Tensor
    taught: Tensor
    train: Tensor
    test: Tensor
    valid: Tensor
    held: Tensor


@dataclass(frozen=True)
class Choice:
    """The windows of a scene: `whole` where they are all of it."""

    windows: tuple[Window, ...]
    whole: bool


def choose_windows(ground: Sequence[GroundScene], halo: int, pixels: int = PIXELS, most: int = BYTES) -> list[Choice]:
    """Return the windows of each scene, as many as the budget holds; each scene has the same share at least.

    Parameters
    ----------
    ground
        The scenes.
    halo
        The student's.
    pixels, most
        Of all windows together: pixels, and bytes with the halo.
    """
    bands = ground[0].scene.cube.shape[2]
    budget = max(2 * FIFTHS, min(pixels // SIDE**2, most // (4 * bands * (SIDE + 2 * halo) ** 2)))
    counts = [len(_lattice(one.scene)) for one in ground]
    shares = _shared(budget, counts)
    return [
        Choice(tuple(_lattice(one.scene)), True) if share >= count else Choice(tuple(_spread(one, share)), False)
        for one, count, share in zip(ground, counts, shares, strict=True)
    ]


def _shared(budget: int, counts: Sequence[int]) -> list[int]:
    """Share a budget: small scenes get what they need, the others the same share of the rest; `FIFTHS` at least."""
    shares, left = [0] * len(counts), budget
    for place, index in enumerate(sorted(range(len(counts)), key=lambda i: counts[i])):
        shares[index] = min(counts[index], max(FIFTHS, left // (len(counts) - place)))
        left = max(0, left - shares[index])
    return shares


def _lattice(scene: LabelledScene) -> list[Window]:
    """Cut a scene into windows of `SIDE` pixels along a side at most, as equal as can be."""
    rows, columns = (_edges(size) for size in scene.cube.shape[:2])
    return [Window(r0, r1, c0, c1) for r0, r1 in pairwise(rows) for c0, c1 in pairwise(columns)]


def _edges(size: int) -> list[int]:
    parts = -(-size // SIDE)
    return [size * part // parts for part in range(parts + 1)]


def _spread(ground: GroundScene, count: int) -> Iterator[Window]:
    """Yield windows of a large scene: half of them those with the most labels, the others spread evenly."""
    windows = _lattice(ground.scene)
    known = ground.train if ground.test is None or ground.train is None else ground.train | ground.test
    labelled = [int((ground.labels_in(window, known) > 0).sum()) for window in windows]
    order = sorted((i for i, found in enumerate(labelled) if found), key=lambda i: -labelled[i])
    chosen = dict.fromkeys(order[: count // 2])
    rows, columns = (-(-size // SIDE) for size in ground.scene.cube.shape[:2])
    for number in range(100 * count):
        if len(chosen) == count:
            break
        row, column = (int((0.5 + number * EVENLY[axis]) % 1 * size) for axis, size in ((0, rows), (1, columns)))
        chosen.setdefault(row * columns + column)
    return (windows[index] for index in chosen)


def show(
    ground: Sequence[GroundScene],
    choices: Sequence[Choice],
    teacher: Model,
    fill: Tensor,
    halo: int,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Patch]:
    """Ask the full model about all windows; windows without any data are left out.

    Raises
    ------
    SceneError
        No window of a scene has data, or it has values beyond float32.
    """
    found: list[Patch] = []
    total, done = sum(len(choice.windows) for choice in choices), 0
    for index, (one, choice) in enumerate(zip(ground, choices, strict=True)):
        before = len(found)
        for number, window in enumerate(choice.windows):
            valid = one.scene.read(window)[1]
            if valid.any():
                held = held_blocks(window) if choice.whole else np.full(valid.shape, number % FIFTHS == 0)
                found.append(_patch(index, one, window, valid, held, teacher, fill, halo))
            done += 1
            report(done, total)
        if len(found) == before:
            raise SceneError(f"'{one.scene.name}' has no data in {len(choice.windows)} windows of it: leave it out")
    return found


def held_blocks(window: Window, fifth: int = 0) -> NDArray[np.bool_]:
    """Return which pixels of a window, (h, w), are in blocks of one of five fifths: of each, none are side by side."""
    rows, columns = np.arange(window.row0, window.row1) // BLOCK, np.arange(window.col0, window.col1) // BLOCK
    return np.asarray((rows[:, None] + 2 * columns) % FIFTHS == fifth)


def _patch(
    index: int,
    one: GroundScene,
    window: Window,
    valid: NDArray[np.bool_],
    held: NDArray[np.bool_],
    teacher: Model,
    fill: Tensor,
    halo: int,
) -> Patch:
    most = max(halo, teacher.card.halo)
    edges = window.row0 - most, window.row1 + most, window.col0 - most, window.col1 + most
    with np.errstate(over="ignore"):
        raw = filled_window(one.scene, fill, *edges)
    if not raw.isfinite().all():
        raise SceneError(
            f"'{one.scene.name}' has values that float32, in which models compute, does not hold: scale the scene, or "
            "leave it out"
        )
    taught = teacher.run(_cut(raw, most - teacher.card.halo)[None].numpy(), probabilities=True).probabilities
    assert taught is not None
    return Patch(
        index,
        window,
        _cut(raw, most - halo).clone(),
        torch.from_numpy(taught[0]),
        torch.from_numpy(np.where(valid, one.labels_in(window, one.train), 0)),
        torch.from_numpy(np.where(valid, one.labels_in(window, one.test), 0)),
        torch.from_numpy(valid),
        torch.from_numpy(held),
    )


def _cut(raw: Tensor, rim: int) -> Tensor:
    return raw[:, rim : raw.shape[1] - rim, rim : raw.shape[2] - rim].contiguous()
