"""Stages that run at the same time, each in its own thread, with short queues between them.

A full queue makes the stage before it wait, so that no more is held in memory than was planned. The first error, or an
interruption of the thread that waits for the end, stops every stage before it is raised.
"""

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from spectraldiff_runtime.signals import interrupts_deferred, raise_if_ended

# How often waiting stages look whether they should stop, in seconds.
POLL_SECONDS = 0.05

_END = object()

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class StageStats:
    """Statistics of a stage: seconds of work, of waiting for input and for room in the next queue; bytes and pixels.

    `cpu` are the CPU seconds of the stage's own thread, without those of threads that it has work for it; of the last
    stage, which makes the rasters, those of the process and of what it started.
    """

    name: str
    busy: float = 0.0
    cpu: float = 0.0
    input_wait: float = 0.0
    output_wait: float = 0.0
    bytes: int = 0
    pixels: int = 0

    def count(self, pixels: int = 0, size: int = 0) -> None:
        """Add to what was done."""
        self.pixels += pixels
        self.bytes += size

    def as_dict(self, wall: float) -> dict[str, Any]:
        """Return the figures for JSON: seconds, bytes, pixels, pixels a second of its own work, share of `wall`."""
        return {
            "stage": self.name,
            "busy_s": self.busy,
            "cpu_s": self.cpu,
            "waiting_for_input_s": self.input_wait,
            "waiting_for_room_s": self.output_wait,
            "bytes": self.bytes,
            "pixels": self.pixels,
            "pixels_per_second": self.pixels / self.busy if self.busy > 0 else None,
            "busy_share": self.busy / wall if wall > 0 else None,
        }


Work = Callable[[Iterator[Any], StageStats], Iterable[Any]]


@dataclass
class Stage:
    """One stage: `work` takes the items of the stage before and yields those of the next.

    Parameters
    ----------
    depth
        How many of its results may wait for the next stage.
    """

    name: str
    work: Work
    depth: int = 1
    stats: StageStats = field(init=False)

    def __post_init__(self) -> None:
        self.stats = StageStats(self.name)


class Stopped(Exception):  # noqa: N818 (no error: it ends a stage)
    """Raised inside a stage that should end."""


class Pipeline:
    """Runs stages until the first has no more to give, or until something goes wrong.

    Parameters
    ----------
    stages
        From the source, which gets no items, to the last, whose results are dropped.
    cancel
        Called once when the stages are stopped, to end work in progress.
    """

    def __init__(self, stages: Sequence[Stage], cancel: Callable[[], None] | None = None) -> None:
        self._stages = stages
        self._cancel = cancel
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._lock = threading.Lock()

    def run(self, tick: Callable[[], None] | None = None) -> None:
        """Run all stages and wait for their end.

        Parameters
        ----------
        tick
            Called often from the calling thread, and once at the end, to show progress.

        Raises
        ------
        BaseException
            The first that any stage raised, or that interrupted the wait; no stage runs any more.
        """
        # Not by `Thread.join`: an interrupt in it makes Python 3.11 take a running thread for an ended one.
        started: list[tuple[threading.Thread, threading.Event]] = []
        try:
            with interrupts_deferred():  # or a thread that has just started might be forgotten
                for thread, ended in self._threads():
                    thread.start()
                    started.append((thread, ended))
            for _, ended in started:
                while not ended.wait(POLL_SECONDS):
                    raise_if_ended()
                    if tick is not None:
                        tick()
            if tick is not None:
                tick()
            raise_if_ended()
        finally:
            with interrupts_deferred():  # a second one would leave threads at work on files that are closed next
                self._halt()
                for thread, ended in started:
                    ended.wait()
                    thread.join()
        if self._error is not None:
            raise self._error

    def _threads(self) -> list[tuple[threading.Thread, threading.Event]]:
        """Return a thread for each stage, and what it sets when it has ended."""
        queues: list[queue.Queue[Any] | None] = [None]
        queues += [queue.Queue(stage.depth) for stage in self._stages[:-1]]
        queues += [None]
        threads = []
        for i, stage in enumerate(self._stages):
            ended = threading.Event()
            work = (stage, queues[i], queues[i + 1], ended)
            threads.append((threading.Thread(target=self._serve, args=work, name=f"sdiff-{stage.name}"), ended))
        return threads

    def _serve(
        self,
        stage: Stage,
        source: "queue.Queue[Any] | None",
        target: "queue.Queue[Any] | None",
        ended: threading.Event,
    ) -> None:
        stats, start = stage.stats, time.perf_counter()
        try:
            for item in stage.work(self._taken(source, stats), stats):
                if target is None:
                    self._check()
                else:
                    self._put(target, item, stats)
            if target is not None:
                self._put(target, _END, stats)
        except Stopped:
            pass
        except BaseException as error:
            self._fail(error)
        finally:
            stats.busy = time.perf_counter() - start - stats.input_wait - stats.output_wait
            stats.cpu = time.thread_time()
            ended.set()

    def _taken(self, source: "queue.Queue[Any] | None", stats: StageStats) -> Iterator[Any]:
        while source is not None:
            start = time.perf_counter()
            item = self._poll(source.get)
            stats.input_wait += time.perf_counter() - start
            if item is _END:
                return
            yield item

    def _put(self, target: "queue.Queue[Any]", item: Any, stats: StageStats) -> None:
        start = time.perf_counter()
        self._poll(target.put, item)
        stats.output_wait += time.perf_counter() - start

    def _poll(self, action: Callable[..., Any], *arguments: Any) -> Any:
        while True:
            self._check()
            with contextlib.suppress(queue.Full, queue.Empty):
                return action(*arguments, timeout=POLL_SECONDS)

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None and not self._stop.is_set():
                self._error = error
        self._halt()

    def _halt(self) -> None:
        if not self._stop.is_set():
            self._stop.set()
            if self._cancel is not None:
                self._cancel()


def map_concurrently(work: Callable[[T], R], items: Iterable[T], most: int) -> Iterator[R]:
    """Yield `work` of each item in their order, where up to `most` are worked on at once, each in its own thread.

    With one, that is the calling thread. When the iterator is closed or an item raises, those that are worked on are
    waited for.
    """
    if most == 1:
        yield from map(work, items)
        return
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(most, "sdiff-in-flight") as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) == most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
