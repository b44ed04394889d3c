"""Bands scaled to [-1, 1] by the training scenes' ranges."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from spectraldiff.data.scene import LabelledScene


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
    pixels = scene.cube[scene.valid].astype(np.float64)  # (n, B)
    low, high, mean = (torch.from_numpy(np.asarray(f(pixels, axis=0))) for f in (np.min, np.max, np.mean))
    return Normaliser(low, high), mean.float()


def common_normaliser(scenes: Sequence[LabelledScene]) -> tuple[Normaliser, Tensor]:
    """Return the normaliser of all scenes' valid pixels, and their mean spectrum, (B,)."""
    each = [normaliser_of(scene) for scene in scenes]
    low = torch.stack([one.low for one, _ in each]).amin(0)
    high = torch.stack([one.high for one, _ in each]).amax(0)
    pixels = torch.tensor([int(scene.valid.sum()) for scene in scenes], dtype=torch.float64)
    mean = torch.stack([fill.double() for _, fill in each]).T @ (pixels / pixels.sum())
    return Normaliser(low, high), mean.float()
