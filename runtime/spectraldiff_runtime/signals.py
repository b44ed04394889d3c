"""Ctrl-C at the right moment: never inside a callback of a C library.

Numba loads and compiles code and GDAL writes files through Python callbacks. An exception that a signal's
handler raises in one of those is printed and lost, or the library goes on with what it never got.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Those that end a command; the terminal's, when it closes, is not everywhere.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
# What the command line's handlers have raised.
ENDS: list[BaseException] = []


def raise_if_ended() -> None:
    """Raise what a signal raised before, if a library has swallowed it, as by trying another import instead."""
    if ENDS:
        raise ENDS[0]


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Deliver SIGINT, SIGTERM and SIGHUP when the block has ended, not in it.

    Python runs handlers in the main thread only, so that other threads need nothing.
    """
    before = _replaceable()
    seen: list[tuple[int, Any]] = []
    try:
        for number in before:
            signal.signal(number, lambda *call: seen.append(call))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if seen:
            _deliver(before[signal.Signals(seen[0][0])], *seen[0])


def _replaceable() -> dict[signal.Signals, Any]:
    """Return the handlers that may be replaced: those of Python and the default, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    return {n: h for n, h in handlers.items() if callable(h) or h is signal.SIG_DFL}


def _deliver(handler: Any, number: int, frame: Any) -> None:
    if callable(handler):
        handler(number, frame)
    else:
        signal.raise_signal(number)
