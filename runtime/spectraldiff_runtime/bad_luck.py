"""What the operating system refused, as one line: the error may come from anywhere."""

import errno
import os
import re
from pathlib import Path

# What to do, by the system's number of the error.
REMEDIES = {
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOSPC: "make room; TMPDIR names the folder for temporary files",
    errno.EDQUOT: "make room; TMPDIR names the folder for temporary files",
    errno.EMFILE: "allow more open files (`ulimit -n`)",
    errno.ENFILE: "close other programs, the machine has too many files open",
    errno.EACCES: "check who may read and write there",
    errno.EPERM: "check who may read and write there",
    errno.EROFS: "choose another place",
    errno.ENOMEM: "close other programs, or give the machine more memory",
}
LONGEST = 100
# What Python, the loader and PyTorch's libraries say where there is too little for one more thread, library or array.
NO_ROOM = re.compile(
    r"can't start new thread|failed to map segment|can(no|')t allocate memory|could not create a primitive",
    re.IGNORECASE,
)


def what_happened(error: OSError) -> str:
    """Return an error of the system as one line: what was refused, to which file, and what to do."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno == errno.ENOENT and error.filename is None and not _has_working_folder():
        return "the working folder was deleted: change to one that exists"
    if error.errno == errno.EBADF and error.filename is None:
        return f"the result cannot be written ({reason}): give stdout a file or a terminal"
    what = "the system refused" if error.filename is None else f"{_named(error.filename)} cannot be used"
    remedy = REMEDIES.get(error.errno or 0, "check the file, its folder and the disk, and run again")
    return f"{what} ({reason}): {remedy}"


def has_no_room(error: Exception) -> bool:
    """Whether the system refused a thread, a library or memory, for which Python has no OSError."""
    return isinstance(error, RuntimeError | ImportError) and NO_ROOM.search(str(error)) is not None


def no_room(error: Exception) -> str:
    """Return such an error as one line."""
    reason = str(error).rpartition(": ")[2]
    return f"the system refused ({reason}): allow more memory (`ulimit -v`, `ulimit -d`) or threads (`ulimit -u`)"


def _has_working_folder() -> bool:
    try:
        Path.cwd()
    except OSError:
        return False
    return True


def _named(name: object) -> str:
    text = os.fsdecode(name) if isinstance(name, bytes | str) else str(name)
    return f"'{text}'" if len(text) <= LONGEST else f"'{text[:LONGEST]}...' ({len(text)} characters)"
