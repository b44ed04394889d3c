"""The choice of the ensemble: which members, in which context, with which weights.

Each candidate says what it makes of pixels that were held out of it, fold by fold. The linear members are weighed
against each other first, then all of them together against the attention members, whose copies cost more and are
trained on fewer folds. There are no attention members where windows as wide as theirs mislead, or where what is mapped
is elsewhere than the training; there the features leave, too, if they lower the held-out loss by little. Where pixels
are few, the weights stay near those of a prior that knows the held-out losses alone; where they are many, the likelier
members count. Members that make up next to nothing of the scores leave the model, and so do those that look farther
than all others, or read a kernel's features, and make up little.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from spectraldiff.ensemble.context_inputs import ContextInputs
from spectraldiff.ensemble.feature_trial import FeatureTrial
from spectraldiff.ensemble.held_out_loss import Scores, fit_temperature, pixel_losses
from spectraldiff.ensemble.linear_fit import Labelled, LinearFit, fit_lda, fit_logistic
from spectraldiff.ensemble.merge import context_of, map_name, merge, merge_kernels
from spectraldiff.ensemble.stack import Stack, fit_stack, shares_of
from spectraldiff.ensemble.window_trial import WindowTrial
from spectraldiff.models.linear_members import KernelMembers, LinearMembers
from spectraldiff.models.score_smoothing import RADIUS
from spectraldiff.models.settings import LinearMember

ATTENTION = "attention members"
CERTAINTY = 10.0  # as how many pixels the prior of the weights of linear and attention members counts
# The prior draws to weights that are as the held-out losses to these powers: of linear members among themselves, and of
# all of them and the attention members. A loss counts as `LEAST_LOSS` at least.
AMONG_LINEAR, WITH_ATTENTION = -1.0, -3.0
LEAST_LOSS = 0.01
MOST_ATTENTION = 0.25  # weight of the attention members: held-out pixels whose neighbours train flatter wide windows
NAMED = 3  # members that a summary names
DISJOINT = (
    "Attention members were not trained: they gain nothing where test pixels are elsewhere than the training pixels."
)


@dataclass(frozen=True)
class Candidate:
    """A member of the ensemble, or one that was left out.

    Attributes
    ----------
    title
        What reports call it.
    loss
        Mean held-out loss, see `spectraldiff.ensemble.held_out_loss`.
    share
        How much of the ensemble's scores it makes up, 0 .. 1; 0 where it was left out. See
        `spectraldiff.ensemble.stack.Stack`.
    """

    title: str
    loss: float
    share: float


@dataclass(frozen=True)
class AttentionScores:
    """What copies of the attention members say of pixels that were held out of them.

    Attributes
    ----------
    pixels
        (m,) indices of the pixels among the training pixels.
    scores
        (m, K) without prior, after `iterations` of smoothing.
    iterations
        Of smoothing.
    radius
        Pixels from the centre of their widest window to its edge.
    """

    pixels: NDArray[np.int64]
    scores: Scores
    iterations: int
    radius: int = 0

    @property
    def reach(self) -> int:
        """Pixels around a pixel that its scores depend on."""
        return self.radius + RADIUS * self.iterations

    def of(self, chosen: NDArray[np.bool_]) -> "AttentionScores":
        """Return the scores of some of the training pixels, (n,) bool, which are counted anew."""
        used, places = chosen[self.pixels], np.cumsum(chosen) - 1
        return AttentionScores(places[self.pixels[used]], self.scores[used], self.iterations, self.radius)


@dataclass(frozen=True)
class Selection:
    """The ensemble that was chosen.

    Attributes
    ----------
    members
        All candidates, those with the largest share first.
    linear
        The linear members of some weight, merged; their weights are in their scores. None for none.
    share
        What the scores of the attention members are multiplied by; 0 where they were left out.
    iterations
        Of smoothing of the attention members' scores.
    temperature
        The last one, of the whole ensemble; it is in all scores already.
    held_out
        (n, K) scores without prior of the training pixels by members of other folds; NaN where a pixel was held out of
        the linear members alone.
    units, folds
        What was held out whole, and in how many folds.
    pixels
        Held-out pixels that the weights were fitted to.
    sampled
        Training pixels that linear members were fitted to, and all training pixels; None where it was all of them.
    kernel
        As `linear`, those that read a kernel's features.
    disjoint
        Whether attention members were not trained because what is mapped is elsewhere than the training pixels.
    misled
        Why attention members were not trained; None where they were, or where `disjoint`.
    unread
        Why no member reads the features; None where some may, or where there are none.
    """

    members: tuple[Candidate, ...]
    linear: LinearMembers | None
    share: float
    iterations: int
    temperature: float
    held_out: Scores
    units: str
    folds: int
    pixels: int
    sampled: tuple[int, int] | None = None
    kernel: KernelMembers | None = None
    disjoint: bool = False
    misled: WindowTrial | None = None
    unread: FeatureTrial | None = None

    def as_dict(self) -> dict[str, object]:
        """Return plain values."""
        members = [{"title": m.title, "loss": round(m.loss, 4), "share": round(m.share, 4)} for m in self.members]
        found: dict[str, object] = {"members": members, "held_out": self.units}
        found |= {"folds": self.folds, "pixels": self.pixels}
        if self.sampled is not None:
            found["linear_members_fitted_to"] = self.sampled[0]
        if self.disjoint:
            found["attention_not_trained"] = {"spatially_disjoint": True}
        if self.misled is not None:
            found["attention_not_trained"] = asdict(self.misled)
        if self.unread is not None:
            found["features_not_read"] = asdict(self.unread)
        return found

    @property
    def kept(self) -> tuple[Candidate, ...]:
        """The members of the model, those with the largest share first."""
        return tuple(member for member in self.members if member.share > 0)

    def summary(self) -> str:
        """Return how many candidates were kept, and those with the largest share, in one short line."""
        named = [f"{member.title} {100 * member.share:.0f} %" for member in self.kept[:NAMED]]
        more = ["..."] if len(self.kept) > NAMED else []
        return f"Ensemble: {len(self.kept)} of {len(self.members)} candidates; {'; '.join(named + more)}"

    def left_out(self) -> list[str]:
        """Return why kinds of members are not in the model, one sentence each."""
        found = [DISJOINT] if self.disjoint else []
        return found + [trial.line() for trial in (self.misled, self.unread) if trial is not None]

    def lines(self) -> list[str]:
        """Return what was chosen and why, one sentence each."""
        best = min(self.members, key=lambda member: member.loss)
        found = [
            f"{len(self.kept)} of {len(self.members)} candidates are members of the model; "
            f"the largest share of its scores, {100 * self.kept[0].share:.0f} %, is that of {self.kept[0].title}.",
            f"The weights follow from {self.pixels:,} training pixels, held out as {self.units} in {self.folds} folds.",
            f"The best single candidate there is {best.title} (held-out loss {best.loss:.3f}).",
        ]
        found += self.left_out()
        if self.sampled is not None:
            few, many = self.sampled
            found.append(
                f"Linear members were fitted to {few:,} of the {many:,} training pixels, evenly many of each class's"
                + ("; attention members to all." if ATTENTION in {one.title for one in self.members} else ".")
            )
        return found


def read_all(candidates: Sequence[LinearMember], inputs: ContextInputs) -> None:
    """Read what all candidates read: the contexts of a feature map are computed together."""
    for name in dict.fromkeys(map_name(member) for member in candidates):
        inputs.read(name, [context_of(member) for member in candidates if map_name(member) == name])


def fit_linear(member: LinearMember, inputs: ContextInputs, labelled: Labelled) -> LinearFit:
    """Fit a linear candidate, with its held-out scores."""
    name = map_name(member)
    (x,) = inputs.read(name, [context_of(member)])
    if member.method != "lda":
        return fit_logistic(x, labelled)
    return fit_lda(x, labelled, inputs.noise(name, member.window) if member.noise else None)


def weigh(
    scores: NDArray[np.float64],
    attention: AttentionScores | None,
    priors: Scores,
    labels: NDArray[np.int64],
    pixels: float,
    members: Sequence[LinearMember],
    seen: NDArray[np.bool_],
) -> tuple[Stack, "Mix"]:
    """Weigh the linear members against each other, and all of them against the attention members.

    Parameters
    ----------
    scores
        (M, n, K) held-out scores of the linear candidates.
    attention
        Those of the attention members; None where there are none.
    priors, labels
        (n, K) log priors and (n,) classes from 0.
    pixels
        As how many independent pixels the n count.
    members
        (M,) the linear candidates: a context wider than the attention members' makes every map slower, and so does a
        kernel.
    seen
        (n, K) whether the members of the other folds learnt a class.
    """
    own = 0 if attention is None else attention.reach
    reaches = np.array([one.window // 2 + RADIUS * one.iterations for one in members])
    costly = [reaches >= reach for reach in sorted(set(reaches[reaches > own].tolist()), reverse=True)]
    kernels = np.array([one.method == "kernel" for one in members])
    centre = _centre(scores, priors, labels, AMONG_LINEAR)
    stack = fit_stack(scores, priors, labels, pixels, centre, costly=[kernels, *costly], seen=seen)
    linear = stack.apply(scores)
    if attention is None:
        return stack, Mix.alone(linear)
    return stack, Mix.of(linear, attention, priors, labels, pixels, seen)


def _centre(scores: NDArray[np.float64], priors: Scores, labels: NDArray[np.int64], power: float) -> list[float]:
    """Return the weights, (M,), that the prior draws to, their sum 1, from scores (M, n, K)."""
    losses = [float(pixel_losses(one + priors, labels).mean()) for one in scores]
    found = np.maximum(losses, LEAST_LOSS) ** power
    return [float(one) for one in found / found.sum()]


def cross_fitted(
    fits: Sequence[tuple[LinearMember, LinearFit]],
    labelled: Labelled,
    attention: AttentionScores | None,
    pixels: float,
) -> Scores:
    """Return scores, (n, K) without prior, of each pixel by members and weights that never saw its fold.

    Parameters
    ----------
    fits, labelled, attention, pixels
        As of `choose`.
    """
    scores, priors, seen = np.stack([fit.held_out for _, fit in fits]), labelled.priors(), labelled.seen()
    members = [member for member, _ in fits]
    found = np.full(scores.shape[1:], np.nan)
    own = np.full_like(found, np.nan)
    if attention is not None:
        own[attention.pixels] = attention.scores
    for held in labelled.folds:
        rest = ~held
        some = None if attention is None else attention.of(rest)
        count = pixels * float(rest.mean())
        stack, mix = weigh(scores[:, rest], some, priors[rest], labelled.labels[rest], count, members, seen[rest])
        found[held] = mix.apply(stack.apply(scores[:, held]), own[held])
    return found


def choose(
    fits: Sequence[tuple[LinearMember, LinearFit]],
    inputs: ContextInputs,
    labelled: Labelled,
    attention: AttentionScores | None,
    pixels: float,
    units: str,
) -> Selection:
    """Weigh all members.

    Parameters
    ----------
    fits
        The linear candidates.
    inputs
        Their feature maps.
    labelled
        The training pixels.
    attention
        Held-out scores of the attention members; None where there are none.
    pixels
        As how many independent pixels the training pixels count.
    units
        What was held out whole.
    """
    scores = np.stack([fit.held_out for _, fit in fits])
    candidates = [member for member, _ in fits]
    stack, mix = weigh(scores, attention, labelled.priors(), labelled.labels, pixels, candidates, labelled.seen())
    weights = {i: float(w) * mix.linear for i, w in zip(stack.kept, stack.weights, strict=True) if mix.linear}
    shares = dict(zip(stack.kept, (stack.shares * (1 - mix.attention_share)).tolist(), strict=True))
    members = [Candidate(m.title, fit.loss, shares.get(i, 0.0)) for i, (m, fit) in enumerate(fits)]
    if attention is not None:
        members.append(Candidate(ATTENTION, mix.attention_loss, mix.attention_share))
    members.sort(key=lambda member: (-member.share, member.loss))
    factors = {i: weight / stack.temperature / mix.temperature for i, weight in weights.items()}
    return Selection(
        members=tuple(members),
        linear=merge(fits, inputs, factors, labelled),
        kernel=merge_kernels(fits, inputs, factors, labelled),
        share=mix.attention / mix.attention_temperature / mix.temperature,
        iterations=0 if attention is None else attention.iterations,
        temperature=mix.temperature,
        held_out=mix.held_out,
        units=units,
        folds=len(labelled.folds),
        pixels=mix.pixels,
    )


@dataclass(frozen=True)
class Mix:
    """The weights of the linear members together and of the attention members, and their held-out scores."""

    linear: float
    attention: float
    temperature: float
    held_out: Scores
    pixels: int
    attention_share: float = 0.0
    attention_loss: float = float("nan")
    attention_temperature: float = 1.0

    @classmethod
    def alone(cls, linear: Scores) -> "Mix":
        """Return the linear members alone; their stack has its temperature."""
        return cls(1.0, 0.0, 1.0, linear, len(linear))

    @classmethod
    def of(
        cls,
        linear: Scores,
        attention: AttentionScores,
        priors: Scores,
        labels: NDArray[np.int64],
        pixels: float,
        seen: NDArray[np.bool_],
    ) -> "Mix":
        """Weigh both; `pixels` is as how many independent ones all training pixels count."""
        at = attention.pixels
        priors, labels = priors[at], labels[at]
        temperature, loss = fit_temperature(attention.scores, priors, labels)
        both = np.stack([linear[at], attention.scores / temperature])
        count = pixels * len(at) / len(linear)
        centre = _centre(both, priors, labels, WITH_ATTENTION)
        stack = fit_stack(both, priors, labels, count, centre, CERTAINTY, seen=seen[at])
        if 1 not in stack.kept:
            return cls(1.0, 0.0, 1.0, linear, len(linear), 0.0, loss)
        weight = min(float(stack.weights[-1]), MOST_ATTENTION)
        mean = (1 - weight) * both[0] + weight * both[1]
        last, _ = fit_temperature(mean, priors, labels)
        share = float(shares_of(np.array([1 - weight, weight]), both, seen[at])[1])
        held_out = np.full_like(linear, np.nan)
        held_out[at] = mean / last
        return cls(1 - weight, weight, last, held_out, len(at), share, loss, temperature)

    def apply(self, linear: Scores, attention: Scores) -> Scores:
        """Return the scores of the whole ensemble, (n, K), from those of both kinds of members."""
        if not self.attention:
            return linear
        return (self.linear * linear + self.attention * attention / self.attention_temperature) / self.temperature
