"""A labelled scene with its split and its map."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from spectraldiff.data.scene import LabelledScene
from spectraldiff.data.statistics import RGB_NM, statistics_of
from spectraldiff.splits.split import Split

MOST_DRAWN = 12  # scenes of a training whose maps are drawn


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
class Picture:
    """What is drawn of a scene and its map, (h, w) each: all of it, or every so many rows and columns.

    Attributes
    ----------
    cube, wavelengths, valid
        (h, w, B) raw values, their bands' centres in nm or None, and which have data.
    labels, classes
        0..K.
    confidence, outside
        As in `Predictions`.
    windows
        How many parts of `side` pixels along a side are mapped; 0 where all is.
    share
        Their share of the scene, 0..1.
    """

    cube: NDArray[Any]
    wavelengths: NDArray[np.float64] | None
    valid: NDArray[np.bool_]
    labels: NDArray[Any]
    classes: NDArray[Any]
    confidence: NDArray[Any] | None = None
    outside: NDArray[np.uint8] | None = None
    windows: int = 0
    side: int = 0
    share: float = 1.0

    @property
    def mapped(self) -> NDArray[Any]:
        """The classes, (h, w), or, where a part of the scene is mapped, those that are there, (n,)."""
        return self.classes[self.classes > 0] if self.windows else self.classes

    @property
    def note(self) -> str:
        """Say what of the scene is mapped; empty where all is."""
        if not self.windows:
            return ""
        return (
            f"the scene is too large to be mapped in the report: pictures, shares and distances are those of "
            f"{self.windows:,} evenly spread windows of {self.side} x {self.side} pixels, {100 * self.share:.2g} % of "
            "it; `sdiff map` maps all of it"
        )


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
    drawn
        What is drawn of a large scene; None where that is all of it.
    """

    scene: LabelledScene
    split: Split
    predicted: NDArray[Any]
    confidence: NDArray[Any] | None = None
    judged: Predictions | None = None
    outside: NDArray[np.uint8] | None = None
    drawn: Picture | None = None

    @property
    def picture(self) -> Picture:
        """What is drawn."""
        if self.drawn is not None:
            return self.drawn
        cube, wavelengths, valid = look_of(self.scene)
        return Picture(cube, wavelengths, valid, self.scene.labels, self.predicted, self.confidence, self.outside)

    @property
    def reference(self) -> NDArray[Any]:
        """The labels of the pixels that are scored, (H, W), 0 elsewhere."""
        scored = self.split.scored
        if self.split.folds is not None and self.judged is not None:
            scored = scored & (self.judged.classes > 0)
        return np.where(scored, self.scene.labels, 0)


def drawn_scenes(maps: Sequence[MappedScene]) -> list[int]:
    """Return which of the scenes are drawn, by their indexes: those with labels, of many those that test most."""
    mapped = [index for index, one in enumerate(maps) if one.scene.labelled]
    return sorted(sorted(mapped, key=lambda index: -np.count_nonzero(maps[index].reference))[:MOST_DRAWN])


def unmapped(scene: LabelledScene, split: Split) -> MappedScene:
    """Return a scene without labels, which is not mapped: no pixel has a class."""
    none = np.zeros_like(scene.labels)
    empty = Predictions(none, np.zeros(none.shape, np.float32), none)
    return MappedScene(scene, split, none, judged=empty)


def look_of(scene: LabelledScene) -> tuple[NDArray[Any], NDArray[np.float64] | None, NDArray[np.bool_]]:
    """Return what is drawn of a scene itself: values, (h, w, B), centres of their bands, and which have data."""
    if not scene.large:
        return scene.cube, scene.wavelengths, scene.valid
    cube, valid, _ = statistics_of(scene).look
    return cube, np.array(RGB_NM), valid


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
