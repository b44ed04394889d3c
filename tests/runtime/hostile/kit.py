"""What malformed inputs of `sdiff map` are made of, and how a refusal looks: one clear line, nothing lost or left."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectraldiff_runtime.mapping.map_scene import map_scene
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.output.journal import JOURNAL

HEIGHT, WIDTH, BANDS = 29, 37, 7
WAVES = [400 + 50 * band for band in range(BANDS)]
TILED = {"tiled": True, "blockxsize": 16, "blockysize": 16}
# TIFF tags.
IMAGE_WIDTH, IMAGE_LENGTH, BITS, COMPRESSION, STRIP_OFFSETS, SAMPLES, BYTE_COUNTS = 256, 257, 258, 259, 273, 277, 279


@dataclass(frozen=True)
class Kit:
    """What a case is made of: a folder, a writer of scenes in it, a scene's values (29, 37, 7), and a model."""

    folder: Path
    write: Callable[..., Path]
    cube: np.ndarray
    model_path: Path
    model: Model
    onnx: Callable[..., bytes]

    @property
    def out(self) -> Path:
        return self.folder / "out.tif"

    def file(self, name: str, content: str | bytes = b"") -> Path:
        """Write any file."""
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def link(self, name: str, target: str | Path) -> Path:
        """Make a symbolic link."""
        path = self.folder / name
        path.symlink_to(target)
        return path

    def envi(self, layout: str = "bil", **changes: object) -> Path:
        """Write an ENVI scene and change its header: a key's new value, or None to take it out."""
        path = self.write("scene.img", driver="ENVI", interleave=layout)
        header = path.with_suffix(".hdr")
        named = {key.replace("_", " "): value for key, value in changes.items()}
        lines = [line for line in header.read_text().splitlines() if line.partition("=")[0].strip() not in named]
        lines += [f"{key} = {value}" for key, value in named.items() if value is not None]
        header.write_text("\n".join(lines) + "\n")
        return path

    def tiff(self, tag: int, value: int, **options: Any) -> Path:
        """Write a TIFF and change the first value of a tag."""
        path = self.write(**options)
        path.write_bytes(patched(path.read_bytes(), tag, value))
        return path

    def cut(self, part: float | int, **options: Any) -> Path:
        """Write a scene and keep a part of its bytes: a share, so many, or all but so many."""
        path = self.write(**options)
        data = path.read_bytes()
        path.write_bytes(data[: int(part * len(data)) if isinstance(part, float) else part])
        return path

    def vrt(self, source: str | Path, name: str = "scene.vrt") -> Path:
        """Write a VRT whose bands come from a file, named relative to it."""
        bands = "".join(
            f'<VRTRasterBand dataType="UInt16" band="{band}"><SimpleSource><SourceFilename relativeToVRT="1">{source}'
            f"</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
            for band in range(1, BANDS + 1)
        )
        return self.file(name, f'<VRTDataset rasterXSize="{WIDTH}" rasterYSize="{HEIGHT}">{bands}</VRTDataset>')

    def unfinished(self, scene: Path) -> Path:
        """Begin a map with --resume and end it early; return the folder that it leaves."""

        def stop(_: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            map_scene(self.model, scene, self.out, tile=4, resume=True, progress=stop)
        return self.folder / "out.tif.unfinished"


def patched(data: bytes, tag: int, value: int) -> bytes:
    """Return a little-endian TIFF with another first value of a tag of its first directory."""
    (start,) = struct.unpack_from("<I", data, 4)
    changed = bytearray(data)
    for entry in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        found, kind, count = struct.unpack_from("<HHI", data, entry)
        if found == tag:
            size = {3: 2, 4: 4}[kind]
            place = entry + 8 if count * size <= 4 else struct.unpack_from("<I", data, entry + 8)[0]
            struct.pack_into({3: "<H", 4: "<I"}[kind], changed, place, value)
            return bytes(changed)
    raise AssertionError(f"no tag {tag}")


def links(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


Make = Callable[[Kit], Sequence[object]]


def begun(kit: Kit) -> Path:
    scene = kit.write()
    kit.unfinished(scene)
    return scene


def corrupt_journal(kit: Kit, content: bytes, *options: object) -> list[object]:
    scene = kit.write()
    (kit.unfinished(scene) / JOURNAL).write_bytes(content)
    return [scene, *options]


def check_refused(kit: Kit, call: Any, listing: Any, arguments: Sequence[object], wanted: int, words: str) -> None:
    before, names = listing(), links(kit.folder)
    code, lines = call(arguments)
    assert (code, len(lines)) == (wanted, 1), lines
    assert lines[0].startswith("sdiff: error: ")
    assert words.lower() in lines[0].lower()
    assert listing() == before
    assert links(kit.folder) == names


def classes_of(kit: Kit, values: np.ndarray, **options: Any) -> np.ndarray:
    """Return what the map of values in memory holds."""
    return map_scene(kit.model, values, warn=lambda _: None, **options).classes


def whole(kit: Kit) -> np.ndarray:
    return classes_of(kit, kit.cube)
