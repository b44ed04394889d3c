"""What a training takes from its scenes as a whole, and what its reports say of them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectraldiff.accuracy.metrics import Accuracy
from spectraldiff.data.scene import Scene
from spectraldiff.models.classifier import filled, normaliser_of, square
from spectraldiff.models.features import Normaliser, mirrored
from spectraldiff.splits.draw import Split, mean_leakage
from spectraldiff_runtime.errors import RunError

SAMPLE = 32  # output pixels along the side of a sample tile


def common_normaliser(scenes: Sequence[Scene]) -> tuple[Normaliser, Tensor]:
    """Return the normaliser of all scenes' valid pixels, and their mean spectrum, (B,)."""
    each = [normaliser_of(scene) for scene in scenes]
    low = torch.stack([one.low for one, _ in each]).amin(0)
    high = torch.stack([one.high for one, _ in each]).amax(0)
    pixels = torch.tensor([int(scene.valid.sum()) for scene in scenes], dtype=torch.float64)
    mean = torch.stack([fill.double() for _, fill in each]).T @ (pixels / pixels.sum())
    return Normaliser(low, high), mean.float()


def sample_tiles(scenes: Sequence[Scene], splits: Sequence[Split], fill: Tensor, halo: int) -> tuple[Tensor, Tensor]:
    """Return tiles spread over the scenes, what an export is checked on, and the labels of their test pixels.

    Returns
    -------
    tiles
        (9, B, T, T) float32 raw units, T = 2 halo + 32: three by three places, of each scene in turn, mirrored and
        filled as in mapping.
    labels
        (9, 32, 32) int32, 0 where no pixel tests.
    """
    side, tiles, labels = 2 * halo + SAMPLE, [], []
    for index, (r, c) in enumerate((r, c) for r in (0, 1, 2) for c in (0, 1, 2)):
        scene, split = scenes[index % len(scenes)], splits[index % len(scenes)]
        padded = mirrored(filled(scene, fill), halo)
        top, left = (max(0, size - SAMPLE) * at // 2 for size, at in zip(scene.labels.shape, (r, c), strict=True))
        tiles.append(square(padded[:, top : top + side, left : left + side], side))
        tests = np.where(split.test, scene.labels, 0)[top : top + SAMPLE, left : left + SAMPLE].astype(np.int32)
        labels.append(square(torch.from_numpy(tests)[None], SAMPLE)[0])
    return torch.stack(tiles), torch.stack(labels)


def split_facts(splits: Sequence[Split]) -> dict[str, Any]:
    """Return how the accuracy was measured, as plain values; `leakage` is that of all scenes together."""
    return {
        "split": splits[0].name,
        "seed": splits[0].seed,
        "leakage": mean_leakage(splits),
        "train_pixels": sum(int(split.train.sum()) for split in splits),
    }


def scene_facts(
    scenes: Sequence[Scene], splits: Sequence[Split], accuracies: Sequence[Accuracy | None]
) -> list[dict[str, Any]]:
    """Return each scene's name, size, pixels and accuracy, as plain values."""
    facts = []
    for scene, split, accuracy in zip(scenes, splits, accuracies, strict=True):
        figures = {} if accuracy is None else accuracy.as_dict()
        facts.append(
            {
                "name": scene.name,
                "shape": list(scene.cube.shape),
                "train_pixels": int(split.train.sum()),
                "test_pixels": int(split.test.sum()),
                "leakage": split.leakage,
                **{key: figures.get(key) for key in ("oa", "aa", "kappa")},
            }
        )
    return facts


def data_digests(scenes: Sequence[Scene], splits: Sequence[Split]) -> dict[str, str]:
    """Return a SHA-256 of what a training reads, by the words for it: each scene, its labels and training pixels."""
    found = {}
    for number, (scene, split) in enumerate(zip(scenes, splits, strict=True), start=1):
        name = f"'{scene.name}'" + (f" (scene {number})" if len(scenes) > 1 else "")
        valid = scene.valid
        labels = np.where(valid, scene.labels, 0).astype(np.uint16)
        names = json.dumps([c.name for c in scene.classes]).encode()
        found[f"the scene {name}"] = _digest([scene.cube, valid])
        found[f"the labels of {name}"] = _digest([labels], names)
        found[f"the training pixels of {name}"] = _digest([split.train])
    return found


def _digest(arrays: Sequence[NDArray[Any]], more: bytes = b"") -> str:
    digest = hashlib.sha256(more)
    for values in arrays:
        digest.update(f"{values.dtype.str}{values.shape}".encode())
        for row in values:
            digest.update(np.ascontiguousarray(row).data)
    return digest.hexdigest()


def check_unchanged(begun: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise RunError where what a training reads is not what it was begun with; see `data_digests`."""
    for what in [*begun, *now]:
        if begun.get(what) != now.get(what):
            raise RunError(f"{what} changed since the run was begun: restore the files to go on with it, or train anew")
