"""Class maps that are no GeoTIFFs: polygons, pictures with a place, netCDF and Zarr."""

import json

import h5py
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio import features

from spectraldiff_runtime import map_scene
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import OutputError, SceneError, UsageError
from spectraldiff_runtime.formats import polygon_file
from spectraldiff_runtime.formats.other_rasters import flag_meanings
from spectraldiff_runtime.geotiff.class_raster import read_classes
from spectraldiff_runtime.geotiff.spec import Format
from tests.tiny_model import UTM

RASTERS = ("classes.png", "classes.nc", "classes.zarr")
ALL = ("classes.gpkg", *RASTERS)


def read_polygons(path):
    """Return the fields by name, and the polygons."""
    facts, _, shapes, columns = pyogrio.raw.read(path)
    return dict(zip(facts["fields"], columns, strict=True)), shapely.from_wkb(shapes), facts["crs"]


def read_raster(path):
    with rasterio.open(path) as dataset:
        return dataset.read(1), dataset.crs, dataset.transform, dataset.nodata


def test_polygons_are_the_map(model, write_scene, cube, tmp_path):
    result = map_scene(model, write_scene(), tmp_path / "classes.gpkg")
    fields, shapes, crs = read_polygons(tmp_path / "classes.gpkg")
    wanted = map_scene(model, cube, confidence=True)
    assert list(fields) == ["class", "name", "pixels", "hectares", "confidence"]
    assert crs == "EPSG:32616"
    drawn = features.rasterize(zip(shapes, fields["class"], strict=True), cube.shape[:2], transform=UTM)
    np.testing.assert_array_equal(drawn, wanted.classes)
    names = {c.value: c.name for c in model.card.classes}
    assert [names[value] for value in fields["class"]] == list(fields["name"])
    np.testing.assert_allclose(fields["hectares"], shapely.area(shapes) / 10_000)
    np.testing.assert_allclose(fields["pixels"], shapely.area(shapes) / 400)
    which = features.rasterize(zip(shapes, range(len(shapes)), strict=True), cube.shape[:2], transform=UTM, fill=-1)
    means = [wanted.confidence[which == n].mean() for n in range(len(shapes))]
    np.testing.assert_allclose(fields["confidence"], means, atol=1e-5)
    assert result.pixels == wanted.pixels
    assert result.polygons.patches == len(shapes)
    assert f"{len(shapes):,} polygons" in result._repr_html_()


def test_small_patches_are_left_out_and_counted(model, write_scene, tmp_path):
    scene = write_scene()
    map_scene(model, scene, tmp_path / "all.gpkg")
    pixels = read_polygons(tmp_path / "all.gpkg")[0]["pixels"]
    result = map_scene(model, scene, tmp_path / "some.gpkg", sieve=5)
    kept = read_polygons(tmp_path / "some.gpkg")[0]["pixels"]
    assert sorted(kept) == sorted(pixels[pixels >= 5])
    counts = result.polygons
    assert (counts.patches, counts.sieve) == (len(kept), 5)
    assert (counts.left_out, counts.left_out_pixels) == ((pixels < 5).sum(), pixels[pixels < 5].sum())
    assert 0 < counts.left_out < len(pixels)
    assert sum(result.pixels) == 29 * 37
    again = map_scene(model, scene, tmp_path / "some.gpkg", sieve=5, resume=True)
    assert (again.skipped, again.polygons, again.pixels) == (True, counts, result.pixels)
    with pytest.raises(OutputError, match=r"another sieve \(5; now 6\)"):
        map_scene(model, scene, tmp_path / "some.gpkg", sieve=6, resume=True)


def test_the_command_says_what_is_left_out(sdiff, write_scene, model_path, tmp_path):
    words = ["map", write_scene(), "--out", tmp_path / "classes.gpkg", "--model", model_path, "--threads", 1]
    code, out, err = sdiff(*words, "--sieve", 5, "--confidence", tmp_path / "c.tif", "--json")
    counts = json.loads(out)["polygons"]
    assert code == 0
    assert f"Left out: {counts['left_out']:,} patches of fewer than 5 pixels" in err
    assert "the model's accuracy, are of the map with them" in err
    assert read_raster(tmp_path / "c.tif")[0].any()


def test_percent_and_parts_give_the_same_polygons(model, write_scene, tmp_path, monkeypatch):
    """Also where they are written in several batches."""
    scene = write_scene()
    map_scene(model, scene, tmp_path / "a.gpkg", confidence=tmp_path / "a.tif")
    monkeypatch.setattr(polygon_file, "BATCH", 10)
    steps = []
    map_scene(model, scene, tmp_path / "b.gpkg", confidence=tmp_path / "b.tif", percent=True, progress=steps.append)
    (one, shapes, _), (other, others, _) = (read_polygons(tmp_path / f"{name}.gpkg") for name in "ab")
    assert list(shapes) == list(others)
    np.testing.assert_allclose(one["confidence"], other["confidence"], atol=0.005)
    assert sum(steps) == 2 * 29 * 37  # mapped, and made polygons


def test_no_hectares_in_degrees(model, write_scene, tmp_path):
    scene = write_scene(transform=rasterio.Affine(0.1, 0, 10, 0, -0.1, 50), crs="EPSG:4326")
    map_scene(model, scene, tmp_path / "classes.gpkg")
    assert list(read_polygons(tmp_path / "classes.gpkg")[0]) == ["class", "name", "pixels", "confidence"]


def test_a_scene_without_data_has_no_polygons(model, write_scene, cube, tmp_path):
    scene = write_scene(values=np.zeros_like(cube), nodata=0)
    with pytest.warns(UserWarning, match="no pixel of"):
        result = map_scene(model, scene, tmp_path / "classes.gpkg")
    assert result.polygons.patches == 0
    assert len(read_polygons(tmp_path / "classes.gpkg")[1]) == 0


@pytest.mark.parametrize("name", RASTERS)
def test_other_rasters_hold_the_same_map(model, write_scene, cube, tmp_path, name):
    map_scene(model, write_scene(), tmp_path / name, preview=tmp_path / "preview.png", window=(3, 2, 20, 25))
    values, crs, transform, nodata = read_raster(tmp_path / name)
    np.testing.assert_array_equal(values, map_scene(model, cube).classes[2:27, 3:23])
    assert transform.almost_equals(UTM @ rasterio.Affine.translation(3, 2))
    assert (crs, nodata) == ("EPSG:32616", 0)
    classes = [(c.value, c.name) for c in read_classes(tmp_path / name)]
    assert classes == [(c.value, c.name) for c in model.card.classes]
    assert (tmp_path / "preview.png").stat().st_size > 0
    inside = {"classes.png": {"classes.pgw", "classes.png.aux.xml"}, "classes.nc": {"classes.nc.aux.xml"}}
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"scene.tif", "preview.png", name, *inside.get(name, set())}


def test_the_picture_alone_has_colours_and_with_its_world_file_a_place(model, write_scene, tmp_path, card):
    map_scene(model, write_scene(transform=rasterio.Affine(3, 1, 5e5, 1, -3, 4e6)), tmp_path / "classes.png")
    (tmp_path / "classes.png.aux.xml").unlink()
    with rasterio.open(tmp_path / "classes.png") as dataset:
        assert dataset.transform == rasterio.Affine(3, 1, 5e5, 1, -3, 4e6)
        colours = dataset.colormap(1)
    assert [colours[c.value][:3] for c in card.classes] == [c.colour for c in card.classes]
    assert colours[0][3] == 0


def test_netcdf_has_flags_of_cf(model, write_scene, tmp_path, card):
    map_scene(model, write_scene(), tmp_path / "classes.nc")
    with h5py.File(tmp_path / "classes.nc") as file:
        variable = file["class"]
        facts = {key: variable.attrs[key] for key in ("flag_values", "flag_meanings", "_FillValue", "grid_mapping")}
        assert facts["flag_values"].dtype == variable.dtype == np.uint8
        assert facts["flag_values"].tolist() == [c.value for c in card.classes]
        assert facts["flag_meanings"].decode().split() == ["Corn_maize", "Walder", "Water", "Stone_steel"]
        # GDAL 3.13 would turn the rows upside down
        assert "GeoTransform" not in file[facts["grid_mapping"].decode()].attrs
        assert "GDAL" not in file.attrs
        assert file.attrs["Conventions"] == b"CF-1.9"
        assert [file[axis].attrs["standard_name"].decode()[11:12] for axis in ("x", "y")] == ["x", "y"]
        np.testing.assert_allclose(file["y"][:2], [4_470_000 - 10, 4_470_000 - 30])


@pytest.mark.parametrize(("rows", "columns", "step"), [(29, 37, 20), (29, 37, -20), (29, 1, -20), (1, 37, -20)])
def test_netcdf_of_any_shape_lies_where_the_scene_does(model, write_scene, cube, tmp_path, rows, columns, step):
    """Also where rows begin in the south, and where an axis has one value and no step."""
    place = rasterio.Affine(20, 0, 480_000, 0, step, 4_470_000)
    map_scene(model, write_scene(values=cube[:rows, :columns], transform=place), tmp_path / "classes.nc")
    wanted = map_scene(model, cube[:rows, :columns]).classes
    with h5py.File(tmp_path / "classes.nc") as file:
        np.testing.assert_array_equal(file["class"][:], wanted)
        np.testing.assert_allclose(file["y"][:], 4_470_000 + step * (np.arange(rows) + 0.5))
    values, _, transform, _ = read_raster(tmp_path / "classes.nc")
    north = rasterio.Affine(20, 0, 480_000, 0, -20, 4_470_000 + max(step, 0) * rows)
    assert transform == north
    np.testing.assert_array_equal(values, wanted[::-1] if step > 0 else wanted)


def test_zarr_has_flags(model, write_scene, tmp_path, card):
    map_scene(model, write_scene(), tmp_path / "classes.zarr", form=Format(blocksize=64))
    attributes = json.loads((tmp_path / "classes.zarr" / "classes" / ".zattrs").read_text())
    whole = json.loads((tmp_path / "classes.zarr" / ".zmetadata").read_text())["metadata"]
    assert whole["classes/.zattrs"] == attributes
    assert attributes["flag_values"] == [1, 2, 3, 4]
    assert attributes["_ARRAY_DIMENSIONS"] == ["Y", "X"]
    assert whole["classes/.zarray"]["chunks"] == [64, 64]


def test_words_of_flags():
    names = ["Corn", "corn/maize (1)", "Ω", "Corn", "a.b-c+d@e"]
    classes = [LandCoverClass(number, name, (0, 0, 0)) for number, name in enumerate(names, start=1)]
    assert flag_meanings(classes) == "Corn corn_maize_1 class_3 Corn_4 a.b-c+d@e"


@pytest.mark.parametrize("name", ALL)
def test_finished_maps_are_kept_and_replaced(model, write_scene, cube, tmp_path, listing, name):
    scene, out = write_scene(), tmp_path / name
    map_scene(model, scene, out)
    before = listing()
    assert map_scene(model, scene, out, resume=True).skipped
    with pytest.raises(OutputError, match="exists"):
        map_scene(model, scene, out)
    with pytest.raises(OutputError, match="another least confidence"):
        map_scene(model, scene, out, resume=True, min_confidence=0.5)
    assert listing() == before
    other = write_scene("b.tif", values=cube[:20])
    map_scene(model, other, out, overwrite=True)
    assert map_scene(model, other, out, resume=True).height == 20
    assert {p.split("/")[0] for p in listing()} == {p.split("/")[0] for p in before} | {"b.tif"}


@pytest.mark.parametrize("name", ALL)
def test_what_stops_at_the_end_goes_on(model, write_scene, tmp_path, monkeypatch, name):
    """The raw layers of the map are kept, and nothing appears under its name before it is whole."""
    scene, out = write_scene(), tmp_path / name
    steps = []
    with monkeypatch.context() as patch:
        failing = "geotiff.transcoder.Transcoder.run" if name != "classes.gpkg" else "formats.polygon_file.patches_of"
        patch.setattr(f"spectraldiff_runtime.{failing}", stop)
        with pytest.raises(OutputError, match="cannot be written"):
            map_scene(model, scene, out, resume=True)
    assert {p.name for p in tmp_path.iterdir()} == {"scene.tif", f"{name}.unfinished"}
    result = map_scene(model, scene, out, resume=True, started=lambda *_: steps.append("started"))
    assert not result.skipped
    assert out.exists()
    assert not (tmp_path / f"{name}.unfinished").exists()


def stop(*_, **__):
    raise OSError(5, "Input/output error")


def test_names_that_are_taken(model, write_scene, tmp_path):
    scene = write_scene()
    (tmp_path / "classes.zarr").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        map_scene(model, scene, tmp_path / "classes.zarr", overwrite=True)
    (tmp_path / "classes.pgw").write_text("mine")
    with pytest.raises(OutputError, match=r"'classes.pgw' lies next to"):
        map_scene(model, scene, tmp_path / "classes.png")
    assert (tmp_path / "classes.pgw").read_text() == "mine"
    map_scene(model, scene, tmp_path / "classes.png", overwrite=True)
    assert (tmp_path / "classes.pgw").read_text().startswith("20.0\n")


PLACES = {
    "none": {"transform": None, "crs": None},
    "gcps": {
        "transform": None,
        "gcps": [rasterio.control.GroundControlPoint(r, c, 10.0 + c, 50.0 - r) for r, c in ((0, 0), (0, 30), (20, 0))],
        "crs": "EPSG:4326",
    },
    "rotated": {"transform": rasterio.Affine(3, 1, 500_000, 1, -3, 4_000_000)},
}


@pytest.mark.parametrize(
    ("where", "name", "words"),
    [
        ("none", "classes.gpkg", "no CRS with a transform, so polygons cannot be placed"),
        ("gcps", "classes.gpkg", "no CRS with a transform"),
        ("gcps", "classes.png", "control points or RPCs, which .png does not hold"),
        ("gcps", "classes.nc", "control points or RPCs"),
        ("rotated", "classes.nc", "is rotated"),
        ("rotated", "classes.zarr", "is rotated"),
        ("rotated", "classes.gpkg", None),
        ("none", "classes.png", None),
        ("none", "classes.nc", "has no transform, and netCDF"),
        ("none", "classes.zarr", None),
    ],
)
def test_places_that_a_format_does_not_hold(model, write_scene, tmp_path, where, name, words):
    scene = write_scene(**PLACES[where])
    if words is None:
        map_scene(model, scene, tmp_path / name)
        return
    with pytest.raises(SceneError, match=words):
        map_scene(model, scene, tmp_path / name)
    assert {p.name for p in tmp_path.iterdir()} == {"scene.tif"}


def test_options_that_do_not_go_together(model, write_scene, tmp_path, sdiff, model_path):
    scene = write_scene()
    with pytest.raises(UsageError, match=r"fewest pixels of a polygon, with a map such as classes.gpkg"):
        map_scene(model, scene, tmp_path / "classes.tif", sieve=3)
    with pytest.raises(UsageError, match=r"--co is for GeoTIFFs and none is written"):
        map_scene(model, scene, tmp_path / "classes.nc", form=Format(options={"COMPRESS": "LZW"}))
    with pytest.raises(OutputError, match=r"suffix '.jp2' and that format is not written: wanted .tif, .*or .zarr"):
        map_scene(model, scene, tmp_path / "classes.jp2")
    code, _, err = sdiff("map", scene, "--out", tmp_path / "c.nc", "--of", "zarr", "--model", model_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "wanted a name that ends in .zarr" in err


@pytest.mark.parametrize("form", ["GPKG", "PNG", "netCDF", "Zarr", "GTiff"])
def test_many_scenes_in_a_format(sdiff, write_scene, model_path, tmp_path, form):
    scenes = [write_scene("a.tif"), write_scene("b.tif")]
    words = ["map", *scenes, "--out-dir", tmp_path / "maps", "--model", model_path, "--of", form, "-q"]
    assert sdiff(*words, "--confidence", tmp_path / "sure")[0] == 0
    suffix = {"GPKG": ".gpkg", "PNG": ".png", "netCDF": ".nc", "Zarr": ".zarr", "GTiff": ".tif"}[form]
    assert all((tmp_path / "maps" / f"{name}{suffix}").exists() for name in "ab")
    assert (tmp_path / "sure" / "b.tif").exists()
    assert sdiff(*words, "--confidence", tmp_path / "sure", "--resume")[0] == 0
