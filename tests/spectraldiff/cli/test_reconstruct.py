"""`sdiff reconstruct`: what it draws and refuses."""

import json

import pytest

from spectraldiff.training.run_folder import RunFolder
from spectraldiff_runtime.cli import run
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
