"""A labelled scene with its split and its map."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from spectraldiff.data.scene import LabelledScene
from spectraldiff.splits.split import Split


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
    """

    scene: LabelledScene
    split: Split
    predicted: NDArray[Any]
    confidence: NDArray[Any] | None = None
