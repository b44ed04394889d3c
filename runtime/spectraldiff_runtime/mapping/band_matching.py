"""Which bands of a scene a model gets: as they are, chosen by wavelength, or interpolated."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.errors import SceneError, UsageError
from spectraldiff_runtime.messages import ranges
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.scene.protocol import Scene
from spectraldiff_runtime.scene.resampled import BandInterpolation, ResampledScene

CLOSE = 2.0  # nm: centres as near as this are the same for every sensor


def fit_bands(card: ModelCard, scene: Scene, *, explicit: bool, resample: bool, warn: Callable[[str], None]) -> Scene:
    """Give a model the bands that it was trained on.

    Where scene and model both know their wavelengths, the same centres pass, and a superset or another
    order is chosen by wavelength, which the scene's `note` says. Elsewhere, the bands that the model was
    trained on are chosen by their numbers in a file of as many bands; in other files the numbers of bands must agree.

    Parameters
    ----------
    explicit
        The user named the bands: they are taken as they are, and other wavelengths are a warning.
    resample
        Interpolate linearly between neighbouring bands to the model's centres, as float32.
    warn
        Called with each warning, also those that the scene itself has.

    Returns
    -------
    Scene
        The scene itself, or one that reads from it and closes it.

    Raises
    ------
    SceneError
        The scene has not the bands that the model needs.
    UsageError
        Resampling without wavelengths on both sides.
    """
    for warning in getattr(scene, "warnings", ()):
        warn(warning)
    quantity = getattr(scene, "quantity", "")
    if card.units and quantity and quantity != card.units:
        warn(
            f"'{scene.name}' holds {quantity} and the model was trained on {card.units}: the map is likely to be wrong"
        )
    if card.wavelengths is None or scene.wavelengths is None:
        if resample:
            lacking = "the model" if card.wavelengths is None else f"'{scene.name}'"
            raise UsageError(f"{lacking} has no wavelengths: --resample-bands wants them in both; leave it out")
        return _counted(card, scene) if explicit else _listed(card, scene)
    own = np.array(card.wavelengths)
    if resample:
        return _resampled(own, scene, scene.wavelengths, warn)
    if explicit:
        difference = wavelength_difference(card, _counted(card, scene).wavelengths)
        if difference is not None:
            warn(f"'{scene.name}' {difference}: the map is likely to be wrong")
        return scene
    if own.shape == scene.wavelengths.shape and wavelength_difference(card, scene.wavelengths) is None:
        return scene
    return _selected(own, scene, scene.wavelengths)


def tolerance(wavelengths: NDArray[np.float64]) -> float:
    """Return how far a scene's centre may be from a model's, in nm: 2, or half the model's typical spacing."""
    spacing = float(np.median(np.abs(np.diff(wavelengths)))) if wavelengths.size > 1 else 0.0
    return max(CLOSE, 0.5 * spacing)


def wavelength_difference(card: ModelCard, wavelengths: NDArray[np.float64] | None) -> str | None:
    """Say how a scene's wavelengths (B,) in nm differ from the model's; None where they agree.

    They agree within the larger of 2 nm and half the model's typical band spacing, or where one of the
    two is unknown.
    """
    if card.wavelengths is None or wavelengths is None:
        return None
    own = np.array(card.wavelengths)
    off = np.abs(wavelengths - own)
    worst = int(off.argmax())
    if off[worst] <= tolerance(own):
        return None
    return (
        f"has other wavelengths than the model: band {worst + 1} in use is at {wavelengths[worst]:.1f} nm "
        f"and the model's at {own[worst]:.1f} nm (scene {wavelengths.min():.0f}-{wavelengths.max():.0f} nm, "
        f"model {own.min():.0f}-{own.max():.0f} nm)"
    )


def match_bands(found: NDArray[np.float64], wanted: NDArray[np.float64], within: float) -> NDArray[np.intp]:
    """Find a scene band for each model band, the nearest pairs first, each scene band once.

    Parameters
    ----------
    found, wanted
        Centres of the scene (b,) and of the model (B,), nm, in any order.
    within
        The largest distance, nm.

    Returns
    -------
    ndarray of shape (B,), int
        Indices into `found`; -1 where no band is left within the distance.
    """
    distance = np.abs(found[None, :] - wanted[:, None])
    partner, free = np.full(wanted.size, -1, np.intp), np.ones(found.size, np.bool_)
    for pair in np.argsort(distance, axis=None, kind="stable"):
        model, scene = divmod(int(pair), found.size)
        if distance[model, scene] > within:
            break
        if partner[model] < 0 and free[scene]:
            partner[model], free[scene] = scene, False
    return partner


def _listed(card: ModelCard, scene: Scene) -> Scene:
    """Choose the bands that the model was trained on by their numbers, in a file of as many bands as the training's."""
    if card.band_numbers is None or getattr(scene, "count", None) != card.file_bands:
        return _counted(card, scene)
    if tuple(scene.bands) == card.band_numbers:
        return scene
    chosen = f"bands {ranges(card.band_numbers)} were chosen, as the model was trained"
    return scene.select(card.band_numbers, "; ".join(filter(None, (scene.note, chosen))))


def _counted(card: ModelCard, scene: Scene) -> Scene:
    found = len(scene.bands)
    if found == card.bands:
        return scene
    hint = f"name the {card.bands} bands that it was trained on with --bands"
    if card.band_numbers is not None and card.file_bands is not None:
        numbers = ranges(card.band_numbers)
        hint = f"it was trained on bands {numbers} of a file of {card.file_bands}; name the same ones with --bands"
    if found < card.bands:
        hint = "map a scene of the sensor that the model was trained on, or choose others with --bands"
    raise SceneError(f"'{scene.name}' has {found} bands in use and the model wants {card.bands}: {hint}")


def _selected(own: NDArray[np.float64], scene: Scene, waves: NDArray[np.float64]) -> Scene:
    partner = match_bands(waves, own, tolerance(own))
    if (partner < 0).any():
        raise SceneError(_no_band_message(own, scene, waves, partner))
    kind = "other order" if own.size == waves.size else f"{waves.size} in use"
    chosen = f"{own.size} bands were chosen by wavelength ({kind})"
    return scene.select([scene.bands[i] for i in partner], "; ".join(filter(None, (scene.note, chosen))))


def _no_band_message(
    own: NDArray[np.float64], scene: Scene, waves: NDArray[np.float64], partner: NDArray[np.intp]
) -> str:
    first, within = int(np.argmax(partner < 0)), tolerance(own)
    return (
        f"'{scene.name}' has no band within {within:.1f} nm of the model's band {first + 1} at {own[first]:.1f} nm "
        f"({_ranges(own, waves)}): {_remedy(own, scene, waves, own[first])}"
    )


def _ranges(own: NDArray[np.float64], waves: NDArray[np.float64]) -> str:
    return (
        f"scene {waves.min():.0f}-{waves.max():.0f} nm with {waves.size} bands, "
        f"model {own.min():.0f}-{own.max():.0f} nm with {own.size}"
    )


def _remedy(own: NDArray[np.float64], scene: Scene, waves: NDArray[np.float64], lacking: float) -> str:
    within = tolerance(own)
    for band, centre in scene.bad_bands.items():
        if abs(centre - lacking) <= within:
            return (
                f"its band {band} at {centre:.1f} nm is called bad; take it with --bands all, or name all bands to use"
            )
    if _covered(own, waves, within).all():
        return "map a scene of the model's sensor, or interpolate with --resample-bands"
    return "its sensor does not cover what the model needs; map a scene of the sensor that the model was trained on"


def _covered(own: NDArray[np.float64], waves: NDArray[np.float64], within: float) -> NDArray[np.bool_]:
    """Return which of the model's bands lie in the scene's range, (B,)."""
    return np.asarray((own >= waves.min() - within) & (own <= waves.max() + within))


def _resampled(
    own: NDArray[np.float64], scene: Scene, waves: NDArray[np.float64], warn: Callable[[str], None]
) -> Scene:
    within = tolerance(own)
    outside = np.flatnonzero(~_covered(own, waves, within))
    if outside.size:
        raise SceneError(
            f"'{scene.name}' does not reach the model's band {outside[0] + 1} at {own[outside[0]]:.1f} nm "
            f"({_ranges(own, waves)}): --resample-bands interpolates only; map a scene of the model's sensor"
        )
    interpolation = BandInterpolation.between(waves, own)
    if interpolation.trivial and np.unique(interpolation.lower).size == own.size:
        return _selected(own, scene, waves)
    far = int((np.abs(waves[None, :] - own[:, None]).min(axis=1) > within).sum())
    text = f"{far} of {own.size} model bands have no scene band within {within:.1f} nm"
    warn(f"bands of '{scene.name}' were interpolated to the model's wavelengths ({_ranges(own, waves)}): {text}")
    used = np.unique(np.concatenate([interpolation.lower, interpolation.upper]))
    source = scene.select([scene.bands[i] for i in used])
    narrowed = BandInterpolation(
        np.searchsorted(used, interpolation.lower), np.searchsorted(used, interpolation.upper), interpolation.weight
    )
    note = "; ".join(filter(None, (scene.note, f"bands were interpolated, {text}")))
    return ResampledScene(source, narrowed, own, tuple(range(1, own.size + 1)), note)
