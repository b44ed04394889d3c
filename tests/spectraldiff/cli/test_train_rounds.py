"""A further round: labels of several files, and the denoiser of an earlier run."""

import json

import numpy as np
import pytest
import torch

from spectraldiff.models.presets import FAST, PRESETS
from spectraldiff.models.settings import replaced
from spectraldiff.training.run_folder import RunFolder
from spectraldiff.training.run_model import load_model
from tests.spectraldiff.cli.own_scene import labels_like

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("undrawn")]
SHORT = ["--diffusion-steps", "2", "--epochs", "1", "--components", "5", "--device", "cpu", "-q"]


@pytest.fixture(scope="module")
def halves(tiny_scene, tmp_path_factory):
    """The labels of the left part and of the right part."""
    folder = tmp_path_factory.mktemp("halves")
    left, right = np.array(tiny_scene.labels), np.array(tiny_scene.labels)
    left[:, 20:], right[:, :20] = 0, 0
    return [labels_like(folder / f"{name}.tif", one, tiny_scene) for name, one in (("left", left), ("right", right))]


def test_a_round_takes_all_labels_and_the_denoiser_of_before(tiny_files, tiny_scene, halves, sdiff, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    begin = ["train", tiny_files[0], "--labels", halves[0], "--split", "per-class:8", *SHORT]
    assert sdiff(*begin, "--run", first)[0] == 0
    again = [*begin, "--labels", halves[1], "--denoiser", first, "--run", second]
    code, _, err = sdiff(*again)
    assert code == 0, err
    request = json.loads((second / "run.json").read_text())
    assert request["scenes"][0]["labels"] == [str(one) for one in halves]
    assert request["denoiser"] == str(first)
    metrics = json.loads((second / "metrics.json").read_text())
    assert metrics["accuracy"]["pixels"] + metrics["train_pixels"] == (tiny_scene.labels > 0).sum()
    assert "diffusion" not in metrics["steps"]
    before, after = (load_model(RunFolder(path))[0].extractor.denoiser for path in (first, second))
    for name, value in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], value, rtol=0, atol=0)
    command = next(line for line in (second / "report.html").read_text().splitlines() if "sdiff train" in line)
    assert f"--labels {halves[1]}" in command
    assert f"--denoiser {first}" in command


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--diffusion-steps", "3"], "was trained with --diffusion-steps 2, here 3: give the same, or leave out"),
        (["--bands", "1-11"], "was trained on another scene, or on other bands of it (12 bands, here 11"),
        (["--preset", "paper"], "was trained with the preset fast, here paper: give the same"),
    ],
)
def test_a_denoiser_that_does_not_fit_is_refused(tiny_files, halves, sdiff, tmp_path, options, said):
    begin = ["train", tiny_files[0], "--labels", halves[0], "--split", "per-class:8", *SHORT]
    first = tmp_path / "first"
    assert sdiff(*begin, "--run", first)[0] == 0
    code, _, err = sdiff(*begin, "--denoiser", first, "--run", tmp_path / "second", *options)
    assert code == 1
    assert said in err
    assert len([line for line in err.splitlines() if line.startswith("sdiff: error")]) == 1
    assert not (tmp_path / "second").exists()


def test_a_denoiser_of_an_earlier_version_is_refused_without_options_that_would_not_help(
    tiny_files, halves, sdiff, tmp_path, monkeypatch
):
    begin = ["train", tiny_files[0], "--labels", halves[0], "--split", "per-class:8", *SHORT]
    network = {"channels": (8, 8, 8)}
    with monkeypatch.context() as earlier:
        earlier.setitem(PRESETS, "fast", replaced(FAST, diffusion={"network": network}))
        assert sdiff(*begin, "--run", tmp_path / "first")[0] == 0
    more = ["--denoiser", tmp_path / "first", "--run", tmp_path / "second", "--diffusion-steps", "3"]
    code, _, err = sdiff(*begin, *more)
    assert code == 1
    assert "was trained with other settings, those of another version of SpectralDiff: leave out --denoiser" in err
    assert "give the same" not in err


def test_a_run_of_raw_bands_has_none(tiny_files, halves, sdiff, tmp_path):
    begin = ["train", tiny_files[0], "--labels", halves[0], "--split", "per-class:8", *SHORT]
    raw = tmp_path / "raw"
    assert sdiff(*begin, "--features", "raw", "--run", raw)[0] == 0
    code, _, err = sdiff(*begin, "--denoiser", raw)
    assert code == 1
    assert "has no denoiser" in err
    code, _, err = sdiff(*begin, "--denoiser", tmp_path / "none")
    assert code == 1
    assert "there is no run folder" in err
