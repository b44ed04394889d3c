"""Files appear under their names when they are whole and verified, and never otherwise."""

import copy
import errno
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from spectraldiff_export import export as writers
from spectraldiff_export.deployed import DeployedClassifier
from spectraldiff_export.export import export_model
from spectraldiff_export.torchscript import torchscript_bytes
from spectraldiff_runtime.errors import OutputError, UsageError, VerificationError
from spectraldiff_runtime.model.card import ModelCard

ROOT = Path(__file__).parents[2]


@pytest.fixture
def export(small, card_for, tiles_for):
    """Export the cheapest classifier."""
    samples = tiles_for(small, 2, 6)
    return lambda out, overwrite=False: export_model(small, card_for(small), samples, out, overwrite)


def test_torchscript_runs_where_this_package_is_not(classifier_of, card_for, tiles_for, tmp_path):
    classifier = classifier_of("fast, concatenated bands")
    tiles, path = tiles_for(classifier, 2, 6), tmp_path / "model.pt"
    found = export_model(classifier, card_for(classifier), tiles, path)
    assert found.verification.probability < 3e-5
    assert found.size == path.stat().st_size
    torch.save(tiles, tmp_path / "tiles")
    code = (
        "import sys, torch; extra = {'card.json': ''};"
        "model = torch.jit.load('model.pt', _extra_files=extra);"
        "torch.save(model(torch.load('tiles')), 'outputs');"
        "print(extra['card.json'].decode());"
        "assert not any(name.startswith('spectraldiff') for name in sys.modules)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, check=True)
    assert ModelCard.from_json(done.stdout.decode()) == card_for(classifier)
    _, _, probabilities = torch.load(tmp_path / "outputs")
    torch.testing.assert_close(probabilities, classifier(tiles).softmax(1).detach(), rtol=0, atol=3e-5)


def test_torchscript_does_not_tell_where_it_was_made(small, card_for):
    data = torchscript_bytes(DeployedClassifier(small), card_for(small).to_json())
    assert str(ROOT).encode() not in data
    assert b"site-packages" not in data
    assert b"debug_pkl" not in data


def test_the_card_lies_where_info_looks_for_it(export, tmp_path, sdiff):
    export(tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt") as archive:
        assert archive.testzip() is None
    code, out, err = sdiff("info", tmp_path / "model.pt", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["format"] == "TorchScript"


@pytest.mark.parametrize("name", ["model", "model.pth", "model.onnx.gz"])
def test_another_suffix_is_refused(export, tmp_path, names, name):
    with pytest.raises(UsageError, match=r"wanted \.onnx, or \.pt for TorchScript"):
        export(tmp_path / name)
    assert names() == []


def test_suffixes_in_capitals_are_taken(export, tmp_path, names):
    export(tmp_path / "MODEL.PT")
    assert names() == ["MODEL.PT"]


def test_a_file_that_exists_is_kept_and_nothing_is_computed(export, tmp_path, names, monkeypatch):
    monkeypatch.setattr(writers, "DeployedClassifier", None)  # calling it would be another error
    (tmp_path / "model.onnx").write_text("mine")
    with pytest.raises(OutputError, match="exists: choose another name, or replace it with --overwrite"):
        export(tmp_path / "model.onnx")
    assert names() == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_text() == "mine"


def test_overwrite_replaces(export, tmp_path, names):
    (tmp_path / "model.pt").write_text("mine")
    export(tmp_path / "model.pt", overwrite=True)
    assert names() == ["model.pt"]
    assert (tmp_path / "model.pt").read_bytes().startswith(b"PK")


class Tampered(DeployedClassifier):
    """A folding gone wrong."""

    def __init__(self, classifier):
        super().__init__(classifier)
        self.front.tokens.maps[0].project.bias[0] += 0.5


def test_a_file_that_differs_from_pytorch_is_not_left(export, tmp_path, names, monkeypatch):
    monkeypatch.setattr(writers, "deployed", Tampered)
    with pytest.raises(VerificationError, match=r"model.pt' differs from PyTorch by \S+ in probabilities"):
        export(tmp_path / "model.pt")
    assert names() == []


def test_a_failed_export_keeps_what_was_there(small, small_onnx, card_for, tiles_for, tmp_path, names, monkeypatch):
    monkeypatch.setitem(writers._ENCODERS, ".onnx", lambda model, card: small_onnx)
    (tmp_path / "model.onnx").write_text("an older, better one")
    trained = copy.deepcopy(small)
    trained.vit.head[-1].bias.data[0] += 0.1  # so the file is not that of this model
    with pytest.raises(VerificationError, match=r"model.onnx' differs from PyTorch by \S+ in probabilities"):
        export_model(trained, card_for(small), tiles_for(small, 2, 6), tmp_path / "model.onnx", overwrite=True)
    assert names() == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_text() == "an older, better one"


def test_interrupted_export_leaves_nothing(export, tmp_path, names, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writers, "verify", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(tmp_path / "model.pt")
    assert names() == []


def test_full_disk(export, tmp_path, names, monkeypatch):
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if data:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="the disk is full"):
        export(tmp_path / "model.pt")
    assert names() == []


def test_missing_folder(export, tmp_path):
    with pytest.raises(OutputError, match="there is no folder"):
        export(tmp_path / "nowhere" / "model.pt")
