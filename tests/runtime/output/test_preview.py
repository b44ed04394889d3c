"""The picture of a map."""

import numpy as np
import pytest
from PIL import Image

from spectraldiff_runtime import map_scene
from spectraldiff_runtime.classes import LandCoverClass, palette
from spectraldiff_runtime.errors import OutputError
from spectraldiff_runtime.output.preview import LARGEST, SMALLEST, _plain, draw_preview, read_reduced


def colours_in(picture):
    return {tuple(int(level) for level in c) for c in np.unique(np.asarray(picture).reshape(-1, 3), axis=0)}


def test_the_map_is_enlarged_by_a_whole_factor_in_its_colours(card):
    values = np.array([[0, 1, 2], [3, 4, 1]], np.uint8).repeat(20, axis=0).repeat(20, axis=1)
    picture = np.asarray(draw_preview(values, card.classes, "title"))
    factor = SMALLEST // 60
    colours = np.array([(255, 255, 255), *(c.colour for c in card.classes)], np.uint8)
    wanted = colours[values].repeat(factor, axis=0).repeat(factor, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(picture[:200, :200], (1, 1, 3))
    assert windows.size
    corner = [
        (y, x)
        for y in range(picture.shape[0] - wanted.shape[0])
        for x in (31, 32, 33)
        if (picture[y : y + wanted.shape[0], x : x + wanted.shape[1]] == wanted).all()
    ]
    assert len(corner) == 1


@pytest.mark.parametrize("shape", [(1, 1), (145, 145), (349, 1905), (1500, 90), (1, 4000)])
@pytest.mark.parametrize("k", [1, 16, 60])
def test_any_shape_and_number_of_classes(shape, k):
    classes = [LandCoverClass(v, f"A class with number {v}", c) for v, c in enumerate(palette(k), start=1)]
    values = np.random.default_rng(0).integers(0, k + 1, shape, dtype=np.uint8)
    picture = draw_preview(values, classes, "A title " * 20, "with a subtitle")
    assert {c.colour for c in classes} <= colours_in(picture)
    assert picture.width >= min(shape[1], SMALLEST)
    assert picture.height >= shape[0]


@pytest.mark.parametrize(("name", "kind"), [("map.png", "PNG"), ("MAP.PNG", "PNG"), ("map.jpg", "JPEG")])
def test_it_is_written_beside_the_map(model, write_scene, tmp_path, name, kind):
    map_scene(model, write_scene(), tmp_path / "classes.tif", preview=tmp_path / name)
    with Image.open(tmp_path / name) as picture:
        assert picture.format == kind
    assert not list(tmp_path.glob(".*"))


def test_other_formats_are_refused_before_any_work(model, write_scene, tmp_path, listing):
    path = write_scene()
    before = listing()
    with pytest.raises(OutputError, match=r"wanted \.png or \.jpg"):
        map_scene(model, path, tmp_path / "classes.tif", preview=tmp_path / "map.pdf")
    assert listing() == before


def test_large_maps_are_read_reduced(model, write_scene, tmp_path):
    wide = np.zeros((3, 2 * LARGEST, 7), np.uint8)
    map_scene(model, write_scene(values=wide), tmp_path / "classes.tif")
    values, full = read_reduced(tmp_path / "classes.tif", LARGEST)
    assert (values.shape, full) == ((2, LARGEST), (3, 2 * LARGEST))


def test_names_beyond_ascii_are_spelt_plainly():
    assert _plain("Wälder, café, 1½ \u6c34\n") == "Walder, cafe, 11?2 ??"
