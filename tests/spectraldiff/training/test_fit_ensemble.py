"""The whole choice: scenes on which context misleads, helps, or must be judged on other places than the training's."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spectraldiff.cli.train_output import summarise
from spectraldiff.data.scene import LabelledScene
from spectraldiff.ensemble import feature_trial
from spectraldiff.ensemble.feature_trial import FeatureTrial
from spectraldiff.ensemble.folds import Folds
from spectraldiff.ensemble.linear_fit import LinearFit
from spectraldiff.ensemble.selection import ATTENTION, Selection
from spectraldiff.ensemble.window_trial import WindowTrial
from spectraldiff.models.presets import Preset
from spectraldiff.models.settings import LinearMember, replaced
from spectraldiff.splits.draw import Geometry, make_split
from spectraldiff.splits.split import Split
from spectraldiff.training import fit_ensemble
from spectraldiff.training.compute import Compute
from spectraldiff.training.fit_classifier import Fitted
from spectraldiff.training.fit_ensemble import EnsembleFit
from spectraldiff.training.monitor import Monitor
from spectraldiff.training.run_folder import RunFolder, create_run
from spectraldiff.training.run_model import load_model
from spectraldiff.training.trainer import Training
from spectraldiff_runtime.classes import LandCoverClass, palette
from spectraldiff_runtime.errors import RunError

CLASSES, BANDS = 3, 8
CANDIDATES = (
    *(LinearMember("lda", "bands", window) for window in (1, 3, 9)),
    LinearMember("lda", "bands", noise=True),
    LinearMember("lda", "bands", iterations=2),
    *(LinearMember("logistic", "bands", window) for window in (1, 5)),
)
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def preset(tiny_preset: Preset) -> Preset:
    """Raw bands and few candidates; the attention members are hardly trained."""
    changed = tiny_preset.changed(features="raw", epochs=2)
    return replaced(changed, classifier={"linear": CANDIDATES})


def scene_of(labels: np.ndarray, noise: float, looks: np.ndarray | None = None) -> LabelledScene:
    """Return a scene whose classes differ by their spectra, each with one of two looks."""
    generator = np.random.default_rng(5)
    spectra = generator.normal(0, 1, (2, CLASSES, BANDS))
    spectra[1] = spectra[0] if looks is None else spectra[1]
    cube = spectra[0 if looks is None else looks, labels - 1] + generator.normal(0, noise, (*labels.shape, BANDS))
    classes = tuple(LandCoverClass(i, f"Class {i}", c) for i, c in enumerate(palette(CLASSES), start=1))
    return LabelledScene("made", (1000 + 100 * cube).astype(np.float32), labels.astype(np.uint8), classes)


def salt_and_pepper() -> LabelledScene:
    """Each pixel has a class of its own: what lies around it says nothing."""
    return scene_of(np.random.default_rng(1).integers(1, CLASSES + 1, (40, 44)), 0.4)


def blocky() -> LabelledScene:
    """Fields of 20 x 20 pixels that are all noise: a pixel alone says little."""
    rows, columns = np.mgrid[:60, :60] // 20
    return scene_of(1 + (rows + 2 * columns) % CLASSES, 4.0)


def fit_of(scene: LabelledScene, split: Split, preset: Preset, path: Path) -> Fitted:
    return Training(create_run(path), scene, split, preset, 0, Compute()).train_classifier(preset, None)


def share_of(selection: Selection, *parts: str) -> float:
    """Return the share of all members whose title has one of some parts."""
    return sum(member.share for member in selection.members if any(part in member.title for part in parts))


def accuracy(fitted: Fitted, scene: LabelledScene, split: Split) -> float:
    return float((fitted.model.predict(scene)[0] == scene.labels)[split.test].mean())


def test_where_context_misleads_members_read_one_pixel(preset: Preset, tmp_path: Path) -> None:
    scene = salt_and_pepper()
    split = make_split(scene.labels, "per-class:60", 0)
    fitted = fit_of(scene, split, preset, tmp_path / "run")
    selection = fitted.selection
    assert "one pixel" in selection.members[0].title
    assert share_of(selection, "one pixel") > 0.9
    assert share_of(selection, "3 x 3", "5 x 5", "9 x 9", ATTENTION) == 0
    assert fitted.model.vit is None
    assert selection.units == "pixels"
    assert accuracy(fitted, scene, split) > 0.95


class Told(Monitor):
    """Keeps what a training says."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.lines: list[str] = []

    def stage(self, title: str, unit: str) -> None:
        self.stages.append(title)

    def message(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize(("scene", "helps"), [(salt_and_pepper(), False), (blocky(), True)], ids=["mixed", "fields"])
def test_attention_members_are_trained_where_windows_as_wide_as_theirs_help(
    scene: LabelledScene, helps: bool, preset: Preset, tmp_path: Path
) -> None:
    """Elsewhere they are not, whatever held-out pixels beside the training's would say of them."""
    candidates = (*CANDIDATES, LinearMember("logistic", "bands", 9))  # as wide as the attention members' windows
    preset, monitor, run = replaced(preset, classifier={"linear": candidates}), Told(), create_run(tmp_path / "run")
    split = make_split(scene.labels, "per-class:60", 0)
    selection = Training(run, scene, split, preset, 0, Compute(), monitor).finish().selection
    page, told = (run.path / "report.html").read_text("utf-8"), run.read_json("metrics.json")["ensemble"]
    assert (ATTENTION in {member.title for member in selection.members}) == helps
    assert any(stage.startswith("Calibration") for stage in monitor.stages) == helps
    assert ("not trained" in page) != helps
    assert ("attention_not_trained" in told) != helps
    if helps:
        assert selection.misled is None
        return
    assert selection.misled.window == 9
    assert selection.misled.mean_loss > 1.5 * selection.misled.pixel_loss
    assert told["attention_not_trained"] == asdict(selection.misled)
    assert selection.misled.line() in " ".join(page.split())
    assert selection.misled.line() in monitor.lines


def test_a_window_is_tried_by_regressions_on_the_bands() -> None:
    def fit(loss: float) -> LinearFit:
        return LinearFit(np.zeros((1, 2)), np.zeros(2), np.zeros((1, 2)), loss)

    bands = [(LinearMember("logistic", "bands", window), fit(loss)) for window, loss in ((1, 0.3), (9, 0.3), (3, 0.2))]
    others = [
        (LinearMember("logistic", "features", 9), fit(0.1)),
        (LinearMember("lda", "bands", 1), fit(0.1)),
        (LinearMember("logistic", "bands", iterations=2), fit(0.05)),
    ]
    trial = WindowTrial.of([*others, *bands, *others], 9)
    assert trial == WindowTrial(9, 0.3, 0.3)
    assert trial.misleads  # a window that changes nothing costs time
    assert not WindowTrial.of(bands, 3).misleads
    assert WindowTrial.of(bands, 15) is None
    assert WindowTrial.of(others, 9) is None


def by_polygon(scene: LabelledScene) -> tuple[LabelledScene, Split]:
    """Return the scene with polygons of 8 x 8 pixels, and a split of which each polygon trains or tests."""
    rows, columns = np.mgrid[: scene.labels.shape[0], : scene.labels.shape[1]] // 8
    groups = (1 + rows * (columns.max() + 1) + columns).astype(np.int32)
    scene = replace(scene, groups=groups)
    return scene, make_split(scene.labels, "fraction:0.5", 0, geometry=Geometry(groups=[groups]))


@pytest.mark.parametrize("least", [2.0, -9.0], ids=["too little", "enough"])
def test_on_other_ground_there_are_no_attention_members_and_features_only_where_they_pay(
    least: float, tiny_preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The terminal, the report and the metrics say what is not in the model, and why."""
    monkeypatch.setattr(feature_trial, "LEAST_GAIN", least)
    linear = (*CANDIDATES, LinearMember("lda", "features"))
    preset = replaced(tiny_preset.changed(diffusion_steps=1, epochs=1), classifier={"linear": linear})
    scene, split = by_polygon(salt_and_pepper())
    assert split.spatially_disjoint
    run, monitor = create_run(tmp_path / "run"), Told()
    result = Training(run, scene, split, preset, 0, Compute(), monitor).finish()
    selection, pays = result.selection, least < 0
    page, told = (run.path / "report.html").read_text("utf-8"), run.read_json("metrics.json")["ensemble"]
    assert selection.disjoint
    assert not any(stage.startswith("Calibration") for stage in monitor.stages)
    assert told["attention_not_trained"] == {"spatially_disjoint": True}
    assert (selection.unread is None) == pays == ("features_not_read" not in told)
    assert len(selection.left_out()) == 2 - pays
    for line in selection.left_out():
        assert line in monitor.lines
        assert line in " ".join(page.split())
    assert len(selection.members) == len(linear)  # those that were left out are listed, with no share
    model, _ = load_model(run)
    np.testing.assert_array_equal(model.predict(scene)[0], result.found.maps[0].predicted)
    if pays:
        return
    assert told["features_not_read"] == asdict(selection.unread)
    assert share_of(selection, "features", "smoothing") == 0
    assert model.extractor.denoiser is None
    loss = min(member.loss for member in selection.members)  # that of the best single member
    assert 0.5 * loss < selection.unread.bands_loss < 1.5 * loss


def test_features_pay_where_they_lower_the_held_out_loss_by_two_percent() -> None:
    assert FeatureTrial(0.979, 1.0).pays
    assert not FeatureTrial(0.99, 1.0).pays
    assert not FeatureTrial(1.5, 1.0).pays


def test_of_many_training_pixels_linear_members_read_some_and_the_report_says_so(
    preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_ensemble, "MOST_PIXELS", 90)
    scene = salt_and_pepper()
    split = make_split(scene.labels, "per-class:60", 0)
    selection = fit_of(scene, split, preset, tmp_path / "run").selection
    assert selection.sampled == (90, 180)
    assert "fitted to 90 of the 180 training pixels" in " ".join(selection.lines())
    assert selection.as_dict()["linear_members_fitted_to"] == 90


def test_where_fields_are_large_members_look_around(preset: Preset, tmp_path: Path) -> None:
    scene = blocky()
    split = make_split(scene.labels, "per-class:60", 0)
    fitted = fit_of(scene, split, preset, tmp_path / "run")
    selection = fitted.selection
    assert "9 x 9" in selection.members[0].title
    assert share_of(selection, "5 x 5", "9 x 9", "smoothings", ATTENTION) > 0.75
    assert share_of(selection, "one pixel") < 0.2
    assert accuracy(fitted, scene, split) > 0.9
    alone = replaced(preset, classifier={"linear": CANDIDATES[:1]})
    worse = fit_of(scene, split, alone, tmp_path / "alone")
    assert accuracy(fitted, scene, split) > accuracy(worse, scene, split) + 0.1


def test_polygons_of_different_looks_are_held_out_whole(preset: Preset, tmp_path: Path) -> None:
    """Pixels of a polygon that were held out alone would find the polygon's own look in the training."""
    rows, columns = np.mgrid[:48, :36] // 12
    polygon = rows * 3 + columns  # of 12 x 12 pixels, a class a column
    scene = scene_of(1 + columns, 0.5, rows % 2)
    inside = (np.mgrid[:48, :36] % 12 > 0).all(0)
    scene = replace(
        scene,
        labels=np.where(inside, scene.labels, 0).astype(np.uint8),
        groups=np.where(inside, polygon + 1, 0).astype(np.int32),
    )
    split = make_split(scene.labels, "per-class:200", 1, geometry=Geometry(groups=[scene.groups]))
    trained = np.unique(scene.groups[split.train])
    assert len(trained) == 6
    assert len(np.unique((trained - 1) // 3 % 2)) == 2  # both looks
    training = Training(create_run(tmp_path / "run"), scene, split, preset, 0, Compute())
    fit = EnsembleFit(training._classifier_fit(), training._classifier_fit().training_set(preset, None))
    groups = scene.groups[split.train]
    for held in fit.folds.held_out():
        assert not set(groups[held]) & set(groups[~held])
    selection = fit.fit().selection
    assert selection.units == "polygons or patches"
    assert fit._independent() == pytest.approx(np.sqrt(len(groups) * 6))  # pixels of a polygon say nearly the same
    fit.folds = Folds(np.arange(len(groups)) % 5, "pixels", len(groups))
    assert fit._independent() == len(groups)
    by_pixels = fit.fit().selection
    best, too_good = (min(member.loss for member in one.members) for one in (selection, by_pixels))
    assert best > 10 * too_good


def test_a_run_with_linear_members_is_read_as_it_was_written(
    preset: Preset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its report, its metrics and a line on the terminal say what was chosen."""
    scene = blocky()
    run = create_run(tmp_path / "run")
    result = Training(run, scene, make_split(scene.labels, "per-class:20", 0), preset, 0, Compute()).finish()
    model, facts = load_model(run)
    assert [tuple(one.values()) for one in facts["linear"]] == [
        (context.window, context.iterations) for context in model.linear.contexts
    ]
    assert model.halo == facts["halo"] > 0
    classes, confidence = model.predict(scene)
    np.testing.assert_array_equal(classes, result.found.maps[0].predicted)
    np.testing.assert_allclose(confidence, result.found.maps[0].confidence, rtol=0, atol=1e-6)
    told = run.read_json("metrics.json")["ensemble"]
    assert sum(member["share"] for member in told["members"]) == pytest.approx(1, abs=1e-3)
    assert [member["title"] for member in told["members"]] == [m.title for m in result.selection.members]
    page = (run.path / "report.html").read_text("utf-8")
    assert all(member.title in page for member in result.selection.members)
    capsys.readouterr()
    summarise(run, result, 60.0)
    assert [line for line in capsys.readouterr().err.splitlines() if "candidates" in line] == [
        result.selection.summary()
    ]


def test_weights_members_and_prior_make_the_model(preset: Preset, tmp_path: Path) -> None:
    """Its scores at the centre of the scene are those of members that read the bands there, plus the log prior."""
    scene = salt_and_pepper()
    split = make_split(scene.labels, "fraction:0.2", 0)
    fitted = fit_of(scene, split, preset, tmp_path / "run")
    selection = fitted.selection
    counts = np.bincount(scene.labels[split.train], minlength=4)[1:]
    model, found = fitted.model, selection.linear
    assert found is model.linear
    tile = torch.from_numpy(scene.cube).movedim(-1, 0)[None]
    with torch.no_grad():
        scores = model(tile)
        model.prior.zero_()
        free = model(tile)
    gap = (scores - free)[0].mean((1, 2))
    wanted = torch.from_numpy(np.log(counts / counts.sum())).float()
    if not selection.share:  # attention members have part of the prior in their scores
        torch.testing.assert_close(gap - gap.mean(), wanted - wanted.mean(), atol=1e-4, rtol=0)
    assert gap.std() > 0


def test_a_model_that_no_member_reads_features_for_has_no_denoiser(tiny_preset: Preset, tmp_path: Path) -> None:
    """Neither the exported file nor the map pays for it."""
    preset = replaced(tiny_preset.changed(diffusion_steps=1, epochs=1), classifier={"linear": CANDIDATES[:2]})
    scene = salt_and_pepper()
    training = Training(
        create_run(tmp_path / "run"), scene, make_split(scene.labels, "per-class:60", 0), preset, 0, Compute()
    )
    fitted = training.train_classifier(preset, training.train_denoiser())
    assert fitted.selection.share == 0
    assert fitted.model.extractor.denoiser is None
    assert fitted.model.preset.raw
    assert fitted.model.halo == max(context.radius for context in fitted.model.linear.contexts)
    training.write(fitted.model, training.finish(), "")
    model, _ = load_model(RunFolder(tmp_path / "run"))
    np.testing.assert_array_equal(model.predict(scene)[0], fitted.model.predict(scene)[0])


def test_a_run_with_members_that_read_kernels_is_read_as_it_was_written(tiny_preset: Preset, tmp_path: Path) -> None:
    linear = (LinearMember("lda", "bands"), *(LinearMember("kernel", "bands", w, gamma=1.0) for w in (1, 3)))
    preset = replaced(tiny_preset.changed(features="raw", epochs=1), classifier={"linear": linear})
    scene = salt_and_pepper()
    run = create_run(tmp_path / "run")
    result = Training(run, scene, make_split(scene.labels, "per-class:40", 0), preset, 0, Compute()).finish()
    model, facts = load_model(run)
    assert share_of(result.selection, "kernel") > 0.05
    assert len(model.kernel.phase) == facts["kernel_features"] == 128
    assert [one["window"] for one in facts["kernel"]] == [context.window for context in model.kernel.contexts]
    np.testing.assert_array_equal(model.predict(scene)[0], result.found.maps[0].predicted)
    path = run.path / "model.json"
    path.write_text(json.dumps({**facts, "kernel_features": 127}))
    with pytest.raises(RunError, match="other sizes"):
        load_model(run)


def test_members_that_read_features_keep_the_denoiser(tiny_preset: Preset, tmp_path: Path) -> None:
    linear = (LinearMember("lda", "features"), LinearMember("logistic", "features", iterations=2))
    preset = replaced(tiny_preset.changed(diffusion_steps=1, epochs=1), classifier={"linear": linear})
    scene = salt_and_pepper()
    run = create_run(tmp_path / "run")
    result = Training(run, scene, make_split(scene.labels, "per-class:20", 0), preset, 0, Compute()).finish()
    model, _ = load_model(run)
    assert model.extractor.denoiser is not None
    np.testing.assert_array_equal(model.predict(scene)[0], result.found.maps[0].predicted)
