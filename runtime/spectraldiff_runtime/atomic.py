"""Output files that appear under their names only when they are whole.

Each is written in a folder next to its target, ``.<name>.<16 hex digits>.partial``, which only this account may enter,
and gets its name at the end. A name that is taken stays with the file that has it, unless the user said to replace it.
"""

import contextlib
import errno
import filecmp
import os
import re
import secrets
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from spectraldiff_runtime.errors import OutputError
from spectraldiff_runtime.signals import interrupts_deferred

# The names of rasters that are written end with one of these; a name without any is taken too.
RASTERS = (".tif", ".tiff")
# What GDAL takes for a part of the raster whose name comes before it.
SIDECARS = (".aux.xml", ".ovr", ".msk")
SQLITE = ("-journal", "-wal", "-shm")  # it takes them for parts of a GeoPackage, plays them back and removes them
# What ENVI rasters and shapefiles have next to them, under their own stem.
BESIDE = (".hdr", ".shp", ".shx", ".dbf", ".prj", ".cpg")
PRIVATE = 0o700
PARTIAL = re.compile(r"\..+\.[0-9a-f]{16}\.partial")


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
    if number in (errno.EMFILE, errno.ENFILE):
        return OutputError(
            f"'{path}' cannot be written ({os.strerror(number)}): allow more of them, such as 256 with `ulimit -n 256`"
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
        Whether a file of that name may be replaced, and what lies next to it as a part of it be removed.
    folder
        Where it is written until then, from `partial_folder`; a new one if None.

    Attributes
    ----------
    partial
        The file in that folder.

    Raises
    ------
    OutputError
        The file exists, the folder is missing, or, on entry, nothing can be written there.
    """

    def __init__(self, path: Path, overwrite: bool, folder: Path | None = None) -> None:
        self.path, self._overwrite = Path(path), overwrite
        check_output(self.path, overwrite)
        self._target = Path(os.path.realpath(self.path))
        self._folder = folder or partial_folder(self.path)
        self.partial = self._folder / self._target.name

    def publish(self) -> None:
        """Give the file, and its sidecar and world file if it has any, the final name.

        Raises
        ------
        OutputError
            A file of that name has come since, or the disk fails.
        """
        pairs = zip(_with_parts(self.partial), _with_parts(self._target), strict=True)
        try:
            self._clear_sqlite_parts()
            for source, target in pairs:
                if source.exists():
                    _sync(source)
                    _name(source, target, self._overwrite)
        except FileExistsError as error:
            raise OutputError(
                f"'{error.filename2}' has come since '{self.path}' was begun and is not replaced: move it away"
            ) from error
        except OSError as error:
            raise output_error(self.path, error) from error
        self.discard()

    def _clear_sqlite_parts(self) -> None:
        for part in _sqlite_parts(self._target):
            if self._overwrite:
                part.unlink(missing_ok=True)
            elif os.path.lexists(part):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(part), None, str(part))

    def discard(self) -> None:
        """Remove what was not published."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            with interrupts_deferred():  # a folder that was made is also one that will be removed
                _make(self._folder, self.partial.name)
        except OSError as error:
            raise output_error(self.path, error) from error
        except BaseException:
            self.discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def partial_folder(path: Path) -> Path:
    """Return the name of a new folder for `path` to be written in: no other account can guess it."""
    target = Path(os.path.realpath(path))
    return target.with_name(f".{target.name}.{secrets.token_hex(8)}.partial")


def _make(folder: Path, name: str) -> None:
    """Make a folder with an empty file, or nothing; OSError."""
    folder.mkdir(PRIVATE)
    try:
        (folder / name).touch(exist_ok=False)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def remove_partial(folder: Path) -> None:
    """Remove a folder that a killed process of this account left, if it is one."""
    with contextlib.suppress(OSError):
        found = folder.lstat()
        own = not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
        if own and stat.S_ISDIR(found.st_mode) and PARTIAL.fullmatch(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _name(source: Path, target: Path, overwrite: bool) -> None:
    """Give a file its final name; FileExistsError where another file has it and is not to be replaced."""
    if overwrite or _same_content(source, target):
        source.replace(target)
        return
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # a disk without links, as on a memory card
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(source), None, str(target)) from None
        source.rename(target)
    else:
        source.unlink()


def _same_content(source: Path, target: Path) -> bool:
    """Whether a plain file, or a sidecar, has its name already: a run that was killed had just given it."""
    try:
        return filecmp.cmp(source, target, shallow=False) and not target.is_symlink()
    except OSError:
        return False


def check_raster_name(option: str, path: Path, known: Sequence[str] = RASTERS) -> None:
    """Raise OutputError where the suffix is not what is written, by default a GeoTIFF, or the name is no UTF-8."""
    check_letters(path, f"{option} ")
    if path.suffix and path.suffix.lower() not in known:
        written = "GeoTIFFs are" if known == RASTERS else "that format is not"
        wanted = f"{', '.join(known[:-1])} or {known[-1]}"
        raise OutputError(f"{option} '{path}' has the suffix '{path.suffix}' and {written} written: wanted {wanted}")


def check_letters(path: Path, option: str = "") -> None:
    """Raise OutputError where a name is no UTF-8: reports, and files of JSON, could not say it."""
    if any("\ud800" <= character <= "\udfff" for character in str(path)):  # as Python reads bytes that are no UTF-8
        raise OutputError(f"{option}'{path}' holds bytes that are no UTF-8: wanted another name")


def check_output(path: Path, overwrite: bool) -> None:
    """Refuse a target that exists, is no plain file, has no folder, or whose name is no UTF-8.

    Raises
    ------
    OutputError
    """
    if "\0" in str(path) or not path.name:
        raise OutputError(f"{str(path)!r} is no file name: wanted a name such as classes.tif")
    check_letters(path)
    try:
        _check_target(path, overwrite)
    except OSError as error:  # a name that is too long, a loop of links, a folder that may not be entered
        raise output_error(path, error) from error


def _check_target(path: Path, overwrite: bool) -> None:
    if path.is_dir() and not is_zarr(path):
        raise OutputError(f"'{path}' is a folder: wanted a file name, such as '{path / 'classes.tif'}'")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder '{path.parent}' for '{path.name}': make it first")
    if os.path.lexists(path) and not path.is_file() and not is_zarr(path):
        raise OutputError(f"'{path}' is no plain file and is not replaced: choose another name")
    if path.exists() and not overwrite:
        raise OutputError(f"'{path}' exists: choose another name, or replace it with --overwrite")


def check_sidecars(path: Path, overwrite: bool, known: Sequence[str] = ()) -> None:
    """Refuse a map's name next to which lie files that GDAL or SQLite would take for parts of it.

    `known` ends the names of those that may be there; with any, a world file may be there, too, or SQLite's files.

    Raises
    ------
    OutputError
    """
    target = Path(os.path.realpath(path))
    beside = [Path(f"{target}{suffix}") for suffix in SIDECARS if suffix not in known]
    for sidecar in beside if known else _parts(target):
        if sidecar.is_dir() and not sidecar.is_symlink():
            raise OutputError(f"'{sidecar.name}' is a folder next to '{path}', with the name of a part of it: move it")
        if not overwrite and os.path.lexists(sidecar):
            raise OutputError(
                f"'{sidecar.name}' lies next to '{path}' and would be taken for a part of it: "
                "choose another name, move it away, or remove it with --overwrite"
            )


def check_writable(path: Path) -> None:
    """Refuse, before hours of work, a place that does not take the longest name that an output needs on its way.

    Raises
    ------
    OutputError
    """
    probe = partial_folder(path)
    try:
        with interrupts_deferred():
            _make(probe, sidecar_path(path).name)
            shutil.rmtree(probe, ignore_errors=True)
    except OSError as error:
        raise output_error(path, error) from error


def check_distinct(outputs: Mapping[str, Path], inputs: Sequence[Path]) -> None:
    """Refuse outputs that are the same file as an input or as each other, or that an input lies next to as a part.

    Parameters
    ----------
    outputs
        Paths by the option that names them.

    Raises
    ------
    OutputError
    """
    seen = {os.path.realpath(path): f"the input '{path}'" for path in inputs}
    for given in inputs:
        for beside in _parts_of_input(given):
            seen.setdefault(os.path.realpath(beside), f"a part of the input '{given}'")
    for option, path in outputs.items():
        place = os.path.realpath(path)
        inside = [one for one in seen if is_zarr(path) and Path(one).is_relative_to(place) and one != place]
        others = [os.path.realpath(one) for one in outputs.values() if one != path and is_zarr(one)]
        if any(map(Path(place).is_relative_to, others)):
            raise OutputError(f"{option} '{path}' is inside a Zarr that is replaced: choose another name")
        other = seen.setdefault(place, f"what {option} names")
        if other != f"what {option} names":
            raise OutputError(f"{option} '{path}' is the same file as {other}: choose another name")
        for part in (*map(str, _parts(Path(place))), *inside):
            if part in seen:
                raise OutputError(f"{option} '{path}' would have {seen[part]} as a part: choose another name")


def _sync(path: Path) -> None:
    """Have the system write a file out, so that a late error of a network disk is not lost."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sidecar_path(path: Path) -> Path:
    """Return where GDAL looks for the sidecar of the raster at `path`."""
    return path.with_name(path.name + ".aux.xml")


def world_file(path: Path) -> Path:
    """Return where programs look for the place of the picture at `path`."""
    return path.with_suffix(".pgw")


def _with_parts(path: Path) -> list[Path]:
    """Return a file and what may belong to it, the file last."""
    return [sidecar_path(path), *_world_files(path), path]


def _world_files(path: Path) -> list[Path]:
    return [world_file(path)] if path.suffix.lower() == ".png" else []


def _sqlite_parts(path: Path) -> list[Path]:
    return [Path(f"{path}{end}") for end in SQLITE] if path.suffix.lower() == ".gpkg" else []


def _parts(path: Path) -> list[Path]:
    """Return the names of all that programs would take for a part of the file at `path`."""
    return [*(Path(f"{path}{end}") for end in SIDECARS), *_world_files(path), *_sqlite_parts(path)]


def _parts_of_input(path: Path) -> list[Path]:
    """Return the files that programs take for parts of the file at `path`, a raster or a table, where they are."""
    beside = [path.with_suffix(suffix) for suffix in BESIDE if path.name] if path.suffix else []
    return [part for part in (*_parts(Path(os.path.realpath(path))), *beside) if os.path.lexists(part)]


def is_zarr(path: Path) -> bool:
    """Whether there is a folder that holds a Zarr, by its name and by what is in it."""
    return path.suffix.lower() == ".zarr" and any((path / name).is_file() for name in (".zgroup", "zarr.json"))
