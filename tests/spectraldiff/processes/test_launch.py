"""What torchrun sets in the environment, and what is no such thing."""

import signal
import socket
from datetime import timedelta

import pytest

from spectraldiff.processes import group
from spectraldiff.processes.launch import follows, launched, local_rank, processes_here
from spectraldiff_runtime.cli import run
from spectraldiff_runtime.errors import UsageError
from spectraldiff_runtime.signals import SIGNALS

WHOLE = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in WHOLE.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_what_torchrun_sets(environment: pytest.MonkeyPatch):
    assert (launched(), follows(), local_rank(), processes_here()) == (4, True, 1, 2)
    environment.delenv("TORCHELASTIC_RUN_ID")
    environment.setenv("RANK", "x")
    assert (launched(), follows(), processes_here()) == (1, False, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("WORLD_SIZE", None), ("WORLD_SIZE", "0"), ("WORLD_SIZE", "9" * 5000), ("RANK", None), ("RANK", "4")]
    + [("RANK", value) for value in ("", "x", "-1", "1.0", "\x1b[31m")],
)
def test_a_process_that_torchrun_did_not_start(environment: pytest.MonkeyPatch, name, value, capfd):
    """Each of them was a traceback, or counted processes that are not there."""
    if value is None:
        environment.delenv(name)
    else:
        environment.setenv(name, value)
    assert run(["train", "none.tif", "--labels", "none.gpkg"]) == UsageError.exit_code
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"sdiff: error: the environment has {name}=")
    assert "unset TORCHELASTIC_RUN_ID" in line
    assert "\x1b" not in line


@pytest.mark.training
@pytest.mark.parametrize("port", [None, "x", "99999999"])
def test_an_address_that_is_none(environment: pytest.MonkeyPatch, port, capfd):
    """Each of them was a traceback of PyTorch's."""
    environment.setenv("MASTER_ADDR", "127.0.0.1")
    environment.delenv("MASTER_PORT", raising=False)
    if port:
        environment.setenv("MASTER_PORT", port)
    signals = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        assert run(["train", "none.tif"]) == UsageError.exit_code
    finally:
        for number, action in signals.items():
            signal.signal(number, action)
    (line,) = capfd.readouterr().err.splitlines()
    assert f"with MASTER_ADDR='127.0.0.1', MASTER_PORT='{port or ''}' in the environment" in line


@pytest.mark.training
def test_torchrun_is_not_waited_for_where_it_is_not(environment: pytest.MonkeyPatch, monkeypatch, capfd):
    """It was waited for 30 days, at a port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # does not listen
        environment.setenv("MASTER_ADDR", "127.0.0.1")
        environment.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        environment.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
        monkeypatch.setattr(group, "NEAR", timedelta(seconds=2))
        with pytest.raises(UsageError, match="cannot be joined"):
            group._join()
