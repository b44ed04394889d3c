"""Whether the files of a scene are still what they were: size, date, and a digest of samples of their bytes."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from spectraldiff_runtime.errors import SceneChangedError
from spectraldiff_runtime.scene.protocol import Scene

# Blocks of so many bytes that are sampled of each file, at most, and of all files together.
BLOCK, MOST, IN_ALL = 4096, 64, 1024
# GDAL's file next to a raster, into which QGIS writes statistics when it shows the raster.
SIDECAR, LARGEST_SIDECAR = ".aux.xml", 2**20


def files_state(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Return name, size, date and a digest of samples of each file, as plain values for JSON.

    Files of up to 256 kB are read whole; of larger ones, blocks of 4 kB at equal distances, the first and the last too.
    Of a ``.aux.xml`` file what it says counts, without statistics and histograms; one that says nothing else is left
    out.
    """
    blocks, states = max(2, min(MOST, IN_ALL // max(len(files), 1))), []
    for file in files:
        said = _said(file)
        if said is None:
            found = file.stat()
            state = {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "samples": _digest(file, blocks)}
            states.append({"name": file.name, **state})
        elif said:
            states.append({"name": file.name, "size": len(said), "samples": hashlib.sha256(said).hexdigest()})
    return states


def _said(file: Path) -> bytes | None:
    """Return what a ``.aux.xml`` file says but statistics, empty for nothing; None for other files and damaged ones."""
    if not file.name.lower().endswith(SIDECAR):
        return None
    if not file.is_file():
        return b""
    if file.stat().st_size > LARGEST_SIDECAR:
        return None
    try:
        root = ElementTree.fromstring(file.read_bytes())  # noqa: S314 (expat bounds what entities expand to)
    except ElementTree.ParseError:
        return None
    _leave_statistics_out(root)
    return ElementTree.canonicalize(ElementTree.tostring(root), strip_text=True).encode() if len(root) else b""


def _leave_statistics_out(element: ElementTree.Element) -> None:
    """Remove histograms and statistics from all that an element holds, and then what is empty."""
    for child in list(element):
        _leave_statistics_out(child)
        statistics = child.tag == "Histograms" or child.get("key", "").startswith("STATISTICS_")
        empty = child.tag in ("Metadata", "PAMRasterBand") and not len(child)
        if statistics or empty:
            element.remove(child)


def _digest(file: Path, blocks: int) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        last = max(0, file.stat().st_size - BLOCK)
        for block in range(blocks):
            stream.seek(last * block // (blocks - 1))
            digest.update(stream.read(BLOCK))
    return digest.hexdigest()


class SceneWatch:
    """Remembers what the files of a scene were when it was made; scenes without local files are not watched."""

    def __init__(self, scene: Scene) -> None:
        self._name, self._files = scene.name, tuple(getattr(scene, "files", ()))
        self._before = self._state()

    def _state(self) -> list[Any]:
        # While a file is open, its inode belongs to it alone. It is no part of `files_state`: a copy has another.
        own = [file.stat() for file in self._files if not file.name.lower().endswith(SIDECAR)]
        return [files_state(self._files), [(found.st_dev, found.st_ino) for found in own]]

    def check(self) -> None:
        """Compare the files with what they were.

        Raises
        ------
        SceneChangedError
            One was written to, replaced or removed.
        """
        try:
            same = self._state() == self._before
        except OSError:
            same = False
        if not same:
            raise SceneChangedError(
                f"'{self._name}' was changed while it was mapped, so the map would be half of one scene and half of "
                "another: it is thrown away; map again when nothing writes to the scene"
            )
