"""The Python face: the same map as the commands, the same errors as exceptions, and pictures for a notebook."""

import subprocess
import sys
from pathlib import Path

import pytest
import rasterio

import spectraldiff as sd
from spectraldiff.options import RECONSTRUCT, TRAIN
from spectraldiff_runtime.cli import run as sdiff
from spectraldiff_runtime.errors import OutputError, RunError, SceneError, UsageError
from tests.spectraldiff.cli.own_scene import vector_labels

TINY = {"features": "raw", "epochs": 1, "components": 5, "threads": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def files(tiny_scene, tiny_files, tmp_path_factory) -> tuple[Path, Path]:
    """The tiny scene, and its labels as polygons with the field "cover"."""
    return tiny_files[0], vector_labels(tmp_path_factory.mktemp("face") / "labels.gpkg", tiny_scene)


@pytest.fixture(scope="module")
def notebook(files, tmp_path_factory):
    """What the lines of the notebook return, and the folder that they write to."""
    folder, calls = tmp_path_factory.mktemp("notebook"), []
    scene = sd.open_labelled(*files, field="cover")
    options = {"split": "per-class:30", "split_by": "pixel", "run": folder / "run", **TINY}
    with pytest.warns(UserWarning, match="classes in one polygon only"):
        run = sd.train(scene, **options, progress=lambda *call: calls.append(call))
    exported = sd.export(run, folder / "model.onnx")
    mapped = sd.map_scene(folder / "model.onnx", files[0], folder / "classes.tif", progress=False)
    found = sd.evaluate(folder / "classes.tif", files[1], field="cover")
    return {"scene": scene, "run": run, "export": exported, "map": mapped, "found": found, "calls": calls, "at": folder}


def drawn(path: Path) -> dict:
    """All that a map holds, but for the tags that name its model file."""
    with rasterio.open(path) as dataset:
        tags = {key: value for key, value in dataset.tags().items() if not key.startswith("SPECTRALDIFF_")}
        values, colours = dataset.read().tobytes(), dataset.colormap(1)
        return {"values": values, "colours": colours, "tags": tags, "profile": dict(dataset.profile)}


def test_the_notebook_ends_with_the_map_of_the_commands(notebook, files, tmp_path, capsys):
    scene, labels = map(str, files)
    tiny = [text for name, value in TINY.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    asked = ["--field", "cover", "--split", "per-class:30", "--split-by", "pixel"]
    run, model, out = (str(tmp_path / name) for name in ("run", "model.onnx", "classes.tif"))
    assert sdiff(["train", scene, "--labels", labels, *asked, "--run", run, *tiny, "-q"]) == 0
    assert sdiff(["export", "--run", run, "--out", model, "-q"]) == 0
    assert sdiff(["map", scene, "--model", model, "--out", out, "-q"]) == 0
    at = notebook["at"]
    for name in ("run/model.safetensors", "run/train_pixels.tif"):
        assert (at / name).read_bytes() == (tmp_path / name).read_bytes(), name
    # The model's card has the date of its training, and the map's fingerprint is that of the model file.
    assert drawn(at / "classes.tif") == drawn(tmp_path / "classes.tif")
    assert (at / "run" / "run.json").read_text() == (tmp_path / "run" / "run.json").read_text()
    capsys.readouterr()
    assert sdiff(["evaluate", out, "--labels", labels, "--field", "cover"]) == 0
    assert f"OA {100 * notebook['found'].accuracy.oa:.2f}" in capsys.readouterr().out


def test_progress_is_told(notebook):
    stages = [stage for stage, *_ in notebook["calls"]]
    assert stages[0] == "Raw bands"
    assert stages[-1] == "Whole-scene map"
    assert all(done <= total for _, done, total in notebook["calls"])
    last = [call for call in notebook["calls"] if call[0] == "Linear members"][-1]
    assert last[1] == last[2] > 0


def test_a_map_tells_its_pixels(notebook, tiny_scene):
    calls = []
    model = sd.Model.open(notebook["at"] / "model.onnx")
    found = sd.map_scene(model, tiny_scene.cube, progress=lambda *call: calls.append(call))
    assert found.classes.shape == tiny_scene.labels.shape
    assert calls[-1] == ("map", tiny_scene.labels.size, tiny_scene.labels.size)
    with pytest.raises(UsageError, match="belong to the model that is open"):
        sd.map_scene(model, tiny_scene.cube, device="cpu")


@pytest.mark.parametrize("name", ["scene", "run", "map", "found"])
def test_results_show_themselves(notebook, name):
    shown = notebook[name]._repr_html_()
    assert shown.count("<img") == 1
    assert "data:image/png;base64," in shown
    assert name == "map" or "Bare soil" in shown


def test_a_run_is_opened_again(notebook):
    run = sd.open_run(notebook["at"] / "run")
    assert run == notebook["run"]
    assert sd.open_run(runs_dir=notebook["at"]).path.name == "run"
    assert sd.info(run)["kind"] == "run"
    assert run.report.is_file()
    with pytest.raises(RunError, match="no run folder"):
        sd.open_run(notebook["at"] / "other")


def test_the_reverse_process_is_drawn(tiny_run, tmp_path):
    found = sd.reconstruct(tiny_run.path, step=2, size=8, panels=2, spectra=1, out=tmp_path, progress=False)
    assert found.strip.is_file()
    assert found.spectra.is_file()
    assert "<img" in found._repr_html_()
    with pytest.raises(OutputError, match="exists"):
        sd.reconstruct(tiny_run.path, step=2, out=tmp_path, progress=False)
    with pytest.raises(UsageError, match="size is 4: wanted 8 or more"):
        sd.reconstruct(tiny_run.path, size=4)


def test_errors_are_those_of_the_commands(files, notebook, tiny_scene, tmp_path):
    scene = notebook["scene"]
    for options, words in (
        ({"split": "some"}, "some"),
        ({"preset": "slow"}, "there is no preset 'slow'"),
        ({"features": "rgb"}, "features is 'rgb': wanted diffusion or raw"),
        ({"epochs": 0}, "epochs is 0: wanted 1 or more"),
        ({"epochs": 1.5}, "epochs is 1.5: wanted a whole number"),
        ({"seed": -1}, "seed is -1: wanted 0 to"),
        ({"device": "tpu"}, "device is 'tpu': wanted auto, cpu or cuda"),
        ({"threads": 0}, "threads is 0: wanted 1 to 1,024"),
        ({"layer": 7}, "layer index 7 does not exist"),
    ):
        with pytest.raises(UsageError, match=words):
            sd.train(scene, runs_dir=tmp_path, **options)
    with pytest.raises(OutputError, match="holds a finished run"):
        sd.train(scene, run=notebook["at"] / "run")
    with pytest.raises(UsageError, match="was not read from files"):
        sd.train(tiny_scene)
    with pytest.raises(RunError, match="is finished"):
        sd.resume(notebook["at"] / "run")
    with pytest.raises(SceneError, match="does not exist"):
        sd.open_labelled(tmp_path / "none.tif", files[1], field="cover")
    with pytest.raises(UsageError, match="did you mean indian-pines"):
        sd.open_dataset("indian pines")
    with pytest.raises(UsageError, match="is no vector file"):
        sd.evaluate(notebook["at"] / "classes.tif", tmp_path / "none.gpkg", field="cover")
    assert list(tmp_path.iterdir()) == []


def test_several_scenes_are_one_source(tiny_scene, files, tmp_path):
    one = sd.open_labelled(*files, field="cover")
    copies = [tmp_path / "b.tif", tmp_path / "b_labels.tif"]
    tiny_scene.write(copies[0], labels=copies[1])
    more = sd.open_labelled(*copies)
    with pytest.raises(UsageError, match="different options"):
        sd.train([one, more])
    each = sd.open_labelled([copies[0], files[0]], files[1], field="cover")
    assert [(one.name, one.labelled, one.source.scenes[0].scene) for one in each] == [
        ("b", True, str(copies[0])),
        (files[0].stem, True, str(files[0])),
    ]
    (bare,) = sd.open_labelled([copies[0]], [])
    assert not bare.labelled
    with pytest.raises(UsageError, match="given twice"):
        sd.train([more, sd.open_labelled(*copies)], split="per-class:10", progress=False, runs_dir=tmp_path)


def test_a_benchmark_scene_by_name():
    scene = sd.open_dataset("indian-pines")
    assert (scene.cube.shape, scene.source.dataset) == ((145, 145, 200), "indian-pines")
    assert next(one["name"] for one in sd.list_datasets()) == "indian-pines"
    with pytest.raises(UsageError, match="benchmark scene is among several"):
        sd.train([scene, scene])


def test_defaults_are_those_of_the_commands():
    import inspect

    from spectraldiff.cli import reconstruct, train

    for command, function, options in (
        (train.train, sd.train, TRAIN),
        (reconstruct.reconstruct, sd.reconstruct, RECONSTRUCT),
    ):
        ours, theirs = inspect.signature(function).parameters, inspect.signature(command).parameters
        for name, value in vars(options).items():
            assert ours[name].default == theirs[name].default == value, name


def test_pytorch_waits_for_a_training(notebook, tiny_files, tmp_path):
    lines = """
import sys
import spectraldiff as sd
assert not {"numpy", "torch"} & set(sys.modules)
model, scene, labels, classes = sys.argv[1:]
sd.map_scene(model, scene, classes, progress=False)
sd.evaluate(classes, labels)
sd.open_labelled(scene, labels)
assert "torch" not in sys.modules
sd.train
print("done")
"""
    words = map(str, (notebook["at"] / "model.onnx", *tiny_files, tmp_path / "c.tif"))
    done = subprocess.run(
        [sys.executable, "-c", lines, *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout == "done\n", done.stderr
    assert (tmp_path / "c.tif").read_bytes() == (notebook["at"] / "classes.tif").read_bytes()


def test_every_public_name_is_there():
    assert set(sd.__all__) <= set(dir(sd))
    for name in sd.__all__:
        assert getattr(sd, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sd.nothing
