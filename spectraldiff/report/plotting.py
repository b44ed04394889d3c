"""How pictures are drawn and written: one style, on matplotlib's Agg canvas.

No display and no state of pyplot is needed. A picture appears under its name when it is whole, and replaces an older
one.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import update_wrapper
from io import BytesIO
from pathlib import Path
from typing import Any, Generic, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from spectraldiff_runtime.atomic import PartialFile, output_error

# Okabe and Ito's colours, which people of any colour vision distinguish.
BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#9AA0A6", "#222222"
DPI = 150
LONGEST = 32  # letters of a name in a picture
SWATCH_INCHES = 0.48  # of a legend's entry: its swatch with the gaps next to it
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif", "font.size": 9, "axes.titlesize": 9.5, "figure.titlesize": 11,
    "axes.labelsize": 9, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": "#777777",
    "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "#E3E5E8", "grid.linewidth": 0.7, "axes.axisbelow": True,
    "legend.frameon": False, "legend.fontsize": 8.5, "text.parse_math": False,
}  # fmt: skip

P = ParamSpec("P")


class picture(Generic[P]):  # noqa: N801 (a decorator)
    """Make a function that returns a figure into one that writes it as PNG to a path, its first argument."""

    def __init__(self, draw: Callable[P, Figure]) -> None:
        self._draw = draw
        update_wrapper(self, draw)

    def __call__(self, path: Path, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Write the picture; it appears under its name when it is whole."""
        with _style():
            _save(self._draw(*args, **kwargs), path)

    def png(self, *args: P.args, **kwargs: P.kwargs) -> bytes:
        """Return the picture as the bytes of a PNG file."""
        buffer = BytesIO()
        with _style():
            self._draw(*args, **kwargs).savefig(buffer, format="png", dpi=DPI)
        return buffer.getvalue()


@contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # A class name in a script that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _save(figure: Figure, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with PartialFile(path, overwrite=True) as file:
            figure.savefig(file.partial, format="png", dpi=DPI)
            file.publish()
    except OSError as error:
        raise output_error(path, error) from error


def new_figure(width: float, height: float, title: str) -> Figure:
    """Return an empty figure of so many inches, with a title where there is one."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title)
    return figure


def legend_columns(names: Sequence[str], width: float, most: int) -> int:
    """Return how many columns of a legend fit into so many inches: at most `most`, and at least one."""
    widths = SWATCH_INCHES + np.array([_inches(name, STYLE["legend.fontsize"]) for name in names])
    fitting = (n for n in range(most, 1, -1) if sum(p.max(initial=0) for p in np.array_split(widths, n)) <= width)
    return next(fitting, 1)


def _inches(text: str, size: float) -> float:
    """Return how wide a text of so many points is."""
    points, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)
    return float(points) / 72


def short_names(names: Sequence[str]) -> list[str]:
    """Return names that a picture has room for: long ones lose their middle.

    Those that are then alike get their number in the list, from 1.
    """
    cut = [name if len(name) <= LONGEST else _without_middle(name) for name in names]
    counts = Counter(cut)
    return [
        short if short == name or counts[short] == 1 else f"{number}: {short}"
        for number, (short, name) in enumerate(zip(cut, names, strict=True), start=1)
    ]


def _without_middle(name: str) -> str:
    half = LONGEST // 2
    return f"{name[:half].rstrip()}\N{HORIZONTAL ELLIPSIS}{name[1 - half :].lstrip()}"
