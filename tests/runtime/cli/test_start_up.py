"""What starting takes: commands load on demand, and their help still says all."""

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
