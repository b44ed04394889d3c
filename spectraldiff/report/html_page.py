"""Pieces of a page of HTML that needs nothing beside it: no script, no network, pictures inside.

All text goes through `text` or `element`, which escape it, so that a class may be called ``<Oats & barley>``: what is
HTML already has the type `Html`, and mypy finds a plain string that is taken for it.
"""

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any, NewType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spectraldiff.accuracy.area_adjusted import Estimate
from spectraldiff_runtime.atomic import PartialFile, output_error
from spectraldiff_runtime.classes import LandCoverClass

Html = NewType("Html", str)

LONGEST = 1600  # pixels of the longer side of a map's picture
VOID = {"img", "meta"}
ABSENT = "\N{EN DASH}"


@dataclass(frozen=True)
class Column:
    """A column of a table; numbers are set to the right."""

    title: str
    number: bool = True


def text(value: object) -> Html:
    """Return any value as text."""
    return Html(html.escape(str(value)))


def join(parts: Iterable[Html]) -> Html:
    """Return pieces one after the other."""
    return Html("".join(parts))


def element(name: str, /, *children: Html, **attributes: str) -> Html:
    """Return an element; an attribute ``class_`` becomes ``class``, and an empty one is left out."""
    pairs = [(key.rstrip("_"), value) for key, value in attributes.items() if value]
    opened = "".join([f"<{name}", *(f' {key}="{html.escape(value)}"' for key, value in pairs), ">"])
    return Html(opened) if name in VOID else Html(f"{opened}{join(children)}</{name}>")


def paragraph(words: str, kind: str = "") -> Html:
    """Return a paragraph of plain text."""
    return element("p", text(words), class_=kind)


def note(words: str) -> Html:
    """Return a note, such as a warning is, as a sentence: with a capital letter and a full stop."""
    stop = "" if words.endswith((".", "!", "?")) else "."
    return paragraph(f"{words[:1].upper()}{words[1:]}{stop}", "note")


def section(title: str, *children: Html) -> Html:
    """Return a part of the page under a heading."""
    return element("section", element("h2", text(title)), *children)


def tiles(figures: Mapping[str, Html]) -> Html:
    """Return the headline figures, each under its name."""
    boxes = [element("div", element("dt", text(k)), element("dd", v)) for k, v in figures.items()]
    return element("dl", *boxes, class_="tiles")


def table(columns: Sequence[Column], rows: Sequence[Sequence[Html]], caption: str = "", foot: bool = False) -> Html:
    """Return a table that scrolls where it is too wide; the first cell of a row is its heading.

    Parameters
    ----------
    columns, rows
        The head, and the cells.
    caption
        Above the table.
    foot
        Whether the last row sums the others up.
    """
    head = element("tr", *(_cell("th", c, text(c.title), scope="col") for c in columns))
    lines = [_row(columns, row) for row in rows]
    parts = [element("caption", text(caption))] if caption else []
    parts += [element("thead", head), element("tbody", *(lines[:-1] if foot else lines))]
    parts += [element("tfoot", lines[-1])] if foot else []
    return element("div", element("table", *parts), class_="scroll")


def _row(columns: Sequence[Column], cells: Sequence[Html]) -> Html:
    first, *rest = zip(columns, cells, strict=True)
    return element("tr", _cell("th", *first, scope="row"), *(_cell("td", *pair) for pair in rest))


def _cell(name: str, column: Column, content: Html, **attributes: str) -> Html:
    return element(name, content, class_="number" if column.number else "", **attributes)


def facts(values: Mapping[str, object]) -> Html:
    """Return a table of two columns: what, and how much; nothing for no values."""
    if not values:
        return Html("")
    rows = [element("tr", element("th", text(k), scope="row"), element("td", text(v))) for k, v in values.items()]
    return element("div", element("table", element("tbody", *rows), class_="facts"), class_="scroll")


def picture(png: bytes, alt: str, kind: str = "") -> Html:
    """Return a picture that is part of the page."""
    data = base64.b64encode(png).decode("ascii")
    return element("img", src=f"data:image/png;base64,{data}", alt=alt, class_=kind)


def thinned(values: NDArray[Any]) -> NDArray[Any]:
    """Return every n-th row and column of (H, W, ...), so that neither side is longer than a picture's."""
    step = math.ceil(max(values.shape[:2]) / LONGEST)
    return values[::step, ::step]


def raster(image: NDArray[np.uint8], caption: str) -> Html:
    """Return a map's picture, (H, W, 3), with its caption; large ones are thinned out."""
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(thinned(image))).save(buffer, "PNG", optimize=True)
    shown = picture(buffer.getvalue(), caption, "raster")
    return element("figure", element("figcaption", text(caption)), shown)


def side_by_side(shape: Sequence[int], *children: Html) -> Html:
    """Return pictures of (H, W) beside each other, wide ones below each other."""
    return element("div", *children, class_="pair wide" if shape[1] > 2 * shape[0] else "pair")


def named(c: LandCoverClass) -> Html:
    """Return a class's colour and name."""
    colour = "#" + bytes(c.colour).hex()
    return join((element("span", class_="swatch", style=f"background:{colour}"), text(c.name)))


def legend(classes: Sequence[LandCoverClass], predicted: Sequence[NDArray[Any]]) -> Html:
    """Return the classes of maps, (H, W) each with 0..K, and their shares; 0 is listed where it occurs."""
    counts = sum(np.bincount(values.ravel(), minlength=len(classes) + 1) for values in predicted)
    shares = np.asarray(counts) / np.sum(counts)
    items = [LandCoverClass(0, "No class", (255, 255, 255))] if shares[0] else []
    lines = [
        element("li", named(c), element("span", text(share_text(float(shares[c.value]))), class_="share"))
        for c in (*classes, *items)
    ]
    return element("ul", *lines, class_="legend")


def share_text(share: float) -> str:
    """Write a share of pixels in percent."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def percent(share: float, digits: int = 2) -> Html:
    """Return a share in percent, without the sign; a dash for NaN."""
    return text(ABSENT if math.isnan(share) else f"{100 * share:.{digits}f}")


def interval(estimate: Estimate, factor: float = 1.0, digits: int = 0) -> Html:
    """Return an estimate times `factor` with the half width of its interval; dashes for NaN."""
    if math.isnan(estimate.value):
        return text(ABSENT)
    half = estimate.half_width
    width = "?" if math.isnan(half) else f"{factor * half:,.{digits}f}"
    return text(f"{factor * estimate.value:,.{digits}f} \N{PLUS-MINUS SIGN} {width}")


def duration(seconds: float) -> str:
    """Write a time for people: 12.3 s, 3 min 12 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def page(title: str, subtitle: str, *children: Html, foot: str) -> Html:
    """Return the whole page."""
    css = files("spectraldiff").joinpath("report.css").read_text("utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", text(title)),
        element("style", Html(css)),
    )
    top = element("header", element("h1", text(title)), paragraph(subtitle, "subtitle"))
    body = element("body", top, element("main", *children), element("footer", text(foot)))
    return Html(f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n")


def write_page(path: Path, content: Html, overwrite: bool) -> None:
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
