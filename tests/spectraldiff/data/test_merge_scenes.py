"""Several scenes in one training: classes by name, one normaliser, one PCA, one classifier."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from spectraldiff.accuracy.metrics import score
from spectraldiff.data.merge_scenes import alike, differing_bands, with_common_classes
from spectraldiff.data.scene import LabelledScene
from spectraldiff.data.source import SceneFiles
from spectraldiff.ensemble.calibration import too_few
from spectraldiff.models.normaliser import common_normaliser, normaliser_of
from spectraldiff.splits.draw import Geometry, make_splits
from spectraldiff.splits.label_counts import count_labels, doubts
from spectraldiff.training.compute import Compute
from spectraldiff.training.data_digest import check_unchanged, data_digests
from spectraldiff.training.fit_classifier import ClassifierFit
from spectraldiff.training.request import Request
from spectraldiff.training.run_folder import create_run, write_pixels
from spectraldiff.training.run_model import load_model
from spectraldiff.training.trainer import Training
from spectraldiff.training.training_data import sample_tiles
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import LabelsError, RunError, SceneError


def part(scene: LabelledScene, rows: slice, columns: slice, name: str) -> LabelledScene:
    return replace(scene, name=name, cube=scene.cube[rows, columns], labels=scene.labels[rows, columns])


@pytest.fixture
def halves(tiny_scene: LabelledScene) -> tuple[LabelledScene, LabelledScene]:
    """The tiny scene's left and right part, of different sizes."""
    return (
        part(tiny_scene, slice(None), slice(0, 18), "left"),
        part(tiny_scene, slice(2, None), slice(18, None), "right"),
    )


def test_classes_are_matched_by_name(tiny_scene: LabelledScene) -> None:
    def scene(names: list[str], labels: list[int]) -> LabelledScene:
        classes = tuple(LandCoverClass(i, n, (i, 9, 9)) for i, n in enumerate(names, start=1))
        return LabelledScene("s", np.ones((1, len(labels), 2), np.uint8), np.array([labels], np.uint8), classes)

    first, second = with_common_classes([scene(["oats", "rye"], [1, 2, 0]), scene(["rye", "bog", "oats"], [1, 2, 3])])
    assert [(c.value, c.name) for c in first.classes] == [(1, "oats"), (2, "rye"), (3, "bog")]
    assert first.classes == second.classes
    assert first.labels.tolist() == [[1, 2, 0]]
    assert second.labels.tolist() == [[2, 3, 1]]
    assert len({c.colour for c in first.classes}) == 3
    assert with_common_classes([tiny_scene])[0] is tiny_scene


def test_names_that_differ_in_case_only_are_said(
    tiny_request: Request, tiny_scene: LabelledScene, tmp_path: Path
) -> None:
    names = ("Corn", "corn", "Soy  bean", "soy bean")
    classes = tuple(replace(c, name=name) for c, name in zip(tiny_scene.classes, names, strict=True))
    files = tmp_path / "s.tif", tmp_path / "l.tif"
    replace(tiny_scene, classes=classes).write(files[0], labels=files[1])
    own = (SceneFiles(str(files[0]), (str(files[1]),)),)
    scenes = replace(tiny_request, scenes=own).load_scenes()
    said = [remark for remark in scenes[0].remarks if "differ in case or blanks" in remark]
    assert len(scenes[0].classes) == 4
    assert [line.partition(" are two")[0] for line in said] == ["'Corn' and 'corn'", "'Soy bean' and 'soy bean'"]
    assert not alike(tiny_scene.classes)


def test_scenes_of_different_bands_are_refused(tiny_scene: LabelledScene) -> None:
    fewer = replace(tiny_scene, name="b", cube=tiny_scene.cube[..., :5], wavelengths=None)
    with pytest.raises(
        SceneError, match="the scene 'b' has 5 bands and 'tiny' has 12: wanted scenes of the same bands"
    ):
        with_common_classes([tiny_scene, fewer])


def test_differing_band_centres_are_named(tiny_scene: LabelledScene) -> None:
    assert tiny_scene.wavelengths is not None
    other = replace(tiny_scene, name="b", wavelengths=tiny_scene.wavelengths + 7)
    assert "'b' and 'tiny' differ by up to 7.0 nm" in differing_bands([tiny_scene, other])
    assert not differing_bands([tiny_scene, replace(other, wavelengths=None), tiny_scene])


def test_the_normaliser_is_that_of_all_pixels_together(
    tiny_scene: LabelledScene, halves: tuple[LabelledScene, LabelledScene]
) -> None:
    cubes = [scene.cube.reshape(-1, 12).astype(np.float64) for scene in halves]
    normaliser, fill = common_normaliser(halves)
    pixels = np.concatenate(cubes)
    np.testing.assert_array_equal(normaliser.low, pixels.min(0))
    np.testing.assert_array_equal(normaliser.high, pixels.max(0))
    np.testing.assert_allclose(fill, pixels.mean(0), rtol=1e-6)
    (alone, mean), (own, own_mean) = common_normaliser([tiny_scene]), normaliser_of(tiny_scene)
    assert torch.equal(alone.low, own.low)
    assert torch.equal(mean, own_mean)


def test_samples_come_from_every_scene(halves: tuple[LabelledScene, LabelledScene]) -> None:
    scenes = [halves[0], replace(halves[1], cube=np.zeros_like(halves[1].cube))]
    splits = make_splits([scene.labels for scene in scenes], "per-class:10", 0, geometry=Geometry(window=5))
    tiles, labels = sample_tiles(scenes, splits, torch.zeros(12), 3)
    assert tiles.shape == (9, 12, 38, 38)
    assert [bool(tile.any()) for tile in tiles] == [True, False] * 4 + [True]
    assert labels.shape == (9, 32, 32)
    for index, found in enumerate(labels.numpy()):
        scene, split = scenes[index % 2], splits[index % 2]
        tests = np.where(split.test, scene.labels, 0)
        top, left = ((max(0, size - 32) * at // 2) for size, at in zip(tests.shape, divmod(index, 3), strict=True))
        wanted = tests[top : top + 32, left : left + 32]
        np.testing.assert_array_equal(found[: wanted.shape[0], : wanted.shape[1]], wanted)
        assert found.sum() == wanted.sum()  # what lies beyond the scene is 0


def test_training_on_two_scenes(
    halves: tuple[LabelledScene, LabelledScene], tiny_request: Request, tmp_path: Path
) -> None:
    """One model, scored on both, with the accuracy of each and all files of both."""
    splits = make_splits([s.labels for s in halves], "per-class:10", 0, geometry=Geometry(window=5))
    run = create_run(tmp_path / "run")
    write_pixels(run, halves, splits)
    preset = tiny_request.preset.changed(epochs=20)
    Training(run, halves, splits, preset, 0, Compute()).finish()
    model, facts = load_model(run)
    metrics = run.read_json("metrics.json")
    assert facts["name"] == "left + right"
    assert facts["accuracy"]["leakage"] == metrics["leakage"] > 0
    assert metrics["train_pixels"] == 40
    maps = [model.predict(scene)[0] for scene in halves]
    tests = [np.where(split.test, scene.labels, 0) for scene, split in zip(halves, splits, strict=True)]
    whole = score(np.concatenate([t.ravel() for t in tests]), np.concatenate([m.ravel() for m in maps]), 4)
    assert metrics["accuracy"] == whole.as_dict()
    assert whole.oa > 0.6
    for test, found, said in zip(tests, maps, metrics["scenes"], strict=True):
        own = score(test, found, 4)
        assert (said["oa"], said["kappa"], said["test_pixels"]) == (own.oa, own.kappa, own.pixels)
    assert [s["name"] for s in metrics["scenes"]] == ["left", "right"]
    names = {path.name for path in run.path.rglob("*.png")} | {path.name for path in run.path.glob("*.tif")}
    assert {"map_1.png", "map_2.png", "confusion.png", "train_pixels_1.tif", "test_pixels_2.tif"} <= names
    with rasterio.open(run.path / "test_pixels_2.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), tests[1])


def test_data_that_changed_are_named(halves: tuple[LabelledScene, LabelledScene]) -> None:
    left, right = halves
    splits = make_splits([s.labels for s in halves], "per-class:10", 0)
    begun = data_digests(halves, splits)
    check_unchanged(begun, data_digests([left, replace(right, cube=right.cube.copy(order="F"))], splits))
    other = right.cube.copy()
    other[0, 0, 0] += 1
    with pytest.raises(RunError, match=r"the scene 'right' \(scene 2\) changed since the run was begun"):
        check_unchanged(begun, data_digests([left, replace(right, cube=other)], splits))
    labels = left.labels.copy()
    labels[np.nonzero(labels)[0][0], np.nonzero(labels)[1][0]] = 0
    with pytest.raises(RunError, match=r"the labels of 'left' \(scene 1\) changed"):
        check_unchanged(begun, data_digests([replace(left, labels=labels), right], splits))
    with pytest.raises(RunError, match=r"the training pixels of 'left' \(scene 1\) changed"):
        check_unchanged(begun, data_digests(halves, make_splits([s.labels for s in halves], "per-class:10", 1)))
    with pytest.raises(RunError, match=r"the scene 'left' \(scene 1\) changed"):
        check_unchanged(begun, data_digests([left], splits[:1]))
    twins = [left, replace(right, name="left")]  # files of one name in two folders
    with pytest.raises(RunError, match=r"the scene 'left' \(scene 1\) changed"):
        check_unchanged(
            data_digests(twins, splits), data_digests([replace(left, cube=left.cube + 1), twins[1]], splits)
        )


def test_windows_of_the_second_scene_are_its_own(
    halves: tuple[LabelledScene, LabelledScene], tiny_request: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features around each training pixel, on the mosaic of both, are those that its scene has there."""
    splits = make_splits([s.labels for s in halves], "per-class:10", 0)
    preset = tiny_request.preset.changed(features="raw", epochs=1)
    seen = {}

    def watch(*args: object) -> None:
        seen["mosaic"], seen["pixels"], seen["labels"] = args[1:4]
        raise KeyboardInterrupt

    monkeypatch.setattr("spectraldiff.training.fit_classifier.ClassifierTask", watch)
    monkeypatch.setattr(ClassifierFit, "_held_out", lambda self, training_set: (too_few(0), None))
    training = Training(create_run(tmp_path / "run"), halves, splits, preset, 0, Compute())
    with pytest.raises(KeyboardInterrupt):
        training.train_classifier(preset, None)
    wanted = [scene.labels[split.train] for scene, split in zip(halves, splits, strict=True)]
    np.testing.assert_array_equal(seen["labels"] + 1, np.concatenate(wanted))
    centres = seen["mosaic"][tuple(seen["pixels"].T)]  # (n, P)
    spectra = torch.cat(
        [
            x.window(0, x.shape[1], 0, x.shape[2])[:, torch.from_numpy(s.train)]
            for x, s in zip(training.data.pixels, splits, strict=True)
        ],
        1,
    ).T
    mixed = torch.linalg.lstsq(torch.cat([spectra, torch.ones(len(spectra), 1)], 1), centres).solution
    torch.testing.assert_close(torch.cat([spectra, torch.ones(len(spectra), 1)], 1) @ mixed, centres, atol=1e-2, rtol=0)


def test_labels_are_counted_by_class_side_and_polygon(tiny_scene: LabelledScene) -> None:
    groups = np.where(tiny_scene.labels > 0, tiny_scene.labels, 0).astype(np.int32)
    groups[:, 28:] = np.where(tiny_scene.labels[:, 28:] > 0, 9, 0)
    cube = tiny_scene.cube.astype(np.float32)
    cube[:5] = np.nan
    scene = replace(tiny_scene, cube=cube, groups=groups)
    labels = np.where(scene.valid, scene.labels, 0)
    splits = make_splits([labels], "per-class:9", 0)
    counts = count_labels([scene], splits)
    assert [c.labelled for c in counts] == np.bincount(labels.ravel(), minlength=5)[1:].tolist()
    assert [c.training for c in counts] == [9] * 4
    assert [c.test for c in counts] == [c.labelled - 9 for c in counts]
    assert [c.polygons for c in counts] == [1, 1, 1, 1] or counts[0].polygons == 1
    lines = doubts(counts)
    assert "fewer than 10 training pixels" in lines[0]
    assert "Water (9)" in lines[0]
    assert "in one polygon only" in lines[1]
    assert not doubts(count_labels([tiny_scene], make_splits([tiny_scene.labels], "per-class:10", 0)))


def test_pairs_are_loaded_with_one_list_of_classes(
    tiny_request: Request, halves: tuple[LabelledScene, LabelledScene], tmp_path: Path
) -> None:
    paths = []
    for scene, keep in zip(halves, ((1, 3), (2, 2)), strict=True):
        own = replace(scene, labels=np.where(np.isin(scene.labels, keep), scene.labels, 0).astype(np.uint8))
        paths.append(SceneFiles(str(tmp_path / f"{scene.name}.tif"), (str(tmp_path / f"{scene.name}-labels.tif"),)))
        own.write(paths[-1].scene, labels=paths[-1].labels[0])
    request = replace(tiny_request, scenes=tuple(paths), split="fraction:0.2")
    assert Request.from_json(request.to_json()) == request
    scenes = request.load_scenes()
    assert [s.name for s in scenes] == ["left", "right"]
    assert scenes[0].classes == scenes[1].classes
    splits = request.make_splits(scenes)
    assert [s.train.shape for s in splits] == [s.labels.shape for s in scenes]
    assert splits[0].leakage is not None
    with pytest.raises(LabelsError, match="one class only"):
        replace(request, scenes=tuple(paths[1:])).load_scenes()
