"""Signals are held back, and not lost."""

import ctypes
import signal
import threading

import pytest

from spectraldiff_runtime.signals import SIGNALS, interrupts_deferred


def interrupted(then):
    """Press Ctrl-C where it is held back, and then do something."""
    with interrupts_deferred():
        signal.raise_signal(signal.SIGINT)
        then()


def test_ctrl_c_waits_for_the_end_of_the_block():
    steps = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(lambda: steps.append("went on"))
    assert steps == ["went on"]


@pytest.mark.parametrize("number", SIGNALS)
def test_any_handler_is_called_once_and_stays(number):
    calls = []

    def handler(got, _):
        calls.append(got)

    before = signal.signal(number, handler)
    try:
        with interrupts_deferred():
            signal.raise_signal(number)
            signal.raise_signal(number)
            assert calls == []
        assert calls == [number]
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with interrupts_deferred():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_error_in_the_block_does_not_swallow_it():
    with pytest.raises(KeyboardInterrupt):
        interrupted(lambda: 1 / 0)


def test_other_threads_are_left_alone():
    handlers = []

    def work():
        with interrupts_deferred():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]


def press_ctrl_c_in_a_callback(steps):
    """Let C code call Python, as compilers do; what is raised there goes no further."""
    callback = ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))
    with interrupts_deferred():
        callback()
        steps.append("went on")


def test_a_callback_cannot_swallow_it(capfd):
    steps = []
    with pytest.raises(KeyboardInterrupt):
        press_ctrl_c_in_a_callback(steps)
    assert steps == ["went on"]
    assert capfd.readouterr() == ("", "")
