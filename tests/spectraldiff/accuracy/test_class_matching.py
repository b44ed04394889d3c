"""References: how values and names of labels become the map's classes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio import warp

from spectraldiff.accuracy.class_matching import match_classes, read_reference
from spectraldiff.data.label_reader import OwnLabels
from spectraldiff.data.label_vectors import LabelFields
from spectraldiff_runtime.classes import LandCoverClass, palette
from spectraldiff_runtime.errors import LabelsError, UsageError
from spectraldiff_runtime.geo.georeference import Georeference, apply_transform
from spectraldiff_runtime.geotiff.class_raster import write_class_raster

SHAPE = (4, 5)
TRANSFORM = (20.0, 0.0, 500240.0, 0.0, -20.0, 4480260.0)
PLACE = Georeference.of(rasterio.crs.CRS.from_epsg(32616), TRANSFORM)
GRASS, WATER, ROCK = (LandCoverClass(v, n, (v, v, v)) for v, n in ((1, "Grass"), (2, "Water"), (3, "Rock")))


def write_points(path: Path, pixels, values, **options) -> Path:
    """Points in the middle of pixels (row, column), in degrees."""
    rows, columns = np.array(pixels).T + 0.5
    x, y = apply_transform(PLACE.transform, columns, rows)
    degrees = warp.transform("EPSG:32616", "EPSG:4326", x, y)
    geometry = shapely.to_wkb(shapely.points(*degrees))
    field = {"fields": ["class"], **options}["fields"]
    pyogrio.raw.write(path, geometry, [np.array(values)], field, geometry_type="Point", crs="EPSG:4326")
    return path


PLAIN = LabelFields()


def numbered(*names: str) -> list[LandCoverClass]:
    """Classes 1..K with those names."""
    return [LandCoverClass(v, n, c) for v, (n, c) in enumerate(zip(names, palette(len(names)), strict=True), start=1)]


def reference(labels, classes=(), numbers=None) -> OwnLabels:
    """Labels 1..K, called by their values unless told otherwise."""
    found = tuple(classes) or tuple(numbered(*(f"Class {v}" for v in range(1, np.max(labels) + 1))))
    return OwnLabels(np.array(labels, np.uint16), found, numbers=numbers or tuple(c.value for c in found))


def matched(path: Path, *names: str, fields: LabelFields = PLAIN) -> tuple[dict[int, int], list[str], list[str]]:
    """The map's value of each number in column 0 of a file with points at (number, 0), its classes and the notes."""
    labels, classes, notes = match_classes(read_reference(path, (10, 2), PLACE, fields), numbered(*names))
    return {row: int(v) for row, v in enumerate(labels[:, 0]) if v}, [c.name for c in classes], notes


def test_points_label_the_pixels_that_hold_them(tmp_path):
    path = write_points(tmp_path / "p.gpkg", [(0, 0), (3, 4), (2, 1)], ["Water", "Grass", "Water"])
    found = read_reference(path, SHAPE, PLACE, PLAIN)
    named = {c.value: c.name for c in found.classes}
    assert found.numbers == (None, None)
    assert [named[int(found.labels[at])] for at in ((0, 0), (3, 4), (2, 1))] == ["Water", "Grass", "Water"]
    assert (found.labels > 0).sum() == 3


CODES = [1, 2, 4, 5, 7]
KINDS = [int, float, str]


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_values_of_a_map_with_names_or_without(tmp_path, kind):
    path = write_points(tmp_path / "p.gpkg", [(n, 0) for n in CODES], [kind(n) for n in CODES])
    seven = ["Grass", "Water", "Rock", "Sand", "Snow", "Bog", "Heath"]
    found, classes, notes = matched(path, *seven)
    assert (found, classes, notes) == ({n: n for n in CODES}, seven, [])
    found, classes, notes = matched(path, *(f"Class {v}" for v in range(1, 8)))
    assert (found, notes) == ({n: n for n in CODES}, [])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("called", ["Class {}", "{}"])
def test_numbers_with_gaps_are_the_classes_that_a_training_called_so(tmp_path, kind, called):
    path = write_points(tmp_path / "p.gpkg", [(n, 0) for n in CODES], [kind(n) for n in CODES])
    found, classes, notes = matched(path, *(called.format(n) for n in CODES))
    assert found == {1: 1, 2: 2, 4: 3, 5: 4, 7: 5}
    assert len(classes) == 5
    assert notes == [
        f"the reference's numbers were read as the map's class names: 4 as '{called.format(4)}', which has the value "
        "3 in the map"
    ]


def test_texts_that_are_numbers_are_matched_in_any_order(tmp_path):
    """A training puts texts in alphabetical order: "10" before "2"."""
    path = write_points(tmp_path / "p.gpkg", [(2, 0), (3, 0), (9, 0)], ["2", "10", "9"])
    found, classes, _ = matched(path, "1", "10", "2", "9")
    assert (found, classes) == ({2: 3, 3: 2, 9: 4}, ["1", "10", "2", "9"])


def test_names_of_numbers_are_those_of_the_name_field(tmp_path):
    path = tmp_path / "p.gpkg"
    x, y = apply_transform(PLACE.transform, np.array([0.5, 0.5]), np.array([4.5, 7.5]))
    columns = [np.array([4, 7]), np.array(["Rye", "Oats"], object)]
    pyogrio.raw.write(
        path, shapely.to_wkb(shapely.points(x, y)), columns, ["class", "crop"], geometry_type="Point", crs="EPSG:32616"
    )
    fields = LabelFields(None, None, "crop")
    assert matched(path, "Oats", "Rye", fields=fields) == ({4: 2, 7: 1}, ["Oats", "Rye"], [])
    assert matched(path, "Class 4", "Class 7", fields=fields)[:2] == ({4: 1, 7: 2}, ["Rye", "Oats"])
    found, classes, notes = matched(path, "Hay", "Rape", "Bog", "Rice", "Sand", "Snow", "Ice", fields=fields)
    assert (found, len(classes)) == ({4: 4, 7: 7}, 7)
    assert notes == ["map and reference have no class name in common: classes were matched by value"]


def test_a_number_that_the_map_does_not_have_is_a_class_of_its_own(tmp_path):
    path = write_points(tmp_path / "p.gpkg", [(1, 0), (3, 0), (9, 0)], [1, 3, 9])
    found, classes, notes = matched(path, "Class 1", "Class 2", "Class 4")
    assert found == {1: 1, 3: 4, 9: 5}  # 3 is the value of "Class 4", which is another number's
    assert classes == ["Class 1", "Class 2", "Class 4", "Class 3", "Class 9"]
    assert notes[0] == "the map has no class 'Class 3': its 1 labelled pixels count as wrong"


def test_a_number_that_a_map_with_names_does_not_have_may_be_a_code():
    _, _, notes = match_classes(reference([[1, 3]]), [GRASS, WATER])
    assert notes == [
        "the map has no class 'Class 3': its 1 labelled pixels count as wrong; if the numbers are codes, name the "
        "field with the map's names by --name-field"
    ]


def test_names_that_differ_in_case_only_are_matched_exactly():
    ours = numbered("Forest", "forest", "Water")
    theirs = numbered("forest", "WATER", "Forest", "FOREST")
    labels, classes, notes = match_classes(reference([[1, 2, 3, 4]], theirs), ours)
    assert labels.tolist() == [[2, 3, 1, 4]]
    assert [c.name for c in classes[3:]] == ["FOREST"]
    assert notes == ["the map has no class 'FOREST': its 1 labelled pixels count as wrong"]


def test_the_form_of_accents_and_blanks_do_not_count():
    labels, _, notes = match_classes(reference([[1, 2]], numbered("Fore\u0302t", " Haute  terre")),
                                     numbered("haute terre", "For\u00eat"))  # fmt: skip
    assert (labels.tolist(), notes) == ([[2, 1]], [])


def test_other_fields_are_named(tmp_path):
    path = write_points(tmp_path / "p.gpkg", [(0, 0)], ["Water"], fields=["cover"])
    assert read_reference(path, SHAPE, PLACE, LabelFields("cover")).classes[0].name == "Water"
    with pytest.raises(UsageError, match=r"has no field 'class'.*cover"):
        read_reference(path, SHAPE, PLACE, PLAIN)


@pytest.mark.parametrize(
    ("fields", "option"),
    [
        (LabelFields("class"), "--field"),
        (LabelFields(layer="a"), "--layer-name"),
        (LabelFields(name_field="b"), "--name-field"),
    ],
)
def test_field_of_a_raster_is_a_mistake(tmp_path, fields, option):
    write_class_raster(tmp_path / "l.tif", np.ones(SHAPE), (GRASS,), crs="EPSG:32616", transform=TRANSFORM)
    with pytest.raises(UsageError, match=rf"{option} was given and '.*l.tif' is no vector file"):
        read_reference(tmp_path / "l.tif", SHAPE, PLACE, fields)
    assert read_reference(tmp_path / "l.tif", SHAPE, PLACE, PLAIN).classes == (GRASS,)


def test_names_win_over_values():
    swapped = (LandCoverClass(1, " water", (0, 0, 9)), LandCoverClass(2, "GRASS", (9, 0, 0)))
    labels, classes, notes = match_classes(reference([[0, 1, 2]], swapped), [GRASS, WATER])
    assert labels.tolist() == [[0, 2, 1]]
    assert classes == (GRASS, WATER)
    assert notes == []


def test_class_that_the_map_does_not_have_is_added_and_said():
    named = (LandCoverClass(1, "Rock", (9, 9, 9)), LandCoverClass(2, "Grass", (0, 9, 0)))
    labels, classes, notes = match_classes(reference([[1, 1, 2]], named), [GRASS, WATER])
    assert labels.tolist() == [[3, 3, 1]]
    assert [c.name for c in classes] == ["Grass", "Water", "Rock"]
    assert notes == ["the map has no class 'Rock': its 2 labelled pixels count as wrong"]


def test_class_that_labels_no_pixel_is_not_added():
    labels, classes, notes = match_classes(reference([[1, 0]], (GRASS, replace(ROCK, value=2))), [GRASS, WATER])
    assert (labels.tolist(), classes, notes) == ([[1, 0]], (GRASS, WATER), [])


@pytest.mark.parametrize(
    ("theirs", "ours", "names"),
    [
        ((), [GRASS, WATER], ["Grass", "Water"]),
        ((GRASS, WATER), numbered("Class 1", "Class 2"), ["Grass", "Water"]),
        ((), numbered("Class 1", "Class 2"), ["Class 1", "Class 2"]),
    ],
)
def test_values_count_where_one_side_has_no_names(theirs, ours, names):
    labels, classes, notes = match_classes(reference([[0, 1, 2]], theirs), ours)
    assert labels.tolist() == [[0, 1, 2]]
    assert ([c.name for c in classes], notes) == (names, [])


def test_values_count_where_no_name_is_shared_and_that_is_said():
    german = (LandCoverClass(1, "Gras", (0, 9, 0)), LandCoverClass(2, "Wasser", (0, 0, 9)))
    labels, _, notes = match_classes(reference([[1, 2]], german), [GRASS, WATER])
    assert labels.tolist() == [[1, 2]]
    assert notes == ["map and reference have no class name in common: classes were matched by value"]


@pytest.mark.parametrize(
    ("ours", "words"), [([GRASS, WATER], "Rock and the map Grass, Water"), (numbered("Class 1"), "none at all")]
)
def test_names_only_that_the_map_does_not_know(ours, words):
    with pytest.raises(LabelsError, match=words):
        match_classes(reference([[1]], numbered("Rock"), numbers=(None,)), ours)


def test_values_that_are_no_classes():
    many = reference([[1, 6000]])
    with pytest.raises(LabelsError, match="values up to 6000 and the map's classes end at 2"):
        match_classes(many, [GRASS, WATER])
