"""Class rasters with names and colours: written from arrays, and read back."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from spectraldiff_runtime.atomic import sidecar_path
from spectraldiff_runtime.classes import HIGHEST, Colour, LandCoverClass, clean_name, palette, with_colours
from spectraldiff_runtime.geotiff.sidecar import read_sidecar_names

BLACK: Colour = (0, 0, 0)


def read_classes(path: str | Path) -> list[LandCoverClass]:
    """Read the classes of a class raster: names from sidecar or tags, colours from the colour table.

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
    names, colours = _names_and_colours(path)
    spare = palette(len(names) - 1) if names else []
    named = [(value, name) for value, name in enumerate(names) if value and name]
    return [LandCoverClass(v, n, colours.get(v, spare[v - 1])) for v, n in named]


def classes_of_values(path: str | Path, values: Sequence[int]) -> tuple[LandCoverClass, ...]:
    """Return the classes that these values (from 1) of a class raster stand for.

    Names and colours come from the raster where it has them, else "Class 1", ... and `with_colours`. A black that
    the colour table gives to several of them is its word for no colour.

    Raises
    ------
    SceneError
        The file is missing or no raster.
    """
    names, colours = _names_and_colours(path)
    found = [colours.get(value) for value in values]
    unset = BLACK if found.count(BLACK) > 1 else None
    chosen = with_colours([None if colour == unset else colour for colour in found])
    titles = [(names[v] if v < len(names) else "") or f"Class {v}" for v in values]
    return tuple(LandCoverClass(*facts) for facts in zip(values, titles, chosen, strict=True))


def _names_and_colours(path: str | Path) -> tuple[list[str], dict[int, Colour]]:
    """Return a raster's names, the one of a value at its index, and the colours of its table by value."""
    from spectraldiff_runtime.scene.envi import envi_tags
    from spectraldiff_runtime.scene.open import open_dataset

    with open_dataset(path) as dataset:
        names = _names_of(Path(path), dataset.tags(), envi_tags(dataset))
        return names, {value: (found[0], found[1], found[2]) for value, found in _colours_of(dataset).items()}


def _names_of(path: Path, tags: Mapping[str, str], envi: Mapping[str, str]) -> list[str]:
    """Return names by value from the first place that has any: sidecar, our tag, ENVI header."""
    names = read_sidecar_names(sidecar_path(path)) or _tag_names(tags) or _envi_names(envi)
    return [clean_name(name) for name in names]


def _tag_names(tags: Mapping[str, str]) -> list[str]:
    try:
        names = json.loads(tags.get("CLASS_NAMES", "[]"))
    except json.JSONDecodeError:
        return []
    return [str(name) for name in names[: HIGHEST + 1]] if isinstance(names, list) else []


def _envi_names(tags: Mapping[str, str]) -> list[str]:
    text = tags.get("class_names", "").strip().strip("{}")
    return text.split(",")[: HIGHEST + 1] if text else []


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
