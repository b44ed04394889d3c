"""Pages of HTML that need no other file: no script, no network, pictures inside.

The markup is in ``templates`` (Jinja2, which escapes all text, so that a class may be called ``<Oats & barley>``). Here
is what fills them: tables, figures and pictures as plain values.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from spectraldiff.accuracy.area_adjusted import Estimate
from spectraldiff_runtime.atomic import PartialFile, output_error
from spectraldiff_runtime.classes import LandCoverClass

LONGEST = 1600  # pixels of the longer side of a map's picture
ABSENT = "\N{EN DASH}"


@dataclass(frozen=True)
class Figure:
    """A headline figure: its name, its value as text, its unit, and a line below."""

    name: str
    value: str
    unit: str = ""
    below: str = ""


@dataclass(frozen=True)
class Table:
    """A table of numbers.

    Attributes
    ----------
    columns
        The titles.
    rows
        The cells as text; the first of each row may be a class, which is shown with its colour.
    foot
        A last row that sums up the others; empty for none.
    caption
        Above the table.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | LandCoverClass]]
    foot: Sequence[str] = ()
    caption: str = ""


@dataclass(frozen=True)
class Share:
    """A class and its share of a map, as text."""

    of: LandCoverClass
    text: str


def render(template: str, **content: Any) -> str:
    """Return a template of ``templates``, filled."""
    return _environment().get_template(template).render(content)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("spectraldiff.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"data_uri": data_uri, "hex": hex_colour, "sentence": sentence}
    return environment


def data_uri(png: bytes) -> str:
    """Return a picture as the address of an image that is part of the page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def hex_colour(colour: tuple[int, int, int]) -> str:
    """Return a colour as CSS writes it."""
    return f"#{bytes(colour).hex()}"


def sentence(words: str) -> str:
    """Return a note, such as a warning is, with a capital letter and a full stop."""
    stop = "" if words.endswith((".", "!", "?")) else "."
    return f"{words[:1].upper()}{words[1:]}{stop}"


def thinned(values: NDArray[Any]) -> NDArray[Any]:
    """Return every n-th row and column of (H, W, ...), so that neither side is longer than a picture's."""
    step = math.ceil(max(values.shape[:2]) / LONGEST)
    return values[::step, ::step]


def raster(image: NDArray[np.uint8]) -> bytes:
    """Return a map's picture, (H, W, 3), as PNG; large ones are thinned out."""
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(thinned(image))).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def is_wide(shape: Sequence[int]) -> bool:
    """Whether pictures of (H, W) are shown below each other instead of side by side."""
    return shape[1] > 2 * shape[0]


def shares(classes: Sequence[LandCoverClass], predicted: Sequence[NDArray[Any]]) -> list[Share]:
    """Return the classes of maps, (H, W) each with 0..K, and their shares; 0 is listed where it occurs."""
    counts = sum(np.bincount(values.ravel(), minlength=len(classes) + 1) for values in predicted)
    found = np.asarray(counts) / np.sum(counts)
    no_class = [LandCoverClass(0, "No class", (255, 255, 255))] if found[0] else []
    return [Share(c, share_text(float(found[c.value]))) for c in (*classes, *no_class)]


def share_text(share: float) -> str:
    """Write a share of pixels in percent."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def percent(share: float, digits: int = 2) -> str:
    """Write a share in percent, without the sign; a dash for NaN."""
    return ABSENT if math.isnan(share) else f"{100 * share:.{digits}f}"


def percent_or_absent(share: float | None) -> str:
    """Write a share in percent as `percent` does; a dash for None, which JSON has for NaN."""
    return percent(math.nan if share is None else share)


def interval(estimate: Estimate, factor: float = 1.0, digits: int = 0) -> str:
    """Write an estimate times `factor` with the half width of its interval; dashes for NaN."""
    if math.isnan(estimate.value):
        return ABSENT
    half = estimate.half_width
    width = "?" if math.isnan(half) else f"{factor * half:,.{digits}f}"
    return f"{factor * estimate.value:,.{digits}f} \N{PLUS-MINUS SIGN} {width}"


def duration(seconds: float) -> str:
    """Write a time for people: 12.3 s, 3 min 12 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def write_page(path: Path, content: str, overwrite: bool) -> None:
    """Write a page; it appears under its name when it is whole.

    Raises
    ------
    OutputError
        The file exists and `overwrite` is not set, or it cannot be written.
    """
    try:
        with PartialFile(path, overwrite) as file:
            file.partial.write_text(content, "utf-8")
            file.publish()
    except OSError as error:
        raise output_error(path, error) from error
