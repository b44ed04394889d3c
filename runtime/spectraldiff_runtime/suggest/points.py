"""Points to label: a scene is mapped, and the pixels that are chosen meanwhile are written as a GeoPackage."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray

from spectraldiff_runtime.atomic import PartialFile, check_distinct, check_output, check_sidecars
from spectraldiff_runtime.errors import OutputError, SceneError, UsageError
from spectraldiff_runtime.formats.kinds import check_map_name
from spectraldiff_runtime.formats.polygon_file import VERSION
from spectraldiff_runtime.geo.georeference import Georeference, apply_transform, crs_of
from spectraldiff_runtime.mapping.map_scene import map_scene
from spectraldiff_runtime.mapping.request import Region
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.scene.protocol import Scene
from spectraldiff_runtime.suggest.choice import Suggestion, SuggestionSink
from spectraldiff_runtime.tiling.memory_plan import DEFAULT_MEMORY
from spectraldiff_runtime.tiling.plan import Plan
from spectraldiff_runtime.untrusted import visible

MOST = 1_000  # points
LAYER = "suggestions"
FIELDS = ("fid", "geom", "priority", "reason", "mapped", "confidence", "outside")  # of the file, beside the class


def suggest(
    model: Model,
    scene: str | Path | NDArray[Any] | Scene,
    out: str | Path | None = None,
    *,
    count: int = 40,
    field: str = "class",
    max_memory: int = DEFAULT_MEMORY,
    overwrite: bool = False,
    started: Callable[[Scene, Region, Plan], None] | None = None,
    **options: Any,
) -> list[Suggestion]:
    """Return the pixels of a scene where a label would help a model most, the most useful first.

    Parameters
    ----------
    model
        An open model file. One without the layer of `outside` chooses by confidence alone.
    scene
        As for `map_scene`. With `out` it needs a CRS and a transform.
    out
        The GeoPackage of points to write; None writes nothing.
    count
        Points wanted, 1..1,000; fewer come where the scene has fewer parts with data.
    field
        The empty text field of `out` for the classes that are found in the field.
    max_memory
        Bytes that the process may hold.
    overwrite
        Whether `out` may exist.
    started
        Called with the scene, the region and the plan before the first pixel.
    options
        Of `map_scene`: ``mask``, ``mask_values``, ``window``, ``bounds``, ``bands``, ``nodata``, ``clouds``,
        ``progress``, ``warn``, ...

    Raises
    ------
    UsageError
        `count`, `field` or the name of `out` is none that can be used.
    SceneError
        No pixel has data, or points cannot be placed on the scene; also as `map_scene`.
    OutputError
        `out` exists or cannot be written.
    """
    path = None if out is None else Path(out)
    check(path, Path(model.path) if model.path else None, scene, options.get("mask"), count, field, overwrite)
    sinks: list[SuggestionSink] = []
    places: list[Georeference] = []

    def sink(laid: Scene, region: Region) -> SuggestionSink:
        if path is not None:
            _check_place(laid)
            check_distinct({"--out": path}, getattr(laid, "files", ()))
        places.append(laid.georeference)
        sinks.append(SuggestionSink(region.window, model.card.classes, count))
        return sinks[-1]

    map_scene(
        model,
        scene,
        outside=model.outside,
        confidence=True,
        max_memory=max_memory,
        into=sink,
        started=started,
        **options,
    )
    found = [_placed(one, places[0]) for one in sinks[0].chosen()]
    if not found:
        raise SceneError("no pixel of the scene has data in all bands and lies inside the mask: no point to suggest")
    if path is not None:
        _write(path, found, places[0], field, overwrite)
    return found


def check(
    out: Path | None, model: Path | None, scene: Any, mask: str | Path | None, count: int, field: str, overwrite: bool
) -> None:
    """Raise what `suggest` raises for its arguments, before a model file is opened."""
    if not 1 <= count <= MOST:
        raise UsageError(f"--count is {count}: wanted 1 to {MOST:,}")
    if not field.strip() or field.lower() in FIELDS:
        raise UsageError(f"--field is '{field}': wanted a name other than {', '.join(FIELDS)}")
    if not field.isprintable():
        raise UsageError(f"--field is '{visible(field)}': wanted a name of visible characters")
    if out is None:
        return
    if out.suffix.lower() != ".gpkg":
        raise UsageError(f"--out is '{out}': wanted a GeoPackage, such as points.gpkg")
    check_distinct({"--out": out}, [Path(one) for one in (model, scene, mask) if isinstance(one, str | Path)])
    check_map_name(out)
    check_output(out, overwrite)
    check_sidecars(out, overwrite)


def _check_place(laid: Scene) -> None:
    place = laid.georeference
    if place.transform is None or not place.crs:
        raise SceneError(
            f"'{laid.name}' has no CRS with a transform, so points cannot be placed on it: assign one with "
            "gdal_edit.py, or warp it with gdalwarp"
        )


def _placed(one: Suggestion, place: Georeference) -> Suggestion:
    """Return it with the centre of its pixel in the scene's CRS, where it has one."""
    if place.transform is None:
        return one
    x, y = apply_transform(place.transform, one.column + 0.5, one.row + 0.5)
    return replace(one, x=x, y=y)


def _write(out: Path, found: Sequence[Suggestion], place: Georeference, field: str, overwrite: bool) -> None:
    """Write the GeoPackage; it appears when it is whole."""
    columns: dict[str, NDArray[Any]] = {
        field: np.array([None] * len(found), dtype=object),
        "priority": np.arange(1, len(found) + 1, dtype=np.int32),
        "reason": np.array([one.reason for one in found], dtype=object),
        "mapped": np.array([one.class_name for one in found], dtype=object),
        "confidence": np.array([one.confidence for one in found]),
    }
    percents = [one.outside for one in found if one.outside is not None]
    if len(percents) == len(found):
        columns["outside"] = np.array(percents, np.int32)
    points = shapely.to_wkb(np.array([shapely.Point(one.x, one.y) for one in found], dtype=object))
    with PartialFile(out, overwrite) as file:
        file.partial.unlink(missing_ok=True)
        try:
            pyogrio.raw.write(
                file.partial,
                points,
                list(columns.values()),
                list(columns),
                layer=LAYER,
                driver="GPKG",
                geometry_type="Point",
                crs=crs_of(place).to_wkt(),
                dataset_options=VERSION,
            )
        except (RuntimeError, OSError) as error:  # pyogrio's own are RuntimeErrors
            reason = str(error).partition("\n")[0]
            raise OutputError(f"'{out}' cannot be written ({reason}): choose another place") from error
        file.publish()
