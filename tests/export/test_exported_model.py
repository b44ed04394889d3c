"""Scenes of a training mapped by the exported graph: the same map as by PyTorch."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

import spectraldiff as sd
from spectraldiff.models.classifier import predict_scene
from spectraldiff.training.run_model import load_model
from spectraldiff_export import exported_model as module
from spectraldiff_export.exported_model import opened_export
from spectraldiff_runtime.window import Window


@pytest.fixture
def classifier(tiny_run):
    return load_model(tiny_run)[0].eval()


def test_the_export_maps_a_scene_as_pytorch_does(classifier, tiny_scene):
    """Also with a hole, under another prior, and where pixels without any wanted one are left out."""
    missing = np.zeros(tiny_scene.labels.shape, bool)
    missing[3:9, 2:7] = True
    scene = replace(tiny_scene, missing=missing, labels=np.where(missing, 0, tiny_scene.labels))
    offset = torch.linspace(-2, 2, classifier.classes, dtype=torch.float64)
    wanted = np.zeros(scene.labels.shape, bool)
    wanted[-1, -1] = True
    for chosen in (None, wanted):
        expected = predict_scene(classifier, scene, offset, wanted=chosen)
        with opened_export(classifier, scene) as model:
            found = predict_scene(replace(model, side=16), scene, offset, wanted=chosen)
            whole = predict_scene(model, scene, offset)
        if chosen is None:
            np.testing.assert_array_equal(found.classes, expected.classes)
            np.testing.assert_array_equal(found.other, expected.other)
            np.testing.assert_allclose(found.confidence, expected.confidence, atol=1e-4)
            assert (found.classes != found.other).any()
            assert (found.classes[missing] == 0).all()
            assert (found.outside is None) == (expected.outside is None)
            if found.outside is not None:
                assert np.abs(found.outside.astype(int) - expected.outside).max() <= 1
        else:
            assert 0 < (found.classes > 0).sum() < found.classes.size
            seen = found.classes > 0
            np.testing.assert_array_equal(found.classes[seen], whole.classes[seen])


def test_a_window_may_have_any_size(classifier, tiny_scene):
    offset = torch.zeros(classifier.classes)
    with opened_export(classifier, tiny_scene) as model:
        found = model.predict_window(tiny_scene, Window(1, 4, 2, 9), offset)
    expected = classifier.predict_window(tiny_scene, Window(1, 4, 2, 9), offset)
    np.testing.assert_array_equal(found.classes, expected.classes)
    assert found.classes.shape == (3, 7)


@pytest.mark.training
def test_a_large_scene_is_mapped_by_the_export(tiny_files, tmp_path, monkeypatch):
    """The figures of a training are the same by the export, and small scenes do without it."""
    opened, original = [], module.opened_export

    @contextmanager
    def watched(classifier, scene):
        opened.append(scene.name)
        with original(classifier, scene) as model:
            yield model

    monkeypatch.setattr(module, "opened_export", watched)
    scene = sd.open_labelled(*tiny_files[:2])
    accuracies = []
    for least in (10**9, 1):
        monkeypatch.setattr("spectraldiff.training.trainer.EXPORTED_FROM", least)
        run = sd.train(
            scene, split="per-class:10", diffusion_steps=2, epochs=1, threads=1, run=tmp_path / f"run{least}",
            progress=False,
        )  # fmt: skip
        accuracies.append(run.metrics["accuracy"])
    assert len(opened) == 1
    assert accuracies[0] == accuracies[1]
