"""Fitting the classifier: features, components, held-out pixels, the ensemble, smoothing and temperature."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spectraldiff.data.scene import LabelledScene
from spectraldiff.ensemble.calibration import (
    LEAST,
    HeldOut,
    Temperature,
    choose,
    cross_calibrated,
    smoothed_scores,
    too_few,
)
from spectraldiff.ensemble.context_inputs import mosaic_of
from spectraldiff.ensemble.held_out_loss import log_priors
from spectraldiff.ensemble.mosaic import TILE, Layout, Mosaic, TileMosaic, fill_tiles, sampled_pca, tiles_around
from spectraldiff.ensemble.outside import OutsideFit
from spectraldiff.ensemble.selection import Selection
from spectraldiff.models.classifier import Classifier, Ensemble, extractor_for
from spectraldiff.models.diffusion import Denoiser
from spectraldiff.models.features import FeatureExtractor, scene_features
from spectraldiff.models.foveal_vit import FovealViT, new_vit
from spectraldiff.models.padding import cropped
from spectraldiff.models.pca import PCA
from spectraldiff.models.presets import Preset
from spectraldiff.models.score_smoothing import Smoothing, sharpness
from spectraldiff.models.vit import SpectralViT, ViTConfig
from spectraldiff.splits.hold_out import groups_of, hold_out
from spectraldiff.training.compute import Compute
from spectraldiff.training.loop import Loop
from spectraldiff.training.monitor import Monitor
from spectraldiff.training.tasks import ClassifierTask
from spectraldiff.training.training_data import TrainingData
from spectraldiff_runtime.window import Window

WHOLE = 512 * 2**20  # bytes of features up to which those of all pixels are computed


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
    held_out
        (n, K) scores of the training pixels, prior included, by models that never saw their folds; NaN for pixels that
        were not scored so. None where the split has test pixels.
    outside
        How the distance from the training was chosen; None where the model has none.
    """

    model: Classifier
    temperature: Temperature
    selection: Selection | None = None
    held_out: NDArray[np.float64] | None = None
    outside: OutsideFit | None = None


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
        (H, W, P) components of all scenes with their rims: of all pixels, or round the training pixels of large ones.
    pixels, labels
        (n, 2) row and column on the mosaic and (n,) class from 0 of the training pixels.
    smoothing
        With the most iterations.
    rim
        Pixels around a training pixel that are read at most.
    layout
        Where the scenes lie on the mosaic.
    samples
        The parts of large scenes that stand for all of them; None where the mosaic holds all pixels.
    """

    name: str
    preset: Preset
    denoiser: Denoiser | None
    pca: PCA
    shape: ViTConfig
    mosaic: Mosaic
    pixels: Tensor
    labels: Tensor
    smoothing: Smoothing
    rim: int
    layout: Layout
    samples: list[tuple[int, Window]] | None = None


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
    prefix
        Of the names of all stages.
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
        prefix: str = "",
    ) -> None:
        self.data, self.preset, self.seed, self.compute, self.monitor = data, preset, seed, compute, monitor
        self.run_loop, self.seconds, self.prefix = run_loop, seconds, prefix

    def fit_attention(self, training_set: TrainingSet) -> Fitted:
        """Fit the attention members alone, with their temperature and smoothing."""
        held_out, scores = self._held_out(training_set)
        return self._classifier(training_set, held_out, scores)

    def training_set(self, preset: Preset, denoiser: Denoiser | None) -> TrainingSet:
        """Compute the features and reduce them."""
        name = self.prefix + ("classifier" if preset == self.preset else "raw")
        self.monitor.stage("Features" if denoiser else "Raw bands", "tiles")
        started = time.perf_counter()
        data, disjoint, groups = self.data, self.data.disjoint, self.data.groups()
        # A buffer between training and test pixels promises that no test pixel sees beyond the window.
        most = 0 if any(split.buffered for split in data.splits) else preset.smoothing.iterations
        rim = preset.classifier.radius + Smoothing(most).halo
        wanted = preset.wanted_components(groups, disjoint)
        band_components = 0 if denoiser is None else preset.wanted_band_components(groups, disjoint)
        place = _Place(extractor_for(preset, denoiser).eval(), rim, wanted, band_components)
        large = place.size(data.scenes) > WHOLE or any(scene.canvas for scene in data.scenes)
        found = self._round_labels(preset, place) if large else self._everywhere(preset, place)
        self.seconds[f"{name} features"] = time.perf_counter() - started
        members = preset.members(disjoint)
        shape = preset.vit(found.mosaic.shape[2], len(data.scenes[0].classes), members, found.pca.band_components)
        smoothing = Smoothing(most, found.sharpness).to(self.compute.device)
        pixels, labels = found.pixels, found.labels
        return TrainingSet(
            name, preset, denoiser, found.pca, shape, found.mosaic, pixels, labels, smoothing, rim, found.layout,
            found.samples,
        )  # fmt: skip

    def _everywhere(self, preset: Preset, place: "_Place") -> "_Reduced":
        """Compute and reduce the features of all pixels."""
        data = self.data
        layout = Layout(tuple(scene.cube.shape[:2] for scene in data.scenes), place.rim)
        features, pca = scene_features(
            place.extractor, data.pixels, data.valid, place.rim, place.components, self.monitor.progress, place.bands
        )
        pixels, labels = self._labelled(layout)
        mosaic = mosaic_of(features)
        if preset.components.discriminative:
            kept = pca.discriminative(mosaic[pixels[:, 0], pixels[:, 1]], labels)
            if len(kept) < mosaic.shape[2]:  # else nothing is copied
                features, mosaic, pca = [one[..., kept] for one in features], mosaic[..., kept], pca.select(kept)
        inner = [cropped(one.movedim(-1, 0), place.rim).movedim(0, -1) for one in features]
        return _Reduced(mosaic, pca, pixels, labels, layout, sharpness(inner, data.valid))

    def _round_labels(self, preset: Preset, place: "_Place") -> "_Reduced":
        """Compute and reduce the features round the training pixels, and of parts that stand for the scenes."""
        data, extractor = self.data, place.extractor
        frame = -(-place.rim // TILE) * TILE
        layout = Layout(tuple(scene.cube.shape[:2] for scene in data.scenes), frame, TILE)
        pixels, labels = self._labelled(layout)
        samples, progress = data.samples(), self.monitor.progress
        pca = sampled_pca(extractor, data.pixels, samples, place.components, progress, place.bands)
        pca = pca.to(self.compute.device)
        tiles = torch.cat([tiles_around(pixels.cpu(), place.rim, layout.size), layout.tiles_of(samples)])
        tiles = torch.unique(tiles, dim=0)
        mosaic = TileMosaic(layout, tiles, len(pca.components), data.folder, data.memory, self.compute.device)
        if mosaic.file is not None:
            self.monitor.message(f"Features of {len(tiles):,} tiles are kept on disk, in '{mosaic.file}', meanwhile")
        fill_tiles(extractor, data.pixels, mosaic, pca, progress)
        if preset.components.discriminative:
            kept = pca.discriminative(mosaic[pixels[:, 0], pixels[:, 1]], labels)
            if len(kept) < mosaic.shape[2]:
                mosaic.select(kept.cpu())
                pca = pca.select(kept)
        parts = layout.parts_of(samples)
        known = [torch.from_numpy(data.scenes[index].read(window)[1]) for index, window in samples]
        sharp = sharpness([mosaic[part] for part in parts], [one.to(self.compute.device) for one in known])
        return _Reduced(mosaic, pca, pixels, labels, layout, sharp, samples)

    def _classifier(self, training_set: TrainingSet, held_out: HeldOut, scores: NDArray[np.float64] | None) -> Fitted:
        """Train the attention members on all training pixels, and put the model together.

        They have learnt the training pixels' shares of the classes: another prior's are added instead.
        """
        trained, labels = self.train_vit(training_set), training_set.labels.cpu().numpy()
        classes = training_set.shape.classes
        prior = self.data.prior.logs(labels, classes) - log_priors(labels, classes)
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
                prior=torch.from_numpy(prior),
            ),
        )
        found = None if scores is None else scores + prior
        return Fitted(model.to(self.compute.device).eval(), held_out.temperature, held_out=found)

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
        raw = " on raw bands" if training_set.name.endswith("raw") else ""
        out = torch.from_numpy(held).to(training_set.labels.device)
        title = f"Calibration {number} of {of}{raw}"
        copy = self._train_vit(f"{training_set.name} calibration {number}", title, training_set, ~out)
        return smoothed_scores(copy, training_set.mosaic, training_set.pixels[out], training_set.smoothing)

    def _train_vit(self, name: str, title: str, training_set: TrainingSet, used: Tensor) -> SpectralViT | FovealViT:
        """Train the attention members on some of the pixels, (n,) bool; each training begins with the same weights."""
        torch.manual_seed(self.seed)
        settings = training_set.preset.classifier
        vit = new_vit(training_set.shape).to(self.compute.device)
        mosaic = training_set.mosaic
        if self.compute.bf16 and isinstance(mosaic, Tensor):
            mosaic = mosaic.bfloat16()  # as the first layer reads it
        task = ClassifierTask(
            vit,
            mosaic,
            training_set.pixels[used],
            training_set.labels[used],
            settings.loop.batch,
            settings.noise,
            self.seed,
            settings.balance,
        )
        compute = replace(self.compute, micro_batch=None)  # its batches are small
        loop = Loop(vit, task, settings.steps(task.steps), settings.loop, compute, self.seed)
        trained = self.run_loop(name, title, loop)
        assert isinstance(trained, SpectralViT | FovealViT)
        return trained

    def _held_out(self, training_set: TrainingSet) -> tuple[HeldOut, NDArray[np.float64] | None]:
        """Fit temperature and smoothing to pixels that copies of the classifier are not trained on.

        With folds, the scores of these pixels come with it, (n, K), see `Fitted.held_out`.
        """
        if self.data.folded:
            return self._folded(training_set)
        groups = groups_of(self.data.scenes, self.data.splits)
        folds = hold_out(training_set.labels.cpu().numpy(), groups, self.seed)
        count = sum(int(fold.sum()) for fold in folds)
        if count < LEAST:
            return too_few(count), None
        scores = [self.train_copy(training_set, fold, at, len(folds)) for at, fold in enumerate(folds, start=1)]
        labels = training_set.labels.cpu()
        chosen = choose(torch.cat(scores, 1), torch.cat([labels[torch.from_numpy(fold)] for fold in folds]))
        return chosen, None

    def _folded(self, training_set: TrainingSet) -> tuple[HeldOut, NDArray[np.float64]]:
        numbers = self.data.fold_numbers()
        folds = [fold for fold in np.unique(numbers) if fold]
        scores = [
            self.train_copy(training_set, numbers == fold, at, len(folds)) for at, fold in enumerate(folds, start=1)
        ]
        pixels = np.concatenate([np.flatnonzero(numbers == fold) for fold in folds])
        labels, joined = training_set.labels.cpu()[torch.from_numpy(pixels)], torch.cat(scores, 1)
        found = np.full((len(numbers), training_set.shape.classes), np.nan)
        found[pixels] = cross_calibrated(joined, labels, torch.from_numpy(numbers[pixels])).numpy()
        return too_few(len(pixels)) if len(pixels) < LEAST else choose(joined, labels), found

    def _labelled(self, layout: Layout) -> tuple[Tensor, Tensor]:
        """Return row and column, (n, 2), on the mosaic, and class from 0, (n,), of the training pixels."""
        pixels, labels = [], []
        for top, scene, split in zip(layout.tops, self.data.scenes, self.data.splits, strict=False):
            pixels.append(scene.on_scene(np.argwhere(split.train)) + np.array([top, layout.frame]))
            labels.append(scene.labels[split.train].astype(np.int64) - 1)
        device = self.compute.device
        return torch.from_numpy(np.concatenate(pixels)).to(device), torch.from_numpy(np.concatenate(labels)).to(device)


@dataclass(frozen=True)
class _Place:
    """What computes features, how far around pixels, and how many components of them, and of bands, are wanted."""

    extractor: FeatureExtractor
    rim: int
    components: int
    bands: int

    def size(self, scenes: Sequence[LabelledScene]) -> int:
        """Return the bytes of the components of all pixels of some scenes, with their rims."""
        shapes = [scene.cube.shape[:2] for scene in scenes]
        pixels = sum(int(height + 2 * self.rim) * int(width + 2 * self.rim) for height, width in shapes)
        return 4 * pixels * (self.components + self.bands)


@dataclass(frozen=True)
class _Reduced:
    """Features reduced by a PCA, the training pixels among them, and what guides are multiplied by."""

    mosaic: Mosaic
    pca: PCA
    pixels: Tensor
    labels: Tensor
    layout: Layout
    sharpness: float
    samples: list[tuple[int, Window]] | None = None
