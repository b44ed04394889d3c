"""Classifiers with random weights of which every part matters: none may be dropped without a test noticing."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from spectraldiff.models.classifier import Classifier, empty_classifier
from spectraldiff.models.foveal_vit import FovealViT
from spectraldiff.models.linear_members import KernelMembers, PixelContext
from spectraldiff.models.padding import cropped
from spectraldiff.models.pca import fit_pca
from spectraldiff.models.presets import FAST, PAPER, Preset
from spectraldiff.models.settings import Member, replaced
from spectraldiff_export.deployed import DeployedClassifier
from spectraldiff_export.onnx_graph import onnx_bytes
from spectraldiff_runtime.classes import LandCoverClass, palette
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.model_file import CARD_KEY
from tests.sharing import Once

CLASSES = 4


def small(
    base: Preset,
    positions: int | None = 3,
    members: Sequence[Member] = (Member(5),),
    fovea: int | None = None,
    iterations: int = 0,
    transformer: Mapping[str, Any] = {},
    unet: Mapping[str, Any] = {},
    **features: Any,
) -> Preset:
    """Return a preset with small networks; without a fovea, a transformer of three blocks."""
    transformer = {"width": 16, "depth": 1 if fovea else 3, "heads": 4, "mlp": 24, "fovea": fovea, **transformer}
    unet = {"most_positions": positions, "stem_channels": 4, "channels": (5, 6, 7), **unet}
    return replaced(
        base,
        diffusion={"network": unet},
        features={"layer": 1, "concat_bands": False, **features},
        components={"most": 12, "bands": 6},
        classifier={"members": tuple(members), "network": transformer},
        smoothing={"iterations": iterations},
    )


TWO = (Member(9), Member(3))
# As many channels as processors order in blocks.
BLOCKS = {"stem_channels": 16, "channels": (32, 16, 48)}
SOLID = {"resample_kernel": (4, 3, 3)}
CONTEXTS = (PixelContext(), PixelContext(1, 2), PixelContext(3), PixelContext(7))
# Presets of all kinds, the numbers of bands to try them with, the contexts of linear members, and the iterations of
# smoothing of the attention members, where they are not all; below 0 there are no attention members. Last comes the
# number of a kernel's features that members read.
KINDS: dict[str, tuple[Any, ...]] = {
    "fast": (small(FAST, 6, layer=2), 12),
    "fast, layer 0, no timestep to speak of": (small(FAST, layer=0, timestep=1), 7),
    "fast, concatenated bands": (small(FAST, concat_bands=True), 7),
    "fast, solid between the layers": (small(FAST, unet=SOLID), 7),
    "fast, channels in blocks": (small(FAST, 16, unet=BLOCKS, layer=2), 16),
    "paper": (small(PAPER, None, unet=SOLID), 5),
    "paper, concatenated bands": (small(PAPER, None, unet=SOLID, layer=0, concat_bands=True), 5),
    "foveal": (small(FAST, 6, TWO, 3, 2, layer=2), 12),
    "foveal, all fine": (small(FAST, 3, (Member(3), Member(3)), 3, concat_bands=True), 7),
    "foveal, members that read bands alone": (
        small(FAST, 3, (*TWO, Member(9, "bands", disjoint_only=True)), 3, 2, concat_bands=True),
        7,
    ),
    "foveal, members that read some components": (
        small(FAST, 3, (Member(9, components=5), Member(3, "bands", 3, disjoint_only=True)), 3, concat_bands=True),
        7,
    ),
    "raw": (small(FAST, source="raw"), 12),
    "raw, foveal": (small(FAST, 3, (Member(15), Member(9)), 9, 1, {"heads": 1}, source="raw"), 5),
    "foveal, linear members": (small(FAST, 6, TWO, 3, 2, layer=2, concat_bands=True), 12, CONTEXTS, 1),
    "foveal, one linear member of one pixel": (small(FAST, 3, TWO, 3), 7, CONTEXTS[:1], 0),
    "linear members alone": (small(FAST, 3, TWO, 3, 2, concat_bands=True), 7, CONTEXTS, -1),
    "raw, linear members alone, without smoothing": (small(FAST, source="raw"), 12, CONTEXTS[2:], -1),
    "foveal, members with a kernel": (small(FAST, 6, TWO, 3, 2, layer=2, concat_bands=True), 12, CONTEXTS, 1, 6),
    "raw, members with a kernel alone": (small(FAST, source="raw"), 12, CONTEXTS[:1], -1, 5),
    "raw, linear members, smoothed five times": (
        small(FAST, 3, TWO, 3, 5, source="raw"),
        7,
        (PixelContext(), PixelContext(1, 5)),
        5,
    ),
    "raw, one block": (small(FAST, transformer={"depth": 1, "heads": 1}, source="raw"), 5),
}


def make_classifier(
    preset: Preset,
    bands: int,
    contexts: Sequence[PixelContext] = (),
    vit_iterations: int | None = None,
    kernel: int = 0,
) -> Classifier:
    """Return a classifier as if trained: every weight, statistic and constant is random, band 2 is constant.

    It has all the smoothing iterations that the preset allows, and all members.
    """
    torch.manual_seed(0)
    unet = preset.unet(bands)
    channels, positions = unet.feature_shape(preset.features.layer)
    features = bands if preset.raw else channels * positions + bands * preset.features.concat_bands
    components = min(features, preset.wanted_components(1000))
    members = preset.members(disjoint=True)
    alone = 4 if any(member.source == "bands" for member in members) else 0
    shape = preset.vit(components + alone, CLASSES, members, alone)
    classifier = empty_classifier(
        preset,
        bands,
        shape,
        features,
        preset.smoothing.iterations,
        contexts=contexts,
        vit_iterations=vit_iterations,
    )
    if kernel:
        classifier.kernel = KernelMembers((PixelContext(), PixelContext(3)), bands, kernel, CLASSES)
        for values in (classifier.kernel.frequency, classifier.kernel.phase, classifier.kernel.read.weight):
            values.normal_()
        classifier.kernel.read.bias.normal_()
    normaliser, extractor = classifier.normaliser, classifier.extractor
    normaliser.low.uniform_(200, 3000)
    normaliser.high.copy_(normaliser.low).add_(torch.rand(bands) * 4000 + 100)
    normaliser.high[1] = normaliser.low[1]
    classifier.fill.copy_((normaliser.low + normaliser.high) / 2)
    if extractor.denoiser is not None:
        extractor.denoiser.mean.uniform_(-0.4, 0.4)
        extractor.denoiser.std.uniform_(0.1, 0.5)
    for norm in (m for m in classifier.modules() if isinstance(m, nn.BatchNorm3d | nn.LayerNorm)):
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_(0, 0.3)
    if classifier.vit is not None:
        classifier.vit.cls.data.normal_(0, 0.5)
        classifier.vit.position.data.normal_(0, 0.5)
    if classifier.linear is not None:
        classifier.linear.weight.normal_()
        classifier.linear.bias.normal_()
        if extractor.denoiser is not None and extractor.concat_bands:
            classifier.linear.weight[::2, :, :-bands] = 0  # these read bands alone
        classifier.prior.normal_()
        classifier.share.fill_(0.7)
    classifier.temperature.fill_(1.7)
    classifier.smoothing.sharpness.fill_(0.3)
    if isinstance(classifier.vit, FovealViT):
        classifier.vit.bias.data.normal_(0, 0.5)
    return calibrated(classifier.eval())


@torch.no_grad()
def calibrated(classifier: Classifier) -> Classifier:
    """Fit batch norms and PCA to random pixels and spread the scores, so that they vary as after training."""
    tiles = make_tiles(classifier, 4, 8)
    for norm in (m for m in classifier.modules() if isinstance(m, nn.BatchNorm3d)):
        norm.momentum = 1.0
    classifier.extractor.train()(classifier.normaliser(tiles))
    classifier.eval()
    features = classifier.extractor(classifier.normaliser(tiles)).movedim(1, -1).flatten(0, 2)
    alone = 0 if classifier.vit is None else classifier.vit.config.band_components
    pca = fit_pca(iter([features]), len(classifier.pca_components) - alone, len(classifier.fill), alone)
    classifier.pca_mean.copy_(pca.mean)
    first = len(pca.components) - pca.band_components
    classifier.pca_components[:first] = pca.components[:first]
    classifier.pca_components[len(classifier.pca_components) - alone :][: pca.band_components] = pca.components[first:]
    features = classifier.extractor(classifier.normaliser(tiles))
    if classifier.vit is not None:
        components = classifier.pca(features)
        scores = classifier.vit.slide(classifier.vit.embed(components.movedim(1, -1)).movedim(-1, 1))
        guides = cropped(classifier.smoothing.guides(components), classifier.vit.config.radius)
        scores, last = classifier.smoothing(scores, guides), classifier.vit.head[-1]
        spread = 1.5 / scores.std((0, 2, 3))
        last.weight *= spread[:, None]
        last.bias.copy_((last.bias - scores.mean((0, 2, 3))) * spread)
    if classifier.linear is not None:
        linear = classifier.linear
        for number, scores in enumerate(linear(features)):
            spread = 1.5 / scores.std((0, 2, 3))
            linear.weight[number] *= spread[:, None]
            linear.bias[number] = (linear.bias[number] - scores.mean((0, 2, 3))) * spread
    return classifier


def make_tiles(classifier: Classifier, count: int, side: int, seed: int = 1) -> Tensor:
    """Return raw tiles (count, B, side + 2 halo, side + 2 halo) within and a little beyond the bands' ranges."""
    side += 2 * classifier.halo
    noise = torch.rand(count, len(classifier.fill), side, side, generator=torch.Generator().manual_seed(seed))
    low, high = classifier.normaliser.low[:, None, None], classifier.normaliser.high[:, None, None]
    return low + (high - low) * (1.2 * noise - 0.1)


def make_card(classifier: Classifier) -> ModelCard:
    colours = palette(CLASSES)
    return ModelCard(
        name="tiny",
        preset=classifier.preset.name,
        features=classifier.preset.features.source,
        classes=tuple(LandCoverClass(i, f"Klasse {i} ä", c) for i, c in enumerate(colours, start=1)),
        bands=len(classifier.fill),
        wavelengths=None,
        halo=classifier.halo,
        nodata=None,
        fill=tuple(classifier.fill.tolist()),
    )


@pytest.fixture(params=list(KINDS))
def classifier(request: pytest.FixtureRequest) -> Classifier:
    """A classifier of each kind."""
    return make_classifier(*KINDS[request.param])


@pytest.fixture(scope="session")
def small() -> Classifier:
    """The cheapest to export."""
    return make_classifier(*KINDS["raw, one block"])


@pytest.fixture(scope="session")
def onnx_of(once: Once) -> Callable[[str], bytes]:
    """Return the ONNX file of a classifier of a kind. PyTorch's exporter takes long: each is exported once."""

    def file(kind: str) -> bytes:
        def make(path: Path) -> None:
            classifier = make_classifier(*KINDS[kind])
            path.write_bytes(onnx_bytes(DeployedClassifier(classifier), make_card(classifier).to_json()))

        return once(f"{kind}.onnx", make).read_bytes()

    return file


@pytest.fixture(scope="session")
def graph_of(onnx_of: Callable[[str], bytes]) -> Callable[[str], onnx.ModelProto]:
    """Return the model in the file of a kind, as before it was sealed."""

    def graph(kind: str) -> onnx.ModelProto:
        model = onnx.load_model_from_string(onnx_of(kind))
        (card,) = (prop.value for prop in model.metadata_props if prop.key == CARD_KEY)
        onnx.helper.set_model_props(model, {CARD_KEY: card})
        return model

    return graph


@pytest.fixture(scope="session")
def small_onnx(onnx_of: Callable[[str], bytes]) -> bytes:
    """The ONNX file of `small`."""
    return onnx_of("raw, one block")


@pytest.fixture(scope="session")
def classifier_of() -> Callable[[str], Classifier]:
    return lambda kind: make_classifier(*KINDS[kind])


@pytest.fixture(scope="session")
def tiles_for() -> Callable[..., Tensor]:
    return make_tiles


@pytest.fixture(scope="session")
def card_for() -> Callable[[Classifier], ModelCard]:
    return make_card


@pytest.fixture
def names(tmp_path: Path) -> Callable[[], list[str]]:
    """Return the names of all that lies in the test's folder, hidden or not."""
    return lambda: sorted(path.name for path in tmp_path.iterdir())
