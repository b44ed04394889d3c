"""Run folders whose model.json asks for another model than the weights are: refused before anything is made of it."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from spectraldiff.api.describe import describe_run
from spectraldiff.training import run_model
from spectraldiff.training.request import Request
from spectraldiff.training.run_folder import RunFolder
from spectraldiff.training.run_model import load_model, load_tensors
from spectraldiff.training.session import reopen
from spectraldiff_runtime.errors import RunError, SceneError
from spectraldiff_runtime.limits import RUN_JSON_BYTES, RUN_TENSORS_BYTES

FACTS = [
    {"smoothing": 10**9}, {"smoothing": -1}, {"smoothing": 1.5}, {"smoothing": "2"}, {"vit_iterations": 10**9},
    {"bands": 10**9}, {"bands": "7"}, {"bands": None}, {"features": 10**9}, {"components": 10**9}, {"components": True},
    {"band_components": 10**9}, {"members": [{"window": 10**9}]}, {"members": [{"window": 9}] * 9**5},
    {"members": [5]},
    {"outside": [3, 10**9, 10**9]}, {"outside": [3, 4]}, {"outside": "abc"}, {"linear": [{"window": 10**9}]},
    {"linear": [{"window": 1}] * 10**4}, {"linear": 5}, {"classes": []}, {"classes": 4}, {"preset": []},
]  # fmt: skip
PRESETS = [
    ("diffusion", "timesteps", 10**9), ("diffusion", "timesteps", "9"), ("diffusion", "parameterisation", []),
    ("network", "depth", 10**9), ("network", "width", 10**9), ("network", "width", 2.0), ("network", "heads", 0),
    ("network", "mlp", 10**9), ("network", "fovea", [1]), ("unet", "channels", [10**9, 1, 1]), ("unet", "channels", []),
    ("unet", "stem_channels", None), ("unet", "first_kernel", [3, 1]), ("unet", "positions", "a"),
    ("unet", "most_positions", 0), ("unet", "most_positions", -3), ("unet", "most_positions", "8"),
    ("smoothing", "iterations", {}), ("features", "source", 1), ("features", "concat_bands", 1),
]  # fmt: skip


@pytest.fixture
def spoilt(tiny_run: RunFolder, tmp_path: Path) -> Any:
    """A copy of a run whose facts are changed."""

    def change(facts: Mapping[str, Any]) -> RunFolder:
        shutil.copy(tiny_run.path / "model.safetensors", tmp_path)
        (tmp_path / "model.json").write_text(json.dumps({**tiny_run.read_json("model.json"), **facts}))
        return RunFolder(tmp_path)

    return change


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the shapes of a model may be made."""
    make = run_model._empty

    def made(*arguments: Any) -> Any:
        assert torch.get_default_device().type == "meta"
        return make(*arguments)

    monkeypatch.setattr(run_model, "_empty", made)


@pytest.mark.parametrize("facts", FACTS, ids=lambda facts: str(facts)[:40])
def test_facts_that_are_not_those_of_the_weights(spoilt: Any, no_memory: None, facts: dict[str, Any]) -> None:
    with pytest.raises(RunError, match=r"damaged|does not fit"):
        load_model(spoilt(facts))


@pytest.mark.parametrize(("part", "name", "value"), PRESETS)
def test_a_preset_that_is_not_that_of_the_weights(
    tiny_run: RunFolder, spoilt: Any, no_memory: None, part: str, name: str, value: Any
) -> None:
    preset = tiny_run.read_json("model.json")["preset"]
    parts = {**preset, "network": preset["classifier"]["network"], "unet": preset["diffusion"]["network"]}
    parts[part][name] = value
    with pytest.raises(RunError, match=r"damaged|does not fit"):
        load_model(spoilt({"preset": preset}))


REQUESTS = [
    {"seed": "x"}, {"seed": True}, {"split": 5}, {"scenes": 5}, {"scenes": [1]},
    {"scenes": [{"scene": 1, "labels": []}]},
    {"preset": None}, {"preset": {}}, {"threads": "2"}, {"bands": 5}, {"bands": ["x"]}, {"nodata": "zzz"}, {"final": 3},
    {"nodata": [1]}, {"clouds": "rain"}, {"denoiser": 7}, {"shares": {"a": "b"}}, {"shares": [["a", "b"]]}, {"test": 1},
    {"resumed": 5}, {"resumed": [1]}, {"mixed_units": None}, {"encoding": 5}, {"data_dir": 4}, {"dataset": ["x"]},
]  # fmt: skip


@pytest.mark.parametrize("change", REQUESTS, ids=str)
def test_a_request_of_other_types(tiny_run: RunFolder, change: dict[str, Any]) -> None:
    with pytest.raises(RunError, match=r"damaged|another version|does not fit"):
        Request.from_json({**tiny_run.read_json("run.json"), **change})


def test_a_request_of_no_scene(tiny_run: RunFolder) -> None:
    with pytest.raises(SceneError, match="no scene is named"):
        Request.from_json({**tiny_run.read_json("run.json"), "scenes": []}).load_scenes()


def sparse(path: Path, size: int) -> None:
    """Make a file longer; what is new takes no room on the disk."""
    path.touch()
    os.truncate(path, size)


def no_reading(*_: Any) -> None:
    raise AssertionError("read whole")


def test_tensors_that_are_not_as_long_as_their_list_says(spoilt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = spoilt({})
    sparse(run.path / "model.safetensors", RUN_TENSORS_BYTES)
    monkeypatch.setattr(Path, "read_bytes", no_reading)
    with pytest.raises(RunError, match=r"its list of tensors says"):
        load_model(run)
    assert "its list of tensors says" in describe_run(run.path)["damaged"]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff" * 8, b"\x02" + bytes(7) + b"[]", b"\x0b" + bytes(7) + b'{"a":{"x":1',
        b"\x0f" + bytes(7) + b'{"a":{"x":1}}  ', b"\x02" + bytes(7) + b"\xff\xff",
    ],
)  # fmt: skip
def test_lists_of_tensors_that_are_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(RunError, match=r"is damaged \("):
        load_tensors(RunFolder(tmp_path), "model.safetensors")


def test_texts_that_cannot_be_written_again(spoilt: Any) -> None:
    run = spoilt({})
    (run.path / "run.json").write_text('{"prior": "\\ud800"}')
    with pytest.raises(RunError, match=r"cannot be read .*surrogates not allowed"):
        run.read_json("run.json")


def test_files_larger_than_a_training_writes_them(spoilt: Any) -> None:
    run = spoilt({})
    sparse(run.path / "metrics.json", RUN_JSON_BYTES)
    with pytest.raises(RunError, match="cannot be read"):  # its bytes are no JSON
        run.read_json("metrics.json")
    for name, most in (("metrics.json", RUN_JSON_BYTES), ("model.safetensors", RUN_TENSORS_BYTES)):
        sparse(run.path / name, most + 1)
    with pytest.raises(RunError, match="67,108,865 bytes, 67,108,864 at most"):
        run.read_json("metrics.json")
    with pytest.raises(RunError, match="67,108,864 at most"):
        describe_run(run.path)
    with pytest.raises(RunError, match="4,294,967,297 bytes, 4,294,967,296 at most"):
        load_model(run)


OTHERS = ("report.html", "run.json", "train_pixels.tif", "state.safetensors", ".lock", "figures", "figures/map.png")


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
@pytest.mark.parametrize("name", OTHERS)
def test_nothing_is_written_through_what_lies_in_a_run_folder(
    tiny_run: RunFolder, tmp_path: Path, name: str, kind: str
) -> None:
    """A training that goes on replaces its own files only: a link in their place would lead to another's."""
    mine, run = tmp_path / "mine", RunFolder(tmp_path / "run")
    mine.mkdir()
    (mine / "x.partial").write_text("mine")
    (run.path / "figures").mkdir(parents=True)
    shutil.copy(tiny_run.path / "run.json", run.path)
    place = run.path / name
    if place.exists():
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    make = {"link": lambda: place.symlink_to(mine), "pipe": lambda: os.mkfifo(place), "folder": place.mkdir}
    make[kind]()
    if kind == "folder" and name in ("figures", ".lock"):
        run.check_places()
        return
    with pytest.raises(RunError, match=f"{place.name}' is a link, a pipe, or a folder"):
        reopen(run.path)
    assert [path.read_text() for path in mine.iterdir()] == ["mine"]


def test_the_run_itself_is_read(spoilt: Any) -> None:
    assert load_model(spoilt({}))[0].classes == 4
