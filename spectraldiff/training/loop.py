"""The two training loops: the denoiser on instances of the scene, the classifier on windows of features.

Both hold whole scenes as tensors on the device and cut crops by index: there is no data loader.  A loop can be
stopped after any step and goes on from its state exactly as if it had never stopped.
"""

import copy
import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from spectraldiff.models.diffusion import Denoiser
from spectraldiff.models.features import at_least
from spectraldiff.models.foveal_vit import FovealViT
from spectraldiff.models.presets import LoopSettings
from spectraldiff.models.vit import SpectralViT
from spectraldiff_runtime.errors import DeviceError, RunError

State = dict[str, Tensor]
ADVICE = "train again with another --seed"
PLATEAU = 1e-3  # mean losses closer than this share of the best count as no progress

# What a loop reports to while it runs: step, steps in all, loss.
Report = Callable[[int, int, float], None]


@dataclass
class Compute:
    """Where and how to compute.

    Attributes
    ----------
    device
        Torch device.
    bf16
        Whether forward passes run under bfloat16 autocast.
    micro_batch
        Samples put through the network at once; a larger batch is split and its gradients added up.  None: the batch.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    bf16: bool = False
    micro_batch: int | None = None

    def autocast(self) -> torch.autocast:
        """Return the autocast context of a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def shares(self, batch: int) -> list[int]:
        """Split a batch into micro-batches."""
        size = min(batch, self.micro_batch or batch)
        return [min(size, batch - start) for start in range(0, batch, size)]


def choose_compute(device: str) -> Compute:
    """Return the way to compute on `device` ("auto", "cpu" or "cuda").

    bfloat16 is used where the processor has instructions for it; elsewhere it would be emulated, slowly.

    Raises
    ------
    DeviceError
        CUDA is asked for and PyTorch sees none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "--device cuda: PyTorch sees no CUDA device here: use --device cpu, or install its CUDA build"
        )
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        # What is not under bfloat16 autocast, features and maps, is float32 as in the exported file.
        torch.backends.cudnn.allow_tf32 = False
        return Compute(torch.device("cuda"), torch.cuda.is_bf16_supported(), None)
    return Compute(torch.device("cpu"), _cpu_has_bf16(), 16)


def keep_freed_memory() -> bool:
    """Have the C library keep memory that tensors give back, for the whole process; return whether it can.

    By default glibc hands each large block to the system, which clears every page before it gives it out again: a
    seventh of a training step on the CPU.
    """
    largest_of_heap, trimmed_beyond = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of <malloc.h>
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(largest_of_heap, 2**30) and mallopt(trimmed_beyond, 2**31 - 1))


def _cpu_has_bf16() -> bool:
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe())


class Task(Protocol):
    """What a loop trains on."""

    def size(self, step: int) -> int:
        """Return the number of samples of the step's batch."""
        ...

    def loss(self, step: int, start: int, count: int, generator: torch.Generator) -> Tensor:
        """Return the mean loss over samples start .. start + count - 1 of the step's batch."""
        ...


class Loop:
    """Steps, learning-rate schedule, moving average, loss history and exact state of one training.

    Every draw of a step depends on (seed, step) alone, so that the state needs no random state.

    Parameters
    ----------
    model
        Trained in place.
    task
        Batches and loss.
    total
        Steps at most.
    settings
        Optimiser and schedule.
    compute
        Where and how.
    seed
        Seeds every draw.
    """

    def __init__(
        self, model: nn.Module, task: Task, total: int, settings: LoopSettings, compute: Compute, seed: int
    ) -> None:
        self.model, self.task, self.total, self.settings = model, task, total, settings
        self.compute, self.seed = compute, seed
        self.average = copy.deepcopy(model)
        self.optimiser = torch.optim.AdamW(
            model.parameters(), settings.lr, (0.9, settings.beta2), weight_decay=settings.weight_decay
        )
        self.generator = torch.Generator()
        self.history: list[float] = []

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.history)

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or the loss has stopped falling."""
        return self.step >= self.total or plateau(self.history, self.settings.patience)

    def run(self, report: Report, save: Callable[[], None] = lambda: None, advice: str = ADVICE) -> nn.Module:
        """Train to the end and return the moving average of the model, in evaluation mode.

        `save` is called after each step and decides itself when to write. `advice` is what an error tells to do.

        Raises
        ------
        RunError
            The loss is no number any more: what follows could learn nothing.
        """
        self.model.train()
        while not self.finished:
            loss = self.train_step()
            if not math.isfinite(loss):
                raise RunError(f"the loss is {loss} at step {self.step + 1} of {self.total}: {advice}")
            self.history.append(loss)
            report(self.step, self.total, self.history[-1])
            save()
        return self.average.eval()

    def train_step(self) -> float:
        """Take a step and return its mean loss; `run` keeps the history."""
        self._seed_step()
        rate = learning_rate(self.settings, self.step, self.total)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        mean = self._accumulate(self.task.size(self.step))
        self.optimiser.step()
        self._update_average()
        return mean

    def _accumulate(self, batch: int) -> float:
        """Add up the gradients of the batch's shares; return the mean loss."""
        done, mean = 0, 0.0
        for share in self.compute.shares(batch):
            with self.compute.autocast():
                loss = self.task.loss(self.step, done, share, self.generator) * (share / batch)
            loss.backward()  # type: ignore[no-untyped-call]
            mean += float(loss.detach())
            done += share
        return mean

    def _seed_step(self) -> None:
        self.generator.manual_seed((self.seed << 32) + self.step)
        torch.manual_seed((self.seed << 32) + self.step)  # dropout draws from the global generator

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.settings.ema, self.step / (self.step + 10))  # forget the untrained weights soon
        for average, value in zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)

    def state(self) -> State:
        """Return everything that the next step depends on, as tensors."""
        state = {"history": torch.tensor(self.history, dtype=torch.float64)}
        state |= {f"model.{k}": v for k, v in self.model.state_dict().items()}
        state |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, values in self.optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{index}.{k}": torch.as_tensor(v) for k, v in values.items()}
        return state

    def restore(self, state: State) -> None:
        """Take up what `state` returned."""
        self.history = state["history"].tolist()
        self.model.load_state_dict(_under(state, "model."))
        self.average.load_state_dict(_under(state, "average."))
        moments: dict[int, State] = {}
        for key, value in _under(state, "optimiser.").items():
            index, name = key.split(".", 1)
            moments.setdefault(int(index), {})[name] = value.clone()
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})


def _under(state: State, prefix: str) -> State:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def learning_rate(settings: LoopSettings, step: int, total: int) -> float:
    """Return the learning rate of step `step` (from 0) of `total`."""
    if settings.schedule == "constant":
        return settings.lr
    rise = max(1, round(settings.warmup * total))
    if step < rise:
        return settings.lr * (step + 1) / rise
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


def plateau(history: Sequence[float], patience: int) -> bool:
    """Return whether the mean loss of the last `patience` steps is no better than that of earlier stretches."""
    if not patience or len(history) < 2 * patience or len(history) % patience:
        return False
    means = [sum(history[i : i + patience]) / patience for i in range(0, len(history), patience)]
    return means[-1] > min(means[:-1]) * (1 - PLATEAU)


class DiffusionTask:
    """Random instances of the scenes, flipped and transposed; the loss of Eq. (5).

    Parameters
    ----------
    denoiser
        The denoiser that is trained.
    scenes
        (B, H, W) each, normalised pixels on the training device; mirrored where smaller than an instance. A scene's
        share of the instances is its share of the pixels.
    instance, batch
        K, and instances a step.
    """

    def __init__(self, denoiser: Denoiser, scenes: Sequence[Tensor], instance: int, batch: int) -> None:
        self.denoiser, self.instance, self.batch = denoiser, instance, batch
        self.scenes = [at_least(scene, instance) for scene in scenes]
        self.sizes = torch.tensor([float(scene.shape[1] * scene.shape[2]) for scene in scenes])

    def size(self, step: int) -> int:
        """Return the batch size."""
        return self.batch

    def loss(self, step: int, start: int, count: int, generator: torch.Generator) -> Tensor:
        """Return the loss over `count` new instances."""
        crops = [
            crop
            for scene, share in zip(self.scenes, self._shares(count, generator), strict=True)
            for crop in _crops(scene, self.instance, share, generator)
        ]
        x0 = _turn(torch.stack(crops), (2, 3), generator)  # (N, B, K, K)
        return self.denoiser.loss(x0, generator)

    def _shares(self, count: int, generator: torch.Generator) -> list[int]:
        """Draw how many instances come from each scene; one scene needs no draw."""
        if len(self.scenes) == 1:
            return [count]
        drawn = torch.multinomial(self.sizes, count, replacement=True, generator=generator)
        return torch.bincount(drawn, minlength=len(self.scenes)).tolist()


class ClassifierTask:
    """Windows around the training pixels, flipped and transposed; cross-entropy.

    Parameters
    ----------
    model
        The classifier that is trained.
    features
        (H, W, P) features of the scene with a rim of at least the window's radius around it, on the training device.
    pixels
        (n, 2) row and column of the training pixels, among these features.
    labels
        (n,) their classes, 0 .. K - 1.
    batch, noise, seed
        Windows a step; standard deviation of the noise added to the standardised features; the seed of the order of
        the pixels.
    balance
        A pixel's loss counts as its class's number of training pixels to the power of minus this, 0 .. 1: with 0 all
        pixels count alike, with 1 all classes do. The weights of all training pixels have mean 1.
    """

    def __init__(
        self,
        model: SpectralViT | FovealViT,
        features: Tensor,
        pixels: Tensor,
        labels: Tensor,
        batch: int,
        noise: float = 0.0,
        seed: int = 0,
        balance: float = 0.0,
    ) -> None:
        self.model, self.features, self.pixels, self.labels = model, features, pixels, labels
        self.batch, self.noise, self.seed = min(batch, len(labels)), noise, seed
        self.steps = math.ceil(len(labels) / self.batch)  # an epoch
        weights = torch.bincount(labels)[labels].float() ** -balance
        self.weights = weights / weights.mean()
        self.offsets = torch.arange(model.config.window, device=features.device) - model.config.radius
        # Twice as many values as a batch needs: each step takes its noise from another place in them, for drawing
        # them anew would take a third of a step.
        values = 2 * self.batch * model.config.window**2 * features.shape[-1] if noise > 0 else 0
        self.bank = noise * torch.randn(values, generator=torch.Generator().manual_seed(seed)).to(features)

    def size(self, step: int) -> int:
        """Return the batch size; the last batch of an epoch is smaller."""
        return min(self.batch, len(self.labels) - step % self.steps * self.batch)

    def loss(self, step: int, start: int, count: int, generator: torch.Generator) -> Tensor:
        """Return the loss over some windows of the step's batch."""
        order = torch.randperm(
            len(self.labels), generator=torch.Generator().manual_seed((self.seed << 32) + step // self.steps)
        )
        first = step % self.steps * self.batch + start
        chosen = order[first : first + count].to(self.labels.device)
        windows = _turn_each(self.windows(self.pixels[chosen]), generator)
        if self.noise > 0:
            windows = windows + self._noise(windows, generator)
        return (self.model.losses(windows, self.labels[chosen]) * self.weights[chosen]).mean()

    def _noise(self, windows: Tensor, generator: torch.Generator) -> Tensor:
        """Return normal noise of the windows' shape."""
        first = int(torch.randint(len(self.bank) - windows.numel() + 1, (1,), generator=generator))
        return self.bank[first : first + windows.numel()].view(windows.shape)

    def windows(self, pixels: Tensor) -> Tensor:
        """Return the windows (n, window, window, P) around pixels (n, 2)."""
        rows = pixels[:, 0, None] + self.offsets
        columns = pixels[:, 1, None] + self.offsets
        return self.features[rows[:, :, None], columns[:, None, :]]


def _crops(scene: Tensor, side: int, count: int, generator: torch.Generator) -> list[Tensor]:
    """Cut `count` random squares (B, side, side) out of a scene."""
    height, width = scene.shape[1:]
    rows = torch.randint(height - side + 1, (count,), generator=generator).tolist()
    columns = torch.randint(width - side + 1, (count,), generator=generator).tolist()
    return [scene[:, r : r + side, c : c + side] for r, c in zip(rows, columns, strict=True)]


def _turn(x: Tensor, axes: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Flip and transpose a batch at random, all of it alike: one of the eight symmetries of the square."""
    flip_rows, flip_columns, transpose = (torch.rand(3, generator=generator) < 0.5).tolist()
    if flip_rows:
        x = x.flip(axes[0])
    if flip_columns:
        x = x.flip(axes[1])
    return x.transpose(*axes) if transpose else x


def _turn_each(windows: Tensor, generator: torch.Generator) -> Tensor:
    """Give each window (n, w, w, P) one of the eight symmetries of the square."""
    flip_rows, flip_columns, transpose = (torch.rand(3, len(windows), 1, 1, 1, generator=generator) < 0.5).to(
        windows.device
    )
    windows = torch.where(flip_rows, windows.flip(1), windows)
    windows = torch.where(flip_columns, windows.flip(2), windows)
    return torch.where(transpose, windows.transpose(1, 2), windows)
