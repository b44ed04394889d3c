"""Class rasters with names and colours: written from arrays, and read back."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from spectraldiff_runtime.classes import HIGHEST, Colour, LandCoverClass, clean_name, palette, with_colours
from spectraldiff_runtime.geotiff.sidecar import read_band_names
from spectraldiff_runtime.untrusted import parse_json

BLACK: Colour = (0, 0, 0)

# What files call a value that is no class.
NO_CLASS = re.compile(
    r"0|background|mask(ed)?|missing|n/?a|nil|no[ _-]?(class|data)|none|not[ _-](classified|labell?ed)|null|"
    r"un(assigned|classified|defined|labell?ed)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Legend:
    """What a class raster says of its values.

    Attributes
    ----------
    names
        Names by value; values that have none are not there.
    colours
        Colours by value, from the colour table.
    nodata
        The value that marks missing pixels, exact also where float64 is not; None for none.
    remark
        What is guessed of the names, in one line; else empty.
    """

    names: Mapping[int, str]
    colours: Mapping[int, Colour]
    nodata: float | None
    remark: str = ""

    @property
    def named(self) -> list[int]:
        """The values from 1 that have a name, in rising order."""
        return sorted(value for value in self.names if value > 0)

    @property
    def zero(self) -> str:
        """The name of the value 0 if it is that of a class; else empty."""
        name = self.names.get(0, "")
        return "" if NO_CLASS.fullmatch(name) else name

    def classes(self, values: Sequence[int]) -> tuple[LandCoverClass, ...]:
        """Return the classes that some values stand for.

        Names and colours are the raster's where it has them, else "Class 1", ... and `with_colours`. A black that
        the colour table gives to several of them is its word for no colour.
        """
        found = [self.colours.get(value) for value in values]
        unset = BLACK if found.count(BLACK) > 1 else None
        chosen = with_colours([None if colour == unset else colour for colour in found])
        titles = [self.names.get(value) or f"Class {value}" for value in values]
        return tuple(LandCoverClass(*facts) for facts in zip(values, titles, chosen, strict=True))


def read_legend(path: str | Path) -> Legend:
    """Read names, colours and nodata of a class raster.

    Names come from the first of these that has any: what GDAL knows (its sidecar, also inside an archive, a VRT, the
    header of an ENVI file), a raster attribute table, ArcGIS's ``.vat.dbf``, our tag ``CLASS_NAMES``.

    Raises
    ------
    SceneError
        The file is missing or no raster.
    """
    from spectraldiff_runtime.scene.open import open_dataset

    with open_dataset(path) as dataset:
        found = read_band_names(dataset)
        tags, colours = dataset.tags(), _colours_of(dataset)
    named = found.names or dict(enumerate(_tag_names(tags)))
    names = {value: clean_name(name) for value, name in named.items() if value >= 0 and clean_name(name)}
    return Legend(names, {value: (c[0], c[1], c[2]) for value, c in colours.items()}, found.nodata, found.remark)


def read_classes(path: str | Path) -> list[LandCoverClass]:
    """Read the classes that a class raster names, see `read_legend`.

    Returns
    -------
    list of LandCoverClass
        In order of value, without 0; empty if the raster names no classes. Classes that the colour
        table lacks get colours from `palette`.

    Raises
    ------
    SceneError
        The file is missing or no raster.
    """
    legend = read_legend(path)
    spare = palette(min(max(legend.named, default=0), HIGHEST))
    return [
        LandCoverClass(v, legend.names[v], legend.colours.get(v, spare[(v - 1) % len(spare)])) for v in legend.named
    ]


def _tag_names(tags: Mapping[str, str]) -> list[str]:
    try:
        names = parse_json(tags.get("CLASS_NAMES", "[]"))
    except ValueError:
        return []
    listed = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names[: HIGHEST + 1] if listed else []


def _colours_of(dataset: Any) -> dict[int, tuple[int, ...]]:
    try:
        return dict(dataset.colormap(1))
    except ValueError:  # the band has no colour table
        return {}


def write_class_raster(
    path: Path,
    values: NDArray[Any],
    classes: Sequence[LandCoverClass],
    *,
    crs: str | None = None,
    transform: Sequence[float] | None = None,
    tags: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write classes that are in memory, (H, W) whole numbers, as a class raster with colours and names.

    Parameters
    ----------
    crs
        Anything that rasterio takes: ``"EPSG:32616"`` or WKT.
    transform
        The first six numbers of an affine transform, in rasterio's order (a, b, c, d, e, f).

    Raises
    ------
    OutputError
        The file exists and `overwrite` is not set, or it cannot be written.
    """
    from spectraldiff_runtime.atomic import commit
    from spectraldiff_runtime.geo.georeference import Georeference
    from spectraldiff_runtime.geotiff.encode import ArrayRaster
    from spectraldiff_runtime.geotiff.spec import class_spec

    height, width = values.shape
    spec = class_spec(height, width, classes, Georeference.of(crs, transform), tags or {})
    with ArrayRaster(path, overwrite, values, spec) as output:
        commit([output])
