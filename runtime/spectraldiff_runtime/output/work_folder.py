"""The folder that a map grows in: for this account alone, and locked before anything in it is touched."""

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from spectraldiff_runtime.atomic import output_error
from spectraldiff_runtime.errors import OutputError

LOCK = "spectraldiff.lock"
# How often a folder is looked for again that its last owner has just removed.
TRIES = 100
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
PRIVATE = 0o700


class WorkFolder:
    """The folder, locked from `take` to `release`: one process at a time.

    The lock's file is made first and removed last, so a folder with files and without it is not ours.

    Parameters
    ----------
    path
        The folder; its parent exists.
    out
        The file that it is for, in messages.
    names
        All names of files that may be in it, but the lock's.
    """

    def __init__(self, path: Path, out: Path, names: Iterable[str]) -> None:
        self.path, self._out, self._names = path, out, tuple(names)
        self._handle: int | None = None

    def take(self) -> None:
        """Make the folder, or find it, and lock it; nothing else in it is touched.

        Raises
        ------
        OutputError
            Another process has it, it is not ours, or the disk does not take it. A folder that was made is removed.
        """
        for _ in range(TRIES):
            with contextlib.suppress(FileNotFoundError):  # its last owner has just removed it
                if self._try():
                    return
        raise self._busy()

    def _try(self) -> bool:
        made = False
        try:
            made = self._made()
            self._handle = self._locked()
            if self._is_current():
                return True
        except FileNotFoundError:
            self.release()
            if not self.path.parent.is_dir():
                raise OutputError(f"there is no folder '{self.path.parent}' any more: make it again") from None
            raise
        except OSError as error:
            if made:
                self.remove()
            if error.errno in NO_LOCKS:
                raise OutputError(f"'{self.path}' is on a disk without file locks: choose another place") from error
            raise output_error(self._out, error) from error
        self.release()
        return False

    def _made(self) -> bool:
        """Make the folder; False if it is there and ours."""
        try:
            self.path.mkdir(PRIVATE)
        except FileExistsError:
            if not self._is_ours():
                raise OutputError(f"'{self.path}' is in the way and no unfinished map: move it away") from None
            return False
        return True

    def _is_ours(self) -> bool:
        """Whether it is a folder of this account, and a map's or empty: another's could hold links to other files."""
        found = self.path.lstat()
        if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "geteuid") and found.st_uid != os.geteuid()):
            return False
        inside = {path.name for path in self.path.iterdir()}
        return not inside or LOCK in inside

    def _locked(self) -> int:
        """Lock the lock's file; return its handle."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        handle = os.open(self.path / LOCK, flags, 0o600)
        try:
            _lock(handle)
        except BlockingIOError as error:
            os.close(handle)
            raise self._busy() from error
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _is_current(self) -> bool:
        """Whether the file that is locked still has its name: another process may have removed it before."""
        assert self._handle is not None
        return os.path.samestat(os.fstat(self._handle), (self.path / LOCK).stat())

    def _busy(self) -> OutputError:
        return OutputError(f"another process is writing the map '{self._out}' now: wait for it, or choose another name")

    def sweep(self) -> None:
        """Remove what maps leave in it; the lock stays."""
        for name in self._names:
            with contextlib.suppress(OSError):
                (self.path / name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove what maps leave in it, and the folder if nothing else is there; release it."""
        self.sweep()
        if sys.platform == "win32":  # which removes no open file
            self.release()
        with contextlib.suppress(OSError):
            (self.path / LOCK).unlink(missing_ok=True)
            self.path.rmdir()
        self.release()

    def release(self) -> None:
        """Let another process have it. The system does so when this process ends, however it ends."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


def _lock(handle: int) -> None:
    """Lock an open file for this process; BlockingIOError if another one has it."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError from error
        return
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
