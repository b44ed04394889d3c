"""Ctrl-C at the right moment: never inside a callback of a C library, which would swallow it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Deliver SIGINT and SIGTERM when the block has ended, not in it.

    Numba compiles and GDAL writes through Python callbacks. An exception that a signal's handler raises
    in one of those is printed and lost, and the program would go on as if nothing had happened. Python
    runs handlers in the main thread only, so that other threads need nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[tuple[int, FrameType | None]] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    held = {number: handler for number, handler in before.items() if handler is not None}
    for number in held:
        signal.signal(number, lambda *call: seen.append(call))
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        for got, frame in seen[:1]:
            _deliver(held[signal.Signals(got)], got, frame)


def _deliver(handler: Any, number: int, frame: FrameType | None) -> None:
    if callable(handler):
        handler(number, frame)
    else:
        signal.raise_signal(number)
