"""Progress of a training, reported to its caller."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spectraldiff.data.scene import LabelledScene
    from spectraldiff.splits.label_counts import ClassLabels
    from spectraldiff.splits.split import Split

SAVE_EVERY = 30.0  # seconds between two states on disk


class Monitor:
    """What a training tells the outside; this one is silent."""

    def data(
        self, scenes: "Sequence[LabelledScene]", splits: "Sequence[Split]", counts: "Sequence[ClassLabels]"
    ) -> None:
        """Say what is trained on: scenes, their splits, and the labels of each class."""

    def stage(self, title: str, unit: str) -> None:
        """Begin a stage whose progress is counted in `unit`."""

    def progress(self, done: int, total: int, loss: float | None = None) -> None:
        """Say how far the stage is."""

    def message(self, text: str) -> None:
        """Say one line."""

    def warn(self, text: str) -> None:
        """Say one line that a user should heed."""


class _Saver:
    """Calls `save` when enough time has passed since it did so last."""

    def __init__(self, save: Callable[[], None]) -> None:
        self.save, self.last = save, time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self.last >= SAVE_EVERY:
            self.save()
            self.last = time.monotonic()
