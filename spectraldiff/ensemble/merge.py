"""The chosen linear members as maps of the extractor's features: those of one context are one map."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from spectraldiff.ensemble.context_inputs import BAND_COMPONENTS, BANDS, COMPONENTS, KERNEL_SCALE, ContextInputs
from spectraldiff.ensemble.linear_fit import Labelled, LinearFit
from spectraldiff.models.linear_members import KernelMembers, LinearMembers, PixelContext
from spectraldiff.models.settings import LinearMember


def map_name(member: LinearMember) -> str:
    """Return the feature map that a member reads."""
    if member.method == "kernel":
        return f"kernel {member.gamma:g}"
    if member.source == "features":
        return COMPONENTS
    return BANDS if member.method == "lda" else BAND_COMPONENTS


def context_of(member: LinearMember) -> PixelContext:
    """Return a member's context."""
    return PixelContext(member.window, member.iterations)


def merge(
    fits: Sequence[tuple[LinearMember, LinearFit]],
    inputs: ContextInputs,
    weights: dict[int, float],
    labelled: Labelled,
) -> LinearMembers | None:
    """Return the weighted linear members as linear maps of the extractor's features, one for each context.

    Where all members read kernels, what is left is one map of zeros: it has the prior.
    """
    if not weights:
        return None
    linear = {index: weight for index, weight in weights.items() if fits[index][0].method != "kernel"}
    features = inputs.maps[BANDS].weight.shape[1]
    total: dict[PixelContext, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for index, weight in linear.items():
        member, fit = fits[index]
        matrix, bias = inputs.maps[map_name(member)].fold(fit.weight * weight, fit.bias * weight)
        before = total.get(context_of(member), (np.zeros_like(matrix), np.zeros_like(bias)))
        total[context_of(member)] = before[0] + matrix, before[1] + bias
    contexts = sorted(total) or [PixelContext()]
    found = LinearMembers(contexts, features, labelled.classes)
    for place, (matrix, bias) in enumerate(total[context] for context in contexts if context in total):
        found.weight[place], found.bias[place] = torch.from_numpy(matrix), torch.from_numpy(bias)
    return found


def merge_kernels(
    fits: Sequence[tuple[LinearMember, LinearFit]],
    inputs: ContextInputs,
    weights: dict[int, float],
    labelled: Labelled,
) -> KernelMembers | None:
    """Return the weighted members that read a kernel's features, those of all kernels side by side; None for none."""
    own = {index: weight for index, weight in weights.items() if fits[index][0].method == "kernel"}
    if not own:
        return None
    names = list(dict.fromkeys(map_name(fits[index][0]) for index in own))
    contexts = sorted({context_of(fits[index][0]) for index in own})
    maps, bands = [inputs.maps[name] for name in names], len(inputs.maps[BANDS].weight)
    size = len(maps[0].offset)
    found = KernelMembers(contexts, bands, size * len(maps), labelled.classes)
    found.frequency = torch.from_numpy(np.concatenate([one.weight[:, -bands:] for one in maps])).float()
    found.phase = torch.from_numpy(np.concatenate([one.offset for one in maps])).float()
    for index, weight in own.items():
        member, fit = fits[index]
        place, first = contexts.index(context_of(member)), size * names.index(map_name(member))
        matrix = torch.from_numpy(fit.weight.T * weight * KERNEL_SCALE)
        found.read.weight[place, :, first : first + size] = matrix
        found.read.bias[place] += torch.from_numpy(fit.bias * weight)
    return found
