"""Bands scaled to [-1, 1] by the training scenes' ranges, and the pixels of a scene so scaled, by window."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from spectraldiff.data.scene import LabelledScene
from spectraldiff.data.statistics import statistics_of
from spectraldiff_runtime.window import Window, reflect


class Normaliser(nn.Module):
    """Maps each band to [-1, 1] by the training scene's range; a constant band becomes 0.

    Parameters
    ----------
    low, high
        (B,) smallest and largest valid value of each band, raw units.
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.register_buffer("low", low.float())
        self.register_buffer("high", high.float())

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return (scale, shift), each (B,), with normalised = scale * raw + shift."""
        span = self.high - self.low
        scale = torch.where(span > 0, 2 / span.clamp_min(torch.finfo(torch.float32).tiny), torch.zeros_like(span))
        return scale, torch.where(span > 0, -1 - scale * self.low, torch.zeros_like(span))

    def forward(self, raw: Tensor) -> Tensor:
        """Normalise (N, B, H, W)."""
        scale, shift = self.affine()
        return raw * scale[:, None, None] + shift[:, None, None]


def normaliser_of(scene: LabelledScene) -> tuple[Normaliser, Tensor]:
    """Return the normaliser of a scene's valid pixels, and their mean spectrum, (B,)."""
    found = statistics_of(scene)
    low, high, mean = (torch.from_numpy(np.asarray(one, np.float64)) for one in (found.low, found.high, found.mean))
    return Normaliser(low, high), mean.float()


def common_normaliser(scenes: Sequence[LabelledScene]) -> tuple[Normaliser, Tensor]:
    """Return the normaliser of all scenes' valid pixels, and their mean spectrum, (B,)."""
    each = [normaliser_of(scene) for scene in scenes]
    low = torch.stack([one.low for one, _ in each]).amin(0)
    high = torch.stack([one.high for one, _ in each]).amax(0)
    pixels = torch.tensor([statistics_of(scene).pixels for scene in scenes], dtype=torch.float64)
    mean = torch.stack([fill.double() for _, fill in each]).T @ (pixels / pixels.sum())
    return Normaliser(low, high), mean.float()


class NormalisedScene:
    """The normalised pixels of a scene, computed by window; missing ones are filled.

    Parameters
    ----------
    scene
        In memory or on disk.
    normaliser, fill
        Of all scenes of the training; `fill` are (B,) raw values that replace missing pixels.

    Attributes
    ----------
    shape
        (B, H, W).
    """

    def __init__(self, scene: LabelledScene, normaliser: Normaliser, fill: Tensor) -> None:
        self.scene, self.normaliser, self.fill = scene, normaliser, fill
        height, width, bands = scene.cube.shape
        self.shape = bands, height, width

    def window(self, row0: int, row1: int, col0: int, col1: int) -> Tensor:
        """Return rows row0..row1 and columns col0..col1, (B, h, w), on the normaliser's device; mirrored beyond edges.

        Both may begin below 0 and end beyond the scene.
        """
        return self.normalised(filled_window(self.scene, self.fill, row0, row1, col0, col1))

    def normalised(self, raw: Tensor) -> Tensor:
        """Normalise (B, h, w) raw values."""
        found: Tensor = self.normaliser(raw.to(self.normaliser.low.device)[None])[0]
        return found

    def valid(self, row0: int, row1: int, col0: int, col1: int) -> Tensor:
        """Return which pixels of a window are pixels of the scene with data, (h, w) bool on the CPU."""
        _, height, width = self.shape
        known = torch.zeros(row1 - row0, col1 - col0, dtype=torch.bool)
        inner = Window(max(row0, 0), min(row1, height), max(col0, 0), min(col1, width))
        if inner.height > 0 and inner.width > 0:
            good = torch.from_numpy(self.scene.read(inner)[1])
            known[inner.row0 - row0 : inner.row1 - row0, inner.col0 - col0 : inner.col1 - col0] = good
        return known


def filled(scene: LabelledScene, fill: Tensor) -> Tensor:
    """Return the scene's raw pixels as (B, H, W) float32, missing ones replaced by `fill`, (B,)."""
    height, width = scene.cube.shape[:2]
    return filled_window(scene, fill, 0, height, 0, width)


def filled_window(scene: LabelledScene, fill: Tensor, row0: int, row1: int, col0: int, col1: int) -> Tensor:
    """Return raw pixels of a window, (B, h, w) float32, missing ones replaced by `fill`; mirrored beyond the edges."""
    edges, at = [], []
    for start, stop, size in ((row0, row1, scene.cube.shape[0]), (col0, col1, scene.cube.shape[1])):
        index = reflect(np.arange(start, stop), size)
        edges += [int(index.min()), int(index.max()) + 1]
        at.append(index - edges[-2])
    values, good = scene.read(Window(*edges))
    values = np.where(good[..., None], values, fill.cpu().numpy()).astype(np.float32)
    if any(not np.array_equal(index, np.arange(size)) for index, size in zip(at, values.shape[:2], strict=True)):
        values = values[at[0]][:, at[1]]
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()
