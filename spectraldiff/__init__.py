"""Land-cover maps from hyperspectral scenes with spectral-spatial diffusion features: train, export, map, evaluate.

The method is that of Chen, Yue, Fang and Xia, *SpectralDiff: Hyperspectral Image Classification with
Spectral-Spatial Diffusion Models*, 2023.

>>> import spectraldiff as sd
>>> scene = sd.open_labelled("scene.tif", "labels.gpkg", field="class")
>>> run = sd.train(scene, split="per-class:30")
>>> sd.export(run, "model.onnx")
>>> sd.map_scene("model.onnx", "line.img", "classes.tif")
>>> sd.evaluate("classes.tif", "labels.gpkg", field="class")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spectraldiff.api.maps import evaluate, info, map_scene, suggest, view
    from spectraldiff.api.results import MapAccuracy, OpenedScene, ReconstructionPictures, TrainedRun
    from spectraldiff.api.runs import open_run, reconstruct, resume, train
    from spectraldiff.api.scenes import list_datasets, open_dataset, open_labelled
    from spectraldiff.data.scene import LabelledScene
    from spectraldiff.report.map_view import MapView
    from spectraldiff_export.export import Export, export
    from spectraldiff_export.exported_model import opened_export as opened_export
    from spectraldiff_runtime import MapResult, Model, SpectralDiffError, __version__
    from spectraldiff_runtime.suggest.choice import Suggestion

__all__ = [
    "Export", "LabelledScene", "MapAccuracy", "MapResult", "MapView", "Model", "OpenedScene", "ReconstructionPictures",
    "SpectralDiffError", "Suggestion", "TrainedRun", "__version__", "evaluate", "export", "info", "list_datasets",
    "map_scene", "open_dataset", "open_labelled", "open_run", "reconstruct", "resume", "suggest", "train",
    "view",
]  # fmt: skip

# Each name's module, in any package: export is above this one, and imports it.
_HOMES = {
    "spectraldiff.api.maps": ("evaluate", "info", "map_scene", "suggest", "view"),
    "spectraldiff.api.results": ("MapAccuracy", "OpenedScene", "ReconstructionPictures", "TrainedRun"),
    "spectraldiff.api.runs": ("open_run", "reconstruct", "resume", "train"),
    "spectraldiff.api.scenes": ("list_datasets", "open_dataset", "open_labelled"),
    "spectraldiff.data.scene": ("LabelledScene",),
    "spectraldiff.report.map_view": ("MapView",),
    "spectraldiff_export.export": ("Export", "export"),
    "spectraldiff_export.exported_model": ("opened_export",),
    "spectraldiff_runtime": ("MapResult", "Model", "SpectralDiffError", "__version__"),
    "spectraldiff_runtime.suggest.choice": ("Suggestion",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import on first use: PyTorch not before something is trained or exported."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
