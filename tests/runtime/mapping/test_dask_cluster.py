"""Tasks on a scheduler that runs already: what is used, lost and refused."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spectraldiff_runtime import __version__
from spectraldiff_runtime.errors import MissingExtraError, UsageError
from spectraldiff_runtime.mapping import dask_cluster
from spectraldiff_runtime.mapping.dask_cluster import ClusterError, ClusterOptions, WindowCluster, _Task

pytestmark = pytest.mark.processes

pytest.importorskip("distributed")


def square(number: int) -> tuple[int, int]:
    """Slow enough for all workers to get some."""
    time.sleep(0.02)
    return number * number, os.getpid()


def sleep(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


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


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture
def scheduler(dask) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A running scheduler without workers: its address and its process."""
    port = free_port()
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


@pytest.fixture
def certificates(tmp_path) -> dict[str, Path]:
    """A certificate and its key, for a scheduler, its workers and this program: two files that all of them have."""
    import distributed

    made = distributed.Security.temporary()
    files = {"ca-file": made.tls_ca_file, "cert": made.tls_scheduler_cert, "key": made.tls_scheduler_key}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return {name: tmp_path / name for name in files}


def test_a_scheduler_with_certificates(dask, certificates, tmp_path):
    import dask as settings

    options = [part for name, path in certificates.items() for part in (f"--tls-{name}", path)]
    port = free_port()
    address = f"tls://127.0.0.1:{port}"
    dask("scheduler", "--host", "127.0.0.1", "--protocol", "tls", "--port", port, *options)
    place = ["--no-nanny", "--nthreads", 1, "--local-directory", tmp_path]
    worker = dask("worker", address, *place, *options)
    with pytest.raises(ClusterError, match=r"^no scheduler can be reached at tls://"):
        WindowCluster(ClusterOptions(address)).__enter__()
    names = {"ca-file": "ca-file", "cert": "client.cert", "key": "client.key"}
    tls = {f"distributed.comm.tls.{names[name]}": str(path) for name, path in certificates.items()}
    with settings.config.set(tls), WindowCluster(ClusterOptions(address)) as connected:
        assert dict(connected.run(square, range(9))) == {n: (n * n, worker.pid) for n in range(9)}


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
        ({"workers": 0}, "--workers is 0: wanted 1 to 1,024"),
        ({"workers": 2, "threads": 0}, "--threads is 0: wanted 1 to 1,024"),
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
