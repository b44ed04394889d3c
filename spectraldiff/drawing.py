"""How pictures are drawn and written: one style, on matplotlib's Agg canvas.

No display and no state of pyplot is needed. A picture appears under its name when it is whole, and replaces an older
one.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import update_wrapper
from io import BytesIO
from pathlib import Path
from typing import Any, Generic, ParamSpec

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spectraldiff_runtime.outputs import PartialFile, output_error

# Okabe and Ito's colours, which people of any colour vision tell apart.
BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#9AA0A6", "#222222"
DPI = 150
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
