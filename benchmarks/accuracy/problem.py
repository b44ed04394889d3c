"""Input of every method: a scene, a split, and where and how to compute."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from spectraldiff.data.scene import LabelledScene
from spectraldiff.splits.split import Split
from spectraldiff.training.compute import Compute

# Called by a method with its stage, the finished amount, and the total amount.
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Problem:
    """A scene to learn from the training pixels of a split.

    Attributes
    ----------
    scene, split
        The scene, and its training and test pixels.
    """

    scene: LabelledScene
    split: Split

    @property
    def seed(self) -> int:
        """The seed of the split and of all random draws of a method."""
        return self.split.seed

    @property
    def labels(self) -> NDArray[Any]:
        """(n,) classes 1..K of the training pixels, in row-major order."""
        return self.scene.labels[self.split.train]

    @cached_property
    def pixels(self) -> NDArray[np.float32]:
        """(H, W, B) bands scaled to 0..1 by the range of the scene's valid pixels; missing pixels are their mean."""
        cube, valid = self.scene.cube.astype(np.float32), self.scene.valid
        known = cube[valid]
        low, span = known.min(0), np.ptp(known, axis=0)
        scaled = (cube - low) / np.where(span > 0, span, 1)
        return np.asarray(np.where(valid[..., None], scaled, scaled[valid].mean(0)), dtype=np.float32)

    @cached_property
    def standardised(self) -> NDArray[np.float32]:
        """(H, W, B) bands with mean 0 and standard deviation 1 over the scene's valid pixels; missing pixels are 0."""
        known = self.pixels[self.scene.valid]
        spread = known.std(0)
        return np.asarray((self.pixels - known.mean(0)) / np.where(spread > 0, spread, 1), dtype=np.float32)

    def map_of(self, classes: NDArray[Any]) -> NDArray[Any]:
        """Return the (H, W) class map with `classes`, (n,), at the scene's n valid pixels and 0 elsewhere."""
        filled = np.zeros_like(self.scene.labels)
        filled[self.scene.valid] = classes
        return filled

    def leakage(self, window: int) -> float:
        """Return the share of test pixels whose window of `window` pixels per side contains a training pixel."""
        near = maximum_filter(self.split.train, size=window, mode="constant")
        return float(near[self.split.test].mean())

    def facts(self) -> dict[str, Any]:
        """Return the facts that identify scene and split: problems with the same facts are equal."""
        digest = _digest(self.scene.cube, self.scene.labels, self.split.train, self.split.test)
        return {"scene": self.scene.name, "split": self.split.name, "seed": self.seed, "pixels": digest}

    def facts_of_scene(self, seed: int) -> dict[str, Any]:
        """Return the facts that identify what is trained without labels, independent of the split."""
        digest = _digest(self.scene.cube, self.scene.valid)
        return {"scene": self.scene.name, "seed": seed, "pixels": digest}


def _digest(*parts: NDArray[Any]) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


@dataclass(frozen=True)
class Context:
    """Where and how a method computes.

    Attributes
    ----------
    folder
        For temporary files of a method, and for run folders.
    compute
        Device and precision of the networks.
    threads
        Threads of the classical methods.
    report
        Receives the progress; nothing by default.
    denoisers
        For denoisers shared by several splits of a scene; `folder` by default.
    denoiser_seed
        The seed of the one denoiser that all seeds share; None for a denoiser of each seed.
    """

    folder: Path
    compute: Compute = field(default_factory=Compute)
    threads: int = 1
    report: Report = lambda stage, done, total: None
    denoisers: Path | None = None
    denoiser_seed: int | None = None
