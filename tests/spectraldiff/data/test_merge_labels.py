"""Labels of several files: together they are one; where they differ, none is taken and the user hears of it."""

from dataclasses import replace

import numpy as np
import pytest

from spectraldiff.data.label_reader import OwnLabels
from spectraldiff.data.label_vectors import LabelFields
from spectraldiff.data.merge_labels import joined
from spectraldiff.data.scene import LabelledScene
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import LabelsError
from tests.spectraldiff.cli.own_scene import labels_like, vector_labels


def own(labels: list[list[int]], names: str, groups: list[list[int]] | None = None) -> OwnLabels:
    classes = tuple(LandCoverClass(v, n, (10 * v, 0, 0)) for v, n in enumerate(names.split(), start=1))
    polygons = None if groups is None else np.array(groups, np.int32)
    return OwnLabels(np.array(labels, np.uint8), classes, polygons, (f"read {names}",), (0,) * len(classes))


def test_classes_are_one_by_name_and_polygons_keep_their_numbers() -> None:
    old = own([[1, 1, 0], [2, 0, 0]], "corn oats", [[1, 1, 0], [2, 0, 0]])
    new = own([[0, 2, 1], [0, 0, 3]], "oats corn rye", [[0, 0, 1], [0, 0, 2]])
    both = joined([old, new], ["old.gpkg", "new.gpkg"])
    assert [c.name for c in both.classes] == ["corn", "oats", "rye"]
    np.testing.assert_array_equal(both.labels, [[1, 1, 2], [2, 0, 3]])
    np.testing.assert_array_equal(both.groups, [[1, 1, 3], [2, 0, 4]])
    assert both.remarks == ("read corn oats", "read oats corn rye")
    assert len({c.colour for c in both.classes}) == 3


def test_a_pixel_of_two_classes_stays_unlabelled_and_is_counted() -> None:
    old, new = own([[1, 1, 2]], "corn oats"), own([[2, 1, 2]], "corn oats")
    third = own([[0, 0, 2]], "corn oats")
    both = joined([old, new, third], ["old", "new", "third"])
    np.testing.assert_array_equal(both.labels, [[0, 1, 2]])
    (said,) = [remark for remark in both.remarks if "another class" in remark]
    assert said.startswith("pixels that 'new' labels as another class than the files before it ('oats', before 'corn'")
    assert said.endswith(": 1")


def test_one_file_is_left_as_it_is() -> None:
    alone = own([[1, 2]], "corn oats")
    assert joined([alone], ["labels.gpkg"]) is alone


def test_files_of_a_scene(tiny_scene, tiny_files, tmp_path) -> None:
    """The upper half as polygons, the lower one as a raster: together they are all labels."""
    upper, lower = np.array(tiny_scene.labels), np.array(tiny_scene.labels)
    upper[13:], lower[:13] = 0, 0
    polygons = vector_labels(tmp_path / "upper.gpkg", replace(tiny_scene, labels=upper))
    raster = labels_like(tmp_path / "lower.tif", lower, tiny_scene)
    fields = LabelFields("cover", None, None)
    both = LabelledScene.from_files(tiny_files[0], [raster, polygons], fields=fields)
    assert [c.name for c in both.classes] == [c.name for c in tiny_scene.classes]
    np.testing.assert_array_equal(both.labels, tiny_scene.labels)
    one = np.where(tiny_scene.labels == 1, 1, 0).astype(np.uint8)
    path = labels_like(tmp_path / "one.tif", one, tiny_scene)
    with pytest.raises(LabelsError, match="have one class only"):
        LabelledScene.from_files(tiny_files[0], [path, path])
