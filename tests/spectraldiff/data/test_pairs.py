"""Several scenes in one training: values in one unit, and classes with numbers alone."""

from dataclasses import replace

import numpy as np
import pytest

from spectraldiff.data.merge_scenes import unit_doubts, with_common_classes, with_common_names
from spectraldiff.data.scene import LabelledScene
from spectraldiff.data.source import SceneFiles
from spectraldiff.data.value_checks import prepared
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import SceneError

FILES = [SceneFiles("a", ("l",)), SceneFiles("bb", ("m",))]


def scene(name: str, names: tuple[str, ...] = ("Corn", "Woods"), factor: float = 1.0, **more: object) -> LabelledScene:
    """A scene of reflectance x 10,000, times a factor."""
    cube = np.random.default_rng(len(name)).integers(300, 6000, (12, 12, 5)) * factor
    labels = np.zeros((12, 12), np.uint8)
    for value in range(1, len(names) + 1):
        labels[value] = value
    classes = tuple(LandCoverClass(v, n, (v, 9, 9)) for v, n in enumerate(names, start=1))
    numbers = tuple(range(1, len(names) + 1))
    return LabelledScene(name, cube.astype(np.float32), labels, classes, class_numbers=numbers, **more)


@pytest.mark.parametrize(("factor", "words"), [(1e-4, "1/10,000 of"), (1e4, "10,000 times")])
def test_scenes_in_other_units_are_refused_unless_that_is_meant(factor, words):
    pair = [scene("a"), scene("bb", factor=factor)]
    with pytest.raises(SceneError, match=f"the values of 'bb' are about {words} those of 'a'.*--mixed-units") as caught:
        prepared(pair, FILES)
    assert "\n" not in str(caught.value)
    first, _ = prepared(pair, FILES, mixed=True)
    assert any("if their unit differs" in remark for remark in first.remarks)


def test_scenes_that_overlap_are_warned_of():
    other = scene("bb", factor=1e-2)
    other.cube[::4] *= 100
    (line,) = unit_doubts([scene("a"), other])
    assert line.startswith("the values of 'bb' are about 1/")
    assert "convert one of them" in line


def test_bright_and_dark_scenes_of_one_unit_are_left_in_peace():
    assert unit_doubts([scene("a"), scene("bb", factor=0.1)]) == ()
    assert unit_doubts([scene("a")]) == ()


def test_radiance_beside_reflectance_is_said():
    pair = [scene("a", quantity="surface reflectance"), scene("bb", quantity="radiance")]
    (line,) = unit_doubts(pair)
    assert line.startswith("'bb' holds radiance and 'a' reflectance")
    assert unit_doubts([pair[0], replace(pair[1], quantity="")]) == ()


def test_classes_with_numbers_alone_are_those_that_another_scene_names():
    named, plain = scene("a", ("Corn", "Woods")), scene("bb", ("Class 1", "Class 2", "Class 3"))
    for pair in ([named, plain], [plain, named]):
        common = with_common_classes(with_common_names(pair))
        by_name = {one.name: one for one in common}
        assert [c.name for c in common[0].classes] == ["Corn", "Woods", "Class 3"]
        np.testing.assert_array_equal(by_name["bb"].labels, plain.labels)
        assert by_name["a"].remarks == ()
        assert by_name["bb"].remarks == (
            "the classes of 'bb' have numbers alone: they are those that another scene calls so, such as 1 'Corn'",
        )


def test_scenes_that_all_have_numbers_alone_stay_as_they_are():
    pair = (scene("a", ("Class 1", "Class 2")), scene("bb", ("Class 1", "Class 2")))
    assert with_common_names(pair) == pair
