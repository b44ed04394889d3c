"""`sdiff train --resume`: what is kept, and how a run goes on."""

import html
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from spectraldiff.training.run_folder import RunFolder, create_run
from spectraldiff.training.run_model import load_state
from spectraldiff_runtime.cli import run
from tests.spectraldiff.cli.own_scene import RAW, own

pytestmark = pytest.mark.training


def test_finished_run_is_not_resumed(tiny_run, capsys):
    assert run(["train", "--resume", str(tiny_run.path)]) == 1
    assert "is finished" in capsys.readouterr().err


def test_a_run_that_was_killed_at_its_very_end(tiny_run, tmp_path, capsys):
    """The model is there whole; what went before is removed when it is resumed."""
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.path, folder)
    files = sorted(folder.rglob("*"))
    for name in ("state.safetensors", "features.partial"):
        (folder / name).touch()
    assert run(["train", "--resume", str(folder)]) == 1
    assert "is finished" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == files


def unfinished(path, tiny_files, *options):
    """Make a run that Ctrl-C cut off before its first step; return its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spectraldiff.training.trainer.Training.finish", interrupted)
        assert run(own(tiny_files, "-q", "--run", path, *RAW, *options)) == 130
    return RunFolder(path)


def interrupted(*_):
    raise KeyboardInterrupt


def test_threads_and_device_are_kept(tiny_files, tmp_path, capsys):
    folder = unfinished(tmp_path / "run", tiny_files, "--threads", "2")
    kept = folder.read_json("run.json")
    assert {key: kept[key] for key in ("threads", "used_threads", "device", "used_device")} == {
        "threads": 2,
        "used_threads": 2,
        "device": "cpu",
        "used_device": "cpu",
    }
    torch.set_num_threads(1)
    assert run(["train", "--resume", str(folder.path)]) == 0
    assert torch.get_num_threads() == 2, "those kept"
    assert "warning: the training was begun" not in capsys.readouterr().err
    text = html.unescape((folder.path / "report.html").read_text("utf-8"))
    assert re.search(r"<pre>sdiff train .* --threads 2 --device cpu</pre>", text)
    assert "cpu, 2 threads" in text


def test_a_run_that_goes_on_with_other_threads(tiny_files, tmp_path, capsys, monkeypatch):
    """It is allowed, and said: now, in the report, and after another interruption."""
    folder = unfinished(tmp_path / "run", tiny_files, "--threads", "2")
    begun = folder.read_json("run.json")
    line = (
        "the training was begun with 2 threads on cpu and goes on with 1 thread on cpu: the model will not be the same "
        "as without the interruption"
    )
    with monkeypatch.context() as patch:
        patch.setattr("spectraldiff.training.trainer.Training.finish", interrupted)
        assert run(["train", "--resume", str(folder.path), "--threads", "1", "-q"]) == 130
    assert f"sdiff: warning: {line}" in capsys.readouterr().err.splitlines()
    assert torch.get_num_threads() == 1
    assert folder.read_json("run.json") == {**begun, "resumed": [line]}
    assert run(["train", "--resume", str(folder.path), "-q"]) == 0
    assert torch.get_num_threads() == 2
    assert f"sdiff: warning: {line}" in capsys.readouterr().err.splitlines()
    assert line[1:] in html.unescape((folder.path / "report.html").read_text("utf-8"))


def test_another_device_than_the_run_was_begun_on(tiny_request):
    begun = replace(tiny_request, used_threads=2, used_device="cuda")
    assert "begun with 2 threads on cuda and goes on with 2 threads on cpu" in begun.gone_on(2, "cpu").resumed[0]
    assert begun.gone_on(2, "cuda") == begun


def test_runs_of_earlier_versions_know_no_threads(tiny_files, tmp_path, capsys):
    folder = unfinished(tmp_path / "run", tiny_files)
    kept = folder.read_json("run.json")
    assert (kept["threads"], kept["used_threads"]) == (None, 1)
    new = ("threads", "device", "used_threads", "used_device", "resumed")
    folder.write_json("run.json", {key: value for key, value in kept.items() if key not in new})
    assert run(["train", "--resume", str(folder.path), "--threads", "1", "-q"]) == 0
    assert "the training was begun" not in capsys.readouterr().err


def test_a_run_that_was_cut_off_while_it_began(tiny_files, tmp_path, capsys):
    """What was asked for is on the disk first, and is enough; what a killed process was writing is removed."""
    whole, folder = tmp_path / "whole", unfinished(tmp_path / "run", tiny_files)
    assert run(own(tiny_files, "-q", "--run", whole, *RAW)) == 0
    for name in ("data.json", "test_pixels.tif"):
        (folder.path / name).unlink()
    partial = folder.path / ".train_pixels.tif.0123456789abcdef.partial"
    partial.mkdir()
    (folder.path / "figures").mkdir()
    (folder.path / "state.safetensors.partial").touch()
    assert run(["train", "--resume", str(folder.path), "-q"]) == 0
    assert not list(folder.path.rglob("*.partial"))
    for name in ("data.json", "train_pixels.tif", "test_pixels.tif", "model.safetensors", "samples.safetensors"):
        assert (folder.path / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_folder_in_which_nothing_was_begun(tiny_files, tmp_path, capsys):
    """A kill between the folder and `run.json`: there is nothing to go on with, and a new training takes the folder."""
    for name, files in {"empty": (), "killed": (".lock", "run.json.partial")}.items():
        folder = tmp_path / name
        folder.mkdir()
        for file in files:
            (folder / file).write_text("{")
        assert run(["train", "--resume", str(folder)]) == 1
        assert capsys.readouterr().err == (
            f"sdiff: error: '{folder}' is empty, no training has begun there: train anew, with --run {folder}\n"
        )
        assert unfinished(folder, tiny_files).begun
        assert not (folder / "run.json.partial").exists()
        capsys.readouterr()
        assert run(own(tiny_files, "-q", "--run", folder, *RAW)) == 1
        assert "holds an unfinished run: go on with" in capsys.readouterr().err


def test_two_trainings_in_one_folder(tiny_files, tmp_path, capsys):
    folder = tmp_path / "run"
    create_run(folder).path.joinpath("state.safetensors").write_bytes(b"theirs")
    assert run(own(tiny_files, "-q", "--run", tmp_path / "other", *RAW)) == 0
    (folder / "run.json").write_bytes((tmp_path / "other" / "run.json").read_bytes())
    with RunFolder(folder).held():
        assert run(["train", "--resume", str(folder)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"sdiff: error: another process trains in '{folder}': wait for its end, or stop it")
    assert (folder / "state.safetensors").read_bytes() == b"theirs"
    (folder / "state.safetensors").unlink()
    assert run(["train", "--resume", str(folder), "-q"]) == 0, "the lock ends with its holder"


def test_ctrl_c_keeps_the_state_and_resume_goes_on(tiny_files, tmp_path, capsys):
    """Exit 130, no partial files, and `--resume` finishes the run."""
    folder = tmp_path / "run"
    options = [
        "--diffusion-steps",
        "4000",
        "--epochs",
        "1",
        "--components",
        "5",
        "--run",
        str(folder),
        "--threads",
        "1",
    ]
    command = [
        sys.executable,
        "-m",
        "spectraldiff_runtime",
        "train",
        str(tiny_files[0]),
        "--labels",
        str(tiny_files[1]),
    ]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (folder / "state.safetensors").is_file() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert f"sdiff train --resume {folder}" in " ".join(errors.split())
    assert (folder / "state.safetensors").is_file()
    assert not list(folder.rglob("*.partial"))
    request = json.loads((folder / "run.json").read_text())
    done = len(load_state(RunFolder(folder))["diffusion.history"])
    request["preset"]["diffusion"]["steps"] = done + 2
    data = json.loads((folder / "data.json").read_text())
    for what in data:
        (folder / "data.json").write_text(json.dumps({**data, what: "other"}))
        assert run(["train", "--resume", str(folder), "-q"]) == 1
        assert f"{what} changed since the run was begun: restore the files" in capsys.readouterr().err
    (folder / "data.json").write_text(json.dumps(data))
    (folder / "run.json").write_text(json.dumps(request))
    assert run(["train", "--resume", str(folder), "-q"]) == 0
    assert RunFolder(folder).read_json("metrics.json")["steps"]["diffusion"] == done + 2
