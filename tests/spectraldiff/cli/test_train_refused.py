"""What `sdiff train` refuses, and what is left then."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import rasterio

from spectraldiff.training.run_folder import create_run
from spectraldiff_runtime.cli import run
from tests.spectraldiff.cli.own_scene import RAW, labels_like, own, vector_labels


def refusals(tmp_path, tiny_files, scene):
    scene_file, labels = map(str, tiny_files)
    one = labels_like(tmp_path / "one.tif", np.where(scene.labels == 2, 2, 0).astype(np.uint8), scene)
    but_one = (scene.labels > 1).astype(np.uint8)
    but_one[0, 0] = 2
    lone = str(labels_like(tmp_path / "lone.tif", but_one, scene))
    small = labels_like(tmp_path / "small.tif", scene.labels[:-1], replace(scene, crs=None, transform=None))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").touch()
    (tmp_path / "file").write_text("x")
    text = tmp_path / "text.tif"
    text.write_text("this is no raster")
    vectors = str(vector_labels(tmp_path / "labels.gpkg", scene))
    base = ["train", scene_file, "--labels", labels]
    resume = ["--resume", str(tmp_path / "taken")]
    shares = tmp_path / "shares.csv"
    shares.write_text(f"{scene.classes[0].name},1\n")
    no_letters = str(tmp_path / "b\udcff.csv")
    shutil.copy(shares, no_letters)
    (tmp_path / "link.tif").symlink_to(scene_file)
    (tmp_path / "begun.tif.unfinished").mkdir()
    (tmp_path / "begun.tif.unfinished" / "journal").touch()
    return {
        "nothing": (["train"], 2, "--dataset NAME"),
        "run of no letters": (
            [*base, "--run", str(tmp_path / "a\udcff")],
            1,
            "a\\udcff' holds bytes that are no UTF-8",
        ),
        "runs of no letters": ([*base, "--runs-dir", str(tmp_path / "a\udcff")], 1, "holds bytes that are no UTF-8"),
        "prior of no letters": ([*base, "--prior", no_letters], 1, "b\\udcff.csv' holds bytes that are no UTF-8"),
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
        "bad layer": ([*base, "--layer", "2"], 2, "0 to 1"),
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
            "exists and is no run folder: give --run the name of a folder that is empty or not there yet",
        ),
        "bands of a data set": (["train", "--dataset", "ksc", "--bands", "1-5"], 2, "--bands is for your own scene"),
        "folder that cannot be": ([*base, "--run", str(tmp_path / "file" / "run")], 1, "cannot be written"),
        "cuda": ([*base, "--device", "cuda"], 1, "--device cuda"),
        "no field": (["train", scene_file, "--labels", vectors], 2, "it has cover"),
        "unknown field": (["train", scene_file, "--labels", vectors, "--field", "x"], 2, "its fields: cover"),
        "field of a raster": ([*base, "--field", "cover"], 2, "--field is for vector files"),
        "field of a data set": (["train", "--dataset", "ksc", "--field", "x"], 2, "--field is for your own scene"),
        "split file missing": ([*base, "--split", "file:none.tif"], 1, "none.tif' does not exist"),
        "one fold": ([*base, "--split", "folds:1"], 2, "2 to 50"),
        "final of folds": ([*base, "--final", "train"], 2, "wanted a split with test pixels"),
        "test of a data set": (["train", "--dataset", "ksc", "--test", scene_file], 2, "--test is for one scene"),
        "test missing": ([*base, "--test", "no.gpkg"], 1, "no.gpkg' does not exist: wanted independent test labels"),
        "test that trains": ([*base, "--test", labels], 1, "labels no pixel with data that does not train"),
        "prior missing": ([*base, "--prior", "uniform"], 2, "wanted training, equal, or a CSV file of class,share"),
        "prior of another scene": ([*base, "--prior", str(shares)], 1, "no share of class 2"),
        "resume with a prior": (["train", *resume, "--prior", "equal"], 2, "leave out --prior"),
        "disjoint of nothing": ([*base, "--split", "disjoint:0"], 2, "between 0 and 1"),
        "resume with a scene": ([*base, *resume], 2, "leave out the scene and --labels"),
        "resume with a pair": (["train", *resume, "--pair", "a", "b"], 2, "leave out --pair"),
        "resume with a layer": (["train", *resume, "--layer-name", "x"], 2, "leave out --layer-name"),
        "resume with a seed": (["train", *resume, "--seed", "3", "--run", "x"], 2, "leave out --run and --seed"),
        "map of two scenes": (
            [*base, "--pair", str(text), labels, "--map", "new.tif"],
            2,
            "--map takes one scene and there are 2: export the run, then `sdiff map SCENES --out-dir maps`",
        ),
        "map that exists": ([*base, "--map", str(text)], 1, "text.tif' exists"),
        "map over the scene": ([*base, "--map", scene_file], 1, "--map"),
        "map of another suffix": ([*base, "--map", "new.jpg"], 1, "--map"),
        "map that is unfinished": ([*base, "--map", "begun.tif"], 1, "finish it or remove it"),
        "map of a data set": (["train", "--dataset", "ksc", "--map", "new.tif"], 2, "--map is for your own scene"),
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
    "resume with a layer", "resume with a seed", "one fold", "final of folds", "test of a data set", "test missing",
    "test that trains", "prior missing", "prior of another scene", "resume with a prior",
    "map of two scenes", "map that exists", "map over the scene", "map of another suffix", "map that is unfinished",
    "map of a data set", "run of no letters", "runs of no letters", "prior of no letters",
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


@pytest.mark.training
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


def test_missing_extra_is_named(tiny_files, python):
    """In a process of its own: in this one PyTorch is loaded already."""
    code = (
        "import sys; sys.modules['torch'] = None; from spectraldiff_runtime.cli import run; sys.exit(run(sys.argv[1:]))"
    )
    done = python("-c", code, *own(tiny_files))
    assert done.returncode == 1
    assert "pip install 'spectraldiff[train]'" in done.stderr


@pytest.mark.training
@pytest.mark.skipif(os.name != "posix", reason="limits of file size are POSIX")
def test_full_disk_is_one_line(tiny_files, tmp_path):
    """No file may grow past 64 kB: the state of the training does not fit."""
    script = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "sys.dont_write_bytecode = True\n"  # Python would leave compiled modules that were cut short
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
