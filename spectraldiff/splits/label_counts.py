"""How many labelled pixels each class has, on which side, in how many polygons; and what is too few."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff.data.scene import LabelledScene
from spectraldiff.splits.split import Split

# Fewer training pixels than this say little of a class.
FEW = 10


@dataclass(frozen=True)
class ClassLabels:
    """The labels of one class in all scenes of a training.

    Attributes
    ----------
    name
        The class.
    labelled, training, test
        Pixels with data; on either side. What the split leaves out is in neither.
    polygons
        Polygons that label a pixel; None where no labels come from polygons.
    """

    name: str
    labelled: int
    training: int
    test: int
    polygons: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "name": self.name,
            "labelled": self.labelled,
            "training": self.training,
            "test": self.test,
            "polygons": self.polygons,
        }


def missing_classes(scene: LabelledScene) -> list[str]:
    """Return the names of the classes that a scene has no labelled pixel with data of."""
    found = set(np.unique(scene.labels_with_data).tolist())
    return [c.name for c in scene.classes if c.value not in found]


def count_labels(scenes: Sequence[LabelledScene], splits: Sequence[Split]) -> tuple[ClassLabels, ...]:
    """Count the labels of each class over some scenes; `splits` are theirs."""
    classes = scenes[0].classes
    labelled = _counts(scenes, [scene.valid for scene in scenes])
    training, test = (_counts(scenes, sides) for sides in ([s.train for s in splits], [s.test for s in splits]))
    polygons = None if all(scene.groups is None for scene in scenes) else _polygons(scenes)
    return tuple(
        ClassLabels(
            c.name,
            int(labelled[c.value]),
            int(training[c.value]),
            int(test[c.value]),
            None if polygons is None else int(polygons[c.value]),
        )
        for c in classes
    )


def _counts(scenes: Sequence[LabelledScene], masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.int64]:
    length = len(scenes[0].classes) + 1
    each = [np.bincount(scene.labels[mask], minlength=length) for scene, mask in zip(scenes, masks, strict=True)]
    return np.asarray(np.sum(each, axis=0), dtype=np.int64)


def _polygons(scenes: Sequence[LabelledScene]) -> NDArray[np.int64]:
    """Return the number of polygons of each class; a polygon has one class."""
    counts = np.zeros(len(scenes[0].classes) + 1, np.int64)
    for scene in scenes:
        if scene.groups is not None:
            inside = scene.valid & (scene.groups > 0)
            _, first = np.unique(scene.groups[inside], return_index=True)
            counts += np.bincount(scene.labels[inside][first], minlength=len(counts))
    return counts


def doubts(counts: Sequence[ClassLabels]) -> list[str]:
    """Say which classes have too few labels for what will be reported of them, one line each."""
    few = [f"{c.name} ({c.training})" for c in counts if c.labelled and c.training < FEW]
    alone = [c.name for c in counts if c.polygons == 1]
    missing = [c.name for c in counts if not c.labelled]
    lines = [
        (few, f"classes with fewer than {FEW} training pixels, whose accuracy is a guess: "),
        (alone, "classes in one polygon only, whose accuracy says nothing of other areas: "),
        (missing, "classes without a labelled pixel that has data, which cannot be learnt: "),
    ]
    return [text + ", ".join(names) for names, text in lines if names]
