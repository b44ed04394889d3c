"""Scores averaged over similar neighbours, which removes isolated errors from a map.

A pixel's scores become the mean of those of the 5 x 5 pixels around it, each weighted by the similarity of the two
pixels' features: a bilateral filter (Tomasi and Manduchi, "Bilateral filtering for gray and color images", 1998) of the
scores that is guided by the features.  Each further iteration carries scores farther inside a homogeneous region, and
not across its edges.  Averaging scores averages log probabilities, up to what is the same for all classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectraldiff.models.padding import cropped

RADIUS = 2  # pixels that an iteration reaches
GUIDES = 40  # principal components that the similarity of two pixels is computed from
MEDIAN = 1.5  # the median similarity of adjacent pixels is exp(-MEDIAN)


@dataclass(frozen=True)
class ScorePart:
    """Scores that are one part of an ensemble's.

    Attributes
    ----------
    scores
        (N, K, H - 2 radius, W - 2 radius).
    radius
        Pixels of rim that they consumed.
    iterations
        Of smoothing that they still get.
    """

    scores: Tensor
    radius: int
    iterations: int


class Smoothing(nn.Module):
    """Iterated averaging over similar neighbours.

    Parameters
    ----------
    iterations
        How often; with 0 nothing changes.
    sharpness
        What the guides are multiplied by, see `sharpness`.
    """

    sharpness: Tensor

    def __init__(self, iterations: int, sharpness: float = 1.0) -> None:
        super().__init__()
        self.iterations = iterations
        self.register_buffer("sharpness", torch.tensor(sharpness))

    @property
    def halo(self) -> int:
        """Pixels of rim that are consumed on each side."""
        return RADIUS * self.iterations

    def guides(self, features: Tensor) -> Tensor:
        """Return the guides, (N, G, H, W), of standardised principal components (N, P, H, W)."""
        return features[:, :GUIDES] * self.sharpness

    def forward(self, scores: Tensor, guides: Tensor) -> Tensor:
        """Smooth class scores.

        Parameters
        ----------
        scores
            (N, K, H, W).
        guides
            (N, G, H, W), see `shares`.

        Returns
        -------
        Tensor
            (N, K, H - 2 halo, W - 2 halo).
        """
        return self.each(scores, guides)[-1]

    def each(self, scores: Tensor, guides: Tensor) -> list[Tensor]:
        """Return the scores themselves and those after 1, 2, ... iterations, each smaller than the one before."""
        found, weights = [scores], shares(guides) if self.iterations else guides
        for iteration in range(self.iterations):
            found.append(added(neighbours(found[-1]) * cropped(weights, RADIUS * iteration), 2)[:, :, 0])
        return found

    def combined(self, parts: Sequence[ScorePart], guides: Tensor) -> Tensor:
        """Add scores up, each after its own iterations: smoothing is linear, so one chain serves all.

        Parameters
        ----------
        parts
            The scores; those with the most iterations have as many as this smoothing.
        guides
            (N, G, H, W), see `shares`, with a rim of `reach` of the parts; not read without iterations.

        Returns
        -------
        Tensor
            (N, K, H - 2 reach, W - 2 reach).
        """
        rim = reach(parts)
        weights = shares(cropped(guides, rim - self.halo)) if self.iterations else guides
        total: Tensor | None = None
        for left in range(self.iterations, -1, -1):
            for part in parts:
                if part.iterations == left:
                    own = cropped(part.scores, rim - part.radius - RADIUS * left)
                    total = own if total is None else total + own
            assert total is not None
            if left:
                kernel = cropped(weights, RADIUS * (self.iterations - left))
                total = added(neighbours(total) * kernel, 2)[:, :, 0]
        assert total is not None
        return total


def reach(parts: Sequence[ScorePart]) -> int:
    """Return the pixels around a pixel that some parts depend on, beyond what features see."""
    return max(part.radius + RADIUS * part.iterations for part in parts)


def neighbours(x: Tensor, less_own: bool = False) -> Tensor:
    """Return what the 5 x 5 pixels around each pixel hold, (N, C, H, W) to (N, C, 25, H - 4, W - 4).

    With `less_own`, less what the pixel itself holds.  One convolution, for an exported graph of slices would have a
    node for each of the 25.
    """
    side = 2 * RADIUS + 1
    offsets = torch.eye(side**2, dtype=x.dtype, device=x.device)
    kernel = (offsets - offsets[side**2 // 2] if less_own else offsets).view(-1, 1, side, side)
    channels = x.shape[1]
    found = F.conv2d(x, kernel.repeat(channels, 1, 1, 1), groups=channels)
    return found.unflatten(1, (channels, side**2))  # type: ignore[no-any-return, no-untyped-call]


def shares(guides: Tensor) -> Tensor:
    """Return the weights of the 5 x 5 pixels around each pixel, their sum 1: (N, G, H, W) to (N, 1, 25, H - 4, W - 4).

    The similarity of two pixels is exp(-|g - g'|^2).
    """
    similarity = (-added(neighbours(guides, less_own=True).square(), 1)).exp()
    return similarity / added(similarity, 2)


def added(x: Tensor, axis: int) -> Tensor:
    """Add up (N, A, B, H, W) along axis 1 or 2 and keep it as an axis of 1.

    One convolution with a kernel of ones: the sums of ONNX Runtime add in another order where N is 1, and a map would
    depend on the size of its batches.
    """
    first, second = x.shape[1:3]
    a, b = (torch.eye(size, dtype=x.dtype, device=x.device) for size in (first, second))
    kernel = b.repeat(1, first) if axis == 1 else a.repeat_interleave(second, 1)
    return F.conv2d(x.flatten(1, 2), kernel[..., None, None]).unsqueeze(axis)


def sharpness(features: Sequence[Tensor], valid: Sequence[Tensor]) -> float:
    """Return what guides are multiplied by so that the median similarity of adjacent pixels is exp(-`MEDIAN`).

    Parameters
    ----------
    features
        (H, W, P) standardised principal components of each scene.
    valid
        (H, W) bool each.

    Notes
    -----
    The scale is the scene's own and needs no labels: adjacent pixels are mostly of one class.  Where all adjacent
    pixels are equal, any scale will do.
    """
    found = [
        (one - next_).square().sum(-1)[known & also]
        for scene, inside in zip(features, valid, strict=True)
        for one, next_, known, also in (
            (scene[1:, :, :GUIDES], scene[:-1, :, :GUIDES], inside[1:], inside[:-1]),
            (scene[:, 1:, :GUIDES], scene[:, :-1, :GUIDES], inside[:, 1:], inside[:, :-1]),
        )
    ]
    distances = torch.cat(found)
    distances = distances[distances > 0]
    return float((MEDIAN / distances.median()) ** 0.5) if len(distances) else 1.0
