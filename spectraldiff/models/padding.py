"""Cropping and mirrored padding of images."""

import numpy as np
import torch
from torch import Tensor

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


def at_least(scene: Tensor, size: int) -> Tensor:
    """Mirror a scene (B, H, W) that is smaller than `size` pixels a side until it is large enough."""
    rim = max(0, -(-(size - min(scene.shape[1:])) // 2))
    return mirrored(scene, rim) if rim else scene
