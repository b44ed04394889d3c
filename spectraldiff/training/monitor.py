"""Progress of a training, told to the outside."""

import time
from collections.abc import Callable

SAVE_EVERY = 30.0  # seconds between two states on disk


class Monitor:
    """What a training tells the outside; this one is silent."""

    def stage(self, title: str, unit: str) -> None:
        """Begin a stage whose progress is counted in `unit`."""

    def progress(self, done: int, total: int, loss: float | None = None) -> None:
        """Say how far the stage is."""

    def message(self, text: str) -> None:
        """Say one line."""


class _Saver:
    """Calls `save` when enough time has passed since it did so last."""

    def __init__(self, save: Callable[[], None]) -> None:
        self.save, self.last = save, time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self.last >= SAVE_EVERY:
            self.save()
            self.last = time.monotonic()
