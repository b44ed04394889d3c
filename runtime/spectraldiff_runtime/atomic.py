"""Output files that appear under their names only when they are whole.

Each is written next to its target as ``.<name>.<token>.partial`` and renamed at the end.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from spectraldiff_runtime.errors import OutputError
from spectraldiff_runtime.signals import interrupts_deferred

# The names of rasters that are written end with one of these; a name without any is taken too.
RASTERS = (".tif", ".tiff")


class Output(Protocol):
    """Something that is first finished under another name and then published."""

    def finish(self) -> None:
        """Write all that is left and close the file."""
        ...

    def publish(self) -> None:
        """Give the finished file its name."""
        ...


def commit(outputs: Sequence[Output]) -> None:
    """Finish all outputs, then name them all: after an error in any, none appears."""
    for output in outputs:
        output.finish()
    with interrupts_deferred():
        for output in outputs:
            output.publish()


def output_error(path: Path, error: BaseException) -> OutputError:
    """Return the error that says why `path` cannot be written."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(path.parent).free // 1024
            return OutputError(
                f"'{path}' cannot be written: the disk is full ({free:,} kB free in '{path.parent}'); "
                "make room and run again"
            )
    reason = os.strerror(number) if isinstance(number, int) else str(error).partition("\n")[0]
    return OutputError(f"'{path}' cannot be written ({reason}): choose another place or make this one writable")


class PartialFile:
    """A file under another name until `publish`; a context manager that removes what was not published.

    Parameters
    ----------
    path
        The name that it gets in the end. A link is followed.
    overwrite
        Whether a file of that name may be replaced.
    token
        What tells the other name from those of other processes; this process' number if None. Who makes sure that
        there is one process only gives a fixed one, so that what a killed process left is written over.

    Raises
    ------
    OutputError
        The file exists, the folder is missing, or nothing can be written there.
    """

    def __init__(self, path: Path, overwrite: bool, token: str | None = None) -> None:
        self.path = Path(path)
        check_output(self.path, overwrite)
        target = Path(os.path.realpath(self.path))
        self._target = target
        self.partial = target.with_name(f".{target.name}.{token or os.getpid()}.partial")
        try:
            self.partial.write_bytes(b"")
        except OSError as error:
            raise output_error(self.path, error) from error

    def publish(self) -> None:
        """Give the file, and its sidecar if it has one, the final name."""
        pairs = [(sidecar_path(self.partial), sidecar_path(self._target)), (self.partial, self._target)]
        try:
            for source, target in pairs:
                if source.exists():
                    _sync(source)
                    source.replace(target)
        except OSError as error:
            raise output_error(self.path, error) from error

    def discard(self) -> None:
        """Remove what was not published."""
        for leftover in (self.partial, sidecar_path(self.partial)):
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def check_raster_name(option: str, path: Path) -> None:
    """Raise OutputError where the suffix promises something else than a GeoTIFF."""
    if path.suffix and path.suffix.lower() not in RASTERS:
        raise OutputError(
            f"{option} '{path}' has the suffix '{path.suffix}' and GeoTIFFs are written: wanted .tif or .tiff"
        )


def check_output(path: Path, overwrite: bool) -> None:
    """Refuse a target that exists, is no plain file, or has no folder.

    Raises
    ------
    OutputError
    """
    if "\0" in str(path) or not path.name:
        raise OutputError(f"{str(path)!r} is no file name: wanted a name such as classes.tif")
    try:
        _check_target(path, overwrite)
    except OSError as error:  # a name that is too long, a loop of links, a folder that may not be entered
        raise output_error(path, error) from error


def _check_target(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise OutputError(f"'{path}' is a folder: wanted a file name, such as '{path / 'classes.tif'}'")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder '{path.parent}' for '{path.name}': make it first")
    if os.path.lexists(path) and not path.is_file():
        raise OutputError(f"'{path}' is no plain file and is not replaced: choose another name")
    if path.exists() and not overwrite:
        raise OutputError(f"'{path}' exists: choose another name, or replace it with --overwrite")


def check_writable(path: Path) -> None:
    """Refuse, before hours of work, a place that does not take the longest name that an output needs on its way.

    Raises
    ------
    OutputError
    """
    target = Path(os.path.realpath(path))
    probe = target.with_name(f".{target.name}.{os.getpid():019d}")  # as long as .<name>.map.partial.aux.xml
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise output_error(path, error) from error


def check_distinct(outputs: Mapping[str, Path], inputs: Sequence[Path]) -> None:
    """Refuse outputs that are the same file as an input or as each other.

    Parameters
    ----------
    outputs
        Paths by the option that names them.

    Raises
    ------
    OutputError
    """
    seen = {os.path.realpath(path): f"the input '{path}'" for path in inputs}
    for option, path in outputs.items():
        other = seen.setdefault(os.path.realpath(path), f"what {option} names")
        if other != f"what {option} names":
            raise OutputError(f"{option} '{path}' is the same file as {other}: choose another name")


def _sync(path: Path) -> None:
    """Have the system write a file out, so that a late error of a network disk is not lost."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sidecar_path(path: Path) -> Path:
    """Return where GDAL looks for the sidecar of the raster at `path`."""
    return path.with_name(path.name + ".aux.xml")
