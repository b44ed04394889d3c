"""Check whether a model knows a scene: the unit of its values, by their magnitude, and the ground of a compact one."""

import numpy as np

from spectraldiff_runtime.mapping.stages import Batch
from spectraldiff_runtime.messages import times
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.scene.mark import mark_of
from spectraldiff_runtime.scene.protocol import Scene

# All bands this many times as bright or as dark as the training scene's mean: no land cover does that, other units do.
FAR = 20
# One pixel in so many along each axis is looked at.
STEP = 4


def unit_warning(card: ModelCard, batch: Batch, name: str) -> str | None:
    """Compare the first pixels of a scene with the training scene's mean spectrum, the card's `fill`.

    Parameters
    ----------
    name
        What the message calls the scene.

    Returns
    -------
    str or None
        A warning; empty if the magnitudes agree; None if the batch has no data or no positive values.
    """
    halo, valid = card.halo, batch.valid[batch.kept]
    inner = batch.inputs[:, :, halo : halo + valid.shape[1], halo : halo + valid.shape[2]]
    pixels = inner.transpose(0, 2, 3, 1)[:, ::STEP, ::STEP][valid[:, ::STEP, ::STEP]]
    if not len(pixels):
        return None
    means, usual = pixels.mean(axis=0, dtype=np.float64), np.array(card.fill, np.float64)
    known = np.isfinite(means) & (means > 0) & (usual > 0)
    if 2 * known.sum() < len(known):
        return None
    ratios = means[known] / usual[known]
    if ratios.min() < FAR and ratios.max() > 1 / FAR:
        return ""
    return (
        f"the values of '{name}' are about {times(float(np.median(ratios)))} those that the model was trained on, in "
        "all bands: if their unit differs (reflectance as 0 to 1 or as 0 to 10,000), the map is wrong; convert them"
    )


def taught_warning(card: ModelCard, scene: Scene) -> str | None:
    """Return what to say where a compact model was taught on other scenes; None for any other model or scene."""
    if card.compact is None:
        return None
    taught = card.compact["scenes"]
    mark = mark_of(scene)
    if any(one["mark"] == mark for one in taught):
        return None
    names = ", ".join(f"'{one['name']}'" for one in taught[:3]) + (f" and {len(taught) - 3} more" if taught[3:] else "")
    return (
        f"'{scene.name}' is none of the scenes that this compact model was taught on ({names}), and it may know little "
        "of other ground: map it with the full model, or export again with --compact and this scene in --scenes"
    )
