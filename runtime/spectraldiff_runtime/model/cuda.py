"""NVIDIA GPUs through the driver: their number, free memory and page-locked host memory.

ONNX Runtime has no Python interface for these. The map does not depend on them: without a driver, callers use defaults.
"""

import ctypes
import queue
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# cuMemHostAlloc: page-locked for all contexts of the process, also that of ONNX Runtime.
_PORTABLE = 1


@lru_cache(maxsize=1)
def _driver() -> Any | None:
    """Return the driver's library, ready for use, or None where there is none."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None


def has_driver() -> bool:
    """Whether an NVIDIA driver is installed and starts."""
    return _driver() is not None


def count_gpus() -> int:
    """Return how many GPUs this process may use; ``CUDA_VISIBLE_DEVICES`` counts."""
    driver, count = _driver(), ctypes.c_int(0)
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def free_memory(gpu: int) -> int | None:
    """Return the free bytes of a GPU's memory; None if unknown."""
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    with _context(gpu) as driver:
        known = driver is not None and driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    return free.value if known else None


def bus_id(gpu: int) -> str | None:
    """Return where a GPU sits, ``"0000:17:00.0"``: other libraries number them differently."""
    driver, device, text = _driver(), ctypes.c_int(0), ctypes.create_string_buffer(32)
    if driver is None or driver.cuDeviceGet(ctypes.byref(device), gpu) != 0:
        return None
    return text.value.decode() if driver.cuDeviceGetPCIBusId(text, 32, device) == 0 else None


@contextmanager
def _context(gpu: int) -> Iterator[Any | None]:
    """Make a GPU's primary context, the one that ONNX Runtime uses, current in this thread; None where that fails."""
    driver, device, context = _driver(), ctypes.c_int(0), ctypes.c_void_p()
    with ExitStack() as stack:
        current = False
        if driver is not None and driver.cuDeviceGet(ctypes.byref(device), gpu) == 0:
            if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0:
                stack.callback(driver.cuDevicePrimaryCtxRelease_v2, device)
                current = driver.cuCtxPushCurrent_v2(context) == 0
            if current:
                stack.callback(driver.cuCtxPopCurrent_v2, ctypes.byref(ctypes.c_void_p()))
        yield driver if current else None


class _PageLocked:
    """Page-locked memory of the host, given back when the last array on it has gone."""

    def __init__(self, address: int, size: int, free: Callable[[], None]) -> None:
        self.__array_interface__ = {"data": (address, False), "shape": (size,), "typestr": "|u1", "version": 3}
        weakref.finalize(self, free).atexit = False  # the driver may be gone by then, and its memory with it


def page_locked(gpu: int, size: int) -> NDArray[np.uint8] | None:
    """Return `size` bytes that a GPU reads at the full speed of its bus, uint8; None if it cannot be allocated."""
    address = ctypes.c_void_p()
    with _context(gpu) as driver:
        if driver is None or driver.cuMemHostAlloc(ctypes.byref(address), ctypes.c_size_t(size), _PORTABLE) != 0:
            return None
    return (
        None
        if address.value is None
        else np.asarray(_PageLocked(address.value, size, _free_function(gpu, address.value)))
    )


def _free_function(gpu: int, address: int) -> Callable[[], None]:
    def free() -> None:
        with _context(gpu) as driver:
            if driver is not None:
                driver.cuMemFreeHost(ctypes.c_void_p(address))

    return free


class PinnedBuffers:
    """Memory for batches on their way to a GPU: page-locked, and used again.

    Page-locking takes longer than filling, and copies from other memory go through buffers of the driver. Plain memory
    is used where page-locked memory cannot be allocated.

    Parameters
    ----------
    gpu
        Its number, from 0.
    """

    def __init__(self, gpu: int) -> None:
        self._gpu = gpu
        self._free: queue.SimpleQueue[NDArray[np.uint8]] = queue.SimpleQueue()

    def acquire(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return room for a batch of this shape, float32; what it holds is arbitrary."""
        size = 4 * int(np.prod(shape))
        held = np.empty(0, np.uint8)
        while held.nbytes < size:
            try:
                held = self._free.get_nowait()
            except queue.Empty:
                found = page_locked(self._gpu, size)
                held = np.empty(size, np.uint8) if found is None else found
        return held[:size].view(np.float32).reshape(shape)

    def release(self, batch: NDArray[np.float32]) -> None:
        """Return a batch from `acquire` to the pool; it must not be used afterwards."""
        self._free.put(_memory_of(batch))


def _memory_of(batch: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the whole buffer that a batch is a view of."""
    found: Any = batch
    while isinstance(found.base, np.ndarray):
        found = found.base
    return np.asarray(found)
