"""What starting takes: commands load on demand, and their help still says all."""

import json
import subprocess
import sys

import pytest

from spectraldiff_runtime import cli

LOADED = """
import sys
from spectraldiff_runtime.cli import run
code = run(sys.argv[1:])
commands = ("spectraldiff.cli.", "spectraldiff_export.cli", "spectraldiff_runtime.cli.")
ours = sorted(name for name in sys.modules if name.startswith(commands))
print("loaded:", *ours, "rich" * ("rich" in sys.modules), code)
"""

# Runs `sdiff` as if these packages were not installed.
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Missing())
from spectraldiff_runtime.cli import run
sys.exit(run(sys.argv[2:]))
"""
TRAINING_PACKAGES = "torch,safetensors,scipy,sklearn,matplotlib"


@pytest.mark.parametrize(
    ("arguments", "loaded"),
    [
        (["--help"], ""),
        (["--version"], ""),
        (["export", "--help"], "spectraldiff_export.cli spectraldiff_runtime.cli.options"),
    ],
)
def test_only_what_is_asked_for_is_loaded(python, arguments, loaded):
    done = python("-c", LOADED, *arguments)
    assert done.stdout.splitlines()[-1].split() == ["loaded:", *loaded.split(), "0"], done.stdout + done.stderr


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_is_there(sdiff, name):
    code, out, _ = sdiff(name, "--help")
    assert code == 0
    assert out.startswith(f"Usage: sdiff {name} ")
    assert "-h, --help" in out


def test_the_help_names_every_command_in_full(sdiff):
    _, out, _ = sdiff("--help")
    for name, (_, summary) in cli.COMMANDS.items():
        line = next(line for line in out.splitlines() if line.split()[:1] == [name])
        assert line.split(maxsplit=1)[1] == summary


def test_a_command_that_is_nearly_one(sdiff):
    code, _, err = sdiff("mpa")
    assert code == 2
    assert err == "sdiff: error: no such command 'mpa'. Did you mean 'map'?; see `sdiff --help`\n"


def test_commands_of_a_command(sdiff):
    code, out, _ = sdiff("datasets", "write", "--help")
    assert code == 0
    assert out.startswith("Usage: sdiff datasets write ")
    code, _, err = sdiff("datasets", "write")
    assert code == 2
    assert err.endswith("see `sdiff datasets write --help`\n")


def test_map_and_info_without_the_packages_of_training(python, write_scene, model_path, tmp_path):
    scene, out = write_scene(), tmp_path / "classes.tif"
    map_it = ["map", scene, "--model", model_path, "--out", out, "--preview", tmp_path / "map.png", "-q"]
    for arguments in (map_it, ["info", model_path], ["info", scene], ["info", out]):
        done = python("-c", WITHOUT, TRAINING_PACKAGES, *arguments)
        assert (done.returncode, done.stderr) == (0, ""), arguments


def test_info_of_a_run_without_the_packages_of_training(python, tiny_run):
    done = python("-c", WITHOUT, TRAINING_PACKAGES, "info", tiny_run.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Preset" in done.stdout or "preset" in done.stdout


def test_a_map_is_evaluated_without_pytorch(python, write_scene, model_path, tmp_path):
    out = tmp_path / "classes.tif"
    assert python("-c", WITHOUT, "torch", "map", write_scene(), "--model", model_path, "--out", out).returncode == 0
    done = python(
        "-c", WITHOUT, "torch", "evaluate", out, "--labels", out, "--json", "--report", tmp_path / "page.html"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["oa"] == 1


# Prints how threads of OpenMP wait once `sdiff` has begun.
WAITING = """
import os
import spectraldiff_runtime.cli as cli
from spectraldiff_runtime.__main__ import sdiff
cli.main = lambda: print(os.environ["OMP_WAIT_POLICY"])
sdiff()
"""


@pytest.mark.parametrize(("own", "used"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_do_not_spin_unless_that_is_asked_for(subprocess_environment, own, used):
    environment = {name: value for name, value in subprocess_environment.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if own is None else {"OMP_WAIT_POLICY": own}
    command = [sys.executable, "-c", WAITING]
    assert subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout == f"{used}\n"
