"""Several scenes in one training: common classes and the same number of bands."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from spectraldiff.data.scene import LabelledScene
from spectraldiff_runtime.classes import Colour, LandCoverClass, class_dtype, with_colours
from spectraldiff_runtime.errors import SceneError

# Centres of the same band in two scenes may differ by this many nm without a warning.
SAME_CENTRE = 2.0


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
    classes = _union(c for scene in scenes for c in scene.classes)
    value_of = {c.name: c.value for c in classes}
    return tuple(_renumbered(scene, classes, value_of) for scene in scenes)


def _check_bands(scenes: Sequence[LabelledScene]) -> None:
    first = scenes[0]
    for scene in scenes[1:]:
        if scene.cube.shape[2] != first.cube.shape[2]:
            raise SceneError(
                f"the scene '{scene.name}' has {scene.cube.shape[2]} bands and '{first.name}' has "
                f"{first.cube.shape[2]}: wanted scenes of the same bands; train on each sensor by itself"
            )


def _union(classes: Iterable[LandCoverClass]) -> tuple[LandCoverClass, ...]:
    """Return the classes by name, in order of appearance; a colour that is already used is replaced."""
    firsts: dict[str, LandCoverClass] = {}
    for c in classes:
        firsts.setdefault(c.name, c)
    owners: dict[Colour, str] = {}
    for c in firsts.values():
        owners.setdefault(c.colour, c.name)
    colours = with_colours([c.colour if owners[c.colour] == c.name else None for c in firsts.values()])
    return tuple(LandCoverClass(v, n, c) for v, (n, c) in enumerate(zip(firsts, colours, strict=True), start=1))


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
