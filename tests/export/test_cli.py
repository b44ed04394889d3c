"""`sdiff export`: the newest run becomes a file that maps the scene as training saw it; errors are one line."""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from spectraldiff.training.run_folder import RunFolder
from spectraldiff.training.run_model import load_model
from spectraldiff_export import cli
from spectraldiff_runtime import Model, map_scene
from spectraldiff_runtime.model.model_file import read_card


@pytest.fixture
def runs(tiny_run: RunFolder, tmp_path: Path) -> Path:
    """A folder with two finished runs, of which `second` is the newer, and one that is not finished."""
    folder = tmp_path / "runs"
    for name, finished in (("first", "2024-01-01T00:00:00+00:00"), ("second", "2024-01-02T00:00:00+00:00")):
        shutil.copytree(tiny_run.path, folder / name)
        run = RunFolder(folder / name)
        run.write_json("model.json", {**run.read_json("model.json"), "finished": finished})
    (folder / "third").mkdir()
    shutil.copy(tiny_run.path / "run.json", folder / "third")
    return folder


def test_the_newest_run_is_exported_and_maps_as_it_trained(runs, sdiff, tmp_path, tiny_scene):
    out = tmp_path / "model.onnx"
    code, stdout, stderr = sdiff("export", "--out", out, "--runs-dir", runs)
    assert (code, stdout) == (0, "")
    lines = stderr.splitlines()
    assert lines[0] == f"Exporting the run '{runs / 'second'}'"
    stages = [line.partition(": ")[0] for line in lines[1:-4]]
    assert stages == ["Conversion", "Comparison with PyTorch", "Memory of mapping"]
    assert lines[-4].startswith(f"Wrote '{out}' (")
    assert "scene, preset fast, 12 bands, 4 classes, halo " in lines[-4]
    assert lines[-3:-1] == [f"Wrote '{out.with_suffix(suffix)}'" for suffix in (".json", ".md")]
    assert lines[-1].startswith("Verified against PyTorch on 5,379 pixels: probabilities differ by ")
    classifier, facts = load_model(RunFolder(runs / "second"))
    model = Model.open(out, "cpu", threads=1)
    card = model.card
    assert (card.name, card.halo, card.accuracy) == ("scene", classifier.halo, facts["accuracy"])
    assert {"spectraldiff", "torch", "onnx", "onnxruntime", "python"} <= set(card.versions)
    trained, _ = classifier.predict(tiny_scene)
    assert np.unique(trained).size == 4
    for tile in (9, 64):
        np.testing.assert_array_equal(map_scene(model, tiny_scene.cube, tile=tile).classes, trained)


@pytest.mark.parametrize("more", [(), ("--compact", "--scenes", "small.md")])
def test_what_the_training_read_is_not_replaced_by_pages(runs, sdiff, tmp_path, monkeypatch, more):
    """Labels in JSON, or a scene of any name, where a page would go."""
    monkeypatch.chdir(tmp_path)
    folder, page = RunFolder(runs / "first"), tmp_path / ("small.md" if more else "small.json")
    request = folder.read_json("run.json")
    if not more:
        request["scenes"][0]["labels"] = [str(page)]
    folder.write_json("run.json", request)
    page.write_text("mine")
    code, _, stderr = sdiff("export", "-o", "small.onnx", "--run", folder.path, "-q", "--overwrite", *more)
    assert (code, page.read_text(), len(stderr.splitlines())) == (1, "mine", 1)
    assert "is the same file as the input" in stderr


def test_a_run_that_is_named_as_torchscript_for_machines(runs, sdiff, tmp_path):
    out = tmp_path / "model.pt"
    code, stdout, stderr = sdiff("export", "-o", out, "--run", runs / "first", "-q", "--json")
    assert (code, stderr) == (0, "")
    found = json.loads(stdout)
    assert (found["out"], found["run"], found["bytes"]) == (str(out), str(runs / "first"), out.stat().st_size)
    assert (found["bands"], found["verification"]["pixels"]) == (12, 5379)
    assert 0 < found["verification"]["probability"] < 1e-4


def drop_samples(run: Path) -> None:
    (run / "samples.safetensors").unlink()


def cut_weights(run: Path) -> None:
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def cut_facts(run: Path) -> None:
    path = run / "model.json"
    path.write_text(path.read_text()[:-100])


def drop_class_colours(run: Path) -> None:
    facts = RunFolder(run).read_json("model.json")
    RunFolder(run).write_json("model.json", {**facts, "classes": [{"value": 1}] * len(facts["classes"])})


def other_samples(run: Path) -> None:
    (run / "samples.safetensors").write_bytes((run / "model.safetensors").read_bytes())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_samples, "samples.safetensors"),
        (other_samples, "holds no tiles"),
        (cut_weights, "model.safetensors' is damaged"),
        (cut_facts, "model.json' cannot be read"),
        (drop_class_colours, "model.json is damaged"),
    ],
)
def test_a_damaged_run(runs, sdiff, tmp_path, damage, message):
    damage(runs / "second")
    before = sorted(path.name for path in tmp_path.iterdir())
    code, stdout, stderr = sdiff("export", "--out", tmp_path / "model.pt", "--run", runs / "second", "-q")
    assert (code, stdout) == (1, "")
    assert stderr.startswith("sdiff: error: ")
    assert message in stderr
    assert len(stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "samples.safetensors"])
def test_a_pipe_in_a_run_is_not_waited_for(runs, sdiff, tmp_path, name):
    (runs / "second" / name).unlink()
    os.mkfifo(runs / "second" / name)
    code, _, stderr = sdiff("export", "--out", tmp_path / "model.pt", "--run", runs / "second", "-q")
    assert (code, stderr.count("\n")) == (1, 1)
    assert f"{name}' is a pipe or a device: wanted a file" in stderr


def test_runs_that_cannot_be_exported(runs, sdiff, tmp_path):
    def error(*arguments: object) -> str:
        code, _, stderr = sdiff("export", "--out", tmp_path / "model.pt", *arguments)
        assert code == 1
        assert len(stderr.splitlines()) <= 2  # the run's name may come first
        return stderr.splitlines()[-1]

    assert "is not finished" in error("--run", runs / "third")
    assert "there is no run folder" in error("--run", runs / "fourth")
    assert "there is no finished run in" in error("--runs-dir", tmp_path / "empty")
    assert "is no run folder" in error("--run", runs)


def test_a_run_is_never_replaced_by_its_export(runs, sdiff, tmp_path):
    """Neither by the model file, nor by the pages next to it, also where a link leads to the run."""
    run = runs / "second"
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    (tmp_path / "link.onnx").symlink_to(run / "model.safetensors")
    for out in (run / "model.onnx", tmp_path / "link.onnx"):
        code, _, stderr = sdiff("export", "--out", out, "--run", run, "-q", "--overwrite")
        assert (code, stderr.count("\n")) == (1, 1)
        assert "is the same file as the input" in stderr
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_outputs_that_cannot_be(runs, sdiff, tmp_path):
    code, _, stderr = sdiff("export", "--out", tmp_path / "model.h5", "--runs-dir", runs)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "wanted .onnx, or .pt for TorchScript" in stderr
    code, _, stderr = sdiff("export", "--out", tmp_path / "model\udcff.onnx", "--runs-dir", runs)
    assert (code, stderr.count("\n")) == (1, 1)
    assert "model\\udcff.onnx' holds bytes that are no UTF-8" in stderr
    (tmp_path / "model.pt").write_text("mine")
    code, _, stderr = sdiff("export", "--out", tmp_path / "model.pt", "--runs-dir", runs)
    assert (code, stderr.count("\n")) == (1, 1)
    assert "exists: choose another name" in stderr
    assert (tmp_path / "model.pt").read_text() == "mine"


def test_a_missing_extra_is_named(runs, sdiff, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("spectraldiff_export")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, _, stderr = sdiff("export", "--out", tmp_path / "model.pt", "--runs-dir", runs)
    assert (code, stderr.count("\n")) == (1, 1)
    assert "onnxscript" in stderr
    assert "pip install 'spectraldiff[train]'" in stderr


def test_the_summary_names_the_agreement_of_a_lower_precision(capsys: pytest.CaptureFixture[str]) -> None:
    card = SimpleNamespace(name="s", preset="fast", bands=3, classes=(1, 2), halo=4, precision="fp16")
    checked = SimpleNamespace(near_ties=2, pixels=1000, probability=1e-5)
    agreement = SimpleNamespace(oa=0.991, oa_fp32=0.9912, equal_classes=0.998, pixels=1000)
    found = SimpleNamespace(
        card=card, verification=checked, path="m.onnx", size=1e6, agreement=agreement, pages=(), compact=None
    )
    cli._summarise(cast("Any", found))
    said = capsys.readouterr().err
    assert "2 near-ties decided otherwise" in said
    assert "In fp16 and in fp32 the same class at 99.80 % of 1,000 pixels, OA 99.10 and 99.12 there" in said


def test_a_file_for_deepness(runs, sdiff, tmp_path, tiny_scene):
    """It is compared with maps before it gets its name, and has no pages."""
    out = tmp_path / "deepness.onnx"
    code, _, stderr = sdiff("export", "--out", out, "--run", runs / "first", "--for", "deepness", "--licence", "MIT")
    assert code == 0, stderr
    assert not out.with_suffix(".json").exists()
    assert read_card(out).licence == "MIT"
    code, _, stderr = sdiff("export", "--out", tmp_path / "d.pt", "--run", runs / "first", "--for", "deepness")
    assert (code, stderr.count("\n")) == (2, 2)
    assert "files for Deepness are ONNX in fp32" in stderr
