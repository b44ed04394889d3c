"""Whether torchrun has started this process as one of several; knows no PyTorch, so that the command line may ask."""

import os
import re

from spectraldiff_runtime.errors import UsageError


def launched() -> int:
    """Return how many processes torchrun has started together, this one among them; 1 without torchrun.

    Raises
    ------
    UsageError
        What torchrun sets in the environment is not there, or not what it sets.
    """
    return _number("WORLD_SIZE", least=1) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def follows() -> bool:
    """Whether another process of a training leads: it reads, writes and speaks, and tells this one what to compute."""
    count = launched()
    return count > 1 and _number("RANK", most=count - 1) > 0


def local_rank() -> int:
    """Return the number of this process on its machine, from 0."""
    return _number("LOCAL_RANK", missing="0")


def processes_here() -> int:
    """Return how many of the processes are on this machine."""
    return _number("LOCAL_WORLD_SIZE", least=1, missing="1") if launched() > 1 else 1


def _number(name: str, least: int = 0, most: int = 999_999, missing: str = "") -> int:
    """Return a whole number that torchrun has set in the environment; UsageError if it is none, or out of range."""
    text = os.environ.get(name, missing)
    if re.fullmatch("[0-9]{1,6}", text) and least <= int(text) <= most:
        return int(text)
    raise UsageError(
        f"the environment has {name}={text[:20]!r} and TORCHELASTIC_RUN_ID, which torchrun sets: wanted a whole number "
        f"from {least} to {most:,}; start with torchrun, or unset TORCHELASTIC_RUN_ID"
    )
