"""Labels of one scene from its files: onto its pixels, or, of a large scene, onto the canvas of its labelled parts."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff.data.canvas import LARGE, Canvas, Marks
from spectraldiff.data.label_raster import labels_on_grid
from spectraldiff.data.label_reader import OwnLabels, read_own_labels
from spectraldiff.data.label_vectors import LabelFields, is_vector, label_boxes
from spectraldiff.data.merge_labels import joined
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import LabelsError, NoLabelsError, SpectralDiffError
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.scene.lookup_grid import LookupGrid

FIELD = "class"  # of test labels where none is named


@dataclass(frozen=True)
class Ground:
    """What labels are read onto.

    Attributes
    ----------
    shape, place
        Size of the scene, (H, W), and its georeference.
    name
        What messages call it.
    grid
        Where a scene in sensor geometry lies on a map; None for any other.
    canvas
        The parts of a large scene that hold labels; None for all of it.
    part
        Whether a scene counts as large whatever its size, for others are read with it.
    """

    shape: tuple[int, int]
    place: Georeference
    name: str
    grid: LookupGrid | None = None
    canvas: Canvas | None = None
    part: bool = False


def read_on_ground(
    paths: Sequence[str | Path], ground: Ground, fields: LabelFields | None, *, needed: bool = True
) -> tuple[OwnLabels, Canvas | None]:
    """Read the labels of some files onto a scene, or onto the canvas of a large one, which is returned, too.

    Parameters
    ----------
    paths
        May be empty where no labels are `needed`.
    fields
        Of vector files. The canvas has room for the labels of `also`; what cannot be read of them is for others to say.
    needed
        Whether it is an error that no label of a file lies on the scene; else there are none then.
    """
    canvas, passed = None, () if needed else (NoLabelsError,)
    if ground.grid is None and (ground.part or ground.shape[0] * ground.shape[1] > LARGE):
        marks = Marks(ground.shape)
        for path in paths:
            with suppress(*passed):
                _mark(marks, path, ground, fields)
        fallback = replace(fields or LabelFields(), field=(fields and fields.field) or FIELD)
        for path in fallback.also:
            with suppress(SpectralDiffError):
                _mark(marks, path, ground, fallback)
        canvas = marks.canvas()
    ground = replace(ground, canvas=canvas)
    parts, read, features = [], [], []
    for path in paths:
        try:
            parts.append(labels_of(path, ground, fields))
            read.append(path)
        except passed as error:
            features += [] if error.features is None else [error.features]
    if not parts:
        parts, read = [OwnLabels(np.zeros(ground.shape if canvas is None else canvas.shape, np.uint8), ())], [""]
    found = joined(parts, read)
    return replace(found, features=(*found.features, *features)), canvas


def _mark(marks: Marks, path: str | Path, ground: Ground, fields: LabelFields | None) -> None:
    if is_vector(path):
        marks.add_boxes(label_boxes(path, ground.shape, ground.place, ground.name, fields or LabelFields()))
    else:
        marks.add_labels(labels_on_grid(path, ground.shape, ground.place).labels)


def labels_of(path: str | Path, ground: Ground, fields: LabelFields | None) -> OwnLabels:
    """Read labels of one file; those of a scene in sensor geometry are placed on its grid and pulled back from there.

    The errors are those of `read_own_labels`.
    """
    grid, shape, name = ground.grid, ground.shape, ground.name
    if grid is None:
        return read_own_labels(path, shape, ground.place, name, fields, ground.canvas)
    return pulled_back(read_own_labels(path, (grid.height, grid.width), grid.place, name, fields), grid, shape)


def pulled_back(own: OwnLabels, grid: LookupGrid, shape: tuple[int, int]) -> OwnLabels:
    """Return labels that lie on a map's grid on the pixels of a scene, (H, W), in sensor geometry."""
    labels, clashes = grid.pull_back(own.labels, shape)
    groups = None if own.groups is None else np.where(labels != 0, grid.highest(own.groups, shape), 0)
    said = f"pixels of the scene that lie under two classes on the map, left unlabelled: {clashes:,}"
    return replace(own, labels=labels, groups=groups, remarks=(*own.remarks, *([said] if clashes else ())))


def check_class_count(
    labels: Sequence[NDArray[Any]],
    classes: Sequence[LandCoverClass],
    paths: Sequence[str | Path],
    least: int = 2,
    remarks: Sequence[str] = (),
) -> None:
    """Raise LabelsError unless the labels of some scenes, read from `paths`, have at least `least` classes.

    `remarks` are notes from reading the labels, which may explain the error.
    """
    found = sorted({int(value) for one in labels for value in np.unique(one) if value})
    if len(found) >= least:
        return
    what = f"one class only, '{classes[found[0] - 1].name}'" if found else "no class, only 0"
    names = ", ".join(f"'{path}'" for path in paths)
    have, wanted = "has" if len(paths) == 1 else "have", "two classes" if least > 1 else "one class"
    why = f" ({'; '.join(remarks)})" if remarks else ""
    raise LabelsError(f"{names} {have} {what}{why}: wanted at least {wanted}")
