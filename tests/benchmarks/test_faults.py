"""System calls that fail: a small sample of `benchmarks.faults`."""

import json
import shutil
import subprocess
import sys

import pytest

from benchmarks import faults

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        not sys.platform.startswith("linux") or shutil.which("gcc") is None,
        reason="faults are put under a program by a C library: wanted Linux and gcc",
    ),
]


def test_a_map_at_one_instant_of_each_kind(subprocess_environment, tmp_path):
    line = [sys.executable, "-m", "benchmarks.faults", "--folder", str(tmp_path / "faults"), "--tasks", "map"]
    done = subprocess.run(
        [*line, "--most", "1", "--calls", "write", "name"],
        capture_output=True, text=True, env=subprocess_environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["calls"]: row["of"] > 4 for row in rows} == {"write": True, "name": True}
    assert all(row["survived"] == row["instants"] == 1 for row in rows)
    stopped = {(row["calls"], row["fault"]): row["stopped"] for row in rows}
    assert stopped["write", "ENOSPC from then on"] == stopped["name", "EIO from then on"] == 1, "faults do happen"
    assert stopped["write", "short from then on"] == stopped["write", "slow"] == 0


def test_instants_are_spread():
    assert faults.spread(3, 5) == [1, 2, 3]
    assert faults.spread(100, 3) == [1, 51, 100]
    assert faults.spread(100, 1) == [51]


def test_files_that_are_whole(tmp_path):
    for name, content in {
        "a.json": "{}",
        "b.json": "{",
        "c.html": "<html></html>",
        "d.html": "<html>",
        "e.png": "",
    }.items():
        (tmp_path / name).write_text(content)
    found = [faults.sound(path) for path in sorted(tmp_path.iterdir())]
    assert found == [True, False, True, False, False]
