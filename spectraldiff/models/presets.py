"""The two presets: `paper`, faithful to the text, and `fast`, the default, for two CPU cores and minutes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from spectraldiff.models.settings import (
    ClassifierSettings,
    ComponentSettings,
    DenoiserSettings,
    DiffusionSettings,
    FeatureSettings,
    LinearMember,
    LoopSettings,
    Member,
    SmoothingSettings,
    TransformerSettings,
    members_used,
    nested,
    rebuilt,
    replaced,
)
from spectraldiff.models.unet import UNetConfig
from spectraldiff.models.vit import ViTConfig
from spectraldiff_runtime.errors import RunError, UsageError


@dataclass(frozen=True)
class Preset:
    """Everything that decides what is trained, except scene, split and seed.

    Attributes
    ----------
    name
        What reports call it.
    diffusion, features, components, classifier, smoothing
        The parts of the training, in their order.
    """

    name: str
    diffusion: DiffusionSettings
    features: FeatureSettings
    components: ComponentSettings
    classifier: ClassifierSettings
    smoothing: SmoothingSettings

    @property
    def raw(self) -> bool:
        """Whether the features are raw bands."""
        return self.features.source == "raw"

    def unet(self, bands: int) -> UNetConfig:
        """Return the U-Net's shape for a scene of `bands` bands."""
        network = self.diffusion.network
        stride = 1 if network.positions is None else max(1, round(bands / network.positions))
        if network.most_positions is not None:
            stride = math.ceil(bands / network.most_positions)
        return UNetConfig(
            bands,
            stride,
            network.stem_channels,
            network.channels,
            network.first_kernel,
            network.second_kernel,
            network.resample_kernel,
            network.stem_width,
        )

    def members(self, disjoint: bool = False) -> tuple[Member, ...]:
        """Return the members that are used where test pixels are spatially disjoint, or where they are not."""
        return members_used(self.classifier.members, disjoint)

    def vit(self, components: int, classes: int, members: Sequence[Member], band_components: int = 0) -> ViTConfig:
        """Return the classifier's shape.

        Parameters
        ----------
        components, band_components
            Components in all, and how many of them, the last ones, are of the bands alone. Without these, all members
            read the features.
        classes
            K.
        members
            Those of the preset's members that are used, see `members`.
        """
        if not band_components:
            members = [replace(member, source="features") for member in members]
        network = asdict(self.classifier.network)
        return ViTConfig(components, classes, tuple(members), band_components=band_components, **network)

    def wanted_components(self, groups: int, disjoint: bool = False) -> int:
        """Return the principal components of these features that are asked for.

        Parameters
        ----------
        groups
            Training pixels or, where `disjoint`, the groups that they form: pixels of one field say one thing there.
        disjoint
            Whether test pixels are spatially disjoint from the training pixels.
        """
        most = self.components.bands if self.raw else self.components.most
        least = most if self.raw else min(self.components.least, most)
        return min(most, max(min(least, self.components.disjoint_least) if disjoint else least, groups))

    def wanted_band_components(self, groups: int, disjoint: bool = False) -> int:
        """Return the components of the bands alone that are asked for, as `wanted_components`; 0 where none reads them.

        Bands are at hand beyond the features only where they are concatenated to them.
        """
        members = self.members(disjoint)
        if self.raw or not self.features.concat_bands or all(member.source != "bands" for member in members):
            return 0
        return self.changed(features="raw").wanted_components(groups, disjoint)

    def changed(self, **options: Any) -> "Preset":
        """Return the preset with those options of `sdiff train` that are not None.

        The options are `features`, `timestep`, `layer`, `components`, `diffusion_steps`,
        `diffusion_batch` and `epochs`. With `epochs` there is no limit to the classifier's steps; with raw features,
        `components` are those of raw bands as well.

        Raises
        ------
        UsageError
            A timestep, layer index or count is out of range.
        """
        preset = self
        for name, value in options.items():
            if value is not None:
                preset = replaced(preset, **_OPTIONS[name](value))
        if options.get("components") is not None and preset.raw:
            preset = replaced(preset, components={"bands": options["components"]})
        timesteps, layers = preset.diffusion.timesteps, len(preset.diffusion.network.channels)
        if not 1 <= preset.features.timestep <= timesteps:
            raise UsageError(f"timestep {preset.features.timestep} is outside the process: give 1 to {timesteps}")
        if not 0 <= preset.features.layer < layers:
            raise UsageError(f"layer index {preset.features.layer} does not exist: give 0 to {layers - 1}")
        return preset

    def options(self) -> dict[str, Any]:
        """Return the value of each option that `changed` takes and a user can give."""
        return {
            "features": self.features.source,
            "timestep": self.features.timestep,
            "layer": self.features.layer,
            "components": self.components.most,
            "diffusion_steps": self.diffusion.steps,
            "epochs": self.classifier.epochs,
            "diffusion_batch": self.diffusion.loop.batch,
        }

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Preset":
        """Rebuild a preset from `to_json`, of this version or of one with flat presets.

        Raises
        ------
        RunError
            A field is missing or unknown.
        """
        try:
            return rebuilt(cls, nested(values) if "beside_raw" in values else _without_fall_back(values))
        except (TypeError, KeyError) as error:
            raise RunError(
                f"the preset in the run does not fit this version of SpectralDiff ({error.args[0]}): train again"
            ) from None


def _without_fall_back(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out a setting that presets no longer have."""
    features = {name: value for name, value in values["features"].items() if name != "fall_back"}
    return {**values, "features": features}


_OPTIONS: dict[str, Any] = {
    "features": lambda value: {"features": {"source": value}},
    "timestep": lambda value: {"features": {"timestep": value}},
    "layer": lambda value: {"features": {"layer": value}},
    "components": lambda value: {"components": {"most": value}},
    "diffusion_steps": lambda value: {"diffusion": {"steps": value}},
    "diffusion_batch": lambda value: {"diffusion": {"loop": {"batch": value}}},
    "epochs": lambda value: {"classifier": {"epochs": value, "most_steps": 0}},
}

# Values that the paper does not give are marked "open".
PAPER = Preset(
    name="paper",
    diffusion=DiffusionSettings(
        timesteps=500,
        beta_first=1e-4,
        beta_last=0.02,
        parameterisation="noise",
        network=DenoiserSettings(
            positions=None,
            stem_channels=16,
            stem_width=3,
            channels=(32, 64, 128),
            first_kernel=(3, 3, 3),
            second_kernel=(3, 3, 3),
            resample_kernel=(4, 5, 5),
        ),
        instance=16,
        steps=30_000,  # open
        loop=LoopSettings(256, 1e-4, "constant", 0.0, 0.0, 0.999, 0.999, 3000),  # EMA and patience: open
    ),
    features=FeatureSettings(source="diffusion", timestep=5, layer=1, concat_bands=False),
    components=ComponentSettings(
        least=1200,
        most=1200,  # open
        bands=1200,  # open
        disjoint_least=1200,
        discriminative=False,
    ),
    classifier=ClassifierSettings(
        members=(Member(window=13),),  # open
        network=TransformerSettings(
            fovea=None,
            width=64,  # open
            depth=5,
            heads=4,
            mlp=128,  # open
            dropout=0.1,  # open
        ),
        noise=0.0,
        balance=0.0,
        epochs=20,
        most_steps=0,
        loop=LoopSettings(64, 1e-3, "constant", 0.0, 0.0, 0.999, 0.99, 0),
    ),
    smoothing=SmoothingSettings(iterations=0),
)

# Candidates that were the best or near it on some scene, see docs/accuracy.md.
_LINEAR = (
    *(LinearMember("lda", "bands", window) for window in (1, 3, 5, 9)),
    LinearMember("lda", "bands", iterations=2),
    *(LinearMember("lda", "bands", window, noise=True) for window in (1, 3, 5)),
    LinearMember("lda", "features", noise=True),
    LinearMember("lda", "features", 15),
    LinearMember("lda", "features", iterations=6),
    *(LinearMember("logistic", "bands", window) for window in (1, 3, 5, 9, 15)),
    LinearMember("logistic", "bands", iterations=6),
    *(LinearMember("logistic", "features", window) for window in (1, 5, 9, 15, 21)),
    *(LinearMember("logistic", "features", iterations=iterations) for iterations in (2, 6)),
    *(LinearMember("kernel", "bands", window, gamma=gamma) for gamma in (0.2, 1.5, 10.0) for window in (1, 3)),
)

FAST = replaced(
    PAPER,
    name="fast",
    diffusion={
        "parameterisation": "residual",
        "network": {
            "most_positions": 12,
            "stem_width": 1,
            "channels": (16, 32),
            "first_kernel": (3, 1, 1),
            "second_kernel": (1, 3, 3),
            "resample_kernel": (4, 1, 1),
        },
        "instance": 8,
        "steps": 8000,
        "loop": LoopSettings(16, 2e-3, "cosine", 0.05, 0.01, 0.99, 0.995, 0),
    },
    features={"timestep": 50, "layer": 1, "concat_bands": True},
    components=ComponentSettings(least=200, most=350, bands=150, disjoint_least=30, discriminative=True),
    classifier={
        "members": (Member(window=15), Member(window=9), Member(window=15)),
        "network": {"fovea": 3, "depth": 1, "dropout": 0.0},
        "noise": 1.0,
        "balance": 0.5,
        "epochs": 40,
        "most_steps": 2500,
        "loop": LoopSettings(64, 1e-3, "cosine", 0.3, 0.05, 0.999, 0.99, 0),
        "linear": _LINEAR,
    },
    smoothing={"iterations": 12},
)

PRESETS = {preset.name: preset for preset in (FAST, PAPER)}


def preset_named(name: str) -> Preset:
    """Return the preset called `name`; UsageError where there is none."""
    if name not in PRESETS:
        raise UsageError(f"there is no preset '{name}': choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
