"""`sdiff train` on many scenes: one line for all of them, whole scenes held out, and what the run says of each."""

import json
from pathlib import Path

import pytest

from spectraldiff.cli.train import MANY
from spectraldiff.data import cube
from spectraldiff.data.source import read_scene_list
from spectraldiff.models.presets import PRESETS, Preset
from spectraldiff.splits.split import Split
from spectraldiff.training import session
from spectraldiff.training.monitor import Monitor
from spectraldiff.training.request import Request
from spectraldiff.training.run_folder import RunFolder
from spectraldiff.training.run_model import load_model
from spectraldiff_export.card import card_of
from spectraldiff_runtime.cli import run
from spectraldiff_runtime.cli.options import repeat_option
from tests.spectraldiff.cli.own_scene import SHORT
from tests.spectraldiff.cli.plots import SPECIES, Plots, make_plots
from tests.spectraldiff.training.test_trainer import StopAfter


@pytest.fixture(autouse=True)
def small(tiny_preset: Preset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train the networks of the tests."""
    monkeypatch.setitem(PRESETS, "fast", tiny_preset)


@pytest.fixture(scope="module")
def plots(tmp_path_factory: pytest.TempPathFactory) -> Plots:
    return make_plots(tmp_path_factory.mktemp("plots"), count=7, bands=6, bare=(3,))


def line(plots: Plots, *options: object) -> list[str]:
    own = ["train", *plots.scenes, "--labels", plots.crowns, "--field", "species", *SHORT, "--seed", 1]
    return list(map(str, [*own, *options]))


@pytest.mark.training
def test_forty_plots_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """40 plots of 20 x 20 x 369, one GeoPackage of crowns; one plot is held out whole."""
    made = make_plots(tmp_path / "in", bare=(11, 23))
    options = ("--split", "scenes:test=plot_07", "--diffusion-steps", 1, "--json", "--run", tmp_path / "run")
    assert run(line(made, *options)) == 0
    printed = capsys.readouterr()
    metrics, folder = json.loads(printed.out), RunFolder(tmp_path / "run")
    names = [f"plot_{number:02d}" for number in range(1, 41)]
    assert [one["name"] for one in metrics["scenes"]] == names
    tests = {
        one["name"]: (one["train_pixels"], one["test_pixels"], one["labelled_pixels"]) for one in metrics["scenes"]
    }
    assert tests["plot_07"] == (0, 50, 50)
    assert tests["plot_11"] == tests["plot_23"] == (0, 0, 0)
    assert all(train == labelled and not test for train, test, labelled in set(tests.values()) - {(0, 50, 50)})
    assert metrics["leakage"] == 0
    assert metrics["accuracy"]["pixels"] == 50
    assert metrics["scenes"][6]["missing_classes"] == ["Acer", "Pinus"]
    shown = [row for row in printed.err.splitlines() if row.startswith("plot_")]
    assert len(shown) == 41  # a row each, and the accuracy of the one that tests
    assert sum("any class: trains the denoiser alone" in row for row in shown) == 2
    said = [row for row in printed.err.splitlines() if row.startswith("sdiff: warning: ")]
    assert len(said) <= 6
    assert sum("lie in several scenes and label pixels of each: 3" in row for row in said) == 1
    assert sum("lie in no scene, left out: 1" in row for row in said) == 1
    assert sum("train the denoiser alone: 2 of 40 (plot_11, plot_23)" in row for row in said) == 1
    check_run(folder, names, capsys)


def check_run(folder: RunFolder, names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The run, its report, `sdiff info` and the card of an export know all scenes."""
    assert not (folder.path / "train_pixels_11.tif").exists()
    assert (folder.path / "train_pixels_12.tif").exists()
    request = Request.from_json(folder.read_json("run.json"))
    assert tuple(read_scene_list(folder.path / "scenes.toml")) == request.scenes
    report = (folder.path / "report.html").read_text()
    assert all(f">{name}</th>" in report for name in names)
    assert f"--scenes {folder.path / 'scenes.toml'}" in report
    model, facts = load_model(folder)
    card = card_of(model, facts)
    assert card.name == "plot_01 + plot_02 + plot_03 and 37 more"
    assert card.scenes == tuple(names)
    assert run(["info", str(folder.path)]) == 0
    assert all(name in capsys.readouterr().out for name in names[:1])


@pytest.mark.training
def test_a_list_names_scenes_and_a_share_of_them_tests(plots: Plots, tmp_path: Path, capsys):
    listed = tmp_path / "list.csv"
    rows = [f"{path},,site {number}" for number, path in enumerate(plots.scenes[:5])]
    listed.write_text("\n".join(["scene,labels,name", *rows]))
    options = ["train", "--scenes", listed, "--labels", plots.crowns, "--field", "species", *SHORT, "--json"]
    options += ["--unlabelled", *plots.scenes[5:], "--split", "by-scene:0.3", "--run", tmp_path / "run"]
    assert run([*map(str, options), "--features", "raw"]) == 0
    printed = capsys.readouterr()
    scenes = json.loads(printed.out)["scenes"]
    assert [one["name"] for one in scenes] == [*(f"site {number}" for number in range(5)), "plot_06", "plot_07"]
    assert sum(one["test_pixels"] > 0 for one in scenes) == 1
    assert [one["labelled_pixels"] > 0 for one in scenes] == [True, True, False, True, True, False, False]
    assert "train the denoiser alone: 3 of 7 (site 2, plot_06, plot_07)" in printed.err


@pytest.mark.training
@pytest.mark.parametrize("held", [cube.HELD, 0])
def test_a_training_on_many_scenes_goes_on_exactly(plots: Plots, tmp_path: Path, monkeypatch, held: int):
    """In memory and on disk; the folds hold out whole scenes."""
    monkeypatch.setattr(cube, "HELD", held)
    arguments = line(plots, "--split-by", "scene", "--run", tmp_path / "run", "-q")
    assert run(arguments) == 0
    folder = RunFolder(tmp_path / "run")
    metrics, request = folder.read_json("metrics.json"), Request.from_json(folder.read_json("run.json"))
    assert metrics["measured"].endswith(" folds of scenes")
    assert sorted(one["name"] for one in metrics["labels"]) == sorted(SPECIES)
    for stage, steps in (("Denoiser", 1), ("SpectralViT", 1)):
        path = tmp_path / stage
        with pytest.raises(KeyboardInterrupt):
            session.train(request, session.RunPlace(path, threads=1, device="cpu"), StopAfter(stage, steps))
        unfinished, asked = session.reopen(path)
        session.train(asked, session.RunPlace(unfinished=unfinished), Monitor())
        models = [(one / "model.safetensors").read_bytes() for one in (folder.path, path)]
        assert models[0] == models[1]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--split", "scenes:test=plot_99"], 2, "no scene is called 'plot_99': wanted one of plot_01, plot_02"),
        (["--split", "scenes:test=plot_03"], 1, "the scene 'plot_03' has no labels"),
        (["--split", "per-class:2", "--split-by", "scene"], 2, "--split-by scene is for folds"),
        (["--test", "x.gpkg"], 2, "--test is for one scene of your own"),
        (["--scenes", "no.csv"], 2, "the list 'no.csv' cannot be read"),
        (["--unlabelled", "no.tif", "no2.tif"], 1, "no.tif' does not exist: wanted a scene"),
        (["--unlabelled"], 2, "--unlabelled takes one scene or more"),
        (["--unlabelled", "--seed", "1"], 2, "--unlabelled takes one scene or more"),
    ],
)
def test_refused(plots: Plots, tmp_path: Path, capsys, monkeypatch, options: list[str], code: int, words: str):
    monkeypatch.chdir(tmp_path)
    assert run(line(plots, "--run", tmp_path / "run", *options)) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("sdiff: error: ")
    assert words in last
    assert not (tmp_path / "run").exists()


def test_files_after_unlabelled_are_taken_up_to_the_next_option():
    given = ["a", "--unlabelled", "b", "c", "-q", "d", "--unlabelled", "e"]
    wanted = ["a", "--unlabelled", "b", "--unlabelled", "c", "-q", "d", "--unlabelled", "e"]
    assert repeat_option(given, MANY) == wanted
    assert repeat_option(["a", "--quiet"], MANY) == ["a", "--quiet"]
    assert repeat_option([], MANY) == []


def test_a_scene_alone_is_not_split_by_scene(plots: Plots, tmp_path: Path, capsys):
    alone = Plots(plots.scenes[:1], plots.crowns)
    for options in (["--split", "by-scene:0.5"], ["--split-by", "scene"]):
        assert run(line(alone, *options, "--run", tmp_path / "run")) == 2
        assert "a split by scene wants several scenes, and there is one" in capsys.readouterr().err


def test_resume_takes_no_scenes(plots: Plots, tmp_path: Path, capsys):
    (tmp_path / "taken").mkdir()
    words = ["--unlabelled", "a", "b", "--resume", str(tmp_path / "taken"), "--scenes", "x.csv"]
    assert run([*line(plots)[:-2], *words]) == 2
    assert "leave out the scene and --labels and --scenes and --unlabelled" in capsys.readouterr().err


def test_a_split_of_scenes_is_known_by_its_name():
    names = {"by-scene:0.2": True, "scenes:test=a": True, "folds:5 by scene": False, "fraction:0.2": False}
    assert {name: Split(name, 0, None, None).by_scene for name in names} == names
