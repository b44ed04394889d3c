"""Scenes that stay on disk: what is read of them by window is what whole scenes hold, and nothing is of their size."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

from spectraldiff.data import canvas as canvases
from spectraldiff.data import cube as cubes
from spectraldiff.data import label_ground, value_checks
from spectraldiff.data import scene as scenes
from spectraldiff.data.canvas import Marks
from spectraldiff.data.cube import SceneCube
from spectraldiff.data.label_vectors import LabelFields
from spectraldiff.data.scene import LabelledScene
from spectraldiff.data.source import SceneFiles
from spectraldiff.data.statistics import spread_blocks, statistics_of
from spectraldiff.models.classifier import Classifier
from spectraldiff.models.normaliser import NormalisedScene, common_normaliser, normaliser_of
from spectraldiff.models.presets import FAST, Preset
from spectraldiff.models.settings import replaced
from spectraldiff.splits.draw import make_splits
from spectraldiff.splits.split import Split
from spectraldiff.training import fit_classifier, session, trainer
from spectraldiff.training.compute import Compute
from spectraldiff.training.fit_classifier import ClassifierFit
from spectraldiff.training.monitor import Monitor
from spectraldiff.training.request import Request
from spectraldiff.training.run_folder import RunFolder
from spectraldiff.training.run_model import load_model
from spectraldiff.training.tasks import BlockPool
from spectraldiff.training.training_data import TrainingData, sample_tiles
from spectraldiff_runtime.errors import SceneError, UsageError
from spectraldiff_runtime.window import Window
from tests.spectraldiff.training.test_trainer import StopAfter

SIDE, FIELD = 900, 12
CORNERS = [(40, 30), (40, 70), (400, 850), (860, 10), (870, 880), (500, 840)]  # of fields, in turn of two classes


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have small scenes treated as large ones: on disk, with a canvas, with features round the labels alone."""
    monkeypatch.setattr(cubes, "HELD", 0)
    monkeypatch.setattr(fit_classifier, "WHOLE", 0)
    for module in (scenes, label_ground, trainer):
        monkeypatch.setattr(module, "LARGE", 100_000)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A scene of 900 x 900 pixels with nodata and NaN, and six fields at its edges and in its middle as polygons."""
    rng = np.random.default_rng(4)
    cube = (rng.random((SIDE, SIDE, 6)) + np.arange(6) / 3).astype(np.float32)
    cube[300:310, 20:60], cube[700, 700, 2] = -1, np.nan
    features = []
    for number, (row, column) in enumerate(CORNERS):
        cube[row - 9 : row + FIELD + 9, column - 9 : column + FIELD + 9] += np.linspace(0, number % 2 + 1, 6)
        x, y = 10.0 * column, -10.0 * row
        ring = [(x, y), (x + 10 * FIELD, y), (x + 10 * FIELD, y - 10 * FIELD), (x, y - 10 * FIELD), (x, y)]
        shape = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "properties": {"crop": "ab"[number % 2]}, "geometry": shape})
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32616"}}
    labels = tmp_path / "labels.geojson"
    labels.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    profile = {"driver": "GTiff", "tiled": True, "blockxsize": 128, "blockysize": 128, "crs": "EPSG:32616"}
    transform = rasterio.Affine(10, 0, 0, 0, -10, 0)
    with rasterio.open(
        tmp_path / "scene.tif", "w", height=SIDE, width=SIDE, count=6, dtype="float32", nodata=-1, transform=transform,
        **profile,
    ) as raster:  # fmt: skip
        raster.write(cube.transpose(2, 0, 1))
    return tmp_path / "scene.tif", labels


def opened(files: tuple[Path, Path]) -> LabelledScene:
    return LabelledScene.from_files(*files, fields=LabelFields("crop"))


def on_scene(scene: LabelledScene, values: np.ndarray) -> np.ndarray:
    """Return an array of the canvas as one of the scene, 0 elsewhere."""
    return scene.labels_in(Window(0, SIDE, 0, SIDE), values)


def test_an_opened_scene_is_the_one_that_is_read_whole(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch):
    whole = opened(files)
    assert isinstance(whole.cube, np.ndarray)
    assert whole.canvas is None
    monkeypatch.setattr(cubes, "HELD", 0)
    monkeypatch.setattr(scenes, "LARGE", 100_000)
    monkeypatch.setattr(label_ground, "LARGE", 100_000)
    scene = opened(files)
    assert isinstance(scene.cube, SceneCube)
    assert scene.canvas is not None
    assert scene.labels.size < SIDE * SIDE / 2
    np.testing.assert_array_equal(on_scene(scene, scene.labels), whole.labels)
    np.testing.assert_array_equal(on_scene(scene, scene.groups), whole.groups)
    labelled = on_scene(scene, np.ones_like(scene.labels)) > 0
    np.testing.assert_array_equal(on_scene(scene, scene.valid)[labelled], whole.valid[labelled])
    for window in (Window(0, 5, 0, 5), Window(290, 330, 10, 70), Window(880, 900, 100, 900)):
        for found, wanted in zip(scene.read(window), whole.read(window), strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_one_pass_finds_what_the_whole_scene_holds(large: None, files: tuple[Path, Path]):
    scene = opened(files)
    with rasterio.open(files[0]) as raster:
        cube = raster.read().transpose(1, 2, 0)
    valid = (np.isfinite(cube) & (cube != -1)).all(axis=-1)
    found = statistics_of(scene)
    assert found.pixels == valid.sum()
    assert found.blocks.sum() == valid.sum()
    assert found.blocks[4, 0] == valid[256:320, :64].sum()
    np.testing.assert_array_equal(found.low, cube[valid].min(0))
    np.testing.assert_array_equal(found.high, cube[valid].max(0))
    np.testing.assert_allclose(found.mean, cube[valid].astype(np.float64).mean(0), rtol=1e-12)
    sample = {row.tobytes() for row in cube[valid]}
    assert 10_000 < len(found.sample) <= 20_000
    assert all(row.tobytes() in sample for row in found.sample)
    assert statistics_of(replace(scene, remarks=("said",))) is found  # the file is not read again
    picture, known, step = found.look
    assert picture.shape == (900, 900, 3)
    assert step == 1
    np.testing.assert_array_equal(known, valid)


def test_values_that_stand_out_are_counted_on_disk_as_in_memory(files: tuple[Path, Path], monkeypatch: Any):
    with rasterio.open(files[0], "r+") as raster:
        cube = raster.read()
        cube[:, 5:9, 5:9], cube[3, 500, 600:603] = -9, 1e6
        raster.write(cube)
    wanted = value_checks.value_doubts(opened(files))
    assert [line.split()[0] for line in wanted] == ["16", "3"]
    monkeypatch.setattr(cubes, "HELD", 0)
    assert [line.split("(usual")[0] for line in value_checks.value_doubts(opened(files))] == [
        line.split("(usual")[0] for line in wanted
    ]


def test_means_of_integers_are_those_of_whole_scenes(tiny_scene: LabelledScene):
    pixels = tiny_scene.cube[tiny_scene.valid].astype(np.float64)
    _, mean = normaliser_of(tiny_scene)
    assert torch.equal(mean, torch.from_numpy(pixels.mean(0)).float())


def data_of(scene: LabelledScene, train: np.ndarray) -> TrainingData:
    split = Split("x", 0, train, np.zeros_like(train))
    return TrainingData.of((scene,), (split,), torch.device("cpu"))


@pytest.fixture
def wide_preset(tiny_preset: Preset) -> Preset:
    """The linear members with the widest context, and smoothing as far as in the default preset."""
    return replaced(
        tiny_preset,
        diffusion={"steps": 3},
        components={"discriminative": False},
        classifier={"linear": FAST.classifier.linear, "epochs": 2},
        smoothing={"iterations": 12},
    )


def test_features_round_the_labels_are_those_of_the_whole_scene(
    files: tuple[Path, Path], wide_preset: Preset, monkeypatch: pytest.MonkeyPatch
):
    """All that members read at the training pixels, also at the scene's edges and round missing pixels."""
    whole = opened(files)
    train = (whole.labels > 0) & (np.add.outer(np.arange(SIDE), np.arange(SIDE)) % 7 == 0)
    train[400, 850] = True
    found = {}
    for name, most in (("whole", 2**40), ("part", 0)):
        monkeypatch.setattr(fit_classifier, "WHOLE", most)
        data = data_of(whole, train & whole.valid)
        fit = ClassifierFit(data, wide_preset, 0, Compute(), Monitor(), lambda *_: None, {})
        denoiser = None
        found[name] = fit.training_set(wide_preset.changed(features="raw"), denoiser)
    first, second = found["whole"], found["part"]
    assert isinstance(first.mosaic, torch.Tensor)
    assert not isinstance(second.mosaic, torch.Tensor)
    assert len(second.mosaic.tiles) * 32**2 < 0.5 * SIDE**2  # type: ignore[attr-defined]
    assert first.rim == second.rim == 34
    weights = [torch.linalg.pinv(one.pca.components) for one in (first, second)]
    for (row, column), (row2, column2) in zip(first.pixels.tolist(), second.pixels.tolist(), strict=True):
        rows, columns = ((slice(a - 34, a + 35), slice(b - 34, b + 35)) for a, b in ((row, column), (row2, column2)))
        wanted, got = first.mosaic[rows], second.mosaic[columns]
        # back to the bands: both PCAs keep all of them
        bands = [
            one @ weight.T + s.pca.mean for one, weight, s in zip((wanted, got), weights, found.values(), strict=True)
        ]
        torch.testing.assert_close(bands[0], bands[1], atol=2e-5, rtol=0)


def test_tiles_in_a_file_are_those_in_memory(tmp_path: Path):
    from spectraldiff.ensemble.mosaic import FEATURES, TILE, Layout, TileMosaic

    layout, tiles = Layout(((70, 90), (20, 30)), 32, 32), torch.tensor([[1, 1], [2, 3], [6, 2]])
    values = torch.rand(3, TILE, TILE, 5)
    held, filed = TileMosaic(layout, tiles, 5), TileMosaic(layout, tiles, 5, tmp_path, 1000)
    for number in range(3):
        held.write(number, values[number])
        filed.write(number, values[number])
    assert (tmp_path / FEATURES).stat().st_size == 4 * 4 * TILE**2 * 5
    at = torch.tensor([[40, 40], [70, 100], [0, 0], [200, 70]])
    for mosaic in (held, filed):
        assert torch.equal(mosaic[at[:, 0], at[:, 1]][:2], torch.stack([values[0][8, 8], values[1][6, 4]]))
        assert not mosaic[at[2:3, 0], at[2:3, 1]].any()
        assert torch.equal(mosaic[40:70, 40:50][:24, :], values[0][8:, 8:18])
        mosaic.select(torch.tensor([1, 4]))
        assert mosaic.shape == (32 + 96 + 64 + 32 + 32, 96 + 64, 2)
        assert torch.equal(mosaic[at[:, 0], at[:, 1]][3], values[2][8, 6][[1, 4]])
    assert layout.tops == [32, 192, 288]
    assert layout.on_scene(slice(190, 200), slice(30, 60)) == (1, (-2, 8, -2, 28))
    assert layout.on_scene(slice(120, 150), slice(30, 60)) == (0, (88, 118, -2, 28))


def test_instances_of_a_scene_on_disk_depend_on_seed_and_step_alone(large: None, files: tuple[Path, Path]):
    scene = opened(files)
    normaliser, fill = common_normaliser([scene])
    pixels = NormalisedScene(scene, normaliser, fill)
    with ThreadPoolExecutor(1) as reader:
        pools = [BlockPool(pixels, 64**2 * 6 * 4 * 20, seed, reader) for seed in (3, 3, 4)]
        where = [
            [[tuple(block.scene.cube[0, 0]) for block in pool.at(step)] for step in (0, 199, 200, 5)] for pool in pools
        ]
        for pool in pools:
            pool.close()
    assert where[0] == where[1] != where[2]
    assert where[0][0] == where[0][1] == where[0][3]
    assert not set(where[0][0]) & set(where[0][2])
    assert len(where[0][0]) == 20
    with rasterio.open(files[0]) as raster:
        cube = raster.read().transpose(1, 2, 0)
    wanted = normaliser(torch.from_numpy(cube[100:110, 200:210]).permute(2, 0, 1)[None])[0]
    assert torch.equal(pixels.window(100, 110, 200, 210), wanted)


def test_blocks_are_spread_over_scenes_and_hold_data(large: None, files: tuple[Path, Path]):
    scene = opened(files)
    found = spread_blocks([scene], 25)
    assert len(found) == len(set(found)) == 25
    rows, columns = (sorted(getattr(window, edge) for _, window in found) for edge in ("row0", "col0"))
    for edges in (rows, columns):
        assert np.abs(np.quantile(edges, [0.25, 0.5, 0.75]) - [210, 420, 630]).max() < 130
    assert {(w.height, w.width) for _, w in found} == {(64, 64)}
    assert not {w for _, w in spread_blocks([scene], 25, 1)} & {w for _, w in found}


@pytest.mark.training
@pytest.mark.parametrize("split", ["per-class:60", "folds"])
def test_a_training_on_a_scene_on_disk_goes_on_exactly(
    large: None, files: tuple[Path, Path], tiny_preset: Preset, tmp_path: Path, split: str
):
    classifier = {"linear": FAST.classifier.linear[:2], "epochs": 3}
    preset = replaced(tiny_preset, diffusion={"steps": 3}, classifier=classifier)
    own: dict[str, Any] = {"scenes": (SceneFiles(str(files[0]), (str(files[1]),)),), "field": "crop"}
    request = Request(preset, split, 0, compare_raw=False, split_by="pixel", **own)
    folder, result = session.train(request, session.RunPlace(tmp_path / "run", threads=1), Monitor())
    assert result.found.accuracy.oa > 0.9
    assert "`sdiff map` maps all of it" in "".join(folder.read_json("metrics.json")["notes"])
    with rasterio.open(tmp_path / "run" / "train_pixels.tif") as raster:
        train = raster.read(1)
    scene = opened(files)
    assert (train > 0).sum() == folder.read_json("metrics.json")["train_pixels"]
    assert not (train[on_scene(scene, scene.labels) == 0] > 0).any()
    stop = StopAfter("Calibration 1", 2)
    with pytest.raises(KeyboardInterrupt):
        session.train(request, session.RunPlace(tmp_path / "again", threads=1), stop)
    unfinished, asked = session.reopen(tmp_path / "again")
    session.train(asked, session.RunPlace(unfinished=unfinished), Monitor())
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "again")]
    assert models[0] == models[1]
    assert not list(tmp_path.glob("*/features.partial"))
    check_predictions(load_model(RunFolder(tmp_path / "run"))[0], scene, files)


def check_predictions(model: Classifier, scene: LabelledScene, files: tuple[Path, Path]) -> None:
    """Classes at labelled pixels, and tiles for the export, are those of the whole scene."""
    wanted = on_scene(scene, np.ones_like(scene.labels)) > 0
    found = on_scene(scene, model.predict(scene)[0])
    with pytest.MonkeyPatch.context() as patch:
        for module in (scenes, label_ground):
            patch.setattr(module, "LARGE", 10**9)
        patch.setattr(cubes, "HELD", 10**9)
        whole = opened(files)
        for row, column in CORNERS:
            window = Window(row, row + FIELD, column, column + FIELD)
            layers = model.predict_window(whole, window, torch.zeros(2))
            good = whole.read(window)[1]
            part = found[row : row + FIELD, column : column + FIELD]
            np.testing.assert_array_equal(part, np.where(good, layers.classes, 0))
    assert not found[~wanted].any()
    split = Split("x", 0, scene.labels > 0, scene.labels > 0)
    tiles, labels = sample_tiles([scene], [split], model.fill, model.halo)
    assert tiles.shape[2] == 2 * model.halo + 32
    assert labels.any()


def test_canvas_keeps_what_is_near_and_drops_the_rest():
    marks = Marks((2000, 3000))
    marks.add_boxes(
        np.array([[10.0, 20, 12, 22], [100, 30, 101, 31], [2990, 1990, 2999, 1999], [1500, 900, 1501, 901]])
    )
    canvas = marks.canvas()
    assert canvas is not None
    assert canvas.parts[0][0] == Window(0, 128, 0, 192)
    assert len(canvas.parts) == 3
    pixels = np.array([[20, 10], [31, 101], [1999, 2999], [900, 1500]])
    places, inside = canvas.located(pixels)
    assert inside.all()
    np.testing.assert_array_equal(canvas.on_scene(places), pixels)
    assert not canvas.located(np.array([[1000, 100]]))[1].any()
    values = np.arange(6_000_000).reshape(2000, 3000)
    np.testing.assert_array_equal(canvas.gathered(values)[tuple(places.T)], values[tuple(pixels.T)])
    near = np.abs(places[:, None] - places[None]).max(2)
    far = np.abs(pixels[:, None] - pixels[None]).max(2)
    assert ((near == far) | (far >= 3 * canvases.BLOCK) & (near >= canvases.BLOCK)).all()


def test_a_canvas_as_large_as_the_scene_is_none():
    marks = Marks((640, 640))
    marks.add_labels(np.ones((640, 640)))
    assert marks.canvas() is None


def test_too_little_memory_is_refused_before_anything_is_read(sdiff: Callable[..., tuple[int, str, str]]):
    code, _, err = sdiff("train", "no.tif", "--labels", "no.gpkg", "--max-memory", "500MB")
    assert (code, err) == (2, "sdiff: error: --max-memory 500MB does not hold a training: give at least 1500MB\n")
    assert sdiff("train", "no.tif", "--labels", "no.gpkg", "--max-memory", "lots")[0] == 2
    with pytest.raises(UsageError, match="give at least 1500MB"):
        session.RunPlace(max_memory=10)


def test_parts_of_one_spectrum_are_refused(tiny_scene: LabelledScene, tiny_request: Request):
    """What stands for a large scene must differ, or nothing can be standardised by it."""
    cube = np.full_like(np.asarray(tiny_scene.cube), 7)
    splits = make_splits([tiny_scene.labels], "per-class:3", 0)
    with pytest.raises(SceneError, match=r"hold the same spectrum in every pixel: .*--nodata VALUE"):
        TrainingData.of((replace(tiny_scene, cube=cube),), splits, torch.device("cpu")).samples()
    cube[0, 0] = 8
    assert TrainingData.of((replace(tiny_scene, cube=cube),), splits, torch.device("cpu")).samples()
