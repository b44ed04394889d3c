"""The ten methods of the paper's tables, and the cells of its Table VI, behind one interface."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.accuracy import classical, deep
from benchmarks.accuracy.ours import fit_ours
from benchmarks.accuracy.paper import GRID_LAYERS, GRID_TIMESTEPS
from benchmarks.accuracy.problem import Context, Problem
from benchmarks.accuracy.store import Outcome
from spectraldiff.models.classifier import empty_classifier
from spectraldiff.models.presets import Preset
from spectraldiff_runtime.errors import UsageError


@dataclass(frozen=True)
class Method:
    """A way to map a scene.

    Attributes
    ----------
    name, title
        For files and ``--methods``, and for tables.
    window
        Side, in pixels, of the square that a pixel's class depends on.
    settings
        All settings that determine its result, except scene, split and seed.
    fit
        Trains and maps.
    """

    name: str
    title: str
    window: int
    settings: Mapping[str, Any]
    fit: Callable[[Problem, Context], Outcome]


TITLES = {
    "knn": "KNN",
    "rf": "RF",
    "svm": "SVM",
    "cnn1d": "1-D CNN",
    "cnn2d": "2-D CNN",
    "cnn3d": "3-D CNN",
    "minigcn": "miniGCN",
    "spectralformer": "SpectralFormer",
    "raw": "Transformer, raw",
    "spectraldiff": "SpectralDiff",
}
ABLATION = ("raw", "spectraldiff")
PRODUCT = "product"  # what a user gets


def method_named(name: str, preset: Preset, bands: int) -> Method:
    """Return the method `name`.

    Parameters
    ----------
    name
        One of `TITLES`, a cell of `grid_cells`, or `PRODUCT`.
    preset
        Of the raw transformer and of SpectralDiff.
    bands
        B of the scene.

    Raises
    ------
    UsageError
        There is no method of that name.
    """
    if name in classical.ESTIMATORS:
        return Method(name, TITLES[name], 1, classical.SETTINGS[name], partial(classical.fit_classical, name))
    if name in deep.RECIPES:
        fit = partial(deep.fit_deep, name)
        return Method(name, TITLES[name], deep.RECIPES[name].window, deep.settings_of(name), fit)
    changed = _changed(name, preset)
    shape = changed.vit(components=1, classes=2, members=changed.members())
    halo = empty_classifier(changed, bands, shape, features=1).halo
    settings = {"preset": changed.to_json()}
    return Method(name, TITLES.get(name, name), 2 * halo + 1, settings, partial(fit_ours, name, changed))


def _changed(name: str, preset: Preset) -> Preset:
    if name == "raw":
        return preset.changed(features="raw")
    if name == PRODUCT:
        return preset
    if name == "spectraldiff":
        return preset
    for cell, (layer, timestep) in grid_cells().items():
        if cell == name:
            return preset.changed(layer=layer, timestep=timestep)
    raise UsageError(f"there is no method '{name}': choose from {', '.join(TITLES)}")


def grid_cells() -> dict[str, tuple[int, int]]:
    """Return the cells of Table VI by name: (layer index, timestep)."""
    return {f"layer{layer}-t{t}": (layer, t) for layer in GRID_LAYERS for t in GRID_TIMESTEPS}


def wanted_names(methods: Sequence[str] | None, ablation: bool, grid: bool, preset: Preset) -> list[str]:
    """Return the names of all methods that the options request, each once; all ten by default.

    Of the grid's cells, those whose layer the preset's denoiser has.
    """
    layers = len(preset.diffusion.network.channels)
    names = list(TITLES) if methods is None and not (ablation or grid) else list(methods or ())
    names += list(ABLATION) if ablation else []
    names += [name for name, (layer, _) in grid_cells().items() if layer < layers] if grid else []
    return list(dict.fromkeys(names))
