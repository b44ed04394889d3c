"""Trainings on all labels, their accuracy by folds, the prior of a map, and independent test labels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from spectraldiff.accuracy.metrics import score
from spectraldiff.data.source import SceneFiles
from spectraldiff.models.classifier import Classifier
from spectraldiff.models.presets import FAST, Preset
from spectraldiff.models.settings import replaced
from spectraldiff.training import session
from spectraldiff.training.monitor import Monitor
from spectraldiff.training.request import Request
from spectraldiff.training.run_folder import RunFolder
from spectraldiff.training.run_model import load_model, load_tensors
from spectraldiff_export.card import card_of
from spectraldiff_export.export import export_run
from spectraldiff_runtime.errors import LabelsError, RunError
from spectraldiff_runtime.model.engine import Model
from tests.spectraldiff.cli.own_scene import labels_like, vector_labels
from tests.spectraldiff.training.test_trainer import StopAfter


@pytest.fixture(scope="module")
def preset(tiny_preset: Preset) -> Preset:
    """Attention members and three linear candidates on raw bands."""
    return replaced(
        tiny_preset, features={"source": "raw"}, classifier={"linear": FAST.classifier.linear[:3], "epochs": 4}
    )


def patched(scene, seed=None):
    """Return the tiny scene with twelve square patches a class; with a seed, classes and looks drawn by patch."""
    rows, columns = np.mgrid[: scene.labels.shape[0], : scene.labels.shape[1]]
    labels = np.where((rows % 4 < 3) & (columns % 4 < 3), scene.labels, 0)
    if seed is None:
        return replace(scene, labels=labels.astype(np.uint8))
    rng, patch = np.random.default_rng(seed), (rows // 4) * 8 + columns // 4
    drawn, looks = rng.integers(1, 3, 64)[patch], rng.normal(2000, 400, (64, scene.cube.shape[2]))[patch]
    cube = (looks + rng.normal(0, 5, scene.cube.shape)).astype(np.uint16)
    return replace(scene, cube=cube, labels=np.where(labels > 0, drawn, 0).astype(np.uint8), classes=scene.classes[:2])


def unequal(scene):
    """Return a scene of two classes that overlap, one of them eight times as frequent among the labels."""
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[: scene.labels.shape[0], : scene.labels.shape[1]]
    truth = 1 + (columns >= 16)
    cube = 2000 + 60 * truth[..., None] + rng.normal(0, 300, scene.cube.shape)
    labels = np.where(columns % 16 < 14, truth, 0)
    labels[(truth == 2) & (rows % 8 > 0)] = 0
    return replace(scene, cube=cube.astype(np.uint16), labels=labels.astype(np.uint8), classes=scene.classes[:2])


def asked(scene, folder: Path, preset: Preset, **options) -> Request:
    folder.mkdir(exist_ok=True)
    files = folder / "scene.tif", folder / "labels.tif"
    if not files[0].exists():
        scene.write(files[0], labels=files[1])
    usual = {"split": "folds", "final": "all", "seed": 0, "compare_raw": False}
    return Request(preset, scenes=(SceneFiles(str(files[0]), (str(files[1]),)),), **{**usual, **options})


def trained(request: Request, path: Path, monitor: Monitor | None = None) -> RunFolder:
    return session.train(request, session.RunPlace(path, threads=1, device="cpu"), monitor or Monitor())[0]


def raster(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def test_all_labels_train_and_the_accuracy_is_that_of_folds(tiny_scene, preset, tmp_path):
    scene = patched(tiny_scene)
    labels = vector_labels(tmp_path / "labels.gpkg", scene)
    request = asked(scene, tmp_path / "in", preset)
    request = replace(request, scenes=(replace(request.scenes[0], labels=(str(labels),)),), field="cover")
    run = trained(request, tmp_path / "run")
    count = int((scene.labels > 0).sum())
    np.testing.assert_array_equal(raster(run.path / "train_pixels.tif") > 0, scene.labels > 0)
    assert not (run.path / "test_pixels.tif").exists()
    metrics = run.read_json("metrics.json")
    assert (metrics["split"], metrics["measured"]) == ("folds:5 by polygon", "5 folds of polygons")
    assert (metrics["leakage"], metrics["final"]) == (None, "all")
    assert metrics["train_pixels"] == metrics["final_pixels"] == metrics["accuracy"]["pixels"] == count
    assert metrics["accuracy"]["oa"] > 0.9
    card = card_of(*load_model(run)).accuracy
    assert (card["measured"], card["final"], card["final_pixels"]) == ("5 folds of polygons", "all", count)
    assert (card["test_pixels"], card["scored_pixels"], card["prior"]) == (0, count, "training")
    text = (run.path / "report.html").read_text("utf-8")
    assert f"accuracy by 5 folds of polygons; the model has trained on all {count:,} labelled pixels" in text
    assert '<th scope="row">Held-out pixels</th>' in text
    with pytest.raises(RunError, match="is finished"):
        session.reopen(run.path)


@pytest.mark.parametrize("linear", [True, False])
def test_what_only_memory_can_know_is_not_claimed(tiny_scene, preset, tmp_path, linear):
    """Classes drawn by patch: the map knows the patches that it has seen, the folds do not."""
    scene = patched(tiny_scene, seed=5)
    wanted = preset if linear else replaced(preset, classifier={"linear": (), "epochs": 20})
    run = trained(asked(scene, tmp_path / "in", wanted), tmp_path / "run")
    metrics, (model, _) = run.read_json("metrics.json"), load_model(run)
    seen = score(scene.labels, model.predict(scene)[0], 2).oa
    assert metrics["measured"] == "5 folds of patches"
    assert metrics["accuracy"]["pixels"] == (scene.labels > 0).sum()
    assert metrics["accuracy"]["oa"] < 0.65
    if not linear:  # an ensemble learns from the folds that no member knows anything, and maps the larger class
        assert seen > metrics["accuracy"]["oa"] + 0.1


def test_a_class_in_one_polygon_is_said(tiny_scene, preset, tmp_path):
    scene = patched(tiny_scene)
    labels = scene.labels.copy()
    labels[labels == 4] = 0
    labels[14:20, 17:26] = 4
    scene = replace(scene, labels=labels)
    metrics = trained(asked(scene, tmp_path / "in", preset), tmp_path / "run").read_json("metrics.json")
    assert metrics["notes"][0].startswith("in one patch only, so held out block by block and optimistic: class 4")
    assert metrics["accuracy"]["pixels"] == (labels > 0).sum()


def test_an_interrupted_training_with_folds_ends_like_an_undisturbed_one(tiny_scene, preset, tmp_path):
    request = asked(patched(tiny_scene), tmp_path / "in", preset, prior="equal")
    whole = trained(request, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(request, tmp_path / "cut", StopAfter("Calibration 2 of 5", 3))
    folder, again = session.reopen(tmp_path / "cut")
    assert again.prior == "equal"
    session.train(again, session.RunPlace(unfinished=folder), Monitor())
    one, other = load_tensors(folder, "model.safetensors"), load_tensors(whole, "model.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert folder.read_json("metrics.json")["accuracy"] == whole.read_json("metrics.json")["accuracy"]


@pytest.mark.parametrize("linear", [True, False])
def test_a_prior_changes_classes_and_not_scores(tiny_scene, preset, tmp_path, linear):
    scene, short = unequal(tiny_scene), preset
    if not linear:
        short = replaced(preset, classifier={"linear": (), "balance": 0.0})
    (tmp_path / "shares.csv").write_text("Water,1\nMeadow,9\n")
    options = {"training": {}, "equal": {"prior": "equal"}}
    options["file"] = {"prior": str(tmp_path / "shares.csv"), "shares": (("Water", 1.0), ("Meadow", 9.0))}
    runs = {
        name: trained(asked(scene, tmp_path / "in", short, **given), tmp_path / name) for name, given in options.items()
    }
    found = {name: run.read_json("metrics.json") for name, run in runs.items()}
    share = {name: float((load_model(run)[0].predict(scene)[0] == 2).mean()) for name, run in runs.items()}
    assert share["training"] < share["equal"] < share["file"]
    for one, other in (("training", "equal"), ("equal", "training")):
        said = found[one]["prior"]
        assert said["assumed"] == one
        assert said["accuracy"][other] == {key: found[other]["accuracy"][key] for key in ("oa", "aa")}
    assert found["equal"]["accuracy"]["aa"] > found["training"]["accuracy"]["aa"]
    assert found["file"]["prior"]["shares"] == [0.1, 0.9]
    assert card_of(*load_model(runs["file"])).accuracy["prior"] == "shares.csv"
    assert "equal shares of the classes" in (runs["training"].path / "report.html").read_text("utf-8")


def test_the_exported_file_assumes_the_same_prior(tiny_scene, preset, tmp_path):
    scene = unequal(tiny_scene)
    run = trained(asked(scene, tmp_path / "in", preset, prior="equal"), tmp_path / "run")
    export_run(run, tmp_path / "model.onnx")
    model, deployed = load_model(run)[0], Model.open(tmp_path / "model.onnx", "cpu")
    tile = load_tensors(run, "samples.safetensors")["tiles"][:1]
    expected = deployed_twin(model, tile)
    np.testing.assert_array_equal(deployed.run(tile.numpy()).classes, expected)
    assert deployed.card.accuracy["prior"] == "equal"


@torch.no_grad()
def deployed_twin(model: Classifier, tile: torch.Tensor) -> np.ndarray:
    return model(tile).argmax(1).numpy() + 1


def test_the_model_is_trained_anew_on_all_labels_where_that_is_asked_for(tiny_scene, preset, tmp_path):
    scene = patched(tiny_scene)
    kept, anew = (
        trained(
            asked(scene, tmp_path / "in", preset, split="fraction:0.3", final=final, split_by="pixel"), tmp_path / final
        )
        for final in ("train", "all")
    )
    one, other = kept.read_json("metrics.json"), anew.read_json("metrics.json")
    assert one["accuracy"] == other["accuracy"]
    assert (one["final"], one["final_pixels"]) == ("train", one["train_pixels"])
    assert (other["final"], other["final_pixels"]) == ("all", int((scene.labels > 0).sum()))
    assert other["train_pixels"] == one["train_pixels"] < other["final_pixels"]
    np.testing.assert_array_equal(raster(anew.path / "train_pixels.tif"), scene.labels)
    assert not (anew.path / "test_pixels.tif").exists()
    folds = trained(asked(scene, tmp_path / "in", preset, split_by="pixel"), tmp_path / "folds")
    a, b = load_tensors(anew, "model.safetensors"), load_tensors(folds, "model.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in b)
    text = (anew.path / "report.html").read_text("utf-8")
    assert "the map&#39;s model was trained anew" in text or "the map's model was trained anew" in text


def test_independent_labels_are_scored_without_training_pixels(tiny_scene, preset, tmp_path):
    scene = patched(tiny_scene)
    free = np.where(scene.labels == 0, tiny_scene.labels, 0).astype(np.uint8)
    both = free.copy()
    both[2:4] = tiny_scene.labels[2:4]
    path = labels_like(tmp_path / "test.tif", both, scene)
    run = trained(asked(scene, tmp_path / "in", preset, test=str(path)), tmp_path / "run")
    found, (model, _) = run.read_json("metrics.json")["test"], load_model(run)
    assert found["left_out"] == int(((both > 0) & (scene.labels > 0)).sum()) > 0
    expected = score(np.where(scene.labels > 0, 0, both), model.predict(scene)[0], 4)
    assert (found["oa"], found["pixels"]) == (expected.oa, expected.pixels)
    assert "Independent test" in (run.path / "report.html").read_text("utf-8")
    inside = labels_like(tmp_path / "inside.tif", scene.labels, scene)
    with pytest.raises(LabelsError, match="labels no pixel with data that does not train"):
        trained(asked(scene, tmp_path / "in", preset, test=str(inside)), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_request_keeps_what_was_asked_for(tiny_request):
    request = replace(
        tiny_request, split="folds", final="all", test="/t.gpkg", prior="/p.csv", shares=(("Water", 0.5), ("B", 0.5))
    )
    assert Request.from_json(request.to_json()) == request
    words = request.command()
    assert "--split folds" in words
    assert "--test /t.gpkg --prior /p.csv" in words
    assert "--final" not in words
    assert "--final all" in replace(request, split="fraction:0.5").command()
    before = {k: v for k, v in tiny_request.to_json().items() if k not in ("final", "test", "prior", "shares")}
    assert Request.from_json(before) == tiny_request
