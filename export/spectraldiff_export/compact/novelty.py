"""How far pixels are from the training classes, by the bands alone: what a student gives where its full model does."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from spectraldiff.ensemble.context_inputs import BAND_COMPONENTS, ContextInputs, FeatureMap, mosaic_of
from spectraldiff.ensemble.linear_fit import Labelled
from spectraldiff.ensemble.outside import SIZES, OutsideFit, fit_outside
from spectraldiff.models.pca import fit_pca
from spectraldiff_export.compact.ground import BLOCK, FIFTHS, Patch
from spectraldiff_export.compact.student import Student

LEAST = 2 * FIFTHS  # training pixels that the distance is fitted to


@torch.no_grad()
def fit_novelty(student: Student, patches: Sequence[Patch]) -> OutsideFit | None:
    """Fit the distance to the training pixels on the ground; None where it holds too few, or of one class.

    Folds are blocks of ground, as what is held out of the teaching. What lies outside of a window is read around it.
    """
    halo, known = student.halo, [patch for patch in patches if (patch.train > 0).any()]
    classes = torch.cat([patch.train[patch.train > 0] for patch in known]) if known else torch.zeros(0)
    if len(classes) < LEAST or len(set(classes.tolist())) < 2:
        return None
    bands = [student.normaliser(patch.raw[None])[0] for patch in known]
    valid = [F.pad(patch.valid, (halo,) * 4) for patch in known]
    pca = fit_pca(iter([one[:, good].T for one, good in zip(bands, valid, strict=True)]), max(SIZES))
    values = mosaic_of([pca(one[None])[0].movedim(0, -1) for one in bands])
    weight = pca.components.double().numpy()
    whole = FeatureMap(values, weight, -weight @ pca.mean.double().numpy())
    labels = mosaic_of([F.pad(patch.train, (halo,) * 4)[..., None] for patch in known])[..., 0]
    everywhere = mosaic_of([one[..., None].float() for one in valid])[..., 0] > 0
    pixels = (labels > 0).nonzero()
    blocks = torch.div(pixels, BLOCK, rounding_mode="floor")
    numbers = ((blocks[:, 0] + 2 * blocks[:, 1]) % FIFTHS).numpy()
    labelled = Labelled(
        (labels[pixels[:, 0], pixels[:, 1]] - 1).numpy(),
        [numbers == fold for fold in range(FIFTHS) if (numbers == fold).any()],
        student.classes,
    )
    inputs = ContextInputs({BAND_COMPONENTS: whole}, pixels, values[..., :1], everywhere)
    return fit_outside(inputs, labelled, halo, [BAND_COMPONENTS])
