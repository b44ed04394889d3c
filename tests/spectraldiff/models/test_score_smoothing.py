"""Smoothing: what it computes, where it stops, and where the scale of similarity comes from."""

import math

import pytest
import torch
from torch import Tensor

from spectraldiff.models.score_smoothing import GUIDES, MEDIAN, RADIUS, Smoothing, sharpness


def by_hand(scores: Tensor, guides: Tensor) -> Tensor:
    """Average the scores (K, H, W) of the pixels around each pixel that has all of them, one after the other."""
    height, width = guides.shape[1:]
    result = torch.empty(len(scores), height - 2 * RADIUS, width - 2 * RADIUS, dtype=scores.dtype)
    for row in range(RADIUS, height - RADIUS):
        for column in range(RADIUS, width - RADIUS):
            around = (slice(None), slice(row - RADIUS, row + RADIUS + 1), slice(column - RADIUS, column + RADIUS + 1))
            weights = (-(guides[around] - guides[:, row, column, None, None]).square().sum(0)).exp()
            result[:, row - RADIUS, column - RADIUS] = (scores[around] * weights).sum((1, 2)) / weights.sum()
    return result


@pytest.mark.parametrize("iterations", [1, 2])
def test_scores_are_averaged_over_similar_neighbours(iterations):
    generator = torch.Generator().manual_seed(0)
    scores, guides = (torch.randn(2, c, 11, 13, generator=generator, dtype=torch.float64) for c in (4, 3))
    found = Smoothing(iterations)(scores, 0.5 * guides)
    for n in range(2):
        wanted, within = scores[n], 0.5 * guides[n]
        for _ in range(iterations):
            wanted, within = by_hand(wanted, within), within[:, RADIUS:-RADIUS, RADIUS:-RADIUS]
        torch.testing.assert_close(found[n], wanted)


def test_no_iteration_changes_nothing():
    scores = torch.randn(1, 3, 4, 5)
    assert Smoothing(0)(scores, torch.randn(1, 2, 4, 5)) is scores
    assert (Smoothing(0).halo, Smoothing(3).halo) == (0, 6)


def test_an_edge_stays_where_it_is_and_speckles_go():
    guides = torch.zeros(1, 1, 30, 30)
    guides[..., 13:] = 5.0
    truth = (guides[0, 0] > 0).long()
    scores = torch.nn.functional.one_hot(truth, 2).permute(2, 0, 1)[None].float()
    wrong = torch.rand(30, 30, generator=torch.Generator().manual_seed(0)) < 0.2
    scores = torch.where(wrong, 1 - scores, scores)
    smoothing = Smoothing(2)
    found, rim = smoothing(scores, guides).argmax(1)[0], smoothing.halo
    inner = truth[rim:-rim, rim:-rim]
    assert (scores.argmax(1)[0] != truth).float().mean() > 0.15
    assert torch.equal(found, inner)


def test_similarity_is_scaled_to_the_scene():
    features = torch.randn(20, 30, GUIDES + 5, generator=torch.Generator().manual_seed(0))
    features[..., GUIDES:] *= 1000  # beyond the guides nothing counts
    valid = torch.ones(20, 30, dtype=torch.bool)
    scale = sharpness([features], [valid])
    guides = Smoothing(1, scale).guides(features.permute(2, 0, 1)[None])
    assert guides.shape == (1, GUIDES, 20, 30)
    distances = torch.cat([guides.diff(dim=axis).square().sum(1).flatten() for axis in (2, 3)])
    assert (-distances).exp().median() == pytest.approx(math.exp(-MEDIAN), rel=1e-3)
    assert sharpness([3 * features], [valid]) == pytest.approx(scale / 3)
    noisy = features.clone()
    noisy[:5] = 1e6
    masked = valid.clone()
    masked[:5] = False
    assert sharpness([noisy], [masked]) == pytest.approx(sharpness([features[5:]], [valid[5:]]))


def test_a_scene_of_equal_pixels_has_some_scale():
    assert sharpness([torch.ones(4, 4, 3)], [torch.ones(4, 4, dtype=torch.bool)]) == 1.0
