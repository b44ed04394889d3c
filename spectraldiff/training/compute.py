"""Where and in which precision a training computes."""

import ctypes
from dataclasses import dataclass, field

import torch

from spectraldiff.processes.group import ONE, Processes
from spectraldiff.processes.launch import processes_here
from spectraldiff_runtime.errors import DeviceError


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
    processes
        Those that share each micro-batch; its batch norm is over all of them.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    bf16: bool = False
    micro_batch: int | None = None
    processes: Processes = ONE

    def autocast(self) -> torch.autocast:
        """Return the autocast context of a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def shares(self, batch: int) -> list[int]:
        """Split a batch into micro-batches."""
        size = min(batch, self.micro_batch or batch)
        return [min(size, batch - start) for start in range(0, batch, size)]


def choose_compute(device: str, processes: Processes = ONE) -> Compute:
    """Return the way to compute on `device` ("auto", "cpu" or "cuda"), shared by some processes.

    bfloat16 is used where the processor has instructions for it; elsewhere it would be emulated, slowly.

    Raises
    ------
    DeviceError
        CUDA is asked for and PyTorch sees none, or fewer devices than there are processes here.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "--device cuda: PyTorch sees no CUDA device here: use --device cpu, or install its CUDA build"
        )
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        if processes.count > 1 and processes_here() > torch.cuda.device_count():
            raise DeviceError(
                f"there are {processes_here()} processes and {torch.cuda.device_count()} CUDA devices here: start one "
                "process a device, or give --device cpu"
            )
        # What is not under bfloat16 autocast, features and maps, is float32 as in the exported file.
        torch.backends.cudnn.allow_tf32 = False
        return Compute(torch.device("cuda"), torch.cuda.is_bf16_supported(), None, processes)
    return Compute(torch.device("cpu"), _cpu_has_bf16(), 16, processes)


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
