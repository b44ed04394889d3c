"""Run folders whose model.json asks for another model than the weights are: refused before anything is made of it."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from spectraldiff.training import run_model
from spectraldiff.training.request import Request
from spectraldiff.training.run_folder import RunFolder
from spectraldiff.training.run_model import load_model
from spectraldiff_runtime.errors import RunError, SceneError

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


def test_the_run_itself_is_read(spoilt: Any) -> None:
    assert load_model(spoilt({}))[0].classes == 4
