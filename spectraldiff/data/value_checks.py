"""Checks for values of a scene that are probably not measurements: undeclared nodata values and outliers.

Bands are scaled by their smallest and largest value. One pixel of -9999 among reflectances would compress all other
values of the band into a narrow range.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from spectraldiff.data.label_ground import check_class_count
from spectraldiff.data.label_reader import OwnLabels, renumbered
from spectraldiff.data.merge_scenes import (
    alike,
    differing_bands,
    shared_labels,
    unit_doubts,
    with_common_classes,
    with_common_names,
    with_names,
)
from spectraldiff.data.scene import LabelledScene
from spectraldiff.data.source import SceneFiles
from spectraldiff.data.statistics import far_pixels, statistics_of
from spectraldiff.wording import counted
from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.messages import ranges
from spectraldiff_runtime.products.recognise import open_scene

USUAL = (0.01, 0.99)
FAR = 20.0  # times the usual range


def prepared(
    scenes: Sequence[LabelledScene], files: Sequence[SceneFiles], *, scaled: bool = False, mixed: bool = False
) -> tuple[LabelledScene, ...]:
    """Check scenes that were read, say in their remarks what is doubtful, and give them one list of classes.

    Parameters
    ----------
    scenes
        One or more, with the same bands.
    files
        The files of own scenes; empty for a benchmark scene.
    scaled
        Whether own scenes were read with scale and offset.
    mixed
        Whether scenes in different units are meant.

    Raises
    ------
    SceneError
        No pixel of a scene has data, all are the same, float32 cannot hold the values, or the scenes have different
        bands or units.
    LabelsError
        The labels have fewer than two classes.
    """
    scenes = with_names(scenes)
    if scaled:
        scenes = [with_remarks(scene, *scale_doubts(one.scene)) for scene, one in zip(scenes, files, strict=True)]
    scenes = with_common_names(scenes)
    if files:
        common = with_common_classes(scenes)
        remarks = [remark for scene in scenes for remark in scene.remarks]
        paths = list(dict.fromkeys(path for one in files for path in one.labels))
        check_class_count([scene.labels for scene in common], common[0].classes, paths, remarks=remarks)
    for scene in scenes:
        check_data(scene)
        check_range(scene)
    doubts = (*unit_doubts(scenes, mixed), *filter(None, [differing_bands(scenes)]), *shared_labels(scenes))
    several = len(scenes) > 1
    values = [[f"'{scene.name}': {line}" if several else line for line in value_doubts(scene)] for scene in scenes]
    first, *more = with_common_classes([with_remarks(one, *said) for one, said in zip(scenes, values, strict=True)])
    doubts += _other_numbers(first, scenes, files) if several else ()
    return with_remarks(first, *doubts, *alike(first.classes)), *more


def _other_numbers(
    common: LabelledScene, scenes: Sequence[LabelledScene], files: Sequence[SceneFiles]
) -> tuple[str, ...]:
    """Say where the common classes of several scenes have other values than the numbers of their files."""
    path = next((path for one in files for path in one.labels), "")
    pairs = [zip(scene.classes, scene.class_numbers, strict=False) for scene in scenes]
    numbers = {c.name: number for each in pairs for c, number in each}
    found = tuple(numbers.get(c.name) for c in common.classes)
    return renumbered(OwnLabels(common.labels, common.classes, numbers=found), path)


def with_remarks(scene: LabelledScene, *remarks: str) -> LabelledScene:
    """Return a scene with more remarks for the user."""
    return replace(scene, remarks=(*scene.remarks, *remarks))


def value_doubts(scene: LabelledScene) -> tuple[str, ...]:
    """Return warnings about suspicious values in a scene's pixels with data, one line each.

    Raises
    ------
    SceneError
        All pixels are the same.
    """
    found = statistics_of(scene)
    if (found.low == found.high).all():
        raise SceneError(
            f"the scene '{scene.name}' has the same values in all pixels that have data ({found.pixels:,}): "
            "wanted a scene with different pixels; see `sdiff info`"
        )
    lines, flat = [], []
    for value in (found.low.min(), found.high.max()):
        count = found.constant[value.item()]
        if count:
            flat.append(value)
            lines.append(f"{_pixels(count)} {value:g} in every band: if it means no data, give --nodata {value:g}")
    return (*lines, *_far(scene, flat))


def check_data(scene: LabelledScene) -> None:
    """Check that a scene has a pixel with data.

    Raises
    ------
    SceneError
        No pixel has data; the message names the bands that are empty.
    """
    passed = statistics_of(scene)
    if passed.pixels:
        return
    found = passed.known
    if found.all() or not found.any():
        raise SceneError(f"the scene '{scene.name}' has no data in any pixel: see `sdiff info`, or give --nodata none")
    empty = [scene.band(int(index)) for index in np.flatnonzero(~found)]
    which = f"band {empty[0]} has" if len(empty) == 1 else f"bands {', '.join(empty)} have"
    numbers = np.arange(1, len(found) + 1) if scene.numbers is None else np.array(scene.numbers)
    raise SceneError(
        f"{which} no data in any pixel of the scene '{scene.name}', and a pixel counts where all its bands have data: "
        f"train without, with --bands {ranges(numbers[found].tolist())}, or check the file"
    )


def check_range(scene: LabelledScene) -> None:
    """Check that values fit into float32, in which models compute.

    Raises
    ------
    SceneError
        A value is too large, or all values of a band are too small.
    """
    if scene.cube.dtype.kind != "f":
        return
    found, limits = statistics_of(scene), np.finfo(np.float32)
    low, high = (np.asarray(one, np.float64) for one in (found.low, found.high))  # (B,)
    size = np.maximum(np.abs(low), np.abs(high))
    with np.errstate(over="ignore"):
        large = max(float(size.max()), float((high - low).max())) > limits.max
    if large:
        band = int(size.argmax())
        value = float(high[band] if high[band] == size[band] else low[band])
        raise SceneError(
            f"the scene '{scene.name}' has a value of {value} in band {scene.band(band)}, and float32, in which models "
            f"compute, ends at {limits.max:.2g}: give --nodata {value} if it means no data, else scale the scene"
        )
    tiny = (size > 0) & (size < limits.tiny)
    if tiny.any():
        band = int(np.where(tiny, size, 0).argmax())
        raise SceneError(
            f"the scene '{scene.name}' has no value larger than {float(size[band])} in band {scene.band(band)}, and "
            f"float32, in which models compute, begins at {limits.tiny:.2g}: scale the scene"
        )


def scale_doubts(path: str | Path) -> tuple[str, ...]:
    """Return one line if a raster that should be read with scale and offset has neither; nothing if it has one.

    Raises
    ------
    SceneError
        The raster cannot be opened.
    """
    with open_scene(path) as scene:
        if scene.has_scale:
            return ()
    return (
        f"'{path}' has neither scale nor offset, so --scaled leaves its values as they are: leave it out, or give the "
        "file a scale (gdal_edit.py -scale) if its values are not physical",
    )


def _far(scene: LabelledScene, flat: Sequence[Any]) -> list[str]:
    """Return a warning with a value far outside the usual range of its band, among pixels that are not `flat`."""
    sample = statistics_of(scene).sample
    for value in flat:
        sample = sample[~(sample == value).all(axis=1)]
    if not len(sample):
        return []
    low, high = np.quantile(sample, USUAL, axis=0)  # (B,) each
    span = np.where(high > low, FAR * (high - low), np.inf)
    count, first = 0, ""
    for pixels, far in far_pixels(scene, low - span, high + span, tuple(flat)):
        if not count:
            pixel, band = np.argwhere(far)[0]
            value, usual = pixels[pixel, band], f"{low[band]:g} to {high[band]:g}"
            first = f"such as {value:g} in band {scene.band(int(band))} (usual are {usual})"
            advice = f"correct them or, if it means no data, give --nodata {value:g}"
        count += int(far.any(axis=1).sum())
    if not count:
        return []
    return [f"{_pixels(count)} values far from all others, {first}: bands are scaled by their extremes, so {advice}"]


def _pixels(count: int) -> str:
    return counted(count, "pixel has", "pixels have")
