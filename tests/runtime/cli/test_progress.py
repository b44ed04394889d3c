"""Lines in the place of bars: one when a stage ends, and one a minute, with done, total, loss and time left."""

import re
import threading
from pathlib import Path

import pytest

from spectraldiff_runtime.cli import progress
from spectraldiff_runtime.cli.progress import ProgressLines


class Clock:
    """A clock that stands, for a module that asks `time.monotonic`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def test_a_line_at_the_end_of_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = Clock(monkeypatch), []
    lines = ProgressLines(tell=said.append)
    lines.stage("Denoiser", "steps")
    lines.update(500, 2000, 0.25)
    clock.now += 40
    lines.update(2000, 2000, 0.125)
    lines.stage("Whole-scene map", "tiles")
    clock.now += 600
    lines.update(3, 4)
    lines.stage("Report")
    lines.end()
    lines.end()
    assert said == [
        "Denoiser: 2,000 steps, loss 0.1250, 40 s", "Whole-scene map: 3 of 4 tiles, 10 minutes", "Report: 0 s",
    ]  # fmt: skip


def test_the_time_left_is_that_of_this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an interrupted run had done does not count as speed."""
    clock, said = Clock(monkeypatch), []
    lines = ProgressLines(tell=said.append)
    lines.stage("Denoiser", "steps")
    lines.update(1000, 2000)
    clock.now += 30
    lines.update(1100, 2000, 0.5)
    lines.end()
    assert said == ["Denoiser: 1,100 of 2,000 steps, loss 0.5000, 30 s, 4 minutes left"]


def test_lines_come_by_themselves_however_long_a_step_takes() -> None:
    said: list[str] = []
    third = threading.Event()

    def tell(line: str) -> None:
        said.append(line)
        if len(said) == 3:
            third.set()

    with ProgressLines(every=0.01, tell=tell) as lines:
        assert third.wait(60)
        lines.stage("Denoiser", "steps", 9)
        third.clear()
        said.clear()
        assert third.wait(60)
    assert {re.sub(r"\d+ s$", "N s", line) for line in said} == {"Denoiser: 0 of 9 steps, N s"}
    count = len(said)
    threading.Event().wait(0.05)
    assert len(said) == count, "nothing is said when it has ended"


def test_what_lies_between_stages_is_said_too() -> None:
    said: list[str] = []
    both = threading.Event()

    def tell(line: str) -> None:
        said.append(re.sub(r"\d+ s", "N s", line))
        if "At work for N s after 'Map'" in said:
            both.set()

    with ProgressLines(every=0.01, tell=tell) as lines:
        lines.stage("Map", "pixels")
        lines.end()
        assert both.wait(60)


def test_quiet_and_failed() -> None:
    said: list[str] = []
    with ProgressLines(False, every=0.0, tell=said.append) as lines:
        lines.stage("Map", "pixels", 5)
    lines = ProgressLines(tell=said.append)
    lines.stage("Map", "pixels", 5)
    lines.__exit__(ValueError, ValueError(), None)
    assert not said
    with ProgressLines(ends=False, tell=said.append) as lines:
        lines.stage("Map", "pixels", 5)
    assert not said


def test_a_map_whose_stderr_is_a_file(python, model_path: Path, write_scene, tmp_path: Path) -> None:
    scene, out = write_scene(), tmp_path / "map.tif"
    words = ("-m", "spectraldiff_runtime", "map", scene, "-m", model_path, "--out", out, "--device", "cpu")
    log = python(*words).stderr
    assert re.search(r"^Map: 1,073 pixels, \d+ s$", log, re.MULTILINE), log
    assert "━" not in log
    assert not python(*words, "-q", "--overwrite").stderr
