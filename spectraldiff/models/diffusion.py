"""Spectral-spatial diffusion: noise schedule, forward process, training loss and reverse process.

Symbols follow the paper (Chen et al. 2023) and Ho et al. 2020: `beta_t` is the variance added at step t,
`alpha_t = 1 - beta_t`, and `alpha_bar_t` the product of alpha_1 .. alpha_t.  Steps run from 1 to T; step 0 is the
clean instance, with alpha_bar_0 = 1.

The paper prints its Eqs. (6) and (7) with alpha where alpha-bar is meant: the forward process reached in one jump,
x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, and the loss built on it, hold for the cumulative product
only (Ho et al. 2020, Eqs. 4 and 12).  This module uses alpha-bar there.
"""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from spectraldiff.processes.layers import own_samples, whole_batch

Parameterisation = Literal["noise", "residual"]


class NoiseSchedule(nn.Module):
    """Linear variance schedule of the forward process, Eqs. (1)-(3).

    Parameters
    ----------
    steps
        T, the number of diffusion steps.
    beta_first, beta_last
        beta_1 and beta_T; 0 < beta < 1.
    """

    alpha_bar: Tensor
    beta: Tensor

    def __init__(self, steps: int = 500, beta_first: float = 1e-4, beta_last: float = 0.02) -> None:
        super().__init__()
        self.steps = steps
        beta = torch.cat(
            [
                torch.zeros(1, dtype=torch.float64),
                torch.linspace(beta_first, beta_last, steps, dtype=torch.float64),
            ]
        )
        self.register_buffer("beta", beta.float(), persistent=False)
        self.register_buffer("alpha_bar", torch.cumprod(1 - beta, 0).float(), persistent=False)

    def at(self, t: Tensor) -> Tensor:
        """Return alpha_bar at steps `t`, shape (N,), shaped to multiply (N, B, K, K)."""
        return self.alpha_bar[t].view(-1, 1, 1, 1)

    def mean(self, x0: Tensor, t: Tensor) -> Tensor:
        """Return E[x_t | x_0] = sqrt(alpha_bar_t) x_0; it replaces x_t at inference."""
        return self.at(t).sqrt() * x0

    def add_noise(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw x_t from q(x_t | x_0) in one jump, Eq. (3); `x0` and `noise` are (N, B, K, K), `t` is (N,)."""
        return self.mean(x0, t) + (1 - self.at(t)).sqrt() * noise


class Denoiser(nn.Module):
    """The network and what turns its output into the noise of Eq. (5).

    `noise`: the network reads x_t and predicts eps itself, as the paper has it.  `residual`: it predicts what the best
    linear denoiser leaves over.  With `m` and `s` the mean and standard deviation of a band and
    v = alpha_bar s^2 + 1 - alpha_bar the variance of x_t in it,

        eps = sqrt(1 - alpha_bar) / v * c  +  s sqrt(alpha_bar / v) F(c / sqrt(v), t),  c = x_t - sqrt(alpha_bar) m,

    so that F sees and predicts values of unit variance at every step (the preconditioning of Karras et al. 2022,
    carried over to a variance-preserving process).

    Parameters
    ----------
    network
        Maps (N, B, K, K) and steps (N,) to (N, B, K, K).
    schedule
        The noise schedule.
    parameterisation
        `"noise"` or `"residual"`.
    mean, std
        (B,) statistics of the normalised bands, used by `"residual"`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        parameterisation: Parameterisation,
        mean: Tensor,
        std: Tensor,
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.parameterisation = parameterisation
        self.register_buffer("mean", mean.float().view(1, -1, 1, 1))
        self.register_buffer("std", std.float().clamp_min(1e-3).view(1, -1, 1, 1))

    def input_affine(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (scale, shift), each (N, B, 1, 1): the network reads `scale * x_t + shift` at steps `t`, (N,)."""
        alpha_bar = self.schedule.at(t)
        if self.parameterisation == "noise":
            return torch.ones_like(alpha_bar * self.mean), torch.zeros_like(alpha_bar * self.mean)
        scale = self.variance(t).rsqrt()
        return scale, -scale * alpha_bar.sqrt() * self.mean

    def variance(self, t: Tensor) -> Tensor:
        """Return the variance of x_t in each band, (N, B, 1, 1)."""
        alpha_bar = self.schedule.at(t)
        return alpha_bar * self.std**2 + 1 - alpha_bar

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Predict the noise in `x_t`, (N, B, K, K), at steps `t`, (N,)."""
        scale, shift = self.input_affine(t)
        output: Tensor = self.network(scale * x_t + shift, t)
        if self.parameterisation == "noise":
            return output
        alpha_bar, variance = self.schedule.at(t), self.variance(t)
        centred = x_t - alpha_bar.sqrt() * self.mean
        return (1 - alpha_bar).sqrt() / variance * centred + self.std * (alpha_bar / variance).sqrt() * output

    def loss(self, x0: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the L1 distance between true and predicted noise at uniform random steps, Eq. (5)."""
        own, shape = own_samples(), (whole_batch(len(x0)), *x0.shape[1:])
        t = torch.randint(1, self.schedule.steps + 1, shape[:1], generator=generator)[own].to(x0.device)
        # On a GPU the noise is drawn there, by the generator that `torch.manual_seed` seeds: a host would not keep up.
        if x0.is_cuda:
            noise = torch.empty_strided(shape, x0.stride(), dtype=x0.dtype, device=x0.device).normal_()[own]
        else:
            noise = torch.randn(shape, generator=generator)[own].to(x0)
        predicted: Tensor = self(self.schedule.add_noise(x0, t, noise), t)
        return (predicted - noise).abs().mean()


def denoise(
    predict: Callable[[Tensor, Tensor], Tensor],
    schedule: NoiseSchedule,
    x_t: Tensor,
    start: int,
    generator: torch.Generator,
) -> Iterator[tuple[int, Tensor]]:
    """Run the reverse process from step `start` to 0, Eqs. (6)-(7), ancestral sampling.

    Parameters
    ----------
    predict
        Maps x_t (N, B, K, K) and steps (N,) to the noise in it.
    schedule
        The noise schedule.
    x_t
        (N, B, K, K), instances at step `start`.
    start
        First step, 1 .. T.
    generator
        Source of the noise that each step but the last adds.

    Yields
    ------
    tuple
        Each step reached, `start - 1` down to 0, and the instances there.
    """
    for step in range(start, 0, -1):
        beta, alpha_bar = schedule.beta[step], schedule.alpha_bar[step]
        steps = torch.full((len(x_t),), step, device=x_t.device)
        mean = (x_t - beta / (1 - alpha_bar).sqrt() * predict(x_t, steps)) / (1 - beta).sqrt()
        variance = beta * (1 - schedule.alpha_bar[step - 1]) / (1 - alpha_bar)
        x_t = mean + variance.sqrt() * torch.randn(x_t.shape, generator=generator).to(x_t)
        yield step - 1, x_t
