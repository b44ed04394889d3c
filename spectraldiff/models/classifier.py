"""The trained model: from raw pixels to class scores, with all that it learned from its scene."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spectraldiff.data.scene import LabelledScene
from spectraldiff.models.diffusion import Denoiser, NoiseSchedule
from spectraldiff.models.features import FeatureExtractor
from spectraldiff.models.foveal_vit import FovealViT, new_vit
from spectraldiff.models.normaliser import Normaliser
from spectraldiff.models.padding import cropped, mirrored
from spectraldiff.models.pca import PCA
from spectraldiff.models.presets import Preset
from spectraldiff.models.score_smoothing import Smoothing
from spectraldiff.models.unet import DenoisingUNet
from spectraldiff.models.vit import SpectralViT, ViTConfig

# Output pixels along the side of the tiles of `predict`.
TILE = 64


class Classifier(nn.Module):
    """Normalisation, feature extractor, PCA, SpectralViT and smoothing of one run.

    Parameters
    ----------
    preset
        What was trained.
    normaliser
        The training scene's ranges.
    fill
        (B,) raw values that replace missing pixels: the scene's mean spectrum.
    denoiser
        None with raw features.
    pca
        The features' PCA.
    vit
        The classifier proper.
    temperature
        What its scores are divided by, see `spectraldiff.training.calibration`.
    smoothing
        What its scores pass through; none by default.
    """

    fill: Tensor
    pca_mean: Tensor
    pca_components: Tensor
    temperature: Tensor

    def __init__(
        self,
        preset: Preset,
        normaliser: Normaliser,
        fill: Tensor,
        denoiser: Denoiser | None,
        pca: PCA,
        vit: SpectralViT | FovealViT,
        temperature: float = 1.0,
        smoothing: Smoothing | None = None,
    ) -> None:
        super().__init__()
        self.preset = preset
        self.normaliser = normaliser
        self.extractor = extractor_for(preset, denoiser)
        self.vit = vit
        self.smoothing = smoothing or Smoothing(0)
        self.register_buffer("fill", fill.float())
        self.register_buffer("pca_mean", pca.mean)
        self.register_buffer("pca_components", pca.components)
        self.register_buffer("temperature", torch.tensor(temperature))

    @property
    def halo(self) -> int:
        """Pixels around a pixel that its class depends on."""
        return self.extractor.halo + self.vit.config.radius + self.smoothing.halo

    @property
    def pca(self) -> PCA:
        """The features' PCA."""
        return PCA(self.pca_mean, self.pca_components, float("nan"))

    def forward(self, tile: Tensor) -> Tensor:
        """Map raw pixels (N, B, T, T) to class scores (N, K, T - 2 halo, T - 2 halo); their softmax is calibrated."""
        features = self.pca(self.extractor(self.normaliser(tile)))  # (N, P, T', T')
        tokens = self.vit.embed(features.movedim(1, -1)).movedim(-1, 1)  # (N, C, T', T')
        guides = self.smoothing.guides(cropped(features, self.vit.config.radius))
        return self.smoothing(self.vit.slide(tokens), guides) / self.temperature  # type: ignore[no-any-return]

    @torch.no_grad()
    def predict(
        self, scene: LabelledScene, report: Callable[[int, int], None] = lambda done, total: None
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return the class map of a scene, (H, W) of the labels' type, and the probability of these classes.

        The probabilities are (H, W) float32, 0..1; both are 0 where the scene has no data.  This is the deployed
        computation in float32: mirrored edges, missing pixels filled, tile by tile.
        """
        padded = mirrored(filled(scene, self.fill), self.halo)
        height, width = scene.labels.shape
        classes = np.zeros((height, width), scene.labels.dtype)
        confidence = np.zeros((height, width), np.float32)
        corners = [(r, c) for r in range(0, height, TILE) for c in range(0, width, TILE)]
        for done, (row, column) in enumerate(corners, start=1):
            side = TILE + 2 * self.halo
            tile = square(padded[:, row : row + side, column : column + side], side)
            best, found = self(tile[None].to(self.fill.device))[0].softmax(0).max(0)
            rows, columns = (slice(at, at + TILE) for at in (row, column))
            h, w = classes[rows, columns].shape
            classes[rows, columns] = found[:h, :w].cpu().numpy() + 1
            confidence[rows, columns] = best[:h, :w].cpu().numpy()
            report(done, len(corners))
        classes[~scene.valid], confidence[~scene.valid] = 0, 0
        return classes, confidence


def extractor_for(preset: Preset, denoiser: Denoiser | None) -> FeatureExtractor:
    """Return the preset's extractor around a trained denoiser."""
    features = preset.features
    if preset.raw:
        return FeatureExtractor(None, features.timestep, features.layer, concat_bands=True)
    return FeatureExtractor(denoiser, features.timestep, features.layer, features.concat_bands)


def filled(scene: LabelledScene, fill: Tensor) -> Tensor:
    """Return the scene's raw pixels as (B, H, W) float32, missing ones replaced by `fill`, (B,)."""
    cube = torch.from_numpy(np.where(scene.valid[..., None], scene.cube, fill.cpu().numpy()).astype(np.float32))
    return cube.permute(2, 0, 1).contiguous()


def square(tile: Tensor, side: int) -> Tensor:
    """Pad (B, h, w) with zeros to `side` x `side`; what lies there is cut off again by the caller."""
    return nn.functional.pad(tile, (0, side - tile.shape[2], 0, side - tile.shape[1]))


def new_denoiser(preset: Preset, bands: int, mean: Tensor, std: Tensor) -> Denoiser:
    """Return an untrained denoiser; `mean` and `std`, (B,), are those of the normalised bands."""
    process = preset.diffusion
    schedule = NoiseSchedule(process.timesteps, process.beta_first, process.beta_last)
    return Denoiser(DenoisingUNet(preset.unet(bands)), schedule, process.parameterisation, mean, std)


def empty_classifier(preset: Preset, bands: int, shape: ViTConfig, features: int, iterations: int = 0) -> Classifier:
    """Return a classifier of the right shape to load weights into.

    Parameters
    ----------
    preset
        What was trained.
    bands, features
        B, and D, the length of a feature vector before the PCA.
    shape
        Of the classifier proper.
    iterations
        Of its smoothing.
    """

    def zeros() -> Tensor:
        return torch.zeros(bands)  # one for each: loading fills them in place

    denoiser = None if preset.raw else new_denoiser(preset, bands, zeros(), zeros())
    pca = PCA(torch.zeros(features), torch.zeros(shape.components, features), float("nan"))
    normaliser, smoothing = Normaliser(zeros(), zeros()), Smoothing(iterations)
    return Classifier(preset, normaliser, zeros(), denoiser, pca, new_vit(shape), smoothing=smoothing)


def class_facts(scene: LabelledScene) -> list[dict[str, Any]]:
    """Return the scene's classes as plain values."""
    return [{"value": c.value, "name": c.name, "colour": list(c.colour)} for c in scene.classes]
