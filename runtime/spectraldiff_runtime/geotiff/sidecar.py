"""The ``.aux.xml`` file of a class raster: class names."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from spectraldiff_runtime.atomic import sidecar_path
from spectraldiff_runtime.classes import HIGHEST, LandCoverClass, category_names


def write_class_sidecar(path: Path, classes: Sequence[LandCoverClass]) -> None:
    """Write ``<path>.aux.xml`` with the category names of band 1 of the raster at `path`."""
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    ElementTree.SubElement(band, "Description").text = "class"
    names = ElementTree.SubElement(band, "CategoryNames")
    for name in category_names(classes):
        ElementTree.SubElement(names, "Category").text = name
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    sidecar_path(path).write_text(text + "\n", encoding="utf-8")


def read_sidecar_names(path: Path) -> list[str]:
    try:
        root = ElementTree.fromstring(path.read_bytes())  # noqa: S314 (expat guards against entity bombs)
    except (OSError, ElementTree.ParseError):
        return []
    band = root.find("PAMRasterBand[@band='1']")
    names = [] if band is None else [item.text or "" for item in band.findall("CategoryNames/Category")]
    return names[: HIGHEST + 1]
