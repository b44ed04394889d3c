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
SIDE = 2 * RADIUS + 1
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
            found.append(averaged(found[-1], cropped(weights, RADIUS * iteration)))
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
                total = averaged(total, cropped(weights, RADIUS * (self.iterations - left)))
        assert total is not None
        return total


def reach(parts: Sequence[ScorePart]) -> int:
    """Return the pixels around a pixel that some parts depend on, beyond what features see."""
    return max(part.radius + RADIUS * part.iterations for part in parts)


def averaged(x: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of the 5 x 5 pixels around each pixel, (N, C, H, W) to (N, C, H - 4, W - 4).

    Parameters
    ----------
    weights
        (N, 5, 5, H, W - 4), see `shares`.

    Notes
    -----
    Column by column of the square: to gather all 25 neighbours at once takes twice the time, and five times the memory;
    one by one, an exported graph would have a node for each.
    """
    found: Tensor | None = None
    for column in range(SIDE):
        # What a pixel gives to those above and below it, (N, C, 5, H, W - 4).
        part = x[..., column : column - SIDE + 1 or None].unsqueeze(2) * weights[:, :, column].unsqueeze(1)
        found = part if found is None else found + part
    assert found is not None
    # A convolution: sums of ONNX Runtime add in another order where N is 1, and a map would depend on its batches.
    kernel = _identity(x.shape[1], x)[:, :, None, None] * _identity(SIDE, x)  # (C, C, 5, 5)
    return F.conv2d(found.flatten(1, 2), kernel.flatten(1, 2).unsqueeze(3))


def shares(guides: Tensor) -> Tensor:
    """Return the weights of the 5 x 5 pixels around each pixel, their sum 1: (N, G, H, W) to (N, 5, 5, H, W - 4).

    The first 5 are the rows of the square, the second its columns. A weight stands in the row of the neighbour, so
    those of the first row of the square end four rows above those of its last.

    The similarity of two pixels is exp(-|g - g'|^2), the same from either of them. So it is computed for the 12 pixels
    after each pixel, and read from there for the 12 before it.
    """
    later = _later(guides)  # (N, 13, H - 2, W)
    # The 12 before a pixel: at the place of each, its similarity to a later pixel, which is this one.
    count = SIDE**2 // 2
    places = _identity(SIDE**2, guides)[:count].view(count, 1, SIDE, SIDE)[:, :, : RADIUS + 1]
    partners = _identity(count + 1, guides).flip(0)[:count, :, None, None]
    earlier = F.conv2d(later, places * partners)  # (N, 12, H - 4, W - 4)
    similarity = torch.cat([earlier, later[:, :, RADIUS:, RADIUS:-RADIUS]], 1)
    total = F.conv2d(similarity, _identity(1, guides).repeat(1, SIDE**2)[..., None, None])
    # Of five dimensions: OpenCV 5.0 divides four wrongly where all channels share a divisor.
    weights = similarity.unflatten(1, (SIDE, SIDE)) / total.unsqueeze(1)  # type: ignore[no-untyped-call]
    return torch.stack([F.pad(weights[:, row], (0, 0, row, SIDE - 1 - row)) for row in range(SIDE)], 1)


def _later(guides: Tensor) -> Tensor:
    """Return the similarity of each pixel to itself and the 12 after it in the rows of the square around it.

    Of (N, G, H, W): (N, 13, H - 2, W). Of pixels within two columns of an edge, those beyond the edge count as zeros.
    """
    channels, count = guides.shape[1], SIDE**2 // 2 + 1
    offsets = _identity(SIDE**2, guides)[count - 1 :]
    kernel = (offsets - offsets[0]).view(count, 1, SIDE, SIDE)[:, :, RADIUS:]
    differences = F.conv2d(guides, kernel.repeat(channels, 1, 1, 1), groups=channels, padding=(0, RADIUS))
    # A product of matrices: a convolution would have ONNX Runtime order its many channels in blocks first.
    distances = _identity(count, guides).repeat(1, channels) @ differences.square().flatten(2)
    return (-distances).exp().unflatten(2, differences.shape[2:])  # type: ignore[no-any-return, no-untyped-call]


def _identity(size: int, like: Tensor) -> Tensor:
    """Return the identity matrix, (size, size), of the type of another tensor.

    All kernels are made of it, and the exporter stores them. Of tensors that are filled in place it makes operators,
    such as ConstantOfShape, on which tract and OpenCV fail.
    """
    return torch.eye(size, dtype=like.dtype, device=like.device)


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
