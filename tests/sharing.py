"""What tests share instead of making it again: folders between the workers, and the process that writes rasters."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from spectraldiff_runtime.geotiff.transcoder import Transcoder

IDLE = 2  # processes that wait for the next map
Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Return the folder that the first worker to need it makes, and that all of them then read."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        path, made = root / name, root / f"{name}.made"
        with FileLock(root / f"{name}.lock"):
            if not made.exists():
                make(path)
                made.touch()
        return path

    return folder


def surroundings() -> tuple[object, ...]:
    """Return what a new process would take from this one."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return Path.cwd(), sys.executable, environment


class Pool:
    """Processes of `Transcoder` that wait for the next one who enters; those of other surroundings are not kept."""

    def __init__(self) -> None:
        self.enter, self.exit = Transcoder.__enter__, Transcoder.__exit__
        self.home, self.idle = surroundings(), list[Transcoder]()

    def entered(self, transcoder: Transcoder) -> Transcoder:
        while self.idle and surroundings() == self.home:
            transcoder.__dict__.update(self.idle.pop().__dict__)
            if transcoder._process.poll() is None:
                return transcoder
            self.exit(transcoder)
        return self.enter(transcoder)

    def exited(self, transcoder: Transcoder, kind: type | None = None, *error: object) -> None:
        """Keep the process, unless an error or Ctrl-C may have come in the middle of a job."""
        if kind is None and len(self.idle) < IDLE and surroundings() == self.home:
            kept = Transcoder()
            kept.__dict__.update(transcoder.__dict__)
            self.idle.append(kept)
        else:
            self.exit(transcoder, kind, *error)


@pytest.fixture(scope="session")
def transcoders() -> Iterator[Pool]:
    pool = Pool()
    yield pool
    for transcoder in pool.idle:
        pool.exit(transcoder)


@pytest.fixture(autouse=True)
def shared_transcoder(transcoders: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write rasters in a process that an earlier test has started; tests of that process override this."""
    monkeypatch.setattr(Transcoder, "__enter__", lambda self: transcoders.entered(self))
    monkeypatch.setattr(Transcoder, "__exit__", lambda self, *error: transcoders.exited(self, *error))
