"""`sdiff train`: what it writes and says."""

import html
import json
import re
import shlex
import shutil
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import typer

from spectraldiff.cli.train import COMMAND, join_pairs, train
from spectraldiff.cli.train_output import describe
from spectraldiff.data.source import SceneFiles, whole_path
from spectraldiff.training.request import Request
from spectraldiff.training.run_folder import RunFolder
from spectraldiff.training.run_model import load_model
from spectraldiff_export.card import card_of
from spectraldiff_runtime.cli import run
from spectraldiff_runtime.errors import UsageError
from tests.spectraldiff.cli.own_scene import RAW, own, vector_labels

pytestmark = pytest.mark.training


def test_own_scene_from_files_to_run(tiny_files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(own(tiny_files, "--split", "per-class:8", "--json")) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    folder = tmp_path / report["run"]
    assert folder == tmp_path / "runs" / "scene-fast-001"
    assert report["split"] == "per-class:8"
    assert report["train_pixels"] == 32
    assert RunFolder(folder).finished
    assert "32 training and 540 test pixels" in printed.err
    assert "sdiff export --run" in printed.err
    for line in (r"Denoiser: 2 steps, loss \d\.\d{4}, \d+ s", r"Features: \d+ tiles, \d+ s", r"Whole-scene map: .*"):
        assert len(re.findall(f"^{line}$", printed.err, re.MULTILINE)) == 1, printed.err


def test_the_scene_is_mapped_at_the_end(tiny_files, tmp_path, capsys):
    """As the exported model maps it, read as the training read it."""
    (values, profile), folder, file = read_whole(tiny_files[0]), tmp_path / "run", tmp_path / "model.onnx"
    values[:, 3:6, 4:9] = 7
    scene, bands = tmp_path / "scene.tif", ("--bands", "1-5,7,9-12", "--nodata", "7")
    with rasterio.open(scene, "w", **profile) as raster:
        raster.write(values)
    options = (*RAW, *bands, "--run", folder, "--map", tmp_path / "classes.tif", "--json")
    assert run(own((scene, tiny_files[1]), *options)) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["map"] == str(tmp_path / "classes.tif")
    assert re.search(r"^Map 'classes.tif': [\d,]+ pixels, \d+ s$", printed.err, re.MULTILINE), printed.err
    assert f"Wrote '{tmp_path / 'classes.tif'}'" in printed.err
    assert run(["export", "--run", str(folder), "--out", str(file), "-q"]) == 0
    assert run(["map", str(scene), "--model", str(file), "--out", str(tmp_path / "again.tif"), *bands, "-q"]) == 0
    found, again = (read_whole(tmp_path / name)[0] for name in ("classes.tif", "again.tif"))
    np.testing.assert_array_equal(found, again)
    assert not found[0, 3:6, 4:9].any()
    assert found.any()


def test_what_the_training_holds_counts_in_the_memory_of_its_map(tiny_files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("spectraldiff_runtime.model.memory_guard.held_memory", lambda figure="": 3_700_000_000)
    folder, out = tmp_path / "run", tmp_path / "classes.tif"
    assert run(own(tiny_files[:2], *RAW, "--run", folder, "--map", out, "--max-memory", "3500MB")) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert "the training holds 3300MB of --max-memory 3500MB, which leaves too little for the map" in lines[0]
    assert f"sdiff export --run {folder} --out model.onnx" in lines[0]
    assert RunFolder(folder).finished
    assert not out.exists()


def read_whole(path):
    with rasterio.open(path) as raster:
        return raster.read(), raster.profile


def test_the_report_has_the_line_that_makes_the_run_again(tiny_files, tmp_path, capsys):
    options = ("--bands", "1-5,7,9-12", "--nodata", "none", "--features", "raw")
    assert run(own(tiny_files, "--run", tmp_path / "run", "--split", "per-class:8", "--seed", "3", *options)) == 0
    assert f"'{tmp_path / 'run' / 'report.html'}'" in capsys.readouterr().err
    text = html.unescape((tmp_path / "run" / "report.html").read_text("utf-8"))
    command = re.search("<pre>(sdiff train .*?)</pre>", text)[1]
    assert "--split per-class:8 --seed 3" in command
    assert run([*shlex.split(command)[1:], "--run", str(tmp_path / "again"), "-q"]) == 0
    first, again = (RunFolder(tmp_path / name) for name in ("run", "again"))
    assert again.read_json("run.json") == first.read_json("run.json")
    assert again.read_json("metrics.json")["accuracy"] == first.read_json("metrics.json")["accuracy"]


def test_too_few_pixels_for_the_split_are_halved_and_said(tiny_files, tmp_path, capsys):
    assert run(own(tiny_files, "--run", tmp_path / "run", "--split", "per-class:5000", "--features", "raw")) == 0
    note = "too small for per-class:5000, so half of the class trains: class 1"
    assert f"warning: {note}" in capsys.readouterr().err
    assert RunFolder(tmp_path / "run").read_json("metrics.json")["notes"][0].startswith(note)
    assert note[1:] in (tmp_path / "run" / "report.html").read_text("utf-8")


def test_raw_is_trained_beside(tiny_files, tmp_path, capsys):
    options = ("--run", tmp_path / "run", "--compare-raw", "--split", "per-class:8")
    assert run(own(tiny_files, *options)) == 0
    printed = capsys.readouterr().err
    assert "with diffusion features" in printed
    assert "on raw bands" in printed


def test_quiet_is_quiet(tiny_files, tmp_path, capsys):
    options = ["--epochs", "1", "--run", str(tmp_path / "run"), "-q", *RAW, "--split", "per-class:20"]
    assert run(["train", str(tiny_files[0]), "--labels", str(tiny_files[1]), *options]) == 0
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


@pytest.mark.parametrize("options", [(), ("--scaled",)])
def test_the_model_knows_whether_it_takes_scaled_values(tiny_files, tmp_path, options):
    scene = shutil.copy(tiny_files[0], tmp_path / "scaled.tif")
    with rasterio.open(scene, "r+") as dataset:
        dataset.scales, dataset.offsets = [0.5] * dataset.count, [10.0] * dataset.count
    folder = tmp_path / "run"
    short = ("--run", folder, "--features", "raw", "-q", *options)
    assert run(own((scene, tiny_files[1]), *short)) == 0
    model, facts = load_model(RunFolder(folder))
    assert facts["scaled"] == bool(options)
    assert card_of(model, facts).scaled == bool(options)
    with rasterio.open(scene) as dataset:
        mean = dataset.read().mean(axis=(1, 2))
    np.testing.assert_allclose(model.fill.numpy(), 0.5 * mean + 10 if options else mean, rtol=1e-4)
    assert card_of(model, {k: v for k, v in facts.items() if k != "scaled"}).scaled is False  # runs of before


def test_polygons_in_another_crs_train_like_the_raster(tiny_files, tiny_scene, tmp_path, capsys):
    """The same pixels; the classes' order, and with it the draw, is that of the names."""
    labels = vector_labels(tmp_path / "labels.gpkg", tiny_scene)
    options = ("--field", "cover", "--split", "per-class:8", "--split-by", "pixel", "--features", "raw", "--json")
    assert run(own((tiny_files[0], labels), "--run", tmp_path / "run", *options)) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert [one["name"] for one in report["labels"]] == ["Bare soil", "Forest", "Meadow", "Water"]
    assert sum(one["labelled"] for one in report["labels"]) == (tiny_scene.labels > 0).sum()
    assert (report["split"], report["train_pixels"]) == ("per-class:8", 32)
    assert 0 < report["leakage"] <= 1
    assert "Polygons" in printed.err
    with (
        rasterio.open(tmp_path / "run" / "train_pixels.tif") as a,
        rasterio.open(tmp_path / "run/test_pixels.tif") as b,
    ):
        np.testing.assert_array_equal(a.read(1) + b.read(1) > 0, tiny_scene.labels > 0)


def test_the_labels_are_shown_before_the_training(tiny_files, tmp_path, capsys):
    assert run(own(tiny_files, "--run", tmp_path / "run", "--split", "per-class:8", "--features", "raw")) == 0
    printed = capsys.readouterr().err
    assert printed.index("Labelled") < printed.index("Training the preset")
    assert "(per-class:8, seed 0, leakage " in printed
    assert "warning: classes with fewer than 10 training pixels" in printed
    assert "of the test pixels have a training pixel in reach" in printed


def test_disjoint_split_of_an_own_scene(tiny_files, tmp_path, capsys):
    options = ("--split", "disjoint:0.4", "--features", "raw", "--json", "--run", tmp_path / "run")
    assert run(own(tiny_files, *options)) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["leakage"] == 0
    assert "are on neither side of the split" in printed.err


def test_a_mask_says_which_pixels_train(tiny_files, tiny_run, tmp_path):
    with rasterio.open(tiny_run.path / "train_pixels.tif") as source:
        train, profile = source.read(1) > 0, source.profile
    with rasterio.open(tmp_path / "mask.tif", "w", **profile) as target:
        target.write(train.astype(np.uint8), 1)
    options = ("--split", f"file:{tmp_path / 'mask.tif'}", "--features", "raw", "-q", "--run", tmp_path / "run")
    assert run(own(tiny_files, *options)) == 0
    with rasterio.open(tmp_path / "run" / "train_pixels.tif") as found:
        np.testing.assert_array_equal(found.read(1) > 0, train)


def test_names_that_only_gdal_knows(tiny_files, tmp_path, tiny_request, monkeypatch):
    """They are neither looked for nor made whole paths; a file that is there is a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ab:c.tif").touch()
    for name in ("s3://bucket/a.tif", "/vsicurl/https://x.org/a.tif", 'NETCDF:"a.nc":b', "https://x.org/a.gpkg"):
        assert whole_path(name) == name
    for name in ("a.tif", "ab:c.tif", "b/s3.tif"):
        assert whole_path(name) == str(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "both.zip", "w") as archive:
        archive.write(tiny_files[0], "scene.tif")
        archive.write(tiny_files[1], "labels.tif")
    files = SceneFiles(f"/vsizip/{tmp_path}/both.zip/scene.tif", ("/vsizip/both.zip/labels.tif",))
    (scene,) = replace(tiny_request, scenes=(files,)).load_scenes()
    assert scene.cube.shape == (26, 31, 12)


def test_scaled_values_of_a_scene_without_a_scale(tiny_files, tmp_path, capsys):
    assert run(own(tiny_files, "--run", tmp_path / "run", "--features", "raw", "-q", "--scaled")) == 0
    lines = capsys.readouterr().err.splitlines()
    assert sum("has neither scale nor offset, so --scaled leaves its values as they are" in line for line in lines) == 1


def test_numbers_of_one(tiny_scene, tiny_request, capsys):
    labels = np.zeros_like(tiny_scene.labels)
    labels[3, 3:6], labels[3, 20:22] = 1, 2
    cube = tiny_scene.cube.astype(np.float32)
    cube[3, 5] = np.nan
    scene = replace(tiny_scene, cube=cube, labels=labels, classes=tiny_scene.classes[:2])
    split = replace(tiny_request, split="per-class:1").make_split(scene)
    describe([scene], [replace(split, test=split.test & (labels == 2))])
    first, *rest = capsys.readouterr().err.splitlines()
    assert "12 bands, 2 classes; 2 training and 1 test pixel (" in first
    assert rest == [
        "1 labelled pixel has no data and was left out",
        "1 labelled pixel is on neither side of the split",
    ]


def test_the_pixels_of_one_run_train_another(tiny_files, tiny_run, tmp_path, monkeypatch):
    """And the run goes on from another folder."""
    monkeypatch.chdir(tiny_run.path)
    options = ("--split", "file:train_pixels.tif", "--features", "raw", "-q", "--run", tmp_path / "run")
    assert run(own(tiny_files, *options)) == 0
    with rasterio.open(tiny_run.path / "train_pixels.tif") as a, rasterio.open(tmp_path / "run/train_pixels.tif") as b:
        np.testing.assert_array_equal(a.read(1), b.read(1))
    request = RunFolder(tmp_path / "run").read_json("run.json")
    assert request["split"] == f"file:{tiny_run.path / 'train_pixels.tif'}"


def test_two_files_after_each_pair_are_joined():
    given = ["a.tif", "--pair", "b.tif", "b.gpkg", "-q", "--pair", "c.tif", "c d.gpkg"]
    joined = join_pairs(given)
    assert joined == ["a.tif", "--pair", "b.tif\0b.gpkg", "-q", "--pair", "c.tif\0c d.gpkg"]
    for short in (["--pair"], ["--pair", "a.tif"], ["--pair", "a.tif", "--quiet"]):
        with pytest.raises(UsageError, match="--pair takes two files"):
            join_pairs(short)


def test_several_scenes_in_one_training(tiny_files, tiny_scene, tmp_path, capsys):
    """A scene with its raster of labels, and another of the same place with polygons: classes meet by name."""
    labels = vector_labels(tmp_path / "labels.gpkg", tiny_scene)
    other = shutil.copy(tiny_files[0], tmp_path / "other.tif")
    app = typer.Typer()
    app.command(cls=COMMAND)(train)
    pair = ["--pair", str(other), str(labels), "--field", "cover", "--split-by", "pixel"]
    arguments = [*own(tiny_files, "--run", tmp_path / "run", "--features", "raw", "--json")[1:], *pair]
    app(arguments, standalone_mode=False)
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert [one["name"] for one in report["labels"]] == [c.name for c in tiny_scene.classes]
    assert sum(one["labelled"] for one in report["labels"]) == 2 * (tiny_scene.labels > 0).sum()
    assert len(report["scenes"]) == 2
    assert report["accuracy"]["pixels"] == sum(one["scored_pixels"] for one in report["scenes"])
    assert (tmp_path / "run" / "train_pixels_2.tif").is_file()


def test_flight_lines_that_overlap(tiny_files, tiny_scene, tmp_path, capsys):
    """Two scenes of the same area: no test pixel within reach of it, which the run says."""
    shifted = replace(tiny_scene, transform=(20.0, 0.0, 500000.0 + 20 * 8, 0.0, -20.0, 4480000.0))
    pair = [tmp_path / "b.tif", tmp_path / "b-labels.tif"]
    shifted.write(pair[0], labels=pair[1])
    options = ("--features", "raw", "--json", "--split", "disjoint:0.2", "--pair", *pair)
    assert run(own(tiny_files, "--run", tmp_path / "run", *options)) == 0
    printed = capsys.readouterr()
    assert "of a training pixel of another scene: " in printed.err
    report = json.loads(printed.out)
    assert report["leakage"] == 0
    assert any("a training pixel of another scene" in note for note in report["notes"])


def test_suggested_commands_are_quoted(tiny_files, tmp_path, capsys):
    folder = tmp_path / "a run"
    assert run(own(tiny_files, "--run", folder, *RAW)) == 0
    assert f"Next: `sdiff export --run '{folder}' --out model.onnx`" in capsys.readouterr().err
    assert run(["train", "--resume", str(folder)]) == 1
    assert f"`sdiff export --run '{folder}'`" in capsys.readouterr().err
    (folder / "model.json").unlink()
    assert run(["export", "--run", str(folder), "--out", str(tmp_path / "model.onnx")]) == 1
    with RunFolder(folder).held():
        assert run(["train", "--resume", str(folder)]) == 1
    assert run(["export", "--runs-dir", str(tmp_path), "--out", str(tmp_path / "model.onnx")]) == 1
    printed = capsys.readouterr().err
    assert printed.count(f"`sdiff train --resume '{folder}'`") == 3
    assert (
        run(["map", str(tiny_files[0]), "--model", str(tmp_path / "a b.onnx"), "--out", str(tmp_path / "c.tif")]) == 1
    )
    assert "`sdiff export --out 'a b.onnx'`" in capsys.readouterr().err


def test_options_without_effect_are_said(tiny_files, tmp_path, capsys):
    options = (*RAW, "--timestep", "3", "--layer", "1", "--diffusion-batch", "4", "--compare-raw")
    assert run(own(tiny_files, "-q", "--run", tmp_path / "run", *options)) == 0
    line = "--timestep and --layer and --diffusion-steps and --diffusion-batch and --compare-raw have no effect with"
    assert f"warning: {line} --features raw" in capsys.readouterr().err


@pytest.mark.parametrize("asked", [9999, 5])
def test_components_that_are_not_there_are_said(asked, tiny_files, tmp_path, capsys):
    options = ["--epochs", "1", *RAW, "--components", str(asked), "-q", "--run", str(tmp_path / "run")]
    assert run(["train", str(tiny_files[0]), "--labels", str(tiny_files[1]), *options]) == 0
    taken = RunFolder(tmp_path / "run").read_json("model.json")["components"]
    line = f"sdiff: warning: --components {asked}: {taken} are used: the features hold no more"
    assert taken == asked or 2 <= taken <= 12
    assert (line in capsys.readouterr().err) == (taken != asked)
    assert (taken == asked) == (asked == 5), "raw bands are reduced as asked for"


def test_the_summary_says_how_long_the_command_took(tiny_files, tmp_path, capsys, monkeypatch):
    """The scene takes ten minutes to read here, by the clock."""
    clock, ahead = time.perf_counter, []
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + 600 * len(ahead))
    load = Request.load_scenes
    monkeypatch.setattr(Request, "load_scenes", lambda self: ahead.append(None) or load(self))
    assert run(own(tiny_files, "--run", tmp_path / "run", *RAW)) == 0
    found = re.search(
        r"Took ([\d.]+) minutes from start to report \(training and m.* ([\d.]+)\)", capsys.readouterr().err
    )
    assert float(found[1]) >= 10 > float(found[2])
