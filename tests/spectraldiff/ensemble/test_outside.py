"""Distances from the training: ranks of held-out pixels, classes without labels, and what is far from everything."""

import numpy as np
import pytest
import torch

from spectraldiff.ensemble.context_inputs import BAND_COMPONENTS, ContextInputs, band_maps, padded_valid
from spectraldiff.ensemble.linear_fit import Labelled
from spectraldiff.ensemble.outside import BEYOND, OutsideFit, _auroc, fit_outside, share_beyond
from spectraldiff.models.padding import mirrored

HEIGHT, WIDTH, BANDS, RIM, CLASSES = 60, 64, 12, 7, 4
UNKNOWN = 3  # the class without labels


class World:
    """A scene of four classes in blocks, whose last class has no labels."""

    def __init__(self, noise: float = 1.0) -> None:
        generator = np.random.default_rng(0)
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        self.labels = (rows // 10 + columns // 8) % CLASSES
        means = generator.normal(0, 3, (CLASSES, BANDS))
        # Neighbouring bands vary together: a difference across them counts more than one along them.
        mixing = np.tril(np.ones((BANDS, BANDS))) * 0.4
        cube = means[self.labels] + noise * generator.normal(0, 1, (HEIGHT, WIDTH, BANDS)) @ mixing.T
        self.scene = torch.from_numpy(cube.astype(np.float32)).permute(2, 0, 1)
        valid = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
        self.chosen = np.flatnonzero((self.labels != UNKNOWN) & (generator.random((HEIGHT, WIDTH)) < 0.2))
        pixels = np.stack(np.unravel_index(self.chosen, (HEIGHT, WIDTH)), 1)
        maps = band_maps([self.scene], [valid], RIM, BANDS, BANDS)
        guides = maps[BAND_COMPONENTS].values[..., :2]
        self.inputs = ContextInputs(maps, torch.from_numpy(pixels + RIM), guides, padded_valid([valid], RIM))
        numbers = generator.integers(0, 5, len(self.chosen))
        labels = self.labels.ravel()[self.chosen]
        self.labelled = Labelled(labels, [numbers == fold for fold in range(5)], CLASSES)

    def fit(self, reach: int = 7) -> OutsideFit:
        return fit_outside(self.inputs, self.labelled, reach, [BAND_COMPONENTS])

    def layer(self, fit: OutsideFit) -> np.ndarray:
        with torch.no_grad():
            return fit.module(mirrored(self.scene, fit.module.radius)[None])[0].numpy()


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def fit(world: World) -> OutsideFit:
    return world.fit()


def test_the_percent_is_the_share_of_held_out_pixels_that_are_closer(fit: OutsideFit) -> None:
    percents = np.sort(fit.percents)
    count = len(percents)
    np.testing.assert_allclose(percents, np.ceil(100 * np.arange(count) / count), atol=1.01)
    assert (percents > BEYOND).mean() == pytest.approx(0.05, abs=0.01)
    assert percents.max() < 100  # 100 is beyond all of them


def test_other_pixels_of_the_classes_are_as_close_as_was_promised(world: World, fit: OutsideFit) -> None:
    layer = world.layer(fit).ravel()
    rest = np.ones(layer.size, bool)
    rest[world.chosen] = False
    known = rest & (world.labels.ravel() != UNKNOWN)
    assert (layer[known] > BEYOND).mean() == pytest.approx(0.05, abs=0.03)


def test_a_class_without_labels_is_beyond(world: World, fit: OutsideFit) -> None:
    layer = world.layer(fit)
    unknown = world.labels == UNKNOWN
    assert (layer[unknown] > BEYOND).mean() > 0.9
    assert fit.auroc > 0.9
    assert share_beyond([layer]) == pytest.approx((layer > BEYOND).mean())


def test_what_is_far_from_everything_is_far_however_odd(world: World, fit: OutsideFit) -> None:
    generator = torch.Generator().manual_seed(1)
    side = fit.module.window
    odd = torch.randn(200, BANDS, 1, 1, generator=generator) * 100
    with torch.no_grad():
        assert (fit.module(odd.expand(-1, -1, side, side)) == 100).all()
    assert (fit.module.curve > 0).all()


def test_it_looks_no_farther_than_it_may(world: World) -> None:
    assert world.fit(reach=0).window == 1
    assert world.fit(reach=1).window <= 3


def pairs_in_order(held_out: np.ndarray, labels: np.ndarray) -> float:
    """Each class left out in turn: the share of pairs of its pixels and others that are farther; a slow reference."""
    shares = []
    for k in np.unique(labels):
        far = np.array([min((d for c, d in enumerate(row) if c != k and d == d), default=np.nan) for row in held_out])
        pairs = [one > two for one in far[labels == k] for two in far[labels != k] if one == one and two == two]
        shares += [np.mean(pairs)] if pairs else []
    return float(np.mean(shares))


@pytest.mark.parametrize("unknown", [(), (0,), (0, 1)])
def test_pixels_that_no_other_class_is_known_of_are_not_ranked(world: World, unknown: tuple[int, ...]) -> None:
    """As where the folds are polygons and each class has few."""
    labels = np.repeat(np.arange(3), 5)
    held_out = np.random.default_rng(3).random((15, 3))
    held_out[np.ix_(np.isin(labels, unknown), [0, 1])] = np.nan
    assert _auroc(held_out, labels) == pytest.approx(pairs_in_order(held_out, labels))
    apart = world.labelled.labels != 2
    assert (
        fit_outside(world.inputs, Labelled(world.labelled.labels, [apart, ~apart], 4), 7, [BAND_COMPONENTS]).auroc >= 0
    )


def test_noisy_fields_are_read_with_what_lies_around() -> None:
    assert World(noise=25.0).fit().window > 1


def test_errors_are_those_within_and_beyond(fit: OutsideFit) -> None:
    labels = np.zeros(len(fit.percents), np.int64)
    scores = np.zeros((len(labels), 2))
    scores[fit.percents > BEYOND, 1] = 1  # all wrong there
    assert fit.judged(scores, labels).errors == (0, 1)
    scores[fit.percents > BEYOND] = np.nan
    inside, outside = fit.judged(scores, labels).errors
    assert inside == 0
    assert np.isnan(outside)


def test_pixels_without_data_count_for_no_share() -> None:
    layer = np.array([[0, 96, 255], [255, 100, 95]], np.uint8)
    assert share_beyond([layer]) == 0.5
    assert np.isnan(share_beyond([np.full((2, 2), 255, np.uint8)]))
