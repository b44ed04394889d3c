"""The scene and the classifier of the benchmark of maps are what it says they are."""

import numpy as np
import pytest
import rasterio
import torch

from benchmarks import map_speed


@pytest.mark.parametrize(("n", "side"), [(3, 10), (5, 4), (1, 3)])
def test_walking_to_and_fro(n, side):
    there_and_back = [*range(n), *reversed(range(n))] * side
    assert map_speed.walked(n, side).tolist() == there_and_back[:side]


def test_the_mosaic_is_mirrored_copies(tmp_path):
    cube = np.random.default_rng(0).integers(0, 999, (7, 5, 3), np.uint16)
    map_speed.write_mosaic(cube, tmp_path / "scene.tif", 150)
    with rasterio.open(tmp_path / "scene.tif") as file:
        found = file.read().transpose(1, 2, 0)
    joined = np.concatenate([cube, cube[::-1]], 0)
    joined = np.concatenate([joined, joined[:, ::-1]], 1)
    np.testing.assert_array_equal(found, np.tile(joined, (11, 15, 1))[:150, :150])


def test_the_published_classifier():
    model = map_speed.PublishedClassifier(16)
    seen = []
    model.attentions[0].register_forward_hook(lambda _, given, made: seen.extend([given[0].shape, made.shape]))
    with torch.no_grad():
        scores = model(torch.zeros(2, 13, 13, 1200))
    assert scores.shape == (2, 16)
    assert seen == [(2, 170, 64)] * 2
    # 20 heads of 64: three products of 64 x 1280 and one back, in each of two layers
    inner = sum(p.numel() for p in model.attentions.parameters() if p.ndim == 2)
    assert inner == 2 * 4 * 64 * 1280


def test_a_window_is_centred_on_its_pixel():
    features = torch.arange(15 * 16).view(15, 16, 1)  # 3 x 4 pixels with their rims
    windows = map_speed.Windows(features)
    assert len(windows) == 3 * 4
    assert [int(windows[k][6, 6, 0]) for k in range(12)] == features[6:9, 6:10, 0].flatten().tolist()
