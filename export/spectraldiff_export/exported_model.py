"""A trained model as its exported file, opened to map windows of scenes: by a training, or as a student's teacher."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spectraldiff.data.scene import LabelledScene
from spectraldiff.models.classifier import Classifier, SceneLayers, class_facts
from spectraldiff.models.normaliser import filled_window
from spectraldiff_export.card import card_of
from spectraldiff_export.deployed_outside import deployed
from spectraldiff_export.onnx_graph import onnx_bytes
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.window import Window


@contextmanager
def opened_export(classifier: Classifier, scene: LabelledScene) -> Iterator["ExportedModel"]:
    """Export a model that was just trained, and open the file for as long as scenes are mapped by it.

    Parameters
    ----------
    classifier
        On the CPU, float32, in evaluation mode.
    scene
        One of its training; it names the classes.

    Yields
    ------
    ExportedModel
        On the CPU, with as many threads as PyTorch has; its file is removed at the end.

    Raises
    ------
    VerificationError
        PyTorch exported operators that ONNX does not have.
    """
    facts: dict[str, Any] = {
        "name": scene.name, "classes": class_facts(scene), "wavelengths": None, "nodata": None, "sensor": "",
        "attribution": "", "accuracy": {}, "versions": {},
    }  # fmt: skip
    with opened_teacher(classifier, card_of(classifier, facts)) as model:
        yield ExportedModel(model, classifier.fill)


@contextmanager
def opened_teacher(classifier: Classifier, card: ModelCard) -> Iterator[Model]:
    """Export a model and open the file, on the CPU, with as many threads as PyTorch has; it is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="spectraldiff-") as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(onnx_bytes(deployed(classifier), card.to_json()))
        yield Model.open(file, "cpu", torch.get_num_threads())


@dataclass(frozen=True)
class ExportedModel:
    """Maps windows of a training's scenes by the exported graph, see `spectraldiff.models.classifier.WindowModel`.

    Attributes
    ----------
    model
        The opened file.
    fill
        (B,) raw values that replace missing pixels.
    side
        Pixels along the side of the windows that a scene is cut into.
    """

    model: Model
    fill: torch.Tensor
    side: int = 128

    @property
    def classes(self) -> int:
        """K."""
        return len(self.model.card.classes)

    @property
    def knows_outside(self) -> bool:
        """Whether it says how far pixels are from the training classes."""
        return self.model.outside

    def predict_window(self, scene: LabelledScene, window: Window, offset: torch.Tensor) -> SceneLayers:
        """Return the layers of a window."""
        halo = self.model.card.halo
        edges = window.row0 - halo, window.row1 + halo, window.col0 - halo, window.col1 + halo
        tile = filled_window(scene, self.fill, *edges)[None].numpy()
        found = self.model.run(tile, confidence=True, probabilities=True, outside=self.knows_outside)
        assert found.probabilities is not None
        assert found.confidence is not None
        with np.errstate(divide="ignore"):  # a class that cannot be stays one
            scores = np.log(found.probabilities[0]) + offset.numpy()[:, None, None]
        kind = scene.labels.dtype
        return SceneLayers(
            found.classes[0].astype(kind),
            found.confidence[0],
            (scores.argmax(0) + 1).astype(kind),
            None if found.outside is None else found.outside[0],
        )
