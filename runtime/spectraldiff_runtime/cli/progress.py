"""Progress where stderr is no terminal: one line for each stage, and one a minute, instead of bars."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from spectraldiff_runtime.cli.options import say
from spectraldiff_runtime.messages import console

EVERY = 60.0  # seconds between two lines


class ProgressLines:
    """Says how far stages are: when each ends, and at least once a minute. Use it in a ``with`` block, which ends it.

    Parameters
    ----------
    shown
        Whether anything is said.
    ends
        Whether the end of a stage is said, too.
    every
        The most seconds from one line to the next.
    tell
        Called with each line, also from a thread of its own.
    """

    def __init__(
        self, shown: bool = True, *, ends: bool = True, every: float = EVERY, tell: Callable[[str], None] = say
    ) -> None:
        self._shown, self._ends, self._every, self._tell = shown, ends, every, tell
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._told = self._start = time.monotonic()
        self._title, self._unit, self._under_way = "", "", False
        self._done, self._total = 0, 0
        self._first: int | None = None
        self._loss: float | None = None

    def __enter__(self) -> Self:
        """Begin: what comes before the first stage is time, too."""
        if self._shown:
            self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the lines, and the stage if nothing has failed."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if error is None:
            self.end()

    def stage(self, title: str, unit: str = "", total: int = 0) -> None:
        """End the stage before, and begin one that is counted in `unit`; 0 where its total is not known yet."""
        self.end()
        with self._lock:
            self._title, self._unit, self._under_way = title, unit, True
            self._done, self._total, self._first, self._loss = 0, total, None, None
            self._start = time.monotonic()

    def update(self, done: int, total: int, loss: float | None = None) -> None:
        """Say how far the stage is."""
        with self._lock:
            if self._first is None:
                self._first = done  # what was done before an interruption tells nothing of the speed
            self._done, self._total, self._loss = done, total, loss

    def end(self) -> None:
        """Say that the stage is done, if one is under way."""
        with self._lock:
            if self._under_way:
                if self._ends:
                    self._say()
                self._under_way, self._start = False, time.monotonic()

    def _watch(self) -> None:
        while not self._over.wait(max(self._told + self._every - time.monotonic(), 0.0)):
            with self._lock:
                if time.monotonic() >= self._told + self._every:
                    self._say()

    def _say(self) -> None:
        self._told = time.monotonic()
        if not self._shown:
            return
        taken = _time(self._told - self._start)
        if self._under_way:
            parts = [*self._count(), *([] if self._loss is None else [f"loss {self._loss:.4f}"]), taken, *self._left()]
            self._tell(f"{self._title}: {', '.join(parts)}")
        else:
            self._tell(f"At work for {taken}" + (f" after '{self._title}'" if self._title else ""))

    def _count(self) -> list[str]:
        if not self._total:
            return []
        of = "" if self._done >= self._total else f"{self._done:,} of "
        return [f"{of}{self._total:,} {self._unit}"]

    def _left(self) -> list[str]:
        done, rest = self._done - (self._first or 0), self._total - self._done
        return [f"{_time((self._told - self._start) / done * rest)} left"] if done > 0 and rest > 0 else []


def draws_bars() -> bool:
    """Whether stderr shows bars that move: a terminal or a notebook."""
    shown = console()
    return shown.is_terminal or shown.is_jupyter


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"
