"""What a training chooses by itself: how many components, and which members."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spectraldiff.data.scene import LabelledScene
from spectraldiff.models.presets import FAST, PAPER
from spectraldiff.models.settings import Member, replaced
from spectraldiff.splits.hold_out import groups_of
from spectraldiff.training.compute import Compute
from spectraldiff.training.request import Request
from spectraldiff.training.run_folder import create_run
from spectraldiff.training.run_model import load_model
from spectraldiff.training.trainer import Training


def test_components_follow_the_training_pixels() -> None:
    few, many = FAST.components.least, FAST.components.most
    assert [FAST.wanted_components(n) for n in (20, few, few + 1, many, 10_000)] == [few, few, few + 1, many, many]
    assert FAST.changed(features="raw").wanted_components(10_000) == FAST.components.bands
    assert FAST.changed(components=30).wanted_components(10_000) == 30
    assert PAPER.wanted_components(20) == PAPER.wanted_components(20, disjoint=True) == PAPER.components.most


def test_components_follow_the_groups_where_the_split_is_spatially_disjoint() -> None:
    least, few, many = FAST.components.disjoint_least, FAST.components.least, FAST.components.most
    assert least < few
    found = [FAST.wanted_components(n, disjoint=True) for n in (3, least + 1, few, many + 1)]
    assert found == [least, least + 1, few, many]
    raw = FAST.changed(features="raw")
    assert [raw.wanted_components(n, disjoint=True) for n in (3, 50, 10_000)] == [least, 50, raw.components.bands]
    assert FAST.changed(components=10).wanted_components(50, disjoint=True) == 10


def test_a_training_takes_as_many_components_as_pixels(
    tiny_request: Request, tiny_scene: LabelledScene, tmp_path: Path
) -> None:
    """Within the preset's bounds."""
    wanted = replaced(tiny_request.preset, components={"least": 2, "most": 12}).changed(diffusion_steps=1, epochs=1)
    split = replace(tiny_request, split="per-class:2").make_split(tiny_scene)
    assert 2 < split.train.sum() < 12
    training = Training(create_run(tmp_path / "run"), tiny_scene, split, wanted, 0, Compute())
    model = training.train_classifier(wanted, training.train_denoiser()).model
    assert model.pca_components.shape[0] == split.train.sum()


def test_a_training_on_a_spatially_disjoint_split_takes_as_many_components_as_groups(
    tiny_request: Request, tiny_scene: LabelledScene, tmp_path: Path
) -> None:
    wanted = replaced(tiny_request.preset, components={"disjoint_least": 1, "most": 12}).changed(
        diffusion_steps=1, epochs=1
    )
    train = np.zeros(tiny_scene.labels.shape, np.bool_)
    for value in (1, 2, 3, 4):  # a patch of each class
        row, column = np.argwhere(tiny_scene.labels == value)[0]
        train[row : row + 2, column : column + 2] = tiny_scene.labels[row : row + 2, column : column + 2] == value
    split = replace(tiny_request.make_split(tiny_scene), train=train, leakage=0.0)
    assert split.spatially_disjoint
    training = Training(create_run(tmp_path / "run"), tiny_scene, split, wanted, 0, Compute())
    model = training.train_classifier(wanted, None).model
    assert model.pca_components.shape[0] == len(np.unique(groups_of((tiny_scene,), (split,))))


def test_spatially_disjoint_splits_may_have_attention_members_that_read_bands_alone(
    tiny_request: Request, tiny_scene: LabelledScene, tmp_path: Path
) -> None:
    """They are part of the model in the run folder."""
    members = (*tiny_request.preset.classifier.members, Member(9, "bands", disjoint_only=True))
    preset = replaced(tiny_request.preset.changed(diffusion_steps=1, epochs=1), classifier={"members": members})
    request = replace(tiny_request, preset=preset, split="disjoint")
    run = create_run(tmp_path / "run")
    training = Training(run, tiny_scene, request.make_split(tiny_scene), preset, 0, Compute())
    training.finish()
    model, _ = load_model(run)
    shape = model.vit.config
    assert shape.members == preset.classifier.members
    assert [member.source for member in shape.members] == ["features"] * 3 + ["bands"]
    assert 0 < shape.band_components <= preset.components.bands
    bands = len(model.fill)
    assert not model.pca_components[-shape.band_components :, :-bands].any()
    predicted, _ = model.predict(tiny_scene)
    test = training.splits[0].test
    oa = float((predicted == tiny_scene.labels)[test].mean())
    assert oa == pytest.approx(run.read_json("metrics.json")["accuracy"]["oa"])
    raw = training.train_classifier(preset.changed(features="raw"), None).model
    assert raw.vit.config.band_components == 0
    assert len(raw.vit.config.members) == len(shape.members)  # as much effort


def test_components_in_which_classes_do_not_differ_are_left_out(
    tiny_request: Request, tiny_scene: LabelledScene, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).normal(
        tiny_scene.cube.mean(), tiny_scene.cube.std(), (*tiny_scene.labels.shape, 200)
    )
    scene = replace(tiny_scene, cube=np.concatenate([tiny_scene.cube, noise], 2).astype(np.float32), wavelengths=None)
    preset = replaced(tiny_request.preset.changed(features="raw", epochs=1), components={"bands": 200})
    kept = []
    for wanted in (False, True):
        run = create_run(tmp_path / f"run-{wanted}")
        training = Training(run, scene, tiny_request.make_split(scene), preset, 0, Compute())
        model = training.train_classifier(replaced(preset, components={"discriminative": wanted}), None).model
        kept.append(len(model.pca_components))
        assert model.vit.config.components == kept[-1]
        assert model.predict(scene)[0].min() > 0
    assert kept[0] == 200
    assert 1 <= kept[1] < 60
