"""The reverse process on a part of a scene: noise it to step t, then denoise it to step 0 (paper, Figs. 9-11)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectraldiff.data.scene import LabelledScene
from spectraldiff.models.classifier import Classifier
from spectraldiff.models.diffusion import Denoiser, denoise
from spectraldiff.models.normaliser import filled_window
from spectraldiff_runtime.errors import RunError, UsageError
from spectraldiff_runtime.window import Window


@dataclass(frozen=True)
class Reconstruction:
    """A part of a scene on its way from noise back to step 0, in normalised units.

    Attributes
    ----------
    original
        (h, w, B), -1 .. 1.
    frames
        (step, cube) pairs, from the first step down to 0; some steps in between.
    row, column
        Upper left pixel in the scene.
    """

    original: NDArray[np.float32]
    frames: list[tuple[int, NDArray[np.float32]]]
    row: int
    column: int

    @property
    def error(self) -> float:
        """Mean absolute difference between the original and step 0."""
        return float(np.abs(self.frames[-1][1] - self.original).mean())

    @property
    def noise_error(self) -> float:
        """Mean absolute difference between the original and the noised instance that the process began with."""
        return float(np.abs(self.frames[0][1] - self.original).mean())


@dataclass(frozen=True)
class Spectra:
    """One pixel's spectrum, (B,) each: as measured, noised to a step, and reconstructed from it."""

    label: str
    original: NDArray[Any]
    noised: NDArray[Any]
    reconstructed: NDArray[Any]


@torch.no_grad()
def reconstruct(
    model: Classifier,
    scene: LabelledScene,
    start: int,
    size: int,
    panels: int,
    seed: int,
    report: Callable[[int, int], None],
) -> Reconstruction:
    """Noise the part of a scene with the most classes to step `start` and denoise it.

    Parameters
    ----------
    model
        With diffusion features.
    scene
        The scene to take the part from; its bands are the model's.
    start
        First step, 1 .. T.
    size
        Pixels along the side of the part.
    panels
        How many steps to keep, the first and 0 among them, at least 2.
    seed
        Seeds the noise.
    report
        Called with (steps done, steps in all).

    Raises
    ------
    RunError, UsageError
        As `check_start`.
    """
    denoiser = check_start(model, start)
    row, column = labelled_part(scene.labels, size)
    if scene.canvas is not None:  # the corner may lie between two parts
        near = np.argwhere(scene.labels[row : row + size, column : column + size])[:1]
        row, column = (scene.on_scene(near + np.array([row, column])) - near).clip(0)[0].tolist()
    ends = (min(at + size, most) for at, most in zip((row, column), scene.cube.shape, strict=False))
    pixels = filled_window(scene, model.fill, row, next(ends), column, next(ends))
    x0 = model.normaliser(pixels[None])  # (1, B, h, w)
    generator = torch.Generator().manual_seed(seed)
    x_t = denoiser.schedule.add_noise(x0, torch.tensor([start]), torch.randn(x0.shape, generator=generator))
    kept = {round(step) for step in np.linspace(start, 0, min(panels, start + 1))}
    frames = [(start, _image(x_t))]
    for step, x in denoise(denoiser, denoiser.schedule, x_t, start, generator):
        report(start - step, start)
        if step in kept:
            frames.append((step, _image(x)))
    return Reconstruction(_image(x0), frames, row, column)


def check_start(model: Classifier, start: int, run: str = "", fell_back: bool = False) -> Denoiser:
    """Return the model's denoiser.

    Parameters
    ----------
    model, start
        As `reconstruct` takes them.
    run
        What messages call the model's run.
    fell_back
        Whether a model without a denoiser was asked for with diffusion features.

    Raises
    ------
    RunError
        The model has no denoiser.
    UsageError
        `start` is not one of its steps.
    """
    denoiser, name = model.extractor.denoiser, f"the run '{run}'" if run else "the run"
    if denoiser is None and fell_back:
        raise RunError(
            f"{name} maps raw bands, which suited its scene clearly better than diffusion features, so its denoiser "
            "was not kept: name a run that maps with diffusion features"
        )
    if denoiser is None:
        raise RunError(
            f"{name} was trained with --features raw and has no denoiser: name a run with diffusion features"
        )
    if not 1 <= start <= denoiser.schedule.steps:
        raise UsageError(f"--step {start} is outside the process: give 1 to {denoiser.schedule.steps}")
    return denoiser


def labelled_part(labels: NDArray[Any], size: int) -> tuple[int, int]:
    """Return the upper left corner of the `size` x `size` part with the most classes, then the most labels."""
    height, width = labels.shape
    step = max(1, size // 4)
    corners = [
        (r, c) for r in range(0, max(1, height - size + 1), step) for c in range(0, max(1, width - size + 1), step)
    ]

    def worth(corner: tuple[int, int]) -> tuple[int, int]:
        part = labels[corner[0] : corner[0] + size, corner[1] : corner[1] + size]
        return len(np.unique(part[part > 0])), int((part > 0).sum())

    return max(corners, key=worth)


def example_spectra(result: Reconstruction, scene: LabelledScene, count: int) -> list[Spectra]:
    """Return the spectra of one pixel of each of the `count` most common classes in the part."""
    height, width = result.original.shape[:2]
    labels = scene.labels_in(Window(result.row, result.row + height, result.column, result.column + width))
    values, pixels = np.unique(labels[labels > 0], return_counts=True)
    chosen = values[np.argsort(-pixels)][:count]
    return [_spectra(result, scene.classes[value - 1].name, np.argwhere(labels == value)) for value in chosen]


def _spectra(result: Reconstruction, name: str, positions: NDArray[Any]) -> Spectra:
    row, column = positions[len(positions) // 2]
    noised, last = result.frames[0][1], result.frames[-1][1]
    return Spectra(name, result.original[row, column], noised[row, column], last[row, column])


def _image(x: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(x[0].permute(1, 2, 0).numpy())
