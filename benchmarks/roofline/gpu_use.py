"""Utilisation of a GPU from NVIDIA's management library: the share of time in which any kernel ran.

The library comes with the driver. It averages over up to a second, so the measured work must last several seconds.
"""

import ctypes
import sys
import threading
from types import TracebackType
from typing import Any, Self

from spectraldiff_runtime.model.cuda import bus_id

# Seconds between two questions, and those at the start whose answers still look back at what was before.
PERIOD, START = 0.1, 1.2


class _Utilisation(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class GpuUse:
    """Samples the utilisation of a GPU during a ``with`` block.

    Parameters
    ----------
    gpu
        Its CUDA number, from 0; None for no GPU.
    """

    def __init__(self, gpu: int | None) -> None:
        found: tuple[Any, Any] = (None, None) if gpu is None else _find(gpu)
        self._library, self._device = found
        self._shares: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="gpu-use", daemon=True)

    def __enter__(self) -> Self:
        """Begin to ask."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ask no more."""
        self._ended.set()
        self._thread.join()

    @property
    def share(self) -> float | None:
        """The mean share, 0..1; None without a sample."""
        return sum(self._shares) / len(self._shares) if self._shares else None

    def _ask(self) -> None:
        found = _Utilisation()
        self._ended.wait(START)
        while self._library is not None and not self._ended.wait(PERIOD):
            if self._library.nvmlDeviceGetUtilizationRates(self._device, ctypes.byref(found)) == 0:
                self._shares.append(found.gpu / 100)


def _find(gpu: int) -> tuple[Any | None, Any]:
    """Return the library and its handle of a GPU; None if it is not available."""
    place, device = bus_id(gpu), ctypes.c_void_p()
    try:
        library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return None, None
    if place is None or library.nvmlInit_v2() != 0:
        return None, None
    found = library.nvmlDeviceGetHandleByPciBusId_v2(place.encode(), ctypes.byref(device)) == 0
    return (library, device) if found else (None, None)
