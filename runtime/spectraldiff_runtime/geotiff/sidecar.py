"""What GDAL keeps next to the pixels of a class raster: names of the values, in sidecars, attribute tables and VRTs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from spectraldiff_runtime.atomic import sidecar_path
from spectraldiff_runtime.classes import HIGHEST, LandCoverClass, category_names, colour_table
from spectraldiff_runtime.gdal import described

# Columns of attribute tables: what GDAL says they are for, and what programs call them.
VALUE_USES, NAME_USE = ("5", "3"), "2"
VALUE_TITLES = ("value", "values", "code", "class_id", "id")
NAME_TITLES = (
    "class_name", "class_names", "classname", "class", "name", "names", "label", "labels", "category", "title",
    "landcover", "land_cover", "description",
)  # fmt: skip


@dataclass(frozen=True)
class BandNames:
    """Names by value of the first band of a raster, its nodata value or None, and what is guessed of the names."""

    names: dict[int, str]
    nodata: float | None
    remark: str = ""


def write_class_sidecar(path: Path, classes: Sequence[LandCoverClass]) -> None:
    """Write ``<path>.aux.xml`` with names and colours of band 1 of the raster at `path`.

    A palette in a TIFF of bytes has 256 entries, whatever the classes. This colour table ends with the last class, and
    so does the legend that QGIS makes of it.
    """
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    ElementTree.SubElement(band, "Description").text = "class"
    add_colours(band, classes)
    names = ElementTree.SubElement(band, "CategoryNames")
    for name in category_names(classes):
        ElementTree.SubElement(names, "Category").text = name
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    sidecar_path(path).write_text(text + "\n", encoding="utf-8")


def add_colours(band: ElementTree.Element, classes: Sequence[LandCoverClass]) -> None:
    """Add a colour table to a band in GDAL's XML: an entry for each value up to that of the last class."""
    table, colours = ElementTree.SubElement(band, "ColorTable"), colour_table(classes)
    for value in range(max(colours) + 1):
        entry = zip(("c1", "c2", "c3", "c4"), colours.get(value, (0, 0, 0, 255)), strict=True)
        ElementTree.SubElement(table, "Entry", {key: str(level) for key, level in entry})


def read_band_names(dataset: Any) -> BandNames:
    """Return the names that GDAL has for the values of an open raster's first band.

    rasterio passes on neither category names nor attribute tables, and the nodata value as float64.
    """
    band = described(dataset).find("VRTRasterBand[@band='1']")
    if band is None:
        return BandNames({}, None)
    listed = [item.text or "" for item in band.findall("CategoryNames/Category")][: HIGHEST + 1]
    names, remark = dict(enumerate(listed)) if any(listed) else _table_names(band), ""
    if not names:
        names, remark = _value_table(dataset.name)
    return BandNames(names, _number(band.findtext("NoDataValue", "")), remark)


def _table_names(band: ElementTree.Element) -> dict[int, str]:
    """Return the names in GDAL's raster attribute table."""
    table = band.find("GDALRasterAttributeTable")
    if table is None:
        return {}
    columns = [(field.findtext("Usage", ""), field.findtext("Name", "")) for field in table.findall("FieldDefn")]
    texts = [field.findtext("Type", "") == "2" for field in table.findall("FieldDefn")]
    rows = [[cell.text or "" for cell in row.findall("F")] for row in table.findall("Row")]
    values = [list(column) for column in zip(*rows, strict=True)]
    if (table.get("Row0Min"), table.get("BinSize")) == ("0", "1"):  # a row a value, from 0
        columns, texts, values = (
            [*columns, ("5", "")],
            [*texts, False],
            [*values, [str(row) for row in range(len(rows))]],
        )
    return _names_in(columns, texts, values)


def _value_table(path: str) -> tuple[dict[int, str], str]:
    """Return the names in the table ``NAME.tif.vat.dbf`` that ArcGIS writes next to a raster, and what is guessed."""
    found = next((table for table in (Path(f"{path}.vat.dbf"), Path(f"{path}.VAT.DBF")) if table.is_file()), None)
    if found is None:
        return {}, ""
    from spectraldiff_runtime.geo.vector_source import read_plain_table

    table, remark = read_plain_table(found)
    values = [[str(value) for value in column] for column in table.values()]
    names = _names_in([("", title) for title in table], [c.dtype.kind in "OU" for c in table.values()], values)
    return names, remark if names else ""


def _names_in(columns: list[tuple[str, str]], texts: list[bool], values: list[list[str]]) -> dict[int, str]:
    """Return the names by value of a table, by what its columns are for, else by what they are called."""
    value = _column(columns, VALUE_USES, VALUE_TITLES, [True] * len(texts))
    name = _column(columns, (NAME_USE,), NAME_TITLES, texts)
    if name is None and texts.count(True) == 1:
        name = texts.index(True)
    if name is None or value is None or not values:
        return {}
    pairs = [(_number(v), title.strip()) for v, title in zip(values[value], values[name], strict=True)]
    return {int(v): title for v, title in pairs if v is not None and title and v == int(v)}


def _column(
    columns: list[tuple[str, str]], uses: Sequence[str], titles: Sequence[str], allowed: list[bool]
) -> int | None:
    """Return the index of the first column with one of these uses, else with one of these titles."""
    for wanted, of in ((uses, 0), (titles, 1)):
        for one in wanted:
            for at, column in enumerate(columns):
                if allowed[at] and column[of].strip().lower() == one:
                    return at
    return None


def _number(text: str) -> float | None:
    """Return a finite number, whole ones exact; None for anything else."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None
