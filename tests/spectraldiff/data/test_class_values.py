"""Rasters of labels and of classes: which values are classes, what they are called, and what is said of the others."""

import zipfile
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely

from spectraldiff.accuracy.assessment import assess
from spectraldiff.data.label_raster import read_class_raster
from spectraldiff.data.label_reader import read_own_labels, renumbered
from spectraldiff.data.label_vectors import LabelFields
from spectraldiff_runtime.classes import palette
from spectraldiff_runtime.errors import LabelsError
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.geotiff.class_raster import read_legend

SHAPE = (4, 6)
PLACE = Georeference(rasterio.CRS.from_epsg(32616), rasterio.Affine(10, 0, 500000, 0, -10, 4480000))
STRIPES = np.repeat([0, 1, 2], 2)[None].repeat(4, 0)
NAMES = ("Corn", "Woods", "Hay")


def raster(path: Path, values: np.ndarray, names: tuple[str, ...] = (), nodata: object = None, table: str = "") -> Path:
    """Write values, with names and nodata in GDAL's sidecar, and a raster attribute table."""
    profile = {"driver": "GTiff", "count": 1, "dtype": values.dtype, "crs": PLACE.crs, "transform": PLACE.transform}
    with rasterio.open(path, "w", height=values.shape[0], width=values.shape[1], **profile) as dataset:
        dataset.write(values, 1)
    listed = "".join(f"<Category>{name}</Category>" for name in names)
    value = "" if nodata is None else f"<NoDataValue>{nodata}</NoDataValue>"
    path.with_name(f"{path.name}.aux.xml").write_text(
        f'<PAMDataset><PAMRasterBand band="1">{value}<CategoryNames>{listed}</CategoryNames>{table}</PAMRasterBand>'
        "</PAMDataset>"
    )
    return path


def names_of(path: Path) -> list[str]:
    return [c.name for c in read_class_raster(path).classes]


def test_zero_is_a_class_where_another_value_is_nodata_and_comes_last(tmp_path):
    values = STRIPES.astype(np.uint8)
    values[0] = 255
    path = raster(tmp_path / "l.tif", values, NAMES, 255)
    found = read_own_labels(path, SHAPE, PLACE, "scene.tif")
    np.testing.assert_array_equal(found.labels[1:], np.repeat([3, 1, 2], 2)[None].repeat(3, 0))
    assert not found.labels[0].any()
    assert [(c.value, c.name) for c in found.classes] == [(1, "Woods"), (2, "Hay"), (3, "Corn")]
    assert found.numbers == (1, 2, 0)
    assert found.remarks == (
        f"0 is a class in '{path}', whose nodata value is 255: it has the value 3 'Corn'; if 0 means unlabelled, "
        "declare it as nodata: gdal_edit.py -a_nodata 0",
    )
    assert renumbered(found, path) == ()


def test_a_map_with_a_class_0_is_compared_by_all_of_its_classes(tmp_path):
    path = raster(tmp_path / "map.tif", STRIPES.astype(np.uint8), NAMES, 255)
    labels = raster(tmp_path / "l.tif", (STRIPES + 1).astype(np.uint8), ("Unclassified", *NAMES), 0)
    found = assess(path, labels)
    assert (found.accuracy.oa, found.accuracy.pixels) == (1, 24)
    assert (sorted(c.name for c in found.classes), found.values) == (sorted(NAMES), (1, 2, 0))
    same = assess(path, path)
    assert (same.accuracy.oa, same.accuracy.pixels, len(same.accuracy.per_class)) == (1, 24, 3)
    assert any("0 is a class" in note for note in same.notes)


@pytest.mark.parametrize("called", ["Unclassified", "no data", "Background", "NoData", "unlabeled", "0"])
def test_zero_is_no_class_where_its_name_says_so(tmp_path, called):
    path = raster(tmp_path / "l.tif", STRIPES.astype(np.uint8), (called, *NAMES[1:]), 255)
    assert names_of(path) == ["Woods", "Hay"]
    assert read_class_raster(path).remarks == ()


def test_zero_without_a_name_is_no_class_and_that_is_said(tmp_path):
    path = raster(tmp_path / "l.tif", STRIPES.astype(np.uint8), nodata=255)
    found = read_class_raster(path)
    assert found.numbers == (1, 2)
    assert found.remarks == (
        f"0 was read as unlabelled in '{path}', though its nodata value is 255: if it is a class, give it a name or "
        "another number",
    )


def test_a_name_of_zero_without_another_nodata_is_said(tmp_path):
    path = raster(tmp_path / "l.tif", STRIPES.astype(np.uint8), NAMES)
    found = read_class_raster(path)
    assert [c.name for c in found.classes] == ["Woods", "Hay"]
    assert found.remarks[0].startswith(f"0 is called 'Corn' in '{path}' and was read as unlabelled: if it is a class,")


@pytest.mark.parametrize("top", [523, 5120, 41001, 70001, 2**40])
def test_codes_are_the_classes_that_occur(tmp_path, top):
    codes = np.array([111, 243, top])
    path = raster(tmp_path / "codes.tif", codes[STRIPES].astype(np.int64 if top > 65535 else np.uint16), nodata=0)
    found = read_class_raster(path)
    np.testing.assert_array_equal(found.labels, STRIPES + 1)
    assert found.numbers == (111, 243, top)
    assert [c.name for c in found.classes] == ["Class 111", "Class 243", f"Class {top}"]
    assert [c.colour for c in found.classes] == palette(3)
    other = codes[STRIPES].astype(np.int64)
    other[0] = codes[1]
    scored = assess(path, raster(tmp_path / "l.tif", other))
    assert scored.accuracy.confusion.shape == (3, 4)
    assert scored.accuracy.oa == pytest.approx(20 / 24)
    assert scored.values == (111, 243, top)
    assert "the map's classes are numbered 1 to 3: its value 111 is 1 'Class 111'" in scored.notes


@pytest.mark.parametrize("missing", [-(2**63), 2**63 - 1, 2**53 + 1])
def test_nodata_of_64_bits_is_exact(tmp_path, missing):
    values = (STRIPES + 1).astype(np.int64)
    values[0, 0] = missing
    found = read_class_raster(raster(tmp_path / "l.tif", values, nodata=missing))
    assert found.labels[0].tolist() == [0, 1, 2, 2, 3, 3]
    assert found.missing.sum() == 1


def test_values_that_are_no_numbers_are_counted(tmp_path):
    values = (STRIPES + 1).astype(np.float32)
    values[0, :3] = np.inf, -np.inf, np.nan
    values[1, 0] = -0.0
    path = raster(tmp_path / "l.tif", values)
    found = read_class_raster(path)
    assert found.labels[:2, 0].tolist() == [0, 0]
    assert found.remarks == (f"pixels of '{path}' that are infinite or not a number, left unlabelled: 3",)
    assert read_class_raster(raster(tmp_path / "m.tif", values[2:], nodata="nan")).remarks == ()


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (1.5, "from 1 to 3: wanted whole numbers"),
        (-9999, "if -9999 means unlabelled, declare it as nodata: gdal_edit.py -a_nodata -9999"),
        (1e300, "to 1e\\+300: wanted whole numbers"),
    ],
)
def test_values_that_cannot_be_classes_are_refused_in_a_line(tmp_path, odd, words):
    values = (STRIPES + 1).astype(np.float64)
    values[0, 0] = odd
    with pytest.raises(LabelsError, match=words):
        read_class_raster(raster(tmp_path / "l.tif", values))


def table_xml(fields: list[tuple[str, int, int]], cells: list[tuple[object, ...]], more: str = "") -> str:
    """Return a raster attribute table in GDAL's XML: columns of a name, a type and a use, and rows of cells."""
    columns = "".join(
        f'<FieldDefn index="{i}"><Name>{name}</Name><Type>{kind}</Type><Usage>{use}</Usage></FieldDefn>'
        for i, (name, kind, use) in enumerate(fields)
    )
    rows = "".join(f'<Row index="{i}">{"".join(f"<F>{cell}</F>" for cell in row)}</Row>' for i, row in enumerate(cells))
    return f"<GDALRasterAttributeTable{more}>{columns}{rows}</GDALRasterAttributeTable>"


@pytest.mark.parametrize(
    ("fields", "order"),
    [
        ([("Value", 0, 5), ("Count", 0, 1), ("Cover", 2, 2)], (0, 1, 2)),
        ([("OID", 0, 0), ("VALUE", 0, 0), ("Class_Name", 2, 0)], (1, 0, 2)),
        ([("VALUE", 1, 0), ("COUNT", 1, 0), ("KIND", 2, 0)], (0, 1, 2)),
    ],
)
def test_names_of_an_attribute_table(tmp_path, fields, order):
    cells = [tuple(row[i] for i in order) for row in ((111, 9, "Corn"), (243, 8, "Woods"), (523, 7, "Hay"))]
    path = raster(tmp_path / "l.tif", np.array([111, 243, 523], np.uint16)[STRIPES], table=table_xml(fields, cells))
    assert names_of(path) == list(NAMES)


def test_names_of_a_table_whose_rows_are_the_values(tmp_path):
    cells = [("nothing",), *((name,) for name in NAMES)]
    table = table_xml([("Class", 2, 2)], cells, ' Row0Min="0" BinSize="1"')
    path = raster(tmp_path / "l.tif", (STRIPES + 1).astype(np.uint8), table=table)
    assert names_of(path) == list(NAMES)


def test_names_of_the_table_that_arcgis_writes(tmp_path):
    path = raster(tmp_path / "l.tif", np.array([111, 243, 523], np.uint16)[STRIPES])
    columns = [np.array([111, 243, 523]), np.array([8, 8, 8]), np.array(["Grün", "Wald", "Süß"], object)]
    pyogrio.raw.write(
        tmp_path / "t.dbf", None, columns, ["Value", "Count", "Class_Name"], geometry_type=None,
        driver="ESRI Shapefile", encoding="cp1252",
    )  # fmt: skip
    table = (tmp_path / "t.dbf").rename(tmp_path / "l.tif.vat.dbf")
    assert names_of(path) == ["Grün", "Wald", "Süß"]
    assert read_class_raster(path).remarks == (
        f"the texts of '{table}' were read as cp1252, a guess (the file names none), such as 'Grün', 'Süß': a file "
        "'l.tif.vat.cpg' next to it says another one",
    )
    (tmp_path / "l.tif.vat.cpg").write_text("cp850")
    assert names_of(path)[0] == "Gr³n"
    assert not read_class_raster(path).remarks


def test_names_of_a_vrt(tmp_path):
    raster(tmp_path / "l.tif", (STRIPES + 1).astype(np.uint8), ("", *NAMES))
    with rasterio.open(tmp_path / "l.tif") as dataset:
        rasterio.shutil.copy(dataset, tmp_path / "l.vrt", driver="VRT")
    (tmp_path / "l.tif.aux.xml").unlink()
    assert names_of(tmp_path / "l.vrt") == list(NAMES)


def test_names_of_a_sidecar_in_an_archive(tmp_path):
    raster(tmp_path / "l.tif", (STRIPES + 1).astype(np.uint8), ("", *NAMES))
    with zipfile.ZipFile(tmp_path / "l.zip", "w") as archive:
        for name in ("l.tif", "l.tif.aux.xml"):
            archive.write(tmp_path / name, f"in/{name}")
    assert names_of(f"/vsizip/{tmp_path}/l.zip/in/l.tif") == list(NAMES)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_names_of_an_envi_file_in_any_encoding(tmp_path, encoding):
    (STRIPES + 1).astype(np.uint8).tofile(tmp_path / "l.img")
    text = (
        "ENVI\nsamples = 6\nlines = 4\nbands = 1\nfile type = ENVI Classification\ndata type = 1\ninterleave = bsq\n"
        "description = {Fläche}\nclasses = 4\nclass names = {Unclassified, Grünland, Süßwasser, Gemüse}\n"
    )
    (tmp_path / "l.hdr").write_bytes(text.encode(encoding))
    assert read_legend(tmp_path / "l.img").names == {0: "Unclassified", 1: "Grünland", 2: "Süßwasser", 3: "Gemüse"}


@pytest.mark.parametrize("zero", ["0", "00", "0.0", " -0 "])
def test_the_text_0_is_no_class_as_the_number_is_none(tmp_path, zero):
    west, north = 500000, 4480000
    areas = [shapely.box(west + 20 * i, north - 40, west + 20 * i + 20, north) for i in range(3)]
    kinds = np.array([zero, "1", "2"], object)
    pyogrio.raw.write(
        tmp_path / "l.gpkg", shapely.to_wkb(areas), [kinds], ["class"], crs="EPSG:32616", geometry_type="Polygon"
    )
    found = read_own_labels(tmp_path / "l.gpkg", SHAPE, PLACE, "scene.tif", LabelFields("class"))
    np.testing.assert_array_equal(found.labels, STRIPES)
    assert found.remarks == ("features without a class (empty, 0 or infinite), left out: 1",)
