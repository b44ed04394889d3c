"""`sdiff train` and `sdiff reconstruct`: what they write, refuse and leave behind."""

import html
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import torch
import typer
from rasterio import warp
from rasterio.features import shapes

from spectraldiff.cli.train import COMMAND, join_pairs, train
from spectraldiff.cli.train_output import describe
from spectraldiff.data.scene import LabelledScene
from spectraldiff.training.request import Request, whole_path
from spectraldiff.training.run_folder import RunFolder, create_run
from spectraldiff.training.run_model import load_model, load_state
from spectraldiff_export.card import card_of
from spectraldiff_runtime.cli import run
from spectraldiff_runtime.errors import UsageError
from spectraldiff_runtime.geotiff.class_raster import write_class_raster

RAW = ("--features", "raw", "--split", "per-class:8")  # trained soon
SHORT = ["--diffusion-steps", "2", "--epochs", "1", "--components", "5", "--device", "cpu"]


def own(files: tuple[Path, Path], *options: object) -> list[str]:
    return ["train", str(files[0]), "--labels", str(files[1]), *SHORT, *map(str, options)]


def labels_like(path: Path, labels: np.ndarray, scene: LabelledScene) -> Path:
    write_class_raster(path, labels, scene.classes, crs=scene.crs, transform=scene.transform)
    return path


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
    options = ["--epochs", "1", "--run", str(tmp_path / "run"), "-q", "--features", "raw"]
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


def vector_labels(path, scene, crs="EPSG:4326"):
    """Write the scene's labels as polygons in another CRS, their classes as text."""
    transform = rasterio.Affine(*scene.transform)
    found = list(shapes(scene.labels, scene.labels > 0, transform=transform))
    areas = [shapely.segmentize(shapely.geometry.shape(area), 20) for area, _ in found]
    moved = [shapely.transform(a, lambda p: np.stack(warp.transform(scene.crs, crs, *p.T.tolist()), 1)) for a in areas]
    names = np.array([scene.classes[int(value) - 1].name for _, value in found], dtype=object)
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(moved)), [names], ["cover"], crs=crs, layer="a", geometry_type="Polygon"
    )
    return path


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
    paths = {"scene": f"/vsizip/{tmp_path}/both.zip/scene.tif", "labels": "/vsizip/both.zip/labels.tif"}
    (scene,) = replace(tiny_request, **paths).load_scenes()
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
    assert report["accuracy"]["pixels"] == sum(one["test_pixels"] for one in report["scenes"])
    assert (tmp_path / "run" / "train_pixels_2.tif").is_file()


def test_flight_lines_that_overlap(tiny_files, tiny_scene, tmp_path, capsys):
    """The same ground in two scenes: no test pixel within reach of it, which the run says."""
    shifted = replace(tiny_scene, transform=(20.0, 0.0, 500000.0 + 20 * 8, 0.0, -20.0, 4480000.0))
    pair = [tmp_path / "b.tif", tmp_path / "b-labels.tif"]
    shifted.write(pair[0], labels=pair[1])
    options = ("--features", "raw", "--json", "--split", "disjoint:0.2", "--pair", *pair)
    assert run(own(tiny_files, "--run", tmp_path / "run", *options)) == 0
    printed = capsys.readouterr()
    assert "of ground that trains in another scene: " in printed.err
    report = json.loads(printed.out)
    assert report["leakage"] == 0
    assert any("ground that trains in another scene" in note for note in report["notes"])


def refusals(tmp_path, tiny_files, scene):
    scene_file, labels = map(str, tiny_files)
    one = labels_like(tmp_path / "one.tif", np.where(scene.labels == 2, 2, 0).astype(np.uint8), scene)
    but_one = (scene.labels > 1).astype(np.uint8)
    but_one[0, 0] = 2
    lone = str(labels_like(tmp_path / "lone.tif", but_one, scene))
    small = labels_like(tmp_path / "small.tif", scene.labels[:-1], replace(scene, crs=None, transform=None))
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").write_text("x")
    text = tmp_path / "text.tif"
    text.write_text("this is no raster")
    vectors = str(vector_labels(tmp_path / "labels.gpkg", scene))
    base = ["train", scene_file, "--labels", labels]
    resume = ["--resume", str(tmp_path / "taken")]
    (tmp_path / "link.tif").symlink_to(scene_file)
    return {
        "nothing": (["train"], 2, "--dataset NAME"),
        "both": ([*base, "--dataset", "indian-pines"], 2, "either --dataset"),
        "no labels": (["train", scene_file], 2, "--labels"),
        "scaled data set": (["train", "--dataset", "indian-pines", "--scaled"], 2, "--scaled is for your own scene"),
        "resume scaled": (["train", "--resume", str(tmp_path / "taken"), "--scaled"], 2, "leave out --scaled"),
        "unknown data set": (["train", "--dataset", "indianpines"], 2, "indian-pines"),
        "unknown preset": ([*base, "--preset", "slow"], 2, "slow"),
        "unknown split": ([*base, "--split", "half"], 2, "per-class:N"),
        "paper split of own scene": ([*base, "--split", "paper"], 2, "paper gives no training counts"),
        "bad band list": ([*base, "--bands", "1-x"], 2, "--bands"),
        "bands that are not there": ([*base, "--bands", "5-40"], 1, "12 bands"),
        "bad nodata": ([*base, "--nodata", "some"], 2, "--nodata"),
        "bad timestep": ([*base, "--timestep", "900"], 2, "1 to 500"),
        "bad layer": ([*base, "--layer", "3"], 2, "0 to 2"),
        "too few pixels": (["train", scene_file, "--labels", lone, "--split", "per-class:5"], 1, "per-class:5 wants"),
        "labels of another size": (["train", scene_file, "--labels", str(small)], 1, "25 rows x 31 columns"),
        "one class only": (["train", scene_file, "--labels", str(one)], 1, "one class only"),
        "scene missing": (["train", "no.tif", "--labels", labels], 1, "no.tif' does not exist: wanted a scene, as a"),
        "labels missing": (["train", scene_file, "--labels", "no.tif"], 1, "no.tif' does not exist: wanted its labels"),
        "vector labels missing": (["train", scene_file, "--labels", "no.gpkg", "--field", "x"], 1, "no.gpkg' does not"),
        "labels of a pair missing": (
            [*base, "--pair", str(text), "no.gpkg", "--field", "x"],
            1,
            "no.gpkg' does not exist: wanted its labels, in a vector file or a raster; check the name",
        ),
        "scene twice": ([*base, "--pair", scene_file, labels], 2, "scene.tif' is given twice: wanted each scene once"),
        "scene twice by a link": ([*base, "--pair", "link.tif", vectors], 2, "put its labels in one file"),
        "no raster": (["train", str(text), "--labels", labels], 1, "text.tif"),
        "run exists": (
            ["train", str(text), "--labels", labels, "--run", str(tmp_path / "taken")],  # found before it is read
            1,
            "exists and is no run folder: give --run the name of a folder that is not there yet",
        ),
        "bands of a data set": (["train", "--dataset", "ksc", "--bands", "1-5"], 2, "--bands is for your own scene"),
        "folder that cannot be": ([*base, "--run", str(tmp_path / "file" / "run")], 1, "cannot be written"),
        "cuda": ([*base, "--device", "cuda"], 1, "--device cuda"),
        "no field": (["train", scene_file, "--labels", vectors], 2, "it has cover"),
        "unknown field": (["train", scene_file, "--labels", vectors, "--field", "x"], 2, "its fields: cover"),
        "field of a raster": ([*base, "--field", "cover"], 2, "--field is for vector files"),
        "field of a data set": (["train", "--dataset", "ksc", "--field", "x"], 2, "--field is for your own scene"),
        "split file missing": ([*base, "--split", "file:none.tif"], 1, "none.tif' does not exist"),
        "disjoint of nothing": ([*base, "--split", "disjoint:0"], 2, "between 0 and 1"),
        "resume with a scene": ([*base, *resume], 2, "leave out the scene and --labels"),
        "resume with a pair": (["train", *resume, "--pair", "a", "b"], 2, "leave out --pair"),
        "resume with a layer": (["train", *resume, "--layer-name", "x"], 2, "leave out --layer-name"),
        "resume with a seed": (["train", *resume, "--seed", "3", "--run", "x"], 2, "leave out --run and --seed"),
        "resume nothing": (["train", "--resume", str(tmp_path / "none")], 1, "no run folder"),
        "resume no run": (["train", "--resume", str(tmp_path / "taken")], 1, "no run folder"),
        "resume with options": (
            ["train", "--resume", str(tmp_path / "taken"), "--epochs", "3"],
            2,
            "leave out --epochs",
        ),
    }


CASES = [
    "nothing", "both", "no labels", "unknown data set", "unknown preset", "unknown split", "paper split of own scene",
    "bad band list", "bands that are not there", "bad nodata", "bad timestep", "bad layer", "too few pixels",
    "labels of another size", "one class only", "scene missing", "labels missing", "no raster", "run exists",
    "folder that cannot be", "scaled data set", "resume scaled", "cuda", "resume nothing", "resume no run",
    "resume with options", "no field", "unknown field", "field of a raster", "field of a data set",
    "bands of a data set", "split file missing", "disjoint of nothing", "vector labels missing",
    "labels of a pair missing", "scene twice", "scene twice by a link", "resume with a scene", "resume with a pair",
    "resume with a layer", "resume with a seed",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_refused(case, tiny_files, tiny_scene, tmp_path, capsys, monkeypatch):
    arguments, code, words = refusals(tmp_path, tiny_files, tiny_scene)[case]
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert run(arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    last = printed.err.splitlines()[-1]
    assert last.startswith("sdiff: error: ")
    assert words in last
    assert "Traceback" not in printed.err
    assert sorted(tmp_path.rglob("*")) == before


def test_scene_without_any_data(tiny_files, tiny_scene, tmp_path, capsys):
    with rasterio.open(tiny_files[0]) as source:
        profile = {**source.profile, "nodata": 7}
    with rasterio.open(tmp_path / "empty.tif", "w", **profile) as target:
        target.write(np.full((12, 26, 31), 7, np.uint16))
    code = run(["train", str(tmp_path / "empty.tif"), "--labels", str(tiny_files[1]), "--run", str(tmp_path / "run")])
    assert code == 1
    assert "no data" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_finished_run_is_not_resumed(tiny_run, capsys):
    assert run(["train", "--resume", str(tiny_run.path)]) == 1
    assert "is finished" in capsys.readouterr().err


def with_band(path, source, band, value, dtype=np.float32, description=None):
    """Write a copy of a scene with one band of one value."""
    with rasterio.open(source) as given:
        cube, profile = given.read().astype(dtype), {**given.profile, "dtype": dtype, "predictor": 1}
    cube[band - 1] = value
    with rasterio.open(path, "w", **profile) as target:
        target.write(cube)
        if description:
            target.set_band_description(band, description)
    return path


def last_line_of_refused(arguments, tmp_path, capsys):
    """Run what is refused with code 1 before a run folder is made; return what is said."""
    assert run([*arguments, "--run", str(tmp_path / "run")]) == 1
    assert not (tmp_path / "run").exists()
    return capsys.readouterr().err.splitlines()[-1]


def test_a_band_without_any_data_is_named(tiny_files, tmp_path, capsys):
    scene = with_band(tmp_path / "scene.tif", tiny_files[0], 3, np.nan, description="swir")
    said = "band 3 ('swir') has no data in any pixel of the scene 'scene'"
    line = last_line_of_refused(own((scene, tiny_files[1])), tmp_path, capsys)
    assert said in line
    assert "with --bands 1-2,4-12, or check the file" in line
    line = last_line_of_refused(own((scene, tiny_files[1]), "--bands", "2-5,9"), tmp_path, capsys)
    assert said in line
    assert "--bands 2,4-5,9" in line
    both = with_band(tmp_path / "both.tif", scene, 4, np.inf)
    assert "bands 3, 4 have no data" in last_line_of_refused(own((both, tiny_files[1])), tmp_path, capsys)


@pytest.mark.parametrize(
    ("factor", "found"),
    [
        (1e300, "e+303 in band 8, and float32, in which models compute, ends at 3.4e+38: give --nodata"),
        (-1e300, "has a value of -"),
        (1e-300, "e-297 in band 8, and float32, in which models compute, begins at 1.2e-38: scale the scene"),
    ],
)
def test_values_that_float32_cannot_hold(factor, found, tiny_files, tmp_path, capsys):
    with rasterio.open(tiny_files[0]) as given:
        cube, profile = given.read() * factor, {**given.profile, "dtype": "float64", "predictor": 1}
    with rasterio.open(tmp_path / "scene.tif", "w", **profile) as target:
        target.write(cube)
    assert found in last_line_of_refused(own((tmp_path / "scene.tif", tiny_files[1])), tmp_path, capsys)


def test_a_fill_value_that_float32_cannot_hold(tiny_files, tmp_path, capsys):
    """The error gives the option that helps."""
    scene = tmp_path / "scene.tif"
    with rasterio.open(tiny_files[0]) as given:
        cube, profile = given.read().astype(np.float64), {**given.profile, "dtype": "float64", "predictor": 1}
    cube[:, 4, 4:6] = np.finfo(np.float64).min
    with rasterio.open(scene, "w", **profile) as target:
        target.write(cube)
    line = last_line_of_refused(own((scene, tiny_files[1])), tmp_path, capsys)
    option = re.search(r"give (--nodata \S+) if it means no data", line)[1].split()
    assert run(own((scene, tiny_files[1]), "-q", "--run", tmp_path / "run", *RAW, *option)) == 0


def test_a_run_that_is_there_is_not_begun_again(tiny_run, tiny_files, tmp_path, capsys):
    """It is resumed where it can be."""
    text = tmp_path / "text.tif"  # no raster: it is not looked at
    text.write_text("x")
    begun = create_run(tmp_path / "a run")
    begun.write_json("run.json", tiny_run.read_json("run.json"))
    for folder in (begun.path, tiny_run.path):
        assert run(["train", str(text), "--labels", str(tiny_files[1]), "--run", str(folder)]) == 1
    unfinished, finished = capsys.readouterr().err.splitlines()
    assert f"unfinished run: go on with `sdiff train --resume '{begun.path}'`, or give --run another" in unfinished
    assert finished.endswith("exists and holds a finished run: give --run another name")


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
    line = f"sdiff: warning: --components {asked}: {taken} are taken, for the features hold no more"
    assert taken == asked or 2 <= taken <= 12
    assert (line in capsys.readouterr().err) == (taken != asked)
    assert (taken == asked) == (asked == 5), "raw bands are reduced as asked for"


def test_the_summary_says_how_long_the_command_took(tiny_files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("spectraldiff.training.request.Request.load_scenes", slow(Request.load_scenes, 4))
    assert run(own(tiny_files, "--run", tmp_path / "run", *RAW)) == 0
    found = re.search(
        r"Took ([\d.]+) minutes from start to report \(training and m.* ([\d.]+)\)", capsys.readouterr().err
    )
    assert float(found[1]) >= 0.1


def slow(function, seconds):
    """Make a function take longer."""

    def slower(*arguments):
        time.sleep(seconds)
        return function(*arguments)

    return slower


def unfinished(path, tiny_files, *options):
    """Make a run that Ctrl-C cut off before its first step; return its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spectraldiff.training.trainer.Training.finish", interrupted)
        assert run(own(tiny_files, "-q", "--run", path, *RAW, *options)) == 130
    return RunFolder(path)


def interrupted(*_):
    raise KeyboardInterrupt


def test_threads_and_device_are_kept(tiny_files, tmp_path, capsys):
    folder = unfinished(tmp_path / "run", tiny_files, "--threads", "2")
    kept = folder.read_json("run.json")
    assert {key: kept[key] for key in ("threads", "used_threads", "device", "used_device")} == {
        "threads": 2,
        "used_threads": 2,
        "device": "cpu",
        "used_device": "cpu",
    }
    torch.set_num_threads(1)
    assert run(["train", "--resume", str(folder.path)]) == 0
    assert torch.get_num_threads() == 2, "those kept"
    assert "warning: the training was begun" not in capsys.readouterr().err
    text = html.unescape((folder.path / "report.html").read_text("utf-8"))
    assert re.search(r"<pre>sdiff train .* --threads 2 --device cpu</pre>", text)
    assert "cpu, 2 threads" in text


def test_a_run_that_goes_on_with_other_threads(tiny_files, tmp_path, capsys, monkeypatch):
    """It is allowed, and said: now, in the report, and after another interruption."""
    folder = unfinished(tmp_path / "run", tiny_files, "--threads", "2")
    begun = folder.read_json("run.json")
    line = (
        "the training was begun with 2 threads on cpu and goes on with 1 thread on cpu: the model will not be the same "
        "as without the interruption"
    )
    with monkeypatch.context() as patch:
        patch.setattr("spectraldiff.training.trainer.Training.finish", interrupted)
        assert run(["train", "--resume", str(folder.path), "--threads", "1", "-q"]) == 130
    assert f"sdiff: warning: {line}" in capsys.readouterr().err.splitlines()
    assert torch.get_num_threads() == 1
    assert folder.read_json("run.json") == {**begun, "resumed": [line]}
    assert run(["train", "--resume", str(folder.path), "-q"]) == 0
    assert torch.get_num_threads() == 2
    assert f"sdiff: warning: {line}" in capsys.readouterr().err.splitlines()
    assert line[1:] in html.unescape((folder.path / "report.html").read_text("utf-8"))


def test_another_device_than_the_run_was_begun_on(tiny_request):
    begun = replace(tiny_request, used_threads=2, used_device="cuda")
    assert "begun with 2 threads on cuda and goes on with 2 threads on cpu" in begun.gone_on(2, "cpu").resumed[0]
    assert begun.gone_on(2, "cuda") == begun


def test_runs_of_earlier_versions_know_no_threads(tiny_files, tmp_path, capsys):
    folder = unfinished(tmp_path / "run", tiny_files)
    kept = folder.read_json("run.json")
    assert (kept["threads"], kept["used_threads"]) == (None, 1)
    new = ("threads", "device", "used_threads", "used_device", "resumed")
    folder.write_json("run.json", {key: value for key, value in kept.items() if key not in new})
    assert run(["train", "--resume", str(folder.path), "--threads", "1", "-q"]) == 0
    assert "the training was begun" not in capsys.readouterr().err


def test_two_trainings_in_one_folder(tiny_files, tmp_path, capsys):
    folder = tmp_path / "run"
    create_run(folder).path.joinpath("state.safetensors").write_bytes(b"theirs")
    assert run(own(tiny_files, "-q", "--run", tmp_path / "other")) == 0
    (folder / "run.json").write_bytes((tmp_path / "other" / "run.json").read_bytes())
    with RunFolder(folder).held():
        assert run(["train", "--resume", str(folder)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"sdiff: error: another process trains in '{folder}': wait for its end, or stop it")
    assert (folder / "state.safetensors").read_bytes() == b"theirs"
    (folder / "state.safetensors").unlink()
    assert run(["train", "--resume", str(folder), "-q"]) == 0, "the lock ends with its holder"


def test_ctrl_c_keeps_the_state_and_resume_goes_on(tiny_files, tmp_path, capsys):
    """Exit 130, no partial files, and `--resume` finishes the run."""
    folder = tmp_path / "run"
    options = [
        "--diffusion-steps",
        "4000",
        "--epochs",
        "1",
        "--components",
        "5",
        "--run",
        str(folder),
        "--threads",
        "1",
    ]
    command = [
        sys.executable,
        "-m",
        "spectraldiff_runtime",
        "train",
        str(tiny_files[0]),
        "--labels",
        str(tiny_files[1]),
    ]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (folder / "state.safetensors").is_file() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert f"sdiff train --resume {folder}" in " ".join(errors.split())
    assert (folder / "state.safetensors").is_file()
    assert not list(folder.rglob("*.partial"))
    request = json.loads((folder / "run.json").read_text())
    done = len(load_state(RunFolder(folder))["diffusion.history"])
    request["preset"]["diffusion_steps"] = done + 2
    data = json.loads((folder / "data.json").read_text())
    for what in data:
        (folder / "data.json").write_text(json.dumps({**data, what: "other"}))
        assert run(["train", "--resume", str(folder), "-q"]) == 1
        assert f"{what} changed since the run was begun: restore the files" in capsys.readouterr().err
    (folder / "data.json").write_text(json.dumps(data))
    (folder / "run.json").write_text(json.dumps(request))
    assert run(["train", "--resume", str(folder), "-q"]) == 0
    assert RunFolder(folder).read_json("metrics.json")["steps"]["diffusion"] == done + 2


def test_missing_extra_is_named(tiny_files, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run(own(tiny_files)) == 1
    assert "pip install 'spectraldiff[train]'" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="limits of file size are POSIX")
def test_full_disk_is_one_line(tiny_files, tmp_path):
    """No file may grow past 64 kB: the state of the training does not fit."""
    script = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "from spectraldiff_runtime.cli import run\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", script, *own(tiny_files, "--run", tmp_path / "run", "--threads", 1)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("sdiff: error: ")
    assert "cannot be written" in last
    assert not list((tmp_path / "run").rglob("*.partial"))


def test_reconstruct_draws_strip_and_spectra(tiny_run, tmp_path, capsys):
    command = ["reconstruct", "--run", str(tiny_run.path), "--step", "6", "--size", "12", "--panels", "3"]
    assert run([*command, "--out", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["reconstruction.png", "spectra.png"]
    assert report["noised"] > 0
    assert run(["reconstruct", "--run", str(tiny_run.path), "--step", "501", "--out", str(tmp_path / "no")]) == 2
    assert "--step 501 is outside the process: give 1 to 500" in capsys.readouterr().err
    before = (tmp_path / "spectra.png").stat().st_mtime_ns
    assert run([*command, "--out", str(tmp_path), "-q"]) == 1
    assert "reconstruction.png' exists: choose another name, or replace it with --overw" in capsys.readouterr().err
    assert (tmp_path / "spectra.png").stat().st_mtime_ns == before
    assert run([*command, "--out", str(tmp_path), "-q", "--overwrite"]) == 0
    assert (tmp_path / "spectra.png").stat().st_mtime_ns > before


@pytest.mark.parametrize("fell_back", [True, False])
def test_a_run_without_a_denoiser_is_not_reconstructed(fell_back, tiny_files, tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    assert run(own(tiny_files, "-q", "--run", folder.path, *RAW)) == 0
    if fell_back:  # as a training that asked for diffusion features and chose raw bands
        request = folder.read_json("run.json")
        folder.write_json("run.json", {**request, "preset": {**request["preset"], "features": "diffusion"}})
    capsys.readouterr()
    assert run(["reconstruct", "--run", str(folder.path)]) == 1
    words = "maps raw bands, which suited its scene" if fell_back else "was trained with --features raw and has no"
    assert f"the run '{folder.path}' {words}" in capsys.readouterr().err
