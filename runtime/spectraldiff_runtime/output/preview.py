"""A picture of a class map with its legend, for people: PNG or JPEG."""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rasterio.enums import Resampling

from spectraldiff_runtime.atomic import PartialFile, output_error
from spectraldiff_runtime.classes import UNCLASSIFIED, LandCoverClass
from spectraldiff_runtime.errors import OutputError
from spectraldiff_runtime.geotiff.spec import RasterSpec
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.scene.open import open_dataset

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}

SMALLEST, LARGEST = 720, 1600  # pixels of the map's longer side
MARGIN, ROW, SQUARE, TEXT = 32, 30, 20, 17
INK, FAINT, LINE, PAPER = (31, 35, 40), (101, 109, 118), (208, 215, 222), (255, 255, 255)


class PreviewOutput(PartialFile):
    """A picture of a class raster that appears when the raster does.

    Parameters
    ----------
    path, overwrite, folder
        As `PartialFile`.
    raw, spec, card, title
        The classes in a raw file and what they are, the model, and the scene's name.
    exif
        What the picture says of itself.

    Raises
    ------
    OutputError
        As `PartialFile`, or the suffix is neither PNG's nor JPEG's.
    """

    def __init__(
        self, path: Path, overwrite: bool, raw: Path, spec: RasterSpec, card: ModelCard, title: str, folder: Path,
        exif: Image.Exif,
    ) -> None:  # fmt: skip
        check_preview(path)
        super().__init__(path, overwrite, folder)
        self._raw, self._spec, self._card, self._title, self._exif = raw, spec, card, title, exif

    def finish(self) -> None:
        """Read the classes at the picture's size and draw them."""
        size = self._spec.height, self._spec.width
        try:
            values = read_reduced_raw(self._raw, self._spec, LARGEST)
        except OSError as error:
            raise output_error(self.path, error) from error
        picture = draw_preview(values, self._card.classes, self._title, _subtitle(self._card, size))
        try:
            with self.partial.open("wb") as file:
                picture.save(file, FORMATS[self.path.suffix.lower()], exif=self._exif)
        except OSError as error:
            raise output_error(self.path, error) from error


def check_preview(path: Path) -> None:
    """Raise OutputError where the suffix names no picture that is written."""
    if path.suffix.lower() not in FORMATS:
        raise OutputError(f"the preview '{path}' has the suffix '{path.suffix}': wanted .png or .jpg")


def _subtitle(card: ModelCard, size: tuple[int, int]) -> str:
    parts = [f"{size[1]:,} x {size[0]:,} pixels", f"{card.name} model, preset {card.preset}"]
    overall = (card.accuracy or {}).get("oa")
    if isinstance(overall, float):
        parts.append(f"overall accuracy {overall:.1%} on its test pixels")
    return "  |  ".join(parts)


def read_reduced(path: Path, longest: int) -> tuple[NDArray[Any], tuple[int, int]]:
    """Read a class raster with at most `longest` pixels a side; return it and its full (height, width)."""
    with open_dataset(path) as dataset:
        full = dataset.height, dataset.width
        step = max(1.0, max(full) / longest)
        shape = tuple(max(1, round(side / step)) for side in full)
        return np.asarray(dataset.read(1, out_shape=shape, resampling=Resampling.nearest)), full


def read_reduced_raw(raw: Path, spec: RasterSpec, longest: int) -> NDArray[Any]:
    """Read classes from a raw file with at most `longest` pixels a side: those nearest to the picture's, row by row."""
    step, kind = max(1.0, max(spec.height, spec.width) / longest), np.dtype(spec.dtype)
    rows, columns = (
        ((np.arange(count) + 0.5) * (side / count)).astype(np.int64)
        for side in (spec.height, spec.width)
        for count in [max(1, round(side / step))]
    )
    values = np.empty((len(rows), len(columns)), kind)
    with raw.open("rb") as file:
        for at, row in enumerate(rows.tolist()):
            file.seek(row * spec.width * kind.itemsize)
            values[at] = np.fromfile(file, kind, spec.width)[columns]
    return values


def draw_preview(
    values: NDArray[Any], classes: Sequence[LandCoverClass], title: str, subtitle: str = ""
) -> Image.Image:
    """Draw a class map, (H, W) with 0..K, in its colours, with its legend.

    Small maps are enlarged by a whole factor. Shares in the legend are of all pixels in `values`.
    """
    picture = _map_picture(values, classes)
    rows = _legend_rows(values, classes)
    layout = _Layout.of(picture.size, rows, _plain(title), _plain(subtitle))
    canvas = Image.new("RGB", layout.size, PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN - 6), layout.title, INK, _font(TEXT + 9))
    draw.text((MARGIN, MARGIN + 32), layout.subtitle, FAINT, _font(TEXT - 2))
    canvas.paste(picture, layout.map_at)
    left, top = layout.map_at
    draw.rectangle((left - 1, top - 1, left + picture.width, top + picture.height), outline=LINE)
    for index, row in enumerate(rows):
        _draw_row(draw, layout.place(index), layout.column, row)
    return canvas


@dataclass(frozen=True)
class _Row:
    """A line of the legend."""

    name: str
    share: float
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class _Layout:
    """Where things are: the legend right of the map, or below a wide one in columns."""

    size: tuple[int, int]
    map_at: tuple[int, int]
    legend_at: tuple[int, int]
    column: int
    rows_per_column: int
    title: str
    subtitle: str

    @classmethod
    def of(cls, picture: tuple[int, int], rows: Sequence[_Row], title: str, subtitle: str) -> "_Layout":
        width, height = picture
        names = max((_width(row.name, TEXT) for row in rows), default=0)
        column = SQUARE + 12 + min(names, 340) + 24 + _width("100.0 %", TEXT)
        top = MARGIN + 66
        below = width > 1.6 * height
        if below:
            columns = max(1, min(len(rows), (width + MARGIN) // (column + MARGIN)))
            per_column = math.ceil(len(rows) / columns)
            total = max(width, column), top + height + 24 + per_column * ROW
            legend = MARGIN, top + height + 24
        else:
            per_column = max(1, height // ROW)
            columns = math.ceil(len(rows) / per_column)
            total = width + columns * (column + MARGIN), top + height
            legend = MARGIN + width + MARGIN, top
        inner = total[0]
        size = inner + 2 * MARGIN, total[1] + MARGIN
        title, subtitle = _shorten(title, TEXT + 9, inner), _shorten(subtitle, TEXT - 2, inner)
        return cls(size, (MARGIN, top), legend, column, per_column, title, subtitle)

    def place(self, index: int) -> tuple[int, int]:
        """Return the upper left corner of a line of the legend."""
        column, row = divmod(index, self.rows_per_column)
        return self.legend_at[0] + column * (self.column + MARGIN), self.legend_at[1] + row * ROW


def _map_picture(values: NDArray[Any], classes: Sequence[LandCoverClass]) -> Image.Image:
    colours = np.full((1 + max((c.value for c in classes), default=0), 3), 255, np.uint8)
    for c in classes:
        colours[c.value] = c.colour
    factor = max(1, SMALLEST // max(values.shape))
    picture = colours[values].repeat(factor, axis=0).repeat(factor, axis=1)
    return Image.fromarray(picture)


def _legend_rows(values: NDArray[Any], classes: Sequence[LandCoverClass]) -> list[_Row]:
    shares = np.bincount(values.ravel(), minlength=1 + max((c.value for c in classes), default=0)) / values.size
    rows = [_Row(_plain(c.name), float(shares[c.value]), c.colour) for c in classes]
    return rows + ([_Row(UNCLASSIFIED, float(shares[0]), PAPER)] if shares[0] else [])


def _draw_row(draw: ImageDraw.ImageDraw, at: tuple[int, int], width: int, row: _Row) -> None:
    left, top = at
    box = (left, top + 2, left + SQUARE, top + 2 + SQUARE)
    draw.rounded_rectangle(box, 4, fill=row.colour, outline=LINE)
    share = f"{100 * row.share:.1f} %" if row.share >= 0.0005 or not row.share else "< 0.1 %"
    share_width = _width(share, TEXT)
    name = _shorten(row.name, TEXT, width - SQUARE - 12 - 24 - _width("100.0 %", TEXT))
    middle = top + 2 + SQUARE / 2
    draw.text((left + SQUARE + 12, middle), name, INK, _font(TEXT), anchor="lm")
    draw.text((left + width - share_width, middle), share, FAINT, _font(TEXT), anchor="lm")


def _plain(text: str) -> str:
    """Return `text` in the letters that Pillow's own font has, which is ASCII: accents go, others become "?"."""
    letters = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in letters)


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _width(text: str, size: int) -> int:
    return math.ceil(float(_font(size).getlength(text)))


def _shorten(text: str, size: int, width: int) -> str:
    """Return `text`, or as much of its beginning as fits with an ellipsis."""
    if _width(text, size) <= width:
        return text
    while text and _width(text + "...", size) > width:
        text = text[:-1]
    return text.rstrip() + "..."
