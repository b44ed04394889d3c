"""Ctrl-C in callbacks of C libraries, which print and then forget whatever is raised in them.

Numba compiles and GDAL writes through Python callbacks. Without care, a Ctrl-C at such a moment would be
lost and the program would go on. Python runs signal handlers in the main thread only, so that other
threads need nothing.
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def interrupts_held_back() -> AbstractContextManager[None]:
    """Deliver SIGINT and SIGTERM when the block has ended, not in it: for short work."""
    return _guard(at_once=False)


def interrupts_not_lost() -> AbstractContextManager[None]:
    """Deliver SIGINT and SIGTERM at once, and again after the block if it went on: for long work."""
    return _guard(at_once=True)


@contextmanager
def _guard(at_once: bool) -> Iterator[None]:
    before = _replaceable(at_once)
    seen: list[tuple[int, Any]] = []
    ended = False
    try:
        for number in before:
            signal.signal(number, _handler(before[number] if at_once else None, seen))
        with _silent_callbacks():
            yield
        ended = True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if seen and (ended or not at_once):
            _deliver(before[signal.Signals(seen[0][0])], *seen[0])


def _replaceable(at_once: bool) -> dict[signal.Signals, Any]:
    """Return the handlers to replace: of Python's own, and where the signal can wait also the default."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    return {n: h for n, h in handlers.items() if callable(h) or (h is signal.SIG_DFL and not at_once)}


def _handler(original: Any, seen: list[tuple[int, Any]]) -> Callable[[int, Any], None]:
    """Return a handler that calls the original if there is one, and notes what was not dealt with."""

    def handle(number: int, frame: Any) -> None:
        seen.append((number, frame))
        if original is not None:
            original(number, frame)
            seen.pop()  # it did not raise, so that nothing can get lost

    return handle


def _deliver(handler: Any, number: int, frame: Any) -> None:
    if callable(handler):
        handler(number, frame)
    else:
        signal.raise_signal(number)


@contextmanager
def _silent_callbacks() -> Iterator[None]:
    """Do not print an interrupt that a callback forgets: it is delivered again."""
    original = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt | SystemExit):
            original(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = original
