"""Folding changes nothing, leaves nothing behind, and depends on nothing but the pixels in reach."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from spectraldiff.models.classifier import Classifier
from spectraldiff.models.unet import StepEmbedding
from spectraldiff_export.deployed import DeployedClassifier, RowClassifier, Verdict
from spectraldiff_export.token_map import contexts_by_source

Tiles = Callable[..., Tensor]


@torch.no_grad()
def test_folding_changes_nothing_in_float64(classifier, tiles_for):
    tiles = tiles_for(classifier, 2, 6).double()
    classifier.double()
    wanted = classifier(tiles).log_softmax(1)
    classes, confidence, probabilities = DeployedClassifier(classifier)(tiles)
    assert wanted.argmax(1).unique().numel() > 1  # else it would be too easy
    assert wanted.std() > 0.1
    torch.testing.assert_close(probabilities.log(), wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(confidence, wanted.exp().amax(1), rtol=1e-9, atol=0)
    torch.testing.assert_close(classes, (wanted.argmax(1) + 1).to(torch.uint8))


@torch.no_grad()
def test_folding_changes_nothing_but_rounding_in_float32(classifier, tiles_for):
    tiles = tiles_for(classifier, 2, 6)
    _, _, probabilities = DeployedClassifier(classifier)(tiles)
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities, classifier(tiles).softmax(1), rtol=0, atol=1e-5)


def test_the_trained_model_is_not_changed(classifier):
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    DeployedClassifier(classifier)
    assert before.keys() == classifier.state_dict().keys()
    for name, value in classifier.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_nothing_is_left_to_fold(classifier):
    deployed = DeployedClassifier(classifier)
    assert not any(isinstance(m, nn.BatchNorm3d | StepEmbedding) for m in deployed.modules())
    assert not deployed.training
    assert not any(p.requires_grad for p in deployed.parameters())


@pytest.mark.parametrize("kind", ["fast", "paper", "fast, layer 0, no timestep to speak of", "foveal"])
def test_no_weights_beyond_the_tapped_layer(classifier_of, kind):
    classifier = classifier_of(kind)
    network = classifier.extractor.denoiser.network
    before = DeployedClassifier(classifier).state_dict()
    for values in (v for block in network.up[classifier.preset.features.layer :] for v in block.parameters()):
        values.data.fill_(torch.nan)
    deployed = DeployedClassifier(classifier)
    torch.testing.assert_close(deployed.state_dict(), before, rtol=0, atol=0)
    trunk = (deployed.front if kind == "foveal" else deployed.front.tokens).trunk
    assert len(trunk.up) == classifier.preset.features.layer
    assert all(p.ndim in (1, 3, 4) for p in trunk.parameters())  # no linear layer of the step embedding, nothing in 3-D


def test_what_reads_bands_alone_is_never_computed_from_features(classifier_of):
    classifier = classifier_of("foveal, linear members")
    deployed, contexts = DeployedClassifier(classifier), classifier.linear.contexts
    assert contexts_by_source(classifier) == (list(contexts[1::2]), list(contexts[::2]))
    first, second = deployed.front.maps
    width = classifier.vit.embed.out_features + deployed.reader.guides
    assert first.project.weight.shape[0] == first.band_map.shape[0] == width + 2 * classifier.classes
    assert second.project is None
    assert second.band_map.shape[0] == 2 * classifier.classes


@torch.no_grad()
def test_a_pixel_depends_on_its_halo_and_not_on_its_tile(classifier, tiles_for):
    deployed, halo = DeployedClassifier(classifier.double()), classifier.halo
    tiles = tiles_for(classifier, 1, 6).double()
    _, _, whole = deployed(tiles)
    _, _, part = deployed(tiles[:, :, 2 : 2 + 3 + 2 * halo, 1 : 1 + 5 + 2 * halo].contiguous())
    torch.testing.assert_close(part, whole[:, :, 2:5, 1:6], rtol=1e-9, atol=0)
    changed = tiles.clone()
    changed[:, :, 0] *= 2
    _, _, other = deployed(changed)
    assert not torch.equal(other[:, :, 0], whole[:, :, 0])  # the first line of the halo is in reach of the first row,
    torch.testing.assert_close(other[:, :, 1:], whole[:, :, 1:], rtol=1e-12, atol=0)  # and of no other


@torch.no_grad()
def test_a_constant_band_counts_for_nothing(classifier, tiles_for):
    deployed, tiles = DeployedClassifier(classifier), tiles_for(classifier, 1, 2)
    _, _, before = deployed(tiles)
    tiles[:, 1] = 30_000
    _, _, after = deployed(tiles)
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@torch.no_grad()
def test_large_values_with_a_small_range_keep_their_digits(classifier: Classifier, tiles_for: Tiles):
    classifier.normaliser.low += 1e6
    classifier.normaliser.high += 1e6
    classifier.normaliser.high.clamp_(max=classifier.normaliser.low + 16)
    tiles = tiles_for(classifier, 1, 4)
    _, _, probabilities = DeployedClassifier(classifier)(tiles)
    exact = classifier.double()(tiles.double()).softmax(1)
    torch.testing.assert_close(probabilities.double(), exact, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["fast", "raw, one block"])
def test_row_classifier_reads_windows_as_the_vit_does(classifier_of, kind):
    vit = classifier_of(kind).vit.double()
    side, width = vit.config.window, vit.config.width
    tokens = torch.randn(2, side, side + 3, width, dtype=torch.float64)  # (N, row, column, C)
    windows = tokens.unfold(2, side, 1).permute(0, 2, 1, 4, 3)  # (N, w, row, column, C)
    wanted = vit.classify(windows.reshape(-1, side**2, width)).view(2, 4, -1)
    found = RowClassifier(vit).double()(tokens.transpose(1, 2))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("count", "kind"), [(254, torch.uint8), (255, torch.int32), (300, torch.int32)])
def test_classes_that_do_not_fit_a_byte(count: int, kind: torch.dtype) -> None:
    scores = torch.rand(3, 2, 4, count, generator=torch.Generator().manual_seed(0))  # (h, N, w, K)
    classes, confidence, probabilities = Verdict(count, rows_first=True)(scores)
    assert classes.dtype == kind
    torch.testing.assert_close(classes.long() - 1, scores.argmax(3).permute(1, 0, 2))
    torch.testing.assert_close(probabilities.amax(1), confidence)
