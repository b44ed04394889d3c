"""What linear members read: means and smoothed features at pixels, the noise, and maps as linear maps of features."""

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from spectraldiff.ensemble import context_inputs
from spectraldiff.ensemble.context_inputs import (
    BAND_COMPONENTS,
    BANDS,
    ContextInputs,
    FeatureMap,
    band_maps,
    component_map,
    guides_of,
    padded_valid,
)
from spectraldiff.models.linear_members import PixelContext
from spectraldiff.models.padding import mirrored
from spectraldiff.models.pca import fit_pca
from spectraldiff.models.score_smoothing import Smoothing

HEIGHT, WIDTH, RIM = 70, 90, 9
CONTEXTS = [PixelContext(), PixelContext(5), PixelContext(iterations=2), PixelContext(9), PixelContext(3, 0)]


@pytest.fixture
def inputs() -> ContextInputs:
    """A map of three values, more than a tile high and wide, at pixels in all of its corners."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(HEIGHT + 2 * RIM, WIDTH + 2 * RIM, 3, generator=generator)
    guides = guides_of(torch.randn(HEIGHT + 2 * RIM, WIDTH + 2 * RIM, 6, generator=generator), Smoothing(4, 0.3))
    pixels = torch.cartesian_prod(torch.tensor([69, 0, 30]), torch.tensor([0, 89, 54, 55])) + RIM
    valid = padded_valid([torch.ones(HEIGHT, WIDTH, dtype=torch.bool)], RIM)
    return ContextInputs({"map": FeatureMap(values, np.eye(3), np.zeros(3))}, pixels, guides, valid)


def test_means_are_those_of_the_whole_map(inputs: ContextInputs):
    values, at = inputs.maps["map"].values.double().numpy(), tuple(inputs.pixels.T.numpy())
    for context, found in zip(CONTEXTS, inputs.read("map", CONTEXTS), strict=True):
        if not context.iterations:
            wanted = uniform_filter(values, (context.window, context.window, 1))[at]
            np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_smoothed_values_are_those_of_the_whole_map(inputs: ContextInputs, iterations: int):
    smoothing = Smoothing(iterations)
    whole = smoothing(*(one.movedim(-1, 0)[None] for one in (inputs.maps["map"].values, inputs.guides)))[0]
    rows, columns = (inputs.pixels - smoothing.halo).T
    contexts = [PixelContext(9), PixelContext(iterations=1), PixelContext(iterations=iterations)]
    found = inputs.read("map", contexts)[-1]
    np.testing.assert_allclose(found, whole[:, rows, columns].T.numpy(), atol=1e-5)


def test_what_was_read_is_kept(inputs: ContextInputs, monkeypatch: pytest.MonkeyPatch):
    first = inputs.read("map", CONTEXTS)
    monkeypatch.setattr(ContextInputs, "_read", lambda *_: pytest.fail("it was read before"))
    assert inputs.read("map", CONTEXTS[2:3])[0] is first[2]


@pytest.mark.parametrize("window", [1, 3])
def test_the_noise_is_that_of_neighbours(inputs: ContextInputs, monkeypatch: pytest.MonkeyPatch, window: int):
    """A plain loop over all pairs of neighbours with data, less the quarter that differs most."""
    monkeypatch.setattr(context_inputs, "TILE", 1000)
    inputs.valid[20:40, 30:35] = False
    values = inputs.maps["map"].values.double().numpy()
    mean = uniform_filter(values, (window, window, 1))
    pairs = [
        ((row, column), other)
        for row in range(RIM, RIM + HEIGHT)
        for column in range(RIM, RIM + WIDTH)
        for other in ((row + 1, column), (row, column + 1))
    ]
    differences = [mean[one] - mean[other] for one, other in pairs if inputs.valid[one] and inputs.valid[other]]
    differences.sort(key=lambda one: (one**2).sum())
    quiet = np.stack(differences[: int(0.75 * len(differences))])
    np.testing.assert_allclose(inputs.noise("map", window), quiet.T @ quiet / (2 * len(quiet)), rtol=1e-3, atol=1e-5)


def test_the_noise_of_tiles_is_near_that_of_the_scene(inputs: ContextInputs, monkeypatch: pytest.MonkeyPatch):
    found = inputs.noise("map", 1)
    monkeypatch.setattr(context_inputs, "TILE", 1000)
    np.testing.assert_allclose(found, inputs.noise("map", 1), atol=0.03)


def scene(bands: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Return normalised pixels, (B, 12, 15), the last band constant, and where they have data."""
    generator = torch.Generator().manual_seed(1)
    mixed = torch.randn(bands, bands, generator=generator) @ torch.randn(bands, 12 * 15, generator=generator)
    pixels = (mixed + torch.arange(bands)[:, None]).view(bands, 12, 15)
    pixels[-1] = 0.25
    valid = torch.ones(12, 15, dtype=torch.bool)
    valid[3:5, 2] = False
    return pixels, valid


def test_maps_of_bands_are_linear_maps_of_the_last_features():
    pixels, valid = scene()
    found = band_maps([pixels, pixels[:, :8, :9]], [valid, valid[:8, :9]], 2, 11, 3)
    features = torch.cat([torch.randn(6, 16, 19), mirrored(pixels, 2)]).movedim(0, -1).double().numpy()
    for name in (BANDS, BAND_COMPONENTS):
        one = found[name]
        assert one.values.shape == (16 + 12, 19, 3 if name == BAND_COMPONENTS else 5)
        np.testing.assert_allclose(one.values[:16], features @ one.weight.T + one.offset, atol=1e-5)
    standard = torch.cat([found[BANDS].values[2:14, 2:17][valid], found[BANDS].values[18:26, 2:11][valid[:8, :9]]])
    torch.testing.assert_close(standard.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard[:, :-1].std(0), torch.ones(4), atol=1e-5, rtol=0)
    assert not standard[:, -1].any()


def test_components_are_those_of_the_features_without_those_of_bands_alone():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 10, generator=generator)
    pca = fit_pca(iter([features]), 4, 3, 2)
    values = pca(features.T.reshape(1, 10, 10, 20))[0].movedim(0, -1)
    found = component_map(values, pca)
    assert found.values.shape[2] == len(found.weight) == 4
    wanted = features.view(10, 20, 10).double().numpy() @ found.weight.T + found.offset
    np.testing.assert_allclose(found.values, wanted, atol=1e-4)


def test_scores_of_a_map_are_folded_into_scores_of_features():
    generator = np.random.default_rng(0)
    weight, offset, features = (generator.standard_normal(shape) for shape in ((3, 7), (3,), (20, 7)))
    values = features @ weight.T + offset
    member = generator.standard_normal((3, 4)), generator.standard_normal(4)
    matrix, bias = FeatureMap(torch.from_numpy(values), weight, offset).fold(*member)
    np.testing.assert_allclose(features @ matrix.T + bias, values @ member[0] + member[1])


def test_without_pixels_side_by_side_the_noise_is_the_identity(inputs: ContextInputs):
    lonely = torch.zeros_like(inputs.valid)
    lonely[RIM::2, RIM::2] = True
    for valid in (lonely, torch.zeros_like(inputs.valid)):
        found = ContextInputs(inputs.maps, inputs.pixels, inputs.guides, valid).noise("map", 1)
        np.testing.assert_array_equal(found, np.eye(3))
