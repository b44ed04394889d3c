"""Tasks on local processes and on a running scheduler; nothing of theirs is lost or left."""

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from spectraldiff_runtime import __version__
from spectraldiff_runtime.errors import MissingExtraError, SceneError, UsageError
from spectraldiff_runtime.mapping import dask_cluster
from spectraldiff_runtime.mapping.dask_cluster import ClusterError, ClusterOptions, WindowCluster, _Task
from spectraldiff_runtime.mapping.dask_workers import LOGGERS

pytest.importorskip("distributed")
ARRIVAL_LIMIT = 60.0


def square(number: int) -> tuple[int, int]:
    """Slow enough for all workers to get some."""
    time.sleep(0.02)
    return number * number, os.getpid()


def sleep(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def touch_when_open(path: Path) -> None:
    while path.name != "0" and not (path.parent / "open").exists():
        time.sleep(0.01)
    path.touch()


def refuse(number: int) -> int:
    raise SceneError(f"'scene.tif' has {number} bands in use and the model wants 7: choose 7 of them")


def divide(number: int) -> float:
    return 1 / number


def die(_: int) -> None:
    os._exit(3)


def threads_of_openmp(_: int) -> str:
    return os.environ["OMP_NUM_THREADS"]


@pytest.fixture(scope="module")
def local() -> Iterator[WindowCluster]:
    with WindowCluster(ClusterOptions(workers=2)) as started:
        yield started


def pids(of: WindowCluster) -> set[int]:
    return set(of._client.run(os.getpid).values())


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + ARRIVAL_LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_every_item_comes_back_with_its_result(local):
    results = list(local.run(square, range(30)))
    assert sorted((item, result) for item, (result, _) in results) == [(n, n * n) for n in range(30)]
    assert {pid for _, (_, pid) in results} == pids(local)


def test_no_items_no_results(local):
    assert list(local.run(square, [])) == []


def test_equal_items_are_all_computed(local):
    assert [item for item, _ in local.run(square, [3] * 5)] == [3] * 5


def test_what_is_done_first_comes_first(local):
    assert [item for item, _ in local.run(sleep, [1.0, 0.0])] == [0.0, 1.0]


def test_items_are_taken_as_workers_get_free(local):
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(40):
            taken.append(number)
            yield number

    for done, _ in enumerate(local.run(square, items())):
        time.sleep(0.01)  # a writer that is slower than the workers
        assert len(taken) <= done + 1 + 2 * dask_cluster.TASKS_PER_THREAD
    assert len(taken) == 40


def test_a_killed_worker_costs_nothing_but_time(local):
    before = pids(local)
    results: dict[int, int] = {}
    for item, (result, pid) in local.run(square, range(40)):
        if len(results) == 15:
            os.kill(pid, signal.SIGKILL)
        assert item not in results
        results[item] = result
    assert results == {n: n * n for n in range(40)}
    eventually(lambda: len(pids(local)) == 2)
    assert pids(local) != before


def test_our_errors_come_back_as_they_are(local):
    with pytest.raises(SceneError) as caught:
        list(local.run(refuse, [5] * 9))
    assert str(caught.value) == "'scene.tif' has 5 bands in use and the model wants 7: choose 7 of them"
    assert len(list(local.run(square, range(9)))) == 9


def test_other_errors_come_back_as_they_are(local):
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        list(local.run(divide, [1, 2, 0, 4]))


def test_an_error_of_the_items_goes_through(local):
    with pytest.raises(ZeroDivisionError):
        list(local.run(square, (1 // number for number in (1, 0))))


def test_a_window_that_kills_its_workers_is_an_error(local):
    def allow(failures: int) -> int:
        return local._client.run_on_scheduler(_allow_failures, failures)

    before = allow(1)
    try:
        with pytest.raises(ClusterError, match=r"^workers died 2 times on one window: give them more memory, or use"):
            list(local.run(die, [1]))
    finally:
        allow(before)
    assert len(list(local.run(square, range(9)))) == 9


def _allow_failures(failures: int, dask_scheduler) -> int:
    before, dask_scheduler.allowed_failures = dask_scheduler.allowed_failures, failures
    return before


def test_stop_ends_the_iterator_and_takes_no_more_items(local):
    stop, items = threading.Event(), iter(range(1000))
    results = local.run(square, items, stop)
    next(results)
    stop.set()
    rest = list(results)
    assert len(rest) < 2 * dask_cluster.TASKS_PER_THREAD
    assert next(items) <= 2 + 2 * dask_cluster.TASKS_PER_THREAD


def test_stop_need_not_wait_for_a_task(local):
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    assert list(local.run(sleep, [2.0] * 6, stop)) == []


def test_what_nobody_waits_for_is_not_computed(local, tmp_path):
    # Workers that an earlier test has killed are back, and counted.
    eventually(lambda: local._capacity() == 2 * dask_cluster.TASKS_PER_THREAD)
    taken: list[Path] = []

    def items() -> Iterator[Path]:
        for number in range(100):
            taken.append(tmp_path / str(number))
            yield taken[-1]

    results = local.run(touch_when_open, items())
    next(results)
    results.close()
    time.sleep(1.0)  # until then the workers, both in a task, know
    (tmp_path / "open").touch()
    assert len(list(local.run(square, range(9)))) == 9
    touched = {path.name for path in tmp_path.iterdir()} - {"open"}
    assert len(touched) < len(taken) < 100


def test_local_workers_that_cannot_start(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "mkdtemp", lambda prefix: str(tmp_path / "file"))
    with pytest.raises(ClusterError, match=r"^1 worker processes cannot be started \(.*\): use fewer --workers$"):
        WindowCluster(ClusterOptions(workers=1)).__enter__()


def test_leaving_ends_what_was_started_and_nothing_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment, levels = dict(os.environ), [logging.getLogger(name).level for name in LOGGERS]
    with WindowCluster(ClusterOptions(workers=1, threads=3)) as started:
        assert next(started.run(threads_of_openmp, [1])) == (1, "3")
        assert [item for item, _ in started.run(square, range(20))] == list(range(20))  # one worker: in order
        (worker,) = pids(started)
        assert list(tmp_path.iterdir()) != []
        unfinished = started.run(sleep, [0.0, 60.0, 60.0])
        next(unfinished)
    assert gone(worker)
    assert list(tmp_path.iterdir()) == []
    assert (dict(os.environ), [logging.getLogger(name).level for name in LOGGERS]) == (environment, levels)
    unfinished.close()


PROGRAM = """
import os, signal, sys, time
from spectraldiff_runtime.mapping.dask_cluster import ClusterOptions, WindowCluster

def square(number):
    time.sleep(0.02)
    return number * number, os.getpid()

if __name__ == "__main__":
    with WindowCluster(ClusterOptions(workers=2)) as cluster:
        total = 0
        for done, (item, (result, pid)) in enumerate(cluster.run(square, range(30))):
            total += result
            if done == 10:
                os.kill(pid, signal.SIGKILL)
        print(total, flush=True)
        for _ in cluster.run(time.sleep, [60] * 4):
            pass
"""


@pytest.fixture
def program(tmp_path, subprocess_environment) -> Iterator[subprocess.Popen[str]]:
    """A program as a terminal would start it: Ctrl-C reaches all of its processes."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "program.py").write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, tmp_path / "program.py"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**subprocess_environment, "TMPDIR": str(tmp_path / "tmp")},
    ) as started:  # fmt: skip
        yield started
        started.kill()


def press_ctrl_c(program: subprocess.Popen[str], tmp_path: Path) -> str:
    """Return what stood on stderr; see that no process and no file is left."""
    children = psutil.Process(program.pid).children(recursive=True)
    os.killpg(program.pid, signal.SIGINT)
    _, errors = program.communicate(timeout=30)
    eventually(lambda: all(gone(child.pid) for child in children))
    assert {path.name for path in (tmp_path / "tmp").iterdir()} <= {".ses"}  # that is ONNX Runtime's
    return errors


@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_ctrl_c_ends_all_and_dask_says_nothing(program, tmp_path):
    assert program.stdout.readline() == f"{sum(n * n for n in range(30))}\n"
    errors = press_ctrl_c(program, tmp_path)
    assert errors.startswith("Traceback")  # that of the program, where the CLI prints a line; and no other
    assert errors.count("Traceback") == errors.count("KeyboardInterrupt") == 1
    assert errors.splitlines()[-1] == "KeyboardInterrupt"


@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_ctrl_c_while_workers_start(program, tmp_path):
    def workers() -> list[psutil.Process]:
        children = psutil.Process(program.pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

    eventually(workers)
    errors = press_ctrl_c(program, tmp_path)
    assert errors.count("Traceback") == errors.count("KeyboardInterrupt") == 1


@pytest.fixture(scope="module")
def dask(subprocess_environment, tmp_path_factory) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a command line of Dask: its name, and arguments."""
    started: list[subprocess.Popen[bytes]] = []
    environment = {**subprocess_environment, "DASK_TEMPORARY_DIRECTORY": str(tmp_path_factory.mktemp("dask"))}

    def start(name: str, *arguments: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{name}", "--no-dashboard", *map(str, arguments)]
        started.append(subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment))
        return started[-1]

    yield start
    for process in reversed(started):
        process.kill()
        process.wait()


@pytest.fixture
def scheduler(dask) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A running scheduler without workers: its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = dask("scheduler", "--host", "127.0.0.1", "--port", port)
    yield f"tcp://127.0.0.1:{port}", process
    process.kill()
    process.wait()


@pytest.fixture
def start_worker(dask, tmp_path) -> Callable[..., subprocess.Popen[bytes]]:
    def start(address: str, preload: str | None = None) -> subprocess.Popen[bytes]:
        more: list[object] = []
        if preload is not None:
            (tmp_path / "preload.py").write_text(preload)
            more = ["--preload", tmp_path / "preload.py"]
        return dask("worker", address, "--no-nanny", "--nthreads", 1, "--local-directory", tmp_path, *more)

    return start


def test_a_running_scheduler_is_used_and_stays(scheduler, start_worker):
    address, process = scheduler
    worker = start_worker(address)
    for _ in range(2):
        with WindowCluster(ClusterOptions(address)) as connected:
            results = dict(connected.run(square, range(9)))
    assert results == {n: (n * n, worker.pid) for n in range(9)}
    assert process.poll() is None
    assert worker.poll() is None


def test_all_workers_lost(scheduler, start_worker, monkeypatch):
    monkeypatch.setattr(dask_cluster, "LOSS_SECONDS", 1.0)
    worker = start_worker(scheduler[0])
    with WindowCluster(ClusterOptions(scheduler[0])) as connected:
        results = connected.run(sleep, [0.0, 60.0, 60.0])
        next(results)
        worker.kill()
        with pytest.raises(ClusterError, match=r"^the cluster has had no workers for 1 s: find out why they died"):
            next(results)


def test_the_scheduler_is_lost(scheduler, start_worker):
    address, process = scheduler
    start_worker(address)
    with WindowCluster(ClusterOptions(address)) as connected:
        results = connected.run(sleep, [0.0, 60.0, 60.0])
        next(results)
        process.kill()
        with pytest.raises(ClusterError, match=rf"^the connection to the scheduler at {address} is lost"):
            next(results)


def test_no_workers_at_all(scheduler, monkeypatch):
    monkeypatch.setattr(dask_cluster, "ARRIVAL_SECONDS", 1.0)
    with pytest.raises(ClusterError, match=rf"has no workers after 1 s: start some with `dask worker {scheduler[0]}`"):
        WindowCluster(ClusterOptions(scheduler[0])).__enter__()


@pytest.mark.parametrize(
    ("version", "found"),
    [
        ("return '9.9'", "has SpectralDiff 9.9"),
        ("raise m.PackageNotFoundError(name)", "does not have SpectralDiff"),
    ],
)
def test_workers_of_another_version_are_refused(scheduler, start_worker, version, found):
    start_worker(scheduler[0], f"import importlib.metadata as m\ndef version(name): {version}\nm.version = version\n")
    with pytest.raises(ClusterError) as caught:
        WindowCluster(ClusterOptions(scheduler[0])).__enter__()
    wanted = f" and this program is {__version__}: install spectraldiff=={__version__} where the workers run"
    assert str(caught.value).startswith("the worker at tcp://127.0.0.1:")
    assert found in str(caught.value)
    assert str(caught.value).endswith(wanted)


def test_a_worker_of_another_version_that_joins_later_is_refused():
    assert _Task(abs, __version__)(-3) == 3
    with pytest.raises(ClusterError, match=f"^a worker has SpectralDiff {__version__} and this program is 9.9:"):
        _Task(abs, "9.9")(-3)


def test_nobody_listens(monkeypatch):
    monkeypatch.setattr(dask_cluster, "CONNECT_SECONDS", 0.5)
    threads = set(threading.enumerate())
    with pytest.raises(ClusterError, match=r"^no scheduler can be reached at tcp://127.0.0.1:1 \(.*\): start one with"):
        WindowCluster(ClusterOptions("tcp://127.0.0.1:1")).__enter__()
    assert {thread for thread in threading.enumerate() if thread.name == "IO loop"} <= threads


def test_a_stranger_listens(monkeypatch):
    monkeypatch.setattr(dask_cluster, "CONNECT_SECONDS", 0.5)
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        with pytest.raises(ClusterError, match="no answer within 0 s"):
            WindowCluster(ClusterOptions(f"tcp://127.0.0.1:{stranger.getsockname()[1]}")).__enter__()


def test_tls_without_certificates():
    with pytest.raises(ClusterError, match="TLS") as caught:
        WindowCluster(ClusterOptions("tls://127.0.0.1:8786")).__enter__()
    assert "\n" not in str(caught.value)


NO_ADDRESSES = [
    "host",
    "host:8786",
    "tcp://host",
    "tcp://:8786",
    "tcp://host:port",
    "tcp://host:99999",
    "http://host:80",
    "",
]


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_malformed_addresses(address):
    with pytest.raises(UsageError) as caught:
        ClusterOptions(address)
    assert str(caught.value) == f"--cluster is '{address}': wanted a scheduler's address such as tcp://host:8786"


@pytest.mark.parametrize("address", ["tcp://host:8786", "tls://10.0.0.1:1", "tcp://[::1]:8786", "tcp://host:8786/"])
def test_addresses(address):
    assert ClusterOptions(address).threads_per_task == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": "tcp://host:8786", "workers": 2}, "--cluster and --workers exclude each other"),
        ({}, "no workers are named: give --cluster"),
        ({"workers": 0}, "--workers is 0: wanted 1 or more"),
        ({"workers": 2, "threads": 0}, "--threads is 0: wanted 1 or more"),
    ],
)
def test_options_that_cannot_be_meant(options, message):
    with pytest.raises(UsageError, match=message):
        ClusterOptions(**options)


def test_the_cores_are_shared(monkeypatch):
    monkeypatch.setattr(dask_cluster, "cpu_threads", lambda: 8)
    shares = [ClusterOptions(workers=workers).threads_per_task for workers in (1, 3, 8, 20)]
    assert shares == [8, 2, 1, 1]
    assert ClusterOptions(workers=3, threads=5).threads_per_task == 5


def test_dask_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r"not installed \(.*\): pip install 'spectraldiff\[dask\]'$"):
        WindowCluster(ClusterOptions(workers=1)).__enter__()


def test_dask_is_imported_where_it_is_needed(python):
    loaded = "sys.exit(bool({'distributed', 'dask'} & set(sys.modules)))"
    code = f"import sys, spectraldiff_runtime.mapping.dask_cluster; {loaded}"
    assert python("-c", code).returncode == 0
