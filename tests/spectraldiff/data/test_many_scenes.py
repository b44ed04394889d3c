"""Many scenes: lists of them, labels of one file for all, what is said of them, and what memory holds."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio

from spectraldiff.data import canvas, cube, scene
from spectraldiff.data.cube import Room, SceneCube
from spectraldiff.data.label_vectors import LabelFields
from spectraldiff.data.merge_scenes import remarks_of
from spectraldiff.data.scene import LabelledScene
from spectraldiff.data.source import SceneFiles, SceneSource, gathered, read_scene_list, scene_list
from spectraldiff.data.value_checks import prepared
from spectraldiff.wording import listed, said_once
from spectraldiff_runtime.errors import LabelsError, NoLabelsError, SceneError, UsageError
from spectraldiff_runtime.limits import LIST_BYTES, LIST_SCENES
from spectraldiff_runtime.window import Window
from tests.spectraldiff.cli.plots import SPECIES, Plots, make_plots


@pytest.fixture(scope="module")
def plots(tmp_path_factory: pytest.TempPathFactory) -> Plots:
    return make_plots(tmp_path_factory.mktemp("plots"), count=6, bands=5, bare=(4, 5))


def source_of(plots: Plots, *more: SceneFiles) -> SceneSource:
    files = gathered(list(map(str, plots.scenes)), [str(plots.crowns)])
    return SceneSource(scenes=(*files, *more), fields=LabelFields("species"))


def read(source: SceneSource, **how: bool) -> tuple[LabelledScene, ...]:
    source.check()
    source.check_files()
    return prepared(source.read(), source.scenes, **how)


def test_each_feature_goes_to_the_scenes_that_hold_it(plots: Plots):
    scenes = read(source_of(plots))
    assert [one.name for one in scenes] == [f"plot_{number:02d}" for number in range(1, 7)]
    assert all([c.name for c in one.classes] == [c.name for c in scenes[0].classes] for one in scenes)
    assert sorted(c.name for c in scenes[0].classes) == sorted(SPECIES)
    kinds = [{one.classes[value - 1].name for value in np.unique(one.labels) if value} for one in scenes]
    assert kinds[2] == {"Quercus", "Tilia"}
    assert [one.labelled for one in scenes] == [True, True, True, False, False, True]
    assert int((scenes[2].labels > 0).sum()) == 50
    assert scenes[5].crs == "EPSG:32616"  # the crowns lie in another zone
    assert int((scenes[5].labels > 0).sum()) == pytest.approx(50, abs=12)
    assert {str(one.cube.dtype) for one in scenes} == {"uint16", "float32"}


def test_overlaps_features_of_no_scene_and_scenes_without_are_counted(plots: Plots):
    lines = remarks_of(read(source_of(plots)))
    crowns = plots.crowns
    assert f"features of '{crowns}' that lie in several scenes and label pixels of each: 3" in lines
    assert f"features of '{crowns}' that lie in no scene, left out: 1" in lines
    assert "scenes without a label, which train the denoiser alone: 2 of 6 (plot_04, plot_05)" in lines
    assert not [line for line in lines if "no such class" in line]  # that is a column of a table
    assert len(lines) <= 4


def test_a_class_that_reaches_no_scene_is_said_once(plots: Plots):
    chosen = Plots([plots.scenes[index] for index in (2, 3, 4)], plots.crowns)
    (line,) = [line for line in remarks_of(read(source_of(chosen))) if "no such class" in line]
    assert line == "no polygon or point of Acer, Pinus reaches a scene: no such class"


def test_no_label_on_any_scene_is_an_error_that_tells_where_labels_lie(plots: Plots):
    bare = Plots(plots.scenes[3:5], plots.crowns)
    with pytest.raises(NoLabelsError, match=r"^none of 2 scenes has a label; of the first one, the features of"):
        source_of(bare).read()
    with pytest.raises(LabelsError, match="wanted labels on the scene"):
        SceneSource(scenes=source_of(bare).scenes[:1], fields=LabelFields("species")).read()


def test_unlabelled_scenes_need_no_file_of_labels(plots: Plots):
    more = SceneFiles(str(plots.scenes[4]))
    source = source_of(Plots(plots.scenes[:4], plots.crowns), more)
    assert [one.labelled for one in read(source)] == [True, True, True, False, False]


def test_remarks_that_are_alike_are_one_line(plots: Plots, tmp_path: Path):
    made = make_plots(tmp_path / "odd", count=5, bands=5)
    for path in made.scenes:
        with rasterio.open(path, "r+") as raster:
            values = raster.read()
            values[:, 0, :3] = 0
            raster.write(values)
    lines = [line for line in remarks_of(read(source_of(made))) if "in every band" in line]
    assert lines == [
        "'plot_01': 3 pixels have 0 in every band: if it means no data, give --nodata 0 (and 4 more like this)"
    ]


def test_types_are_mixed_but_not_units(plots: Plots, tmp_path: Path):
    made = make_plots(tmp_path / "units", count=4, bands=5)
    with rasterio.open(made.scenes[1]) as raster:
        values, profile = raster.read() / 10_000, raster.profile
    with rasterio.open(made.scenes[1], "w", **profile) as raster:
        raster.write(values)
    wanted = r"the values of 'plot_02' \(float32\) are about 1/10,000 of those of 'plot_01' \(uint16\)"
    with pytest.raises(SceneError, match=f"{wanted}.* none overlap: wanted scenes in one unit .*--mixed-units"):
        read(source_of(made))
    assert len(read(source_of(made), mixed=True)) == 4


def test_scenes_are_held_as_long_as_there_is_room(plots: Plots, monkeypatch: pytest.MonkeyPatch):
    one = 20 * 20 * 5 * 2
    monkeypatch.setattr("spectraldiff.data.source.Room", partial(Room, 2 * one, 900))
    scenes = source_of(plots).read()
    assert [isinstance(s.cube, SceneCube) for s in scenes] == [False, True, True, True, True, True]
    assert [s.part for s in scenes] == [False, False, True, True, True, True]
    assert [s.large for s in scenes] == [False, True, True, True, True, True]
    room = Room(2 * one, 900)
    assert [room.holds(size) for size in (one, 2 * one, one, 1)] == [True, False, True, False]
    assert [room.maps(size) for size in (500, canvas.LARGE + 1, 500, 400)] == [True, True, False, True]
    assert cube.HELD <= cube.HELD_TOGETHER


def test_scenes_on_disk_do_not_all_keep_what_they_read(plots: Plots, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cube, "HELD", 0)
    monkeypatch.setattr(cube, "KEEPING", 2)
    scenes = source_of(plots).read()
    for one in scenes:
        one.read(Window(0, 20, 0, 20))
    assert [one.cube._values.size > 0 for one in scenes] == [False] * 4 + [True] * 2
    values = scenes[0].read(Window(3, 9, 2, 7))[0]
    with rasterio.open(plots.scenes[0]) as raster:
        np.testing.assert_array_equal(values, raster.read().transpose(1, 2, 0)[3:9, 2:7])


def test_a_large_scene_without_labels_has_a_small_canvas(plots: Plots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with rasterio.open(
        tmp_path / "wide.tif", "w", driver="GTiff", height=900, width=900, count=5, dtype="uint16", tiled=True,
        crs="EPSG:32617", transform=rasterio.Affine(2, 0, 0, 0, -2, 0),
    ) as raster:  # fmt: skip
        raster.write(np.arange(5 * 900 * 900, dtype=np.uint16).reshape(5, 900, 900))
    for module in (cube, scene):
        monkeypatch.setattr(module, "LARGE", 100_000)
    monkeypatch.setattr("spectraldiff.data.label_ground.LARGE", 100_000)
    *_, wide = source_of(plots, SceneFiles(str(tmp_path / "wide.tif"))).read()
    assert wide.canvas is not None
    assert wide.labels.size < 900 * 900 / 4
    assert not wide.labelled


def test_lists_of_scenes(tmp_path: Path):
    (tmp_path / "a.csv").write_text("name, Scene ,labels\nnorth,a.tif,l.gpkg\n\n,/b/b.tif,\n", "utf-8-sig")
    wanted = [
        SceneFiles(str(tmp_path / "a.tif"), (str(tmp_path / "l.gpkg"),), "north"),
        SceneFiles("/b/b.tif"),
    ]
    assert read_scene_list(tmp_path / "a.csv") == wanted
    (tmp_path / "b.csv").write_text('scene;labels\n"a;b.tif";l.gpkg\ns3://x/c.tif\n')
    found = read_scene_list(tmp_path / "b.csv")
    assert [one.scene for one in found] == [str(tmp_path / "a;b.tif"), "s3://x/c.tif"]
    assert [one.title for one in found] == ["a;b", "c"]
    (tmp_path / "c.toml").write_text('[[scenes]]\nscene="a.tif"\nlabels=["l.gpkg", "m.tif"]\n[[scenes]]\nscene="b"\n')
    assert [len(one.labels) for one in read_scene_list(tmp_path / "c.toml")] == [2, 0]
    odd = [SceneFiles('/x/"é".tif', ("/l\\1.gpkg", "/m.tif"), "a'b"), *wanted]
    (tmp_path / "d.toml").write_text(scene_list(odd), "utf-8")
    assert read_scene_list(tmp_path / "d.toml") == odd


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", None, "cannot be read .*: wanted a CSV file with the columns scene, labels, name, or TOML"),
        ("a.csv", "", "names no scene: wanted a row for each one"),
        ("a.csv", "scene,labels\n", "names no scene: wanted a row for each one"),
        ("a.csv", "path,labels\na.tif,l.gpkg\n", "scene 1 of the list .* has a 'path': wanted scene, labels, name"),
        ("a.csv", "labels\nl.gpkg\n", "scene 1 of the list .* names no file: wanted one under 'scene'"),
        ("a.csv", "scene,name\na.tif,x\n ,y\n", "scene 2 of the list .* names no file"),
        ("a.csv", "scene\na.tif,l.gpkg\n", "scene 1 of the list .* has more cells than columns"),
        ("a.csv", "scene,name\na.tif,x\nb.tif,x\n", "has the name 'x' twice: wanted one for each scene"),
        ("a.csv", f"scene,name\na.tif,{'x' * 501}\n", "has a name of 501 characters: wanted 500 at most"),
        ("a.csv", b"scene\n\xff\xfe.tif\n", "cannot be read"),
        ("a.csv", 'scene\n"a.tif\n', "cannot be read"),
        ("a.toml", "[[scenes]\n", "cannot be read"),
        ("a.toml", 'scene = "a.tif"\n', r"names no scene: wanted \[\[scenes\]\]"),
        ("a.toml", '[[scenes]]\nscene = "a.tif"\nlabel = "b"\n', "scene 1 .* has a 'label': wanted"),
        ("a.toml", "[[scenes]]\nscene = 5\n", "scene 1 .* has a value that is no text: wanted names of files"),
        ("a.toml", '[[scenes]]\nscene = "a"\nlabels = [3]\n', "has a value that is no text"),
        ("a.toml", '[[scenes]]\nscene = "a"\nlabels = 3\n', "has a value that is no text"),
        ("a.toml", "scenes = " + "[" * 100_000, "is nested too deep"),
        ("a.toml", "scenes = " + "9" * 5000, "cannot be read .*digits"),
        ("a\0b.csv", None, "cannot be read"),
        ("a.csv", f"scene,{'x' * 100_000}\na.tif,l.gpkg\n", "scene 1 of the list .* has a 'x{500}': wanted"),
    ],
)
def test_mistakes_in_a_list(tmp_path: Path, name: str, text: str | bytes | None, words: str):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=words) as caught:
        read_scene_list(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_list_is_looked_at_before_it_is_read(tmp_path: Path):
    """A pipe was waited for, and any size was read whole."""
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(SceneError, match=r"pipe.csv' is a pipe or a device"):
        read_scene_list(tmp_path / "pipe.csv")
    row, path = "a.tif,l.gpkg\n", tmp_path / "long.csv"
    path.write_text("scene,labels\n" + row + " " * (LIST_BYTES - len("scene,labels\n" + row)))
    assert path.stat().st_size == LIST_BYTES
    with pytest.raises(UsageError, match=r"cannot be read .*limit"):  # a cell of 16 MiB: it was read
        read_scene_list(path)
    with path.open("a") as file:
        file.write(" ")
    with pytest.raises(UsageError, match=r"has 16,777,217 bytes: wanted 16,777,216 at most"):
        read_scene_list(path)


def test_a_list_has_ten_thousand_scenes_at_most(tmp_path: Path):
    path = tmp_path / "long.csv"
    path.write_text("scene,labels\n" + "a.tif,l.gpkg\n" * LIST_SCENES)
    assert len(read_scene_list(path)) == LIST_SCENES
    with path.open("a") as file:
        file.write("a.tif,l.gpkg\n")
    with pytest.raises(UsageError, match="names 10,001 scenes: wanted 10,000 at most"):
        read_scene_list(path)


def test_what_is_typed_is_gathered(tmp_path: Path):
    (tmp_path / "list.csv").write_text("scene,labels\nc.tif,own.gpkg\nd.tif,\n")
    found = gathered([], ["l.gpkg"], [("e.tif", "e.gpkg")], str(tmp_path / "list.csv"), ["f.tif"])
    names = [(Path(one.scene).name, *(Path(path).name for path in one.labels)) for one in found]
    assert names == [("e.tif", "e.gpkg"), ("c.tif", "own.gpkg"), ("d.tif", "l.gpkg"), ("f.tif",)]
    assert gathered(["a", "b"], ["l", "m"]) == (SceneFiles("a", ("l", "m")), SceneFiles("b", ("l", "m")))
    with pytest.raises(UsageError, match=r"go together.*--unlabelled takes scenes without"):
        gathered(["a", "b"], (), [("c", "l")])
    with pytest.raises(UsageError, match="a scene and its --labels go together"):
        SceneSource(scenes=gathered([], (), (), None, ["a"])).check()


def test_sources_that_were_opened_one_by_one_are_joined(plots: Plots):
    each = [SceneSource(scenes=(one,)) for one in source_of(plots).scenes]
    assert SceneSource.joined(each).scenes == source_of(plots).scenes
    with pytest.raises(UsageError, match="opened with different options"):
        SceneSource.joined([each[0], replace(each[1], scaled=True)])
    bare, own = SceneSource(scenes=(SceneFiles("a.tif"),)), replace(each[0], fields=LabelFields("species"))
    assert SceneSource.joined([bare, own]).fields == own.fields


def test_words():
    assert listed("abcdefg") == "a, b, c, d, e and 2 more"
    lines = ["'a': 3 pixels", "'b': 1,200 pixels", "'a': 3 pixels", "other"]
    assert said_once(lines) == ["'a': 3 pixels (and 1 more like this)", "other"]
