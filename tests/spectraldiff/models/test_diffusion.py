import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spectraldiff.models.diffusion import Denoiser, NoiseSchedule, denoise


class Linear(nn.Module):
    """A network whose output is a fixed multiple of its input."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.factor * x


def test_schedule_is_the_papers() -> None:
    schedule = NoiseSchedule(500, 1e-4, 0.02)
    beta = np.linspace(1e-4, 0.02, 500)
    assert schedule.alpha_bar[0] == 1
    np.testing.assert_allclose(schedule.alpha_bar[1:], np.cumprod(1 - beta), rtol=1e-5)
    np.testing.assert_allclose(schedule.beta[1:], beta, rtol=1e-6)


def test_noise_added_step_by_step_has_the_moments_of_the_jump() -> None:
    """Eq. (2) applied t times equals Eq. (3) with alpha-bar, not with alpha."""
    schedule = NoiseSchedule(500, 1e-4, 0.02)
    t, x0 = 100, 0.7
    mean, variance = x0, 0.0
    for step in range(1, t + 1):
        beta = float(schedule.beta[step])
        mean, variance = mean * (1 - beta) ** 0.5, variance * (1 - beta) + beta
    x = torch.full((1, 1, 1, 1), x0)
    steps = torch.tensor([t])
    noised = schedule.add_noise(x, steps, torch.ones(1, 1, 1, 1))
    assert float(schedule.mean(x, steps)) == pytest.approx(mean, rel=1e-5)
    assert float(noised) == pytest.approx(mean + variance**0.5, rel=1e-5)


def test_residual_with_a_silent_network_is_the_best_linear_denoiser() -> None:
    torch.manual_seed(0)
    mean, std = torch.tensor([0.3, -0.5]), torch.tensor([0.2, 0.6])
    schedule = NoiseSchedule()
    x0 = mean.view(1, 2, 1, 1) + std.view(1, 2, 1, 1) * torch.randn(4000, 2, 2, 2)
    noise, t = torch.randn_like(x0), torch.full((4000,), 200)
    x_t = schedule.add_noise(x0, t, noise)
    predicted = Denoiser(Linear(0.0), schedule, "residual", mean, std)(x_t, t)
    for band in range(2):
        x, y = x_t[:, band].flatten().numpy(), noise[:, band].flatten().numpy()
        slope, offset = np.polyfit(x, y, 1)
        np.testing.assert_allclose(predicted[:, band].flatten(), slope * x + offset, atol=0.03)


def test_residual_network_sees_unit_variance_at_every_step() -> None:
    torch.manual_seed(0)
    mean, std = torch.tensor([0.3]), torch.tensor([0.25])
    denoiser = Denoiser(Linear(0.0), NoiseSchedule(), "residual", mean, std)
    x0 = 0.3 + 0.25 * torch.randn(20000, 1, 1, 1)
    for step in (1, 50, 500):
        t = torch.full((20000,), step)
        scale, shift = denoiser.input_affine(t[:1])
        seen = scale * denoiser.schedule.add_noise(x0, t, torch.randn_like(x0)) + shift
        assert float(seen.mean()) == pytest.approx(0, abs=0.03)
        assert float(seen.std()) == pytest.approx(1, abs=0.03)


def test_noise_parameterisation_hands_the_network_through() -> None:
    denoiser = Denoiser(Linear(3.0), NoiseSchedule(), "noise", torch.zeros(2), torch.ones(2))
    x = torch.randn(2, 2, 3, 3)
    torch.testing.assert_close(denoiser(x, torch.tensor([1, 400])), 3 * x)


def test_loss_is_l1_on_the_noise() -> None:
    """A network that predicts 0 has the mean absolute value of a standard normal as its loss."""
    denoiser = Denoiser(Linear(0.0), NoiseSchedule(), "noise", torch.zeros(3), torch.ones(3))
    loss = denoiser.loss(torch.zeros(200, 3, 8, 8), torch.Generator().manual_seed(0))
    assert float(loss) == pytest.approx((2 / np.pi) ** 0.5, abs=0.01)


def test_reverse_process_with_the_true_noise_returns_the_instance() -> None:
    schedule, generator = NoiseSchedule(), torch.Generator().manual_seed(1)
    x0 = torch.rand(1, 4, 3, 3) * 2 - 1

    def oracle(x: Tensor, t: Tensor) -> Tensor:
        return (x - schedule.mean(x0, t)) / (1 - schedule.at(t)).sqrt()

    x_t = schedule.add_noise(x0, torch.tensor([300]), torch.randn(x0.shape, generator=generator))
    steps = list(denoise(oracle, schedule, x_t, 300, generator))
    assert [step for step, _ in steps] == list(range(299, -1, -1))
    torch.testing.assert_close(steps[-1][1], x0, atol=1e-4, rtol=0)


def test_reverse_process_is_seeded() -> None:
    schedule, x = NoiseSchedule(), torch.randn(1, 2, 3, 3)
    runs = [
        list(denoise(lambda x, t: 0.1 * x, schedule, x, 5, torch.Generator().manual_seed(s)))[-1][1] for s in (3, 3, 4)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
