"""Cropping and mirrored padding of images, and windows of scenes that may reach beyond them."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spectraldiff_runtime.window import reflect


def cropped(x: Tensor, rim: int) -> Tensor:
    """Cut `rim` pixels off each side of (..., H, W)."""
    return x if rim == 0 else x[..., rim:-rim, rim:-rim]


def mirrored(scene: Tensor, rim: int) -> Tensor:
    """Mirror (B, H, W) by `rim` pixels at each edge, as often as needed, edge pixels not repeated."""
    rows, columns = (
        torch.from_numpy(reflect(np.arange(-rim, size + rim), size)).to(scene.device) for size in scene.shape[1:]
    )
    return scene[:, rows][:, :, columns]


class Pixels(Protocol):
    """Normalised pixels, (B, H, W), by window."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, H, W)."""
        ...

    def window(self, row0: int, row1: int, col0: int, col1: int) -> Tensor:
        """Return rows row0..row1 and columns col0..col1, (B, h, w), mirrored beyond the edges."""
        ...

    def valid(self, row0: int, row1: int, col0: int, col1: int) -> Tensor:
        """Return which of these are pixels of the scene with data, (h, w) bool."""
        ...


class WholePixels:
    """Pixels that are a tensor, (B, H, W); all valid, or those of `known`, (H, W) bool."""

    def __init__(self, scene: Tensor, known: Tensor | None = None) -> None:
        self.scene = scene
        self.known = torch.ones(scene.shape[1:], dtype=torch.bool) if known is None else known
        self.shape: tuple[int, int, int] = tuple(scene.shape)  # type: ignore[assignment]

    def window(self, row0: int, row1: int, col0: int, col1: int) -> Tensor:
        """Return rows row0..row1 and columns col0..col1, (B, h, w), mirrored beyond the edges."""
        rows, columns = (
            torch.from_numpy(reflect(np.arange(start, stop), size)).to(self.scene.device)
            for start, stop, size in ((row0, row1, self.shape[1]), (col0, col1, self.shape[2]))
        )
        return self.scene[:, rows][:, :, columns]

    def valid(self, row0: int, row1: int, col0: int, col1: int) -> Tensor:
        """Return which of these are pixels of the scene with data, (h, w) bool."""
        rim = max(0, -row0, -col0, row1 - self.shape[1], col1 - self.shape[2])
        padded = F.pad(self.known, (rim,) * 4)
        return padded[row0 + rim : row1 + rim, col0 + rim : col1 + rim]
