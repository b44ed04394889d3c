"""The two presets: `paper`, faithful to the text, and `fast`, the default, for two CPU cores and minutes."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from spectraldiff.models.diffusion import Parameterisation
from spectraldiff.models.unet import Kernel, UNetConfig
from spectraldiff.models.vit import ViTConfig
from spectraldiff_runtime.errors import RunError, UsageError

Features = Literal["diffusion", "raw"]


@dataclass(frozen=True)
class LoopSettings:
    """How one of the two networks is trained.

    Attributes
    ----------
    batch
        Instances (diffusion) or windows (classifier) a step.
    lr
        Highest learning rate.
    schedule
        `"constant"`, or `"cosine"`: a linear rise over the first `warmup` share of the steps, then half a cosine to 0.
    warmup
        Share of the steps, 0 .. 1.
    weight_decay
        Decoupled weight decay (AdamW); with 0 this is Adam.
    beta2
        Decay of Adam's second moment.
    ema
        Decay of the exponential moving average of the weights that is kept as the result.
    patience
        Stop when the mean loss over this many steps has not fallen below the best so far by 0.1 %; 0 never stops.
    """

    batch: int
    lr: float
    schedule: Literal["constant", "cosine"]
    warmup: float
    weight_decay: float
    beta2: float
    ema: float
    patience: int


@dataclass(frozen=True)
class Preset:
    """Everything that decides what is trained, apart from scene, split and seed.

    Attributes
    ----------
    name
        What reports call it.
    steps, beta_first, beta_last
        T and the ends of the linear noise schedule.
    parameterisation
        What the U-Net predicts, see `spectraldiff.models.diffusion.Denoiser`.
    positions
        Spectral positions wanted after the first convolution; its stride is chosen from the number of bands.
        None: stride 1.
    stem_channels, stem_width, channels, first_kernel, second_kernel, resample_kernel
        See `spectraldiff.models.unet.UNetConfig`.
    instance
        K, pixels along the side of the square instances that the denoiser is trained on.
    diffusion_steps, diffusion
        Training steps at most, and how.
    features
        `"diffusion"`, or `"raw"`: the normalised bands in the same classifier (the ablation of the paper's Table V).
    beside_raw
        Whether the normalised bands stand beside the diffusion features before the PCA.
    timestep, layer
        t and layer index of the features.
    least_components, components, raw_components
        P, principal components: as many as there are training pixels, from the first to the second; the third for raw
        bands.
    apart_components
        P at least where most test pixels lie in other places than the training pixels: as many as there are places
        (polygons, or patches of training pixels of one class), up to as many as elsewhere.
    apart_members
        Further members of the classifier there. They read principal components of the bands alone, as many as
        `raw_components` and `apart_components` say, where bands stand beside diffusion features.
    fall_back
        Whether raw bands are taken instead of diffusion features where pixels held out of the training are clearly
        likelier with them, see `spectraldiff.training.calibration.HeldOut`.
    telling
        Whether the last components are left out where training pixels of different classes do not differ in them, see
        `spectraldiff.models.pca.telling`.
    window, fovea, members, narrow, width, depth, heads, mlp, dropout
        See `spectraldiff.models.vit.ViTConfig`.
    feature_noise
        Standard deviation of the noise added to the standardised features while the classifier learns.
    balance
        How far small classes count as much as large ones in the classifier's loss, 0 (every pixel alike) .. 1 (every
        class alike), see `spectraldiff.training.tasks.ClassifierTask`.
    smoothing
        Most steps of averaging scores over similar neighbours; the training chooses how many, see
        `spectraldiff.training.calibration`. 0 for none.
    epochs, classifier_steps, classifier
        Passes over the training pixels, training steps at most (0: no limit), and how.
    """

    name: str
    steps: int
    beta_first: float
    beta_last: float
    parameterisation: Parameterisation
    positions: int | None
    stem_channels: int
    stem_width: int
    channels: tuple[int, ...]
    first_kernel: Kernel
    second_kernel: Kernel
    resample_kernel: Kernel
    instance: int
    diffusion_steps: int
    diffusion: LoopSettings
    features: Features
    beside_raw: bool
    timestep: int
    layer: int
    least_components: int
    components: int
    raw_components: int
    apart_components: int
    apart_members: int
    telling: bool
    fall_back: bool
    window: int
    fovea: int | None
    members: int
    narrow: int | None
    width: int
    depth: int
    heads: int
    mlp: int
    dropout: float
    feature_noise: float
    balance: float
    smoothing: int
    epochs: int
    classifier_steps: int
    classifier: LoopSettings

    def unet(self, bands: int) -> UNetConfig:
        """Return the U-Net's shape for a scene of `bands` bands."""
        stride = 1 if self.positions is None else max(1, round(bands / self.positions))
        return UNetConfig(
            bands,
            stride,
            self.stem_channels,
            self.channels,
            self.first_kernel,
            self.second_kernel,
            self.resample_kernel,
            self.stem_width,
        )

    def vit(self, components: int, classes: int, beside: int = 0, apart: bool = False) -> ViTConfig:
        """Return the classifier's shape for `components` components and `classes` classes.

        `beside` is how many of the components are of the bands alone; `apart` is that of the split.
        """
        more = self.apart_members if apart else 0
        return ViTConfig(
            components,
            classes,
            self.window,
            self.width,
            self.depth,
            self.heads,
            self.mlp,
            self.dropout,
            self.fovea,
            self.members + more,
            self.narrow,
            beside,
            more if beside else 0,
        )

    def classifier_loop(self, epoch: int) -> int:
        """Return the classifier's training steps, where an epoch has so many."""
        steps = self.epochs * epoch
        return min(steps, self.classifier_steps) if self.classifier_steps else steps

    def wanted_components(self, places: int, apart: bool = False) -> int:
        """Return the principal components asked for with these features.

        Parameters
        ----------
        places
            Training pixels or, where `apart`, the places that they lie in: pixels of one field say one thing there.
        apart
            See `spectraldiff.splits.split.Split.apart`.
        """
        most = self.raw_components if self.features == "raw" else self.components
        least = min(self.least_components, most) if self.features == "diffusion" else most
        return min(most, max(min(least, self.apart_components) if apart else least, places))

    def changed(self, **changes: Any) -> "Preset":
        """Return the preset with those of `changes` that are not None.

        `diffusion_batch` changes `diffusion.batch`; with `epochs` there is no limit to the classifier's steps; with raw
        features, `components` are those of raw bands.

        Raises
        ------
        UsageError
            A timestep, layer index or count is out of range.
        """
        given = {k: v for k, v in changes.items() if v is not None}
        batch = given.pop("diffusion_batch", self.diffusion.batch)
        if "epochs" in given:
            given["classifier_steps"] = 0
        if "components" in given and given.get("features", self.features) == "raw":
            given["raw_components"] = given["components"]
        preset = replace(self, diffusion=replace(self.diffusion, batch=batch), **given)
        if not 1 <= preset.timestep <= preset.steps:
            raise UsageError(f"timestep {preset.timestep} is outside the process: give 1 to {preset.steps}")
        if not 0 <= preset.layer < len(preset.channels):
            raise UsageError(f"layer index {preset.layer} does not exist: give 0 to {len(preset.channels) - 1}")
        return preset

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Preset":
        """Rebuild a preset from `to_json`; RunError where a field is missing or unknown."""
        names = {f.name for f in fields(cls)}
        if set(values) != names:
            odd = ", ".join(sorted(names ^ set(values)))
            raise RunError(f"the preset in the run does not fit this version of SpectralDiff ({odd}): train again")
        loops = {k: LoopSettings(**values[k]) for k in ("diffusion", "classifier")}
        tuples = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
        return cls(**{**values, **tuples, **loops})


# What the paper's text leaves open is marked; everything else stands there.
PAPER = Preset(
    name="paper",
    steps=500,
    beta_first=1e-4,
    beta_last=0.02,
    parameterisation="noise",
    positions=None,
    stem_channels=16,
    stem_width=3,
    channels=(32, 64, 128),
    first_kernel=(3, 3, 3),
    second_kernel=(3, 3, 3),
    resample_kernel=(4, 5, 5),
    instance=16,
    diffusion_steps=30_000,  # open
    diffusion=LoopSettings(256, 1e-4, "constant", 0.0, 0.0, 0.999, 0.999, 3000),  # EMA and patience: open
    features="diffusion",
    beside_raw=False,
    timestep=5,
    layer=1,
    least_components=1200,
    components=1200,  # open
    raw_components=1200,  # open
    apart_components=1200,
    apart_members=0,
    telling=False,
    fall_back=False,
    window=13,  # open
    fovea=None,
    members=1,
    narrow=None,
    width=64,  # open
    depth=5,
    heads=4,
    mlp=128,  # open
    dropout=0.1,  # open
    feature_noise=0.0,
    balance=0.0,
    smoothing=0,
    epochs=20,
    classifier_steps=0,
    classifier=LoopSettings(64, 1e-3, "constant", 0.0, 0.0, 0.999, 0.99, 0),
)

FAST = replace(
    PAPER,
    name="fast",
    parameterisation="residual",
    positions=25,
    stem_width=1,
    channels=(32, 48, 64),
    first_kernel=(3, 1, 1),
    second_kernel=(1, 3, 3),
    resample_kernel=(4, 1, 1),
    instance=8,
    diffusion_steps=2000,
    diffusion=LoopSettings(16, 2e-3, "cosine", 0.05, 0.01, 0.99, 0.995, 0),
    beside_raw=True,
    timestep=50,
    layer=2,
    least_components=200,
    components=350,
    raw_components=150,
    apart_components=30,
    apart_members=2,
    telling=True,
    fall_back=True,
    window=15,
    fovea=3,
    members=3,
    narrow=9,
    depth=1,
    dropout=0.0,
    feature_noise=1.0,
    balance=0.5,
    smoothing=12,
    epochs=40,
    classifier_steps=2500,
    classifier=LoopSettings(64, 1e-3, "cosine", 0.3, 0.05, 0.999, 0.99, 0),
)

PRESETS = {preset.name: preset for preset in (FAST, PAPER)}


def preset_named(name: str) -> Preset:
    """Return the preset called `name`; UsageError where there is none."""
    if name not in PRESETS:
        raise UsageError(f"there is no preset '{name}': choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
