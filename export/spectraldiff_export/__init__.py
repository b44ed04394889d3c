"""From a finished run to one model file: raw tile in, land-cover classes out.

>>> from spectraldiff.training.run_folder import newest_run                     # doctest: +SKIP
>>> from spectraldiff_export import export_run                                  # doctest: +SKIP
>>> export_run(newest_run(Path("runs")), Path("model.onnx"))                    # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import spectraldiff_runtime  # noqa: F401 (before ONNX Runtime: it switches telemetry off)

if TYPE_CHECKING:
    from spectraldiff_export.deployed import DeployedClassifier
    from spectraldiff_export.export import Export, check_suffix, export_model, export_run
    from spectraldiff_export.verify import Verification

__all__ = ["DeployedClassifier", "Export", "Verification", "check_suffix", "export_model", "export_run"]

_HOMES = {
    "DeployedClassifier": "deployed", "Export": "export", "Verification": "verify", "check_suffix": "export",
    "export_model": "export", "export_run": "export",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import on first use: the command's help waits for no PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
