"""Windows on many processes: a running Dask scheduler, or worker processes of this machine.

`WindowCluster.run` sends a function and one item after another to the workers, and yields what comes back.
It hands out little more than the workers are busy with, so that results never pile up. A worker that dies
costs only what it was busy with: the scheduler gives that to another one.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from types import TracebackType
from typing import Any, Generic, Self, TypeVar
from urllib.parse import urlsplit

from spectraldiff_runtime import __version__
from spectraldiff_runtime.errors import MissingExtraError, SpectralDiffError, UsageError
from spectraldiff_runtime.limits import THREADS
from spectraldiff_runtime.mapping.dask_workers import CLOSE_SECONDS, local_workers, quiet_logs
from spectraldiff_runtime.model.session import cpu_threads
from spectraldiff_runtime.signals import interrupts_deferred

T = TypeVar("T")
R = TypeVar("R")

CONNECT_SECONDS = 10.0
# How long a cluster may be without workers: before the first has come, and after the last was lost.
ARRIVAL_SECONDS = 30.0
LOSS_SECONDS = 60.0
# How often `run` looks whether to stop, and how often it asks for the number of workers.
POLL_SECONDS = 0.2
COUNT_SECONDS = 1.0
# One task is computed while the next waits for its turn on the same worker.
TASKS_PER_THREAD = 2

SCHEMES = ("tcp", "tls")
UNKNOWN_VERSION = "0+unknown"


class ClusterError(SpectralDiffError):
    """A cluster that cannot be reached, has no fitting workers, or lost them."""


@dataclass(frozen=True)
class ClusterOptions:
    """Which workers compute: those of a running scheduler, or processes that are started here.

    Parameters
    ----------
    address
        The running scheduler, such as ``"tcp://host:8786"``.
    workers
        The number of local processes to start; one of `address` and `workers` is given.
    threads
        The threads that a task may use; None is this machine's cores shared between the local processes, and
        1 on a running scheduler, whose workers have threads of their own for tasks.

    Raises
    ------
    UsageError
        Both or none of `address` and `workers` are given, or one of the three cannot be meant.
    """

    address: str | None = None
    workers: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, before anything starts."""
        if self.address is not None and self.workers is not None:
            raise UsageError("--cluster and --workers exclude each other: name a scheduler or start local processes")
        if self.address is None and self.workers is None:
            raise UsageError("no workers are named: give --cluster tcp://host:8786 or --workers N")
        for option, number in (("--workers", self.workers), ("--threads", self.threads)):
            if number is not None and not 1 <= number <= THREADS:
                raise UsageError(f"{option} is {number}: wanted 1 to {THREADS:,}")
        if self.address is not None and not _is_address(self.address):
            raise UsageError(f"--cluster is '{self.address}': wanted a scheduler's address such as tcp://host:8786")

    @property
    def threads_per_task(self) -> int:
        """The threads that a task may use, 1 or more."""
        if self.threads is not None:
            return self.threads
        return 1 if self.workers is None else max(1, cpu_threads() // self.workers)


class WindowCluster:
    """The workers, for as long as the ``with`` block lasts.

    Parameters
    ----------
    options
        Which workers, and what each may use.

    Raises
    ------
    MissingExtraError
        Dask distributed is not installed.
    ClusterError
        No scheduler answers, or it has no workers with this version of SpectralDiff. Raised on entry.

    Notes
    -----
    Leaving the block ends the processes that it started, in mid-task if need be, and no others. Local workers
    never see Ctrl-C: this process decides what it means.
    """

    def __init__(self, options: ClusterOptions) -> None:
        self.options = options
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Connect to the scheduler, or start one with its workers."""
        with ExitStack() as stack:
            self._dask = _distributed()
            stack.enter_context(quiet_logs())
            self._client = self._connect(stack) if self.options.workers is None else self._start(stack)
            self._threads, self._asked, self._empty_since = 0, -math.inf, math.inf
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect; end the processes that were started."""
        self._open.close()

    def run(
        self, function: Callable[[T], R], items: Iterable[T], stop: threading.Event | None = None
    ) -> Iterator[tuple[T, R]]:
        """Compute ``function(item)`` for every item on the workers.

        Parameters
        ----------
        function
            Without side effects: a task may run twice when a worker is lost. It, the items and the results can
            be pickled.
        items
            Taken one after another, as workers get free: at most `TASKS_PER_THREAD` for each of their threads
            are under way, or done and not yet yielded.
        stop
            When it is set, the iterator ends within `POLL_SECONDS`; tasks that wait are cancelled.

        Yields
        ------
        item, result
            In the order of completion; tasks begin in the order of the items.

        Raises
        ------
        ClusterError
            The connection or all workers are lost, or a task takes its worker down whenever it is tried.
        Exception
            Whatever a task raised, as it is.
        """
        task, source = _Task(function, __version__), iter(items)
        pending: dict[Future[R], tuple[T, Any]] = {}
        try:
            while stop is None or not stop.is_set():
                for item in islice(source, max(0, self._capacity() - len(pending))):
                    future, handle = self._submit(task, item)
                    pending[future] = item, handle
                if not pending:
                    return
                done, _ = wait(pending, POLL_SECONDS, FIRST_COMPLETED)
                for future in [one for one in pending if one in done]:
                    yield pending.pop(future)[0], self._result(future)
        finally:
            if pending and self._client.status == "running":
                self._client.cancel([handle for _, handle in pending.values()])

    def _connect(self, stack: ExitStack) -> Any:
        address = str(self.options.address)
        _check_scheduler(self._dask, address)
        client = self._dask.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        stack.callback(_close_client, client)
        _check_workers(client, address)
        return client

    def _start(self, stack: ExitStack) -> Any:
        workers = self.options.workers or 1
        try:
            local = stack.enter_context(local_workers(self._dask, workers, self.options.threads_per_task))
        except ImportError as error:
            raise MissingExtraError(
                f"--workers needs the package cryptography, which is not installed ({_reason(error)}): "
                "pip install 'spectraldiff[dask]'"
            ) from error
        except (RuntimeError, OSError) as error:
            raise ClusterError(
                f"{workers} worker processes cannot be started ({_reason(error)}): use fewer --workers"
            ) from error
        client = self._dask.Client(local, set_as_default=False, direct_to_workers=True)
        stack.callback(_close_client, client)
        return client

    def _submit(self, task: "_Task[T, R]", item: T) -> tuple[Future[R], Any]:
        """Return the result to come, fetched as soon as it is there, and Dask's own future to cancel it by."""
        # First come, first served: by itself Dask shuffles what comes within a tenth of a second.
        handle = self._client.submit(task, item, pure=False, fifo_timeout=0)
        return asyncio.run_coroutine_threadsafe(_fetch(self._client, handle), self._client.loop.asyncio_loop), handle

    def _capacity(self) -> int:
        """Return how many tasks may be under way, at least 1; ask the scheduler now and then."""
        now = time.monotonic()
        if now - self._asked >= COUNT_SECONDS:
            self._threads = self._count_threads()
            self._asked = now
            self._empty_since = math.inf if self._threads else min(now, self._empty_since)
        if now - self._empty_since > LOSS_SECONDS:
            raise ClusterError(
                f"the cluster has had no workers for {LOSS_SECONDS:.0f} s: find out why they died, "
                "and give them more memory or use a smaller --max-memory"
            )
        return max(1, TASKS_PER_THREAD * self._threads)

    def _count_threads(self) -> int:
        """Return the number of threads of all workers."""
        try:
            return sum(self._client.nthreads().values())
        except (OSError, AttributeError) as error:  # a client that has given up has no scheduler to ask
            raise self._connection_lost() from error

    def _result(self, future: Future[R]) -> R:
        try:
            return future.result()
        except CancelledError as error:
            raise self._connection_lost() from error
        except self._dask.KilledWorker as error:
            raise ClusterError(
                f"workers died {error.allowed_failures + 1} times on one window: "
                "give them more memory, or use a smaller --max-memory or fewer --workers"
            ) from error

    def _connection_lost(self) -> ClusterError:
        where = self.options.address or "this machine"
        return ClusterError(f"the connection to the scheduler at {where} is lost: see whether it still runs")


@dataclass(frozen=True)
class _Task(Generic[T, R]):
    """The function, and the version that it belongs to: a worker may join after the others were checked."""

    function: Callable[[T], R]
    version: str

    def __call__(self, item: T) -> R:
        if self.version != __version__:
            raise ClusterError(_other_version("a worker", __version__, self.version))
        return self.function(item)


async def _fetch(client: Any, handle: Any) -> Any:
    """Wait for a result; one that is lost with its worker is computed again."""
    return (await client.gather([handle], asynchronous=True))[0]


def _check_scheduler(dask: Any, address: str) -> None:
    """Check that a scheduler answers: Dask's client would wait for ever for another program on that port."""

    async def connect() -> None:
        security = dask.Security().get_connection_args("client")
        comm = await asyncio.wait_for(dask.comm.connect(address, CONNECT_SECONDS, **security), CONNECT_SECONDS)
        await comm.close()

    try:
        dask.utils.LoopRunner().run_sync(connect)
    except (OSError, TypeError, ValueError) as error:  # the latter two: another program, or tls:// without certificates
        found = f"no answer within {CONNECT_SECONDS:.0f} s" if isinstance(error, TimeoutError) else _reason(error)
        raise ClusterError(
            f"no scheduler can be reached at {address} ({found}): "
            "start one with `dask scheduler`, or correct the address"
        ) from error


def _check_workers(client: Any, address: str) -> None:
    """Wait for a worker, and see that all have this version of the package."""
    try:
        client.wait_for_workers(1, timeout=ARRIVAL_SECONDS)
    except TimeoutError as error:
        raise ClusterError(
            f"the scheduler at {address} has no workers after {ARRIVAL_SECONDS:.0f} s: "
            f"start some with `dask worker {address}`"
        ) from error
    # A function of the standard library reaches workers that lack ours.
    for worker, found in client.run(version, "spectraldiff", on_error="return").items():
        if isinstance(found, Exception) and not isinstance(found, PackageNotFoundError):
            raise ClusterError(f"the worker at {worker} does not answer ({_reason(found)}): restart it") from found
        number = UNKNOWN_VERSION if isinstance(found, Exception) else found
        if number != __version__:
            raise ClusterError(_other_version(f"the worker at {worker}", number, __version__))


def _other_version(worker: str, found: str, wanted: str) -> str:
    has = "does not have SpectralDiff installed" if found == UNKNOWN_VERSION else f"has SpectralDiff {found}"
    return f"{worker} {has} and this program is {wanted}: install spectraldiff=={wanted} where the workers run"


def _distributed() -> Any:
    """Import Dask distributed, most of which has no annotations."""
    try:
        return import_module("distributed")
    except ImportError as error:
        raise MissingExtraError(
            f"--cluster and --workers need Dask distributed, which is not installed ({_reason(error)}): "
            "pip install 'spectraldiff[dask]'"
        ) from error


def _close_client(client: Any) -> None:
    # A scheduler that has gone does not say goodbye.
    with interrupts_deferred(), suppress(TimeoutError):
        client.close(timeout=CLOSE_SECONDS)


def _is_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return parts.scheme in SCHEMES and bool(parts.hostname) and bool(parts.port) and parts.path in ("", "/")
    except ValueError:  # a port that is no number
        return False


def _reason(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
