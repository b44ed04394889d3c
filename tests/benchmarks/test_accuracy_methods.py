"""The methods of the comparison: each learns an easy scene, and its parts do what the papers say."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.accuracy import classical, deep, graphs, networks, ours
from benchmarks.accuracy.methods import PRODUCT, TITLES, method_named
from benchmarks.accuracy.problem import Context, Problem
from benchmarks.accuracy.run import problem_of
from spectraldiff.accuracy.metrics import score
from spectraldiff.data.scene import LabelledScene
from spectraldiff.models.presets import FAST, Preset
from spectraldiff.training.request import Request
from spectraldiff.training.run_model import load_model
from spectraldiff.training.trainer import Training
from spectraldiff_runtime.errors import RunError


def request(split: str, seed: int) -> Request:
    return Request(FAST, split, seed, compare_raw=False)


@pytest.fixture
def problem(tiny_scene: LabelledScene) -> Problem:
    return problem_of(tiny_scene, request("per-class:10", 0))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the trainings down to seconds."""
    recipes = {name: replace(r, epochs=12, batch=16, lr=4e-3) for name, r in deep.RECIPES.items()}
    recipes["spectralformer"] = replace(recipes["spectralformer"], epochs=30)
    monkeypatch.setattr(deep, "RECIPES", recipes)
    monkeypatch.setattr(classical, "GAMMAS", (0.125, 1.0))
    monkeypatch.setattr(classical, "COSTS", (1.0, 100.0))


@pytest.fixture
def brief(tiny_preset: Preset) -> Preset:
    """A preset that trains hardly at all: for what does not depend on how good the result is."""
    return tiny_preset.changed(diffusion_steps=5, epochs=3)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", TITLES)
def test_every_method_learns_an_easy_scene(name: str, problem: Problem, tiny_preset: Preset, tmp_path: Path) -> None:
    stages: set[str] = set()
    context = Context(tmp_path, report=lambda stage, done, total: stages.add(stage))
    outcome = method_named(name, tiny_preset, 12).fit(problem, context)
    accuracy = score(np.where(problem.split.test, problem.scene.labels, 0), outcome.map, 4)
    assert accuracy.oa > 0.8  # chance is 0.25
    assert outcome.map.dtype == problem.scene.labels.dtype
    assert outcome.train_seconds > 0
    assert outcome.map_seconds > 0
    assert "mapping" in stages


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", ["rf", "minigcn", "spectralformer"])
def test_a_seed_gives_the_same_map_again(
    name: str, problem: Problem, tiny_preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deep, "RECIPES", {n: replace(r, epochs=2) for n, r in deep.RECIPES.items()})
    fit = method_named(name, tiny_preset, 12).fit
    first = fit(problem, Context(tmp_path)).map
    torch.rand(3)  # what others draw does not matter
    assert np.array_equal(first, fit(problem, Context(tmp_path)).map)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", ["knn", "cnn2d", "minigcn"])
def test_pixels_without_data_get_no_class(
    name: str, tiny_scene: LabelledScene, tiny_preset: Preset, tmp_path: Path
) -> None:
    cube = tiny_scene.cube.astype(np.float32)
    cube[3:5, 20:] = np.nan
    problem = problem_of(replace(tiny_scene, cube=cube), request("per-class:10", 0))
    found = method_named(name, tiny_preset, 12).fit(problem, Context(tmp_path)).map
    assert np.array_equal(found == 0, np.isnan(cube[..., 0]))
    assert np.isfinite(problem.pixels).all()


def test_bands_are_scaled_by_the_range_of_the_scene(problem: Problem) -> None:
    flat = problem.pixels.reshape(-1, 12)
    assert flat.min(0) == pytest.approx(0)
    assert flat.max(0) == pytest.approx(1)
    constant = replace(problem.scene, cube=np.full_like(problem.scene.cube, 7))
    assert np.array_equal(Problem(constant, problem.split).pixels, np.zeros((26, 31, 12), np.float32))


def test_bands_are_standardised_over_the_pixels_with_data(tiny_scene: LabelledScene, tmp_path: Path) -> None:
    cube = tiny_scene.cube.astype(np.float32)
    cube[3:5, 20:] = np.nan
    cube[..., 2] = 7
    problem = problem_of(replace(tiny_scene, cube=cube), request("per-class:10", 0))
    known = problem.standardised[problem.scene.valid]
    assert known.mean(0) == pytest.approx(0, abs=1e-4)
    assert known.std(0) == pytest.approx([0 if band == 2 else 1 for band in range(12)], abs=1e-4)
    assert np.abs(problem.standardised[~problem.scene.valid]).max() < 1e-4


def test_folds_spread_each_class_as_evenly_as_it_allows() -> None:
    labels = np.repeat([1, 2, 3], [53, 2, 10])
    fold = classical.folds(labels, 0)
    counts = [np.bincount(fold[labels == value], minlength=5) for value in (1, 2, 3)]
    assert [np.ptp(count) for count in counts] == [1, 1, 0]
    assert counts[1].max() == 1
    assert not np.array_equal(fold, classical.folds(labels, 1))


def test_svm_searches_the_papers_grids(problem: Problem) -> None:
    search = classical.svm(problem, 1)
    assert search.param_grid["gamma"] == (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16)
    assert search.param_grid["C"] == pytest.approx((0.01, 0.1, 1, 10, 100, 1000, 10_000))
    assert search.cv.get_n_splits() == 5
    assert classical.random_forest(problem, 1).get_params()["n_estimators"] == 200
    assert classical.random_forest(problem, 1).get_params()["criterion"] == "entropy"
    assert classical.knn(problem, 1).get_params()["n_neighbors"] == 5


@pytest.mark.parametrize("bands", [3, 4, 21, 48, 200])
@pytest.mark.parametrize("name", ["cnn1d", "cnn2d", "cnn3d", "spectralformer"])
def test_networks_take_any_number_of_bands(name: str, bands: int) -> None:
    torch.manual_seed(0)
    window = deep.RECIPES[name].window
    network = deep.NETWORKS[name](bands, 5)
    scores = network(torch.rand(2, window, window, bands))
    assert scores.shape == (2, 5)
    scores.sum().backward()
    unused = [n for n, p in network.named_parameters() if p.grad is None]
    assert unused == []


def filters(network: nn.Module, kind: type[nn.Module]) -> list[tuple[int, tuple[int, ...]]]:
    return [(m.out_channels, tuple(m.kernel_size)) for m in network.modules() if isinstance(m, kind)]


def test_cnns_have_the_papers_filters() -> None:
    assert filters(networks.PlaneCNN(200, 16), nn.Conv2d) == [(8, (3, 3)), (16, (3, 3)), (32, (3, 3))]
    assert filters(networks.VolumeCNN(200, 16), nn.Conv3d) == [(8, (3, 3, 3)), (16, (3, 3, 3)), (32, (3, 3, 3))]


def test_groups_are_a_band_and_its_neighbours() -> None:
    bands = torch.arange(5.0)[None, :, None] * torch.tensor([1.0, 10.0])  # (1, 5, 2)
    groups = networks.grouped(bands, 3)
    wanted = [[1, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 3]]
    assert groups.shape == (1, 5, 6)
    assert groups[0, :, ::2].tolist() == wanted
    assert groups[0, :, 1::2].tolist() == [[10 * v for v in row] for row in wanted]


def test_fusion_begins_as_a_plain_transformer_and_then_reads_the_layer_before() -> None:
    torch.manual_seed(1)
    network = networks.SpectralFormer(6, 3).eval()
    windows = torch.rand(2, 7, 7, 6)
    with torch.no_grad():
        plain = network(windows)
        tokens = network.embed(networks.grouped(windows.flatten(1, 2).transpose(1, 2), 3))
        x = torch.cat([network.cls.expand(2, -1, -1), tokens], 1) + network.position
        for block in network.blocks:
            x = block(x)
        assert torch.allclose(plain, network.head(x[:, 0]), atol=1e-6)
        network.mix[1, 1] = 0.5
        assert not torch.allclose(plain, network(windows), atol=1e-4)


def test_similarities_equal_the_slow_ones() -> None:
    rng = np.random.default_rng(0)
    spectra = rng.random((30, 4), dtype=np.float32)
    distances = np.linalg.norm(spectra[:, None].astype(float) - spectra[None], axis=2)
    near = [set(np.argsort(row, kind="stable")[1:11]) for row in distances]
    width = np.mean([distances[i, j] ** 2 for i in range(30) for j in near[i]])
    found = graphs.similarities(spectra, 100).toarray()
    for i in range(30):
        for j in range(30):
            linked = j in near[i] or i in near[j]
            wanted = np.exp(-(distances[i, j] ** 2) / width) if linked else 0.0
            assert found[i, j] == pytest.approx(wanted, abs=1e-5)


def test_graphs_of_parts_are_apart() -> None:
    spectra = np.random.default_rng(0).random((25, 4), dtype=np.float32)
    whole = graphs.similarities(spectra, 10).toarray()
    assert np.array_equal(whole[:10, :10], graphs.similarities(spectra[:10], 10).toarray())
    assert not whole[:10, 10:].any()
    assert graphs.similarities(spectra[:1], 10).toarray().tolist() == [[0.0]]
    same = graphs.similarities(np.ones((3, 4), np.float32), 10).toarray()
    assert np.array_equal(same, 1 - np.eye(3))


def test_normalised_adjacency() -> None:
    adjacency = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]], np.float32)
    assert graphs.normalised(adjacency) == pytest.approx(np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]))


def test_windows_are_those_around_the_pixels(problem: Problem, tmp_path: Path) -> None:
    recipe = replace(deep.RECIPES["cnn2d"], window=5)
    mask = problem.split.train
    (windows,) = deep.window_inputs(problem, mask, recipe, Context(tmp_path))(torch.arange(int(mask.sum())))
    mirrored = np.pad(problem.standardised, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    for window, (row, column) in zip(windows.numpy(), np.argwhere(mask), strict=True):
        assert np.array_equal(window, mirrored[row : row + 5, column : column + 5])


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return a list that gets (stage title, total) whenever a network of the pipeline takes its first step."""
    steps: list[tuple[str, int]] = []
    progress: Callable[..., None] = ours._Progress.progress

    def noted(self: ours._Progress, done: int, total: int, loss: float | None = None) -> None:
        if loss is not None and done == 1:
            steps.append((self.title, total))
        progress(self, done, total, loss)

    monkeypatch.setattr(ours._Progress, "progress", noted)
    return steps


def test_the_default_and_the_cells_of_the_grid_share_a_denoiser(
    problem: Problem, brief: Preset, tmp_path: Path
) -> None:
    for name in ("spectraldiff", "layer0-t200", PRODUCT):
        method_named(name, brief, 12).fit(problem, Context(tmp_path))
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("denoiser")] == ["denoiser-seed0"]


def test_a_seed_trains_one_denoiser_for_all_cells(
    problem: Problem, brief: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = counted(monkeypatch)
    for name in ("spectraldiff", "layer0-t200", "layer1-t10"):
        method_named(name, brief, 12).fit(problem, Context(tmp_path))
    titles = [title for title, _ in steps]
    assert Counter(titles) == {"Denoiser": 1, "SpectralViT": 3} | {
        f"Calibration {number} of 5": 3 for number in range(1, 6)
    }


def test_splits_of_a_scene_share_a_seeds_denoiser(
    problem: Problem, brief: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = counted(monkeypatch)
    for split, seed in (("per-class:10", 0), ("per-class:6", 0), ("per-class:6", 1)):
        other = problem_of(problem.scene, request(split, seed))
        context = Context(tmp_path / split.replace(":", "-"), denoisers=tmp_path / "denoisers")
        method_named("spectraldiff", brief, 12).fit(other, context)
    assert Counter(title for title, _ in steps)["Denoiser"] == 2
    assert sorted(p.name for p in (tmp_path / "denoisers").iterdir()) == ["denoiser-seed0", "denoiser-seed1"]


def test_a_shared_denoiser_gives_what_a_training_alone_gives(problem: Problem, brief: Preset, tmp_path: Path) -> None:
    cell = method_named("layer0-t200", brief, 12)
    method_named("spectraldiff", brief, 12).fit(problem, Context(tmp_path))
    shared = cell.fit(problem, Context(tmp_path)).map
    alone = ours.RunFolder(tmp_path / "alone")
    alone.path.mkdir()
    preset = brief.changed(layer=0, timestep=200)
    Training(alone, problem.scene, problem.split, preset, 0, Context(tmp_path).compute).finish()
    assert np.array_equal(shared, load_model(alone)[0].predict(problem.scene)[0])


def test_a_stopped_training_goes_on(
    problem: Problem, brief: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage.startswith("Calibration 3") and done == 3:
            raise KeyboardInterrupt

    method = method_named("spectraldiff", brief, 12)
    with pytest.raises(KeyboardInterrupt):
        method.fit(problem, Context(tmp_path / "cut", report=stop))
    steps = counted(monkeypatch)
    resumed = method.fit(problem, Context(tmp_path / "cut")).map
    assert [title for title, _ in steps] == ["Calibration 4 of 5", "Calibration 5 of 5", "SpectralViT"]
    assert np.array_equal(resumed, method.fit(problem, Context(tmp_path / "whole")).map)


def test_a_run_folder_of_other_settings_is_refused(problem: Problem, brief: Preset, tmp_path: Path) -> None:
    method_named("raw", brief, 12).fit(problem, Context(tmp_path))
    other = method_named("raw", brief.changed(epochs=2), 12)
    with pytest.raises(RunError, match="was made with preset"):
        other.fit(problem, Context(tmp_path))
