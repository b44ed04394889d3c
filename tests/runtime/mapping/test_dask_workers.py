"""Tasks on local processes; nothing of theirs is lost or left."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import psutil
import pytest

from spectraldiff_runtime.errors import MissingExtraError, SceneError
from spectraldiff_runtime.mapping import dask_cluster
from spectraldiff_runtime.mapping.dask_cluster import ClusterError, ClusterOptions, WindowCluster
from spectraldiff_runtime.mapping.dask_workers import LOGGERS

pytestmark = pytest.mark.processes

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


def temporary_folder(_: int) -> str:
    return tempfile.gettempdir()


@pytest.fixture(scope="module")
def local() -> Iterator[WindowCluster]:
    others = listening()  # of servers that earlier tests started in this process
    with WindowCluster(ClusterOptions(workers=2)) as started:
        started.others = others
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
        # A worker that is killed while it starts leaves the folder in which Dask gives it its key.
        ((_, folder),) = started.run(temporary_folder, [1])
        assert Path(folder).parent == tmp_path
        assert [item for item, _ in started.run(square, range(20))] == list(range(20))  # one worker: in order
        (worker,) = pids(started)
        assert list(tmp_path.iterdir()) != []
        unfinished = started.run(sleep, [0.0, 60.0, 60.0])
        next(unfinished)
    assert gone(worker)
    assert list(tmp_path.iterdir()) == []
    assert (dict(os.environ), [logging.getLogger(name).level for name in LOGGERS]) == (environment, levels)
    unfinished.close()


def stranger(address: str, security: object) -> None:
    """Give the scheduler code to run, as any account of the machine may try."""
    import distributed

    with distributed.Client(address, security=security, timeout="3s", set_as_default=False) as client:
        client.run_on_scheduler(os.getpid)


def listening() -> list[int]:
    own = psutil.Process()
    found = [c for process in (own, *own.children(True)) for c in process.net_connections("tcp")]
    return [c.laddr.port for c in found if c.status == psutil.CONN_LISTEN]


def test_nobody_else_can_give_them_code(local):
    import distributed

    address = local._client.scheduler.address
    workers = list(local._client.scheduler_info(n_workers=-1)["workers"])
    assert {urlsplit(one).scheme for one in (address, *workers)} == {"tls"}
    plain = [one.replace("tls:", "tcp:") for one in (address, *workers)]
    for one in plain:
        with pytest.raises(OSError, match=r"reset|closed|[Tt]imed out|refused"):
            stranger(one, None)
    with pytest.raises(OSError, match="TLS certificate does not match"):
        stranger(address, distributed.Security.temporary())
    assert len(list(local.run(square, range(9)))) == 9


def test_no_port_offers_a_page(local):
    """Nor does one of a worker that was started in the place of a dead one."""

    def workers() -> set[str]:
        return set(local._client.scheduler_info(n_workers=-1)["workers"])

    before = workers()
    os.kill(min(pids(local)), signal.SIGKILL)
    eventually(lambda: len(workers()) == 2 and workers() != before)
    ports = set(listening()) - set(local.others)
    assert ports
    for port in ports:
        for page in ("", "info/main/workers.html", "json/counts.json", "metrics", "health"):
            with pytest.raises((HTTPError, URLError, OSError)):
                urlopen(f"http://127.0.0.1:{port}/{page}", timeout=2)


def test_without_the_package_that_makes_certificates(monkeypatch):
    import distributed

    def missing():
        raise ImportError("Using `Security.temporary` requires `cryptography`")

    monkeypatch.setattr(distributed.Security, "temporary", missing)
    with pytest.raises(MissingExtraError, match=r"^--workers needs the package cryptography, .*spectraldiff\[dask\]"):
        WindowCluster(ClusterOptions(workers=1)).__enter__()


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


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_end_leaves_a_process_or_a_folder(program, tmp_path, number):
    """Not even a kill: a process of its own waits for it."""
    assert program.stdout.readline() == f"{sum(n * n for n in range(30))}\n"
    children = psutil.Process(program.pid).children(recursive=True)
    assert [path.name for path in (tmp_path / "tmp").glob("spectraldiff-workers-*")] != []
    program.send_signal(number)
    program.communicate(timeout=30)
    eventually(lambda: all(gone(child.pid) for child in children))
    assert {path.name for path in (tmp_path / "tmp").iterdir()} <= {".ses"}


@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_ctrl_c_while_workers_start(program, tmp_path):
    def workers() -> list[psutil.Process]:
        children = psutil.Process(program.pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

    eventually(workers)
    errors = press_ctrl_c(program, tmp_path)
    assert errors.count("Traceback") == errors.count("KeyboardInterrupt") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there, nothing has to be removed")
def test_semaphores_of_killed_workers_are_removed_without_a_word(tmp_path):
    code = (
        "import os\n"
        "from multiprocessing import resource_tracker\n"
        "from spectraldiff_runtime.mapping.dask_workers import _start_tracker\n"
        "_start_tracker()\n"
        "resource_tracker.register('/of-a-killed-worker', 'semaphore')\n"
        "print(os.environ.get('PYTHONWARNINGS'), flush=True)\n"
        "os._exit(0)\n"
    )
    environment = os.environ | {"PYTHONWARNINGS": "default"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "default\n"
    assert done.stderr == ""
