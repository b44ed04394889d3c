"""GeoParquet labels: geometries, fields and CRS as they are, what is left out, and files that are damaged."""

import builtins
import json

import numpy as np
import pyarrow
import pyogrio
import pytest
import rasterio
import shapely
from pyarrow import parquet

from spectraldiff_runtime.errors import LabelsError, SceneError
from spectraldiff_runtime.geo.vector_source import is_vector, open_vectors

SHAPES = [shapely.box(0, 0, 4, 4), shapely.box(6, 0, 9, 4), None]
UTM = "EPSG:32633"
pytestmark = pytest.mark.skipif("Parquet" in pyogrio.list_drivers(), reason="GDAL reads GeoParquet itself")


def write(path, crs="usual", encoding="WKB", **columns):
    """Write a GeoParquet file; `crs` is ``"usual"`` for none in the file, None for an unknown one, or a name."""
    column = {"encoding": encoding, "geometry_types": ["Polygon"]}
    if crs != "usual":
        column["crs"] = None if crs is None else rasterio.crs.CRS.from_user_input(crs).to_dict(projjson=True)
    facts = {"version": "1.1.0", "primary_column": "geom", "columns": {"geom": column}}
    shapes = pyarrow.array([None if one is None else shapely.to_wkb(one) for one in SHAPES], pyarrow.binary())
    table = pyarrow.table({"class": ["maize", "wheat", "wheat"], "number": [1, None, 3], "geom": shapes, **columns})
    parquet.write_table(table.replace_schema_metadata({"geo": json.dumps(facts)}), path)
    return path


def test_fields_geometries_and_crs_are_read(tmp_path):
    source = open_vectors(write(tmp_path / "crops.parquet", UTM))
    assert source.layers == ("crops",)
    fields, shapes, crs = source.read("crops", ["class", "number"])
    assert fields["class"].tolist() == ["maize", "wheat", "wheat"]
    np.testing.assert_array_equal(fields["number"].astype(float), [1, np.nan, 3])
    assert [None if one is None else shapely.from_wkb(one).bounds for one in shapes] == [
        None if one is None else one.bounds for one in SHAPES
    ]
    assert rasterio.crs.CRS.from_user_input(crs) == rasterio.crs.CRS.from_user_input(UTM)
    assert source.remarks == ()
    assert is_vector(tmp_path / "crops.parquet")


def test_without_a_crs_it_is_in_degrees_and_an_unknown_one_is_none(tmp_path):
    usual = open_vectors(write(tmp_path / "a.parquet")).read("a", [])[2]
    assert rasterio.crs.CRS.from_user_input(usual).is_geographic
    assert not open_vectors(write(tmp_path / "b.geoparquet", None)).read("b", [])[2]


def test_columns_of_other_kinds_are_left_out_and_said(tmp_path):
    path = write(tmp_path / "a.parquet", UTM, parts=[[1], [2], [3]], seen=[True, False, True])
    source = open_vectors(path)
    assert source.remarks == (f"'{path}': columns that are neither numbers nor texts are left out: parts",)
    assert set(source.info("a")["fields"]) == {"class", "number", "seen"}


def test_damaged_files_end_in_one_line(tmp_path):
    whole = write(tmp_path / "whole.parquet", UTM)
    cut, plain = tmp_path / "cut.parquet", tmp_path / "plain.parquet"
    cut.write_bytes(whole.read_bytes()[:200])
    parquet.write_table(pyarrow.table({"a": [1]}), plain)
    for path in (cut, plain):
        with pytest.raises(LabelsError, match=r"is no GeoParquet that can be read \(.+\): wanted one of 1.0") as caught:
            open_vectors(path, LabelsError)
        assert "\n" not in str(caught.value)
    with pytest.raises(SceneError, match="has geometries as point: wanted WKB"):
        open_vectors(write(tmp_path / "points.parquet", UTM, "point"))


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    path, usual = write(tmp_path / "a.parquet"), builtins.__import__

    def missing(name, *rest):
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return usual(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(SceneError, match="is GeoParquet: reading it takes PyArrow; pip install pyarrow"):
        open_vectors(path)
