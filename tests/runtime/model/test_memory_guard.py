"""Memory runs out for a graph that takes far more than its card says, and for nothing else."""

import resource
import subprocess
import sys
import threading

import numpy as np
import pytest

from spectraldiff_runtime.model import memory_guard
from spectraldiff_runtime.model.memory_guard import SLACK, TIMES, memory_guarded

pytestmark = pytest.mark.skipif(not memory_guard.STATUS.exists(), reason="the kernel limits nothing here")


# Exits with 0 where the kernel counts mapped memory against RLIMIT_DATA; some sandboxes count that of brk alone.
PROBE = f"""
import mmap, resource
resource.setrlimit(resource.RLIMIT_DATA, ({2**28}, {2**28}))
try:
    mmap.mmap(-1, {2**30}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
except (OSError, MemoryError):
    raise SystemExit(0)
raise SystemExit(1)
"""


def limit() -> int:
    return resource.getrlimit(resource.RLIMIT_DATA)[0]


def test_more_than_that_is_refused():
    if subprocess.run([sys.executable, "-c", PROBE], check=False).returncode:
        pytest.skip("the kernel does not count mapped memory here")
    with memory_guarded(2**20), pytest.raises(MemoryError):
        np.zeros(2 * SLACK, np.uint8)


def test_memory_that_runs_have_kept_goes_back(model):
    model.run(np.zeros((1, 7, 2000, 2000), np.float32), probabilities=True)
    kept = resident()
    model.release()
    assert resident() < kept - 2**25
    assert model.run(np.zeros((1, 7, 9, 9), np.float32)).classes.shape == (1, 5, 5)


def resident() -> int:
    line = next(line for line in memory_guard.STATUS.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def test_the_limit_goes_with_the_block():
    before = limit()
    with memory_guarded(2**20):
        assert limit() < memory_guard.held_memory("VmData") + 2 * SLACK
    assert limit() == before
    with pytest.raises(ZeroDivisionError), memory_guarded(0):
        1 / 0  # noqa: B018
    assert limit() == before


def test_what_is_expected_fits():
    with memory_guarded(2**28):
        assert len(np.empty(TIMES * 2**28, np.uint8)) == 2**30


def test_blocks_in_several_threads_share_the_largest_limit():
    before, entered, done = limit(), threading.Event(), threading.Event()

    def other() -> None:
        with memory_guarded(2**33):
            entered.set()
            done.wait(60)

    thread = threading.Thread(target=other)
    with memory_guarded(0):
        low = limit()
        thread.start()
        assert entered.wait(60)
        assert limit() > low + 2**34
    assert limit() > low + 2**34  # the other block is under way
    done.set()
    thread.join()
    assert limit() == before


def test_a_limit_of_the_user_is_never_raised():
    before = resource.getrlimit(resource.RLIMIT_DATA)
    own = memory_guard.held_memory("VmData") + 2**29
    resource.setrlimit(resource.RLIMIT_DATA, (own, before[1]))
    try:
        with memory_guarded(2**40):
            assert limit() == own
        assert limit() == own
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def test_elsewhere_nothing_is_limited(monkeypatch):
    monkeypatch.setattr(memory_guard.sys, "platform", "darwin")
    before = limit()
    with memory_guarded(0):
        assert limit() == before
