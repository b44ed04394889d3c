"""Labels of one scene from its files: onto its pixels, or, of a large scene, onto the canvas of its labelled parts."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spectraldiff.data.canvas import LARGE, Canvas, Marks
from spectraldiff.data.label_raster import labels_on_grid
from spectraldiff.data.label_reader import OwnLabels, read_own_labels
from spectraldiff.data.label_vectors import LabelFields, is_vector, label_boxes
from spectraldiff.data.merge_labels import joined
from spectraldiff_runtime.errors import SpectralDiffError
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
    """

    shape: tuple[int, int]
    place: Georeference
    name: str
    grid: LookupGrid | None = None
    canvas: Canvas | None = None


def read_on_ground(
    paths: Sequence[str | Path], ground: Ground, fields: LabelFields | None
) -> tuple[OwnLabels, Canvas | None]:
    """Read the labels of some files onto a scene, or onto the canvas of a large one, which is returned, too.

    Parameters
    ----------
    fields
        Of vector files. The canvas has room for the labels of `also`; what cannot be read of them is for others to say.
    """
    canvas = None
    if ground.grid is None and ground.shape[0] * ground.shape[1] > LARGE:
        marks = Marks(ground.shape)
        for path in paths:
            _mark(marks, path, ground, fields)
        fallback = replace(fields or LabelFields(), field=(fields and fields.field) or FIELD)
        for path in fallback.also:
            with suppress(SpectralDiffError):
                _mark(marks, path, ground, fallback)
        canvas = marks.canvas()
    ground = replace(ground, canvas=canvas)
    return joined([labels_of(one, ground, fields) for one in paths], paths), canvas


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
