"""How a long job shows its progress: bars on stderr, lines where that is no terminal, or calls of a function."""

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from spectraldiff.training.monitor import Monitor
from spectraldiff_runtime.cli.progress import ProgressLines, draws_bars
from spectraldiff_runtime.messages import cell, console, one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

# Called with the stage, what is done of it, and all of it.
Callback = Callable[[str, int, int], None]
Progress = bool | Callback


class BarMonitor(Monitor):
    """Draws one line a stage on stderr: bar, loss and time left. Use it in a ``with`` block, which ends the bars.

    Where stderr is no terminal, it is a line when a stage ends, and one a minute.

    Parameters
    ----------
    shown
        Whether anything is drawn.
    """

    def __init__(self, shown: bool = True) -> None:
        self.shown = shown
        self._bars: Bars | None = None
        self._lines = ProgressLines() if shown and not draws_bars() else None

    def __enter__(self) -> Self:
        """Return the monitor itself."""
        if self._lines is not None:
            self._lines.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the bars."""
        self.stop()
        if self._lines is not None:
            self._lines.__exit__(kind, error, trace)

    def stop(self) -> None:
        """Leave the bars as they are; the next stage begins new ones."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def stage(self, title: str, unit: str) -> None:
        """Begin a bar."""
        if not self.shown:
            return
        self._mean: float | None = None
        if self._lines is not None:
            self._lines.stage(title, unit)
            return
        if self._bars is None:
            self._bars = _new_bars()
            self._bars.start()
        self._task = self._bars.add_task(one_line(title), total=None, unit=unit, loss="")

    def progress(self, done: int, total: int, loss: float | None = None) -> None:
        """Move the bar on; the loss shown is a running mean."""
        if not self.shown:
            return
        if loss is not None:
            self._mean = loss if self._mean is None else 0.98 * self._mean + 0.02 * loss
        if self._lines is not None:
            self._lines.update(done, total, self._mean)
        if self._bars is None:
            return
        shown = "" if self._mean is None else f"  loss {self._mean:.4f}"
        self._bars.update(self._task, completed=done, total=total, loss=shown)

    def message(self, text: str) -> None:
        """Print one line above the bars."""
        if not self.shown:
            return
        (_console() if self._bars is None else self._bars.console).print(cell(text))


class CallbackMonitor(BarMonitor):
    """Tells a function of the progress, and draws nothing."""

    def __init__(self, callback: Callback) -> None:
        super().__init__(shown=False)
        self._callback, self._title = callback, ""

    def stage(self, title: str, unit: str) -> None:
        """Keep the stage's name for the calls."""
        self._title = title

    def progress(self, done: int, total: int, loss: float | None = None) -> None:
        """Call the function."""
        self._callback(self._title, done, total)


def _console() -> "Console":
    return console(soft_wrap=True)


def _new_bars() -> "Bars":
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<28}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}{task.fields[loss]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=_console())
