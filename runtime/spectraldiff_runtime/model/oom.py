"""Splits batches that do not fit into the device's memory.

A batch that runs out of memory is split in half and run again. Other GPU errors end the run with one line.
"""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.errors import DeviceError, SpectralDiffError

# ONNX Runtime's arena, the C++ library, CUDA, cuBLAS and cuDNN. An "illegal memory access" is another matter.
OUT_OF_MEMORY = re.compile(
    r"failed to allocate|bad_?\s?alloc|alloc_failed|out of memory|available memory of", re.IGNORECASE
)

# Part of ONNX Runtime's message for a run that was ended by its options.
TERMINATED = "terminate flag"

Infer = Callable[[NDArray[np.float32]], list[NDArray[Any]]]


class BatchSplitter:
    """Runs batches in pieces that fit into memory; threads share the size found.

    When memory runs out, the size is halved; at single tiles, runs go one at a time.

    Parameters
    ----------
    on_gpu
        Whether the model runs on a GPU, for messages.
    runs
        How many runs the caller starts at once, at most.
    """

    def __init__(self, on_gpu: bool = False, runs: int = 1) -> None:
        self._on_gpu = on_gpu
        self._limit: int | None = None
        self._serial = runs == 1
        self._running = 0
        self._change = threading.Condition()
        self._pending_warning: str | None = None

    def run(self, infer: Infer, tiles: NDArray[np.float32]) -> list[NDArray[Any]]:
        """Return what `infer` gives for all tiles, (N, B, h, w); each output has N first.

        Raises
        ------
        DeviceError
            A GPU's memory does not hold a single tile, even while nothing else runs; or the GPU cannot run the model.
        MemoryError
            The host's does not.
        """
        found: list[list[NDArray[Any]]] = []
        done = 0
        while done < len(tiles) or not found:
            piece = tiles[done : done + (self._limit or len(tiles))]
            with self._turn() as alone:
                try:
                    found.append(infer(piece))
                    done += len(piece)
                    continue
                except SpectralDiffError:
                    raise
                except Exception as error:  # ONNX Runtime's own exception types differ between versions
                    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
                        self._reduce(piece.shape, alone, error)
                    elif self._on_gpu and TERMINATED not in str(error):
                        raise DeviceError(_gpu_failure(str(error))) from error
                    else:
                        raise
        return found[0] if len(found) == 1 else [np.concatenate(parts) for parts in zip(*found, strict=True)]

    def take_warning(self) -> str | None:
        """Return a warning about a reduction since the last call, or None."""
        with self._change:
            news, self._pending_warning = self._pending_warning, None
        return news

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """Wait until this run may start; yield whether no other may start before its end."""
        with self._change:
            self._change.wait_for(lambda: not (self._serial and self._running))
            self._running += 1
            alone = self._serial
        try:
            yield alone
        finally:
            with self._change:
                self._running -= 1
                self._change.notify_all()

    def _reduce(self, shape: tuple[int, ...], alone: bool, error: Exception) -> None:
        """Reduce the size of later runs, unless another thread already has."""
        size, height, width = shape[0], shape[2], shape[3]
        where = "the GPU's memory" if self._on_gpu else "memory"
        with self._change:
            if self._limit is not None and self._limit < size:
                return
            if size > 1:
                self._limit = size // 2
                self._pending_warning = (
                    f"{where} does not hold batches of {size} tiles of {height} x {width} pixels with their halos: "
                    f"going on with {self._limit} at a time"
                )
            elif not alone:
                self._serial = True
                self._pending_warning = (
                    f"{where} does not hold two tiles of {height} x {width} pixels with their halos at once: "
                    "going on with one after the other"
                )
            elif self._on_gpu:
                raise DeviceError(
                    f"the GPU's memory does not hold one tile of {height} x {width} pixels with its halo: "
                    "use a smaller --tile, or --device cpu"
                ) from error
            else:
                raise MemoryError(f"inference on tiles of {shape}") from error


def _gpu_failure(message: str) -> str:
    """Return a one-line message for a GPU error, without ONNX Runtime's paths and graphs."""
    what, reason = what_failed(message)
    return (
        f"the GPU cannot run {what} ({reason}): "
        "export it in another precision (`sdiff export --precision fp32`), or use --device cpu"
    )


def what_failed(message: str) -> tuple[str, str]:
    """Return which node ONNX Runtime could not run, and why, from the message of its error."""
    first = message.partition("\n")[0]
    node = re.search(r"while running (\w+) node.*?Status Message: *(.*)", first)
    what, status = (f"its {node[1]}", node[2]) if node else ("the model", first)
    # What follows a path in the sources, or what CUDA adds of the machine, is left out.
    return what, re.split(r":? ?/| ; ", status)[0][:120] or status.rpartition("/")[2][:120]
