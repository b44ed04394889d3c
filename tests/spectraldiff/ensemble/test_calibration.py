"""Temperature scaling: what is held out, what is fitted, and that it changes confidences and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from spectraldiff.accuracy.metrics import calibration
from spectraldiff.ensemble.calibration import (
    HIGHEST,
    choose,
    fit_temperature,
    smoothed_scores,
)
from spectraldiff.models.foveal_vit import FovealViT
from spectraldiff.models.padding import cropped
from spectraldiff.models.score_smoothing import Smoothing
from spectraldiff.models.settings import Member
from spectraldiff.models.vit import ViTConfig
from spectraldiff.splits.hold_out import PLENTY, groups_of, hold_out, patches
from spectraldiff.splits.split import Split
from spectraldiff.training import fit_classifier
from spectraldiff.training.compute import Compute
from spectraldiff.training.run_folder import RunFolder, create_run
from spectraldiff.training.run_model import load_model
from spectraldiff.training.trainer import Training


def drawn(count: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores (count, 4) and classes that were drawn from their softmax."""
    generator = torch.Generator().manual_seed(0)
    scores = spread * torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return scores, torch.multinomial(scores.softmax(1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_the_temperature_is_what_scores_were_multiplied_by(factor):
    scores, labels = drawn(20_000, 2.0)
    assert fit_temperature(factor * scores, labels) == pytest.approx(factor, rel=0.04)


def test_confidences_of_an_overconfident_model_become_true():
    scores, labels = drawn(4000, 2.0)
    scores = 3 * scores

    def error(t: float) -> float:
        confidence, found = (scores / t).softmax(1).max(1)
        return calibration(confidence.numpy(), (found == labels).numpy()).ece

    assert error(1.0) > 0.1
    assert error(fit_temperature(scores, labels)) < 0.02


def test_a_model_that_is_always_right_does_not_become_certain():
    labels = torch.arange(40) % 4
    scores = torch.nn.functional.one_hot(labels, 4).double()
    t = fit_temperature(scores, labels)
    assert 1 / HIGHEST < t < 1
    assert (scores / t).softmax(1).amax(1).mean() == pytest.approx(1 - 0.75 / 42, abs=1e-3)


def test_a_fifth_of_each_class_is_held_out_and_none_of_the_smallest():
    labels = np.repeat([1, 2, 3, 4], [100, 12, 5, 4])
    folds = hold_out(labels, np.arange(len(labels)), 0)
    assert [np.bincount(labels[held], minlength=5)[1:].tolist() for held in folds] == [
        *[[20, 2, 1, 0]] * 4,
        [19, 2, 0, 0],  # a pixel of the first and of the third class is left: never all of what is left is drawn
    ]
    assert max(np.sum(folds, 0)) == 1
    np.testing.assert_array_equal(folds, hold_out(labels, np.arange(len(labels)), 0))
    assert (folds[0] != hold_out(labels, np.arange(len(labels)), 1)[0]).any()


@pytest.mark.parametrize(("pixels", "folds"), [(1024, 3), (2000, 2), (3000, 1), (40, 5), (4, 0)])
def test_there_are_as_many_folds_as_give_enough_pixels(pixels, folds):
    labels = np.zeros(pixels, int)
    found = hold_out(labels, np.arange(pixels), 0)
    assert len(found) == folds
    assert sum(int(held.sum()) for held in found) >= min(PLENTY, 0.9 * pixels) * (folds > 0)


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_held_out_whole_and_never_all(seed):
    labels = np.repeat([1, 2, 3], [100, 40, 20])
    where = np.repeat(np.arange(9), [10, 20, 30, 25, 15, 20, 20, 10, 10])
    where[140:] = 7  # the third class lies in one place
    folds = hold_out(labels, where, seed)
    for held in folds:
        for place in range(7):
            assert held[where == place].all() or not held[where == place].any()
        counts = np.bincount(labels[held], minlength=4)[1:]
        assert (counts < [100, 40, 20]).all()
    counts = np.bincount(labels[folds[0]], minlength=4)[1:]
    assert counts[0] == pytest.approx(20, abs=10)
    assert counts[1:].tolist() == [20, 4]


def test_patches_touch_at_corners_and_polygons_are_patches():
    labels = np.array([[1, 0, 2, 2], [0, 1, 0, 0], [0, 0, 0, 1]], np.uint8)
    polygons = np.array([[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0]], np.int32)

    def shared(numbers: np.ndarray) -> list[list[int]]:
        found = numbers[labels > 0].tolist()
        return [[i for i, one in enumerate(found) if one == number] for number in dict.fromkeys(found)]

    assert shared(patches(labels, None)) == [[0, 3], [1, 2], [4]]
    assert shared(patches(labels, polygons)) == [[0], [1, 2], [3], [4]]
    assert (patches(labels, polygons) > 0).tolist() == (labels > 0).tolist()


def test_pixels_are_held_out_as_the_test_pixels_lie(tiny_scene):
    train = tiny_scene.labels > 0
    count = int(train.sum())
    mixed, disjoint = (Split("fraction:0.5", 0, train, ~train, share) for share in (0.9, 0.1))
    assert len(np.unique(groups_of([tiny_scene], [mixed]))) == count
    found = groups_of([tiny_scene] * 2, [disjoint] * 2)
    assert len(found) == 2 * count
    assert not set(found[:count]) & set(found[count:])
    assert len(np.unique(found)) == 2 * len(np.unique(patches(tiny_scene.labels, None)[train]))
    assert Split("per-class:5 by polygon", 0, train, ~train, 1.0).spatially_disjoint


def test_the_run_keeps_its_temperature(tiny_run: RunFolder):
    model, facts = load_model(tiny_run)
    metrics = tiny_run.read_json("metrics.json")
    assert metrics["temperature"] == {"value": pytest.approx(float(model.temperature)), "held_out_pixels": 36}
    assert metrics["temperature"]["value"] != 1
    assert (facts["accuracy"]["temperature"], facts["accuracy"]["ece"]) == (
        metrics["temperature"]["value"],
        metrics["calibration"]["ece"],
    )
    assert sum(metrics["calibration"]["counts"]) == metrics["accuracy"]["pixels"]


def test_it_changes_confidences_and_no_class(tiny_run: RunFolder, tiny_scene):
    model, _ = load_model(tiny_run)
    scene = replace(tiny_scene, missing=np.arange(tiny_scene.labels.size).reshape(tiny_scene.labels.shape) % 50 == 0)
    model.temperature.fill_(1.0)
    classes, confidence = model.predict(scene)
    model.temperature.fill_(2.5)
    same, lower = model.predict(scene)
    np.testing.assert_array_equal(classes, same)
    assert confidence.dtype == np.float32
    assert (lower[scene.valid] < confidence[scene.valid]).mean() > 0.99
    assert lower[scene.valid].min() >= 0.25
    assert confidence.max() <= 1
    np.testing.assert_array_equal(confidence > 0, scene.valid)
    np.testing.assert_array_equal(classes > 0, scene.valid)


def test_an_overconfident_classifier_is_cooled_and_keeps_its_classes(
    tiny_request, tiny_scene, tiny_preset, tmp_path, monkeypatch
):
    """The same training, but scores of the held-out pixels that are eight times as large."""
    preset, split = tiny_preset.changed(features="raw", epochs=4), tiny_request.make_split(tiny_scene)
    scores = fit_classifier.smoothed_scores
    results, models = [], []
    for factor in (1, 8):
        monkeypatch.setattr(fit_classifier, "smoothed_scores", lambda *given, factor=factor: factor * scores(*given))
        run = create_run(tmp_path / f"run{factor}")
        results.append(Training(run, tiny_scene, split, preset, 0, Compute()).finish())
        models.append(load_model(run)[0])
    own, cooled = (one.temperature.value for one in results)
    assert cooled > 1
    assert cooled == pytest.approx(8 * own, rel=1e-3)
    assert [float(model.temperature) for model in models] == pytest.approx([own, cooled])
    same, other = (one.found.maps[0] for one in results)
    np.testing.assert_array_equal(same.predicted, other.predicted)
    assert (other.confidence < same.confidence).all()
    assert results[0].found.accuracy.oa == results[1].found.accuracy.oa


def test_too_few_training_pixels_are_said_and_keep_the_confidences(tiny_scene, tiny_preset, tmp_path):
    train = np.zeros(tiny_scene.labels.shape, bool)
    for value in (1, 2, 3, 4):
        train.flat[np.flatnonzero(tiny_scene.labels == value)[:4]] = True
    split = Split("file:a.tif", 0, train, (tiny_scene.labels > 0) & ~train)
    run = create_run(tmp_path / "run")
    preset = tiny_preset.changed(features="raw", epochs=1)
    result = Training(run, tiny_scene, split, preset, 0, Compute()).finish()
    metrics = run.read_json("metrics.json")
    assert result.temperature.value == metrics["temperature"]["value"] == 1
    assert metrics["notes"][0].startswith("confidences are not calibrated: 0 training pixels can be held out")
    assert f"C{metrics['notes'][0][1:]}." in (run.path / "report.html").read_text("utf-8")  # a sentence there


def test_the_number_of_iterations_with_the_likeliest_scores_is_chosen():
    scores, labels = drawn(2000, 3.0)
    noise = torch.randn(scores.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = choose(torch.stack([scores + 3 * noise, scores + noise, 2 * scores, scores - noise]), labels)
    assert found.iterations == 2
    assert found.temperature.value == pytest.approx(2, rel=0.1)
    assert found.temperature.pixels == 2000


@torch.no_grad()
def test_scores_of_pixels_are_those_of_the_whole_map():
    torch.manual_seed(0)
    vit, smoothing = FovealViT(ViTConfig(7, 3, (Member(9), Member(9)), 8, 1, 2, 8, 0.0, 3)).eval(), Smoothing(3, 0.4)
    rim = vit.config.radius + smoothing.halo
    mosaic = torch.randn(40 + 2 * rim, 75 + 2 * rim, 7)
    pixels = torch.cartesian_prod(torch.tensor([39, 0, 31, 33]), torch.tensor([0, 40, 74, 31])) + rim
    found = smoothed_scores(vit, mosaic, pixels, smoothing)
    assert found.shape == (4, 16, 3)
    tokens = vit.embed(mosaic).permute(2, 0, 1)[None]
    guides = smoothing.guides(cropped(mosaic.permute(2, 0, 1)[None], vit.config.radius))
    for iterations in range(4):
        few = Smoothing(iterations, 0.4)
        whole = few(vit.slide(tokens), guides)[0].double()
        rows, columns = (pixels - vit.config.radius - few.halo).T
        torch.testing.assert_close(found[iterations], whole[:, rows, columns].T, rtol=1e-4, atol=1e-5)


def test_of_equally_likely_numbers_of_iterations_their_mean_is_chosen_less_a_fifth():
    scores, labels = drawn(60, 3.0)
    noise = torch.randn(scores.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    worse = scores + 3 * noise
    assert choose(torch.stack([worse, scores, scores, scores]), labels).iterations == 2
    assert choose(torch.stack([scores, scores, scores, worse]), labels).iterations == 1
    assert choose(torch.stack([scores] * 11), labels).iterations == 4
    assert choose(torch.stack([worse] * 10 + [scores]), labels).iterations == 8
