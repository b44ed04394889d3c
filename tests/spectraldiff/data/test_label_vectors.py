"""Vector files that cannot serve as labels: one line each, with the reason."""

import warnings
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely

from spectraldiff.data.label_vectors import LabelFields, in_pixels, read_table
from spectraldiff_runtime.errors import LabelsError
from spectraldiff_runtime.geo.georeference import Georeference

PLACE = Georeference(rasterio.CRS.from_string("EPSG:32616"), rasterio.Affine(10, 0, 500000, 0, -10, 4480000))


@pytest.fixture
def points(tmp_path: Path) -> Path:
    """Two points with a class each."""
    path = tmp_path / "points.gpkg"
    shapes = shapely.to_wkb(shapely.points([[500_015, 4_479_985], [500_035, 4_479_965]]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pyogrio.raw.write(path, shapes, [np.array([1, 2])], ["kind"], crs="EPSG:32616", geometry_type="Point")
    return path


def test_a_file_without_layers(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("kind\n1\n")
    with pytest.raises(LabelsError, match="has the columns kind and no coordinates: wanted"):
        read_table(path, LabelFields("kind"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pyogrio.raw.write(tmp_path / "t.gpkg", None, [np.array([1])], ["kind"], geometry_type=None)
    with pytest.raises(LabelsError, match="holds no layer with geometries: wanted polygons or points"):
        read_table(tmp_path / "t.gpkg", LabelFields("kind"))


@pytest.mark.parametrize("function", ["read_info", "raw.read"])
def test_a_file_that_is_cut_short(points: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    def cut(*given: object, **options: object) -> None:
        raise pyogrio.errors.DataSourceError("unexpected end of file.\nmore")

    monkeypatch.setattr(f"pyogrio.{function}", cut)
    with pytest.raises(LabelsError, match=r"cannot be read \(unexpected end of file\): wanted a vector file"):
        read_table(points, LabelFields("kind"))


def test_a_crs_that_is_not_understood(points: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = pyogrio.raw.read

    def odd(*given: object, **options: object) -> tuple[object, ...]:
        meta, *rest = read(*given, **options)
        return {**meta, "crs": "no CRS at all"}, *rest

    monkeypatch.setattr(pyogrio.raw, "read", odd)
    with pytest.raises(LabelsError, match="has a CRS that is not understood"):
        read_table(points, LabelFields("kind"))


def test_coordinates_that_are_not_finite(points: Path) -> None:
    table = read_table(points, LabelFields("kind"))
    table.shapes[0] = shapely.Point(np.inf, 1)
    with pytest.raises(LabelsError, match="has coordinates that are not finite"):
        in_pixels(points, table, (20, 30), PLACE, "the scene")
