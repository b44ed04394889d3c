"""Fitting the classifier: features, components, held-out pixels, the ensemble, smoothing and temperature."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spectraldiff.data.scene import LabelledScene
from spectraldiff.ensemble.calibration import LEAST, HeldOut, Temperature, choose, smoothed_scores, too_few
from spectraldiff.ensemble.context_inputs import mosaic_of
from spectraldiff.ensemble.selection import Selection
from spectraldiff.models.classifier import Classifier, Ensemble, extractor_for, filled
from spectraldiff.models.diffusion import Denoiser
from spectraldiff.models.features import scene_features
from spectraldiff.models.foveal_vit import FovealViT, new_vit
from spectraldiff.models.normaliser import Normaliser, common_normaliser
from spectraldiff.models.padding import cropped
from spectraldiff.models.pca import PCA
from spectraldiff.models.presets import Preset
from spectraldiff.models.score_smoothing import Smoothing, sharpness
from spectraldiff.models.vit import SpectralViT, ViTConfig
from spectraldiff.splits.hold_out import groups_of, hold_out
from spectraldiff.splits.split import Split
from spectraldiff.training.compute import Compute
from spectraldiff.training.loop import Loop
from spectraldiff.training.monitor import Monitor
from spectraldiff.training.tasks import ClassifierTask


@dataclass(frozen=True)
class TrainingData:
    """Scenes and splits as a training reads them.

    Attributes
    ----------
    scenes, splits
        The scenes, each with its split.
    normaliser, fill
        Of all scenes together; `fill` is their mean spectrum.
    pixels, valid
        (B, H, W) normalised pixels and (H, W) bool of each scene, on the training device.
    """

    scenes: tuple[LabelledScene, ...]
    splits: tuple[Split, ...]
    normaliser: Normaliser
    fill: Tensor
    pixels: tuple[Tensor, ...]
    valid: tuple[Tensor, ...]

    @classmethod
    def of(cls, scenes: tuple[LabelledScene, ...], splits: tuple[Split, ...], device: torch.device) -> "TrainingData":
        """Normalise scenes on a device."""
        normaliser, fill = common_normaliser(scenes)
        normaliser.to(device)
        valid = tuple(torch.from_numpy(scene.valid).to(device) for scene in scenes)
        pixels = tuple(normaliser(filled(scene, fill).to(device)[None])[0] for scene in scenes)
        return cls(scenes, splits, normaliser, fill, pixels, valid)

    @property
    def disjoint(self) -> bool:
        """Whether most test pixels of a scene are spatially disjoint from its training pixels."""
        return any(split.spatially_disjoint for split in self.splits)

    def groups(self) -> int:
        """Return the number of training pixels or, on disjoint splits, of the groups that they form."""
        return len(np.unique(groups_of(self.scenes, self.splits)))


@dataclass(frozen=True)
class Fitted:
    """A fitted classifier.

    Attributes
    ----------
    model
        In evaluation mode.
    temperature
        Its last temperature.
    selection
        How its ensemble was chosen; None where nothing was.
    """

    model: Classifier
    temperature: Temperature
    selection: Selection | None = None


@dataclass(frozen=True)
class TrainingSet:
    """What a classifier learns from.

    Attributes
    ----------
    name
        Of its stages: classifier or raw.
    preset, denoiser, pca, shape
        What the model is made of.
    mosaic
        (H, W, P) components of all scenes with their rims.
    pixels, labels
        (n, 2) row and column on the mosaic and (n,) class from 0 of the training pixels.
    smoothing
        With the most iterations.
    rim
        Pixels around each scene of the mosaic.
    """

    name: str
    preset: Preset
    denoiser: Denoiser | None
    pca: PCA
    shape: ViTConfig
    mosaic: Tensor
    pixels: Tensor
    labels: Tensor
    smoothing: Smoothing
    rim: int


class ClassifierFit:
    """Fits classifiers to the training pixels of some scenes.

    Parameters
    ----------
    data
        The scenes and splits.
    preset, seed, compute, monitor
        As of `spectraldiff.training.trainer.Training`.
    run_loop
        Runs a training loop, by its name and title, and returns the trained network.
    seconds
        Gets the wall time of each stage.
    """

    def __init__(
        self,
        data: TrainingData,
        preset: Preset,
        seed: int,
        compute: Compute,
        monitor: Monitor,
        run_loop: Callable[[str, str, Loop], nn.Module],
        seconds: dict[str, float],
    ) -> None:
        self.data, self.preset, self.seed, self.compute, self.monitor = data, preset, seed, compute, monitor
        self.run_loop, self.seconds = run_loop, seconds

    def fit_attention(self, training_set: TrainingSet) -> Fitted:
        """Fit the attention members alone, with their temperature and smoothing."""
        return self._classifier(training_set, self._held_out(training_set))

    def training_set(self, preset: Preset, denoiser: Denoiser | None) -> TrainingSet:
        """Compute the features and reduce them."""
        name = "classifier" if preset == self.preset else "raw"
        self.monitor.stage("Features" if denoiser else "Raw bands", "tiles")
        started = time.perf_counter()
        data, disjoint, groups = self.data, self.data.disjoint, self.data.groups()
        # A buffer between training and test pixels promises that no test pixel sees beyond the window.
        most = 0 if any(split.buffered for split in data.splits) else preset.smoothing.iterations
        rim = preset.classifier.radius + Smoothing(most).halo
        features, pca = scene_features(
            extractor_for(preset, denoiser).eval(),
            data.pixels,
            data.valid,
            rim,
            preset.wanted_components(groups, disjoint),
            self.monitor.progress,
            0 if denoiser is None else preset.wanted_band_components(groups, disjoint),
        )
        pixels, labels = self._labelled(rim)
        mosaic = mosaic_of(features)
        if preset.components.discriminative:
            kept = pca.discriminative(mosaic[pixels[:, 0], pixels[:, 1]], labels)
            if len(kept) < mosaic.shape[2]:  # else nothing is copied
                features, mosaic, pca = [one[..., kept] for one in features], mosaic[..., kept], pca.select(kept)
        self.seconds[f"{name} features"] = time.perf_counter() - started
        inner = [cropped(one.movedim(-1, 0), rim).movedim(0, -1) for one in features]
        smoothing = Smoothing(most, sharpness(inner, data.valid)).to(self.compute.device)
        members = preset.members(disjoint)
        shape = preset.vit(mosaic.shape[2], len(data.scenes[0].classes), members, pca.band_components)
        return TrainingSet(name, preset, denoiser, pca, shape, mosaic, pixels, labels, smoothing, rim)

    def _classifier(self, training_set: TrainingSet, held_out: HeldOut) -> Fitted:
        """Train the attention members on all training pixels, and put the model together."""
        trained = self.train_vit(training_set)
        model = Classifier(
            training_set.preset,
            self.data.normaliser,
            self.data.fill,
            training_set.denoiser,
            training_set.pca,
            Ensemble(
                trained,
                smoothing=Smoothing(held_out.iterations, float(training_set.smoothing.sharpness)),
                temperature=held_out.temperature.value,
            ),
        )
        return Fitted(model.to(self.compute.device).eval(), held_out.temperature)

    def train_vit(self, training_set: TrainingSet) -> SpectralViT | FovealViT:
        """Train the attention members on all training pixels."""
        title = "SpectralViT" if training_set.denoiser else "SpectralViT on raw bands"
        every = torch.ones_like(training_set.labels, dtype=torch.bool)
        return self._train_vit(training_set.name, title, training_set, every)

    def train_copy(self, training_set: TrainingSet, held: NDArray[np.bool_], number: int, of: int) -> Tensor:
        """Train a copy of the attention members without the pixels of a fold, (n,) bool, and score these pixels.

        Returns
        -------
        Tensor
            (iterations + 1, m, K), see `spectraldiff.ensemble.calibration.smoothed_scores`.
        """
        raw = "" if training_set.name == "classifier" else " on raw bands"
        out = torch.from_numpy(held).to(training_set.labels.device)
        title = f"Calibration {number} of {of}{raw}"
        copy = self._train_vit(f"{training_set.name} calibration {number}", title, training_set, ~out)
        return smoothed_scores(copy, training_set.mosaic, training_set.pixels[out], training_set.smoothing)

    def _train_vit(self, name: str, title: str, training_set: TrainingSet, used: Tensor) -> SpectralViT | FovealViT:
        """Train the attention members on some of the pixels, (n,) bool; each training begins with the same weights."""
        torch.manual_seed(self.seed)
        settings = training_set.preset.classifier
        vit = new_vit(training_set.shape).to(self.compute.device)
        task = ClassifierTask(
            vit,
            training_set.mosaic,
            training_set.pixels[used],
            training_set.labels[used],
            settings.loop.batch,
            settings.noise,
            self.seed,
            settings.balance,
        )
        loop = Loop(vit, task, settings.steps(task.steps), settings.loop, self.compute, self.seed)
        trained = self.run_loop(name, title, loop)
        assert isinstance(trained, SpectralViT | FovealViT)
        return trained

    def _held_out(self, training_set: TrainingSet) -> HeldOut:
        """Fit temperature and smoothing to pixels that copies of the classifier are not trained on."""
        groups = groups_of(self.data.scenes, self.data.splits)
        folds = hold_out(training_set.labels.cpu().numpy(), groups, self.seed)
        count = sum(int(fold.sum()) for fold in folds)
        if count < LEAST:
            return too_few(count)
        scores = [self.train_copy(training_set, fold, at, len(folds)) for at, fold in enumerate(folds, start=1)]
        labels = training_set.labels.cpu()
        return choose(torch.cat(scores, 1), torch.cat([labels[torch.from_numpy(fold)] for fold in folds]))

    def _labelled(self, rim: int) -> tuple[Tensor, Tensor]:
        """Return row and column, (n, 2), on the mosaic, and class from 0, (n,), of the training pixels."""
        pixels, labels, top = [], [], rim
        for scene, split in zip(self.data.scenes, self.data.splits, strict=True):
            pixels.append(np.argwhere(split.train) + np.array([top, rim]))
            labels.append(scene.labels[split.train].astype(np.int64) - 1)
            top += scene.labels.shape[0] + 2 * rim
        device = self.compute.device
        return torch.from_numpy(np.concatenate(pixels)).to(device), torch.from_numpy(np.concatenate(labels)).to(device)
