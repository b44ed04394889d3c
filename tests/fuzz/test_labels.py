"""GeoJSON and CSV labels: read onto the grid, or one line."""

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spectraldiff.data.label_reader import read_own_labels
from spectraldiff.data.label_vectors import LabelFields
from spectraldiff_runtime.errors import SpectralDiffError
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.untrusted import is_control
from tests.fuzz.inputs import JSON, NUMBERS, TEXTS, check_line

PLACE = Georeference.of("EPSG:32616", (20.0, 0.0, 480_000.0, 0.0, -20.0, 4_470_000.0))
SHAPE = (12, 15)
NEAR = st.tuples(st.floats(479_900, 480_400), st.floats(4_469_700, 4_470_100)).map(list)
POINTS = st.lists(NEAR | st.lists(NUMBERS, max_size=3), max_size=6)
GEOMETRIES = st.one_of(
    st.builds(lambda p: {"type": "Polygon", "coordinates": [[*p, p[0]] if p else []]}, POINTS),
    st.builds(lambda p: {"type": "Point", "coordinates": p}, NEAR | JSON),
    st.builds(lambda p: {"type": "MultiPolygon", "coordinates": [[[*p, p[0]]], [p]] if p else JSON}, st.lists(NEAR)),
    st.builds(lambda p: {"type": "LineString", "coordinates": p}, POINTS),
    st.builds(lambda t, c: {"type": t, "coordinates": c}, TEXTS, JSON),
    JSON,
)
VALUES = TEXTS | NUMBERS | JSON
CRS = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32616"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def check(path, field: str) -> None:
    try:
        own = read_own_labels(path, SHAPE, PLACE, "scene", LabelFields(field))
    except SpectralDiffError as error:
        check_line(error)
        return
    assert own.labels.shape == SHAPE
    assert 1 <= own.labels.max() <= len(own.classes)
    assert not [c for one in own.classes for c in one.name if is_control(c)]


@given(st.lists(st.tuples(GEOMETRIES, VALUES), min_size=1, max_size=4), st.sampled_from([CRS, None]) | JSON)
@example([({"type": "Polygon", "coordinates": [[[480000, 4470000], [480200, 4470000], [480200, 4469800]]]}, "a")], CRS)
@example([({"type": "Point", "coordinates": [480010, 4469990]}, "\x1b[2J[/]\u202e")], CRS)
@example([({"type": "Point", "coordinates": [1e308, -1e308]}, 10**24)], CRS)
def test_geojson(folder, features, crs):
    listed = [{"type": "Feature", "properties": {"class": value}, "geometry": g} for g, value in features]
    path = folder / "labels.geojson"
    try:
        text = json.dumps({"type": "FeatureCollection", "crs": crs, "features": listed})
    except TypeError:  # a strategy in the place of a value
        return
    path.write_text(text)
    check(path, "class")


@given(st.lists(st.lists(TEXTS | NUMBERS.map(str), max_size=4), max_size=5), st.sampled_from([",", ";", "\t"]))
@example([["POINT (480010 4469990)", "a"]], ",")
@example([["POLYGON ((480000 4470000, 480200 4470000, 480200 4469800, 480000 4470000))", "7"]], ",")
@example([["POINT (nan nan)", "7"], ["POINT EMPTY", ""]], ",")
def test_csv(folder, rows, separator):
    path = folder / "labels.csv"
    lines = [separator.join(f'"{cell}"' for cell in row) for row in [["WKT", "class"], *rows]]
    path.write_bytes("\n".join(lines).encode("utf-8", "replace"))
    path.with_suffix(".csvt").write_text("WKT,String")
    check(path, "class")


def test_a_grid_of_labels_is_read(folder):
    """What the fuzzing tests rely on: a usual file is read."""
    features = [
        {
            "type": "Feature",
            "properties": {"class": "a"},
            "geometry": {"type": "Point", "coordinates": [480010, 4469990]},
        }
    ]
    path = folder / "usual.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": CRS, "features": features}))
    own = read_own_labels(path, SHAPE, PLACE, "scene", LabelFields("class"))
    assert (np.count_nonzero(own.labels), own.classes[0].name) == (1, "a")
