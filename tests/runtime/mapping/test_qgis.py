"""Maps in a real QGIS, without a window: the legend that a user sees.

QGIS_PYTHON names the Python of another QGIS than the one that the system has.
"""

import ctypes
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pyogrio
import pytest
import rasterio

from spectraldiff_runtime import map_scene
from spectraldiff_runtime.classes import UNCLASSIFIED
from spectraldiff_runtime.errors import OutputError, UsageError

PYTHON = os.environ.get("QGIS_PYTHON", "/usr/bin/python3")  # for which distributions package QGIS
SCRIPT = Path(__file__).with_name("in_qgis.py")


def qgis(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run QGIS's Python, without what belongs to the environment of the tests, with `more` variables."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "GDAL", "PROJ"))}
    settings = {"QT_QPA_PLATFORM": "offscreen", "PYTHONWARNINGS": "ignore"} | more
    return subprocess.run(
        [PYTHON, *arguments], env=kept | settings, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="session")
def in_qgis():
    if not Path(PYTHON).exists() or qgis("-c", "import qgis.core").returncode:
        pytest.skip("QGIS is not installed: apt-get install --no-install-recommends qgis python3-qgis")

    def show(folder, *paths):
        done = qgis(str(SCRIPT), str(folder), *map(str, paths))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return show


@pytest.fixture
def maps(model, write_scene, tmp_path):
    """A map with styles, one without, and their folder."""
    for name, qml in (("styled", True), ("plain", False)):
        confidence = tmp_path / f"{name}_confidence.tif"
        map_scene(model, write_scene(), tmp_path / f"{name}.tif", confidence=confidence, qml=qml)
    return tmp_path


def test_the_legend_has_the_classes_and_nothing_else(in_qgis, maps, card):
    (found,) = in_qgis(maps, maps / "plain.tif")
    colours = ["#{:02x}{:02x}{:02x}".format(*c.colour) for c in card.classes]
    assert found["renderer"] == "paletted"
    assert found["names"] == [UNCLASSIFIED, *(c.name for c in card.classes)]
    assert found["colours"][1:] == colours
    assert set(found["drawn"]) & set(colours)
    assert set(found["drawn"]) <= {*colours, "#ffffff"}


def test_the_file_alone(in_qgis, maps, card):
    """Names come from the table inside; without it, four bits a pixel keep the entries without a class few."""
    (maps / "plain.tif.aux.xml").unlink()
    (found,) = in_qgis(maps, maps / "plain.tif")
    named = [UNCLASSIFIED, *(c.name for c in card.classes)]
    assert found["names"] == (named if found["tables"] else [str(value) for value in range(16)])
    colours = ["#{:02x}{:02x}{:02x}".format(*c.colour) for c in card.classes]
    assert found["colours"][1 : 1 + len(colours)] == colours
    assert set(found["drawn"]) & set(colours)
    assert set(found["drawn"]) <= {*colours, "#ffffff"}


def test_styles(in_qgis, maps, card):
    """With --qml the class map needs no sidecar, and the confidence has colours from 0 to 1."""
    (maps / "styled.tif.aux.xml").unlink()
    found, sure, plain = in_qgis(
        maps, *(maps / f"{n}.tif" for n in ("styled", "styled_confidence", "plain_confidence"))
    )
    assert (found["renderer"], sure["renderer"]) == ("paletted", "singlebandpseudocolor")
    assert found["names"] == [c.name for c in card.classes]
    assert found["colours"] == ["#{:02x}{:02x}{:02x}".format(*c.colour) for c in card.classes]
    assert plain["renderer"] == "singlebandgray"
    assert len(sure["drawn"]) > 10


def test_styles_belong_to_their_map(model, write_scene, tmp_path):
    out, style = tmp_path / "classes.tif", tmp_path / "classes.qml"
    scene = write_scene()
    style.write_text("mine")
    with pytest.raises(OutputError, match=r"classes.qml' exists: choose another name"):
        map_scene(model, scene, out, qml=True)
    assert not out.exists()
    style.unlink()
    map_scene(model, scene, out)
    assert not style.exists()
    assert not map_scene(model, scene, out, qml=True, overwrite=True).skipped
    assert style.exists()
    again = map_scene(model, scene, out, qml=True, resume=True)
    assert (again.skipped, again.added) == (True, ())
    style.write_text("mine")
    with pytest.raises(OutputError, match=r"classes.qml' belongs to another map"):
        map_scene(model, scene, out, qml=True, resume=True)
    map_scene(model, scene, out, qml=True, overwrite=True)
    assert "Wälder" in style.read_text("utf-8")
    with pytest.raises(UsageError, match="without `out`"):
        map_scene(model, scene, qml=True)


@pytest.mark.parametrize("name", ["classes.tif", "classes.gpkg"])
def test_a_finished_map_gets_its_styles(sdiff, model, model_path, write_scene, tmp_path, listing, name):
    scene = write_scene()
    words = ["map", scene, "--out", tmp_path / name, "--confidence", tmp_path / "c.tif", "--model", model_path]
    assert sdiff(*words, "-q")[0] == 0
    before = listing()
    code, _, err = sdiff(*words, "--qml", "--resume")
    assert (code, err.count("is mapped already"), err.count("Wrote")) == (0, 1, 2)
    after = listing()
    assert {path: after[path] for path in before} == before
    assert after.keys() - before.keys() == {"classes.qml", "c.qml"}
    assert b"W\xc3\xa4lder" in after["classes.qml"]
    styles = {path: after[path] for path in ("classes.qml", "c.qml")}
    map_scene(model, scene, tmp_path / name, confidence=tmp_path / "c.tif", qml=True, overwrite=True)
    assert {path: listing()[path] for path in styles} == styles


def attribute_table(path: Path) -> list[list[str]]:
    """Return the cells of the attribute table that GDAL, of 3.12 or later, reads from a raster."""
    libraries = list((Path(pyogrio.__file__).parents[1] / "pyogrio.libs").glob("libgdal*"))
    if not libraries or pyogrio.__gdal_version__ < (3, 12):
        pytest.skip("no GDAL of 3.12 or later is here, which reads attribute tables inside a GeoTIFF")
    gdal = ctypes.CDLL(str(libraries[0]))
    pointer, number = ctypes.c_void_p, ctypes.c_int
    for name, result, arguments in (
        ("GDALOpen", pointer, [ctypes.c_char_p, number]),
        ("GDALGetRasterBand", pointer, [pointer, number]),
        ("GDALGetDefaultRAT", pointer, [pointer]),
        ("GDALRATGetRowCount", number, [pointer]),
        ("GDALRATGetColumnCount", number, [pointer]),
        ("GDALRATGetValueAsString", ctypes.c_char_p, [pointer, number, number]),
        ("GDALClose", number, [pointer]),
    ):
        function = getattr(gdal, name)
        function.restype, function.argtypes = result, arguments
    gdal.GDALAllRegister()
    dataset = gdal.GDALOpen(str(path).encode(), 0)
    table = gdal.GDALGetDefaultRAT(gdal.GDALGetRasterBand(dataset, 1))
    rows, columns = gdal.GDALRATGetRowCount(table), gdal.GDALRATGetColumnCount(table)
    cells = [[gdal.GDALRATGetValueAsString(table, r, c).decode() for c in range(columns)] for r in range(rows)]
    gdal.GDALClose(dataset)
    return cells


def test_polygons_and_pictures_in_qgis(in_qgis, model, write_scene, tmp_path, card):
    names = ("polygons.gpkg", "classes.tif", "picture.png", "cf.nc")
    for name in names:
        map_scene(model, write_scene(), tmp_path / name, qml=name == "polygons.gpkg")
    (tmp_path / "drawn").mkdir()
    polygons, *rasters = in_qgis(tmp_path / "drawn", *(tmp_path / name for name in names))
    colours = ["#{:02x}{:02x}{:02x}".format(*c.colour) for c in card.classes]
    assert (polygons["renderer"], polygons["names"]) == ("categorizedSymbol", [c.name for c in card.classes])
    assert polygons["colours"] == colours
    for found in rasters:
        assert found["names"] == [UNCLASSIFIED, *(c.name for c in card.classes)]
        assert found["picture"] == rasters[0]["picture"]
    for found in (polygons, *rasters):
        assert len(set(found["drawn"]) & set(colours)) > 1


@pytest.mark.parametrize("form", ["COG", "GTiff"])
def test_the_tiff_alone_holds_names_and_colours(model, write_scene, tmp_path, card, form):
    from spectraldiff_runtime.geotiff.spec import Format

    map_scene(model, write_scene(), tmp_path / "classes.tif", form=Format(form))
    (tmp_path / "mailed").mkdir()
    alone = Path(shutil.copy(tmp_path / "classes.tif", tmp_path / "mailed"))
    wanted = [[str(c.value), c.name, *map(str, c.colour), "255"] for c in card.classes]
    assert attribute_table(alone) == [["0", UNCLASSIFIED, "0", "0", "0", "0"], *wanted]
    with rasterio.open(alone) as dataset:
        assert not re.search(r"\.{5}", str(dataset.tags()))  # what kept the place of the table
