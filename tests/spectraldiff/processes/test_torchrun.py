"""Trainings that torchrun starts in two processes: the losses of one, resume, and how they end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import processes
from spectraldiff.training.run_folder import RunFolder
from spectraldiff.training.run_model import load_state
from spectraldiff_runtime.cli import run
from tests.spectraldiff.cli.own_scene import own

pytestmark = pytest.mark.training

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "--"]
SDIFF = [*TORCHRUN, "spectraldiff_runtime"]
SMALL = ["--steps", "3", "--bands", "9", "--side", "24", "--batch", "5", "--precision", "float64"]


def test_the_losses_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    """In float64, so that what Adam makes of rounding stays small; 5 instances are shared as 3 and 2."""
    one, two = (processes.started(count, *SMALL) for count in (1, 2))
    for loop, most in (("denoiser", 1e-9), ("classifier", 1e-6)):  # the classifier's loss is computed in float32
        assert len(one[loop]["losses"]) == 3
        assert processes.difference(two[loop], one[loop]) < most
        assert one[loop]["bytes"] == 0 < two[loop]["bytes"]


@contextmanager
def training(folder: Path, *arguments: object) -> "Iterator[subprocess.Popen[str]]":
    """Start a training in two processes and wait until it saves its first state; none of them outlives the block."""
    line = [*SDIFF, *map(str, arguments), "--threads", "1"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            deadline = time.monotonic() + 300
            while not (folder / "state.safetensors").is_file() and time.monotonic() < deadline:
                assert process.poll() is None, process.communicate()[1]
                time.sleep(0.1)
            time.sleep(2)
            yield process
        finally:
            if process.poll() is None:
                for number in [*children(process.pid), process.pid]:
                    os.kill(number, signal.SIGKILL)


def children(number: int) -> list[int]:
    """Return the processes that a process has started, in their order."""
    return sorted(map(int, Path(f"/proc/{number}/task/{number}/children").read_text().split()))


def check_state(folder: Path, per_step: int = 1) -> int:
    """Check that the state is that after a whole step, and return how many steps."""
    state = load_state(RunFolder(folder))
    steps = len(state["diffusion.history"])
    batches = [int(value) for name, value in state.items() if name.endswith("num_batches_tracked")]
    assert batches == [per_step * steps] * len(batches)
    assert {float(value) for name, value in state.items() if name.endswith(".step")} <= {float(steps)}
    return steps


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("killed", [None, 0, 1])
def test_all_end_together_in_one_line(killed: int | None, tiny_files: tuple[Path, Path], tmp_path: Path) -> None:
    """After Ctrl-C, and where one of them is killed."""
    folder = tmp_path / "run"
    options = own(tiny_files, "--run", folder, "--diffusion-batch", "4")
    options[options.index("--diffusion-steps") + 1] = "100000"
    with training(folder, *options) as process:
        workers = children(process.pid)
        assert len(workers) == 2
        if killed is None:
            process.send_signal(signal.SIGINT)
        else:
            os.kill(workers[killed], signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert "rank0]" not in errors, errors
    ours = [line for line in errors.splitlines() if line.startswith(("sdiff: error", "sdiff: interrupted", "Stopped"))]
    if killed is None:
        assert ours == [f"Stopped; go on with `sdiff train --resume {folder}`", "sdiff: interrupted"]
    else:
        assert len(ours) == 1, errors
        assert "one of 2 processes of the training has ended" in ours[0]
    check_state(folder)


def test_a_training_goes_on_in_another_number_of_processes(
    tiny_files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One begins, two go on to the end; the model is the same but for rounding, and it is said."""
    whole, folder = tmp_path / "whole", tmp_path / "run"
    options = ["--split", "per-class:8", "--threads", "1", "-q", "--diffusion-batch", "4"]
    assert run(own(tiny_files, "--run", whole, *options)) == 0

    class StoppedError(BaseException):
        pass

    def stop(*_: object) -> None:
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr("spectraldiff.training.trainer.Training.train_classifier", stop)
        with pytest.raises(StoppedError):
            run(own(tiny_files, "--run", folder, *options))
    assert check_state(folder) == 2
    line = [*SDIFF, "train", "--resume", str(folder), "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    expected = "begun with 1 thread on cpu and goes on with 1 thread on cpu in each of 2 processes"
    assert done.stderr.count(expected) == 1
    assert done.stderr.count("Training the preset") == 1
    one, two = (RunFolder(path).read_json("metrics.json") for path in (whole, folder))
    assert json.loads(done.stdout)["processes"] == two["processes"] == 2
    assert one["processes"] == 1
    assert two["steps"] == one["steps"]
    for name, loss in one["losses"].items():
        assert two["losses"][name] == pytest.approx(loss, rel=1e-4)
    assert two["accuracy"]["oa"] == pytest.approx(one["accuracy"]["oa"], abs=0.02)
    assert "1 thread, 2 processes" in (folder / "report.html").read_text("utf-8")


def test_what_is_wrong_is_said_once(tiny_files: tuple[Path, Path], tmp_path: Path) -> None:
    line = [*SDIFF, *own(tiny_files, "--run", tmp_path / "run", "--diffusion-batch", "1", "-q")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode != 0
    errors = [one for one in done.stderr.splitlines() if one.startswith("sdiff: ")]
    assert len(errors) == 1
    assert errors[0].startswith("sdiff: error: there are 2 processes for 1 instances: wanted one for each at least;")
    assert not (tmp_path / "run").exists()
