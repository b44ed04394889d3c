"""Rasters are looked at before GDAL opens them.

A pipe would be waited for; a VRT may name pipes, itself, code, or more files than can be read; and files of some
formats are addresses of others.
"""

import stat
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import rasterio

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.gdal import check_plain, file_mode, is_remote, quiet_gdal
from spectraldiff_runtime.limits import VRT_BYTES, VRT_LEVELS, VRT_READS

FIRST_BYTES = 1024  # in which GDAL looks for the element
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
        It is a pipe, a device, or a VRT that may not be, see `check_vrt`.
    """
    check_plain(path)
    check_vrt(path)
    with quiet_gdal():
        if is_remote(path):
            return rasterio.open(path)
        return rasterio.io.DatasetReader(str(path), driver=_local_drivers())  # `rasterio.open` takes no list


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
