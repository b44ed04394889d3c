"""`sdiff export --compact`: one file that maps the run's scene nearly as its full model, and says what it knows."""

import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from io import StringIO

import numpy as np
import pytest
from rasterio import open as opened

import spectraldiff as sd
from spectraldiff_export import export
from spectraldiff_export.compact import check, compaction, ground
from spectraldiff_runtime import Model, map_scene
from spectraldiff_runtime.cli import run as run_sdiff
from spectraldiff_runtime.errors import OutputError
from spectraldiff_runtime.model.model_file import read_card
from spectraldiff_runtime.model.model_page import model_page


@pytest.fixture(scope="module")
def other(tiny_scene, tmp_path_factory):
    """Another scene of the same sensor, without labels."""
    cube = np.concatenate([tiny_scene.cube[::-1], tiny_scene.cube[:, ::-1]])
    path = tmp_path_factory.mktemp("lines") / "other.tif"
    replace(tiny_scene, cube=cube, labels=np.zeros(cube.shape[:2], np.uint8)).write(path)
    return path


@pytest.fixture(scope="module")
def made(tiny_run, other, tmp_path_factory):
    """A compact model of a scene that is shown whole and another in part, taken in spite of what it knows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "AGREEMENT", 1.01)
        patch.setattr(check, "CONFIDENT", 0.3)  # the tiny model is confident of little
        patch.setattr(ground, "SIDE", 16)
        patch.setattr(compaction, "choose_windows", partial(ground.choose_windows, pixels=0))  # ten windows
        out = tmp_path_factory.mktemp("compact") / "compact.onnx"
        arguments = ["export", "--run", tiny_run.path, "--compact", "--scenes", other.parent / "oth*.tif", "--out", out]
        with redirect_stdout(StringIO()) as stdout, redirect_stderr(StringIO()) as stderr:
            code = run_sdiff([str(one) for one in [*arguments, "--force", "--json"]])
    assert code == 0, stderr.getvalue()
    return out, json.loads(stdout.getvalue())["compact"], stderr.getvalue()


def test_what_is_known_of_a_compact_model_is_said_everywhere(made):
    out, found, stderr = made
    stages = ["Scenes", "Full model on the ground", "Teaching on four fifths", "Teaching on all", "Comparison with the"]
    assert all(stage in stderr for stage in stages)
    card = read_card(out)
    assert card.compact == found
    assert [(one["name"], one["whole"]) for one in found["scenes"]] == [("scene", True), ("other", False)]
    assert "By class:" in stderr
    assert "'other', shown in 6 windows:" in stderr
    assert f"the full model's class at {100 * found['held_out']['agreement']:.2f} % of" in stderr
    scene, other = (one["shown"]["pixels"] for one in found["scenes"])
    assert scene == 26 * 31
    assert other < 2 * scene
    assert found["held_out"]["pixels"] < found["shown"]["pixels"] == scene + other
    assert found["shown"]["test_pixels"] == card.accuracy["scored_pixels"] == card.accuracy["test_pixels"]
    assert found["shown"]["oa"] == card.accuracy["oa"] > 0.8
    assert "a compact model" in card.accuracy["notes"][-1]
    assert "sdiff: warning: written with --force: it gives the full model's class at" in stderr
    assert [one.count("wanted 101 %") for one in found["forced"]] == [1, 1]  # of each scene
    page = out.with_suffix(".md").read_text()
    for words in ("## Compact model", "'scene', 'other'", f"{100 * found['shown']['oa']:.2f}", "It was written with"):
        assert words in page


def test_its_scenes_are_mapped_alike_under_any_tiling_and_others_with_a_warning(made, tiny_run, tiny_files, other):
    model = Model.open(made[0], "cpu", threads=1)
    for scene in (tiny_files[0], other):
        told = []
        whole = map_scene(model, scene, confidence=True, warn=told.append)
        for tile, batch in ((7, 2), (16, 5)):
            again = map_scene(model, scene, confidence=True, tile=tile, batch=batch, warn=told.append)
            np.testing.assert_array_equal(again.classes, whole.classes)
            np.testing.assert_array_equal(again.confidence, whole.confidence)
        assert told == []
        if scene != other:
            with opened(tiny_run.path / "test_pixels.tif") as file:
                test = file.read(1)
            assert (whole.classes == test)[test > 0].mean() == model.card.accuracy["oa"]  # what was compared


def test_another_scene_is_named_in_a_warning(made, tiny_scene):
    told, model = [], Model.open(made[0], "cpu", threads=1)
    map_scene(model, tiny_scene.cube[:-1], warn=told.append)
    (line,) = told
    assert "'array' is none of the scenes that this compact model was taught on ('scene', 'other')" in line
    assert map_scene(model, tiny_scene.cube, warn=told.append).classes is not None
    assert len(told) == 1  # the same pixels, under whatever name


def test_a_model_that_agrees_too_little_is_refused(tiny_run, sdiff, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "AGREEMENT", 1.01)
    code, _, stderr = sdiff("export", "--run", tiny_run.path, "--compact", "--out", tmp_path / "compact.onnx")
    assert code == 1
    assert "the compact model is refused: it gives the full model's class at " in stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--force"], "--force without --compact"),
        (["--scenes", "a.tif", "b.tif"], "--scenes without --compact"),
        (["--compact", "--precision", "int8"], "--compact with --precision int8"),
        (["--compact", "--precision", "fp16"], "--compact with --precision fp16"),
        (["--compact", "--for", "deepness"], "--compact with --for deepness"),
        (["--compact", "--scenes", "missing.tif"], "missing.tif"),
    ],
)
def test_wrong_options_are_one_line(tiny_run, sdiff, tmp_path, options, words):
    code, stdout, stderr = sdiff("export", "--run", tiny_run.path, "--out", tmp_path / "m.onnx", "-q", *options)
    assert code in (1, 2)
    assert stdout == ""
    assert len(stderr.splitlines()) == 1
    assert words in stderr
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_exists_is_said_before_anything_is_taught(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "compacted", None)  # calling it would be another error
    (tmp_path / "small.json").write_text("mine")
    with pytest.raises(OutputError, match=r"small\.json' exists: choose another name"):
        sd.export(tiny_run.path, tmp_path / "small.onnx", compact=True)
    assert (tmp_path / "small.json").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["small.json"]


def test_a_word_that_belongs_to_no_option_is_no_scene(tiny_run):
    """A run without --run is not taken for one, and nobody is told to add --compact."""
    with redirect_stderr(StringIO()) as stderr:
        code = run_sdiff(["export", str(tiny_run.path), "--out", "model.onnx"])
    assert (code, "unexpected extra argument" in stderr.getvalue().lower()) == (2, True), stderr.getvalue()


def test_a_scene_of_values_beyond_float32_is_refused(tiny_run, tiny_scene, sdiff, tmp_path):
    wide = np.full(tiny_scene.cube.shape, 1e300)
    replace(tiny_scene, cube=wide, labels=np.zeros(wide.shape[:2], np.uint8)).write(tmp_path / "wide.tif")
    line = [
        "export",
        "--run",
        tiny_run.path,
        "--compact",
        "--scenes",
        tmp_path / "wide.tif",
        "--out",
        tmp_path / "m.onnx",
    ]
    code, _, stderr = sdiff(*line, "--out", tmp_path / "m.onnx", "-q")
    assert (code, len(stderr.splitlines())) == (1, 1)
    assert "'wide' has values that float32, in which models compute, does not hold" in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["wide.tif"]


def test_a_scene_of_one_pixel_is_shown_and_the_file_verified_on_others(tiny_run, tiny_scene, tmp_path):
    small = tiny_scene.cube[:1, :1]
    replace(tiny_scene, cube=small, labels=np.zeros((1, 1), np.uint8)).write(tmp_path / "small.tif")
    made = sd.export(tiny_run.path, tmp_path / "m.onnx", compact=True, scenes=[tmp_path / "small.tif"], force=True)
    assert made.verification.pixels > 1000


@pytest.mark.parametrize("facts", [[], "text", {"classes": "text"}, {"classes": [[], [1], None]}])
def test_a_page_of_a_card_with_other_figures_than_ours(made, facts):
    card = read_card(made[0])
    spoilt = replace(card, compact={**card.compact, "held_out": facts, "shown": facts})
    assert "## Compact model" in model_page(spoilt, "compact.onnx")
