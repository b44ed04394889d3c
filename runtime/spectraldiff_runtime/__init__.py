"""Map hyperspectral scenes with a model file, without PyTorch.

>>> from spectraldiff_runtime import Model, map_scene                       # doctest: +SKIP
>>> model = Model.open("model.onnx")                                        # doctest: +SKIP
>>> map_scene(model, "scene.tif", "classes.tif")                            # doctest: +SKIP
>>> classes = map_scene(model, cube).classes  # cube: (H, W, B)             # doctest: +SKIP
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from spectraldiff_runtime.version import installed_version

if TYPE_CHECKING:
    from spectraldiff_runtime.classes import LandCoverClass
    from spectraldiff_runtime.errors import SpectralDiffError
    from spectraldiff_runtime.mapping.map_scene import Block, MapResult, map_block, map_scene
    from spectraldiff_runtime.model.engine import Model, ModelCard
    from spectraldiff_runtime.scene.raster import ArrayScene, RasterScene

__all__ = [
    "ArrayScene", "Block", "LandCoverClass", "MapResult", "Model", "ModelCard", "RasterScene",
    "SpectralDiffError", "__version__", "map_block", "map_scene",
]  # fmt: skip

# ONNX Runtime tells its makers that it is used, unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "ArrayScene": "scene.raster", "Block": "mapping.map_scene", "LandCoverClass": "classes",
    "MapResult": "mapping.map_scene", "Model": "model.engine", "ModelCard": "model.engine",
    "RasterScene": "scene.raster", "SpectralDiffError": "errors", "map_block": "mapping.map_scene",
    "map_scene": "mapping.map_scene",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import on first use, so that `sdiff --help` need not wait for NumPy, GDAL and ONNX Runtime."""
    if name == "__version__":
        return installed_version()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
