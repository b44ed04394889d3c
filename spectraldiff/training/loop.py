"""The two training loops: the denoiser on instances of the scene, the classifier on windows of features.

Both hold whole scenes as tensors on the device and cut crops by index: there is no data loader.  A loop can be
stopped after any step and goes on from its state exactly as if it had never stopped.

Several processes may share the batches: `Loop.run` in the first has the others run the same loop, see `serve`.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from spectraldiff.models.settings import LoopSettings
from spectraldiff.processes.group import LostProcessError, following
from spectraldiff.processes.launch import local_rank
from spectraldiff.processes.layers import sharing
from spectraldiff.training.compute import Compute, keep_freed_memory
from spectraldiff_runtime.errors import RunError
from spectraldiff_runtime.signals import raise_if_ended

State = dict[str, Tensor]
ADVICE = "train again with another --seed"
PLATEAU = 1e-3  # mean losses closer than this share of the best count as no progress

# What a loop reports to while it runs: step, steps in all, loss.
Report = Callable[[int, int, float], None]


class Task(Protocol):
    """What a loop trains on."""

    def size(self, step: int) -> int:
        """Return the number of samples of the step's batch."""
        ...

    def loss(self, step: int, start: int, count: int, generator: torch.Generator) -> Tensor:
        """Return the mean loss over samples start .. start + count - 1 of the step's batch.

        Within `spectraldiff.processes.layers.sharing` it draws for all of these, and computes `own_samples` of them.
        """
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

    @classmethod
    def of(cls, job: "LoopJob", compute: Compute) -> "Loop":
        """Return the loop that another process has begun."""
        loop = cls(job.model, job.task, job.total, job.settings, compute, job.seed)
        loop.restore(job.state)
        return loop

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
            The loss is no number any more: what follows could learn nothing. Or, as a LostProcessError, another process
            that shares the batches has ended: then the step was not done whole, and the state must not be kept.
        """
        self.model.train()
        processes = self.compute.processes
        if processes.rank == 0 and not self.finished:
            processes.send(self._job())
        while not self.finished:
            raise_if_ended()
            with processes.step():
                loss = self.train_step()
                if math.isfinite(loss):
                    self.history.append(loss)
            if not math.isfinite(loss):
                raise RunError(f"the loss is {loss} at step {self.step + 1} of {self.total}: {advice}")
            report(self.step, self.total, self.history[-1])
            save()
        return self.average.eval()

    def train_step(self) -> float:
        """Run one step and return its mean loss; `run` keeps the history."""
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
            with sharing(self.compute.processes, share) as own:
                with self.compute.autocast():
                    loss = self.task.loss(self.step, done, share, self.generator) * (own / batch)
                loss.backward()  # type: ignore[no-untyped-call]
            mean += float(loss.detach())
            done += share
        if self.compute.processes.count == 1:
            return mean
        gradients = [one.grad for one in self.model.parameters() if one.grad is not None]
        found = gradients[0].new_tensor([mean])
        self.compute.processes.add_all_up([*gradients, found])
        return float(found)

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

    def _job(self) -> "LoopJob":
        return LoopJob(
            self.model, self.task, self.total, self.settings, self.seed, self.state(), self.compute.bf16,
            self.compute.micro_batch, self.compute.device, torch.get_num_threads(),
        )  # fmt: skip

    def state(self) -> State:
        """Return everything that the next step depends on, as tensors."""
        state = {"history": torch.tensor(self.history, dtype=torch.float64)}
        state |= {f"model.{k}": v for k, v in self.model.state_dict().items()}
        state |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, values in self.optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{index}.{k}": torch.as_tensor(v) for k, v in values.items()}
        return state

    def restore(self, state: State) -> None:
        """Restore what `state` returned."""
        self.history = state["history"].tolist()
        self.model.load_state_dict(_under(state, "model."))
        self.average.load_state_dict(_under(state, "average."))
        moments: dict[int, State] = {}
        for key, value in _under(state, "optimiser.").items():
            index, name = key.split(".", 1)
            moments.setdefault(int(index), {})[name] = value.clone()
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})


@dataclass(frozen=True)
class LoopJob:
    """A loop that the first process begins, for the others: parameters of `Loop` and `Compute`, state and threads."""

    model: nn.Module
    task: Task
    total: int
    settings: LoopSettings
    seed: int
    state: State
    bf16: bool
    micro_batch: int | None
    device: torch.device
    threads: int


def serve() -> None:
    """Run the loops that the first process begins, until it ends.

    Raises
    ------
    LostProcessError
        It ended without a word, as where it was killed.
    """
    keep_freed_memory()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank())
        torch.backends.cudnn.allow_tf32 = False
    with following() as processes:
        while (job := processes.receive(device)) is not None:
            torch.set_num_threads(job.threads)
            if job.device.type == "cuda":
                torch.cuda.set_device(job.device)
            compute = Compute(job.device, job.bf16, job.micro_batch, processes)
            try:
                Loop.of(job, compute).run(lambda step, total, loss: None)
            except LostProcessError:
                raise
            except RunError:  # the first process says it
                continue


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
