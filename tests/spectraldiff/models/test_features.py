import numpy as np
import pytest
import torch
from torch import Tensor

from spectraldiff.models import features as module
from spectraldiff.models import pca
from spectraldiff.models.classifier import extractor_for, new_denoiser
from spectraldiff.models.features import FeatureExtractor, scene_features
from spectraldiff.models.normaliser import Normaliser
from spectraldiff.models.padding import mirrored
from spectraldiff.models.pca import discriminative, fit_pca
from spectraldiff.models.presets import Preset
from spectraldiff.models.settings import replaced


def silent(done: int, total: int) -> None:
    """Report to nobody."""


@pytest.fixture
def extractor(tiny_preset: Preset) -> FeatureExtractor:
    torch.manual_seed(0)
    denoiser = new_denoiser(tiny_preset, 9, torch.zeros(9), torch.ones(9))
    return extractor_for(replaced(tiny_preset, features={"concat_bands": False}), denoiser).eval()


def test_normaliser_maps_the_range_to_minus_one_and_one() -> None:
    low, high = torch.tensor([100.0, -2.0, 5.0]), torch.tensor([300.0, 6.0, 5.0])
    raw = torch.stack([low, (low + high) / 2, high])[..., None, None]  # (3 pixels, B, 1, 1)
    expected = torch.tensor([[-1.0, -1, 0], [0, 0, 0], [1, 1, 0]])  # the third band is constant
    torch.testing.assert_close(Normaliser(low, high)(raw)[..., 0, 0], expected)


@pytest.mark.parametrize("shape", [(5, 7), (2, 3), (1, 4)])
def test_mirrored_is_numpys_reflection(shape: tuple[int, int]) -> None:
    scene = np.random.default_rng(0).normal(size=(2, *shape))
    expected = np.pad(scene, ((0, 0), (6, 6), (6, 6)), mode="reflect")
    np.testing.assert_array_equal(mirrored(torch.from_numpy(scene), 6), expected)


def test_pca_components_are_white_and_ordered() -> None:
    torch.manual_seed(0)
    rows = torch.randn(3000, 5) @ torch.diag(torch.tensor([5.0, 3.0, 1.0, 0.5, 0.1])) + 7
    pca = fit_pca(iter(rows.split(700)), 3)
    reduced = pca(rows.T[None, :, :, None])[0, :, :, 0]  # (P, n)
    torch.testing.assert_close(torch.cov(reduced), torch.eye(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(reduced.mean(1), torch.zeros(3), atol=1e-4, rtol=0)
    variance = torch.linalg.eigvalsh(torch.cov(rows.T)).flip(0)
    assert pca.explained == pytest.approx(float(variance[:3].sum() / variance.sum()), rel=1e-4)


def test_pca_keeps_no_direction_without_variance() -> None:
    rows = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).repeat(1, 3)
    assert fit_pca(iter([rows]), 6).components.shape == (2, 6)


def test_pca_keeps_no_direction_that_is_mostly_rounding() -> None:
    deviations = torch.tensor([1.0, 0.1, 0.003, 0.001])
    rows = 1 + torch.randn(5000, 4, generator=torch.Generator().manual_seed(0)) * deviations
    assert fit_pca(iter([rows]), 4).components.shape == (3, 4)


def components(useful: int, noise: int, pixels: int, classes: int) -> tuple[Tensor, Tensor]:
    """Return (n, P) components, the first ones of which separate the classes, and the classes, from 3."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(pixels) % classes
    values = torch.randn(pixels, useful + noise, generator=generator)
    values[:, :useful] += torch.randn(classes, useful, generator=generator)[labels]
    return values, labels + 3


@pytest.mark.parametrize(("pixels", "classes"), [(120, 12), (60, 2), (4000, 40)])
def test_components_that_are_noise_are_left_out(pixels: int, classes: int) -> None:
    values, labels = components(10, 150, pixels, classes)
    assert 9 <= discriminative(values, labels) <= 25  # chance adds a few


@pytest.mark.parametrize(("pixels", "classes"), [(80, 16), (40, 2), (1000, 16)])
def test_weakly_discriminative_components_are_kept_where_there_are_many(pixels: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(pixels) % classes
    values = torch.randn(pixels, 200, generator=generator)
    values += 0.6 * torch.randn(classes, 200, generator=generator)[labels]
    assert discriminative(values, labels) == 200


def test_too_few_pixels_tell_nothing_of_components() -> None:
    values, labels = components(2, 50, 6, 2)
    assert discriminative(values, labels) == 52
    assert discriminative(values, torch.zeros(6)) == 52


def test_bands_alone_have_components_of_their_own(extractor: FeatureExtractor) -> None:
    scene = torch.rand(9, 13, 17, generator=torch.Generator().manual_seed(1)) * 2 - 1
    valid = torch.ones(13, 17, dtype=torch.bool)
    both = FeatureExtractor(extractor.denoiser, extractor.timestep, extractor.layer, concat_bands=True).eval()
    [found], pca = scene_features(both, [scene], [valid], 2, 5, silent, band_components=4)
    assert pca.band_components == 4
    [first], _ = scene_features(both, [scene], [valid], 2, 5, silent)
    [last], _ = scene_features(FeatureExtractor(None, 1, 0, concat_bands=True), [scene], [valid], 2, 4, silent)
    expected = torch.cat([first, last], -1)
    # A component's sign is free.
    torch.testing.assert_close(found.abs(), expected.abs(), atol=2e-3, rtol=0)


def test_components_of_either_kind_are_left_out_where_they_do_not_separate_the_classes() -> None:
    rows = torch.randn(1000, 240, generator=torch.Generator().manual_seed(0)) * torch.linspace(4, 1, 240)
    pca = fit_pca(iter([rows]), 120, bands=120, band_components=110)
    assert (len(pca.components), pca.band_components) == (230, 110)
    features, labels = components(5, 115, 400, 4)
    bands, _ = components(3, 107, 400, 4)
    kept = pca.discriminative(torch.cat([features, bands], 1), labels)
    first, last = discriminative(features, labels), discriminative(bands, labels)
    assert kept.tolist() == [*range(first), *range(120, 120 + last)]
    assert len(kept) < 60
    less = pca.select(kept)
    assert less.band_components == last
    torch.testing.assert_close(less.components, pca.components[kept])
    assert 0 < less.explained < pca.explained


def test_scene_features_do_not_depend_on_the_tiles(
    extractor: FeatureExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = torch.rand(9, 13, 17, generator=torch.Generator().manual_seed(1)) * 2 - 1
    valid = torch.ones(13, 17, dtype=torch.bool)
    monkeypatch.setattr(pca, "SMALLEST_DEVIATION", 1e-6)  # an untrained network's features hardly vary
    results = []
    for tile in (5, 32):
        monkeypatch.setattr(module, "TILE", tile)
        results.append(scene_features(extractor, [scene], [valid], 2, 4, silent))
    ([small], small_pca), ([large], large_pca) = results
    assert small.shape == (17, 21, 4)
    torch.testing.assert_close(small_pca.explained, large_pca.explained, atol=1e-5, rtol=0)
    # A component's sign is free.
    torch.testing.assert_close(small.abs(), large.abs(), atol=2e-3, rtol=0)


def test_features_of_several_scenes_share_one_pca(extractor: FeatureExtractor) -> None:
    generator = torch.Generator().manual_seed(1)
    scenes = [torch.rand(9, h, w, generator=generator) * s for h, w, s in ((13, 17, 2), (8, 40, 1))]
    valid = [torch.ones(s.shape[1:], dtype=torch.bool) for s in scenes]
    raw = FeatureExtractor(None, 1, 0, concat_bands=True)
    reduced, pca = scene_features(raw, scenes, valid, 2, 4, silent)
    pixels = torch.cat([s.flatten(1) for s in scenes], 1)
    torch.testing.assert_close(pca.mean, pixels.mean(1), atol=1e-6, rtol=0)
    for features, scene in zip(reduced, scenes, strict=True):
        torch.testing.assert_close(features, pca(mirrored(scene, 2)[None])[0].permute(1, 2, 0))


def test_pca_leaves_pixels_without_data_out(extractor: FeatureExtractor) -> None:
    scene = torch.rand(9, 8, 8, generator=torch.Generator().manual_seed(1))
    valid = torch.ones(8, 8, dtype=torch.bool)
    valid[:, 5:] = False
    raw = FeatureExtractor(None, 1, 0, concat_bands=True)
    _, pca = scene_features(raw, [scene], [valid], 0, 3, silent)
    expected = scene[:, valid].mean(1)
    torch.testing.assert_close(pca.mean, expected, atol=1e-6, rtol=0)


def test_instance_is_replaced_by_its_mean(tiny_preset: Preset, extractor: FeatureExtractor) -> None:
    """Features are those of sqrt(alpha_bar_t) x0: what many noisy draws are centred on."""
    denoiser = extractor.denoiser
    assert denoiser is not None
    side, t = 2 * extractor.halo + 1, torch.tensor([tiny_preset.features.timestep])
    x0 = torch.rand(1, 9, side, side) * 2 - 1
    scale, shift = denoiser.input_affine(t)
    x_t = denoiser.schedule.mean(x0, t)
    with torch.no_grad():
        expected = denoiser.network.features(scale * x_t + shift, t, tiny_preset.features.layer)  # type: ignore[operator]
        torch.testing.assert_close(extractor(x0), expected.flatten(1, 2))


def test_raw_bands_can_be_concatenated_to_the_features(tiny_preset: Preset, extractor: FeatureExtractor) -> None:
    both = FeatureExtractor(
        extractor.denoiser, tiny_preset.features.timestep, tiny_preset.features.layer, concat_bands=True
    ).eval()
    h = both.halo
    x = torch.rand(1, 9, 2 * h + 3, 2 * h + 3)
    with torch.no_grad():
        y = both(x)
        torch.testing.assert_close(y[:, -9:], x[:, :, h:-h, h:-h])
        torch.testing.assert_close(y[:, :-9], extractor(x))


def test_progress_ends_at_its_total(extractor: FeatureExtractor) -> None:
    seen: list[tuple[int, int]] = []
    scene: Tensor = torch.rand(9, 8, 8)
    valid = torch.ones(8, 8, dtype=torch.bool)
    scene_features(extractor, [scene, scene], [valid, valid], 0, 3, lambda d, n: seen.append((d, n)))
    assert seen[-1][0] == seen[-1][1]
    assert seen == sorted(seen)
