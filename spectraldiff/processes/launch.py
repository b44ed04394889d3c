"""Whether torchrun has started this process as one of several; knows no PyTorch, so that the command line may ask."""

import os


def launched() -> int:
    """Return how many processes torchrun has started together, this one among them; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def follows() -> bool:
    """Whether another process of a training leads: it reads, writes and speaks, and tells this one what to compute."""
    return launched() > 1 and int(os.environ["RANK"]) > 0


def local_rank() -> int:
    """Return the number of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def processes_here() -> int:
    """Return how many of the processes are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if launched() > 1 else 1
