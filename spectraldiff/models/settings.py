"""The parts of a preset, and the members of the classifier's ensemble."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_args, get_origin

from spectraldiff.models.diffusion import Parameterisation
from spectraldiff.models.unet import Kernel

Settings = TypeVar("Settings")
Source = Literal["features", "bands"]


@dataclass(frozen=True)
class Member:
    """One classifier of the ensemble.

    Attributes
    ----------
    window
        Pixels along the side of its window, odd.
    source
        Where its principal components come from: ``"features"``, the preset's features (diffusion features with the
        bands concatenated where the preset says so, or raw bands), or ``"bands"``, the bands alone.
    components
        How many components of its source it reads at most, the first ones; None for all.
    disjoint_only
        Whether it is used only where test pixels are spatially disjoint from the training pixels, see
        `spectraldiff.splits.split.Split.spatially_disjoint`.
    """

    window: int
    source: Source = "features"
    components: int | None = None
    disjoint_only: bool = False


@dataclass(frozen=True)
class LinearMember:
    """A closed-form candidate for the ensemble, see `spectraldiff.ensemble.linear_fit`.

    Attributes
    ----------
    method
        ``"lda"``, shrinkage linear discriminants; ``"logistic"``, multinomial logistic regression; or ``"kernel"``, the
        same regression on random Fourier features of the standardised bands: that of a Gaussian kernel.
    source
        What it reads: ``"features"``, the principal components of the features; or ``"bands"``: discriminants read
        the standardised bands, regressions the principal components of the bands.
    window, iterations
        Its context: the mean of a square window, odd, or so many iterations of smoothing by similarity.
    noise
        Whether the discriminants' covariance is shrunk towards that of differences of neighbours, not the identity.
    gamma
        Of the kernel exp(-gamma |x - y|^2 / B) of two pixels' B standardised bands.
    """

    method: Literal["lda", "logistic", "kernel"]
    source: Source
    window: int = 1
    iterations: int = 0
    noise: bool = False
    gamma: float = 0.0

    @property
    def title(self) -> str:
        """What reports call it."""
        method = "logistic regression" if self.method == "logistic" else "LDA (noise)" if self.noise else "LDA"
        method = f"kernel regression (gamma {self.gamma:g})" if self.method == "kernel" else method
        context = f"{self.window} x {self.window} mean" if self.window > 1 else "one pixel"
        context = f"{self.iterations} smoothings" if self.iterations else context
        return f"{method}, {self.source}, {context}"


def members_used(members: Sequence[Member], disjoint: bool) -> tuple[Member, ...]:
    """Return the members that are used on a split, spatially disjoint or not."""
    return tuple(member for member in members if disjoint or not member.disjoint_only)


def widest_window(members: Sequence[Member]) -> int:
    """Return the side of the largest window of some members."""
    return max(member.window for member in members)


def components_read(member: Member, components: int, band_components: int) -> slice:
    """Return which of the components a member reads.

    Parameters
    ----------
    member
        The member.
    components, band_components
        All components, and how many of them, the last ones, are of the bands alone.
    """
    split = components - band_components
    first, last = (split, components) if member.source == "bands" else (0, split)
    return slice(first, last if member.components is None else min(last, first + member.components))


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
class DenoiserSettings:
    """Shape of the denoising U-Net.

    Attributes
    ----------
    positions
        Of earlier runs: spectral positions wanted after the first convolution, by the nearest stride. None: stride 1.
    stem_channels, stem_width, channels, first_kernel, second_kernel, resample_kernel
        See `spectraldiff.models.unet.UNetConfig`.
    most_positions
        In place of `positions`: as many at most, by the smallest stride. The blocks pad them to a multiple of 2^blocks.
    """

    positions: int | None
    stem_channels: int
    stem_width: int
    channels: tuple[int, ...]
    first_kernel: Kernel
    second_kernel: Kernel
    resample_kernel: Kernel
    most_positions: int | None = None


@dataclass(frozen=True)
class DiffusionSettings:
    """The diffusion process, the denoiser, and how it is trained.

    Attributes
    ----------
    timesteps, beta_first, beta_last
        T and the ends of the linear noise schedule.
    parameterisation
        What the U-Net predicts, see `spectraldiff.models.diffusion.Denoiser`.
    network
        The U-Net.
    instance
        K, pixels along the side of the square instances that the denoiser is trained on.
    steps, loop
        Training steps at most, and how.
    """

    timesteps: int
    beta_first: float
    beta_last: float
    parameterisation: Parameterisation
    network: DenoiserSettings
    instance: int
    steps: int
    loop: LoopSettings


@dataclass(frozen=True)
class FeatureSettings:
    """What the classifier's features are.

    Attributes
    ----------
    source
        `"diffusion"`, or `"raw"`: the normalised bands in the same classifier (the ablation of the paper's Table V).
    timestep, layer
        t and layer index of the diffusion features.
    concat_bands
        Whether the normalised bands are concatenated to the diffusion features before the PCA.
    """

    source: Literal["diffusion", "raw"]
    timestep: int
    layer: int
    concat_bands: bool


@dataclass(frozen=True)
class ComponentSettings:
    """How many principal components the classifier gets.

    Attributes
    ----------
    least, most
        P, components of diffusion features: as many as there are training pixels, from the first to the second.
    bands
        Most components of raw bands, and of the bands alone.
    disjoint_least
        P at least where test pixels are spatially disjoint: as many as there are groups of training pixels (polygons,
        or patches of one class), up to as many as elsewhere.
    discriminative
        Whether the last components are left out where training pixels of different classes do not differ in them, see
        `spectraldiff.models.pca.discriminative`.
    """

    least: int
    most: int
    bands: int
    disjoint_least: int
    discriminative: bool


@dataclass(frozen=True)
class TransformerSettings:
    """Shape of each member's network, see `spectraldiff.models.vit.ViTConfig`."""

    fovea: int | None
    width: int
    depth: int
    heads: int
    mlp: int
    dropout: float


@dataclass(frozen=True)
class ClassifierSettings:
    """The classifier, and how it is trained.

    Attributes
    ----------
    members
        The attention members.
    network
        Shape of each attention member's network.
    noise
        Standard deviation of the noise added to the standardised features in training.
    balance
        How far small classes count as much as large ones in the loss, 0 (every pixel alike) .. 1 (every class alike),
        see `spectraldiff.training.tasks.ClassifierTask`.
    epochs, most_steps, loop
        Passes over the training pixels, training steps at most (0: no limit), and how.
    linear
        Closed-form candidates: held-out pixels weigh them against each other and against the attention members.
    """

    members: tuple[Member, ...]
    network: TransformerSettings
    noise: float
    balance: float
    epochs: int
    most_steps: int
    loop: LoopSettings
    linear: tuple[LinearMember, ...] = ()

    @property
    def window(self) -> int:
        """Side of the largest window of a member."""
        return widest_window(self.members)

    @property
    def radius(self) -> int:
        """Radius of the largest window of any member, the linear candidates' among them."""
        return max(self.window, *(member.window for member in self.linear)) // 2 if self.linear else self.window // 2

    def steps(self, epoch: int) -> int:
        """Return the training steps, where an epoch has so many."""
        steps = self.epochs * epoch
        return min(steps, self.most_steps) if self.most_steps else steps


@dataclass(frozen=True)
class SmoothingSettings:
    """Averaging of scores over similar neighbours.

    Attributes
    ----------
    iterations
        At most; the training chooses how many, see `spectraldiff.ensemble.calibration`. 0 for none.
    """

    iterations: int


def replaced(settings: Settings, **changes: Any) -> Settings:
    """Return settings with changed fields, as `dataclasses.replace`; a dict changes fields of the settings inside."""
    inner = {name: replaced(getattr(settings, name), **v) for name, v in changes.items() if isinstance(v, dict)}
    return replace(settings, **{**changes, **inner})  # type: ignore[type-var]


def rebuilt(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Rebuild settings from plain values; TypeError names fields that are missing, unknown or of another type."""
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    needed = {name for name, field in known.items() if field.default is MISSING}
    odd = (needed - set(values)) | (set(values) - set(known))
    odd |= {name for name, field in known.items() if name in values and not fits(field.type, values[name])}
    if odd:
        raise TypeError(", ".join(sorted(odd)))
    return kind(**{name: _value(known[name].type, value) for name, value in values.items()})


def _value(kind: Any, value: Any) -> Any:
    if is_dataclass(kind):
        return rebuilt(kind, value)  # type: ignore[arg-type]
    kinds: dict[Any, type[Any]] = {tuple[Member, ...]: Member, tuple[LinearMember, ...]: LinearMember}
    if kind in kinds:
        return tuple(rebuilt(kinds[kind], one) for one in value)
    return tuple(value) if isinstance(value, list) else value


def fits(kind: Any, value: Any) -> bool:
    """Whether a plain value is of a field's type; settings, which are looked at when they are rebuilt, are mappings."""
    inner = get_args(kind)
    if is_dataclass(kind):
        return isinstance(value, (Mapping, kind))  # type: ignore[arg-type]
    if get_origin(kind) is Literal:
        return value in inner
    if get_origin(kind) is tuple:
        kinds = inner[:1] * len(value) if inner[-1] is ... and isinstance(value, list | tuple) else inner
        return isinstance(value, list | tuple) and len(kinds) == len(value) and all(map(fits, kinds, value))
    if inner:
        return any(fits(one, value) for one in inner)
    numbers = (int, float) if kind is float else kind
    return isinstance(value, numbers) and (kind is bool or not isinstance(value, bool))


# The fields of a preset in runs of format 3.
_FLAT = {
    *("name", "steps", "beta_first", "beta_last", "parameterisation", "instance", "diffusion_steps", "diffusion"),
    *("positions", "stem_channels", "stem_width", "channels", "first_kernel", "second_kernel", "resample_kernel"),
    *("features", "beside_raw", "timestep", "layer", "fall_back"),
    *("least_components", "components", "raw_components", "apart_components", "telling"),
    *("window", "narrow", "members", "apart_members", "fovea", "width", "depth", "heads", "mlp", "dropout"),
    *("feature_noise", "balance", "smoothing", "epochs", "classifier_steps", "classifier"),
}


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plain values of a preset from those of a flat one, which runs of format 3 hold.

    Raises
    ------
    TypeError
        Fields are missing or unknown; the error names them.
    """
    odd = set(flat) ^ _FLAT
    if odd:
        raise TypeError(", ".join(sorted(odd)))

    def taken(*names: str, **renamed: str) -> dict[str, Any]:
        return {name: flat[name] for name in names} | {new: flat[old] for new, old in renamed.items()}

    unet = taken(*(field.name for field in fields(DenoiserSettings) if field.default is MISSING))
    process = taken("beta_first", "beta_last", "parameterisation", "instance", timesteps="steps")
    transformer = taken(*(field.name for field in fields(TransformerSettings)))
    fit = taken("balance", "epochs", noise="feature_noise", most_steps="classifier_steps", loop="classifier")
    return {
        "name": flat["name"],
        "diffusion": {**process, **taken(steps="diffusion_steps", loop="diffusion"), "network": unet},
        "features": taken("timestep", "layer", source="features", concat_bands="beside_raw"),
        "components": taken(
            least="least_components",
            most="components",
            bands="raw_components",
            disjoint_least="apart_components",
            discriminative="telling",
        ),
        "classifier": {**fit, "members": _members(flat), "network": transformer},
        "smoothing": taken(iterations="smoothing"),
    }


def _members(flat: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the members of a flat preset: every second one had the narrow window, the last ones read bands alone."""
    first, all_ = flat["members"], flat["members"] + flat["apart_members"]
    narrow = flat["narrow"] or flat["window"]
    return [
        {
            "window": narrow if number % 2 else flat["window"],
            "source": "bands" if number >= first else "features",
            "disjoint_only": number >= first,
        }
        for number in range(all_)
    ]
