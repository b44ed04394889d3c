"""Text for people: one line, without what a terminal obeys; and commands, quoted so that a shell takes them."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectraldiff_runtime.untrusted import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def sdiff(*words: str | int | Path) -> str:
    """Return ``sdiff`` with these words as one line for a shell: names with blanks in them are quoted."""
    return shlex.join(["sdiff", *map(str, words)])


def resume_command(run: Path) -> str:
    """Return the line that goes on with the unfinished training in a run folder."""
    return sdiff("train", "--resume", run)


def one_line(message: str) -> str:
    """Return a message as one line of visible characters, whatever the names in it contain."""
    return visible(" ".join(message.splitlines()))


def console(*, stderr: bool = True, **settings: Any) -> "Console":
    """Return where commands print tables and bars: text is never markup there."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, **settings)


def cell(text: str, style: str = "") -> "Text":
    """Return text from a file for a table: neither markup nor control characters."""
    from rich.text import Text

    return Text(one_line(text), style)


def ranges(numbers: Sequence[int]) -> str:
    """Write band numbers as ``--bands`` takes them: 1-100,110-200."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] + 1 == number:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def times(ratio: float) -> str:
    """Write a ratio above 0 with one digit that counts: "300 times", "1/300 of"."""
    size = float(f"{max(ratio, 1 / ratio):.1g}")
    return f"{size:,.0f} times" if ratio > 1 else f"1/{size:,.0f} of"
