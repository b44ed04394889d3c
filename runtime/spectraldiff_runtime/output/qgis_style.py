"""How QGIS shows a map's rasters: layer styles, ``NAME.qml`` next to ``NAME.tif``, which QGIS takes by themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from spectraldiff_runtime.atomic import PartialFile, output_error
from spectraldiff_runtime.classes import Colour, LandCoverClass
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.output.provenance import style_record

# From the least to the most: dark to bright is sure, bright to dark is far from the training.
SURE: tuple[Colour, ...] = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
FAR: tuple[Colour, ...] = ((255, 255, 204), (254, 217, 118), (253, 141, 60), (227, 26, 28), (128, 0, 38))
PERCENT = 100
# Rasters of a map that have a style.
STYLED = ("--out", "--confidence", "--outside")


class StyleOutput(PartialFile):
    """The style of one raster of a map; see `PartialFile`.

    Parameters
    ----------
    option
        Which raster it is for, one of `STYLED`; or "polygons".
    percent
        Whether confidences are whole percent.
    facts
        What the map is made from.
    """

    def __init__(
        self, path: Path, overwrite: bool, folder: Path, option: str, card: ModelCard, percent: bool,
        facts: Mapping[str, Any],
    ) -> None:  # fmt: skip
        super().__init__(path, overwrite, folder)
        if option == "polygons":
            self._text = _document([_categorised(card.classes)], style_record(facts))
            return
        if option == "--out":
            renderer = _paletted(card.classes)
        elif option == "--confidence":
            renderer = _ramp(SURE, PERCENT if percent else 1)
        else:
            renderer = _ramp(FAR, PERCENT)
        pipe = ElementTree.Element("pipe")
        pipe.append(renderer)
        ElementTree.SubElement(pipe, "rasterresampler", maxOversampling="1")
        self._text = _document([pipe], style_record(facts))

    def finish(self) -> None:
        """Write the style under its other name."""
        try:
            self.partial.write_text(self._text, encoding="utf-8")
        except OSError as error:
            raise output_error(self.path, error) from error


def _document(parts: Sequence[ElementTree.Element], record: str) -> str:
    root = ElementTree.Element("qgis", version="3.22.0", styleCategories="Symbology")
    root.append(ElementTree.Comment(record))
    root.extend(parts)
    ElementTree.SubElement(root, "blendMode").text = "0"
    ElementTree.indent(root)
    head = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    return head + ElementTree.tostring(root, encoding="unicode") + "\n"


def _renderer(kind: str, **more: str) -> ElementTree.Element:
    facts = {"type": kind, "band": "1", "opacity": "1", "alphaBand": "-1", **more}
    return ElementTree.Element("rasterrenderer", facts)


def _paletted(classes: Sequence[LandCoverClass]) -> ElementTree.Element:
    """Return what draws each class in its colour; 0 is nodata and is not drawn."""
    renderer = _renderer("paletted")
    palette = ElementTree.SubElement(renderer, "colorPalette")
    for c in classes:
        ElementTree.SubElement(
            palette, "paletteEntry", value=str(c.value), label=c.name, color=_hex(c.colour), alpha="255"
        )
    return renderer


def _categorised(classes: Sequence[LandCoverClass]) -> ElementTree.Element:
    """Return what draws polygons in the colour of their class, without outlines."""
    facts = {
        "type": "categorizedSymbol",
        "attr": "class",
        "symbollevels": "0",
        "enableorderby": "0",
        "forceraster": "0",
    }
    renderer = ElementTree.Element("renderer-v2", facts)
    categories, symbols = (ElementTree.SubElement(renderer, name) for name in ("categories", "symbols"))
    for number, c in enumerate(classes):
        facts = {"value": str(c.value), "type": "long", "label": c.name, "symbol": str(number), "render": "true"}
        ElementTree.SubElement(categories, "category", facts)
        symbol = ElementTree.SubElement(symbols, "symbol", type="fill", name=str(number), alpha="1", force_rhr="0")
        layer = ElementTree.SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "pass": "0"})
        colour = ",".join(str(level) for level in (*c.colour, 255))
        for key, value in (("color", colour), ("outline_style", "no"), ("style", "solid")):
            ElementTree.SubElement(layer, "prop", k=key, v=value)
    return renderer


def _ramp(colours: Sequence[Colour], highest: int) -> ElementTree.Element:
    """Return what draws values from 0 to `highest` in colours between these."""
    top = str(highest)
    renderer = _renderer("singlebandpseudocolor", classificationMin="0", classificationMax=top)
    shader = ElementTree.SubElement(
        ElementTree.SubElement(renderer, "rastershader"), "colorrampshader", colorRampType="INTERPOLATED",
        classificationMode="1", clip="0", minimumValue="0", maximumValue=top,
    )  # fmt: skip
    for step, colour in enumerate(colours):
        value = f"{highest * step / (len(colours) - 1):g}"
        ElementTree.SubElement(shader, "item", value=value, label=value, color=_hex(colour), alpha="255")
    return renderer


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
