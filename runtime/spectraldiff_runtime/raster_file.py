"""Rasters are looked at before GDAL opens them.

A pipe would be waited for; a VRT may name pipes, itself, code, or more files than can be read; an HDF5 or netCDF file
may name pipes, or hold more bands than there is memory for; and files of some formats are addresses of others.
"""

import contextlib
import math
import os
import re
import stat
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import rasterio

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.gdal import check_plain, file_mode, is_remote, local_file, quiet_gdal, reason
from spectraldiff_runtime.limits import BANDS, HDF5_ENTRIES, HDF5_LEVELS, VRT_BYTES, VRT_LEVELS, VRT_READS

FIRST_BYTES = 1024  # in which GDAL looks for the element
SIGNATURE = b"\x89HDF\r\n\x1a\n"  # of HDF5
HDF5_LAYER = re.compile(r'(?:HDF5|HDF5Image|NETCDF|BAG):(?:"([^"]+)".*|([^":]+)(?::.*)?)', re.IGNORECASE)
MARK, SOURCES = b"<VRTDataset", ("SourceFilename", "SourceDataset")


# A file of these formats is a list of addresses, or of files elsewhere, and is asked for by its own name alone.
ELSEWHERE = frozenset(
    {"DAAS", "EEDA", "EEDAI", "GTI", "HTTP", "MEM", "NGW", "OGCAPI", "PLMOSAIC", "PLSCENES", "STACIT", "STACTA", "WCS"}
    | {"WMS", "WMTS"}
)


def open_looked_at(path: str | Path) -> Any:
    """Open a raster for reading as a rasterio dataset that the caller closes; GDAL's errors pass.

    Raises
    ------
    SceneError
        It is a pipe, a device, or a VRT or an HDF5 file that may not be, see `check_vrt` and `check_hdf5`.
    """
    check_plain(path)
    check_vrt(path)
    _check_layer(path)
    check_hdf5(path, bands=True)
    with quiet_gdal():
        if is_remote(path):
            return rasterio.open(path)
        return rasterio.io.DatasetReader(str(path), driver=_local_drivers())  # `rasterio.open` takes no list


def _check_layer(path: str | Path) -> None:
    """Refuse a layer of an HDF5 or netCDF file that is not there: the HDF5 library would print pages about it."""
    named = HDF5_LAYER.fullmatch(str(path))
    file = "" if named is None else named[1] or named[2]
    if file and not file.startswith("/vsi") and "://" not in file and file_mode(file) is None:
        raise SceneError(f"'{path}' does not exist: wanted a layer of a file; check the name")


@cache
def _local_drivers() -> list[str]:
    """Return the formats of files that hold what they show."""
    with rasterio.Env() as env:
        return sorted(set(env.drivers()) - ELSEWHERE)


def check_vrt(path: str | Path) -> None:
    """Refuse a VRT that names itself, a pipe or code, or whose sources are VRTs of VRTs beyond reading.

    Parameters
    ----------
    path
        Any raster; what is no VRT on this machine passes.

    Raises
    ------
    SceneError
    """
    if str(path).lstrip().startswith("<"):
        raise SceneError(f"'{str(path)[:40]}' is XML and no file name: wanted a raster; write it to a file first")
    _reads(Path(path), Path(path), ())


def _reads(path: Path, first: Path, above: tuple[Path, ...]) -> int:
    """Return how many files are read for a pixel of a band at most, directly and by VRTs among them."""
    content = _content(path)
    if content is None:
        return 1
    if path in above:
        raise SceneError(f"'{first}' names itself among its sources ('{path}'): wanted a VRT of other files")
    if len(above) >= VRT_LEVELS:
        raise SceneError(f"'{first}' names VRTs of VRTs, {VRT_LEVELS + 1} levels deep: wanted {VRT_LEVELS} at most")
    try:
        root = ElementTree.fromstring(content)  # noqa: S314 (expat bounds what entities expand to)
    except ElementTree.ParseError:
        return 1  # GDAL says what is wrong
    if any((element.text or "").strip().lower() == "python" for element in root.iter("PixelFunctionLanguage")):
        raise SceneError(f"'{path}' computes its pixels with code that it holds: wanted a VRT of files alone")

    @cache
    def reads_of(source: Path) -> int:
        check_plain(source)
        return _reads(source, first, (*above, path))

    most = 0
    for part in root.findall("VRTRasterBand") or [root]:
        reads = sum(reads_of(source) for source in _sources(part, path))
        if reads > VRT_READS:
            raise SceneError(
                f"'{first}' names VRTs of VRTs with {reads:,} sources in all: wanted {VRT_READS:,} at most"
            )
        most = max(most, reads)
    return most


def _content(path: Path) -> bytes | None:
    """Return the text of a VRT on this machine; None for anything else."""
    kind = file_mode(path)
    if is_remote(path) or kind is None or not stat.S_ISREG(kind):
        return None
    with path.open("rb") as file:
        head = file.read(FIRST_BYTES)
        if MARK not in head:
            return None
        content = head + file.read(VRT_BYTES)
    if len(content) > VRT_BYTES:
        raise SceneError(f"'{path}' is a VRT of more than {VRT_BYTES:,} bytes: wanted a smaller one")
    return content


def _sources(part: ElementTree.Element, path: Path) -> list[Path]:
    found = [element for name in SOURCES for element in part.iter(name) if (element.text or "").strip()]
    return [
        path.parent / element.text.strip() if element.get("relativeToVRT") == "1" else Path(element.text.strip())
        for element in found
        if element.text
    ]


def check_hdf5(path: str | Path, bands: bool = False) -> None:
    """Refuse an HDF5 or netCDF-4 file that names pipes or devices, or too many files, or has too many entries.

    Its entries may be links into other files, and its data may lie in others.

    Parameters
    ----------
    path
        Any raster, perhaps with the name of a layer; what is no HDF5 file on this machine passes.
    bands
        Whether to refuse, too, a file without any, or data of more bands than are read: GDAL makes room for each.

    Raises
    ------
    SceneError
    """
    local = local_file(path)
    if is_remote(path) or not _is_hdf5(local):
        return
    found = local.stat()
    rasters = _rasters_of(local, (found.st_ino, found.st_size, found.st_mtime_ns))
    if bands and not rasters:  # GDAL's HDF5 would print pages about a damaged one
        raise SceneError(f"'{local}' has no bands: wanted a raster, and none of its data has rows and columns")
    for name, count in rasters.items() if bands else ():
        if count > BANDS and (len(rasters) == 1 or str(path).endswith(name)):
            raise SceneError(f"'{local}' has {count:,} bands in '{name}': wanted {BANDS:,} at most")


def _is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5: its signature stands at its beginning, or after 512, 1024, 2048, ... bytes of others."""
    kind = file_mode(path)
    if kind is None or not stat.S_ISREG(kind):
        return False
    with contextlib.suppress(OSError), path.open("rb") as file:
        size, place = path.stat().st_size, 0
        while place < size:
            file.seek(place)
            if file.read(len(SIGNATURE)) == SIGNATURE:
                return True
            place = 2 * place or 512
    return False


@lru_cache(maxsize=16)  # a file is opened several times
def _rasters_of(path: Path, state: tuple[int, ...]) -> dict[str, int]:
    """Look into a file in this state; return how many bands each of its data sets has for GDAL."""
    look = _Hdf5Look(path, path, ())
    look.begin()
    return look.rasters


class _Hdf5Look:
    """A look at all entries of an HDF5 file, and of those that it names.

    Attributes
    ----------
    rasters
        How many bands each of its data sets has for GDAL, by name.
    """

    def __init__(self, path: Path, first: Path, above: tuple[Path, ...]) -> None:
        self._path, self._first, self._above, self._entries = path, first, above, 0
        self._named: list[str | bytes] = []
        self.rasters: dict[str, int] = {}

    def begin(self) -> None:
        """Look at the file, and at those that it names."""
        import h5py

        if len(self._above) > HDF5_LEVELS:
            raise SceneError(
                f"'{self._first}' names files that name files, over {HDF5_LEVELS} levels deep: wanted the data in one"
            )
        try:
            with h5py.File(self._path, "r") as file:
                self._visit(file)
        except (OSError, RuntimeError, ValueError, LookupError, TypeError, SystemError) as error:
            cause = error.__cause__ if isinstance(error, SystemError) and error.__cause__ else error
            raise SceneError(  # or GDAL's HDF5 would print pages about it
                f"'{self._path}' cannot be opened as HDF5 ({reason(cause)}): the file is damaged or cut short; copy or "
                "download it again"
            ) from error
        if self._entries > HDF5_ENTRIES:
            raise SceneError(f"'{self._path}' has more than {HDF5_ENTRIES:,} entries: wanted a file that holds a scene")
        for name in dict.fromkeys(self._named):
            self._follow(name)

    def _visit(self, file: Any) -> None:
        from h5py.h5l import TYPE_EXTERNAL

        links: list[bytes] = []  # to other files, which are not opened

        def link(name: bytes, found: Any) -> bool | None:
            if found.type == TYPE_EXTERNAL:
                links.append(name)
            return self._count()

        stopped = file.id.links.visit(link, info=True)
        self._named += [file.id.links.get_val(name)[0] for name in links]
        if not stopped:
            file.visititems(self._entry)

    def _entry(self, name: str, found: Any) -> bool | None:
        shape = getattr(found, "shape", None)
        if shape is not None:  # or it is a group
            self._named += [file for file, *_ in found.external or ()]
            self._named += [p.file_name for p in (found.virtual_sources() if found.is_virtual else ())]
        if shape is not None and len(shape) > 1:
            self.rasters[name] = math.prod(shape[:-2])
        return self._count()

    def _count(self) -> bool | None:
        """Count an entry; True ends the visit."""
        self._entries += 1
        return True if self._entries > HDF5_ENTRIES else None

    def _follow(self, name: str | bytes) -> None:
        """Look at a file that is named: it may lie next to this one, or in the working folder."""
        if name in (".", b"."):  # this file
            return
        above = (*self._above, self._path.resolve())
        for folder in dict.fromkeys((self._path.parent, Path())):
            source = folder / os.fsdecode(name)
            check_plain(source)
            if source.resolve() not in above and _is_hdf5(source):
                _Hdf5Look(source, self._first, above).begin()
