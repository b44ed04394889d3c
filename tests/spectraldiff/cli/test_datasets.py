"""`sdiff datasets`: the table, the JSON, the GeoTIFFs, and what goes wrong."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from spectraldiff.data.scene import LabelledScene
from spectraldiff.datasets import registry
from spectraldiff_runtime.cli import run


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECTRALDIFF_DATA", str(tmp_path / "cache"))


def test_table_has_a_row_for_each_scene(capsys):
    assert run(["datasets"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "name sensor size bands classes labelled pixels on disk licence"
    assert [line.split()[0] for line in lines[1:]] == registry.names()
    assert lines[1] == "indian-pines AVIRIS 145 x 145 200 16 10,249 yes CC BY 3.0"
    assert lines[3].startswith("houston CASI 349 x 1905 144 15 15,029 no ")


def test_json_for_machines(capsys, tmp_path):
    for name in ("Salinas_corrected.mat", "Salinas_gt.mat"):
        (tmp_path / name).write_bytes(b"MATLAB 5.0")
    assert run(["datasets", "--json", "--data-dir", str(tmp_path)]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == registry.names()
    assert rows["salinas"]["on_disk"] is True
    assert rows["ksc"]["on_disk"] is False
    assert (rows["houston"]["height"], rows["houston"]["width"], rows["houston"]["bands"]) == (349, 1905, 144)
    assert rows["houston"]["classes"][14] == "Running Track"


def test_files_that_cannot_be_them_are_called_damaged(capsys, tmp_path):
    for name, content in (
        ("Salinas_corrected.mat", b""),
        ("Salinas_gt.mat", b"\n<!DOCTYPE html><p>Sorry"),
        ("KSC.mat", b"x"),
    ):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "PaviaU.mat").mkdir()
    assert run(["datasets", "--data-dir", str(tmp_path)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    present = {line.split()[0]: line.endswith(" damaged not stated") for line in lines[1:]}
    assert [name for name in registry.names() if present[name]] == ["pavia-university", "salinas"]
    assert lines[-3:] == [
        f"'{tmp_path / 'PaviaU.mat'}' is a folder: wanted the file of that name; move the folder away",
        f"'{tmp_path / 'Salinas_corrected.mat'}' is empty: remove it and download it again",
        f"'{tmp_path / 'Salinas_gt.mat'}' is an HTML page: remove it and download it again",
    ]
    assert run(["datasets", "--json", "--data-dir", str(tmp_path)]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["salinas"]["on_disk"], len(rows["salinas"]["faults"]), rows["ksc"]["faults"]) == (False, 2, [])


def test_folder_where_a_file_is_wanted(capsys, tmp_path):
    """It is said before anything is downloaded; one that holds the file, as archives unpack, is fine."""
    (tmp_path / "KSC.mat").mkdir()
    command = ["datasets", "write", "ksc", str(tmp_path / "a.tif"), "--data-dir", str(tmp_path)]
    assert run(command) == 1
    folder = tmp_path / "KSC.mat"
    wanted = f"sdiff: error: '{folder}' is a folder: wanted the file of that name; move the folder away\n"
    assert capsys.readouterr().err == wanted
    (folder / "KSC.mat").write_bytes(b"x")
    (tmp_path / "KSC_gt.mat").write_bytes(b"x")
    assert run(command) == 1
    assert f"{folder / 'KSC.mat'} is not the published KSC.mat" in capsys.readouterr().err


def test_scene_and_labels_are_written(capsys, tmp_path):
    scene, labels = tmp_path / "scene.tif", tmp_path / "labels.tif"
    assert run(["datasets", "write", "indian-pines", str(scene), "--labels", str(labels)]) == 0
    out = capsys.readouterr().out
    assert f"{scene}: 145 x 145 x 200 (rows x columns x bands), uint16, EPSG:32616" in out
    assert f"{labels}: 16 classes, 10,249 labelled pixels" in out
    assert "placement here is approximate" in out
    assert "doi:10.4231/R7RX991C" in out
    found, wanted = LabelledScene.from_files(scene, labels), registry.load("indian-pines")
    np.testing.assert_array_equal(found.cube, wanted.cube)
    np.testing.assert_array_equal(found.labels, wanted.labels)
    assert found.classes == wanted.classes


def test_output_that_exists(capsys, tmp_path):
    scene, labels = tmp_path / "scene.tif", tmp_path / "labels.tif"
    labels.write_text("mine")
    command = ["datasets", "write", "indian-pines", str(scene), "--labels", str(labels)]
    assert run(command) == 1
    assert capsys.readouterr().err.startswith(f"sdiff: error: '{labels}' exists")
    assert labels.read_text() == "mine"
    assert not scene.exists()
    assert run([*command, "--overwrite"]) == 0
    assert scene.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["write", "indian_pine", "{tmp}/a.tif"], 2, "did you mean indian-pines"),
        (["write", "salinas", "{tmp}/a.tif", "--data-dir", "{tmp}/nowhere"], 1, "nowhere is not a folder"),
        (["--data-dir", "{tmp}", "write", "ksc", "{tmp}/a.tif"], 2, "give --data-dir after `write`"),
        (["write", "indian-pines", "{tmp}/nowhere/a.tif"], 1, "there is no folder"),
        (["write", "indian-pines", "{tmp}/a.png"], 1, "a.png' has the suffix '.png' and GeoTIFFs are written"),
        (["write", "indian-pines", "{tmp}/a.tif", "--labels", "{tmp}/b.gpkg"], 1, "b.gpkg' has the suffix '.gpkg'"),
        (["write", "indian-pines"], 2, "missing argument"),
    ],
)
def test_one_line_says_what_is_wrong(capsys, tmp_path, arguments, code, words):
    filled = [part.format(tmp=tmp_path) for part in arguments]
    assert run(["datasets", *filled]) == code
    error = capsys.readouterr().err
    assert error.startswith("sdiff: error: ")
    assert error.count("\n") == 1
    assert words in error
    assert list(tmp_path.iterdir()) == []


def test_missing_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    for name in [name for name in sys.modules if name == "spectraldiff" or name.startswith("spectraldiff.")]:
        monkeypatch.delitem(sys.modules, name)
    assert run(["datasets"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "pip install 'spectraldiff[train]'" in error
    assert "pooch" in error
