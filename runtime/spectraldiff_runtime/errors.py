"""The errors that a user can cause.

Every message is one line and says what was found, what was wanted and what to do.
The command line prints it on stderr and ends with the error's `exit_code`; no traceback is shown.
"""

from typing import Any

from spectraldiff_runtime.untrusted import visible


class SpectralDiffError(Exception):
    """Root of all errors that SpectralDiff raises on purpose; control characters in its message are written out."""

    exit_code = 1

    def __str__(self) -> str:
        return visible(super().__str__())


class UsageError(SpectralDiffError):
    """An option or argument that cannot be meant."""

    exit_code = 2


class SceneError(SpectralDiffError):
    """A raster that cannot be read, or does not fit the model or its labels."""


class SceneChangedError(SceneError):
    """A scene that was changed while it was read; nothing that was made of it is kept."""


class DatasetError(SpectralDiffError):
    """A benchmark scene that cannot be found, downloaded or trusted."""


class LabelsError(SpectralDiffError):
    """Labels that do not fit the scene, or too few of them for the split."""


class NoLabelsError(LabelsError):
    """Labels of which none lies on the scene; `features` is what a vector file holds that reaches it, if any does."""

    features: Any = None


class RunError(SpectralDiffError):
    """A run folder that is missing, unfinished or damaged."""


class ModelFileError(SpectralDiffError):
    """A model file that is not ours, is cut short or was changed."""


class DeviceError(SpectralDiffError):
    """A device that was asked for and is not there."""


class OutputError(SpectralDiffError):
    """An output that exists, or cannot be written."""


class VerificationError(SpectralDiffError):
    """An exported file that does not compute what the trained model computes."""


class MissingExtraError(SpectralDiffError):
    """A command whose optional dependencies are not installed."""
