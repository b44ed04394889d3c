"""A labelled scene with its split and its map."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from spectraldiff.data.scene import LabelledScene
from spectraldiff.splits.split import Split


@dataclass(frozen=True)
class Predictions:
    """Classes of pixels, (H, W) each.

    Attributes
    ----------
    classes
        0..K.
    confidence
        0..1, 0 for pixels without a class; None where it is not known.
    other
        0..K, the classes if the other prior was assumed; None where they are not known.
    outside
        uint8 percent, how far pixels are from the training classes, 255 without data; None where it is not known.
    """

    classes: NDArray[Any]
    confidence: NDArray[Any] | None = None
    other: NDArray[Any] | None = None
    outside: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class MappedScene:
    """A scene of a training, its split, and its map by the trained model.

    Attributes
    ----------
    scene, split
        The training data.
    predicted
        (H, W), 0..K.
    confidence
        (H, W) in 0..1, 0 for pixels without a class; None omits the figure.
    judged
        What is compared with the labels where folds were held out: predictions of models that never saw the pixel. None
        where that is the map.
    outside
        (H, W) uint8 percent, how far pixels are from the training classes, 255 without data; None where not known.
    """

    scene: LabelledScene
    split: Split
    predicted: NDArray[Any]
    confidence: NDArray[Any] | None = None
    judged: Predictions | None = None
    outside: NDArray[np.uint8] | None = None

    @property
    def reference(self) -> NDArray[Any]:
        """The labels of the pixels that are scored, (H, W), 0 elsewhere."""
        scored = self.split.scored
        if self.split.folds is not None and self.judged is not None:
            scored = scored & (self.judged.classes > 0)
        return np.where(scored, self.scene.labels, 0)


def held_out_predictions(
    scenes: Sequence[LabelledScene],
    splits: Sequence[Split],
    scores: NDArray[np.float64] | None,
    offset: NDArray[np.float64],
) -> list[Predictions | None]:
    """Return what models that never saw a training pixel say of it, for each scene.

    Parameters
    ----------
    scenes, splits
        The training data.
    scores
        (n, K) of the training pixels, scene after scene in order of rows; NaN for pixels that were not scored. None
        where no folds were held out, for which None is returned.
    offset
        (K,) what the other prior adds to the scores.
    """
    if scores is None:
        return [None] * len(scenes)
    known = np.asarray(np.isfinite(scores).all(axis=1))
    scores = np.where(known[:, None], scores, 0)
    shares = softmax(scores, axis=1)
    columns = [
        (shares.argmax(1) + 1, scenes[0].labels.dtype),
        (shares.max(1), np.dtype(np.float32)),
        ((scores + offset).argmax(1) + 1, scenes[0].labels.dtype),
    ]
    found: list[Predictions | None] = []
    first = 0
    for split in splits:
        rows = slice(first, first + int(split.train.sum()))
        first = rows.stop
        maps = []
        for values, dtype in columns:
            maps.append(np.zeros(split.train.shape, dtype))
            maps[-1][split.train] = np.where(known, values, 0)[rows]
        found.append(Predictions(*maps))
    return found
