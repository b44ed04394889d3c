"""Texts of options: what they mean, or a usage error."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spectraldiff_runtime.cli.options import parse_bands, parse_nodata, parse_options, parse_size
from spectraldiff_runtime.errors import SpectralDiffError, UsageError
from spectraldiff_runtime.geo.bounds import choose_window
from spectraldiff_runtime.geo.georeference import Georeference
from tests.fuzz.inputs import NUMBERS, TEXTS

UTM = Georeference.of("EPSG:32616", (20.0, 0.0, 480_000.0, 0.0, -20.0, 4_470_000.0))
PARTS = st.sampled_from([*"0123456789,-: .eE+", "all", "none", "GB", "nan", "inf", "²", "٣"])
LIKELY = st.lists(PARTS, max_size=12).map("".join)


@given(LIKELY | TEXTS)
@example("1-999999," * 20)
@example("²")
@example("٣-٤")
def test_bands(text):
    try:
        bands = parse_bands(text)
    except UsageError:
        return
    assert bands == "all" or (len(set(bands)) == len(bands) >= 1 and min(bands) >= 1)


@given(LIKELY | TEXTS)
@example("9" * 5000)
@example("1_000")
def test_nodata(text):
    try:
        value = parse_nodata(text)
    except UsageError:
        return
    assert value is None or isinstance(value, int | float)


@given(LIKELY | TEXTS)
@example("9" * 400 + "GB")
@example("²GB")
def test_sizes(text):
    try:
        assert parse_size(text) >= 0
    except UsageError:
        return


@given(st.lists(TEXTS, max_size=3))
def test_creation_options(texts):
    try:
        found = parse_options(texts)
    except UsageError:
        return
    assert all(key == key.upper().strip() and value for key, value in found.items())


NUMBER = NUMBERS.map(float) | st.floats(480_000, 481_000) | st.floats(4_469_000, 4_470_000)


@given(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER), st.sampled_from([None, "EPSG:32616", "EPSG:4326", "EPSG:3857"]))
@example((0.0, -90.0, 180.0, 90.0), "EPSG:4326")
@example((1e308, 1e308, 1.1e308, 1.1e308), None)
@example((-1.7e308, -1.7e308, 1.7e308, 1.7e308), None)
def test_bounds(bounds, crs):
    try:
        window = choose_window(29, 37, UTM, "s", bounds=bounds, bounds_crs=crs)
    except SpectralDiffError:
        return
    assert 0 <= window.row0 < window.row1 <= 29
    assert 0 <= window.col0 < window.col1 <= 37


@given(st.tuples(*[st.integers(-(2**70), 2**70) | st.integers(-2, 40)] * 4))
def test_windows(window):
    try:
        found = choose_window(29, 37, UTM, "s", window=window)
    except UsageError:
        return
    assert (found.col0, found.row0, found.width, found.height) == window


@given(
    LIKELY
    | TEXTS
    | LIKELY.map("fraction:{}".format)
    | LIKELY.map("per-class:{}".format)
    | LIKELY.map("folds:{}".format)
)
@example("per-class:" + "9" * 5000)
@example("per-class:²")
@example("folds:" + "9" * 5000)
@example("fraction:nan")
@example("disjoint:1e-400")
def test_splits(text):
    spec = pytest.importorskip("spectraldiff.splits.spec")
    try:
        found = spec.parse_spec(text, None)
    except UsageError:
        return
    if found.rule is not None:
        asked = found.rule(np.array([5, 3, 0, 9]))
        assert set(asked) == {1, 3}
        assert min(asked.values()) >= 1
