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


@pytest.mark.parametrize(("bands", "stride"), [(5, 1), (12, 1), (13, 2), (103, 9), (144, 12), (200, 17), (224, 19)])
def test_fast_stride_follows_the_bands(bands: int, stride: int) -> None:
    """There are no more positions than the blocks can halve twice: every map would pay for the padding."""
    config = FAST.unet(bands)
    assert config.stem_stride == stride
    assert config.padded_bands >= bands
    assert config.padded_bands // stride in (8, 12)
    net = DenoisingUNet(config).eval()
    with torch.no_grad():
        assert net(torch.randn(1, bands, 3, 3), torch.ones(1).long()).shape == (1, bands, 3, 3)


def test_padding_repeats_the_edge_bands() -> None:
    net = DenoisingUNet(UNetConfig(5, 1, 4, (4, 4, 4)))
    assert net.band_index.tolist() == [0, 0, 1, 2, 3, 4, 4, 4]


@pytest.mark.parametrize("config", [SMALL, SMALL_PAPER])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_halo_is_the_exact_receptive_field(config: UNetConfig, layer: int) -> None:
    """A feature depends on the corner of its halo, and `features` consumes exactly the halo."""
    torch.manual_seed(0)
    net, halo = DenoisingUNet(config).double().eval(), config.halo(layer)
    x = torch.randn(1, config.bands, 2 * halo + 1, 2 * halo + 1, dtype=torch.float64, requires_grad=True)
    y = net.features(x, torch.tensor([5]), layer)
    assert y.shape[-2:] == (1, 1)
    y.sin().sum().backward()
    assert x.grad is not None
    assert float(x.grad[..., 0, :].abs().max()) > 0
    assert float(x.grad[..., :, -1].abs().max()) > 0


@pytest.mark.parametrize("config", [SMALL, SMALL_PAPER])
def test_unpadded_features_equal_the_inner_ones_of_a_padded_pass(config: UNetConfig) -> None:
    """Far from the rim, padding with zeros makes no difference: both ways are the same network."""
    torch.manual_seed(0)
    net, layer = DenoisingUNet(config).double().eval(), 2
    halo = config.halo(layer)
    x, t = torch.randn(1, config.bands, 2 * halo + 3, 2 * halo + 3, dtype=torch.float64), torch.tensor([5])
    with torch.no_grad():
        embedding = net.embed(t)
        y, skips = net.encode(x, embedding, valid=False)
        for block, skip in list(zip(net.up, reversed(skips), strict=True))[:layer]:
            y = block(y, skip, embedding, valid=False)
        torch.testing.assert_close(net.features(x, t, layer), y[..., halo:-halo, halo:-halo])


def test_features_of_a_part_equal_the_part_of_the_features() -> None:
    net, halo = DenoisingUNet(SMALL).double().eval(), SMALL.halo(2)
    x, t = torch.randn(1, SMALL.bands, 2 * halo + 6, 2 * halo + 7, dtype=torch.float64), torch.tensor([9])
    with torch.no_grad():
        whole = net.features(x, t, 2)
        part = net.features(x[..., 2 : 2 * halo + 5, 3 : 2 * halo + 6], t, 2)
    torch.testing.assert_close(whole[..., 2:5, 3:6], part)


def test_the_step_matters() -> None:
    net = DenoisingUNet(SMALL).eval()
    x = torch.randn(1, SMALL.bands, 4, 4)
    with torch.no_grad():
        assert not torch.allclose(net(x, torch.tensor([1])), net(x, torch.tensor([400])))


@pytest.mark.parametrize("positions", [1, 2, 3, 4, 25])
def test_gradients_in_bfloat16_are_those_of_float32(positions: int) -> None:
    """The spectrum of few bands shrinks to two positions, where PyTorch's own gradient holds what lay in the memory."""
    torch.manual_seed(0)
    conv = Conv(48, 64, (3, 1, 1)).to(memory_format=torch.channels_last_3d)
    x, wanted = torch.randn(16, 48, positions, 8, 8), torch.randn(16, 64, positions, 8, 8)

    def gradient(bf16: bool) -> torch.Tensor:
        conv.zero_grad()
        left = [torch.full((size,), float("nan")) for size in (10**3, 9216, 10**5, 10**6) for _ in range(20)]
        del left
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found = conv(x)
        (found.float() * wanted).sum().backward()
        assert conv.weight.grad is not None
        return conv.weight.grad.clone()

    exact = gradient(False)
    assert (gradient(True) - exact).norm() < 0.02 * exact.norm()
