"""Dask's worker processes on this machine: started quietly, out of Ctrl-C's reach, and ended at once.

Scheduler and workers talk by TLS with a certificate that is made for this run and stays in memory: any account of the
machine can reach their ports, and Dask runs whatever it is given.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from multiprocessing import resource_tracker
from typing import Any

from spectraldiff_runtime.signals import interrupts_deferred

CLOSE_SECONDS = 5.0
LOGGERS = ("distributed", "distributed.client", "distributed.gc")
PREFIX = "spectraldiff-workers-"
# Web pages that Dask would offer to everybody.
PAGES: dict[str, list[str]] = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}
NO_WARNING = "ignore::UserWarning:multiprocessing.resource_tracker"
# Removes a folder when the process that it waits for has ended, also by a kill; its workers end a little later.
REMOVER = """
import os, shutil, sys, time
sys.stdin.read()
for _ in range(300):
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    time.sleep(0.1)
    if not os.path.lexists(sys.argv[1]):
        break
"""


@contextmanager
def local_workers(dask: Any, workers: int, threads: int) -> Iterator[Any]:
    """Run a scheduler in this process and workers in processes of their own.

    Parameters
    ----------
    dask
        The module ``distributed``.
    workers
        How many processes; each computes one task at a time and is replaced when it dies.
    threads
        The OpenMP threads of each.

    Yields
    ------
    LocalCluster
        With all workers ready. A Ctrl-C that comes while they start is raised when they have.

    Raises
    ------
    RuntimeError
        They cannot be started.
    """
    with ExitStack() as stack:
        stack.enter_context(_environment(threads))
        with interrupts_deferred(), _sigint_blocked():
            folder = stack.enter_context(_scratch())
            # Dask writes a worker's key to a temporary folder while it starts; a worker that is killed then leaves it.
            os.environ["TMPDIR"] = folder
            settings = {"temporary-directory": folder, **PAGES}
            # Until the end: a worker that is started in the place of a dead one takes the settings of that moment.
            stack.enter_context(import_module("dask").config.set(settings))
            cluster = _start(dask, workers)
            stack.callback(_end, cluster)
        yield cluster


@contextmanager
def _scratch() -> Iterator[str]:
    """Make a folder for workers that goes with this process, however it ends.

    A process of its own waits for that: nothing runs in one that is killed, and workers end without cleaning up.
    """
    folder = tempfile.mkdtemp(prefix=PREFIX)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        command = [sys.executable, "-I", "-S", "-c", REMOVER, folder]
        remover = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True))
        stack.callback(remover.kill)
        yield folder


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Let errors come from this package alone: Dask also logs what it repairs by itself."""
    before = {name: logging.getLogger(name).level for name in LOGGERS}
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _start(dask: Any, workers: int) -> Any:
    return dask.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        memory_limit=None,
        security=dask.Security.temporary(),
        dashboard_address=None,
        # Without the dashboard there is still a page for machines; at its usual port it would meet other runs'.
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        silence_logs=logging.CRITICAL,
    )


def _end(cluster: Any) -> None:
    """End the processes now: nothing that a worker holds is needed, and a busy one would be waited for."""
    kill = getattr(signal, "SIGKILL", signal.SIGTERM)  # on Windows the latter ends a process at once
    with interrupts_deferred(), suppress(TimeoutError):
        for nanny in list(cluster.workers.values()):
            nanny.close_gracefully()  # else it would start a new one
            if nanny.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(nanny.pid, kill)
        cluster.close(timeout=CLOSE_SECONDS)


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Set what workers inherit, also those that replace lost ones: threads, and quiet logs from the first import on.

    At the end, what Dask has set for them is undone too.
    """
    before = dict(os.environ)
    os.environ.update(OMP_NUM_THREADS=str(threads), DASK_LOGGING__DISTRIBUTED="critical")
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _start_tracker() -> None:
    """Start the process that removes the semaphores of killed processes, as workers are; it would warn of them."""
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = f"{before},{NO_WARNING}" if before else NO_WARNING
    try:
        resource_tracker.ensure_running()
    finally:
        del os.environ["PYTHONWARNINGS"]
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Start threads and processes that Ctrl-C does not reach; it comes to this thread when the block has ended."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    _start_tracker()  # it would unblock SIGINT in the thread that needs it first
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
