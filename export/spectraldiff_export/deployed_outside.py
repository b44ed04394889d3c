"""The graph that is shipped, with a further output: how far pixels are from the training classes."""

import copy

import torch
from torch import Tensor

from spectraldiff.models.classifier import Classifier
from spectraldiff.models.padding import cropped
from spectraldiff_export.compact.student import DeployedStudent, Student
from spectraldiff_export.deployed import DeployedClassifier


class DeployedWithOutside(DeployedClassifier):
    """A deployed classifier with a fourth output: how far pixels are from the training classes.

    Its components are the last tensor that `front` gives; they are computed only where this output is asked for.
    """

    knows_outside = True

    def __init__(self, classifier: Classifier) -> None:
        super().__init__(classifier)
        assert classifier.outside is not None
        self.outside = copy.deepcopy(classifier.outside)
        self.outside.weight, self.outside.bias = torch.empty(0), torch.empty(0)  # they are part of `front`
        self.rim = classifier.halo - classifier.extractor.halo - self.outside.radius
        self.to(classifier.fill.dtype).eval().requires_grad_(False)

    def forward(self, tile: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Classify a batch of raw tiles; after what `DeployedClassifier` returns come percents, (N, h, w) uint8."""
        *tokens, components = self.front(tile)
        classes, confidence, probabilities = self.verdict(self.reader(*tokens))
        distance = self.outside.distance(cropped(components, self.rim))
        return classes, confidence, probabilities, self.outside.percent(distance)


def deployed(classifier: Classifier | Student) -> DeployedClassifier | DeployedStudent:
    """Return a trained classifier, or a taught student, with all its constants folded."""
    if isinstance(classifier, Student):
        return DeployedStudent(classifier)
    return DeployedClassifier(classifier) if classifier.outside is None else DeployedWithOutside(classifier)
