"""A user's own labels: vector files of any kind and CRS, onto a scene's grid."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.features import shapes
from rasterio.warp import transform as reproject

from spectraldiff.data.label_reader import OwnLabels, read_own_labels, renumbered
from spectraldiff.data.label_vectors import LabelFields, is_vector
from spectraldiff.data.scene import LabelledScene
from spectraldiff.datasets import registry
from spectraldiff_runtime.classes import palette
from spectraldiff_runtime.errors import LabelsError, UsageError
from spectraldiff_runtime.geo.georeference import Georeference

UTM = "EPSG:32616"
SHAPE = (20, 30)
PLACE = Georeference(rasterio.CRS.from_string(UTM), rasterio.Affine(10, 0, 500000, 0, -10, 4480000))


def write_vector(path: Path, geometries: list, crs: str | None = UTM, layer: str = "labels", **fields: list) -> Path:
    """Write geometries in map coordinates, with a column for each keyword."""
    columns = [
        np.array(values, dtype=object if isinstance(values[0], str | None) else None) for values in fields.values()
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no CRS is meant
        pyogrio.raw.write(
            path, shapely.to_wkb(np.array(geometries)), columns, list(fields), crs=crs, layer=layer,
            geometry_type="Unknown", append=path.exists(),
        )  # fmt: skip
    return path


def box(row0: float, row1: float, col0: float, col1: float) -> shapely.Polygon:
    """Return the rectangle around pixels of the 20 x 30 grid."""
    return shapely.box(500000 + 10 * col0, 4480000 - 10 * row1, 500000 + 10 * col1, 4480000 - 10 * row0)


def point(row: float, col: float) -> shapely.Point:
    return shapely.Point(500000 + 10 * col, 4480000 - 10 * row)


def moved(geometry: shapely.Geometry, crs: str) -> shapely.Geometry:
    """Return a geometry of the grid in another CRS, its sides kept straight on the ground."""
    dense = shapely.segmentize(geometry, 5)
    return shapely.transform(dense, lambda p: np.stack(reproject(UTM, crs, *p.T.tolist()), 1))


def read(path: Path, field: str | None = "class", **more: str) -> OwnLabels:
    return read_own_labels(path, SHAPE, PLACE, "scene.tif", LabelFields(field, **more))


def filled(*areas: tuple[int, int, int, int, int]) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    for value, row0, row1, col0, col1 in areas:
        labels[row0:row1, col0:col1] = value
    return labels


@pytest.fixture
def two(tmp_path: Path) -> Path:
    geometries = [box(2, 6, 3, 9), box(10, 14, 20, 28), box(15, 18, 1, 4)]
    return write_vector(tmp_path / "two.gpkg", geometries, **{"class": ["wood", "corn", "wood"]})


def test_a_pixel_belongs_to_the_polygon_that_holds_its_centre(two):
    found = read(two)
    np.testing.assert_array_equal(found.labels, filled((2, 2, 6, 3, 9), (1, 10, 14, 20, 28), (2, 15, 18, 1, 4)))
    assert found.labels.dtype == np.uint8
    assert [(c.value, c.name, c.colour) for c in found.classes] == [
        (1, "corn", palette(2)[0]), (2, "wood", palette(2)[1]),
    ]  # fmt: skip
    assert found.remarks == ()
    assert found.groups is not None
    assert sorted(np.unique(found.groups[found.labels == 2])) == [1, 3]
    np.testing.assert_array_equal(found.groups > 0, found.labels > 0)


def test_centres_decide_not_corners(tmp_path):
    path = write_vector(tmp_path / "a.gpkg", [box(2.4, 6.6, 3.6, 9.4), box(0, 1, 0, 1)], **{"class": ["a", "b"]})
    np.testing.assert_array_equal(read(path).labels, filled((1, 2, 7, 4, 9), (2, 0, 1, 0, 1)))


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "shp", "fgb"])
def test_any_vector_file_in_another_crs(tmp_path, suffix):
    geometries = [moved(box(2, 6, 3, 9), "EPSG:4326"), moved(box(10, 14, 20, 28), "EPSG:4326")]
    path = write_vector(tmp_path / f"a.{suffix}", geometries, "EPSG:4326", "a", **{"class": ["a", "b"]})
    np.testing.assert_array_equal(read(path).labels, filled((1, 2, 6, 3, 9), (2, 10, 14, 20, 28)))


def test_numbers_are_classes_in_rising_order(tmp_path):
    geometries = [box(0, 2, 0, 2), box(4, 6, 0, 2), box(8, 10, 0, 2)]
    path = write_vector(tmp_path / "a.gpkg", geometries, code=[30, 4, 30], crop=["Rye", "Oats", "Rye"])
    found = read(path, "code")
    assert [c.name for c in found.classes] == ["Class 4", "Class 30"]
    assert found.labels[[0, 4, 8], 0].tolist() == [2, 1, 2]
    named = read(path, "code", name_field="crop")
    assert [c.name for c in named.classes] == ["Oats", "Rye"]
    np.testing.assert_array_equal(named.labels, found.labels)


def test_colours_of_the_file(tmp_path):
    geometries = [box(0, 2, 0, 2), box(4, 6, 0, 2)]
    path = write_vector(tmp_path / "a.gpkg", geometries, **{"class": ["a", "b"]}, Color=["#1b9e77", ""])
    assert [c.colour for c in read(path).classes] == [(27, 158, 119), palette(2)[1]]
    path = write_vector(tmp_path / "b.gpkg", geometries, **{"class": ["a", "b"]}, colour=["green", ""])
    with pytest.raises(LabelsError, match=r"the colour 'green': wanted #rrggbb"):
        read(path)


def test_a_class_without_a_colour_gets_one_that_no_other_has(tmp_path):
    first = "#{:02x}{:02x}{:02x}".format(*palette(1)[0])
    geometries = [box(0, 2, 0, 2), box(4, 6, 0, 2), box(8, 10, 0, 2)]
    path = write_vector(tmp_path / "a.gpkg", geometries, **{"class": ["a", "b", "c"]}, color=["", "", first])
    colours = [c.colour for c in read(path).classes]
    assert colours[1:] == [palette(2)[1], palette(1)[0]]
    assert len(set(colours)) == 3


def test_numbers_that_are_no_class_are_counted(tmp_path):
    boxes = [box(0, 4, 5 * i, 5 * i + 4) for i in range(6)]
    path = write_vector(tmp_path / "l.gpkg", boxes, **{"class": [1.0, 2.0, np.inf, -np.inf, np.nan, -0.0]})
    own = read(path)
    assert [c.name for c in own.classes] == ["Class 1", "Class 2"]
    assert (own.labels[:, 10:] == 0).all()
    assert "features without a class (empty, 0 or infinite), left out: 4" in own.remarks


@pytest.mark.parametrize("odd", [1.5, -1.0, 1e300])
def test_numbers_that_cannot_be_classes_are_refused_in_a_line(tmp_path, odd):
    path = write_vector(tmp_path / "l.gpkg", [box(0, 4, 0, 4), box(0, 4, 5, 9)], **{"class": [1.0, odd]})
    with pytest.raises(LabelsError, match="wanted text, or whole numbers with 0 for unlabelled"):
        read(path)


def test_a_number_with_several_names_has_the_usual_one_and_that_is_said(tmp_path):
    geometries = [box(0, 2, 0, 2), box(4, 6, 0, 2), box(8, 10, 0, 2), box(12, 14, 0, 2)]
    names = ["Oak", "Ash", "Oak", "Rye"]
    found = read(
        write_vector(tmp_path / "a.gpkg", geometries, code=[3, 3, 3, 4], crop=names), "code", name_field="crop"
    )
    assert [c.name for c in found.classes] == ["Oak", "Rye"]
    assert found.numbers == (3, 4)
    assert found.labels[[0, 4, 8, 12], 0].tolist() == [1, 1, 1, 2]
    assert len(found.remarks) == 1
    assert "has several names, 'Oak' (2) and 'Ash' (1): it is called 'Oak'" in found.remarks[0]


def test_a_boolean_field_has_two_classes(tmp_path):
    geometries = [box(0, 2, 0, 2), box(4, 6, 0, 2)]
    found = read(write_vector(tmp_path / "a.gpkg", geometries, **{"class": [True, False]}))
    assert [c.name for c in found.classes] == ["False", "True"]
    assert found.labels[[0, 4], 0].tolist() == [2, 1]


def test_one_word_in_two_forms_of_its_accents_is_one_class(tmp_path):
    geometries = [box(0, 2, 0, 2), box(4, 6, 0, 2)]
    found = read(write_vector(tmp_path / "a.gpkg", geometries, **{"class": ["For\u00eat", "Fore\u0302t"]}))
    assert [c.name for c in found.classes] == ["For\u00eat"]


def test_names_are_one_line_and_words_between_other_blanks_are_one_class(tmp_path):
    names = ["corn\tno till", " corn  no\ntill\x07", "w\u00a0ood"]
    geometries = [box(0, 2, 0, 2), box(4, 6, 0, 2), box(8, 10, 0, 2)]
    found = read(write_vector(tmp_path / "l.geojson", geometries, **{"class": names}))
    assert [c.name for c in found.classes] == ["corn no till", "w ood"]
    np.testing.assert_array_equal(found.labels, filled((1, 0, 2, 0, 2), (1, 4, 6, 0, 2), (2, 8, 10, 0, 2)))


def write_labels(path: Path, *values: int, nodata: int | None = None) -> OwnLabels:
    """Read a label raster whose first row begins with these values."""
    labels = np.zeros(SHAPE, np.uint16)
    labels[0, : len(values)] = values
    profile = {
        "driver": "GTiff",
        "height": SHAPE[0],
        "width": SHAPE[1],
        "count": 1,
        "dtype": "uint16",
        "nodata": nodata,
    }
    with rasterio.open(path, "w", **profile, crs=PLACE.crs, transform=PLACE.transform) as dataset:
        dataset.write(labels, 1)
    return read_own_labels(path, SHAPE, PLACE, "scene.tif")


def test_values_of_a_raster_are_classes_even_with_some_between(tmp_path):
    found = write_labels(tmp_path / "l.tif", 1, 2, 4, 7)
    assert found.labels[0, :4].tolist() == [1, 2, 4, 7]
    assert [c.name for c in found.classes] == [f"Class {v}" for v in range(1, 8)]
    assert found.numbers == tuple(range(1, 8))
    assert renumbered(found, tmp_path / "l.tif") == ()


def test_codes_in_a_raster_are_the_classes_that_there_are(tmp_path):
    found = write_labels(tmp_path / "l.tif", 112, 311, 512, 311)
    assert found.labels[0, :4].tolist() == [1, 2, 3, 2]
    assert [(c.value, c.name) for c in found.classes] == [(1, "Class 112"), (2, "Class 311"), (3, "Class 512")]
    assert [c.colour for c in found.classes] == palette(3)
    assert found.numbers == (112, 311, 512)
    assert renumbered(found, tmp_path / "l.tif") == (
        f"maps of the model have the values 1 to 3, not the numbers in '{tmp_path / 'l.tif'}': 112 becomes 1 "
        "'Class 112'",
    )


@pytest.mark.parametrize("value", [255, 65535])
def test_the_highest_value_of_a_type_may_mean_unlabelled(tmp_path, value):
    found = write_labels(tmp_path / "l.tif", 1, 2, value)
    assert [c.name for c in found.classes] == ["Class 1", "Class 2", f"Class {value}"]
    hint = f"if {value} means unlabelled, declare it as nodata: gdal_edit.py -a_nodata {value}"
    assert renumbered(found, tmp_path / "l.tif")[0].endswith(hint)
    told = write_labels(tmp_path / "m.tif", 1, 2, value, nodata=value)
    assert ([c.name for c in told.classes], renumbered(told, tmp_path / "m.tif")) == (["Class 1", "Class 2"], ())


def test_points_label_the_pixel_that_holds_them(tmp_path):
    geometries = [point(0.1, 0.9), shapely.MultiPoint([point(3, 4), point(5.99, 7.5)]), point(40, 2)]
    found = read(write_vector(tmp_path / "a.gpkg", geometries, **{"class": ["a", "b", "a"]}))
    np.testing.assert_array_equal(found.labels, filled((1, 0, 1, 0, 1), (2, 3, 4, 4, 5), (2, 5, 6, 7, 8)))
    assert found.groups is None


def test_a_multipolygons_parts_are_polygons_of_their_own(tmp_path):
    geometries = [shapely.MultiPolygon([box(0, 3, 0, 3), box(10, 12, 5, 9)]), point(19.5, 0.5)]
    found = read(write_vector(tmp_path / "a.gpkg", geometries, **{"class": ["a", "b"]}))
    assert found.groups is not None
    assert found.groups[0, 0] != found.groups[10, 5]
    assert found.groups[19, 0] == 0
    assert found.labels[19, 0] == 2


def test_pixels_of_two_classes_stay_unlabelled_and_are_counted(tmp_path):
    geometries = [box(0, 10, 0, 10), box(8, 14, 0, 10), box(0, 2, 0, 2), point(4.5, 4.5)]
    found = read(write_vector(tmp_path / "a.gpkg", geometries, **{"class": ["a", "b", "a", "b"]}))
    wanted = filled((1, 0, 8, 0, 10), (2, 10, 14, 0, 10))
    wanted[4, 4] = 0
    np.testing.assert_array_equal(found.labels, wanted)
    assert found.remarks == (
        "pixels in features of two classes ('a' and 'b', say), left unlabelled: 21",
    )  # fmt: skip
    assert found.groups is not None
    np.testing.assert_array_equal(found.groups > 0, wanted > 0)


def test_features_without_a_class_and_lines_are_left_out_and_counted(tmp_path):
    line = shapely.LineString([point(0, 0), point(9, 9)])
    geometries = [box(0, 2, 0, 2), box(4, 6, 0, 2), box(8, 10, 0, 2), line]
    found = read(write_vector(tmp_path / "a.gpkg", geometries, **{"class": ["a", None, " ", "b"]}))
    np.testing.assert_array_equal(found.labels, filled((1, 0, 2, 0, 2)))
    assert found.remarks == (
        "features without a class (empty, 0 or infinite), left out: 2",
        "lines, left out because labels are polygons and points: 1",
        "no polygon or point of b reaches the scene: no such class",
    )
    numbers = write_vector(tmp_path / "b.gpkg", geometries[:2], **{"class": [0, 7]})
    assert [c.name for c in read(numbers).classes] == ["Class 7"]


def test_classes_that_label_no_pixel_are_no_classes_of_the_model(tmp_path):
    geometries = [box(0, 2, 0, 2), box(4.6, 4.9, 0.6, 0.9), box(100, 120, 0, 2)]
    found = read(write_vector(tmp_path / "a.gpkg", geometries, **{"class": ["c", "a", "b"]}))
    assert [c.name for c in found.classes] == ["c"]
    assert found.remarks == (
        "the features of a hold no pixel's centre: no such class",
        "no polygon or point of b reaches the scene: no such class",
    )


def test_a_polygon_that_crosses_itself_is_mended(tmp_path):
    bow = shapely.Polygon([(500000, 4480000), (500100, 4479900), (500100, 4480000), (500000, 4479900)])
    found = read(write_vector(tmp_path / "a.gpkg", [bow, box(15, 16, 0, 1)], **{"class": ["a", "b"]}))
    assert 20 <= (found.labels == 1).sum() <= 60


def test_a_turned_scene(tmp_path):
    """The grid turned by 30 degrees: each pixel against the polygons, one by one."""
    place = replace(PLACE, transform=PLACE.transform @ rasterio.Affine.rotation(30))
    geometries = [box(2, 12, 4, 14), box(5, 30, 16, 22)]
    path = write_vector(tmp_path / "a.gpkg", geometries, **{"class": ["a", "b"]})
    found = read_own_labels(path, SHAPE, place, "scene.tif", LabelFields("class")).labels
    for row in range(SHAPE[0]):
        for col in range(SHAPE[1]):
            centre = shapely.Point(place.transform @ (col + 0.5, row + 0.5))
            inside = [value for value, area in enumerate(geometries, start=1) if area.contains(centre)]
            assert [int(found[row, col])] == (inside or [0])


def test_layers(tmp_path):
    path = write_vector(tmp_path / "a.gpkg", [box(0, 2, 0, 2)], layer="fields", **{"class": ["a"]})
    write_vector(path, [box(0, 2, 0, 2)], layer="roads", name=["x"])
    assert is_vector(path)
    assert read(path).classes[0].name == "a"  # the only layer that has the field
    write_vector(path, [box(0, 2, 0, 2)], layer="other", **{"class": ["b"]})
    assert read(path, layer="other").classes[0].name == "b"
    with pytest.raises(UsageError, match="has the layers fields, roads, other: choose one with --layer-name"):
        read(path)
    with pytest.raises(UsageError, match="no layer 'none', only fields, roads, other"):
        read(path, layer="none")


def refusal(path: Path, field: str | None = "class", place: Georeference = PLACE, **more: str) -> str:
    with pytest.raises((LabelsError, UsageError)) as caught:
        read_own_labels(path, SHAPE, place, "scene.tif", LabelFields(field, **more))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_fields_that_are_not_there_are_answered_with_those_that_are(two):
    assert "give the field with the classes by --field; it has class" in refusal(two, None)
    assert "has no field 'klass': give one of its fields: class" in refusal(two, "klass")
    assert "has no field 'title'" in refusal(two, name_field="title")


@pytest.mark.parametrize(
    ("values", "words"),
    [([1.5, 2.0], "from 1.5 to 2: wanted text, or whole numbers"), ([-1, 3], "from -1 to 3")],
)
def test_values_that_are_no_classes(tmp_path, values, words):
    path = write_vector(tmp_path / "a.gpkg", [box(0, 2, 0, 2), box(4, 6, 0, 2)], **{"class": values})
    assert words in refusal(path)


def test_files_without_labels_on_the_scene(tmp_path, two):
    far = write_vector(
        tmp_path / "far.gpkg", [moved(box(500, 600, 0, 9), "EPSG:4326")], "EPSG:4326", **{"class": ["a"]}
    )
    message = refusal(far)
    assert "in EPSG:4326 and 'scene.tif' covers" in message
    assert "wanted labels on the scene" in message
    tiny = write_vector(tmp_path / "tiny.gpkg", [box(4.6, 4.9, 0.6, 0.9)], **{"class": ["a"]})
    assert "label no pixel of 'scene.tif'" in refusal(tiny)
    lines = [shapely.LineString([point(0, 0), point(9, 9)])]
    assert "no polygon and no point" in refusal(write_vector(tmp_path / "l.gpkg", lines, **{"class": ["a"]}))
    empty = tmp_path / "empty.gpkg"
    pyogrio.raw.write(
        empty, np.array([], object), [np.array([], object)], ["class"], crs=UTM, layer="l", geometry_type="Polygon"
    )
    assert "has no feature" in refusal(empty)


def test_files_that_cannot_be_placed(tmp_path, two):
    bare = write_vector(tmp_path / "bare.shp", [box(0, 2, 0, 2)], None, "bare", **{"class": ["a"]})
    assert "has no CRS and 'scene.tif' has one" in refusal(bare)
    assert "'scene.tif' has no CRS and" in refusal(two, place=replace(PLACE, crs=None))
    assert "'scene.tif' has no georeference" in refusal(two, place=Georeference())
    same = read_own_labels(bare, SHAPE, replace(PLACE, crs=None), "scene.tif", LabelFields("class"))
    np.testing.assert_array_equal(same.labels, filled((1, 0, 2, 0, 2)))  # neither has one: the same coordinates


def test_a_damaged_vector_file_is_one_line(tmp_path, two):
    damaged = tmp_path / "damaged.gpkg"
    damaged.write_bytes(two.read_bytes()[:3000])
    with pytest.raises(LabelsError, match=r"damaged.gpkg' cannot be read as a vector file \(.+\): wanted") as caught:
        is_vector(damaged)
    assert "\n" not in str(caught.value)


def polygonised(scene: LabelledScene, path: Path, crs: str) -> Path:
    """Write a scene's labels as polygons in another CRS, with names and colours."""
    transform = rasterio.Affine(*scene.transform)
    found = [
        (shapely.geometry.shape(area), int(value))
        for area, value in shapes(scene.labels, scene.labels > 0, transform=transform)
    ]
    names = [scene.classes[value - 1].name for _, value in found]
    colours = ["#{:02x}{:02x}{:02x}".format(*scene.classes[value - 1].colour) for _, value in found]
    geometries = [
        shapely.transform(shapely.segmentize(area, 40), lambda p: np.stack(reproject(scene.crs, crs, *p.T.tolist()), 1))
        for area, _ in found
    ]
    return write_vector(path, geometries, crs, "fields", crop=names, colour=colours)


def test_indian_pines_as_polygons_in_another_crs_has_the_same_labels(tmp_path):
    """The same pixels in the same classes, so the same training and the same accuracy."""
    built_in = registry.load("indian-pines")
    scene = replace(
        built_in, cube=built_in.cube[..., :4], wavelengths=None, crs=UTM,
        transform=(20.0, 0.0, 482000.0, 0.0, -20.0, 4480000.0),
    )  # fmt: skip
    scene.write(tmp_path / "scene.tif")
    labels = polygonised(scene, tmp_path / "labels.gpkg", "EPSG:4326")
    found = LabelledScene.from_files(tmp_path / "scene.tif", labels, fields=LabelFields("crop"))
    by_name = {c.name: c for c in found.classes}
    assert sorted(by_name) == sorted(c.name for c in scene.classes)
    assert all(by_name[c.name].colour == c.colour for c in scene.classes)
    values = np.array([0, *(by_name[c.name].value for c in scene.classes)])
    np.testing.assert_array_equal(found.labels, values[scene.labels])
    assert found.remarks == ()
    assert found.groups is not None
    assert len(np.unique(found.groups)) - 1 == len(list(shapes(scene.labels, scene.labels > 0)))
