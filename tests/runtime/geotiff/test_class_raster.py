"""Class rasters, as GDAL itself reads them."""

import ctypes
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio

from spectraldiff_runtime.classes import LandCoverClass, class_dtype, clean_name, palette, with_colours
from spectraldiff_runtime.errors import OutputError, SceneError
from spectraldiff_runtime.geotiff.class_raster import read_classes, read_legend, write_class_raster


def gdal_category_names(path: Path) -> list[str]:
    """Ask GDAL, in the very library that rasterio brings, as QGIS would."""
    libraries = list((Path(rasterio.__file__).parents[1] / "rasterio.libs").glob("libgdal*"))
    gdal = ctypes.CDLL(str(libraries[0])) if libraries else pytest.skip("rasterio without its own GDAL")
    gdal.GDALOpen.restype = gdal.GDALGetRasterBand.restype = ctypes.c_void_p
    gdal.GDALGetRasterCategoryNames.restype = ctypes.POINTER(ctypes.c_char_p)
    gdal.GDALGetRasterBand.argtypes = [ctypes.c_void_p, ctypes.c_int]
    gdal.GDALGetRasterCategoryNames.argtypes = gdal.GDALClose.argtypes = [ctypes.c_void_p]
    gdal.GDALAllRegister()
    dataset = gdal.GDALOpen(str(path).encode(), 0)
    gdal.GDALGetGeoTransform.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    gdal.GDALGetGeoTransform(dataset, (ctypes.c_double * 6)())  # GeoTIFFs load their sidecar with it
    names, found = gdal.GDALGetRasterCategoryNames(gdal.GDALGetRasterBand(dataset, 1)), []
    while names and names[len(found)]:
        found.append(names[len(found)].decode())
    gdal.GDALClose(dataset)
    return found


@pytest.fixture
def class_raster(tmp_path, card):
    path = tmp_path / "classes.tif"
    values = np.arange(600 * 300, dtype=np.uint32).reshape(600, 300) // 1000 % 5
    write_class_raster(path, values.astype(np.uint8), card.classes, crs="EPSG:32616", transform=(20, 0, 5, 0, -20, 9))
    return path, values


def test_gdal_reads_the_names(class_raster, card):
    assert gdal_category_names(class_raster[0]) == ["Unclassified", *(c.name for c in card.classes)]


def test_the_raster_is_what_gis_programs_expect(class_raster, card):
    path, values = class_raster
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(1), values)
        assert (dataset.count, dataset.dtypes[0], dataset.nodata) == (1, "uint8", 0)
        assert (dataset.crs.to_epsg(), tuple(dataset.transform)[:6]) == (32616, (20, 0, 5, 0, -20, 9))
        assert dataset.colorinterp[0].name == "palette"
        assert all(dataset.colormap(1)[c.value][:3] == c.colour for c in card.classes)
        assert dataset.profile["tiled"]
        assert dataset.profile["compress"] == "deflate"
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.overviews(1) == [2]
        assert dataset.tags()["TIFFTAG_SOFTWARE"].startswith("spectraldiff ")


def test_overviews_are_by_majority(tmp_path, card):
    values = np.ones((1024, 1024), np.uint8)
    values[::2, ::2] = 4  # a quarter of each 2 x 2: nearest would show 4 everywhere
    path = tmp_path / "classes.tif"
    write_class_raster(path, values, card.classes, transform=(20, 0, 5, 0, -20, 9))
    with rasterio.open(path, overview_level=0) as overview:
        assert (overview.read(1) == 1).all()


def test_classes_come_back(class_raster, card):
    assert read_classes(class_raster[0]) == list(card.classes)


def test_names_come_back_without_the_sidecar(class_raster, card):
    path = class_raster[0]
    path.with_name(path.name + ".aux.xml").unlink()
    assert read_classes(path) == list(card.classes)


def test_names_are_one_line(tmp_path):
    classes = [LandCoverClass(1, "corn\tno\r\n till", (1, 2, 3)), LandCoverClass(2, "\x1b[31mwood ", (3, 2, 1))]
    write_class_raster(tmp_path / "c.tif", np.ones((2, 2), np.uint8), classes)
    (tmp_path / "c.tif.aux.xml").unlink()
    assert [c.name for c in read_classes(tmp_path / "c.tif")] == ["corn no till", "[31mwood"]
    assert clean_name("\ud800\x00 a\u2028b\x85\t") == "a b"
    assert clean_name("\x07\n") == ""


def test_values_between_need_not_be_used(tmp_path):
    classes = [LandCoverClass(2, "two", (1, 2, 3)), LandCoverClass(5, "five", (4, 5, 6))]
    path = tmp_path / "classes.tif"
    write_class_raster(path, np.full((2, 2), 5, np.uint8), classes)
    assert read_classes(path) == classes


def test_colours_of_a_raster_without_names(tmp_path):
    path = tmp_path / "labels.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=1,
        width=5,
        count=1,
        dtype="uint8",
        transform=rasterio.Affine(1, 0, 5, 0, -1, 9),
    ) as dataset:
        dataset.write(np.array([[0, 1, 2, 3, 4]], np.uint8), 1)
        dataset.write_colormap(1, {1: (10, 20, 30, 255), 4: (*palette(1)[0], 255)})
    assert read_classes(path) == []
    found = read_legend(path).classes(range(1, 5))
    assert [(c.value, c.name) for c in found] == [(v, f"Class {v}") for v in range(1, 5)]
    assert (found[0].colour, found[3].colour) == ((10, 20, 30), palette(1)[0])
    assert len({c.colour for c in found}) == 4  # 2 and 3 are black in the table: not distinguished, so not meant
    assert [c.value for c in read_legend(path).classes([2, 700])] == [2, 700]


@pytest.mark.parametrize("count", [3, 300, 600])
def test_classes_without_a_colour_get_one_that_is_free(count):
    usual = palette(count)
    own = [usual[2], *[None] * (count - 1)]
    found = with_colours(own)
    assert found[:2] == [usual[2], usual[1]]
    assert len(set(found)) == min(count, 255)
    assert with_colours([None] * count) == usual


def test_colours_that_are_given_out_are_not_given_again():
    own = [*[None] * 140, *palette(60)]  # the first 60 want what the last have, and few are left
    found = with_colours(own)
    assert found[140:] == palette(60)
    assert len(set(found)) == 200


def test_names_of_envi_classifications(tmp_path):
    path = tmp_path / "classes.img"
    path.write_bytes(bytes(6))
    path.with_suffix(".hdr").write_text(
        "ENVI\nsamples = 3\nlines = 2\nbands = 1\nfile type = ENVI Classification\ndata type = 1\n"
        "interleave = bsq\nclasses = 3\nclass names = {Unclassified, grass, water}\n"
        "class lookup = {0,0,0, 9,8,7, 1,2,3}\n"
    )
    assert read_classes(path) == [LandCoverClass(1, "grass", (9, 8, 7)), LandCoverClass(2, "water", (1, 2, 3))]


def test_a_raster_without_classes(write_scene):
    assert read_classes(write_scene()) == []


@pytest.mark.parametrize("sidecar", ["", "<PAMDataset", "<PAMDataset/>"])
def test_a_damaged_sidecar_is_passed_over(class_raster, card, sidecar):
    path = class_raster[0]
    path.with_name(path.name + ".aux.xml").write_text(sidecar)
    assert read_classes(path) == list(card.classes)


def test_no_raster_no_classes(tmp_path):
    with pytest.raises(SceneError, match="does not exist"):
        read_classes(tmp_path / "missing.tif")


def test_existing_files_stay(class_raster, card, listing):
    before = listing()
    with pytest.raises(OutputError, match="--overwrite"):
        write_class_raster(class_raster[0], np.zeros((2, 2), np.uint8), card.classes)
    assert listing() == before
    write_class_raster(class_raster[0], np.zeros((2, 2), np.uint8), card.classes, overwrite=True)
    assert set(listing()) == set(before)


@pytest.mark.parametrize("count", [254, 255, 300])
def test_many_classes(tmp_path, count):
    classes = [LandCoverClass(v, f"class {v}", c) for v, c in enumerate(palette(count), start=1)]
    values = np.arange(count + 1, dtype=np.uint16).repeat(3)[None]
    path = tmp_path / "classes.tif"
    write_class_raster(path, values, classes, transform=(20, 0, 5, 0, -20, 9))
    assert read_classes(path) == classes
    assert gdal_category_names(path) == ["Unclassified", *(c.name for c in classes)]
    path.with_name(path.name + ".aux.xml").unlink()
    assert read_classes(path) == classes
    with rasterio.open(path) as dataset:
        assert dataset.dtypes[0] == ("uint8" if count == 254 else "uint16")
        assert dataset.colorinterp[0].name == "palette"
        np.testing.assert_array_equal(dataset.read(1), values)


@pytest.mark.parametrize("value", [-1, 256, 0.5])
def test_values_that_do_not_fit_are_a_defect(tmp_path, card, value):
    with pytest.raises(ValueError, match="do not fit uint8"):
        write_class_raster(tmp_path / "classes.tif", np.full((2, 2), value), card.classes)
    assert list(tmp_path.iterdir()) == []


def test_the_type_follows_the_highest_value():
    assert [class_dtype(value).name for value in (0, 254, 255, 65535)] == ["uint8", "uint8", "uint16", "uint16"]
    with pytest.raises(ValueError, match="1 to 65535"):
        class_dtype(65536)


@pytest.mark.parametrize("n", [0, 1, 16, 18, 40, 255])
def test_palettes_have_different_colours_and_keep_them(n):
    colours = palette(n)
    assert len(colours) == len(set(colours)) == n
    assert palette(65535)[:n] == colours
    assert all(0 <= level <= 255 for colour in colours for level in colour)


def test_palettes_go_on():
    colours = palette(65535)
    assert len(colours) == 65535
    assert set(colours) == set(palette(255))
    assert all(one != other for one, other in pairwise(colours))


def test_colours_are_far_apart():
    colours = np.array(palette(40), float)
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 999 * np.eye(40)
    assert distances.min() > 30


@pytest.mark.parametrize("n", [-1, 65536])
def test_palettes_end_at_65535(n):
    with pytest.raises(ValueError, match="0 to 65535"):
        palette(n)
