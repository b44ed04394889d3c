"""Several scenes in one training: common classes, the same number of bands, and values in one unit."""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from spectraldiff.data.label_reader import LabelFeatures, none_reaches
from spectraldiff.data.merge_labels import union_of
from spectraldiff.data.scene import LabelledScene
from spectraldiff.data.statistics import statistics_of
from spectraldiff.wording import listed, said_once
from spectraldiff_runtime.classes import LandCoverClass, class_dtype
from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.messages import times

# Centres of the same band in two scenes may differ by this many nm without a warning.
SAME_CENTRE = 2.0
# No land cover is this many times as bright as another in all bands: other units are (as `sdiff map` checks).
FAR = 20.0
USUAL = (0.01, 0.5, 0.99)


def with_common_classes(scenes: Sequence[LabelledScene]) -> tuple[LabelledScene, ...]:
    """Give the classes of all scenes common numbers: classes with the same name are one class.

    The classes of the first scene come first, then the additional ones of each further scene. A single scene is not
    changed.

    Raises
    ------
    SceneError
        The scenes have different numbers of bands.
    """
    _check_bands(scenes)
    if len(scenes) == 1:
        return tuple(scenes)
    classes = union_of(c for scene in scenes for c in scene.classes)
    value_of = {c.name: c.value for c in classes}
    return tuple(_renumbered(scene, classes, value_of) for scene in scenes)


def with_common_names(scenes: Sequence[LabelledScene]) -> tuple[LabelledScene, ...]:
    """Give classes that have numbers alone the names that another scene has for these numbers, and say so."""
    names: dict[int, str] = {}
    for scene in scenes:
        if not _unnamed(scene):
            pairs = zip(scene.class_numbers, scene.classes, strict=False)
            names |= {n: names.get(n, c.name) for n, c in pairs if n is not None}
    return tuple(_named(scene, names) if names and _unnamed(scene) else scene for scene in scenes)


def _unnamed(scene: LabelledScene) -> bool:
    numbers = scene.class_numbers
    return len(numbers) == len(scene.classes) and all(
        c.name in (f"Class {n}", str(n)) for n, c in zip(numbers, scene.classes, strict=True)
    )


def _named(scene: LabelledScene, names: Mapping[int, str]) -> LabelledScene:
    numbers = [n or 0 for n in scene.class_numbers]
    classes = tuple(replace(c, name=names.get(n, c.name)) for n, c in zip(numbers, scene.classes, strict=True))
    known = next((n for n in numbers if n in names), None)
    if known is None:
        return scene
    said = (
        f"the classes of '{scene.name}' have numbers alone: they are those that another scene calls so, such as "
        f"{known} '{names[known]}'"
    )
    return replace(scene, classes=classes, remarks=(*scene.remarks, said))


def _check_bands(scenes: Sequence[LabelledScene]) -> None:
    first = scenes[0]
    for scene in scenes[1:]:
        if scene.cube.shape[2] != first.cube.shape[2]:
            raise SceneError(
                f"the scene '{scene.name}' has {scene.cube.shape[2]} bands and '{first.name}' has "
                f"{first.cube.shape[2]}: wanted scenes of the same bands; train on each sensor by itself"
            )


def remarks_of(scenes: Sequence[LabelledScene]) -> list[str]:
    """Return what the scenes of a training are remarked on, one line each; of many lines that are alike, one."""
    lines = [remark for scene in scenes for remark in scene.remarks]
    return said_once(lines) if len(scenes) > 1 else lines


def with_names(scenes: Sequence[LabelledScene]) -> list[LabelledScene]:
    """Say in the remarks on each of several scenes which one is meant; of a file of labels they speak once.

    Which classes a scene has no label of is left out: with many, that is a table.
    """
    return list(scenes) if len(scenes) == 1 else [replace(one, remarks=_with_name(one)) for one in scenes]


def _with_name(scene: LabelledScene) -> tuple[str, ...]:
    of_files = {remark for one in scene.features for remark in one.remarks}
    left_out = {none_reaches(one.elsewhere) for one in scene.features}
    kept = [remark for remark in scene.remarks if remark not in left_out]
    return tuple(remark if remark in of_files else f"'{scene.name}': {remark}" for remark in kept)


def shared_labels(scenes: Sequence[LabelledScene]) -> list[str]:
    """Say of several scenes how their features lie over them, and which have no label, one line each."""
    if len(scenes) == 1:
        return []
    known, lines = {c.name for scene in scenes for c in scene.classes}, []
    files: dict[str, list[LabelFeatures]] = {}
    for one in (features for scene in scenes for features in scene.features):
        files.setdefault(one.path, []).append(one)
    for path, each in files.items():
        found = Counter(number for one in each for number in one.here.tolist())
        counts = {
            "lie in several scenes and label pixels of each": sum(count > 1 for count in found.values()),
            "lie in no scene, left out": each[0].count - len(found),
        }
        lines += [f"features of '{path}' that {what}: {count:,}" for what, count in counts.items() if count]
        nowhere = [name for name in each[0].elsewhere if all(name in one.elsewhere for one in each)]
        nowhere = [name for name in nowhere if name not in known]
        lines += [none_reaches(nowhere, "a scene")] if nowhere else []
    bare = [scene.name for scene in scenes if not scene.labelled]
    if bare:
        lines.append(
            f"scenes without a label, which train the denoiser alone: {len(bare):,} of {len(scenes):,} ({listed(bare)})"
        )
    return lines


def alike(classes: Sequence[LandCoverClass]) -> tuple[str, ...]:
    """Return one line for each pair of names that differ in case or blanks only; they are separate classes."""
    firsts: dict[str, str] = {}
    lines = []
    for c in classes:
        other = firsts.setdefault(folded(c.name), c.name)
        if other != c.name:
            lines.append(
                f"'{other}' and '{c.name}' are two classes, for their names differ in case or blanks: give both one "
                "name if they are one"
            )
    return tuple(lines)


def folded(name: str) -> str:
    """Return a class name in the form in which names are compared: without case, extra blanks and accent forms."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _renumbered(scene: LabelledScene, classes: tuple[LandCoverClass, ...], value_of: dict[str, int]) -> LabelledScene:
    values = np.array([0, *(value_of[c.name] for c in scene.classes)])
    return replace(scene, labels=values[scene.labels].astype(class_dtype(len(classes))), classes=classes)


def differing_bands(scenes: Sequence[LabelledScene]) -> str:
    """Return one line if the band centres of the scenes differ; empty if they agree or are not known."""
    known = [scene for scene in scenes if scene.wavelengths is not None]
    for scene in known[1:]:
        difference = np.abs(np.asarray(scene.wavelengths) - np.asarray(known[0].wavelengths))
        if difference.max() > SAME_CENTRE:
            return (
                f"the bands of '{scene.name}' and '{known[0].name}' differ by up to {difference.max():.1f} nm: "
                "the model treats them as equal"
            )
    return ""


def unit_doubts(scenes: Sequence[LabelledScene], mixed: bool = False) -> tuple[str, ...]:
    """Return warnings about scenes whose values seem to be in other units than those of the first, one line each.

    Parameters
    ----------
    scenes
        With the same bands, each with pixels that have data.
    mixed
        Whether other units are meant.

    Raises
    ------
    SceneError
        The usual values of two scenes overlap in no band and differ by `FAR` in all, and that is not meant.
    """
    first, *others = scenes
    usual = _usual(first) if others else np.empty((3, 0))
    lines = [_other_quantity(first, scene) or _other_unit(first, usual, scene, mixed) for scene in others]
    return tuple(filter(None, lines))


def _usual(scene: LabelledScene) -> NDArray[np.float64]:
    """Return quantiles of the pixels with data, (3, B)."""
    return np.asarray(np.quantile(statistics_of(scene).sample, USUAL, axis=0), np.float64)


def _other_quantity(first: LabelledScene, scene: LabelledScene) -> str:
    kinds = [next((k for k in ("radiance", "reflectance") if k in one.quantity), "") for one in (scene, first)]
    if not all(kinds) or kinds[0] == kinds[1]:
        return ""
    return (
        f"'{scene.name}' holds {kinds[0]} and '{first.name}' {kinds[1]}: the model treats both as one; train on "
        "products of one level"
    )


def _other_unit(first: LabelledScene, usual: NDArray[np.float64], scene: LabelledScene, mixed: bool) -> str:
    low, middle, high = _usual(scene)
    known = (middle > 0) & (usual[1] > 0)
    ratios = middle[known] / usual[1][known]
    if 2 * known.sum() < len(known) or (ratios.min() < FAR and ratios.max() > 1 / FAR):
        return ""
    ratio = times(float(np.median(ratios)))
    types = [str(one.cube.dtype) for one in (scene, first)]
    kinds = [f" ({one})" if types[0] != types[1] else "" for one in types]
    found = f"the values of '{scene.name}'{kinds[0]} are about {ratio} those of '{first.name}'{kinds[1]} in all bands"
    if not mixed and ((low > usual[2]) | (high < usual[0])).all():
        raise SceneError(
            f"{found}, and none overlap: wanted scenes in one unit (reflectance as 0 to 1 or as 0 to 10,000); convert "
            "one of them, try --scaled, or give --mixed-units if that is meant"
        )
    return f"{found}: if their unit differs (reflectance as 0 to 1 or as 0 to 10,000), convert one of them"
