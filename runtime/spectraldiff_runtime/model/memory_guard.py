"""What this process holds of the machine's memory, and limits to it: a graph may take about what its card says."""

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STATUS = Path("/proc/self/status")
# What a run may take in addition to what the card says of it, and how many times that: threads have buffers of their
# own, memory is kept between runs, and other stages of a map allocate while one is under way.
SLACK, TIMES = 2**30, 4

_lock = threading.Lock()
_limits: list[int] = []  # of the blocks under way
_before: list[tuple[int, int]] = []  # the process' own limits, while there are any


@contextmanager
def memory_guarded(expected: float) -> Iterator[None]:
    """Have memory run out, with the errors of that, where the block takes far more than `expected` bytes.

    The kernel limits what the process holds in memory of its own (RLIMIT_DATA). On other systems than Linux, and in
    sandboxes whose kernel does not count mapped memory, nothing is limited. Blocks may overlap in several
    threads; the largest limit holds.
    """
    if sys.platform != "linux" or not STATUS.exists():
        yield
        return
    limit = held_memory("VmData") + int(min(expected * TIMES, 2.0**50)) + SLACK
    _enter(limit)
    try:
        yield
    finally:
        _leave(limit)


def trim_heap() -> None:
    """Have the C library give free memory back to the system, where it can."""
    with suppress(AttributeError, OSError, TypeError):  # none but glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def held_memory(figure: str = "VmRSS") -> int:
    """Return one of the kernel's figures of this process, in bytes: what it holds; FileNotFoundError without /proc."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{figure}:"))
    return int(line.split()[1]) * 1024


def _enter(limit: int) -> None:
    import resource

    with _lock:
        if not _limits:
            _before.append(resource.getrlimit(resource.RLIMIT_DATA))
        _limits.append(limit)
        _set(max(_limits))


def _leave(limit: int) -> None:
    import resource

    with _lock:
        _limits.remove(limit)
        if _limits:
            _set(max(_limits))
        else:
            resource.setrlimit(resource.RLIMIT_DATA, _before.pop())


def _set(limit: int) -> None:
    """Lower the process' own limit; never raise it."""
    import resource

    soft, hard = _before[0]
    known = [value for value in (limit, soft) if value != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(known), hard))
