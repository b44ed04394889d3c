"""The network of a compact model: linear scores of a pixel's bands and of the means of squares around it.

Scores of a mean are the mean of scores, so all is one matrix over the bands and a few filters of K channels each, as in
`spectraldiff.models.linear_members`.  What such scores know of some ground holds on other ground, too; networks of
convolutions that were taught in the same way remembered the ground that they were shown (docs/performance.md).
"""

import copy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectraldiff.models.linear_members import Outside, PixelContext, filtered, mean_filter
from spectraldiff.models.normaliser import Normaliser
from spectraldiff.models.padding import cropped
from spectraldiff.models.pca import PCA
from spectraldiff_export.deployed import Verdict


@dataclass(frozen=True)
class StudentShape:
    """The size of a student.

    Attributes
    ----------
    windows
        Pixels along the sides of the squares whose means are read, odd and rising; 1 for the pixel alone.
    components
        Principal components of the bands at most.
    """

    windows: tuple[int, ...] = (1, 5, 9, 15, 21, 31)
    components: int = 160

    @property
    def halo(self) -> int:
        """Pixels around a pixel that its class depends on."""
        return max(self.windows) // 2


class Student(nn.Module):
    """From raw pixels to class scores.

    Parameters
    ----------
    shape
        Its size.
    normaliser, fill
        Those of the full model: `fill` are (B,) raw values that replace missing pixels.
    pca
        Principal components of the normalised bands, of unit variance.
    classes
        K.

    Attributes
    ----------
    weight, bias
        (L, K, P) and (K,): the scores are the sums, over all windows, of weighted means of the components.
    temperature
        What scores are divided by.
    outside
        Says how far pixels are from the training classes, of the normalised bands; None where nothing does.
    """

    fill: Tensor
    mean: Tensor
    components: Tensor
    weight: Tensor
    bias: Tensor
    temperature: Tensor

    def __init__(self, shape: StudentShape, normaliser: Normaliser, fill: Tensor, pca: PCA, classes: int) -> None:
        super().__init__()
        self.shape, self.classes, self.normaliser = shape, classes, normaliser
        self.contexts = tuple(PixelContext(window) for window in shape.windows)
        self.outside: Outside | None = None
        self.register_buffer("fill", fill.clone())
        self.register_buffer("mean", pca.mean)
        self.register_buffer("components", pca.components)
        self.register_buffer("weight", torch.zeros(len(self.contexts), classes, len(pca.components)))
        self.register_buffer("bias", torch.zeros(classes))
        self.register_buffer("temperature", torch.ones(()))

    @property
    def halo(self) -> int:
        """Pixels around a pixel that its class depends on."""
        return self.shape.halo

    def whitened(self, tile: Tensor) -> Tensor:
        """Map raw pixels (N, B, H, W) to components (N, P, H, W)."""
        bands = self.normaliser(tile) - self.mean[:, None, None]
        return F.conv2d(bands, self.components[..., None, None])

    def means(self, tile: Tensor) -> list[Tensor]:
        """Map raw pixels (N, B, T, T) to the means of the components over each window, (N, P, T - 2 halo, ...)."""
        found = self.whitened(tile)
        return [cropped(mean_filter(found, c.window), self.halo - c.radius) for c in self.contexts]

    def forward(self, tile: Tensor) -> Tensor:
        """Map raw pixels (N, B, T, T) to class scores (N, K, T - 2 halo, T - 2 halo); their softmax is calibrated."""
        maps = F.conv2d(self.whitened(tile), self.weight.flatten(0, 1)[..., None, None])
        return (summed(maps, self.contexts, self.halo) + self.bias[:, None, None]) / self.temperature

    def scores_and_distance(self, tile: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map raw pixels (N, B, T, T) to class scores, and to the distance from the training classes, (N, 1, h, w).

        The distance is None where nothing tells it.
        """
        if self.outside is None:
            return self(tile), None
        components = self.outside.components(self.normaliser(tile))
        return self(tile), self.outside.distance(cropped(components, self.halo - self.outside.radius))


def summed(maps: Tensor, contexts: tuple[PixelContext, ...], rim: int) -> Tensor:
    """Add up the maps of all contexts, (N, L K, H, W), each after its mean: (N, K, H - 2 rim, W - 2 rim)."""
    parts = zip(filtered(maps, contexts), contexts, strict=True)
    first, *others = (cropped(part, rim - context.radius) for part, context in parts)
    for other in others:
        first = first + other
    return first


class DeployedStudent(nn.Module):
    """A taught student with all its constants folded, in float64: one matrix over the bands.

    Parameters
    ----------
    student
        It is not changed.

    Attributes
    ----------
    bands, halo
        B; pixels around a pixel that its class depends on.
    """

    reference: Tensor

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.bands, self.halo, self.contexts = len(student.fill), student.halo, student.contexts
        self.scores, self.outside = len(student.contexts) * student.classes, copy.deepcopy(student.outside)
        with torch.no_grad():
            scale, shift = (one.double() for one in student.normaliser.affine())
            varies = scale > 0
            reference = torch.where(varies, (student.mean.double() - shift) / torch.where(varies, scale, 1.0), 0.0)
            self.register_buffer("reference", reference[:, None, None])
            matrix, bias = _band_map(student, scale)
            self.project = nn.Conv2d(matrix.shape[1], matrix.shape[0], 1)
            self.project.weight, self.project.bias = nn.Parameter(matrix[..., None, None]), nn.Parameter(bias)
            self.verdict = Verdict(student.classes, rows_first=False)
        if self.outside is not None:
            self.outside.weight, self.outside.bias = torch.empty(0), torch.empty(0)  # they are part of `project`
        self.float().eval().requires_grad_(False)

    @property
    def knows_outside(self) -> bool:
        """Whether a fourth output says how far pixels are from the training classes."""
        return self.outside is not None

    def forward(self, tile: Tensor) -> tuple[Tensor, ...]:
        """Classify raw tiles, as `spectraldiff_export.deployed.DeployedClassifier`; percents (N, h, w) may follow."""
        maps = self.project(tile - self.reference)
        scores = summed(maps[:, : self.scores], self.contexts, self.halo)
        found = cast("tuple[Tensor, ...]", self.verdict(scores.permute(0, 2, 3, 1)))
        if self.outside is None:
            return found
        components = cropped(maps[:, self.scores :], self.halo - self.outside.radius)
        return (*found, self.outside.percent(self.outside.distance(components)))


def _band_map(student: Student, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the map of (raw - reference), (L K + M, B) float64, and its bias."""
    temperature = student.temperature.double()
    rows = [student.weight.flatten(0, 1).double() / temperature @ (student.components.double() * scale)]
    bias = torch.zeros_like(student.weight[..., 0], dtype=torch.float64)
    bias[0] = student.bias.double() / temperature  # a constant passes all filters
    offsets = [bias.flatten()]
    if student.outside is not None:
        weight = student.outside.weight.double()
        rows.append(weight * scale)
        offsets.append(student.outside.bias.double() + weight @ student.mean.double())
    return torch.cat(rows), torch.cat(offsets)
