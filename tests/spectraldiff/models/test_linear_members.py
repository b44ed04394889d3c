"""Linear members: filtered scores are the scores of filtered features, and one chain of smoothing serves all."""

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from spectraldiff.models.linear_members import LinearMembers, Outside, PixelContext, mean_filter
from spectraldiff.models.padding import cropped
from spectraldiff.models.score_smoothing import RADIUS, ScorePart, Smoothing, reach

CONTEXTS = (PixelContext(1), PixelContext(1, 2), PixelContext(3), PixelContext(9))


@pytest.mark.parametrize("window", [1, 3, 9])
def test_the_mean_is_that_of_scipy(window: int):
    x = torch.randn(2, 3, 20, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = cropped(torch.from_numpy(uniform_filter(x.numpy(), (1, 1, window, window))), window // 2)
    torch.testing.assert_close(mean_filter(x, window), wanted)


def test_scores_are_those_of_the_mean_of_the_features():
    generator = torch.Generator().manual_seed(0)
    members = LinearMembers(CONTEXTS, 6, 4).double()
    members.weight.normal_(generator=generator)
    members.bias.normal_(generator=generator)
    features = torch.randn(2, 6, 14, 15, generator=generator, dtype=torch.float64)
    for number, (context, scores) in enumerate(zip(CONTEXTS, members(features), strict=True)):
        mean = mean_filter(features, context.window)
        wanted = torch.einsum("kd,ndhw->nkhw", members.weight[number], mean) + members.bias[number][:, None, None]
        torch.testing.assert_close(scores, wanted)


@pytest.mark.parametrize("iterations", [(0, 0, 0), (3, 0, 1), (0, 2, 0), (2, 2, 1)])
def test_scores_of_several_iterations_are_smoothed_as_each_alone(iterations: tuple[int, ...]):
    generator = torch.Generator().manual_seed(0)
    size, radii = 30, (4, 0, 1)
    guides = torch.randn(2, 5, size, size, generator=generator, dtype=torch.float64)
    scores = [
        torch.randn(2, 3, size - 2 * radius, size - 2 * radius, generator=generator, dtype=torch.float64)
        for radius in radii
    ]
    parts = [ScorePart(*part) for part in zip(scores, radii, iterations, strict=True)]
    rim = reach(parts)
    assert rim == max(radius + RADIUS * count for radius, count in zip(radii, iterations, strict=True))
    wanted = torch.zeros(2, 3, size - 2 * rim, size - 2 * rim, dtype=torch.float64)
    for part in parts:
        alone = Smoothing(part.iterations)(part.scores, cropped(guides, part.radius))
        wanted += cropped(alone, rim - part.radius - RADIUS * part.iterations)
    torch.testing.assert_close(Smoothing(max(iterations)).combined(parts, guides), wanted)


def test_percents_are_the_steps_that_a_distance_exceeds() -> None:
    generator = torch.Generator().manual_seed(0)
    outside = Outside(1, 3, 2, 4)
    steps = torch.rand(100, generator=generator).sort().values
    steps[8:13], steps[97:] = steps[8], steps[97]  # equal ones, across a ten and at the end
    outside.steps.copy_(steps)
    extremes = torch.tensor([torch.inf, -torch.inf])
    distance = torch.cat([2 * torch.rand(2000, generator=generator) - 0.5, steps, extremes]).view(2, 1, 1, -1)
    found = outside.percent(distance)
    assert found.dtype == torch.uint8
    wanted = np.searchsorted(steps.numpy(), distance.flatten().numpy(), side="left")
    np.testing.assert_array_equal(found.flatten(), wanted)
    assert (found.min(), found.max()) == (0, 100)
