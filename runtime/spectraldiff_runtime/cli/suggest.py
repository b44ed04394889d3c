"""``sdiff suggest``: a scene and a model file in, points to label out."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectraldiff_runtime.cli.map_output import progress
from spectraldiff_runtime.cli.options import (
    BandNumbers,
    CloudPixels,
    Clouds,
    Json,
    Nodata,
    Overwrite,
    Quiet,
    Threads,
    parse_bands,
    parse_nodata,
    parse_size,
    print_json,
    say,
    warn,
)
from spectraldiff_runtime.errors import OutputError, SceneError, UsageError

if TYPE_CHECKING:
    from spectraldiff_runtime.output.suggestions import Suggestion, SuggestionSink

MOST = 1_000  # points
LAYER = "suggestions"


def suggest(
    scene: Annotated[str, typer.Argument(help="The raster or product to look for points in.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The points: a GeoPackage, such as points.gpkg.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="The model file.")] = Path("model.onnx"),
    count: Annotated[int, typer.Option(help=f"Points wanted, {MOST:,} at most.")] = 40,
    field: Annotated[
        str, typer.Option(help="The field that you write the classes into: the --field of `sdiff train`.")
    ] = "class",
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Look inside the polygons of this vector file only, or where this raster is not 0.", show_default=False
        ),
    ] = None,
    nodata: Nodata = None,
    bands: BandNumbers = None,
    clouds: Clouds = CloudPixels.KEEP,
    max_memory: Annotated[str, typer.Option(help="What the process may hold.")] = "4GB",
    threads: Threads = None,
    device: Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda, or cuda:1.")] = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Say where a label would help a model most.

    Points lie where the model is unsure or the scene is unlike its training, spread over the scene, the most useful
    first. Each says why. Write the classes into the empty field, and train with the old labels and these:
    `sdiff train ... --labels old.gpkg --labels points.gpkg --denoiser RUN`.
    """
    if not 1 <= count <= MOST:
        raise UsageError(f"--count is {count}: wanted 1 to {MOST:,}")
    if not field.strip() or field.lower() in _FIXED:
        raise UsageError(f"--field is '{field}': wanted a name other than {', '.join(_FIXED)}")
    size, chosen, missing = parse_size(max_memory), None if bands is None else parse_bands(bands), parse_nodata(nodata)
    from spectraldiff_runtime.atomic import check_distinct, check_output
    from spectraldiff_runtime.mapping.map_scene import map_scene
    from spectraldiff_runtime.model.engine import Model
    from spectraldiff_runtime.output.suggestions import SuggestionSink

    if out.suffix.lower() != ".gpkg":
        raise UsageError(f"--out is '{out}': wanted a GeoPackage, such as points.gpkg")
    check_distinct({"--out": out}, [model, Path(scene), *([] if mask is None else [mask])])
    check_output(out, overwrite)
    engine = Model.open(model, device, threads)
    sinks: list[SuggestionSink] = []
    places: list[Any] = []

    def sink(laid: Any, region: Any) -> "SuggestionSink":
        _check_place(laid)
        places.append(laid.georeference)
        sinks.append(SuggestionSink(region.window, engine.card.classes, count))
        return sinks[-1]

    with progress(quiet) as (begin, advance):
        map_scene(
            engine,
            scene,
            outside=engine.outside,
            confidence=True,
            mask=mask,
            bands=chosen,
            nodata=missing,
            clouds=clouds.value,
            max_memory=size,
            into=sink,
            started=lambda _, region, __: begin(region.window.height * region.window.width),
            progress=advance,
            warn=warn,
        )
    found = sinks[0].chosen()
    if not found:
        raise SceneError(f"no pixel of '{scene}' has data in all bands and lies inside the mask: no point to suggest")
    points = _points(found, places[0])
    _write(out, found, points, places[0], field, overwrite)
    if not quiet:
        _say(found, out, count, field, engine.outside)
    if json:
        listed = [{**asdict(one), "x": x, "y": y} for one, (x, y) in zip(found, points, strict=True)]
        print_json({"out": out, "scene": scene, "model": model, "points": listed})


_FIXED = ("fid", "geom", "priority", "reason", "mapped", "confidence", "outside")


def _check_place(laid: Any) -> None:
    place = laid.georeference
    if place.transform is None or not place.crs:
        raise SceneError(
            f"'{laid.name}' has no CRS with a transform, so points cannot be placed on it: assign one with "
            "gdal_edit.py, or warp it with gdalwarp"
        )


def _points(found: "Sequence[Suggestion]", place: Any) -> list[tuple[float, float]]:
    """Return the centres of pixels in the scene's CRS."""
    from spectraldiff_runtime.geo.georeference import apply_transform

    return [apply_transform(place.transform, one.column + 0.5, one.row + 0.5) for one in found]


def _write(
    out: Path,
    found: "Sequence[Suggestion]",
    points: Sequence[tuple[float, float]],
    place: Any,
    field: str,
    overwrite: bool,
) -> None:
    """Write the GeoPackage; it appears when it is whole."""
    import numpy as np
    import pyogrio
    import shapely

    from spectraldiff_runtime.atomic import PartialFile
    from spectraldiff_runtime.geo.georeference import crs_of

    percents = [-1 if one.outside is None else one.outside for one in found]
    columns: dict[str, Any] = {
        field: np.array([None] * len(found), dtype=object),
        "priority": np.arange(1, len(found) + 1, dtype=np.int32),
        "reason": np.array([one.reason for one in found], dtype=object),
        "mapped": np.array([one.class_name for one in found], dtype=object),
        "confidence": np.array([one.confidence for one in found]),
        "outside": np.array(percents, np.int32),
    }
    if any(one.outside is None for one in found):
        del columns["outside"]
    shapes = shapely.to_wkb(np.array([shapely.Point(*point) for point in points], dtype=object))
    with PartialFile(out, overwrite) as file:
        file.partial.unlink(missing_ok=True)
        try:
            pyogrio.raw.write(
                file.partial,
                shapes,
                list(columns.values()),
                list(columns),
                layer=LAYER,
                driver="GPKG",
                geometry_type="Point",
                crs=crs_of(place).to_wkt(),
            )
        except (RuntimeError, OSError) as error:  # pyogrio's own are RuntimeErrors
            reason = str(error).partition("\n")[0]
            raise OutputError(f"'{out}' cannot be written ({reason}): choose another place") from error
        file.publish()


def _say(found: "Sequence[Suggestion]", out: Path, count: int, field: str, knows_outside: bool) -> None:
    unlike = sum(one.reason.startswith("unlike") for one in found)
    say(
        f"Wrote '{out}': {len(found)} points, {unlike} unlike the training, {len(found) - unlike} uncertain; "
        f"write their classes into the field '{field}'"
    )
    if len(found) < count:
        say(f"  {count} were asked for: there are no more parts of the scene with data")
    if not knows_outside:
        say("  this model cannot say what is unlike its training: points are chosen by its confidence")
