"""References: how values and names of labels become the map's classes."""

from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio import warp

from spectraldiff.reference import Reference, match_classes, read_reference
from spectraldiff_runtime.class_map import LandCoverClass, write_class_raster
from spectraldiff_runtime.errors import LabelsError, UsageError
from spectraldiff_runtime.placing import mapped
from spectraldiff_runtime.scene import Georeference

SHAPE = (4, 5)
TRANSFORM = (20.0, 0.0, 500240.0, 0.0, -20.0, 4480260.0)
PLACE = Georeference.of(rasterio.crs.CRS.from_epsg(32616), TRANSFORM)
GRASS, WATER, ROCK = (LandCoverClass(v, n, (v, v, v)) for v, n in ((1, "Grass"), (2, "Water"), (3, "Rock")))


def write_points(path: Path, pixels, values, **options) -> Path:
    """Points in the middle of pixels (row, column), in degrees."""
    rows, columns = np.array(pixels).T + 0.5
    x, y = mapped(PLACE.transform, columns, rows)
    degrees = warp.transform("EPSG:32616", "EPSG:4326", x, y)
    geometry = shapely.to_wkb(shapely.points(*degrees))
    field = {"fields": ["class"], **options}["fields"]
    pyogrio.raw.write(path, geometry, [np.array(values)], field, geometry_type="Point", crs="EPSG:4326")
    return path


def reference(labels, classes=(), by_name=False) -> Reference:
    return Reference(np.array(labels, np.uint8), tuple(classes), by_name)


def test_points_label_the_pixels_that_hold_them(tmp_path):
    path = write_points(tmp_path / "p.gpkg", [(0, 0), (3, 4), (2, 1)], ["Water", "Grass", "Water"])
    found = read_reference(path, SHAPE, PLACE)
    named = {c.value: c.name for c in found.classes}
    assert found.by_name
    assert [named[int(found.labels[at])] for at in ((0, 0), (3, 4), (2, 1))] == ["Water", "Grass", "Water"]
    assert (found.labels > 0).sum() == 3


@pytest.mark.parametrize("values", [[7, 3, 7], [7.0, 3.0, 7.0], ["7", "3", "7"]])
def test_numbers_are_values_of_the_map(tmp_path, values):
    path = write_points(tmp_path / "p.gpkg", [(0, 0), (3, 4), (2, 1)], values)
    found = read_reference(path, SHAPE, PLACE)
    assert (found.classes, found.by_name) == ((), False)
    assert [int(found.labels[at]) for at in ((0, 0), (3, 4), (2, 1))] == [7, 3, 7]


def test_other_fields_are_named(tmp_path):
    path = write_points(tmp_path / "p.gpkg", [(0, 0)], ["Water"], fields=["cover"])
    assert read_reference(path, SHAPE, PLACE, field="cover").classes[0].name == "Water"
    with pytest.raises(UsageError, match=r"has no field 'class'.*cover"):
        read_reference(path, SHAPE, PLACE)


def test_field_of_a_raster_is_a_mistake(tmp_path):
    write_class_raster(tmp_path / "l.tif", np.ones(SHAPE), (GRASS,), crs="EPSG:32616", transform=TRANSFORM)
    with pytest.raises(UsageError, match=r"--field was given and '.*l.tif' is no vector file"):
        read_reference(tmp_path / "l.tif", SHAPE, PLACE, field="class")
    assert read_reference(tmp_path / "l.tif", SHAPE, PLACE).classes == (GRASS,)


def test_value_past_the_highest_class(tmp_path):
    path = write_points(tmp_path / "p.gpkg", [(0, 0), (1, 1)], [1, 70_000])
    with pytest.raises(LabelsError, match="has the class 70000: wanted values of the map, 65535 at most"):
        read_reference(path, SHAPE, PLACE)


def test_names_win_over_values():
    swapped = (LandCoverClass(1, " water", (0, 0, 9)), LandCoverClass(2, "GRASS", (9, 0, 0)))
    labels, classes, notes = match_classes(reference([[0, 1, 2]], swapped), [GRASS, WATER], 2)
    assert labels.tolist() == [[0, 2, 1]]
    assert classes == (GRASS, WATER)
    assert notes == []


def test_class_that_the_map_does_not_have_is_added_and_said():
    named = (LandCoverClass(1, "Rock", (9, 9, 9)), LandCoverClass(2, "Grass", (0, 9, 0)))
    labels, classes, notes = match_classes(reference([[1, 1, 2]], named), [GRASS, WATER], 2)
    assert labels.tolist() == [[3, 3, 1]]
    assert [c.name for c in classes] == ["Grass", "Water", "Rock"]
    assert notes == ["the map has no class 'Rock': its 2 labelled pixels count as wrong"]


def test_class_that_labels_no_pixel_is_not_added():
    labels, classes, notes = match_classes(reference([[1, 0]], (GRASS, ROCK)), [GRASS, WATER], 2)
    assert (labels.tolist(), classes, notes) == ([[1, 0]], (GRASS, WATER), [])


@pytest.mark.parametrize(
    ("theirs", "ours", "names"),
    [
        ((), [GRASS, WATER], ["Grass", "Water"]),
        ((GRASS, WATER), [], ["Grass", "Water"]),
        ((), [], ["Class 1", "Class 2"]),
    ],
)
def test_values_count_where_one_side_has_no_names(theirs, ours, names):
    labels, classes, notes = match_classes(reference([[0, 1, 2]], theirs), ours, 2)
    assert labels.tolist() == [[0, 1, 2]]
    assert ([c.name for c in classes], notes) == (names, [])


def test_values_count_where_no_name_is_shared_and_that_is_said():
    german = (LandCoverClass(1, "Gras", (0, 9, 0)), LandCoverClass(2, "Wasser", (0, 0, 9)))
    labels, _, notes = match_classes(reference([[1, 2]], german), [GRASS, WATER], 2)
    assert labels.tolist() == [[1, 2]]
    assert notes == ["map and reference have no class name in common: classes were matched by value"]


@pytest.mark.parametrize(("ours", "words"), [([GRASS, WATER], "Rock and the map Grass, Water"), ([], "none at all")])
def test_names_only_that_the_map_does_not_know(ours, words):
    with pytest.raises(LabelsError, match=words):
        match_classes(reference([[1]], (LandCoverClass(1, "Rock", (9, 9, 9)),), by_name=True), ours, 2)


def test_values_that_are_no_classes():
    many = Reference(np.array([[1, 6000]], np.uint16))
    with pytest.raises(LabelsError, match="values up to 6000 and the map's classes end at 2"):
        match_classes(many, [GRASS, WATER], 2)
