"""The trained model: from raw pixels to class scores, with all that it learned from its scene."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spectraldiff.data.scene import LabelledScene
from spectraldiff.models.diffusion import Denoiser, NoiseSchedule
from spectraldiff.models.features import FeatureExtractor
from spectraldiff.models.foveal_vit import FovealViT, new_vit
from spectraldiff.models.linear_members import KernelMembers, LinearMembers, Outside, PixelContext
from spectraldiff.models.normaliser import Normaliser, filled_window
from spectraldiff.models.padding import cropped
from spectraldiff.models.pca import PCA
from spectraldiff.models.presets import Preset
from spectraldiff.models.score_smoothing import RADIUS, ScorePart, Smoothing
from spectraldiff.models.unet import DenoisingUNet
from spectraldiff.models.vit import SpectralViT, ViTConfig
from spectraldiff_runtime.window import Window

# Output pixels along the side of the tiles of `predict`.
TILE = 64
NO_OUTSIDE = 255  # percent of pixels without data


@dataclass(frozen=True)
class Ensemble:
    """The members of a classifier and how their scores are combined.

    Attributes
    ----------
    vit
        The attention members; None where the linear members are all.
    linear
        The closed-form members; None where there are none.
    smoothing
        With the most iterations of any member.
    temperature
        What scores are divided by, see `spectraldiff.ensemble.calibration`.
    share
        What the ViT's scores are multiplied by: its weight in the ensemble.
    vit_iterations
        Iterations of smoothing of the ViT's scores; None for all.
    prior
        (K,) log prior of the classes that is added to the scores; None for 0.
    outside
        Says how far pixels are from the training classes, and reads no farther around a pixel than the members do; None
        where nothing does.
    kernel
        Members that read a kernel's features of the bands; None for none. Where there are some, there is `linear`, too.
    """

    vit: SpectralViT | FovealViT | None
    linear: LinearMembers | None = None
    smoothing: Smoothing = field(default_factory=lambda: Smoothing(0))
    temperature: float = 1.0
    share: float = 1.0
    vit_iterations: int | None = None
    prior: Tensor | None = None
    outside: Outside | None = None
    kernel: KernelMembers | None = None


class SceneLayers(NamedTuple):
    """What a model says of a scene, (H, W) each; 0 where the scene has no data.

    `classes` and `other` have the labels' type: the map, and the map with an offset added to the scores. `confidence`
    is float32, 0..1; `outside` uint8 percent, see `Outside`, 255 without data, None where the model does not know.
    """

    classes: NDArray[Any]
    confidence: NDArray[np.float32]
    other: NDArray[Any]
    outside: NDArray[np.uint8] | None


class WindowModel(Protocol):
    """What maps a scene window by window: a `Classifier`, or its exported file.

    Attributes
    ----------
    side
        Pixels along the side of the windows that a scene is cut into.
    classes
        K.
    knows_outside
        Whether it says how far pixels are from the training classes.
    """

    @property
    def side(self) -> int: ...
    @property
    def classes(self) -> int: ...
    @property
    def knows_outside(self) -> bool: ...

    def predict_window(self, scene: LabelledScene, window: Window, offset: Tensor) -> SceneLayers:
        """Return what `predict_scene` does for a window of at most `side` pixels along a side, (h, w) each.

        Pixels without data have classes, too: whoever asks takes them out.
        """
        ...


def predict_scene(
    model: WindowModel,
    scene: LabelledScene,
    offset: Tensor,
    report: Callable[[int, int], None] = lambda done, total: None,
    wanted: NDArray[np.bool_] | None = None,
) -> SceneLayers:
    """Map a scene: its classes and their confidence, and its classes with an offset, (K,), added to the scores.

    With `wanted`, (H, W), windows without any such pixel are left out: 0 as where there is no data. All are arrays like
    the scene's labels.
    """
    found, side = no_layers(scene.labels.shape, scene.labels.dtype, model.knows_outside), model.side
    tiles = [
        (Window(r, min(r + side, part.row1), c, min(c + side, part.col1)), (row - part.row0, column - part.col0))
        for part, (row, column) in scene.parts
        for r in range(part.row0, part.row1, side)
        for c in range(part.col0, part.col1, side)
    ]
    places = [_shifted(window, shift) for window, shift in tiles]
    chosen = [(w, at) for (w, _), at in zip(tiles, places, strict=True) if wanted is None or wanted[at].any()]
    for done, (window, at) in enumerate(chosen, start=1):
        for layer, part in zip(found, model.predict_window(scene, window, offset), strict=True):
            if layer is not None and part is not None:
                np.copyto(layer[at], part, casting="unsafe")
        report(done, len(chosen))
    empty = ~scene.valid
    nothing = no_layers(scene.labels.shape, scene.labels.dtype, model.knows_outside)
    for layer, without in zip(found, nothing, strict=True):
        if layer is not None and without is not None:
            np.copyto(layer, without, where=empty)
    return found


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
    ensemble
        The members and how their scores are combined.
    """

    fill: Tensor
    pca_mean: Tensor
    pca_components: Tensor
    temperature: Tensor
    share: Tensor
    prior: Tensor

    def __init__(
        self,
        preset: Preset,
        normaliser: Normaliser,
        fill: Tensor,
        denoiser: Denoiser | None,
        pca: PCA,
        ensemble: Ensemble,
    ) -> None:
        super().__init__()
        self.preset = preset
        self.normaliser = normaliser
        self.extractor = extractor_for(preset, denoiser)
        self.vit, self.linear, self.smoothing = ensemble.vit, ensemble.linear, ensemble.smoothing
        self.kernel, self.outside = ensemble.kernel, ensemble.outside
        iterations = ensemble.vit_iterations
        self.vit_iterations = self.smoothing.iterations if iterations is None else iterations
        self.register_buffer("fill", fill.float())
        self.register_buffer("pca_mean", pca.mean)
        self.register_buffer("pca_components", pca.components)
        self.register_buffer("temperature", torch.tensor(ensemble.temperature))
        self.register_buffer("share", torch.tensor(ensemble.share))
        self.register_buffer("prior", torch.zeros(self.classes) if ensemble.prior is None else ensemble.prior.float())

    @property
    def halo(self) -> int:
        """Pixels around a pixel that its class depends on."""
        members = [members for members in (self.linear, self.kernel) if members is not None]
        contexts = [(one.radius, one.iterations) for found in members for one in found.contexts]
        if self.vit is not None:
            contexts.append((self.vit.config.radius, self.vit_iterations))
        return self.extractor.halo + max(radius + RADIUS * iterations for radius, iterations in contexts)

    @property
    def classes(self) -> int:
        """K."""
        if self.vit is not None:
            return self.vit.config.classes
        assert self.linear is not None
        return self.linear.bias.shape[1]

    @property
    def side(self) -> int:
        """Pixels along the side of the windows that it maps a scene in."""
        return TILE

    @property
    def knows_outside(self) -> bool:
        """Whether it says how far pixels are from the training classes."""
        return self.outside is not None

    @property
    def pca(self) -> PCA:
        """The features' PCA."""
        return PCA(self.pca_mean, self.pca_components, float("nan"))

    def forward(self, tile: Tensor) -> Tensor:
        """Map raw pixels (N, B, T, T) to class scores (N, K, T - 2 halo, T - 2 halo); their softmax is calibrated."""
        return self._scores(self.extractor(self.normaliser(tile)))

    def _scores(self, features: Tensor) -> Tensor:
        """Map features (N, D, T', T') to class scores."""
        components, parts = self.pca(features), []  # (N, P, T', T')
        if self.vit is not None:
            tokens = self.vit.embed(components.movedim(1, -1)).movedim(-1, 1)  # (N, C, T', T')
            scores = self.vit.slide(tokens) * self.share
            parts.append(ScorePart(scores, self.vit.config.radius, self.vit_iterations))
        for members in (self.linear, self.kernel):
            if members is None:
                continue
            for scores, context in zip(members(features), members.contexts, strict=True):
                parts.append(ScorePart(scores, context.radius, context.iterations))
        total = self.smoothing.combined(parts, self.smoothing.guides(components))  # (N, K, T - 2 halo, T - 2 halo)
        return total / self.temperature + self.prior[:, None, None]

    def predict(
        self, scene: LabelledScene, report: Callable[[int, int], None] = lambda done, total: None
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return the class map of a scene, (H, W) of the labels' type, and the probability of these classes.

        The probabilities are (H, W) float32, 0..1; both are 0 where the scene has no data.  This is the deployed
        computation in float32: mirrored edges, missing pixels filled, tile by tile.
        """
        return predict_scene(self, scene, torch.zeros_like(self.prior), report)[:2]

    @torch.no_grad()
    def predict_window(self, scene: LabelledScene, window: Window, offset: Tensor) -> SceneLayers:
        """Return the layers of a window, see `WindowModel`."""
        halo, (height, width) = self.halo, (window.height, window.width)
        edges = window.row0 - halo, window.row1 + halo, window.col0 - halo, window.col1 + halo
        tile = square(filled_window(scene, self.fill, *edges), TILE + 2 * halo)
        features = self.extractor(self.normaliser(tile[None].to(self.fill.device)))
        scores = self._scores(features)[0]
        best, classes = scores.softmax(0).max(0)
        others = (scores + offset.to(self.fill.device, torch.float32)[:, None, None]).argmax(0)
        outside = None if self.outside is None else self.outside_of(features)[0, :height, :width].cpu().numpy()
        kind = scene.labels.dtype
        return SceneLayers(
            (classes[:height, :width].cpu().numpy() + 1).astype(kind),
            best[:height, :width].cpu().numpy(),
            (others[:height, :width].cpu().numpy() + 1).astype(kind),
            outside,
        )

    def outside_of(self, features: Tensor) -> Tensor:
        """Map features (N, D, T', T') to how far pixels are from the training classes, percent, as large as scores."""
        assert self.outside is not None
        return self.outside.percent(self.distance_of(features))

    def scores_and_distance(self, tile: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map raw pixels (N, B, T, T) to class scores, and to the distance from the training classes, (N, 1, h, w).

        The distance is None where nothing tells it.
        """
        features = self.extractor(self.normaliser(tile))
        return self._scores(features), None if self.outside is None else self.distance_of(features)

    def distance_of(self, features: Tensor) -> Tensor:
        """Map features to the distance from the training classes, (N, 1, h, w), as large as scores."""
        assert self.outside is not None
        rim = self.halo - self.extractor.halo - self.outside.radius
        return self.outside.distance(self.outside.components(cropped(features, rim)))


def no_layers(shape: tuple[int, ...], kind: np.dtype[Any], outside: bool) -> SceneLayers:
    """Return the layers of so many pixels without any data."""
    classes, others = np.zeros(shape, kind), np.zeros(shape, kind)
    return SceneLayers(
        classes, np.zeros(shape, np.float32), others, np.full(shape, NO_OUTSIDE, np.uint8) if outside else None
    )


def _shifted(window: Window, shift: tuple[int, int]) -> tuple[slice, slice]:
    row, column = shift
    return slice(window.row0 + row, window.row1 + row), slice(window.col0 + column, window.col1 + column)


def extractor_for(preset: Preset, denoiser: Denoiser | None) -> FeatureExtractor:
    """Return the preset's extractor around a trained denoiser."""
    features = preset.features
    if preset.raw:
        return FeatureExtractor(None, features.timestep, features.layer, concat_bands=True)
    return FeatureExtractor(denoiser, features.timestep, features.layer, features.concat_bands)


def square(tile: Tensor, side: int) -> Tensor:
    """Pad (B, h, w) with zeros to `side` x `side`; what lies there is cut off again by the caller."""
    return nn.functional.pad(tile, (0, side - tile.shape[2], 0, side - tile.shape[1]))


def new_denoiser(preset: Preset, bands: int, mean: Tensor, std: Tensor) -> Denoiser:
    """Return an untrained denoiser; `mean` and `std`, (B,), are those of the normalised bands."""
    process = preset.diffusion
    schedule = NoiseSchedule(process.timesteps, process.beta_first, process.beta_last)
    return Denoiser(DenoisingUNet(preset.unet(bands)), schedule, process.parameterisation, mean, std)


def empty_classifier(
    preset: Preset,
    bands: int,
    shape: ViTConfig,
    features: int,
    iterations: int = 0,
    *,
    contexts: Sequence[PixelContext] = (),
    vit_iterations: int | None = None,
    outside: tuple[int, int, int] | None = None,
) -> Classifier:
    """Return a classifier of the right shape to load weights into.

    Parameters
    ----------
    preset
        What was trained.
    bands, features
        B, and D, the length of a feature vector before the PCA.
    shape
        Of the ViT; its classes and components are those of the model.
    iterations
        Of the smoothing.
    contexts
        Of the linear members.
    vit_iterations
        Of the ViT's smoothing, all by default; below 0 where the model has no ViT.
    outside
        Window, components and classes of what says how far pixels are from the training; None for none.
    """

    def zeros() -> Tensor:
        return torch.zeros(bands)  # one for each: loading fills them in place

    denoiser = None if preset.raw else new_denoiser(preset, bands, zeros(), zeros())
    pca = PCA(torch.zeros(features), torch.zeros(shape.components, features), float("nan"))
    normaliser, smoothing = Normaliser(zeros(), zeros()), Smoothing(iterations)
    vit = None if vit_iterations is not None and vit_iterations < 0 else new_vit(shape)
    linear = LinearMembers(contexts, features, shape.classes) if contexts else None
    far = None if outside is None else Outside(*outside, features)
    ensemble = Ensemble(vit, linear, smoothing, vit_iterations=vit_iterations, outside=far)
    return Classifier(preset, normaliser, zeros(), denoiser, pca, ensemble)


def class_facts(scene: LabelledScene) -> list[dict[str, Any]]:
    """Return the scene's classes as plain values."""
    return [{"value": c.value, "name": c.name, "colour": list(c.colour)} for c in scene.classes]
