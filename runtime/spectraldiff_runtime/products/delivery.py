"""What people have in hand: a file, a folder, or a zip as delivered, and the files in it."""

import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from spectraldiff_runtime.errors import SceneError

# The largest metadata file that is read: a product's own have a few megabytes.
LARGEST = 64 * 2**20
# How deep below a folder a product's files may lie, and how many entries a folder of a product may have.
DEPTH, MOST = 3, 1000


@dataclass(frozen=True)
class Delivery:
    """Files that were delivered together, by their paths below a folder, or in a zip file.

    Attributes
    ----------
    root
        The folder, or the zip file.
    names
        What it holds, with ``/`` between the parts of a path.
    chosen
        The one of them that the user named; empty where that is the folder or zip itself.
    """

    root: Path
    names: tuple[str, ...]
    chosen: str = ""
    zipped: bool = False

    @classmethod
    def of(cls, path: Path) -> "Delivery | None":
        """Return what a path means; None where there is nothing of that name, or a zip file that cannot be read."""
        if path.is_dir():
            return cls(path, tuple(_below(path)))
        if not path.is_file():
            return None
        if _is_zip(path):
            return _in_zip(path)
        return cls(path.parent, tuple(sorted(os.listdir(path.parent))), path.name)  # noqa: PTH208 (without a stat each)

    def matching(self, pattern: str) -> list[str]:
        """Return the names whose last part fits a regular expression, whatever the case."""
        return [name for name in self.names if re.fullmatch(pattern, PurePosixPath(name).name, re.IGNORECASE)]

    def heads(self, head: str, files: str) -> list[str]:
        """Return the files that products begin with, and of them the one to which the file that was named belongs.

        Parameters
        ----------
        head
            Regular expression of their names.
        files
            One for all files of a product, whose first group names the product.
        """
        wanted = (self.chosen,) if self.chosen else self.names
        products = {product for name in wanted if (product := _first_group(files, name))}
        return [name for name in self.matching(head) if _first_group(files, name) in products]

    def gdal_name(self, name: str) -> str:
        """Return what GDAL calls a file."""
        if not self.zipped:
            return str(self.root / name)
        archive = str(self.root.absolute())
        # GDAL finds the end of an archive's name by its suffix, or by braces.
        return f"/vsizip/{archive}/{name}" if archive.lower().endswith(".zip") else f"/vsizip/{{{archive}}}/{name}"

    def local(self, name: str) -> Path:
        """Return the local file that holds it: itself, or the zip file."""
        return self.root if self.zipped else self.root / name

    def read(self, name: str) -> bytes:
        """Return the content of a small file.

        Raises
        ------
        SceneError
            It is far larger than such files are, or cannot be read.
        """
        try:
            if self.zipped:
                with zipfile.ZipFile(self.root) as archive:
                    _check_size(name, archive.getinfo(name).file_size)
                    return archive.read(name)
            _check_size(name, (self.root / name).stat().st_size)
            return (self.root / name).read_bytes()
        except (OSError, zipfile.BadZipFile, RuntimeError) as error:
            raise SceneError(
                f"'{name}' in '{self.root}' cannot be read ({error}): copy or download it again"
            ) from error


def _first_group(pattern: str, name: str) -> str:
    """Return what the first group of a regular expression finds in a file's name; empty where it does not fit."""
    match = re.fullmatch(pattern, PurePosixPath(name).name, re.IGNORECASE)
    return "" if match is None else str(match[1]).upper()


def _check_size(name: str, size: int) -> None:
    if size > LARGEST:
        raise SceneError(f"'{name}' has {size:,} bytes: wanted a product's metadata, a few megabytes")


def _below(folder: Path, inner: str = "", depth: int = DEPTH) -> Iterator[str]:
    """Yield the files below a folder, not deeper than products lie; none of a folder with very many entries."""
    entries = list(islice(folder.iterdir(), MOST + 1))
    if len(entries) > MOST:
        return
    for path in sorted(entries):
        if path.is_file():
            yield inner + path.name
        elif depth > 1 and path.is_dir() and not path.is_symlink():
            yield from _below(path, f"{inner}{path.name}/", depth - 1)


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def _in_zip(path: Path) -> Delivery | None:
    try:
        with zipfile.ZipFile(path) as archive:
            return Delivery(path, tuple(n for n in archive.namelist() if not n.endswith("/")), "", True)
    except (OSError, zipfile.BadZipFile):
        return None
