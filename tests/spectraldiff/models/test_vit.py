from dataclasses import replace

import pytest
import torch

from spectraldiff.models.presets import PAPER
from spectraldiff.models.settings import Member
from spectraldiff.models.unet import parameter_count
from spectraldiff.models.vit import Attention, SpectralViT, ViTConfig

CONFIG = ViTConfig(components=7, classes=4, members=(Member(5),), width=16, depth=3, heads=4, mlp=24, dropout=0.0)


def test_paper_classifier_has_the_described_parameters() -> None:
    vit = SpectralViT(PAPER.vit(1200, 16, PAPER.members()))
    assert (vit.config.depth, vit.config.heads) == (5, 4)
    width, mlp = 64, 128
    attention = width * 3 * width + 3 * width + width * width + width
    block = attention + 4 * width + width * mlp + mlp + mlp * width + width
    head = 2 * width + width * mlp + mlp + mlp * 16 + 16
    assert parameter_count([vit]) == 1200 * width + width + 13 * 13 * width + width + 5 * block + head


def test_attention_is_softmax_attention() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2).double()
    x = torch.randn(3, 6, 8, dtype=torch.float64)
    expected, _ = torch.nn.functional.multi_head_attention_forward(
        *[x.transpose(0, 1)] * 3,
        8,
        2,
        attention.qkv.weight,
        attention.qkv.bias,
        None,
        None,
        False,
        0.0,
        attention.out.weight,
        attention.out.bias,
        need_weights=False,
    )
    torch.testing.assert_close(attention(x), expected.transpose(0, 1))
    torch.testing.assert_close(attention(x, queries=1), expected.transpose(0, 1)[:, :1])


def test_sliding_equals_windows_one_by_one() -> None:
    torch.manual_seed(0)
    vit = SpectralViT(CONFIG).double().eval()
    features = torch.randn(9, 9, 7, dtype=torch.float64)
    with torch.no_grad():
        tokens = vit.embed(features).permute(2, 0, 1)[None]
        scores = vit.slide(tokens)[0]  # (K, 5, 5)
        for row in range(5):
            for column in range(5):
                alone = vit(features[None, row : row + 5, column : column + 5])[0]
                torch.testing.assert_close(scores[:, row, column], alone)


def test_position_matters() -> None:
    torch.manual_seed(0)
    vit = SpectralViT(replace(CONFIG, depth=1)).eval()
    window = torch.randn(1, 5, 5, 7)
    with torch.no_grad():
        assert not torch.allclose(vit(window), vit(window.flip(1)), atol=1e-5)


@pytest.mark.parametrize("classes", [2, 40])
def test_any_number_of_classes(classes: int) -> None:
    assert SpectralViT(replace(CONFIG, classes=classes))(torch.zeros(2, 5, 5, 7)).shape == (2, classes)
