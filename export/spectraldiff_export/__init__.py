"""From a finished run to one model file: raw tile in, land-cover classes out.

>>> from spectraldiff.checkpoint import newest_run                              # doctest: +SKIP
>>> from spectraldiff_export import export_run                                  # doctest: +SKIP
>>> export_run(newest_run(Path("runs")), Path("model.onnx"))                    # doctest: +SKIP
"""

from spectraldiff_export.deployed import DeployedClassifier
from spectraldiff_export.verify import Verification
from spectraldiff_export.writers import Export, check_suffix, export_model, export_run

__all__ = [
    "DeployedClassifier",
    "Export",
    "Verification",
    "check_suffix",
    "export_model",
    "export_run",
]
