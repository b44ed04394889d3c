"""A map in progress: raw layers and a journal of what is done, in a folder next to the output.

A window counts as done when its pixels have reached the disk and then its line in the journal has. So after a kill, a
power cut or a full disk the journal never promises more than there is, and the next run does the rest. The folder lives
under another name than the output, is locked before anything in it is touched (`WorkFolder`), and is removed when the
output is whole. The journal also names the folders that the outputs are written in before they are made, so that the
next run removes what a killed one left of them.
"""

import contextlib
import io
import json
import os
import re
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from spectraldiff_runtime.atomic import output_error, remove_partial
from spectraldiff_runtime.errors import OutputError, SceneChangedError
from spectraldiff_runtime.output.provenance import difference
from spectraldiff_runtime.output.raw_layers import LAYER_NAMES, RAW, Layer, RawFiles, open_plain
from spectraldiff_runtime.output.work_folder import WorkFolder
from spectraldiff_runtime.signals import interrupts_deferred
from spectraldiff_runtime.untrusted import parse_json
from spectraldiff_runtime.window import Window

SUFFIX = ".unfinished"
JOURNAL, NEW_JOURNAL = "journal", "journal.new"
FILES = (JOURNAL, NEW_JOURNAL, *(f"{name}{RAW}" for name in LAYER_NAMES))
FORMAT = 2
# The lines of windows whose pixels have reached the disk are written together about this often.
SYNC_SECONDS = 1.0
PUBLISHING = "publishing"
PARTIAL = "partial "  # begins the line that names a folder in which an output is written


def unfinished_folder(out: Path) -> Path:
    """Return the folder of the unfinished map of `out`; a link is followed."""
    target = Path(os.path.realpath(out))
    return target.with_name(target.name + SUFFIX)


def has_unfinished_map(out: Path) -> bool:
    """Whether there is an unfinished map of `out`."""
    return (unfinished_folder(out) / JOURNAL).exists()


class Journal:
    """The folder of a map in progress; a context manager that closes its files and keeps or removes the folder.

    Parameters
    ----------
    out
        The map's final name; the folder is next to it.
    size
        Height and width of the map.
    layers
        The raw files.
    facts
        Everything the map depends on, as JSON: a map is only continued where all of it is equal.
    plan
        How the work is cut up; `plan` of an earlier run replaces it.
    resume
        Whether to continue an earlier run's folder.
    discard
        Whether an earlier run's folder may be thrown away.
    outputs
        All files of the map; `out` alone by default. What a killed run has left of these, and of no other, is removed.

    Raises
    ------
    OutputError
        There is an earlier run's folder and neither is asked for, it belongs to a map of other facts, another process
        is at work on it, or the disk takes nothing.
    """

    def __init__(
        self,
        out: Path,
        size: tuple[int, int],
        layers: Sequence[Layer],
        facts: Mapping[str, Any],
        plan: Mapping[str, Any],
        *,
        resume: bool = False,
        discard: bool = False,
        outputs: Sequence[Path] = (),
    ) -> None:
        self.out, self.folder = out, unfinished_folder(out)
        self._size, self._raws = size, RawFiles(self.folder, size, layers)
        self.plan, self.published = dict(plan), False
        self._outputs = [Path(os.path.realpath(path)) for path in (out, *outputs)]
        self._done: set[Window] = set()
        self._fresh: list[Window] = []
        self._keep = resume
        self._log: io.FileIO | None = None
        self._place = WorkFolder(self.folder, out, FILES)
        self._synced_at = 0.0
        try:
            self._begin(dict(facts), resume, discard)
        except BaseException:
            self.close()
            raise

    # -- beginning -------------------------------------------------------------------------------------------------

    def _begin(self, facts: dict[str, Any], resume: bool, discard: bool) -> None:
        self._place.take()
        if (self.folder / JOURNAL).exists():
            self._log = self._opened()
            if not resume and not discard:
                raise OutputError(
                    f"'{self.folder}' holds an unfinished map of '{self.out}' ({self._how_far()}): "
                    "go on with --resume, or throw it away with --overwrite"
                )
            if resume:
                self._go_on(facts)
                return
            self._remove_partials(_read(self._log)[1])
            self._log.close()
        self._start(facts)

    def _start(self, facts: dict[str, Any]) -> None:
        """Begin a journal: it gets its name last, so that a folder without one holds nothing."""
        try:
            head = json.dumps({"format": FORMAT, "plan": self.plan, "facts": facts}, allow_nan=False)
            self._place.sweep()
            self._raws.create()
            beginning = self.folder / NEW_JOURNAL
            with beginning.open("x") as file:
                file.write(_line(head))
            _sync(beginning)
            beginning.rename(self.folder / JOURNAL)
            _sync_folder(self.folder)
            self._log = self._opened()
            self._log.seek(0, os.SEEK_END)
        except FileExistsError as error:
            self._close_files()
            raise OutputError(f"'{error.filename}' is in the way and no file of a map: move it away") from error
        except OSError as error:
            self.remove()
            raise output_error(self.out, error) from error
        except BaseException:  # facts that are no JSON
            self.remove()
            raise

    def _opened(self) -> io.FileIO:
        try:
            return io.FileIO(self.folder / JOURNAL, "r+", opener=open_plain)
        except OSError as error:
            raise output_error(self.folder / JOURNAL, error) from error

    def _go_on(self, facts: dict[str, Any]) -> None:
        assert self._log is not None
        head, lines, end = _read(self._log)
        self._check(head, facts)
        try:
            self._raws.open()
            self._log.truncate(end)  # a line that a power cut left half-written
            self._log.seek(end)
        except OSError as error:
            raise output_error(self.out, error) from error
        self.plan = head["plan"]
        self.published = PUBLISHING in lines
        self._done = {window for line in lines if (window := _window(line)) is not None}
        self._remove_partials(lines)

    def _remove_partials(self, lines: Sequence[str]) -> None:
        """Remove the folders that a killed run has left of this map's outputs, whatever else the journal names."""
        for line in lines:
            if line.startswith(PARTIAL):
                with contextlib.suppress(ValueError):
                    folder = Path(os.path.realpath(str(parse_json(line.removeprefix(PARTIAL)))))
                    if any(folder.parent == p.parent and folder.name.startswith(f".{p.name}.") for p in self._outputs):
                        remove_partial(folder)

    def _check(self, head: dict[str, Any], facts: dict[str, Any]) -> None:
        """Refuse a folder of another map, and say in what it differs."""
        found = head.get("facts")
        if head.get("format") != FORMAT or not isinstance(found, dict) or not isinstance(head.get("plan"), dict):
            raise OutputError(f"the journal in '{self.folder}' cannot be read: begin again with --overwrite")
        differing = difference(found, facts)
        if differing is not None:
            raise OutputError(
                f"'{self.folder}' was begun with {differing}: give the same, or begin again with --overwrite"
            )

    def _how_far(self) -> str:
        assert self._log is not None
        _, lines, _ = _read(self._log)
        pixels = sum(w.height * w.width for line in lines if (w := _window(line)) is not None)
        return f"{pixels / (self._size[0] * self._size[1]):.0%} done"

    # -- writing ---------------------------------------------------------------------------------------------------

    def raw(self, name: str) -> Path:
        """Return the path of a layer's raw file."""
        return self._raws.path(name)

    @property
    def done_pixels(self) -> int:
        """Pixels of the map that are done."""
        return sum(w.height * w.width for w in self._done)

    def is_done(self, window: Window) -> bool:
        """Whether an earlier run has done exactly this window."""
        return window in self._done

    def write(self, window: Window, values: Mapping[str, NDArray[Any]]) -> None:
        """Write layers of a window of the map, each (h, w) or (count, h, w); none at all for a window of zeros.

        Parameters
        ----------
        window
            In the map's own rows and columns.

        Raises
        ------
        OutputError
            The disk is full or fails; what is done stays for --resume.
        """
        try:
            for name, array in values.items():
                self._raws.write(name, window, array)
            self._fresh.append(window)
            now = time.monotonic()
            if now - self._synced_at > SYNC_SECONDS:
                self.sync()
        except OSError as error:
            raise self.failed(error) from error

    def sync(self) -> None:
        """Have the pixels reach the disk, and then the journal's lines that say so."""
        if not self._fresh or self._log is None:
            return
        self._raws.sync()
        text = "".join(_line(f"{w.row0} {w.row1} {w.col0} {w.col1}") for w in self._fresh)
        self._append(text)
        self._fresh.clear()
        self._synced_at = time.monotonic()

    def announce_partials(self, folders: Sequence[Path]) -> None:
        """Note in which folders the outputs are written, before they are made; OSError where the disk is full."""
        self._append("".join(_line(PARTIAL + json.dumps(str(folder.absolute()))) for folder in folders))

    def announce_publishing(self) -> None:
        """Note that outputs are getting their names: from here on those that exist may be this map's own.

        Raises
        ------
        OSError
            The disk does not take it.
        """
        self._append(_line(PUBLISHING))
        self.published = True

    def _append(self, text: str) -> None:
        assert self._log is not None
        data, start = text.encode(), self._log.tell()
        try:
            while data:
                data = data[self._log.write(data) :]
            os.fsync(self._log.fileno())
        except OSError:  # half a line would hide all that come after it
            with contextlib.suppress(OSError):
                self._log.truncate(start)
            self._log.seek(start)
            raise

    def failed(self, error: OSError | OutputError) -> OutputError:
        """Return the error that says why the map cannot be written, and keep what is done."""
        self._keep = True
        known = error if isinstance(error, OutputError) else output_error(self.out, error)
        return OutputError(f"{known}; what is done is kept: go on with --resume")

    # -- ending ----------------------------------------------------------------------------------------------------

    def remove(self) -> None:
        """Remove the folder, its journal first: a folder without one is none."""
        self._close_files()
        self._place.remove()

    def close(self) -> None:
        """Close the files; the folder stays."""
        with contextlib.suppress(OSError):
            self.sync()
        self._close_files()
        self._place.release()

    def _close_files(self) -> None:
        self._raws.close()
        if self._log is not None:
            with contextlib.suppress(OSError):
                self._log.close()
        self._log = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files after an error, and remove the folder unless what is done is to be kept.

        Of a scene that was changed nothing is kept: the windows that are done may be of either state.
        """
        if kind is None:
            return
        if isinstance(error, SceneChangedError):
            self._keep = False
        with interrupts_deferred():
            if self._keep:
                self.close()
            else:
                self.remove()
        if self._keep and error is not None and not isinstance(error, OutputError):
            error.add_note(f"what is done is kept in '{self.folder}': go on with --resume")


def _line(text: str) -> str:
    """Return a line of the journal: its checksum shows whether the line is complete."""
    return f"{text} {zlib.crc32(text.encode()):08x}\n"


def _read(log: io.FileIO) -> tuple[dict[str, Any], list[str], int]:
    """Return the head, the lines after it, and where the last whole line ends."""
    log.seek(0)
    texts, end = [], 0
    for line in log.readall().splitlines(keepends=True):
        text, _, check = line.decode(errors="replace").rstrip("\n").rpartition(" ")
        if not line.endswith(b"\n") or check != f"{zlib.crc32(text.encode()):08x}":
            break
        texts.append(text)
        end += len(line)
    head: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        parsed = parse_json(texts[0]) if texts else {}
        head = parsed if isinstance(parsed, dict) else {}
    return head, texts[1:], end


def _window(line: str) -> Window | None:
    parts = line.split()
    return Window(*map(int, parts)) if len(parts) == 4 and all(re.fullmatch("[0-9]{1,19}", p) for p in parts) else None


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Have a folder's new names reach the disk, where the system can."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
