"""The fourth output of a graph: as PyTorch gives it, in any tile and batch, and refused where it is another."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from spectraldiff.models.classifier import Classifier
from spectraldiff.models.linear_members import Outside
from spectraldiff_export.deployed_outside import DeployedWithOutside, deployed
from spectraldiff_export.onnx_graph import onnx_bytes
from spectraldiff_export.verify import verify
from spectraldiff_runtime.errors import VerificationError
from spectraldiff_runtime.model.engine import Model

pytestmark = pytest.mark.training
KINDS = {"foveal, linear members": 5, "linear members alone": 1, "raw, linear members alone, without smoothing": 3}
Tiles = Callable[..., Tensor]


def with_outside(classifier: Classifier, window: int, tiles: Tensor) -> Classifier:
    """Give a classifier a distance of random weights, and steps that its percents spread over."""
    generator = torch.Generator().manual_seed(3)
    features = classifier.extractor(classifier.normaliser(tiles))
    found = Outside(window, 6, 3, features.shape[1])
    found.weight.normal_(0, features.shape[1] ** -0.5, generator=generator)
    for values in (found.bias, found.slopes, found.constants):
        values.normal_(generator=generator)
    found.curve.uniform_(0.1, 1, generator=generator)
    classifier.outside = found
    distance = classifier.distance_of(features).flatten()
    found.steps = torch.quantile(distance, torch.linspace(0.05, 0.95, 100))
    return classifier


@pytest.fixture(params=list(KINDS))
def classifier(request, classifier_of, tiles_for) -> Classifier:
    plain = classifier_of(request.param)
    with torch.no_grad():
        return with_outside(plain, KINDS[request.param], tiles_for(plain, 2, 10)).eval()


@torch.no_grad()
def test_folding_changes_nothing(classifier: Classifier, tiles_for: Tiles) -> None:
    tiles = tiles_for(classifier, 2, 6).double()
    classifier.double()
    model = deployed(classifier)
    assert isinstance(model, DeployedWithOutside)
    _, _, probabilities, outside = model(tiles)
    wanted = classifier.outside_of(classifier.extractor(classifier.normaliser(tiles)))
    assert outside.unique().numel() > 10  # else it would be too easy
    assert (outside != wanted).double().mean() < 0.02  # a step met by rounding
    torch.testing.assert_close(probabilities, classifier(tiles).softmax(1), rtol=1e-9, atol=1e-9)
    assert outside.shape == probabilities[:, 0].shape


def test_the_file_gives_it_and_verifies(classifier, tiles_for, card_for, tmp_path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_bytes(deployed(classifier), card_for(classifier).to_json()))
    tiles = tiles_for(classifier, 3, 8)
    verify(path, classifier, tiles)
    model = Model.open(path, "cpu", 1)
    assert model.outside
    found = model.run(tiles.numpy(), outside=True).outside
    alone = [model.run(tiles.numpy()[i : i + 1], outside=True).outside for i in range(3)]
    np.testing.assert_array_equal(found, np.concatenate(alone))
    classifier.outside.constants += 0.3 * (classifier.outside.steps[-1] - classifier.outside.steps[0])
    with pytest.raises(VerificationError, match="distance from the training"):
        verify(path, classifier, tiles)
