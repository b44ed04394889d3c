import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from spectraldiff.accuracy.metrics import score
from spectraldiff.data.scene import LabelledScene
from spectraldiff.data.source import SceneFiles, SceneSource, gathered
from spectraldiff.models.normaliser import normaliser_of
from spectraldiff.models.presets import FAST, PAPER, Preset, preset_named
from spectraldiff.models.reconstruction import example_spectra, labelled_part, reconstruct
from spectraldiff.models.settings import Member, replaced
from spectraldiff.splits.leakage import leakage
from spectraldiff.training.compute import Compute
from spectraldiff.training.loop import Loop
from spectraldiff.training.monitor import Monitor
from spectraldiff.training.request import Request, default_split
from spectraldiff.training.run_folder import LOCK, RunFolder, create_run, newest_run, next_run, open_run
from spectraldiff.training.run_model import load_model, load_tensors, save_tensors
from spectraldiff.training.trainer import Training
from spectraldiff_runtime.errors import OutputError, RunError, UsageError


class StopAfter(Monitor):
    """Interrupts the training in a stage after some steps."""

    def __init__(self, title: str, steps: int) -> None:
        self.title, self.steps, self.current = title, steps, ""

    def stage(self, title: str, unit: str) -> None:
        self.current = title

    def progress(self, done: int, total: int, loss: float | None = None) -> None:
        if self.current.startswith(self.title) and done == self.steps:
            raise KeyboardInterrupt


def test_finished_run_has_everything(tiny_run: RunFolder) -> None:
    names = {p.relative_to(tiny_run.path).as_posix() for p in tiny_run.path.rglob("*.*")}
    assert names - {LOCK} == {  # the lock is there once another test has tried to go on with this run
        "run.json",
        "model.json",
        "model.safetensors",
        "samples.safetensors",
        "metrics.json",
        "report.html",
        "train_pixels.tif",
        "train_pixels.tif.aux.xml",
        "test_pixels.tif",
        "test_pixels.tif.aux.xml",
        "figures/map.png",
        "figures/raw_map.png",
        "figures/confusion.png",
        "figures/raw_confusion.png",
        "figures/diffusion_loss.png",
        "figures/classifier_loss.png",
        "figures/raw_loss.png",
    }
    assert tiny_run.finished


def test_metrics_are_those_of_the_saved_model(tiny_run: RunFolder, tiny_scene: LabelledScene) -> None:
    model, facts = load_model(tiny_run)
    with rasterio.open(tiny_run.path / "test_pixels.tif") as dataset:
        test = dataset.read(1)
    accuracy = score(test, model.predict(tiny_scene)[0], 4)
    metrics = json.loads((tiny_run.path / "metrics.json").read_text())
    assert metrics["accuracy"] == accuracy.as_dict()
    assert facts["accuracy"]["oa"] == accuracy.oa
    assert accuracy.oa > 0.6  # four classes, by a model trained for seconds
    assert metrics["raw_accuracy"]["oa"] > 0.6


def test_metrics_and_facts_name_split_leakage_and_labels(tiny_run: RunFolder, tiny_scene: LabelledScene) -> None:
    metrics, facts = tiny_run.read_json("metrics.json"), tiny_run.read_json("model.json")["accuracy"]
    with rasterio.open(tiny_run.path / "train_pixels.tif") as a, rasterio.open(tiny_run.path / "test_pixels.tif") as b:
        train, test = a.read(1) > 0, b.read(1) > 0
    window = 2 * tiny_run.read_json("model.json")["halo"] + 1  # all that a pixel's class depends on
    assert window > 9 + 2 * 2 * facts["smoothing"]  # features see farther than the window and the smoothing
    side = f"window of {window} \N{MULTIPLICATION SIGN} {window} pixels"
    assert side in (tiny_run.path / "report.html").read_text("utf-8")
    assert metrics["leakage"] == facts["leakage"] == leakage(train, test, window)
    assert metrics["smoothing"] == facts["smoothing"]
    assert (metrics["split"], facts["split"], facts["seed"]) == ("per-class:10", "per-class:10", 0)
    assert (facts["train_pixels"], facts["test_pixels"]) == (train.sum(), test.sum())
    labelled = np.bincount(tiny_scene.labels.ravel())[1:].tolist()
    assert [(one["name"], one["labelled"], one["training"]) for one in metrics["labels"]] == [
        (c.name, count, 10) for c, count in zip(tiny_scene.classes, labelled, strict=True)
    ]
    assert metrics["scenes"][0]["oa"] == metrics["accuracy"]["oa"]


def test_report_shows_the_maps_and_the_figures(tiny_run: RunFolder) -> None:
    text, metrics = (tiny_run.path / "report.html").read_text("utf-8"), tiny_run.read_json("metrics.json")
    for share in (metrics["accuracy"]["oa"], metrics["raw_accuracy"]["oa"], metrics["calibration"]["ece"]):
        assert f"<dd>{100 * share:.2f}<small> %</small></dd>" in text
    interval = metrics["interval"]
    low, high = interval["oa"]
    assert low < metrics["accuracy"]["oa"] <= high
    assert (interval["of"], interval["level"]) == ("patch", 0.95)
    assert f"95 % interval {100 * low:.1f} to {100 * high:.1f}, from {interval['units']:,} patches" in text
    assert text.count("<img") == 8  # scene, map, confusion, confidence, reliability, three losses
    assert f"{metrics['temperature']['value']:.2f}, from 36 held-out training pixels" in text
    assert "How to reproduce" in text


def test_test_pixels_were_never_trained_on(tiny_run: RunFolder, tiny_scene: LabelledScene) -> None:
    with rasterio.open(tiny_run.path / "train_pixels.tif") as a, rasterio.open(tiny_run.path / "test_pixels.tif") as b:
        train, test = a.read(1), b.read(1)
        assert a.crs.to_string() == tiny_scene.crs
    assert not ((train > 0) & (test > 0)).any()
    np.testing.assert_array_equal(train + test, tiny_scene.labels)
    assert np.bincount(train.ravel()).tolist()[1:] == [10] * 4


def test_interrupted_run_ends_like_an_undisturbed_one(
    tiny_request: Request, tiny_scene: LabelledScene, tiny_run: RunFolder, tmp_path: Path
) -> None:
    """One run, interrupted in a stage of each kind."""
    run = create_run(tmp_path / "run")
    split, preset = tiny_request.make_split(tiny_scene), tiny_request.preset
    stages = {"Denoiser": 11, "Calibration 2 of 5": 4, "SpectralViT": 7, "Calibration 5 of 5 on raw bands": 3}
    for title, steps in stages.items():
        with pytest.raises(KeyboardInterrupt):
            Training(run, tiny_scene, split, preset, 0, Compute(), StopAfter(title, steps)).finish(compare_raw=True)
        assert not run.finished
        assert (run.path / "state.safetensors").is_file()
    Training(run, tiny_scene, split, preset, 0, Compute(), Monitor()).finish(compare_raw=True)
    assert not (run.path / "state.safetensors").exists()
    one, other = load_tensors(run, "model.safetensors"), load_tensors(tiny_run, "model.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_a_killed_training_keeps_its_time(tiny_request: Request, tiny_scene: LabelledScene, tmp_path: Path) -> None:
    """What a process that is killed had spent by its last state counts in the times of the one that goes on."""
    run, split, preset = create_run(tmp_path / "run"), tiny_request.make_split(tiny_scene), tiny_request.preset
    states: list[dict[str, torch.Tensor]] = []

    class Watched(Training):
        def _save(self, name: str, loop: Loop) -> None:
            super()._save(name, loop)
            states.append(dict(self.state))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spectraldiff.training.monitor.SAVE_EVERY", 0.0)
        Watched(run, tiny_scene, split, preset, 0, Compute(), Monitor()).train_denoiser()
    spent = [float(state["diffusion.seconds"]) for state in states]
    assert all(one < next_ for one, next_ in pairwise(spent[:-1]))  # the last state is that of the end
    killed = states[6]
    killed["diffusion.seconds"] += 1000
    save_tensors(run, "state.safetensors", killed)
    again = Training(run, tiny_scene, split, preset, 0, Compute(), Monitor())
    again.train_denoiser()
    assert again.seconds["diffusion"] > 1000 + spent[6]


def test_raw_features_need_no_denoiser(tiny_request: Request, tiny_scene: LabelledScene, tmp_path: Path) -> None:
    run, preset = create_run(tmp_path / "run"), tiny_request.preset.changed(features="raw", epochs=1)
    Training(run, tiny_scene, tiny_request.make_split(tiny_scene), preset, 0, Compute(), Monitor()).finish()
    model, _ = load_model(run)
    assert model.extractor.denoiser is None
    assert model.halo == preset.classifier.window // 2 + 2 * model.smoothing.iterations
    with pytest.raises(RunError, match="no denoiser"):
        reconstruct(model, tiny_scene, 5, 8, 3, 0, lambda done, total: None)


def test_pixels_without_data_are_neither_learnt_nor_mapped(tiny_request: Request, tiny_scene: LabelledScene) -> None:
    cube = tiny_scene.cube.astype(np.float32)
    cube[:4, :4, 2] = np.nan
    cube[10, 10] = np.inf
    scene = replace(tiny_scene, cube=cube)
    split = tiny_request.make_split(scene)
    assert not (split.train | split.test)[~scene.valid].any()
    normaliser, fill = normaliser_of(scene)
    assert torch.isfinite(normaliser.high).all()
    assert torch.isfinite(fill).all()


def test_nodata_may_be_nan(tiny_request: Request, tiny_scene: LabelledScene, tmp_path: Path) -> None:
    scene = replace(tiny_scene, cube=tiny_scene.cube.astype(np.float32), nodata=float("nan"))
    preset = tiny_request.preset.changed(features="raw", epochs=1)
    run = create_run(tmp_path / "run")
    Training(run, scene, tiny_request.make_split(scene), preset, 0, Compute()).finish()
    assert load_model(run)[1]["nodata"] is None


def test_a_loss_that_is_no_number_is_told_with_the_values_of_the_scene(
    tiny_request: Request, tiny_scene: LabelledScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cube = tiny_scene.cube.astype(np.float32)
    cube[3, 4, 5] = 1e30
    scene = replace(tiny_scene, cube=cube, numbers=tuple(range(11, 23)))
    preset = tiny_request.preset.changed(features="raw")
    training = Training(create_run(tmp_path / "run"), scene, tiny_request.make_split(scene), preset, 0, Compute())
    monkeypatch.setattr(Loop, "train_step", lambda loop: float("nan"))
    with pytest.raises(RunError, match=r"^the loss is nan at step 1 of \d+: .* to 1e\+30 in band 16; where .* --seed$"):
        training.finish()


def test_paper_preset_goes_all_the_way(tiny_request: Request, tiny_scene: LabelledScene, tmp_path: Path) -> None:
    """The published recipe, except for length, channels and window: the noise is predicted, Adam, constant rates."""
    preset = PAPER.changed(diffusion_steps=2, diffusion_batch=2, epochs=1)
    unet = {"stem_channels": 4, "channels": (4, 6, 8)}
    preset = replaced(
        preset, components={"most": 8}, diffusion={"instance": 8, "network": unet}, classifier={"members": (Member(7),)}
    )
    run = create_run(tmp_path / "run")
    Training(run, tiny_scene, tiny_request.make_split(tiny_scene), preset, 0, Compute(), Monitor()).finish()
    model, facts = load_model(run)
    assert facts["halo"] == model.halo == 17 + 3
    assert facts["preset"]["diffusion"]["parameterisation"] == "noise"


def test_reconstruction_runs_from_noise_to_step_0(tiny_run: RunFolder, tiny_scene: LabelledScene) -> None:
    model, _ = load_model(tiny_run)
    result, again = (reconstruct(model, tiny_scene, 40, 16, 5, seed, lambda done, total: None) for seed in (0, 0))
    assert [step for step, _ in result.frames] == [40, 30, 20, 10, 0]
    assert np.array_equal(result.frames[-1][1], again.frames[-1][1])
    assert result.original.shape == result.frames[-1][1].shape == (16, 16, 12)
    denoiser = model.extractor.denoiser
    assert denoiser is not None
    noise = (1 - float(denoiser.schedule.alpha_bar[40])) ** 0.5
    assert result.noise_error == pytest.approx(noise * (2 / np.pi) ** 0.5, rel=0.1)
    assert 0 < result.error < 2 * result.noise_error
    part = tiny_scene.cube[result.row : result.row + 16, result.column : result.column + 16].astype(np.float32)
    normalised = model.normaliser(torch.from_numpy(part).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    np.testing.assert_allclose(result.original, normalised, atol=1e-6)


def test_example_spectra_are_of_different_classes(tiny_run: RunFolder, tiny_scene: LabelledScene) -> None:
    model, _ = load_model(tiny_run)
    result = reconstruct(model, tiny_scene, 2, 26, 2, 0, lambda done, total: None)
    spectra = example_spectra(result, tiny_scene, 3)
    assert len({s.label for s in spectra}) == 3
    assert all(len(s.reconstructed) == 12 for s in spectra)


def test_part_with_most_classes_is_reconstructed() -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[12:, 12:] = np.arange(64).reshape(8, 8) % 3 + 1
    row, column = labelled_part(labels, 8)
    assert len(np.unique(labels[row : row + 8, column : column + 8])) >= 3
    assert (labels[row : row + 8, column : column + 8] > 0).all()


def test_runs_are_numbered(tmp_path: Path) -> None:
    assert next_run(tmp_path / "runs", "my scene", "fast").name == "my-scene-fast-001"
    create_run(tmp_path / "runs" / "my-scene-fast-004").write_json("run.json", {})
    assert next_run(tmp_path / "runs", "my scene", "fast").name == "my-scene-fast-005"
    with pytest.raises(OutputError, match="exists"):
        create_run(tmp_path / "runs" / "my-scene-fast-004")


def test_newest_finished_run_is_found(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no finished run"):
        newest_run(tmp_path)
    for name, finished in (("b", "2026-01-02"), ("a", "2026-01-03"), ("c", "2026-01-01")):
        create_run(tmp_path / name).write_json("model.json", {"finished": finished})
    create_run(tmp_path / "d").write_json("run.json", {})
    assert newest_run(tmp_path).path.name == "a"


def flip_a_bit(path: Path) -> None:
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-9] ^= 1
    (path / "model.safetensors").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "model.json").unlink(), "not finished"),
        (lambda path: (path / "model.json").write_text("{"), "cannot be read"),
        (lambda path: (path / "model.json").write_text("[]"), "no JSON object"),
        (lambda path: (path / "model.json").write_text('{"format": 3}'), "damaged"),
        (lambda path: (path / "model.json").write_text('{"format": 1}'), "format 1 .* reads 3 and 4: train again"),
        (lambda path: (path / "model.safetensors").write_bytes(b"\0" * 40), "damaged"),
        (flip_a_bit, "model.safetensors' is damaged .it is not what the training wrote"),
        (lambda path: (path / "model.safetensors").unlink(), "damaged .it has no model.safetensors"),
        (lambda path: [p.unlink() for p in path.glob("*.json")], "no run folder"),
    ],
)
def test_damaged_run_is_refused(damage: object, message: str, tiny_run: RunFolder, tmp_path: Path) -> None:
    for name in ("model.json", "model.safetensors", "run.json"):
        (tmp_path / name).write_bytes((tiny_run.path / name).read_bytes())
    damage(tmp_path)  # type: ignore[operator]
    with pytest.raises(RunError, match=message):
        load_model(RunFolder(tmp_path))


def test_missing_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder"):
        open_run(tmp_path / "nothing", tmp_path)


def test_request_survives_json(tiny_request: Request) -> None:
    assert Request.from_json(json.loads(json.dumps(tiny_request.to_json()))) == tiny_request
    for value in (float("inf"), -float("inf"), -9999, 0.5, None):
        request = replace(tiny_request, nodata=value, threads=2, resumed=("a line",))
        assert Request.from_json(json.loads(json.dumps(request.to_json(), allow_nan=False))) == request
    values = json.loads(json.dumps(replace(tiny_request, nodata=float("nan")).to_json(), allow_nan=False))
    assert repr(Request.from_json(values).nodata) == "nan"
    with pytest.raises(RunError, match="another version"):
        Request.from_json({"seed": 1})


@pytest.mark.parametrize("preset", [FAST, PAPER])
def test_preset_survives_json(preset: Preset) -> None:
    values = json.loads(json.dumps(preset.to_json()))
    assert Preset.from_json(values) == preset
    del values["diffusion"]["instance"]
    with pytest.raises(RunError, match=r"\(instance\)"):
        Preset.from_json(values)


def test_paper_preset_is_the_papers() -> None:
    diffusion, classifier = PAPER.diffusion, PAPER.classifier
    assert (diffusion.timesteps, diffusion.beta_first, diffusion.beta_last) == (500, 1e-4, 0.02)
    assert (diffusion.parameterisation, diffusion.instance) == ("noise", 16)
    assert (PAPER.features.timestep, PAPER.features.layer) == (5, 1)
    assert (diffusion.loop.batch, diffusion.loop.lr, diffusion.loop.weight_decay) == (256, 1e-4, 0)
    assert (classifier.loop.batch, classifier.loop.lr, classifier.epochs) == (64, 1e-3, 20)
    assert (classifier.network.depth, classifier.network.heads) == (5, 4)


def test_many_labels_take_no_more_steps_than_the_preset_allows() -> None:
    fast = FAST.classifier
    assert fast.steps(16) == 16 * fast.epochs
    assert fast.steps(1000) == fast.most_steps < 1000 * fast.epochs
    assert FAST.changed(epochs=3).classifier.steps(1000) == 3000
    assert PAPER.classifier.steps(1000) == 20_000


def test_a_limit_to_the_steps_ends_the_training(
    tiny_request: Request, tiny_scene: LabelledScene, tmp_path: Path
) -> None:
    preset = replaced(tiny_request.preset.changed(features="raw", epochs=50), classifier={"most_steps": 3})
    training = Training(
        create_run(tmp_path / "run"), tiny_scene, tiny_request.make_split(tiny_scene), preset, 0, Compute()
    )
    training.train_classifier(preset, None)
    assert len(training.histories["classifier"]) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timestep": 0}, "1 to 500"),
        ({"timestep": 501}, "1 to 500"),
        ({"layer": 2}, "0 to 1"),
        ({"layer": -1}, "0 to 1"),
    ],
)
def test_impossible_preset_is_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FAST.changed(**change)
    with pytest.raises(UsageError, match="fast, paper"):
        preset_named("slow")


def test_sources_exclude_each_other() -> None:
    own = (SceneFiles("a.tif", ("b.tif",)),)
    for dataset, scenes in ((None, ()), ("houston", own), (None, (SceneFiles("a.tif"),))):
        with pytest.raises(UsageError):
            SceneSource(dataset=dataset, scenes=scenes).check()
    for labels in ((["a.tif"], []), ([], ["b.tif"])):
        with pytest.raises(UsageError, match="a scene and its --labels go together"):
            gathered(*labels)
    SceneSource(dataset="houston").check()
    SceneSource(scenes=own).check()
    assert default_split("houston") == "paper"
    assert default_split("ksc") == "fraction:0.1"
    assert default_split(None) == "folds"


def test_run_files_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = create_run(tmp_path / "run")
    run.write_json("metrics.json", {"a": 1})

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="full"):
        run.write_json("metrics.json", {"a": 2})
    assert run.read_json("metrics.json") == {"a": 1}
    assert [p.name for p in run.path.iterdir()] == ["metrics.json"]
