"""Label files of vectors as people keep them: what is left out is counted, what cannot be read is said."""

from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely

from spectraldiff.data.label_reader import OwnLabels, read_own_labels
from spectraldiff.data.label_vectors import LabelFields
from spectraldiff.data.source import SceneFiles, SceneSource
from spectraldiff_runtime.errors import LabelsError
from spectraldiff_runtime.geo.georeference import Georeference

SHAPE = (10, 30)
PLACE = Georeference(rasterio.CRS.from_epsg(32616), rasterio.Affine(10, 0, 500000, 0, -10, 4480000))


def box(col: float, width: float = 4) -> shapely.Polygon:
    return shapely.box(500000 + 10 * col, 4479950, 500000 + 10 * (col + width), 4480000)


def read(path: Path, encoding: str | None = None) -> OwnLabels:
    return read_own_labels(path, SHAPE, PLACE, "scene.tif", LabelFields("class", encoding=encoding))


def write(path: Path, shapes: list, names: list[str], crs: str = "EPSG:32616") -> Path:
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(shapes, object)), [np.array(names, object)], ["class"], crs=crs,
        geometry_type="Polygon",
    )  # fmt: skip
    return path


def test_features_without_a_geometry_are_counted(tmp_path):
    shapes = [box(0), box(8), None, None, shapely.Polygon()]
    found = read(write(tmp_path / "l.gpkg", shapes, ["A", "B", "C", "A", ""]))
    assert [c.name for c in found.classes] == ["A", "B"]
    assert found.remarks[0] == "features without a geometry, left out: 3"


def test_points_of_a_csv_file_label_pixels(tmp_path):
    (tmp_path / "l.csv").write_text("x,y,class\n500005,4479995,B\n500055,4479985,A\n")
    found = read(tmp_path / "l.csv")
    assert ([c.name for c in found.classes], found.labels[0, 0], found.labels[1, 5]) == (["A", "B"], 2, 1)
    assert found.remarks == (f"'x' and 'y' of '{tmp_path / 'l.csv'}' were read as coordinates in the scene's CRS",)


def test_a_text_that_is_not_in_the_encoding_that_was_given(tmp_path):
    (tmp_path / "l.csv").write_bytes("x,y,class\n500005,4479995,Gr\xfcn\n".encode("latin-1"))
    with pytest.raises(LabelsError, match=r"has a text that is no utf-8: wanted its right encoding.*--encoding"):
        read(tmp_path / "l.csv", "UTF-8")


def test_a_vector_file_that_cannot_be_read_is_not_called_a_raster(tmp_path):
    path = write(tmp_path / "l.shp", [box(0), box(8)], ["A", "B"])
    (tmp_path / "l.shx").unlink()
    (tmp_path / "scene.tif").write_bytes(b"")
    source = SceneSource(scenes=(SceneFiles(str(tmp_path / "scene.tif"), (str(path),)),), fields=LabelFields("class"))
    with pytest.raises(LabelsError, match=r"l\.shx is missing"):
        source.check_files()
