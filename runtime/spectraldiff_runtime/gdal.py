"""Opening rasters with our errors and none of GDAL's noise."""

import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import rasterio
from rasterio import shutil
from rasterio._env import set_proj_data_search_path
from rasterio._err import CPLE_BaseError
from rasterio.env import PROJDataFinder
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.limits import FOLDER_ENTRIES, TIMEOUT_S

# GDAL gives up on a server after so many seconds without a byte. Its own variables come first, `--timeout` sets them.
TIMEOUTS = ("GDAL_HTTP_CONNECTTIMEOUT", "GDAL_HTTP_LOW_SPEED_TIME")
NO_FILES = {"CPL_VSIL_GZIP_WRITE_PROPERTIES": "NO"}  # that are written next to what is read
NO_CODE = {"GDAL_VRT_ENABLE_PYTHON": "NO", "GDAL_MEM_ENABLE_OPEN": "NO"}  # code and memory that a VRT may name

# What reading and writing through rasterio may raise; some of GDAL's errors come as they are.
GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError)

# Names that only GDAL knows: /vsizip/folder/file.zip/inside.tif, NETCDF:"file.nc":variable.
VIRTUAL = re.compile(r"(/vsi(zip|gzip|tar|7z|rar|subfile|sparse|cached|crypt)/)+")
WAL = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")  # the first bytes of a write-ahead log of SQLite
WAL_HEAD = 32
SUBDATASET = re.compile(r'[A-Za-z][A-Za-z0-9_]+:(?:"([^"]+)"(?::.*)?|([^"]+))')
REMOTE = re.compile(r"/vsi(curl|s3|gs|az|adls|oss|swift|webhdfs|hdfs)(_streaming)?/|(?!file:)[a-z][a-z0-9+]+://", re.I)


def _use_own_projections() -> None:
    """Have rasterio use the PROJ data of its wheel, whatever PROJ_LIB and PROJ_DATA say: other versions fit it not.

    They are often those of a QGIS, a conda or a PostGIS installation, with which no EPSG code is known. Rasterio goes
    by them anew in each thread, and so does every process that is started: they are taken out of the environment. A
    rasterio that was built here has no data of its own and needs them.
    """
    own = PROJDataFinder().search_wheel()
    if own and [os.environ.pop(name) for name in ("PROJ_LIB", "PROJ_DATA") if name in os.environ]:
        set_proj_data_search_path(own)


_use_own_projections()


@contextmanager
def quiet_gdal() -> Iterator[None]:
    """Keep GDAL's own messages off stderr; errors still arrive as exceptions."""
    with rasterio.Env(CPL_LOG=os.devnull, **network_options(), **NO_CODE, **NO_FILES), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def network_options() -> dict[str, str]:
    """Return GDAL's options for servers that do not answer; what the environment says of them comes first."""
    usual = {key: str(TIMEOUT_S) for key in TIMEOUTS} | {"GDAL_HTTP_LOW_SPEED_LIMIT": "1"}
    return {key: os.environ.get(key, value) for key, value in usual.items()}


def set_timeout(seconds: int) -> None:
    """Have GDAL, here and in processes that are started from now on, wait so long for a byte from a server."""
    os.environ.update(dict.fromkeys(TIMEOUTS, str(seconds)))


def is_remote(path: str | Path) -> bool:
    """Whether GDAL reads a raster of that name from another machine."""
    return REMOTE.match(str(path)) is not None


def check_plain(path: str | Path) -> None:
    """Refuse pipes, sockets and devices, also among the files that GDAL opens with one, such as its ``.aux.xml``.

    Of a folder, as a Zarr is one, all files in it are looked at.

    Opening a pipe would wait for whoever writes to it. So is a file under the name of SQLite's log that is none.

    Raises
    ------
    SceneError
    """
    if is_remote(path):
        return
    local = local_file(path)
    if str(path).startswith("/vsistdin"):
        raise SceneError(f"'{path}' is a pipe: wanted a file; copy what it gives to one first")
    for place in (local, *_sidecars(local), *_odd_inside(_named_file(path))):
        kind = file_mode(place)
        if kind is not None and not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            raise SceneError(f"'{place}' is a pipe or a device: wanted a file; copy what it gives to one first")
    wal = Path(f"{local}-wal")
    if wal.is_file() and not _is_wal(wal):
        raise SceneError(f"'{wal}' is no write-ahead log of SQLite, which would remove it: move it away")


def _odd_inside(folder: Path) -> Iterator[Path]:
    """Yield what is neither a file nor a folder in a folder and all folders in it; nothing of a file."""
    waiting, known, count = [folder], set(), 0
    while waiting:
        place = waiting.pop()
        try:
            found = place.stat()
            entries = [] if (found.st_dev, found.st_ino) in known else list(os.scandir(place))
        except (OSError, ValueError):  # a file, no name, or a folder that may not be read: GDAL may not either
            continue
        known.add((found.st_dev, found.st_ino))  # a link may lead back
        count += len(entries)
        if count > FOLDER_ENTRIES:
            raise SceneError(f"'{folder}' holds more than {FOLDER_ENTRIES:,} files: wanted one scene")
        for entry in entries:
            kind = None if entry.is_file(follow_symlinks=False) else file_mode(entry.path)
            if kind is not None and stat.S_ISDIR(kind):
                waiting.append(Path(entry))
            elif kind is not None and not stat.S_ISREG(kind):
                yield Path(entry)


def names_archive(path: str | Path) -> bool:
    """Whether pyogrio takes a name on this machine for a file in an archive, and so for another file."""
    return bool(set("!;") & set(str(path))) and not is_remote(path) and not str(path).startswith("/vsi")


def _is_wal(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(WAL_HEAD)
    except OSError:
        return False
    return not head or (len(head) == WAL_HEAD and head.startswith(WAL))


def local_file(name: str | Path) -> Path:
    """Return the file on this machine that GDAL reads a raster of that name from, perhaps an archive around it."""
    path = _named_file(name)
    return next((place for place in (path, *path.parents) if file_mode(place) is not None), path)


def _named_file(name: str | Path) -> Path:
    """Return the path in a name that only GDAL knows, with what is named inside an archive."""
    text = str(name)
    named = SUBDATASET.fullmatch(text)
    if named is not None and file_mode(text) is None:
        text = named[1] or named[2]
        before = text
        while ":" in before and file_mode(before) is None:  # what comes after it names a layer
            before = before.rpartition(":")[0]
        text = text if file_mode(before) is None else before
    return Path(VIRTUAL.sub("", text)) if VIRTUAL.match(text) else Path(text)


def _sidecars(path: Path) -> list[Path]:
    """Return what is no file next to one, under a name that begins like its own: GDAL may open it with that."""
    if not path.is_file():
        return []
    begins = tuple({f"{path.stem}.", f"{path.stem}_", f"{path.name}.", f"{path.name}-"})
    try:
        with os.scandir(path.parent) as entries:
            return [Path(entry) for entry in entries if entry.name.startswith(begins) and not _is_usual(entry)]
    except (OSError, ValueError):
        return []


def _is_usual(entry: "os.DirEntry[str]") -> bool:
    return entry.is_file() or entry.is_dir()


def decoded(content: bytes) -> str:
    """Return the text of bytes: UTF-8, with or without a byte order mark, or else Latin-1."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def described(dataset: Any) -> ElementTree.Element:
    """Return all that GDAL knows of an open raster, as it writes it into a VRT; without bands where XML cannot say it.

    rasterio does not pass on some of it, such as category names, and nothing that is not UTF-8.
    """
    with MemoryFile(ext=".vrt") as file:
        shutil.copy(dataset, file.name, driver="VRT")
        text = decoded(file.read())
    try:
        return ElementTree.fromstring(text)  # noqa: S314 (GDAL wrote it)
    except ElementTree.ParseError:  # a text with a control character
        return ElementTree.Element("VRTDataset")


def file_mode(path: str | Path) -> int | None:
    """Return the mode of what has this name here; None for nothing, as for names that only GDAL knows."""
    try:
        return Path(path).stat().st_mode
    except (OSError, ValueError):  # also a name that is too long, and a loop of links
        return None


def reason(error: BaseException) -> str:
    """Return the first line of the innermost cause: GDAL's own words."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(getattr(error, "errmsg", "") or error) or type(error).__name__
    return text.splitlines()[0].strip().rstrip(".")
