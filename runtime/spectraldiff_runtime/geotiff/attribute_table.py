"""Names and colours of classes inside a GeoTIFF: GDAL's raster attribute table, for a file that travels alone.

GDAL reads it back from version 3.12 on, and QGIS draws by it; earlier ones pass it over. They cannot write it either: a
raster is written with a tag of as many bytes, which the table then replaces, so that nothing else in the file moves.
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from spectraldiff_runtime.classes import LandCoverClass, category_names, colour_table

PLACE = "CLASS_TABLE"  # the tag that keeps the place
GDAL_METADATA = 42112  # the number of the TIFF tag in which GDAL keeps all of them
INTEGER, TEXT = "0", "2"
# Columns: name, type, and what GDAL says that they are for.
COLUMNS = (
    ("Value", INTEGER, "5"), ("Class_Name", TEXT, "2"), ("Red", INTEGER, "6"), ("Green", INTEGER, "7"),
    ("Blue", INTEGER, "8"), ("Alpha", INTEGER, "9"),
)  # fmt: skip


def table_item(classes: Sequence[LandCoverClass]) -> str:
    """Return the item of GDAL's metadata that holds the table of a class raster: a row for 0 and for each class."""
    item = ElementTree.Element("Item", name="DEFAULT_RASTER_ATTRIBUTE_TABLE", sample="0", role="rat")
    table = ElementTree.SubElement(item, "GDALRasterAttributeTable", tableType="thematic")
    for index, facts in enumerate(COLUMNS):
        field = ElementTree.SubElement(table, "FieldDefn", index=str(index))
        for tag, text in zip(("Name", "Type", "Usage"), facts, strict=True):
            ElementTree.SubElement(field, tag).text = text
    names, colours = category_names(classes), colour_table(classes)
    for index, value in enumerate(sorted(colours)):
        row = ElementTree.SubElement(table, "Row", index=str(index))
        for cell in (value, names[value], *colours[value]):
            ElementTree.SubElement(row, "F").text = str(cell)
    return ElementTree.tostring(item, encoding="unicode")


def placeholder(item: str) -> str:
    """Return the value of the tag `PLACE` that takes the bytes of `item`, an item of GDAL's metadata."""
    return "." * (len(item.encode()) - len(_element("")))


def _element(value: str) -> bytes:
    return f'<Item name="{PLACE}">{value}</Item>'.encode()


def embed(path: Path, item: str) -> bool:
    """Put the item in the place that its `placeholder` keeps in the GeoTIFF at `path`; False if there is none.

    Raises
    ------
    OSError
    """
    kept = _element(placeholder(item))
    with path.open("rb+") as file:
        found = _metadata(file)
        if found is None:
            return False
        start, size = found
        file.seek(start)
        at = file.read(size).find(kept)
        if at < 0:
            return False
        file.seek(start + at)
        file.write(item.encode())
    return True


def _metadata(file: IO[bytes]) -> tuple[int, int] | None:
    """Return where GDAL's metadata lie in a TIFF or BigTIFF, and how many bytes they have; None if it has none."""
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack(f"{order}H", head[2:4])[0] == 43
    counts, entry, inline = ("Q", "HHQQ", 8) if big else ("H", "HHII", 4)
    (first,) = struct.unpack(f"{order}Q", head[8:16]) if big else struct.unpack(f"{order}I", head[4:8])
    file.seek(first)
    (entries,) = struct.unpack(order + counts, file.read(struct.calcsize(order + counts)))
    for _ in range(entries):
        tag, _kind, size, offset = struct.unpack(order + entry, file.read(struct.calcsize(order + entry)))
        if tag == GDAL_METADATA and size > inline:
            return offset, size
    return None
