"""A file that computes anything else than PyTorch is found out, with the figure."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spectraldiff.models.classifier import Classifier
from spectraldiff_export.deployed import DeployedClassifier
from spectraldiff_export.torchscript import torchscript_bytes
from spectraldiff_export.verify import NEAR_TIE, TOLERANCE, verify
from spectraldiff_runtime.errors import RunError, VerificationError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")


class Reference(nn.Module):
    """Stands for a trained model without halo: one band, whose value decides between two classes."""

    halo, fill, outside = 0, torch.zeros(1), None

    def forward(self, tile: Tensor) -> Tensor:
        return torch.cat([tile, 1 - tile], 1).log()

    def scores_and_distance(self, tile):
        return self(tile), None


class File(nn.Module):
    """What an exported file computes: the reference's outputs, with one thing wrong by a given amount."""

    def __init__(self, wrong: str, by: float) -> None:
        super().__init__()
        self.wrong, self.by = wrong, by

    def forward(self, tile: Tensor) -> list[Tensor]:
        if self.wrong == "size" and tile.shape[2] > 1:
            raise ValueError("too large")
        probabilities = torch.cat([tile, 1 - tile], 1)
        if self.wrong == "probabilities":
            probabilities[:, 0, 0, 0] += self.by
        if self.wrong == "width":
            probabilities = probabilities[..., 1:]
        confidence, index = probabilities.max(1)
        if self.wrong == "confidence":
            confidence += self.by
        classes = index + 1 if self.wrong == "type" else (index + 1).to(torch.uint8)
        if self.wrong == "classes":
            classes[:, 0, 0] = 3 - classes[:, 0, 0]
        return [classes, confidence] if self.wrong == "outputs" else [classes, confidence, probabilities]


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., object]:
    """Verify a file that is wrong in one thing."""

    def call(wrong: str, by: float = 0.0, value: float = 0.7) -> object:
        path = tmp_path / "model.pt"
        torch.jit.save(torch.jit.script(File(wrong, by)), path)
        return verify(path, cast("Classifier", Reference()), torch.full((2, 1, 5, 5), value))

    return call


def test_a_true_file_passes(check):
    found = check("nothing")
    assert max(found.probability, found.confidence) < 1e-7
    assert found.near_ties == 0
    assert (found.batches, found.pixels) == (8, 3 * (1 + 9 + 25 + 15))


def test_rounding_passes_and_is_reported(check):
    assert check("probabilities", TOLERANCE / 2).probability == pytest.approx(TOLERANCE / 2, rel=1e-2)
    assert check("confidence", TOLERANCE / 2).confidence == pytest.approx(TOLERANCE / 2, rel=1e-2)


@pytest.mark.parametrize(
    ("wrong", "by", "message"),
    [
        ("probabilities", 3e-4, r"differs from PyTorch by 0\.0003 in probabilities"),
        ("probabilities", float("nan"), "differs from PyTorch by nan in probabilities"),
        ("confidence", 3e-4, r"differs from PyTorch by 0\.0003 in confidence"),
        ("classes", 0, "1 of 1 classes that are not its own most probable"),
        ("size", 0, r"fails on tiles \(1, 1, 3, 3\)"),
        ("type", 0, r"gives classes as int64 \(1, 1, 1\) .* wanted uint8 \(1, 1, 1\)"),
        ("width", 0, r"gives classes as uint8 \(1, 1, 0\)"),
        ("outputs", 0, "gives 2 outputs: wanted classes, confidence, probabilities"),
    ],
)
def test_what_is_wrong_is_named(check, wrong, by, message):
    with pytest.raises(VerificationError, match=message) as caught:
        check(wrong, by)
    assert "\n" not in str(caught.value)


def test_a_near_tie_may_be_decided_otherwise_and_is_counted(check):
    """The file's probabilities are off by less than the tolerance, which swaps two classes that are closer still."""
    assert check("probabilities", -NEAR_TIE / 4, value=0.5 + NEAR_TIE / 16).near_ties == 12  # one in each tile
    assert check("nothing", value=0.5 + NEAR_TIE / 16).near_ties == 0


def test_a_class_that_is_no_near_tie_must_be_equal(monkeypatch, check):
    monkeypatch.setattr("spectraldiff_export.verify.NEAR_TIE", NEAR_TIE / 16)
    with pytest.raises(VerificationError, match=r"another class than PyTorch at 1 of 1 pixels, margin up to 2\.5e-05"):
        check("probabilities", -NEAR_TIE / 4, value=0.5 + NEAR_TIE / 16)


def test_changed_weights_are_found_out(small, tiles_for, tmp_path):
    model, samples = DeployedClassifier(small), tiles_for(small, 2, 6)
    path = tmp_path / "model.pt"
    path.write_bytes(torchscript_bytes(model, "{}"))
    assert verify(path, small, samples).probability < 1e-5
    model.reader.head[-1].bias[0] += 0.01
    path.write_bytes(torchscript_bytes(model, "{}"))
    with pytest.raises(VerificationError, match="in probabilities on the run's sample tiles") as caught:
        verify(path, small, samples)
    assert 1e-4 < float(re.findall(r"by (\S+) in", str(caught.value))[0]) < 1e-2


def test_a_file_that_does_not_open(small, tiles_for, tmp_path):
    for name in ("model.onnx", "model.pt"):
        path = tmp_path / name
        path.write_bytes(b"nothing of the kind")
        with pytest.raises(VerificationError, match=f"{name}' does not open after export"):
            verify(path, small, tiles_for(small, 2, 6))


@pytest.mark.parametrize("shape", [(1, 5, 9, 9), (2, 4, 9, 9), (2, 5, 9, 8), (2, 5, 6, 6), (5, 9, 9)])
def test_samples_that_do_not_fit(small, tmp_path, shape):
    with pytest.raises(RunError, match=re.escape(f"sample tiles are {shape}: wanted at least 2 of 5 bands and 7 x 7")):
        verify(tmp_path / "model.pt", small, torch.from_numpy(np.zeros(shape, np.float32)))
