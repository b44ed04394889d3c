"""The processes of one training, as torchrun starts them: the first leads, the others run the loops that it begins.

They share the batches of each step. Tensors on the CPU go through gloo, those on GPUs through NCCL.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous

from spectraldiff.processes.launch import follows, launched
from spectraldiff.processes.packing import pack, unpack
from spectraldiff_runtime.errors import RunError, UsageError
from spectraldiff_runtime.signals import ENDS, SIGNALS, interrupts_deferred

PATIENCE = timedelta(days=30)  # for the first process, which computes features and reads scenes alone meanwhile
NEAR = timedelta(seconds=60)  # for torchrun itself
SAID = "said"  # set in the store that torchrun keeps, once it is said why a training ends
WAIT = 3.0  # seconds that the first process is given to say it


class LostProcessError(RunError):
    """Another process of the training has ended in the middle of what all do together."""


@dataclass(frozen=True)
class Processes:
    """The processes that share the batches of a training; one by default.

    Attributes
    ----------
    rank
        The number of this one, from 0.
    count
        How many there are.
    """

    rank: int = 0
    count: int = 1
    _store: Any = field(default=None, repr=False, compare=False)

    def add_up(self, values: Tensor) -> None:
        """Replace values by their sum over all processes.

        Raises
        ------
        LostProcessError
            Another process has ended.
        """
        try:
            dist.all_reduce(values)
        except RuntimeError as error:
            raise LostProcessError(f"one of {self.count} processes of the training has ended") from error

    def add_all_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace several tensors of one type and device by their sums over all processes, at once."""
        if self.count == 1:
            return
        flat = torch.cat([one.flatten() for one in tensors])
        self.add_up(flat)
        for one, found in zip(tensors, torch.split(flat, [one.numel() for one in tensors]), strict=True):
            one.copy_(found.view_as(one))

    @contextmanager
    def step(self) -> Iterator[None]:
        """Do a step of a loop, all together: signals wait for its end, so that its state is always a whole step's.

        Raises
        ------
        LostProcessError
            Another process has ended. torchrun then signals the others: that is not what is said.
        """
        lost = None
        try:
            with interrupts_deferred():
                try:
                    if self.count > 1:  # nobody begins a step, or waits on a GPU, that the first process does not begin
                        self.add_up(torch.zeros(1, dtype=torch.float32))
                    yield
                except LostProcessError as error:
                    lost = error
        except BaseException:
            if lost is None:
                raise
        if lost is not None:
            ENDS.clear()
            _on_signals(signal.SIG_IGN)
            raise lost

    def send(self, value: Any) -> None:
        """Give the other processes a value, and tensors and arrays in it without further copies; None ends them."""
        if self.count == 1:
            return
        skeleton, parts = pack(value)
        self._broadcast(torch.tensor([len(skeleton)]))
        for part in (torch.frombuffer(skeleton, dtype=torch.uint8), *parts):
            self._broadcast(part)

    def receive(self, device: torch.device) -> Any:
        """Return what the first process sends, with tensors that it has on a GPU on `device`."""

        def read(size: int) -> Tensor:
            found = torch.empty(size, dtype=torch.uint8)
            self._broadcast(found)
            return found

        size = torch.zeros(1, dtype=torch.int64)
        self._broadcast(size)
        return unpack(read(int(size)).numpy().tobytes(), read, device)

    def _broadcast(self, values: Tensor) -> None:
        if not values.numel():
            return
        try:
            dist.broadcast(values, 0)
        except RuntimeError as error:
            raise LostProcessError(f"one of {self.count} processes of the training has ended") from error

    def said(self) -> None:
        """Let the others end without a word: this process says why."""
        if self._store is not None:
            with suppress(RuntimeError):  # torchrun has ended, too
                self._store.set(SAID, "yes")

    def someone_says(self) -> bool:
        """Whether another process says why the training ends, after some seconds; the first to ask hears no."""
        time.sleep(WAIT)
        try:
            return bool(self._store.check([SAID])) or self._store.add(f"{SAID} by", 1) > 1
        except RuntimeError:
            return True


ONE = Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """Lead the processes that torchrun has started; without it there is one, this. The others end with the block."""
    if launched() == 1:
        yield ONE
        return
    processes = _join()
    try:
        yield processes
        with suppress(LostProcessError):  # all is done
            processes.send(None)
    except BaseException:
        processes.said()
        raise
    processes.said()
    dist.destroy_process_group()


@contextmanager
def following() -> Iterator[Processes]:
    """Follow the first process.

    Its end ends the block, without a word where it says why itself. Signals, which torchrun sends to all, are its own.

    Raises
    ------
    LostProcessError
        It ended without a word, as where it was killed.
    """
    assert follows()
    _on_signals(signal.SIG_DFL)  # while it waits for the first process, which may never join
    processes = _join()
    _on_signals(signal.SIG_IGN)
    try:
        yield processes
    except LostProcessError as error:
        if not processes.someone_says():
            raise LostProcessError(f"{error}: go on with --resume") from error
    finally:  # also where the first one went early: threads of the group that run on at the exit would abort it
        dist.destroy_process_group()


def _on_signals(action: signal.Handlers) -> None:
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, action)


def _join() -> Processes:
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by torchrun, which listens before it starts us
    try:
        if kept:
            place = os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT", ""))
            socket.create_connection(place, NEAR.total_seconds()).close()
        store, rank, count = next(rendezvous("env://", timeout=NEAR if kept else PATIENCE))
    except (ValueError, OverflowError, OSError, RuntimeError) as error:
        named = ", ".join(f"{name}={os.environ.get(name, '')[:20]!r}" for name in ("MASTER_ADDR", "MASTER_PORT"))
        raise UsageError(
            f"the processes that torchrun has started cannot be joined, with {named} in the environment: wanted its "
            "address and port; start with torchrun, or unset TORCHELASTIC_RUN_ID"
        ) from error
    store.set_timeout(PATIENCE)
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)
    return Processes(rank, count, store)
