"""Runs of format 3, whose presets were flat: finished ones are read, unfinished ones go on.

The files in data/before_nested_presets were written by the last version with flat presets, on the tiny scene: a run on
a disjoint split, whose members read bands alone, and one on raw bands that was interrupted in its first calibration,
with the map that this version made of it in the end.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectraldiff.data.scene import LabelledScene
from spectraldiff.models.presets import FAST, PAPER, Preset
from spectraldiff.models.settings import Member, replaced
from spectraldiff.training.compute import Compute
from spectraldiff.training.request import Request
from spectraldiff.training.run_folder import FACTS, REQUEST, RunFolder
from spectraldiff.training.run_model import load_model
from spectraldiff.training.trainer import Training
from spectraldiff_runtime.errors import RunError

EARLIER = Path(__file__).parent / "data" / "before_nested_presets"


def test_the_presets_of_then_are_read() -> None:
    found = json.loads((EARLIER / "presets.json").read_text())
    # The denoiser was wide, there were no linear members, and some of the attention members read bands alone.
    network = {"channels": (32, 48, 64), "positions": 25, "most_positions": None}
    windows = (15, "features"), (9, "features"), (15, "features"), (9, "bands"), (15, "bands")
    members = tuple(Member(window, source, disjoint_only=source == "bands") for window, source in windows)
    fast = replaced(
        FAST,
        diffusion={"network": network, "steps": 2000},
        features={"layer": 2},
        classifier={"linear": (), "members": members},
    )
    assert [Preset.from_json(found[name]) for name in ("fast", "paper")] == [fast, PAPER]


def test_a_preset_that_could_fall_back_on_raw_bands_is_read() -> None:
    values = PAPER.to_json()
    values["features"]["fall_back"] = True
    assert Preset.from_json(values) == PAPER


@pytest.mark.parametrize("change", [{"window": None}, {"more": 1}])
def test_a_flat_preset_that_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    found = json.loads((EARLIER / "presets.json").read_text())["fast"]
    (name,) = change
    values = {k: v for k, v in {**found, **change}.items() if v is not None or k in ("positions", "narrow")}
    with pytest.raises(RunError, match=rf"\({name}\): train again$"):
        Preset.from_json(values)


def test_a_finished_run_maps_as_before(tiny_scene: LabelledScene) -> None:
    run = RunFolder(EARLIER / "finished")
    model, facts = load_model(run)
    bands = [Member(3, "bands", disjoint_only=True), Member(9, "bands", disjoint_only=True)]
    assert model.vit.config.members == (Member(9), Member(3), Member(9), *bands)
    assert model.vit.config.band_components == facts["beside"] > 0
    assert model.halo == facts["halo"]
    before = np.load(run.path / "prediction.npz")
    classes, confidence = model.predict(tiny_scene)
    np.testing.assert_array_equal(classes, before["classes"])
    np.testing.assert_allclose(confidence, before["confidence"], rtol=0, atol=1e-6)
    assert Request.from_json(run.read_json(REQUEST)).preset == model.preset


def test_an_unfinished_run_goes_on_to_the_same_map(tiny_scene: LabelledScene, tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(EARLIER / "unfinished", tmp_path / "run")))
    request = Request.from_json(run.read_json(REQUEST))
    split = request.make_split(tiny_scene)
    training = Training(run, tiny_scene, split, request.preset, request.seed, Compute())
    assert training.state
    training.finish()
    model, _ = load_model(run)
    classes, _ = model.predict(tiny_scene)
    assert (classes == np.load(run.path / "prediction.npz")["classes"]).mean() > 0.999
    assert run.read_json(FACTS)["format"] == 4
