"""ENVI headers and journals: a scene or a map, or one line."""

import warnings

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spectraldiff_runtime.errors import OutputError, SceneError
from spectraldiff_runtime.output.journal import JOURNAL, Journal, unfinished_folder
from spectraldiff_runtime.output.raw_layers import Layer
from spectraldiff_runtime.scene.raster import RasterScene
from tests.fuzz.inputs import NUMBERS, TEXTS, check_line

HEADER = {
    "samples": "5", "lines": "4", "bands": "3", "header offset": "0", "file type": "ENVI Standard", "data type": "12",
    "interleave": "bil", "byte order": "0", "wavelength": "{400, 500, 600}", "wavelength units": "Nanometers",
    "fwhm": "{9, 9, 9}", "bbl": "{1, 1, 1}", "band names": "{a, b, c}", "data ignore value": "0",
    "reflectance scale factor": "10000", "map info": "{UTM, 1, 1, 480000, 4470000, 20, 20, 16, North, WGS-84}",
    "coordinate system string": "{}", "class names": "{a, b}", "default bands": "{1, 2, 3}", "y start": "1",
}  # fmt: skip
WORDS = st.one_of(
    TEXTS.map(lambda text: text.encode("utf-8", "replace").decode()),
    NUMBERS.map(str),
    st.lists(NUMBERS.map(str) | TEXTS, max_size=4).map(lambda items: "{" + ", ".join(items) + "}"),
    st.sampled_from(["bsq", "bip", "BIL", "1", "2", "4", "5", "6", "99", "{", "}", "{1, 1", "Micrometers", "-9999"]),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@given(st.dictionaries(st.sampled_from(sorted(HEADER)), WORDS, max_size=3), st.binary(max_size=6))
@example({"samples": str(2**31 - 1)}, b"")
@example({"bands": str(10**30)}, b"")
@example({"wavelength": "{nan, inf, -1}"}, b"")
@example({"map info": "{UTM, 1, 1, nan, inf, 0, 0, 16, North, WGS-84}"}, b"")
@example({"header offset": "-1"}, b"\xff\xfe\x00")
@example({"fwhm": "{0, 0, 0}", "bbl": "{0, 0, 0}"}, b"")
def test_envi_headers(folder, changes, noise):
    path = folder / "scene.img"
    path.write_bytes(np.arange(60, dtype="<u2").tobytes())
    lines = [f"{key} = {value}" for key, value in {**HEADER, **changes}.items()]
    text = "ENVI\n" + "\n".join(lines) + "\n"
    path.with_suffix(".hdr").write_bytes(text.encode("utf-8", "replace") + noise)
    try:
        with warnings.catch_warnings(), RasterScene(path) as scene:
            warnings.simplefilter("ignore")
            values = scene.read(0, min(scene.height, 4), 0, min(scene.width, 5))
            assert values.shape[0] == len(scene.bands) >= 1
            assert scene.wavelengths is None or np.isfinite(scene.wavelengths).all()
            area = scene.georeference.hectares_per_pixel
            assert area is None or 0 < area < np.inf
    except SceneError as error:
        check_line(error)


@given(st.binary(max_size=200) | st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6))
@example(b"")
@example(b"\0" * 100)
def test_journals(tmp_path_factory, content):
    """A journal of any bytes, or one with some of them changed: gone on with, or refused; windows are the map's own."""
    out = tmp_path_factory.mktemp("journal") / "o.tif"
    size, layers, facts = (8, 8), [Layer("classes", np.dtype(np.uint8))], {"model": "m"}
    Journal(out, size, layers, facts, {"tile": 4}, resume=True).close()
    journal = unfinished_folder(out) / JOURNAL
    data = bytearray(journal.read_bytes())
    if isinstance(content, bytes):
        data = bytearray(content)
    else:
        for at, byte in content:
            data[at % len(data)] = byte
    journal.write_bytes(bytes(data))
    try:
        found = Journal(out, size, layers, facts, {"tile": 4}, resume=True)
        found.close()
        assert found.plan == {"tile": 4}
    except OutputError as error:
        check_line(error)
