"""What one training step of each network computes: the loss of a batch."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectraldiff.data.canvas import BLOCK
from spectraldiff.data.statistics import spread_blocks
from spectraldiff.ensemble.mosaic import Mosaic
from spectraldiff.models.diffusion import Denoiser
from spectraldiff.models.foveal_vit import FovealViT
from spectraldiff.models.normaliser import NormalisedScene
from spectraldiff.models.padding import Pixels, WholePixels
from spectraldiff.models.vit import SpectralViT
from spectraldiff.processes.layers import own_samples

REFRESH = 200  # steps that instances are cut from the same blocks of a scene on disk
LEAST_BLOCKS, MOST_BLOCKS = 4, 256


class DiffusionTask:
    """Random instances of the scenes, flipped and transposed; the loss of Eq. (5).

    Parameters
    ----------
    denoiser
        The denoiser that is trained.
    scenes
        Normalised pixels, (B, H, W) each, on the training device: tensors, or what reads them by window, or blocks of
        what stays on disk; mirrored where smaller than an instance. A scene's share of the instances is its share of
        the pixels.
    instance, batch
        K, and instances a step.
    """

    def __init__(
        self, denoiser: Denoiser, scenes: "Sequence[Tensor | Pixels | BlockPool]", instance: int, batch: int
    ) -> None:
        self.denoiser, self.instance, self.batch = denoiser, instance, batch
        self.scenes = [WholePixels(scene) if isinstance(scene, Tensor) else scene for scene in scenes]
        self.sizes = torch.tensor([float(scene.shape[1] * scene.shape[2]) for scene in scenes])

    def size(self, step: int) -> int:
        """Return the batch size."""
        return self.batch

    def loss(self, step: int, start: int, count: int, generator: torch.Generator) -> Tensor:
        """Return the loss over `count` new instances."""
        cuts = [
            cut
            for scene, share in zip(self.scenes, self._shares(count, generator), strict=True)
            for cut in _cuts(_sources(scene, step, share, generator), self.instance, generator)
        ]
        x0 = _turn(torch.stack([cut() for cut in cuts[own_samples()]]), (2, 3), generator)  # (N, B, K, K)
        return self.denoiser.loss(x0, generator)

    def _shares(self, count: int, generator: torch.Generator) -> list[int]:
        """Draw how many instances come from each scene; one scene needs no draw."""
        if len(self.scenes) == 1:
            return [count]
        drawn = torch.multinomial(self.sizes, count, replacement=True, generator=generator)
        return torch.bincount(drawn, minlength=len(self.scenes)).tolist()


class BlockPool:
    """Blocks of a scene on disk that instances are cut from: spread evenly over it, and others every `REFRESH` steps.

    The next ones are read while those before are in use. Which ones they are depends on seed and step alone.

    Parameters
    ----------
    pixels
        The scene.
    most
        Bytes of the blocks of one time.
    seed
        Of the training.
    reader
        Reads the blocks, of all pools in turn; its owner ends it after `close`.
    least
        Blocks of one time, whatever they take.

    Attributes
    ----------
    shape
        (B, H, W) of the scene.
    """

    def __init__(
        self, pixels: NormalisedScene, most: int, seed: int, reader: Executor, least: int = LEAST_BLOCKS
    ) -> None:
        self.pixels, self.shape = pixels, pixels.shape
        pixel = pixels.shape[0] * pixels.scene.cube.dtype.itemsize
        self.count = min(max(most // (BLOCK**2 * pixel), least), MOST_BLOCKS)
        row, column = np.random.default_rng(seed).random(2).tolist()
        self.shift = row, column
        self._reader = reader
        self._coming: dict[int, Future[list[NormalisedScene]]] = {}

    def at(self, step: int) -> list[NormalisedScene]:
        """Return the blocks of a step."""
        time = step // REFRESH
        for past in [one for one in self._coming if one not in (time, time + 1)]:
            self._coming.pop(past).cancel()
        for wanted in (time, time + 1):
            if wanted not in self._coming:
                self._coming[wanted] = self._reader.submit(self._read, wanted)
        return self._coming[time].result()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_reader", "_coming")}

    def __setstate__(self, state: dict[str, Any]) -> None:  # in another process, which reads by itself
        vars(self).update(state, _reader=_reader_here(), _coming={})

    def close(self) -> None:
        """Read no more."""
        for one in self._coming.values():
            one.cancel()
        self._coming.clear()

    def _read(self, time: int) -> list[NormalisedScene]:
        scene, found = self.pixels.scene, []
        for _, window in spread_blocks([scene], self.count, time, self.shift):
            values, good = scene.read(window)
            part = replace(
                scene, cube=values, labels=np.zeros(good.shape, np.uint8), missing=~good, groups=None, canvas=None
            )
            found.append(NormalisedScene(part, self.pixels.normaliser, self.pixels.fill))
        return found


@cache
def _reader_here() -> Executor:
    """Return what reads the blocks of all pools that came from another process."""
    return ThreadPoolExecutor(1)


class ClassifierTask:
    """Windows around the training pixels, flipped and transposed; cross-entropy.

    Parameters
    ----------
    model
        The classifier that is trained.
    features
        (H, W, P) features of the scene with a rim of at least the window's radius around it, on the training device.
    pixels
        (n, 2) row and column of the training pixels, among these features.
    labels
        (n,) their classes, 0 .. K - 1.
    batch, noise, seed
        Windows a step; standard deviation of the noise added to the standardised features; the seed of the order of
        the pixels.
    balance
        A pixel's loss counts as its class's number of training pixels to the power of minus this, 0 .. 1: with 0 all
        pixels count alike, with 1 all classes do. The weights of all training pixels have mean 1.
    """

    def __init__(
        self,
        model: SpectralViT | FovealViT,
        features: Mosaic,
        pixels: Tensor,
        labels: Tensor,
        batch: int,
        noise: float = 0.0,
        seed: int = 0,
        balance: float = 0.0,
    ) -> None:
        self.model, self.features, self.pixels, self.labels = model, features, pixels, labels
        self.batch, self.noise, self.seed = min(batch, len(labels)), noise, seed
        self.steps = math.ceil(len(labels) / self.batch)  # an epoch
        weights = torch.bincount(labels)[labels].float() ** -balance
        self.weights = weights / weights.mean()
        # Twice as many values as a batch needs: each step takes its noise from another place in them, for drawing
        # them anew would take a third of a step.
        values = 2 * self.batch * model.noise_values if noise > 0 else 0
        self.bank = noise * torch.randn(values, generator=torch.Generator().manual_seed(seed)).to(pixels.device)

    def size(self, step: int) -> int:
        """Return the batch size; the last batch of an epoch is smaller."""
        return min(self.batch, len(self.labels) - step % self.steps * self.batch)

    def loss(self, step: int, start: int, count: int, generator: torch.Generator) -> Tensor:
        """Return the loss over some windows of the step's batch."""
        order = torch.randperm(
            len(self.labels), generator=torch.Generator().manual_seed((self.seed << 32) + step // self.steps)
        )
        first = step % self.steps * self.batch + start
        own = own_samples()
        chosen = order[first : first + count][own].to(self.labels.device)
        windows = self.windows(self.pixels[chosen], _turns(count, generator)[:, own])

        def draw(shape: Sequence[int]) -> Tensor:
            each = math.prod(shape[1:])
            at = int(torch.randint(len(self.bank) - count * each + 1, (1,), generator=generator))
            return self.bank[at : at + count * each].view(count, *shape[1:])[own]

        losses = self.model.losses(windows, self.labels[chosen], draw if self.noise > 0 else None)
        return (losses * self.weights[chosen]).mean()

    def windows(self, pixels: Tensor, turns: Tensor | None = None) -> Tensor:
        """Return the windows (n, window, window, P) around pixels (n, 2).

        With `turns`, (3, n) bool, a window's rows are reversed, then its columns, then both are exchanged.
        """
        radius = self.model.config.radius
        offsets = torch.arange(-radius, radius + 1, device=pixels.device)
        down, across = torch.meshgrid(offsets, offsets, indexing="ij")  # (window, window) each
        if turns is not None:  # only places are turned: what lies there is read once, in its order
            rows, columns, exchanged = turns.to(pixels.device)[..., None, None]
            down, across = torch.where(exchanged, across, down), torch.where(exchanged, down, across)
            down, across = torch.where(rows, -down, down), torch.where(columns, -across, across)
        return self.features[pixels[:, 0, None, None] + down, pixels[:, 1, None, None] + across]


def _sources(scene: Pixels | BlockPool, step: int, count: int, generator: torch.Generator) -> list[Pixels]:
    """Return what each of so many instances is cut from; one scene in memory needs no draw."""
    if not isinstance(scene, BlockPool):
        return [scene] * count
    blocks = scene.at(step)
    return [blocks[index] for index in torch.randint(len(blocks), (count,), generator=generator).tolist()]


def _cuts(scenes: Sequence[Pixels], side: int, generator: torch.Generator) -> list[Callable[[], Tensor]]:
    """Return what cuts a random square (B, side, side) out of each scene; scenes smaller than that are mirrored."""
    rims = [max(0, -(-(side - min(scene.shape[1:])) // 2)) for scene in scenes]
    ends = [[size + 2 * rim - side + 1 for size in scene.shape[1:]] for scene, rim in zip(scenes, rims, strict=True)]
    rows, columns = (_each_below([end[axis] for end in ends], generator) for axis in (0, 1))
    return [
        partial(scene.window, r - rim, r - rim + side, c - rim, c - rim + side)
        for scene, rim, r, c in zip(scenes, rims, rows, columns, strict=True)
    ]


def _each_below(ends: Sequence[int], generator: torch.Generator) -> list[int]:
    """Draw a number from 0 below each of some ends: together where they are equal."""
    if len(set(ends)) == 1:
        return torch.randint(ends[0], (len(ends),), generator=generator).tolist()
    return [int(torch.randint(end, (1,), generator=generator)) for end in ends]


def _turn(x: Tensor, axes: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Flip and transpose a batch at random, all of it alike: one of the eight symmetries of the square."""
    flip_rows, flip_columns, transpose = (torch.rand(3, generator=generator) < 0.5).tolist()
    if flip_rows:
        x = x.flip(axes[0])
    if flip_columns:
        x = x.flip(axes[1])
    return x.transpose(*axes) if transpose else x


def _turns(count: int, generator: torch.Generator) -> Tensor:
    """Draw one of the eight symmetries of the square for each of some windows, (3, count) bool."""
    return torch.rand(3, count, generator=generator) < 0.5
