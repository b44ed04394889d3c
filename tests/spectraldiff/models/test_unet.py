import pytest
import torch
from torch import nn

from spectraldiff.models.presets import FAST, PAPER
from spectraldiff.models.unet import Conv, DenoisingUNet, UNetConfig, parameter_count

SMALL = UNetConfig(11, 2, 4, (4, 6, 8), (3, 1, 1), (3, 3, 3), (4, 1, 1))
SMALL_PAPER = UNetConfig(9, 1, 4, (4, 6, 8))


def conv3d(inputs: int, outputs: int, *kernel: int) -> int:
    taps = 1
    for k in kernel:
        taps *= k
    return inputs * outputs * taps + outputs


def double(inputs: int, outputs: int, embedding: int = 64) -> int:
    layers = conv3d(inputs, outputs, 3, 3, 3) + conv3d(outputs, outputs, 3, 3, 3)
    return layers + 2 * 2 * outputs + (embedding * outputs + outputs)


def test_paper_network_has_the_described_parameters() -> None:
    down = sum(double(a, b) + conv3d(b, b, 4, 5, 5) for a, b in ((16, 32), (32, 64), (64, 128)))
    up = sum(conv3d(a, a, 4, 5, 5) + double(a + b, b) for a, b in ((128, 128), (128, 64), (64, 32)))
    ends = conv3d(1, 16, 3, 3, 3) + conv3d(32, 1, 3, 3, 3)
    step = 64 * 64 + 64
    net = DenoisingUNet(PAPER.unet(200))
    assert parameter_count([net]) == down + up + ends + step == 8_625_601


def test_paper_network_has_the_described_layers() -> None:
    net = DenoisingUNet(PAPER.unet(200))
    assert (net.stem.kernel_size, net.stem.out_channels, net.stem.stride) == ((3, 3, 3), 16, (1, 1, 1))
    for block, channels in zip(net.down, (32, 64, 128), strict=True):
        assert block.down.out_channels == channels
        assert (block.down.kernel_size, block.down.stride) == ((4, 5, 5), (2, 1, 1))
        assert sum(isinstance(m, nn.BatchNorm3d) for m in block.layers.modules()) == 2
    for block in net.up:
        assert isinstance(block.up, nn.ConvTranspose3d)
        assert (block.up.kernel_size, block.up.stride) == ((4, 5, 5), (2, 1, 1))
    assert (net.last.kernel_size, net.last.out_channels) == ((3, 3, 3), 1)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_paper_features_keep_space_and_compress_the_spectrum(layer: int) -> None:
    config = PAPER.unet(200)
    halo, shape = config.halo(layer), config.feature_shape(layer)
    assert shape == [(128, 25), (128, 50), (64, 100)][layer]
    assert halo == [13, 17, 21][layer]
    with torch.no_grad():
        net = DenoisingUNet(config).eval()
        features = net.features(torch.zeros(1, 200, 2 * halo + 1, 2 * halo + 2), torch.ones(1).long(), layer)
    assert features.shape == (1, *shape, 1, 2)


@pytest.mark.parametrize("preset", [FAST, PAPER])
@pytest.mark.parametrize("bands", [1, 3, 5, 8, 17])
def test_any_number_of_bands(preset: object, bands: int) -> None:
    config = preset.unet(bands)  # type: ignore[attr-defined]
    with torch.no_grad():
        y = DenoisingUNet(config).eval()(torch.randn(1, bands, 4, 5), torch.ones(1).long())
    assert y.shape == (1, bands, 4, 5)


@pytest.mark.parametrize(("bands", "stride"), [(8, 1), (24, 1), (25, 2), (103, 5), (200, 9), (204, 9), (224, 10)])
def test_the_default_has_no_more_positions_than_its_blocks_can_halve(bands: int, stride: int) -> None:
    """Any other number is padded to the next one that they can: every map would pay for it."""
    config = FAST.unet(bands)
    assert config.stem_stride == stride
    assert config.padded_bands // stride in (8, 16, 24)
