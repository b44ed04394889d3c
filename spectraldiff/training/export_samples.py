"""Tiles of the training scenes that an export is checked on."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spectraldiff.data.scene import LabelledScene
from spectraldiff.models.classifier import filled, square
from spectraldiff.models.padding import mirrored
from spectraldiff.splits.split import Split

SAMPLE = 32  # output pixels along the side of a sample tile


def sample_tiles(
    scenes: Sequence[LabelledScene], splits: Sequence[Split], fill: Tensor, halo: int
) -> tuple[Tensor, Tensor]:
    """Return tiles spread over the scenes, what an export is checked on, and the labels of their scored pixels.

    Returns
    -------
    tiles
        (9, B, T, T) float32 raw units, T = 2 halo + 32: three by three tiles, of each scene in turn, mirrored and
        filled as in mapping.
    labels
        (9, 32, 32) int32, 0 where the accuracy of no pixel is measured.
    """
    side, tiles, labels = 2 * halo + SAMPLE, [], []
    for index, (r, c) in enumerate((r, c) for r in (0, 1, 2) for c in (0, 1, 2)):
        scene, split = scenes[index % len(scenes)], splits[index % len(scenes)]
        padded = mirrored(filled(scene, fill), halo)
        top, left = (max(0, size - SAMPLE) * at // 2 for size, at in zip(scene.labels.shape, (r, c), strict=True))
        tiles.append(square(padded[:, top : top + side, left : left + side], side))
        tests = np.where(split.scored, scene.labels, 0)[top : top + SAMPLE, left : left + SAMPLE].astype(np.int32)
        labels.append(square(torch.from_numpy(tests)[None], SAMPLE)[0])
    return torch.stack(tiles), torch.stack(labels)
