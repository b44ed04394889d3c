"""Maps: made with a model file, compared with labels, described."""

import os
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from spectraldiff.accuracy.assessment import Assessment, assess
from spectraldiff.api.describe import describe
from spectraldiff.api.progress import Progress
from spectraldiff.api.results import MapAccuracy
from spectraldiff.api.scenes import PathLike
from spectraldiff.data.label_vectors import LabelFields
from spectraldiff_runtime import Model, __version__
from spectraldiff_runtime import map_scene as map_with
from spectraldiff_runtime.atomic import check_distinct, check_output
from spectraldiff_runtime.cli.map_output import progress as map_bar
from spectraldiff_runtime.errors import UsageError
from spectraldiff_runtime.formats.kinds import passes
from spectraldiff_runtime.mapping.result import MapResult
from spectraldiff_runtime.messages import one_line

if TYPE_CHECKING:
    from spectraldiff.report.map_view import MapView
    from spectraldiff_runtime.mapping.request import Region
    from spectraldiff_runtime.scene.protocol import Scene
    from spectraldiff_runtime.suggest.choice import Suggestion
    from spectraldiff_runtime.tiling.plan import Plan


def _warn(text: str) -> None:
    warnings.warn(one_line(text), stacklevel=3)


def map_scene(
    model: Model | PathLike,
    scene: "PathLike | NDArray[Any] | Scene",
    out: PathLike | None = None,
    *,
    device: str | None = None,
    threads: int | None = None,
    progress: Progress = True,
    **options: Any,
) -> MapResult:
    """Map a scene with a model file; needs no PyTorch.

    Parameters
    ----------
    model
        A model file, or a `Model` that is open: it maps several scenes without being read again.
    scene
        A raster that GDAL reads, also by URL; a cube (H, W, B) in raw units; or any `Scene`.
    out
        The class map to write, ``.tif``, ``.gpkg`` for polygons, ``.png``, ``.nc`` or ``.zarr``; None returns arrays:
        `MapResult.classes` is (H, W), 0 unclassified, 1..K.
    device, threads
        Where a model file runs: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; CPU threads, None for all.
    progress
        True draws a bar on stderr, False nothing; a function is called with ``"map"``, pixels done, and all of them.
    options
        All others of `spectraldiff_runtime.map_scene`: ``confidence``, ``probabilities``, ``preview``,
        ``sieve``, ``min_confidence``, ``window``, ``bounds``, ``mask``, ``bands``, ``max_memory``, ``overwrite``,
        ``resume``, ...

    Raises
    ------
    ModelFileError, DeviceError
        The model file is not ours or damaged; the device is not there.
    SceneError, OutputError, UsageError
        As `spectraldiff_runtime.map_scene`, with nothing written.

    Examples
    --------
    >>> sd.map_scene("model.onnx", "line.img", "classes.tif", confidence="confidence.tif")
    >>> classes = sd.map_scene("model.onnx", cube).classes
    """
    engine, target = _opened(model, device, threads), None if out is None else Path(out)
    with _told(progress) as (begin, advance):

        def started(scene: "Scene", region: "Region", plan: "Plan") -> None:
            begin(passes(target) * region.window.height * region.window.width)

        return map_with(
            engine,
            Path(scene) if isinstance(scene, os.PathLike) else scene,
            target,
            **options,
            started=started,
            progress=advance,
        )


def suggest(
    model: Model | PathLike,
    scene: "PathLike | NDArray[Any] | Scene",
    out: PathLike | None = None,
    *,
    count: int = 40,
    field: str = "class",
    overwrite: bool = False,
    device: str | None = None,
    threads: int | None = None,
    progress: Progress = True,
    **options: Any,
) -> "list[Suggestion]":
    """Say where a label would help a model most; needs no PyTorch.

    Parameters
    ----------
    model, scene
        As for `map_scene`.
    out
        The GeoPackage of points to write, for a scene with a CRS and a transform; None writes nothing.
    count
        Points wanted, 1..1,000; fewer come where the scene has fewer parts with data.
    field
        The empty field of `out` for the classes: the field of the labels in the next training.
    overwrite
        Whether `out` may exist.
    device, threads, progress
        As for `map_scene`.
    options
        Of `spectraldiff_runtime.map_scene`: ``mask``, ``window``, ``bounds``, ``bands``, ``nodata``, ``clouds``,
        ``max_memory``, ...

    Returns
    -------
    list of Suggestion
        The most useful first: ``row``, ``column``, ``x``, ``y``, ``class_name``, ``confidence`` (0..1), ``outside``
        (percent, or None) and ``reason``.

    Raises
    ------
    ModelFileError, DeviceError, SceneError, OutputError, UsageError
        As for `map_scene`; also where points cannot be placed on the scene.

    Examples
    --------
    >>> sd.suggest("model.onnx", "scene.tif", "points.gpkg", count=40)
    """
    from spectraldiff_runtime.suggest.points import suggest as suggest_with

    engine = _opened(model, device, threads)
    with _told(progress) as (begin, advance):
        return suggest_with(
            engine,
            Path(scene) if isinstance(scene, os.PathLike) else scene,
            None if out is None else Path(out),
            count=count,
            field=field,
            overwrite=overwrite,
            **options,
            started=lambda _, region, __: begin(region.window.height * region.window.width),
            progress=advance,
        )


def _opened(model: Model | PathLike, device: str | None, threads: int | None) -> Model:
    if not isinstance(model, Model):
        return Model.open(Path(model), device or "auto", threads)
    if device is not None or threads is not None:
        raise UsageError("device and threads belong to the model that is open: give them to Model.open")
    return model


@contextmanager
def _told(progress: Progress) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Yield what begins a map's progress, with all pixels, and what moves it on."""
    if not callable(progress):
        with map_bar(quiet=not progress) as functions:
            yield functions
        return
    tell, counts = progress, {"done": 0, "all": 0}

    def begin(pixels: int) -> None:
        counts["all"] = pixels

    def advance(pixels: int) -> None:
        counts["done"] += pixels
        tell("map", counts["done"], counts["all"])

    yield begin, advance


def view(
    classes: PathLike,
    scene: PathLike,
    out: PathLike = "view.html",
    *,
    confidence: PathLike | None = None,
    probabilities: PathLike | None = None,
    overwrite: bool = False,
) -> "MapView":
    """Write a page to look at a map over its scene: one HTML file that loads nothing.

    Parameters
    ----------
    classes
        The class raster; 0 is unclassified.
    scene
        The scene that was mapped, whole or in part: a product as delivered, or a raster.
    out
        The page, .html.
    confidence, probabilities
        Rasters of the same map: a second layer, and the runner-up of each pixel. Without probabilities, the runner-up
        is the class whose mean spectrum is closest.
    overwrite
        Whether `out` may exist.

    Returns
    -------
    MapView
        The page, its size, and what was thinned out.

    Raises
    ------
    SceneError, LabelsError, OutputError, UsageError
        A file cannot be read, does not lie on the map's grid, or `out` cannot be written.

    Examples
    --------
    >>> sd.view("classes.tif", "scene.tif", "view.html")
    """
    from spectraldiff.report.map_view import write_view

    given = [None if path is None else Path(path) for path in (confidence, probabilities)]
    return write_view(
        Path(classes), Path(scene), Path(out), confidence=given[0], probabilities=given[1], overwrite=overwrite
    )


def evaluate(
    classes: PathLike,
    labels: PathLike,
    *,
    field: str | None = None,
    name_field: str | None = None,
    layer_name: str | None = None,
    encoding: str | None = None,
    exclude: PathLike | None = None,
    confidence: PathLike | None = None,
    count_nodata: bool = False,
    report: PathLike | None = None,
    overwrite: bool = False,
    warn: Callable[[str], None] = _warn,
) -> MapAccuracy:
    """Compare a class map with labels: OA, AA, kappa, accuracy of each class, confusion matrix.

    Parameters
    ----------
    classes
        The class map.
    labels
        A raster on the map's grid, or points or polygons in any CRS.
    field, name_field, layer_name, encoding
        Of a vector file, as in `open_labelled`; `field` is ``"class"`` by default.
    exclude
        Raster whose nonzero pixels are left out, such as a run's ``train_pixels.tif``.
    confidence
        The map's confidence raster, 0..1 or whole percent: adds its calibration.
    count_nodata
        Whether labelled pixels without data in the map are wrong, too.
    report
        A page of HTML to write.
    overwrite
        Whether a report that exists is replaced.
    warn
        Called with each warning; `warnings.warn` by default.

    Raises
    ------
    SceneError, LabelsError, UsageError
        A file cannot be read, does not fit the map, or leaves nothing to score.
    OutputError
        The report exists or cannot be written.

    Examples
    --------
    >>> found = sd.evaluate("classes.tif", "labels.gpkg", field="class")
    >>> found.accuracy.oa, found.accuracy.confusion  # 0..1, (K, K + 1)
    """
    left_out, sure = _path(exclude), _path(confidence)
    if report is not None:
        check_output(Path(report), overwrite)
        inputs = [Path(classes), Path(labels), *filter(None, (left_out, sure))]
        check_distinct({"--report": Path(report)}, inputs)
    fields = LabelFields(field, layer_name, name_field, encoding)
    found = assess(
        Path(classes), Path(labels), fields=fields, exclude=left_out, confidence=sure, count_nodata=count_nodata
    )
    for note in found.notes:
        warn(note)
    if report is not None:
        given: dict[str, PathLike | None] = {"--field": field, "--name-field": name_field, "--layer-name": layer_name}
        given |= {"--encoding": encoding, "--exclude": exclude, "--confidence": confidence}
        words = ["evaluate", classes, "--labels", labels, *_typed(given), *["--count-nodata"] * count_nodata]
        _write_report(Path(report), (Path(classes), Path(labels)), found, [*words, "--report", report], overwrite)
    return MapAccuracy.of(found)


def _path(name: PathLike | None) -> Path | None:
    return None if name is None else Path(name)


def _typed(options: Mapping[str, PathLike | None]) -> list[PathLike]:
    return [word for name, value in options.items() if value is not None for word in (name, value)]


def _write_report(
    path: Path, inputs: tuple[Path, Path], found: Assessment, words: Sequence[PathLike], overwrite: bool
) -> None:
    """Write the report of a map and its labels; `words` are the command that makes it again."""
    from spectraldiff.report.accuracy_report import AccuracyReport, write_accuracy_report

    names, command = [one.name for one in inputs], shlex.join([os.fspath(word) for word in ("sdiff", *words)])
    content = AccuracyReport(names[0], names[1], found, command, {"spectraldiff": __version__})
    write_accuracy_report(path, content, overwrite)


def info(file: PathLike) -> dict[str, Any]:
    """Say what a model file, a raster or a run folder is and holds.

    Parameters
    ----------
    file
        A path, or a name that GDAL knows.

    Returns
    -------
    dict
        ``kind`` is ``"model"``, ``"raster"``, ``"run"`` or ``"unfinished run"``; what else there is depends on it.

    Raises
    ------
    ModelFileError, RunError, SceneError
        It is damaged, or none of them.

    Examples
    --------
    >>> sd.info("model.onnx")["classes"]
    """
    return describe(os.fspath(file))
