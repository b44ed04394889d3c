"""A user's own independent test labels: the map of a training is scored where they lie and no label trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff.accuracy.class_matching import match_classes, read_reference
from spectraldiff.accuracy.interval import Interval, oa_interval
from spectraldiff.accuracy.metrics import Accuracy, score
from spectraldiff.data.label_ground import pulled_back
from spectraldiff.data.label_vectors import LabelFields, is_vector
from spectraldiff.data.scene import LabelledScene
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import LabelsError
from spectraldiff_runtime.geo.georeference import Georeference


@dataclass(frozen=True)
class IndependentLabels:
    """Test labels on a scene's grid.

    Attributes
    ----------
    labels
        (H, W), 0 for none, 1..K as the scene's, and beyond K classes that it has not.
    classes
        The scene's classes, then those that only the test labels have.
    left_out
        Labelled pixels that are training pixels too.
    notes
        How the labels were read, one line each.
    """

    labels: NDArray[Any]
    classes: tuple[LandCoverClass, ...]
    left_out: int
    notes: tuple[str, ...]

    def score(self, predicted: NDArray[Any]) -> Accuracy:
        """Return the accuracy of a class map, (H, W)."""
        return score(self.labels, predicted, len(self.classes))

    def interval(self, predicted: NDArray[Any]) -> Interval | None:
        """Return the interval of the overall accuracy of a class map; None for a single patch of labels."""
        return oa_interval([self.labels], [predicted], [None])

    def facts(self, predicted: NDArray[Any]) -> dict[str, Any]:
        """Return the accuracy of a class map as plain values, with the classes and what was left out."""
        names, interval = [one.name for one in self.classes], self.interval(predicted)
        return {
            **self.score(predicted).as_dict(),
            "interval": None if interval is None else interval.as_dict(),
            "classes": names,
            "left_out": self.left_out,
        }


def read_independent(
    path: str, scene: LabelledScene, train: NDArray[np.bool_], fields: LabelFields
) -> IndependentLabels:
    """Read test labels onto a scene's grid, without the pixels that train, (H, W) bool, and those without data.

    Raises
    ------
    SceneError, LabelsError, UsageError
        The file cannot be read or does not fit the scene, or no pixel is left.
    """
    own, grid = fields if is_vector(path) else LabelFields(), scene.grid
    if grid is None:
        place, shape = Georeference.of(scene.crs, scene.transform), scene.cube.shape[:2]
        found = read_reference(Path(path), shape, place, own, scene.canvas)
    else:
        on_map = read_reference(Path(path), (grid.height, grid.width), grid.place, own)
        found = pulled_back(on_map, grid, scene.labels.shape)
    labels, classes, notes = match_classes(found, scene.classes)
    labels = np.where(scene.valid, labels, 0)
    left_out = int((train & (labels > 0)).sum())
    labels[train] = 0
    if not labels.any():
        raise LabelsError(
            f"'{path}' labels no pixel with data that does not train ({left_out:,} of its pixels do): wanted test "
            "labels on other pixels of the scene"
        )
    if left_out:
        notes = [*notes, f"test pixels that are training pixels too, left out: {left_out:,}"]
    return IndependentLabels(labels, classes, left_out, (*found.remarks, *notes))
