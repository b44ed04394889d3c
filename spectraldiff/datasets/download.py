"""Files of a benchmark scene: found in a folder or downloaded to it, and always checked by SHA-256.

A file appears under its name only when it is complete and equal to the published one.
"""

import hashlib
import shutil
import sys
import zipfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import pooch
from pooch.downloaders import HTTPDownloader
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import RequestException, SSLError, Timeout
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from spectraldiff_runtime.errors import DatasetError
from spectraldiff_runtime.messages import console

TIMEOUT_S = 30
PAGE_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body")


@dataclass(frozen=True)
class DataFile:
    """One file of a benchmark scene.

    Attributes
    ----------
    name
        File name, also in the user's folder.
    sha256
        Hash of the published file, 64 hex digits.
    addresses
        URLs, in the order in which they are tried; empty for a file in an `archive`.
    key
        Name of the variable in a .mat file.
    archive
        The zip file that contains this one.
    """

    name: str
    sha256: str
    addresses: tuple[str, ...] = ()
    key: str = ""
    archive: "DataFile | None" = field(default=None, repr=False)


def find(file: DataFile, folder: Path) -> Path | None:
    """Return the path of `file` in `folder` or one of its subfolders, by name; None if it is not there."""
    places = [folder / file.name, *sorted(folder.glob(f"*/{file.name}"))]
    return next((place for place in places if place.is_file()), None)


def at_hand(file: DataFile, folder: Path) -> bool:
    """Whether `file` or its archive is in `folder` (the hash is not checked)."""
    return any(find(source, folder) is not None for source in (file, file.archive) if source)


def damaged(file: DataFile, folder: Path) -> str:
    """Return why the file of this name in `folder` cannot be the published one, without hashing; empty if it can be."""
    path, place = find(file, folder), folder / file.name
    if path is None:
        return f"'{place}' is a folder: wanted the file of that name; move the folder away" if place.is_dir() else ""
    with path.open("rb") as stream:
        start = stream.read(256)
    fault = "is empty" if not start else "is an HTML page" if _is_page(start) else ""
    return fault and f"'{path}' {fault}: remove it and download it again"


def obtain(files: Sequence[DataFile], folder: Path) -> list[Path]:
    """Return the paths of `files`, all checked; files missing in `folder` are downloaded.

    Raises
    ------
    DatasetError
        A file cannot be downloaded (the message names all URLs tried, the missing files and the
        folder for them), is not the published one, or the folder cannot be written.
    """
    missing = list(dict.fromkeys(_source(file) for file in files if not at_hand(file, folder)))
    for source in missing:
        _download(source, folder, [file.name for file in missing])
    return [_checked(find(file, folder) or _unpack(file, folder), file) for file in files]


def _source(file: DataFile) -> DataFile:
    return file.archive or file


def _checked(path: Path, file: DataFile) -> Path:
    fault = _fault(path, file.sha256)
    if fault:
        raise DatasetError(f"{path} is not the published {file.name}: {fault}; remove it and download it again")
    return path


def _fault(path: Path, sha256: str) -> str | None:
    """Return what is wrong with the file at `path`; None if it has the expected hash."""
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(0)
        start = stream.read(256)
    if found == sha256:
        return None
    if _is_page(start):
        return "it is an HTML page, which a server sent in the file's place"
    return f"its SHA-256 is {found}, wanted {sha256}"


def _is_page(start: bytes) -> bool:
    return start.lstrip().lower().startswith(PAGE_STARTS)


def _unpack(file: DataFile, folder: Path) -> Path:
    """Extract `file` from its archive to `folder`."""
    assert file.archive is not None  # obtain() found or downloaded every file that has none
    path = find(file.archive, folder)
    assert path is not None
    archive = _checked(path, file.archive)
    target = folder / file.name
    partial = target.with_name(target.name + ".partial")
    try:
        with zipfile.ZipFile(archive) as members:
            name = _member(members, file.name, archive)
            with members.open(name) as stream, partial.open("wb") as out:
                shutil.copyfileobj(stream, out)
        partial.replace(target)
    except (OSError, zipfile.BadZipFile) as error:
        raise DatasetError(f"cannot unpack {file.name} from {archive} into {folder}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> str:
    for member in archive.namelist():
        if member.rsplit("/", 1)[-1] == name:
            return member
    raise DatasetError(f"{path} has no {name} in it; get the archive again from where it was published")


def _download(file: DataFile, folder: Path, wanted: Sequence[str]) -> None:
    """Try each URL in turn; the first file with the correct hash is kept."""
    if (folder / file.name).is_dir():
        raise DatasetError(damaged(file, folder))
    failures = []
    for address in file.addresses:
        try:
            _retrieve(file, address, folder)
        except (RequestException, ValueError) as error:
            failures.append(f"{address} ({_reason(error)})")
        except OSError as error:
            raise DatasetError(
                f"cannot write {file.name} into {folder}: {error.strerror or error}; "
                "free space there, or name another folder with --data-dir"
            ) from error
        else:
            return
    raise DatasetError(
        f"cannot download {file.name}; tried {', '.join(failures)}; download {', '.join(wanted)} manually and put "
        f"{'it' if len(wanted) == 1 else 'them'} into {folder}, or name the folder with --data-dir"
    )


def _retrieve(file: DataFile, address: str, folder: Path) -> None:
    """Download to a temporary name in `folder`; pooch renames the file when its hash is correct."""
    folder.mkdir(parents=True, exist_ok=True)
    pooch.get_logger().setLevel("WARNING")
    with _Bar(file.name) as bar:
        get = HTTPDownloader(progressbar=bar, timeout=TIMEOUT_S)

        def download(url: str, output: str, owner: object) -> None:
            get(url, output, owner)
            fault = _fault(Path(output), file.sha256)
            if fault:
                raise ValueError(fault)

        pooch.retrieve(address, f"sha256:{file.sha256}", file.name, folder, downloader=download)


def _reason(error: Exception) -> str:
    """Return in a few words why a URL failed."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code} {response.reason}".rstrip()
    if isinstance(error, Timeout):
        return f"no answer in {TIMEOUT_S} s"
    if isinstance(error, SSLError):
        return "its certificate was not accepted"
    if isinstance(error, NoConnection):
        return "no connection"
    return "the transfer was interrupted" if isinstance(error, RequestException) else str(error)


class _Bar(AbstractContextManager["_Bar"]):
    """A progress bar with the interface of pooch (total, update, reset, close), on stderr, in terminals only."""

    def __init__(self, name: str) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console(), disable=not sys.stderr.isatty())
        self._task = self._progress.add_task(name, total=None)
        self._total = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @property
    def total(self) -> int:
        """Total bytes, 0 if the server does not report them."""
        return self._total

    @total.setter
    def total(self, size: int) -> None:
        self._total = size
        self._progress.update(self._task, total=size or None)

    def update(self, size: int) -> None:
        """Add `size` bytes."""
        self._progress.advance(self._task, size)

    def reset(self) -> None:
        """Start counting again."""
        with suppress(KeyError):
            self._progress.reset(self._task, total=self._total or None)

    def close(self) -> None:
        """Do nothing: leaving the context ends the bar."""
