"""Teaching a student: the scores that are nearest to the full model's probabilities, by a convex fit.

The mean cross-entropy with the full model's probabilities, plus a penalty on the weights, has one minimum: the result
depends on no seed. It is found by L-BFGS (Liu and Nocedal, "On the limited memory BFGS method for large scale
optimization", 1989). The means over each window have unit variance in the fit: the penalty weighs all windows alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spectraldiff_export.compact.ground import Patch
from spectraldiff_export.compact.student import Student

PENALTY = 3e-4  # of the sum of squared weights
STEPS = 75  # of a fit at most, each an evaluation of all ground


@dataclass(frozen=True)
class Lessons:
    """What a student reads of the ground's pixels with data, and what it should say.

    Attributes
    ----------
    read
        (n, L P) means over all windows, those of each window of unit variance.
    scales
        (L,) what the means of each window were divided by.
    wanted
        (n, K) probabilities by the full model.
    held
        (n,) bool, pixels that are held out.
    """

    read: Tensor
    scales: Tensor
    wanted: Tensor
    held: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, student: Student, patches: Sequence[Patch]) -> "Lessons":
        """Read the ground as a student does."""
        count, (windows, _, components) = sum(int(patch.valid.sum()) for patch in patches), student.weight.shape
        read, first = torch.empty(count, windows, components), 0
        for patch in patches:
            means = student.means(patch.raw[None])
            last = first + int(patch.valid.sum())
            for number, one in enumerate(means):
                read[first:last, number] = one[0][:, patch.valid].T
            first = last
        scales = torch.stack([read[:, i].square().mean().sqrt().clamp_min(1e-12) for i in range(windows)])
        read /= scales[:, None]
        wanted = torch.cat([patch.taught[:, patch.valid].T for patch in patches])
        return cls(read.flatten(1), scales, wanted, torch.cat([patch.held[patch.valid] for patch in patches]))


def teach(
    student: Student,
    lessons: Lessons,
    *,
    hold_out: bool,
    report: Callable[[int, int, float], None] = lambda done, total, loss: None,
) -> None:
    """Fit a student, in place, beginning with what it knows.

    Parameters
    ----------
    student
        A new one, or one that goes on.
    lessons
        The ground.
    hold_out
        Whether the pixels that are held out are left out.
    report
        Called with the steps done, the most steps, and the loss.
    """
    read, wanted = lessons.read, lessons.wanted
    if hold_out:
        read, wanted = read[~lessons.held], wanted[~lessons.held]
    windows, classes, components = student.weight.shape
    start = student.weight * lessons.scales[:, None, None]
    weight = (
        start.permute(0, 2, 1).reshape(-1, classes).clone(memory_format=torch.contiguous_format).requires_grad_()
    )  # (L P, K)
    bias, done = student.bias.clone().requires_grad_(), 0
    fit = torch.optim.LBFGS([weight, bias], max_iter=STEPS, max_eval=STEPS, line_search_fn="strong_wolfe")

    def evaluate() -> float:
        nonlocal done
        fit.zero_grad()
        logs = (read @ weight + bias).log_softmax(1)
        loss = -(wanted * logs).sum(1).mean() + PENALTY * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        done += 1
        report(min(done, STEPS), STEPS, float(loss.detach()))
        return float(loss.detach())

    fit.step(evaluate)  # type: ignore[no-untyped-call]
    found = weight.detach().view(windows, components, classes).permute(0, 2, 1)
    student.weight.copy_(found / lessons.scales[:, None, None])
    student.bias.copy_(bias.detach())
