"""`sdiff reconstruct`: what it draws and refuses."""

import errno
import json
import os
from pathlib import Path

import pytest

from spectraldiff.options import ReconstructOptions
from spectraldiff.training.run_folder import RunFolder
from spectraldiff_runtime.cli import run
from spectraldiff_runtime.errors import UsageError
from tests.spectraldiff.cli.own_scene import RAW, own

pytestmark = pytest.mark.training


def test_reconstruct_draws_strip_and_spectra(tiny_run, tmp_path, capsys):
    command = ["reconstruct", "--run", str(tiny_run.path), "--step", "6", "--size", "12", "--panels", "3"]
    assert run([*command, "--out", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["reconstruction.png", "spectra.png"]
    assert report["noised"] > 0
    assert run(["reconstruct", "--run", str(tiny_run.path), "--step", "501", "--out", str(tmp_path / "no")]) == 2
    assert "--step 501 is outside the process: give 1 to 500" in capsys.readouterr().err
    before = (tmp_path / "spectra.png").stat().st_mtime_ns
    assert run([*command, "--out", str(tmp_path), "-q"]) == 1
    assert "reconstruction.png' exists: choose another name, or replace it with --overw" in capsys.readouterr().err
    assert (tmp_path / "spectra.png").stat().st_mtime_ns == before
    assert run([*command, "--out", str(tmp_path), "-q", "--overwrite"]) == 0
    assert (tmp_path / "spectra.png").stat().st_mtime_ns > before


def test_both_pictures_or_none(tiny_run, tmp_path, capsys, monkeypatch):
    """On a disk that takes one picture and no more, and where one has come while they were drawn."""
    command = ["reconstruct", "--run", str(tiny_run.path), "--step", "2", "--size", "12", "--panels", "2", "-q"]

    written = Path.write_bytes

    def full(path, data):
        if path.name == "spectra.png":
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert run([*command, "--out", str(tmp_path / "out")]) == 1
    assert "out' cannot be written: the disk is full" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

    def come(*_, **__):
        (tmp_path / "reconstruction.png").write_text("mine")
        return b"picture"

    monkeypatch.setattr("spectraldiff.report.figures.reconstruction_strip.png", come)
    assert run([*command, "--out", str(tmp_path)]) == 1
    assert "reconstruction.png' exists" in capsys.readouterr().err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("seed", [2**32, 2**64, 10**30])
def test_seeds_have_a_limit(tiny_run, tmp_path, capsys, seed):
    assert run(["reconstruct", "--run", str(tiny_run.path), "--out", str(tmp_path / "o"), "--seed", str(seed)]) == 2
    assert "--seed': Input should be less than or equal to 4294967295" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"seed is .*: wanted 0 to 4294967295"):
        ReconstructOptions(seed=seed)


def test_more_pictures_than_steps_are_all_steps(tiny_run, tmp_path):
    """A list of a billion takes 8 GB."""
    command = ["reconstruct", "--run", str(tiny_run.path), "--step", "2", "--size", "12", "--panels", str(10**15)]
    assert run([*command, "--out", str(tmp_path), "-q"]) == 0


@pytest.mark.parametrize("given", ["scene", "labels"])
def test_what_the_training_read_is_not_replaced(given, tiny_run, tiny_files, tmp_path, capsys):
    file = dict(zip(("scene", "labels"), tiny_files, strict=True))[given]
    before = file.read_bytes()
    (tmp_path / "spectra.png").symlink_to(file)
    assert run(["reconstruct", "--run", str(tiny_run.path), "--out", str(tmp_path), "--overwrite", "-q"]) == 1
    assert f"is the same file as the input '{file}': choose another name" in capsys.readouterr().err
    assert (file.read_bytes(), [path.name for path in tmp_path.iterdir()]) == (before, ["spectra.png"])


def test_a_place_that_is_no_folder_is_said_first(tiny_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("spectraldiff.training.run_model.load_model", None)  # calling it would be another error
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert run(["reconstruct", "--run", str(tiny_run.path), "--out", str(tmp_path / "a\udcff")]) == 1
    assert "a\\udcff' holds bytes that are no UTF-8" in capsys.readouterr().err
    for name in ("file", "link", "pipe"):
        assert run(["reconstruct", "--run", str(tiny_run.path), "--out", str(tmp_path / name), "--overwrite"]) == 1
        assert f"{name}' is no folder and is not replaced: choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize("fell_back", [True, False])
def test_a_run_without_a_denoiser_is_not_reconstructed(fell_back, tiny_files, tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    assert run(own(tiny_files, "-q", "--run", folder.path, *RAW)) == 0
    if fell_back:  # as a training that asked for diffusion features and chose raw bands
        request = folder.read_json("run.json")
        request["preset"]["features"]["source"] = "diffusion"
        folder.write_json("run.json", request)
    capsys.readouterr()
    assert run(["reconstruct", "--run", str(folder.path)]) == 1
    words = "maps raw bands, which suited its scene" if fell_back else "was trained with --features raw and has no"
    assert f"the run '{folder.path}' {words}" in capsys.readouterr().err
