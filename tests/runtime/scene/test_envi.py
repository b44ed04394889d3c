"""ENVI files: their headers, and those that are interleaved by line or hold band by band."""

import os

import numpy as np
import pytest
import rasterio

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.gdal import quiet_gdal
from spectraldiff_runtime.scene.envi import envi_grid, envi_wavelengths, header_offset, open_raw
from spectraldiff_runtime.scene.raster import RasterScene

HEADER = """ENVI
samples = {2}
lines = {1}
bands = {0}
header offset = {offset}
file type = ENVI Standard
data type = {kind}
interleave = {interleave}
byte order = {order}
"""


@pytest.fixture
def write_lines(tmp_path):
    """Write (B, H, W) values line by line or band by band, with a rim of other bytes before them."""

    def write(values, kind, order=0, offset=0, interleave="bil", more=""):
        path = tmp_path / "scene.img"
        ordered = values if interleave.lower() == "bsq" else values.transpose(1, 0, 2)
        stored = ordered.astype(values.dtype.newbyteorder("<>"[order]))
        path.write_bytes(b"x" * offset + stored.tobytes())
        text = HEADER.format(*values.shape, offset=offset, kind=kind, interleave=interleave, order=order)
        path.with_suffix(".hdr").write_text(text + more)
        return path

    return write


def values_of(dtype, shape=(5, 6, 4)):
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


@pytest.mark.parametrize("interleave", ["bil", "BIL", "Bil", "bsq", "BSQ"])
@pytest.mark.parametrize(("order", "offset"), [(0, 0), (1, 0), (0, 13), (1, 7)])
@pytest.mark.parametrize(("kind", "dtype"), [(1, "u1"), (2, "i2"), (12, "u2"), (3, "i4"), (4, "f4"), (5, "f8")])
def test_every_type_and_byte_order(write_lines, kind, dtype, order, offset, interleave):
    values = values_of(dtype)
    path = write_lines(values, kind, order, offset, interleave)
    with quiet_gdal(), rasterio.open(path) as dataset:
        lines = open_raw(dataset)
        assert lines is not None
        lines.close()
        np.testing.assert_array_equal(dataset.read(), values)  # GDAL sees the same file
    with RasterScene(path) as scene:
        np.testing.assert_array_equal(scene.read(0, 6, 0, 4), values)
        np.testing.assert_array_equal(scene.read(2, 5, 1, 3), values[:, 2:5, 1:3])
        for part in (rows_in_memory(values[:, 2:5]), np.empty((4, 3, 5), dtype).transpose(2, 1, 0)):
            assert scene.read(2, 5, 0, 4, out=part) is part
            np.testing.assert_array_equal(part, values[:, 2:5])
    with RasterScene(path, bands=(5, 2)) as scene:
        np.testing.assert_array_equal(scene.read(1, 6, 0, 4, out=rows_in_memory(values[:2, 1:])), values[[4, 1], 1:])


def rows_in_memory(values):
    """Return room for values, (B, h, w), where all bands of a row are adjacent, as in a part of a map."""
    bands, height, width = values.shape
    return np.zeros((height, bands, width), values.dtype).transpose(1, 0, 2)


@pytest.mark.parametrize("interleave", ["bil", "bsq"])
def test_whole_lines_come_in_pieces_of_any_size(write_lines, monkeypatch, interleave):
    values = values_of("u2")
    real = os.preadv

    def slow(file, places, position):
        asked.append(len(places))
        return real(file, [places[0][:5]], position)

    asked: list[int] = []
    monkeypatch.setattr("spectraldiff_runtime.scene.envi.os.preadv", slow)
    monkeypatch.setattr("spectraldiff_runtime.scene.envi.PIECES", 2)
    with RasterScene(write_lines(values, 12, offset=3, interleave=interleave)) as scene:
        np.testing.assert_array_equal(scene.read(1, 6, 0, 4, out=rows_in_memory(values[:, 1:])), values[:, 1:])
    assert len(asked) > 5
    assert max(asked) == 2


@pytest.mark.parametrize("interleave", ["bil", "bsq"])
def test_systems_that_read_to_one_place_at_a_time(write_lines, monkeypatch, interleave):
    values = values_of("u2")
    monkeypatch.delattr("spectraldiff_runtime.scene.envi.os.preadv")
    with RasterScene(write_lines(values, 12, interleave=interleave)) as scene:
        np.testing.assert_array_equal(scene.read(0, 6, 0, 4), values)


@pytest.mark.parametrize("style", [str.upper, str.title, str.capitalize])
@pytest.mark.parametrize("interleave", ["bil", "bsq"])
def test_keys_in_any_case(tmp_path, style, interleave):
    """GDAL reads keys in any case; what is read of the header next to it must not be another file."""
    values = values_of("u2")
    stored = values.transpose(1, 0, 2) if interleave == "bil" else values
    (tmp_path / "scene.img").write_bytes(b"x" * 7 + stored.astype(">u2").tobytes())
    entries = {
        "samples": 4, "lines": 6, "bands": 5, "header offset": 7, "file type": "ENVI Standard", "data type": 12,
        "interleave": interleave, "byte order": 1, "wavelength units": "nm", "wavelength": "{400, 410, 420, 430, 440}",
        "fwhm": "{9, 9, 9, 9, 9}", "bbl": "{1, 0, 1, 1, 1}",
    }  # fmt: skip
    text = "".join(f"{style(key)} = {value}\n" for key, value in entries.items())
    (tmp_path / "scene.hdr").write_text(f"ENVI\n{text}")
    with quiet_gdal(), rasterio.open(tmp_path / "scene.img") as dataset:
        np.testing.assert_array_equal(dataset.read(), values)
    with RasterScene(tmp_path / "scene.img") as scene:
        np.testing.assert_array_equal(scene.read(0, 6, 0, 4), values[[0, 2, 3, 4]])
        np.testing.assert_array_equal(scene.wavelengths, [400, 420, 430, 440])
        np.testing.assert_array_equal(scene.fwhm, [9] * 4)
        assert scene.bad_bands == {2: 410.0}


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_band_names_in_any_encoding(write_lines, encoding):
    path = write_lines(values_of("u2"), 12)
    header = path.with_suffix(".hdr")
    names = ", ".join(f"Kanal {i} (µm)" for i in range(5))
    header.write_bytes(f"{header.read_text()}band names = {{{names}}}\n".encode(encoding))
    with RasterScene(path) as scene:
        assert scene.band_names == tuple(f"Kanal {i} (µm)" for i in range(5))


def test_lines_are_read_in_parts(write_lines, monkeypatch):
    values = values_of("u2", (5, 23, 4))
    monkeypatch.setattr("spectraldiff_runtime.scene.envi.CHUNK", 3 * values[:, 0].nbytes + 1)
    with RasterScene(write_lines(values, 12), bands=(5, 1)) as scene:
        np.testing.assert_array_equal(scene.read(1, 23, 0, 4), values[[4, 0], 1:])


@pytest.mark.parametrize(("interleave", "part"), [("bil", (0, 6, 0, 4)), ("bil", (5, 6, 3, 4)), ("bsq", (0, 6, 0, 4))])
def test_a_file_that_shrinks_while_it_is_read(write_lines, interleave, part):
    path = write_lines(values_of("u2"), 12, interleave=interleave)
    with RasterScene(path) as scene:
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(SceneError, match=r"ends too early.*cut short"):
            scene.read(*part)


def test_other_files_are_left_to_gdal(write_scene, write_lines):
    compressed = write_lines(values_of("u2"), 12, more="major frame offsets = {1, 1}\n")
    for path in (write_scene(), write_scene("bip.img", driver="ENVI", interleave="bip"), compressed):
        with quiet_gdal(), rasterio.open(path) as dataset:
            assert open_raw(dataset) is None


def test_another_format_that_is_interleaved_by_line(tmp_path):
    values = values_of("u2")
    path = tmp_path / "scene.bil"
    path.write_bytes(values.transpose(1, 0, 2).tobytes())
    path.with_suffix(".hdr").write_text("NROWS 6\nNCOLS 4\nNBANDS 5\nNBITS 16\nLAYOUT BIL\nBYTEORDER I\n")
    with RasterScene(path) as scene:
        np.testing.assert_array_equal(scene.read(0, 6, 0, 4), values)
        np.testing.assert_array_equal(scene.read(2, 5, 1, 3), values[:, 2:5, 1:3])


@pytest.mark.parametrize(("text", "wanted"), [("12", 12), ("-3", 0), ("some", 0)])
def test_offsets(text, wanted):
    assert header_offset({"header_offset": text}) == wanted
    assert header_offset({}) == 0


@pytest.mark.parametrize(
    ("info", "grid"),
    [
        ("UTM, 2, 3, 1000, 9000, 10, 20, 22, South, WGS-84", ("EPSG:32722", (10, 0, 990, 0, -20, 9040))),
        ("UTM, 1, 1, 1000, 9000, 10, 20, 22, South, WGS-84, rotation=30", None),
        ("UTM, 1, 1, 1000, 9000, 10, 20, 22, South, NAD-27", None),
        ("Arbitrary, 1, 1, 0, 0, 1, 1", None),
    ],
)
def test_grid_of_an_envi_header(info, grid):
    assert envi_grid({"map info": info}) == grid


def test_wavelengths_of_an_envi_header_in_micrometres():
    found = envi_wavelengths({"wavelength": "0.4, 2.5", "wavelength units": "Micrometers"})
    assert found is not None
    np.testing.assert_allclose(found, [400, 2500])
    assert envi_wavelengths({}) is None


def test_a_byte_order_mark_before_a_header_is_named(write_lines):
    path = write_lines(values_of("u2"), 12)
    header = path.with_suffix(".hdr")
    header.write_bytes(b"\xef\xbb\xbf" + header.read_bytes())
    with pytest.raises(SceneError, match=r"its header 'scene.hdr' begins with a byte order mark.*save it without"):
        RasterScene(path)
