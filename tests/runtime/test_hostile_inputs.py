"""Malformed and hostile inputs of `sdiff map`: one clear line, the right exit code, no file lost, changed or left."""

import errno
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from spectraldiff_runtime.cli import run
from spectraldiff_runtime.gdal import quiet_gdal
from spectraldiff_runtime.mapping.map_scene import map_scene
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.model.model_file import seal
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


@pytest.fixture
def kit(tmp_path, write_scene, cube, model_path, model, build_onnx) -> Kit:
    return Kit(tmp_path, write_scene, cube, model_path, model, build_onnx)


@pytest.fixture
def sdiff_map(kit, capfd) -> Callable[..., tuple[int, list[str]]]:
    """Run `sdiff map` with --out and --model where they are not given; return the exit code and stderr's lines.

    All of stderr: what C libraries print too.
    """

    def call(arguments: Sequence[object]) -> tuple[int, list[str]]:
        given = [str(argument) for argument in arguments]
        if not {"--out", "--out-dir"} & set(given):
            given += ["--out", str(kit.out)]
        if "--model" not in given:
            given += ["--model", str(kit.model_path)]
        capfd.readouterr()
        code = run(["map", *given, "-q"])
        out, err = capfd.readouterr()
        assert out == ""
        return code, err.splitlines()

    return call


def links(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


Make = Callable[[Kit], Sequence[object]]


def same_stem(kit: Kit) -> list[object]:
    (kit.folder / "other").mkdir()
    first = kit.write()
    return [first, shutil.copy(first, kit.folder / "other" / "scene.tif"), "--out-dir", kit.folder]


def subdatasets(kit: Kit) -> list[object]:
    path = kit.folder / "scene.gpkg"
    for table in ("a", "b"):
        source = kit.write(f"{table}.tif", kit.cube[:, :, :3].astype(np.uint8))
        with quiet_gdal():
            rasterio.shutil.copy(source, path, driver="GPKG", append_subdataset="YES", raster_table=table)
    return [path]


def mixed_types(kit: Kit) -> list[object]:
    scene = kit.vrt(kit.write().name)
    scene.write_text(scene.read_text().replace("UInt16", "Float32", 1))
    return [scene]


def circle(kit: Kit) -> list[object]:
    kit.vrt("scene.vrt", "other.vrt")
    return [kit.vrt("other.vrt")]


def begun(kit: Kit) -> Path:
    scene = kit.write()
    kit.unfinished(scene)
    return scene


def changed_after(kit: Kit, *options: object) -> list[object]:
    scene = begun(kit)
    kit.write(values=kit.cube + 1)
    return [scene, *options]


def corrupt_journal(kit: Kit, content: bytes, *options: object) -> list[object]:
    scene = kit.write()
    (kit.unfinished(scene) / JOURNAL).write_bytes(content)
    return [scene, *options]


def over(kit: Kit, option: str, name: str, *more: object) -> list[object]:
    """Return arguments that name a file that is there already as an output."""
    return [kit.write(), option, kit.file(name, "precious"), *more]


HEADERS: dict[str, tuple[int, str, Make]] = {
    "envi-more-samples": (1, "cut short", lambda k: [k.envi(samples=38)]),
    "envi-huge-samples": (1, "int overflow occurred", lambda k: [k.envi(samples=2**31 - 1)]),
    "envi-samples-past-int": (1, "missing or invalid", lambda k: [k.envi(samples=10**30)]),
    "envi-zero-samples": (1, "cannot be opened", lambda k: [k.envi(samples=0)]),
    "envi-negative-lines": (1, "cannot be opened", lambda k: [k.envi(lines=-29)]),
    "envi-text-lines": (1, "cannot be opened", lambda k: [k.envi(lines="many")]),
    "envi-no-lines": (1, "cannot be opened", lambda k: [k.envi(lines=None)]),
    "envi-huge-lines": (1, "cut short", lambda k: [k.envi(lines=10**9)]),
    "envi-more-bands": (1, "cut short", lambda k: [k.envi(bands=8)]),
    "envi-zero-bands": (1, "missing or invalid", lambda k: [k.envi(bands=0)]),
    "envi-negative-bands": (1, "missing or invalid", lambda k: [k.envi(bands=-7)]),
    "envi-huge-bands": (1, "cannot be opened", lambda k: [k.envi(bands=2**31 - 1)]),
    "envi-wider-type": (1, "cut short", lambda k: [k.envi(data_type=4)]),
    "envi-complex-type": (1, "cut short", lambda k: [k.envi(data_type=6)]),
    "envi-unknown-type": (1, "data_type", lambda k: [k.envi(data_type=99)]),
    "envi-text-type": (1, "data_type", lambda k: [k.envi(data_type="uint16")]),
    "envi-no-type": (1, "has none as data type: wanted ENVI's number", lambda k: [k.envi(data_type=None)]),
    "envi-unknown-interleave": (
        1,
        "has 'zigzag' as interleave: wanted bsq, bil or bip",
        lambda k: [k.envi(interleave="zigzag")],
    ),
    "envi-header-offset": (1, "cut short", lambda k: [k.envi(header_offset=2)]),
    "envi-huge-header-offset": (1, "cut short", lambda k: [k.envi(header_offset=2**62)]),
    "envi-past-any-header-offset": (1, "cannot be opened", lambda k: [k.envi(header_offset=2**70)]),
    "envi-says-compressed": (1, "cannot be opened", lambda k: [k.envi(file_compression=1)]),
    "envi-no-header": (1, "not recognized", lambda k: [k.envi(), (k.folder / "scene.hdr").unlink()][:1]),
    "envi-empty-header": (1, "not recognized", lambda k: [k.envi(), k.file("scene.hdr")][:1]),
    "envi-header-of-a-binary": (1, "not recognized", lambda k: [k.envi(), k.file("scene.hdr", os.urandom(2000))][:1]),
    "envi-unclosed-list": (1, "missing or invalid", lambda k: [k.envi(bands=None, wavelength="{400, 450")]),
    "envi-negative-header-offset": (1, "cannot be opened", lambda k: [k.envi(header_offset=-2)]),
    "envi-text-header-offset": (1, "has '2 bytes' as header offset", lambda k: [k.envi(header_offset="2 bytes")]),
    "envi-text-byte-order": (1, "has 'big' as byte order: wanted 0 or 1", lambda k: [k.envi(byte_order="big")]),
    "envi-no-interleave": (1, "has none as interleave", lambda k: [k.envi(interleave=None)]),
    "tiff-wider": (1, "cut short", lambda k: [k.tiff(IMAGE_WIDTH, 3700)]),
    "tiff-huge-width": (1, "cut short", lambda k: [k.tiff(IMAGE_WIDTH, 65535)]),
    "tiff-zero-width": (1, "cannot be opened", lambda k: [k.tiff(IMAGE_WIDTH, 0)]),
    "tiff-longer": (1, "cut short", lambda k: [k.tiff(IMAGE_LENGTH, 60000)]),
    "tiff-longer-tiled": (1, "cut short", lambda k: [k.tiff(IMAGE_LENGTH, 60000, **TILED)]),
    "tiff-wider-type": (1, "bitspersample", lambda k: [k.tiff(BITS, 32)]),
    "tiff-impossible-type": (1, "bitspersample", lambda k: [k.tiff(BITS, 999)]),
    "tiff-fewer-bands": (1, "cannot be opened", lambda k: [k.tiff(SAMPLES, 3)]),
    "tiff-more-bands": (1, "cannot be opened", lambda k: [k.tiff(SAMPLES, 700)]),
    "tiff-no-bands": (1, "samplesperpixel", lambda k: [k.tiff(SAMPLES, 0)]),
    "tiff-strips-beyond-the-end": (1, "cut short", lambda k: [k.tiff(STRIP_OFFSETS, 2**31)]),
    "tiff-other-compression": (1, "damaged", lambda k: [k.tiff(COMPRESSION, 8)]),
    "tiff-unknown-compression": (1, "missing codec", lambda k: [k.tiff(COMPRESSION, 60001)]),
}

CUT: dict[str, tuple[int, str, Make]] = {
    "empty-tiff": (1, "cannot be opened", lambda k: [k.file("scene.tif")]),
    "empty-envi": (1, "cannot be opened", lambda k: [k.envi(), k.file("scene.img")][:1]),
    "in-the-header": (1, "cannot be opened", lambda k: [k.cut(6)]),
    "before-the-tags": (1, "cannot be opened", lambda k: [k.cut(8)]),
    "in-the-tags": (1, "cannot be opened", lambda k: [k.cut(60)]),
    "first-strip": (1, "cut short", lambda k: [k.cut(1000)]),
    "half": (1, "cut short", lambda k: [k.cut(0.5)]),
    "last-strip": (1, "cut short", lambda k: [k.cut(0.99)]),
    "one-byte": (1, "cut short", lambda k: [k.cut(-1)]),
    "one-byte-by-pixel": (1, "cut short", lambda k: [k.cut(-1, interleave="pixel")]),
    "one-byte-by-band": (1, "cut short", lambda k: [k.cut(-1, interleave="band")]),
    "one-byte-tiled": (1, "cut short", lambda k: [k.cut(-1, **TILED)]),
    "half-deflate": (1, "cut short", lambda k: [k.cut(0.5, compress="deflate")]),
    "one-byte-deflate": (1, "cut short", lambda k: [k.cut(-1, compress="deflate", **TILED)]),
    "half-lzw": (1, "cut short", lambda k: [k.cut(0.5, compress="lzw", interleave="band")]),
    "half-zstd": (1, "cut short", lambda k: [k.cut(0.5, compress="zstd")]),
    "half-bigtiff": (1, "cut short", lambda k: [k.cut(0.5, bigtiff="YES")]),
    "bsq": (1, "cut short", lambda k: [k.cut(-1, name="scene.img", driver="ENVI", interleave="bsq")]),
    "bil": (1, "cut short", lambda k: [k.cut(-1, name="scene.img", driver="ENVI", interleave="bil")]),
    "bip": (1, "cut short", lambda k: [k.cut(0.1, name="scene.img", driver="ENVI", interleave="bip")]),
}

CONTENT: dict[str, tuple[int, str, Make]] = {
    "waves-elsewhere": (1, "no band within", lambda k: [k.write(waves=[w + 900 for w in WAVES])]),
    "waves-alike": (1, "no band within", lambda k: [k.write(waves=[500] * BANDS)]),
    "bbl-short": (1, "bbl", lambda k: [k.envi(bbl="{1, 1}")]),
    "bbl-zeros": (1, "neither alpha nor bad", lambda k: [k.envi(bbl="{0,0,0,0,0,0,0}")]),
    "bbl-text": (1, "bbl", lambda k: [k.envi(bbl="{a,b,c,d,e,f,g}")]),
    "complex": (1, "complex64 values: wanted real numbers", lambda k: [k.write(values=k.cube.astype(np.complex64))]),
    "mixed-types": (1, "bands of different types (float32, uint16)", mixed_types),
    "palette": (
        1,
        "1 bands in use",
        lambda k: [k.write(values=k.cube[:, :, :1].astype(np.uint8), photometric="palette")],
    ),
    "rgba": (
        1,
        "3 bands in use",
        lambda k: [k.write(values=k.cube[:, :, :4].astype(np.uint8), photometric="rgb", alpha="yes")],
    ),
    "subdatasets": (1, "or stack those of one band each with gdalbuildvrt -separate", subdatasets),
    "vrt-nowhere": (1, "nowhere.tif: No such file", lambda k: [k.vrt("nowhere.tif")]),
    "vrt-itself": (1, "cannot be read", lambda k: [k.vrt("scene.vrt")]),
    "vrt-circle": (1, "cannot be read", circle),
    "vrt-no-xml": (1, "cannot be opened", lambda k: [k.file("scene.vrt", "<VRTDataset rasterXSize='1'")]),
    "out-is-source-of-vrt": (
        1,
        "the same file as the input",
        lambda k: [k.vrt(k.write().name), "--out", k.folder / "scene.tif", "--overwrite"],
    ),
}

PLACES: dict[str, tuple[int, str, Make]] = {
    "scene-folder": (1, "is a folder", lambda k: [k.folder]),
    "scene-missing": (1, "does not exist", lambda k: [k.folder / "no.tif"]),
    "scene-name-of-two-lines": (1, "does not exist", lambda k: [k.folder / "no\nthing.tif"]),
    "scene-endless-name": (1, "does not exist", lambda k: [k.folder / ("long" * 100)]),
    "scene-loop": (1, "does not exist", lambda k: [k.link("loop.tif", "loop.tif")]),
    "scene-broken-link": (1, "does not exist", lambda k: [k.link("scene.tif", "gone.tif")]),
    "scene-empty-name": (1, "is no file name", lambda k: [""]),
    "scene-device": (1, "is a pipe or a device", lambda k: ["/dev/null"]),
    "swapped": (1, "is not a SpectralDiff model file", lambda k: [k.model_path, "--model", k.write()]),
    "model-folder": (1, "is a folder", lambda k: [k.write(), "--model", k.folder]),
    "model-missing": (1, "there is no model file", lambda k: [k.write(), "--model", k.folder / "no.onnx"]),
    "model-loop": (1, "too many levels", lambda k: [k.write(), "--model", k.link("m.onnx", "m.onnx")]),
    "model-broken-link": (1, "there is no model file", lambda k: [k.write(), "--model", k.link("m.onnx", "gone")]),
    "model-empty": (1, "is empty", lambda k: [k.write(), "--model", k.file("m.onnx")]),
    "model-cut": (
        1,
        "is cut short",
        lambda k: [k.write(), "--model", k.file("m.onnx", k.model_path.read_bytes()[:-1])],
    ),
    "model-grown": (
        1,
        "was changed",
        lambda k: [k.write(), "--model", k.file("m.onnx", k.model_path.read_bytes() + b"\0")],
    ),
    "model-of-others": (1, "SpectralDiff did not write", lambda k: [k.write(), "--model", k.file("m.onnx", k.onnx())]),
    "model-without-card": (
        1,
        "no model card",
        lambda k: [k.write(), "--model", k.file("m.onnx", seal(k.onnx(card=None)))],
    ),
    "model-sealed-rubbish": (
        1,
        "is not a SpectralDiff model",
        lambda k: [k.write(), "--model", k.file("m.onnx", seal(b"rubbish" * 99))],
    ),
    "out-folder": (1, "is a folder", lambda k: [k.write(), "--out", k.folder]),
    "out-in-no-folder": (1, "there is no folder", lambda k: [k.write(), "--out", k.folder / "no" / "out.tif"]),
    "out-in-a-file": (1, "there is no folder", lambda k: [k.write(), "--out", k.file("file") / "out.tif"]),
    "out-exists": (1, "--overwrite", lambda k: over(k, "--out", "out.tif")),
    "out-loop": (1, "no plain file", lambda k: [k.write(), "--out", k.link("loop.tif", "loop.tif"), "--overwrite"]),
    "out-broken-link": (1, "no plain file", lambda k: [k.write(), "--out", k.link("l.tif", "gone.tif"), "--overwrite"]),
    "out-device": (1, "no plain file", lambda k: [k.write(), "--out", "/dev/null", "--overwrite"]),
    "out-proc": (1, "cannot be written", lambda k: [k.write(), "--out", "/proc/out.tif"]),
    "out-endless-name": (
        1,
        "cannot be written (File name too long)",
        lambda k: [k.write(), "--out", k.folder / ("o" * 300)],
    ),
    "out-name-without-room": (
        1,
        "cannot be written (File name too long)",
        lambda k: [k.write(), "--out", k.folder / ("o" * 250)],
    ),
    "out-name-with-room-for-the-folder-only": (
        1,
        "cannot be written (File name too long)",
        lambda k: [k.write(), "--out", k.folder / ("o" * 242)],
    ),
    "out-is-scene": (
        1,
        "the same file as the input",
        lambda k: [k.write(), "--out", k.folder / "scene.tif", "--overwrite"],
    ),
    "out-is-scene-by-link": (
        1,
        "the same file as the input",
        lambda k: [k.write(), "--out", k.link("l.tif", "scene.tif"), "--overwrite"],
    ),
    "out-is-header": (
        1,
        "has the suffix '.hdr' and geotiffs are written: wanted .tif or .tiff",
        lambda k: [k.envi(), "--out", k.folder / "scene.hdr", "--overwrite"],
    ),
    "out-is-model": (
        1,
        "the same file as the input",
        lambda k: [k.write(), "--model", m := k.file("m.onnx", k.model_path.read_bytes()), "--out", m, "--overwrite"],
    ),
    "out-is-mask": (
        1,
        "the same file as the input",
        lambda k: [k.write(), "--mask", m := square(k), "--out", m, "--overwrite"],
    ),
    "confidence-is-out": (1, "the same file as what --out names", lambda k: [k.write(), "--confidence", k.out]),
    "preview-is-confidence": (
        1,
        "the same file as",
        lambda k: [k.write(), "--confidence", k.folder / "a.png", "--preview", k.folder / "." / "a.png"],
    ),
    **{
        f"{option[2:]}-of-another-kind-{suffix}": (
            1,
            f"{option} '",
            lambda k, option=option, suffix=suffix: [k.write(), option, k.folder / f"classes.{suffix}"],
        )
        for option, suffix in [("--out", "xyz"), ("--out", "png"), ("--confidence", "shp"), ("--probabilities", "nc")]
    },
    "preview-exists": (1, "--overwrite", lambda k: over(k, "--preview", "map.png")),
    "preview-of-another-kind": (1, "wanted .png or .jpg", lambda k: [k.write(), "--preview", k.folder / "map.gif"]),
    "out-dir-is-a-file": (2, "is no folder", lambda k: [k.write(), "--out-dir", k.file("maps", "precious")]),
    "out-dir-in-no-folder": (2, "cannot be made", lambda k: [k.write(), "--out-dir", k.folder / "no" / "maps"]),
    "same-stem": (2, "would both be mapped to", same_stem),
    "out-with-two-scenes": (2, "give --out-dir", lambda k: [k.write(), k.write("b.tif"), "--out", k.out]),
    "out-and-out-dir": (
        2,
        "give --out classes.tif for one scene",
        lambda k: [k.write(), "--out", k.out, "--out-dir", k.folder],
    ),
    "another-unfinished": (1, "go on with --resume", lambda k: [begun(k)]),
    "unfinished-file": (1, "out.tif.unfinished", lambda k: [k.write(), k.file("out.tif.unfinished", "precious")][:1]),
    "unfinished-loop": (
        1,
        "is in the way",
        lambda k: [k.write(), k.link("out.tif.unfinished", "out.tif.unfinished")][:1],
    ),
    "unfinished-elsewhere": (
        1,
        "is in the way",
        lambda k: [k.write(), (k.folder / "mine").mkdir(), k.link("out.tif.unfinished", "mine")][:1],
    ),
    "journal-empty": (1, "cannot be read", lambda k: corrupt_journal(k, b"", "--resume")),
    "journal-rubbish": (1, "cannot be read", lambda k: corrupt_journal(k, os.urandom(500), "--resume")),
    "journal-rubbish-not-resumed": (1, "--overwrite", lambda k: corrupt_journal(k, os.urandom(500))),
    "resume-of-a-changed-scene": (1, "was begun with another scene", lambda k: changed_after(k, "--resume")),
    "resume-with-other-options": (
        1,
        "was begun with another least confidence",
        lambda k: [begun(k), "--resume", "--min-confidence", "0.5"],
    ),
}

OPTIONS: dict[str, tuple[int, str, Sequence[object]]] = {
    "bounds-nan": (2, "--bounds", ["--bounds", "nan", "0", "1", "1"]),
    "bounds-infinite": (2, "--bounds", ["--bounds", "-inf", "-inf", "inf", "inf"]),
    "bounds-swapped": (2, "--bounds", ["--bounds", "480100", "4469900", "480000", "4470000"]),
    "bounds-outside": (1, "hold no pixel", ["--bounds", "0", "0", "1", "1"]),
    "bounds-outside-the-world": (
        1,
        "hold no pixel",
        ["--bounds", "500", "500", "501", "501", "--bounds-crs", "EPSG:4326"],
    ),
    "bounds-three": (2, "--bounds", ["--bounds", "1", "2", "3"]),
    "bounds-crs-nonsense": (2, "--bounds-crs", ["--bounds", "0", "0", "1", "1", "--bounds-crs", "EPSG:nonsense"]),
    "bounds-crs-alone": (2, "--bounds-crs was given without --bounds", ["--bounds-crs", "EPSG:4326"]),
    "window-negative": (2, "--window", ["--window", "-1", "0", "4", "4"]),
    "window-zero": (2, "--window", ["--window", "0", "0", "0", "4"]),
    "window-outside": (2, "--window", ["--window", "0", "0", "38", "4"]),
    "window-huge": (2, "--window", ["--window", "0", "0", str(10**30), "4"]),
    "window-and-bounds": (2, "were both given", ["--window", "0", "0", "4", "4", "--bounds", "0", "0", "1", "1"]),
    "nodata-text": (2, "--nodata", ["--nodata", "nothing"]),
    "bands-zero": (2, "--bands", ["--bands", "0-6"]),
    "bands-past-any": (2, "--bands", ["--bands", "1-" + "9" * 30]),
    "bands-missing": (1, "--bands asks for band 8", ["--bands", "2-8"]),
    "memory-none": (2, "give at least", ["--max-memory", "0"]),
    "memory-text": (2, "--max-memory has 'abc'", ["--max-memory", "abc"]),
    "memory-little": (2, "give at least", ["--max-memory", "10MB"]),
    "memory-negative": (2, "--max-memory has", ["--max-memory=-1GB"]),
    "tile-past-memory": (2, "give at least", ["--tile", "100000", "--max-memory", "401MB"]),
    "blocksize-none": (2, "--blocksize 0", ["--blocksize", "0"]),
    "blocksize-odd": (2, "--blocksize 17", ["--blocksize", "17"]),
    "blocksize-huge": (2, "--blocksize 100000", ["--blocksize", "100000"]),
    "co-no-pair": (2, "wanted KEY=VALUE", ["--co", "nonsense"]),
    "co-unknown": (2, "--co NONSENSE=1", ["--co", "NONSENSE=1"]),
    "co-tiles": (2, "--blocksize", ["--co", "BLOCKSIZE=256"]),
    "co-lossy": (2, "--co COMPRESS=JPEG", ["--co", "COMPRESS=JPEG"]),
    "of-nonsense": (2, "--of", ["--of", "nonsense"]),
    "min-confidence": (2, "wanted a number from 0 to 1", ["--min-confidence", "2"]),
    "min-confidence-nan": (2, "wanted a number from 0 to 1", ["--min-confidence", "nan"]),
    "confidence-type": (2, "--confidence-type", ["--confidence-type", "int64"]),
    "cluster-nonsense": (2, "--cluster", ["--cluster", "nonsense"]),
    "workers-none": (2, "--workers", ["--workers", "0"]),
    "cluster-and-workers": (2, "exclude each other", ["--cluster", "tcp://127.0.0.1:1", "--workers", "1"]),
    "mask-missing": (1, "does not exist", ["--mask", "/no/such/file.gpkg"]),
}

MASKS: dict[str, tuple[int, str, Make]] = {
    "mask-is-a-raster": (1, "cannot be read as a vector file", lambda k: [k.write(), "--mask", k.folder / "scene.tif"]),
    "mask-empty": (1, "cannot be read as a vector file", lambda k: [k.write(), "--mask", k.file("m.geojson")]),
    "mask-folder": (1, "cannot be read as a vector file", lambda k: [k.write(), "--mask", k.folder]),
    "mask-loop": (1, "does not exist", lambda k: [k.write(), "--mask", k.link("m.gpkg", "m.gpkg")]),
    "mask-without-features": (
        1,
        "no polygon",
        lambda k: [k.write(), "--mask", k.file("m.geojson", '{"type": "FeatureCollection", "features": []}')],
    ),
    "mask-unplaced-scene": (
        2,
        "has no georeference",
        lambda k: [k.write(transform=None), "--mask", k.file("m.geojson", "{}")],
    ),
    "bounds-unplaced-scene": (
        2,
        "has no georeference",
        lambda k: [k.write(transform=None), "--bounds", "0", "0", "1", "1"],
    ),
}


def square(kit: Kit) -> Path:
    """Write a vector file whose one polygon holds columns 2 to 12 and rows 3 to 13."""
    x, y = (480_040, 480_240), (4_469_740, 4_469_940)
    ring = [[x[0], y[0]], [x[1], y[0]], [x[1], y[1]], [x[0], y[1]], [x[0], y[0]]]
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32616"}}
    return kit.file("m.geojson", json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))


def check_refused(kit: Kit, call: Any, listing: Any, arguments: Sequence[object], wanted: int, words: str) -> None:
    before, names = listing(), links(kit.folder)
    code, lines = call(arguments)
    assert (code, len(lines)) == (wanted, 1), lines
    assert lines[0].startswith("sdiff: error: ")
    assert words.lower() in lines[0].lower()
    assert listing() == before
    assert links(kit.folder) == names


CASES = {**HEADERS, **CUT, **CONTENT, **PLACES, **MASKS}


@pytest.mark.parametrize("case", CASES)
def test_refused(kit, sdiff_map, listing, case):
    code, words, make = CASES[case]
    check_refused(kit, sdiff_map, listing, make(kit), code, words)


@pytest.mark.parametrize("case", OPTIONS)
def test_refused_option(kit, sdiff_map, listing, case):
    code, words, options = OPTIONS[case]
    check_refused(kit, sdiff_map, listing, [kit.write(), *options], code, words)


Check = Callable[[Kit], np.ndarray]


def classes_of(kit: Kit, values: np.ndarray, **options: Any) -> np.ndarray:
    """Return what the map of values in memory holds."""
    return map_scene(kit.model, values, warn=lambda _: None, **options).classes


def outside(kit: Kit) -> Path:
    """Write a VRT whose source is in the folder above its own."""
    source = kit.write()
    (kit.folder / "inner").mkdir()
    return kit.vrt(f"../{source.name}", "inner/scene.vrt")


def emptied(kit: Kit, value: float, dtype: str, **options: Any) -> Path:
    return kit.write(values=np.full(kit.cube.shape, value, dtype), **options)


def sized(height: int, width: int) -> tuple[Make, Check, int]:
    return (
        lambda kit: [kit.write(values=kit.cube[:height, :width])],
        lambda kit: classes_of(kit, kit.cube[:height, :width]),
        0,
    )


def named(name: str) -> tuple[Make, Check, int]:
    return lambda kit: [kit.write(name)], whole, 0


def waved(text: str, unit: str = "Nanometers", warnings: int = 0) -> tuple[Make, Check, int]:
    """A list of wavelengths that is none, so that bands go by their numbers."""
    return lambda kit: [kit.envi(wavelength=text, wavelength_units=unit)], whole, warnings


def whole(kit: Kit) -> np.ndarray:
    return classes_of(kit, kit.cube)


def nothing(kit: Kit) -> np.ndarray:
    return np.zeros(kit.cube.shape[:2], np.uint8)


def first_rows(kit: Kit) -> np.ndarray:
    return classes_of(kit, kit.cube[:20])


def some_missing(kit: Kit) -> Path:
    values = kit.cube.astype(np.float32)
    values[3, 4, 5] = np.nan
    values[8, 9, 0] = np.inf
    return kit.write(values=values)


def without_some(kit: Kit) -> np.ndarray:
    values = kit.cube.astype(np.float32)
    values[3, 4, 5] = values[8, 9, 0] = np.nan
    wanted = classes_of(kit, values)
    assert (wanted == 0).sum() == 2
    return wanted


# What is mapped: arguments, the classes that are wanted, and how many warnings there are.
MAPPED: dict[str, tuple[Make, Check, int]] = {
    "rotated": (lambda k: [k.write(transform=rasterio.Affine(20, 5, 480_000, 5, -20, 4_470_000))], whole, 0),
    "no-crs": (lambda k: [k.write(crs=None)], whole, 0),
    "no-place": (lambda k: [k.write(crs=None, transform=None)], whole, 0),
    "all-nodata": (lambda k: [emptied(k, 7, "uint16", nodata=7)], nothing, 1),
    "all-nan": (lambda k: [emptied(k, np.nan, "float32")], nothing, 1),
    "all-infinite": (lambda k: [emptied(k, -np.inf, "float64")], nothing, 1),
    "some-missing": (lambda k: [some_missing(k)], without_some, 0),
    "one-column": sized(29, 1),
    "one-row": sized(1, 37),
    "one-pixel": sized(1, 1),
    "smaller-than-the-halo": sized(2, 2),
    "nodata-outside-the-type": (lambda k: [k.write(), "--nodata=-9999"], whole, 1),
    "nanometres": (lambda k: [k.write(waves=WAVES)], whole, 0),
    "micrometres": waved("{0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7}", "Micrometers"),
    "micrometres-without-unit": waved("{0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7}", "Unknown"),
    "waves-text": waved("{blue, green, red, b, c, d, e}"),
    "waves-too-few": waved("{400, 450}"),
    "waves-zero": waved("{0, 450, 500, 550, 600, 650, 700}"),
    "waves-negative": waved("{-400, 450, 500, 550, 600, 650, 700}"),
    "waves-nan": waved("{nan, 450, 500, 550, 600, 650, 700}"),
    "waves-in-another-unit": waved("{1, 2, 3, 4, 5, 6, 7}", "Furlongs"),
    "map-info-text": (lambda k: [k.envi(map_info="{UTM, here, there}", coordinate_system_string=None)], whole, 0),
    "header-says-less": (lambda k: [k.envi(lines=20)], first_rows, 1),
    "tiff-strips-too-short": (lambda k: [k.tiff(BYTE_COUNTS, 10)], whole, 0),
    "name-with-spaces": named("my scene of today.tif"),
    "name-with-quotes": named('it\'s "mine".tif'),
    "name-of-two-lines": named("two\nlines.tif"),
    "name-of-many-letters": named("Größe-Москва-東京-🛰.tif"),
    "name-with-a-percent": named("100% {sure} $HOME & <b>.tif"),
    "long-name": named("s" * 240 + ".tif"),
    "vrt-out-of-its-folder": (lambda k: [outside(k)], whole, 0),
    "scene-by-link": (lambda k: [k.link("link.tif", k.write())], whole, 0),
    "rest-of-another-kind": (lambda k: [k.write(), (k.folder / "out.tif.unfinished").mkdir()][:1], whole, 0),
    "rubbish-journal-overwritten": (lambda k: corrupt_journal(k, b"rubbish", "--overwrite"), whole, 0),
    "half-a-journal-resumed": (lambda k: [begun(k), "--resume"], whole, 0),
}


@pytest.mark.parametrize("case", MAPPED)
def test_mapped(kit, sdiff_map, listing, case):
    make, wanted, warnings = MAPPED[case]
    arguments = make(kit)
    before = {name: data for name, data in listing().items() if ".unfinished" not in name}
    code, lines = sdiff_map(arguments)
    assert (code, len(lines)) == (0, warnings), lines
    assert all(line.startswith("sdiff: warning: ") for line in lines)
    after = listing()
    made = {"out.tif", "out.tif.aux.xml"}
    assert {name: data for name, data in after.items() if name not in made} == before
    assert made <= set(after)
    assert not (kit.folder / "out.tif.unfinished").exists()
    with quiet_gdal(), rasterio.open(kit.out) as found, rasterio.open(arguments[0]) as scene:
        np.testing.assert_array_equal(found.read(1), wanted(kit))
        assert (found.crs, found.transform, found.nodata) == (scene.crs, scene.transform, 0)


PIPED = """
import sys
from spectraldiff_runtime.cli import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize("place", ["scene", "--model", "--out", "--mask", "--preview"])
def test_pipes_do_not_hang(kit, python, listing, place):
    os.mkfifo(pipe := kit.folder / "pipe.png")
    named = {"scene": kit.write(), "--model": kit.model_path, "--out": kit.out, place: pipe}
    scene = named.pop("scene")
    before, names = listing(), links(kit.folder)
    options = [part for option, path in named.items() for part in (option, path)]
    done = python("-c", PIPED, "map", scene, *options, "-q", "--overwrite")
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (1, 1), done.stderr
    assert lines[0].startswith("sdiff: error: ")
    assert str(pipe) in lines[0]
    assert (listing(), links(kit.folder)) == (before, names)


@pytest.fixture
def locked(tmp_path) -> Iterator[Callable[[Path], None]]:
    """Make folders that nobody writes to, not even root: mounted for reading only, where that is allowed."""
    mounted: list[Path] = []

    def lock(folder: Path) -> None:
        if os.geteuid() != 0:
            folder.chmod(0o500)
            return
        for options in (["--bind"], ["-o", "remount,bind,ro"]):
            done = subprocess.run(["mount", *options, str(folder), str(folder)], capture_output=True)
            if done.returncode:
                pytest.skip("mounting is not allowed here")
            mounted[:] = [folder]

    yield lock
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_scene_in_a_folder_for_reading_only(kit, sdiff_map, locked):
    (kit.folder / "fixed").mkdir()
    scene = kit.write("fixed/scene.tif")
    locked(scene.parent)
    assert sdiff_map([scene]) == (0, [])
    with quiet_gdal(), rasterio.open(kit.out) as found:
        np.testing.assert_array_equal(found.read(1), whole(kit))
    assert [path.name for path in scene.parent.iterdir()] == ["scene.tif"]


def test_no_output_in_a_folder_for_reading_only(kit, sdiff_map, locked, listing):
    (kit.folder / "fixed").mkdir()
    scene = kit.write()
    locked(kit.folder / "fixed")
    for option, name in {"--out": "a.tif", "--confidence": "a.tif", "--preview": "a.png"}.items():
        check_refused(kit, sdiff_map, listing, [scene, option, kit.folder / "fixed" / name], 1, "cannot be written")


def test_an_output_by_link_replaces_what_it_leads_to(kit, sdiff_map):
    real = kit.file("real.tif", "old")
    link = kit.link("link.tif", real.name)
    assert sdiff_map([kit.write(), "--out", link, "--overwrite"]) == (0, [])
    assert link.is_symlink()
    with quiet_gdal(), rasterio.open(real) as found:
        np.testing.assert_array_equal(found.read(1), whole(kit))


def test_fewer_bands_than_the_file_holds(kit, sdiff_map, listing):
    scene = kit.envi(bands=6, band_names=None)
    before = listing()
    code, (doubt, error) = sdiff_map([scene])
    assert code == 1
    assert "has 15,022 bytes and its header wants 12,876: check samples" in doubt
    assert "6 bands in use and the model wants 7" in error
    assert listing() == before


def test_one_bad_scene_of_many(kit, sdiff_map, listing):
    """The others are mapped, and the bad one leaves nothing."""
    good, bad = kit.write("good.tif"), kit.cut(0.5, name="bad.tif")
    maps = kit.folder / "maps"
    before = listing()
    code, lines = sdiff_map([bad, good, "--out-dir", maps])
    assert (code, len(lines)) == (1, 1), lines
    assert "bad.tif': error: " in lines[0]
    assert "cut short" in lines[0]
    assert set(listing()) == {*before, "maps/good.tif", "maps/good.tif.aux.xml"}


def test_an_output_that_cannot_be_written_is_refused_before_the_scene_is_read(kit, sdiff_map, monkeypatch):
    monkeypatch.setattr("spectraldiff_runtime.mapping.map_scene.run_here", lambda *_: pytest.fail("the scene is read"))
    code, lines = sdiff_map([kit.write(), "--confidence", "/proc/confidence.tif"])
    assert (code, len(lines)) == (1, 1)
    assert "cannot be written" in lines[0]
    assert os.strerror(errno.ENOENT) in lines[0]
