"""Scenes whose header, length or content is wrong: one clear line, the right exit code, no file changed or left."""

import os

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from spectraldiff_runtime.gdal import quiet_gdal
from tests.runtime.hostile.kit import (
    BANDS,
    BITS,
    COMPRESSION,
    IMAGE_LENGTH,
    IMAGE_WIDTH,
    SAMPLES,
    STRIP_OFFSETS,
    TILED,
    WAVES,
    Kit,
    Make,
    check_refused,
)


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


def opaque(values):
    """Return bytes whose fourth band is full everywhere."""
    found = values.astype(np.uint8)
    found[:, :, 3] = 255
    return found


def circle(kit: Kit) -> list[object]:
    kit.vrt("scene.vrt", "other.vrt")
    return [kit.vrt("other.vrt")]


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
        lambda k: [k.write(values=opaque(k.cube[:, :, :4]), photometric="rgb", alpha="yes")],
    ),
    "subdatasets": (1, "or stack those of one band each with gdalbuildvrt -separate", subdatasets),
    "vrt-nowhere": (1, "nowhere.tif: No such file", lambda k: [k.vrt("nowhere.tif")]),
    "vrt-itself": (1, "names itself", lambda k: [k.vrt("scene.vrt")]),
    "vrt-circle": (1, "names itself", circle),
    "vrt-no-xml": (1, "cannot be opened", lambda k: [k.file("scene.vrt", "<VRTDataset rasterXSize='1'")]),
    "out-is-source-of-vrt": (
        1,
        "the same file as the input",
        lambda k: [k.vrt(k.write().name), "--out", k.folder / "scene.tif", "--overwrite"],
    ),
}


CASES = {**HEADERS, **CUT, **CONTENT}


@pytest.mark.parametrize("case", CASES)
def test_refused(kit, sdiff_map, listing, case):
    code, words, make = CASES[case]
    check_refused(kit, sdiff_map, listing, make(kit), code, words)


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
