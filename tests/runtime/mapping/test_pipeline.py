"""Stages overlap, wait for each other, and all end when one does."""

import os
import signal
import threading
import time

import pytest

from spectraldiff_runtime.mapping.pipeline import Pipeline, Stage


def numbers(count, log=None):
    def work(_, stats):
        for i in range(count):
            if log is not None:
                log.append(i)
            stats.count(pixels=1, size=8)
            yield i

    return Stage("numbers", work)


def passing(name, action=lambda item: item, depth=1):
    return Stage(name, lambda items, stats: (action(item) for item in items), depth)


def sdiff_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("sdiff-") and thread.is_alive()]


def test_items_pass_through_all_stages_in_order():
    seen, ticks = [], []
    stages = [numbers(50), passing("double", lambda i: 2 * i, 3), passing("end", seen.append)]
    Pipeline(stages).run(lambda: ticks.append(1))
    assert seen == [2 * i for i in range(50)]
    assert ticks
    assert (stages[0].stats.pixels, stages[0].stats.bytes) == (50, 400)
    assert sdiff_threads() == []


def test_a_full_queue_makes_the_stage_before_wait():
    made, gate = [], threading.Event()
    most = []

    def slow(item):
        if item == 0:
            time.sleep(0.3)
            most.append(len(made))
            gate.set()
        return item

    Pipeline([numbers(20, made), passing("slow", slow)]).run()
    assert gate.is_set()
    assert most[0] <= 4  # one at work, one in the queue, one that waits for room, one being made
    assert len(made) == 20


def test_stages_overlap():
    both = threading.Barrier(2, timeout=10)

    def meet(item):
        if item < 2:
            both.wait()  # two different items are at work at the same time, or the barrier breaks
        return item

    def second(item):
        if item == 0:
            both.wait()
        return item

    def first(_, stats):
        yield 0
        both.wait()
        yield 5

    Pipeline([Stage("first", first), passing("second", second)]).run()
    assert not both.broken


def test_busy_and_waiting_add_up():
    stages = [numbers(5), passing("slow", lambda i: time.sleep(0.04) or i), passing("end")]
    start = time.perf_counter()
    Pipeline(stages).run()
    wall = time.perf_counter() - start
    source, slow, end = (stage.stats for stage in stages)
    assert slow.busy >= 0.2
    assert end.input_wait > 0.1
    assert source.output_wait > 0.05
    for stats in (source, slow, end):
        assert stats.busy + stats.input_wait + stats.output_wait <= wall
    row = slow.as_dict(wall)
    assert row["busy_share"] == pytest.approx(slow.busy / wall)


@pytest.mark.parametrize("where", [0, 1, 2])
def test_an_error_in_any_stage_stops_all(where):
    cancelled = []

    def fail(item):
        if item == 7:
            raise ValueError("seven")
        return item

    def endless(_, stats):
        i = 0
        while True:
            yield fail(i) if where == 0 else i
            i += 1

    stages = [Stage("endless", endless), *(passing(str(n), fail if where == n else lambda i: i) for n in (1, 2))]
    with pytest.raises(ValueError, match="seven"):
        Pipeline(stages, lambda: cancelled.append(1)).run()
    assert cancelled == [1]
    assert sdiff_threads() == []


def test_ctrl_c_stops_all_stages_soon():
    def endless(_, stats):
        while True:
            yield 1

    def press():
        time.sleep(0.2)
        signal.raise_signal(signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Pipeline([Stage("endless", endless), passing("slow", lambda i: time.sleep(0.05))]).run()
    presser.join()
    assert time.monotonic() - start < 2
    assert sdiff_threads() == []


def test_a_generator_is_closed_when_its_stage_is_stopped():
    closed = []

    def source(_, stats):
        try:
            while True:
                yield 1
        finally:
            closed.append(1)

    def fail(item):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Pipeline([Stage("source", source), passing("fail", fail)]).run()
    assert closed == [1]


def test_ctrl_c_while_the_stages_are_started(monkeypatch):
    """A thread that has just started reads on in a scene that is closed, if it is not waited for."""
    start, started = threading.Thread.start, []

    def interrupted(self):
        start(self)
        started.append(self)
        if len(started) == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Pipeline([numbers(10**9), passing("end")]).run()
    assert sdiff_threads() == []


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_waits_for_what_stages_do(presses):
    """Else a stage reads on in a scene that is closed, and the process crashes."""
    under_way = []

    def reading(_, stats):
        while True:
            under_way.append("a block")
            time.sleep(0.8)
            under_way.pop()
            yield 1

    def press():
        for _ in range(presses):
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGINT)  # to the thread that waits

    presser = threading.Thread(target=press)
    presser.start()
    with pytest.raises(KeyboardInterrupt):
        Pipeline([Stage("reading", reading), passing("end")]).run()
    assert under_way == []
    presser.join()
