"""The journal: what it promises is there, and what is not promised is done again."""

import contextlib
import errno
import json
import multiprocessing
import os
import stat

import numpy as np
import pytest

from spectraldiff_runtime.atomic import partial_folder
from spectraldiff_runtime.errors import OutputError
from spectraldiff_runtime.output import raw_layers as module
from spectraldiff_runtime.output.journal import JOURNAL, NEW_JOURNAL, Journal, unfinished_folder
from spectraldiff_runtime.output.raw_layers import Layer
from spectraldiff_runtime.output.work_folder import LOCK
from spectraldiff_runtime.window import Window, tiles_of

SIZE = 20, 30
LAYERS = [Layer("classes", np.dtype(np.uint8)), Layer("probabilities", np.dtype(np.float32), 3)]
FACTS = {"model": "abc", "scene": {"name": "x.tif", "size": 5}, "layers": ["--out"]}
WINDOWS = tiles_of(Window(0, 20, 0, 30), 8)


def begin(out, facts=FACTS, plan=None, layers=LAYERS, **options):
    return Journal(out, SIZE, layers, facts, plan or {"tile": 8}, **options)


def abandon(log):
    """End a map as an error in it does."""
    with contextlib.suppress(RuntimeError), log:
        raise RuntimeError


def values(window, seed=1):
    rng = np.random.default_rng([seed, window.row0, window.col0])
    size = window.height, window.width
    return {
        "classes": rng.integers(1, 9, size).astype(np.uint8),
        "probabilities": rng.random((3, *size)).astype(np.float32),
    }


def assert_holds(found, windows):
    """The raw files hold the values of these windows and zeros elsewhere."""
    for layer in LAYERS:
        wanted = np.zeros((layer.count, *SIZE), layer.dtype)
        for w in windows:
            wanted[:, w.row0 : w.row1, w.col0 : w.col1] = values(w)[layer.name]
        raw = np.fromfile(found.raw(layer.name), layer.dtype).reshape(wanted.shape)
        np.testing.assert_array_equal(raw, wanted)


def test_windows_in_any_order(tmp_path):
    with_zeros = WINDOWS[::-1]
    log = begin(tmp_path / "map.tif")
    for window in with_zeros:
        log.write(window, values(window) if window != WINDOWS[4] else {})
    log.sync()
    assert_holds(log, [w for w in WINDOWS if w != WINDOWS[4]])
    log.remove()
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_map_goes_on(tmp_path):
    out = tmp_path / "map.tif"
    log = begin(out, resume=True)
    for window in WINDOWS[:5]:
        log.write(window, values(window))
    abandon(log)
    again = begin(out, plan={"tile": 99}, resume=True)
    assert again.plan == {"tile": 8}
    assert [again.is_done(w) for w in WINDOWS] == [True] * 5 + [False] * (len(WINDOWS) - 5)
    for window in WINDOWS[5:]:
        again.write(window, values(window))
    again.sync()
    assert_holds(again, WINDOWS)
    again.remove()


def test_an_error_says_what_was_kept(tmp_path):
    with pytest.raises(KeyboardInterrupt) as caught, begin(tmp_path / "map.tif", resume=True):
        raise KeyboardInterrupt
    assert "go on with --resume" in caught.value.__notes__[0]


def test_an_interrupted_map_is_kept_only_when_asked(tmp_path):
    log = begin(tmp_path / "map.tif")
    log.write(WINDOWS[0], values(WINDOWS[0]))
    abandon(log)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [1, 3, 12, 30, 60])
def test_a_line_that_was_cut_is_no_line(tmp_path, cut):
    out = tmp_path / "map.tif"
    log = begin(out, resume=True)
    for window in WINDOWS:
        log.write(window, values(window))
    log.close()
    path = unfinished_folder(out) / JOURNAL
    path.write_bytes(path.read_bytes()[:-cut])
    again = begin(out, resume=True)
    done = [w for w in WINDOWS if again.is_done(w)]
    assert done == WINDOWS[: len(done)]
    assert len(WINDOWS) - 4 <= len(done) < len(WINDOWS)
    again.write(WINDOWS[-1], values(WINDOWS[-1]))
    again.close()
    third = begin(out, resume=True)
    assert [w for w in WINDOWS if third.is_done(w)] == [*done, WINDOWS[-1]]
    third.remove()


def test_a_changed_line_ends_what_is_believed(tmp_path):
    out = tmp_path / "map.tif"
    log = begin(out, resume=True)
    for window in WINDOWS:
        log.write(window, values(window))
    log.close()
    path = unfinished_folder(out) / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b" ", b"  ", 1)
    path.write_bytes(b"".join(lines))
    again = begin(out, resume=True)
    assert [w for w in WINDOWS if again.is_done(w)] == WINDOWS[:2]
    again.remove()


def test_leftovers_are_named_and_not_touched(tmp_path, listing):
    out = tmp_path / "map.tif"
    log = begin(out, resume=True)
    log.write(WINDOWS[0], values(WINDOWS[0]))
    log.close()
    before = listing()
    with pytest.raises(OutputError, match=r"map.tif.unfinished' holds .* \(11% done\).*--resume.*--overwrite"):
        begin(out)
    assert listing() == before
    fresh = begin(out, discard=True)
    assert not fresh.is_done(WINDOWS[0])
    assert_holds(fresh, [])
    fresh.remove()


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({**FACTS, "model": "xyz"}, 'another model ("abc"; now "xyz")'),
        ({**FACTS, "scene": {"name": "x.tif", "size": 6}}, "another scene"),
        ({**FACTS, "new": 1}, "another new (null; now 1)"),
        ({"model": "abc", "scene": FACTS["scene"]}, "another layers"),
        ({**FACTS, "scene": {"name": "x.tif", "size": 6}}, "another scene: other size (5; now 6)"),
        ({**FACTS, "model": "long" * 50}, "another model: give the same"),
    ],
)
def test_another_map_is_not_gone_on_with(tmp_path, listing, facts, words):
    out = tmp_path / "map.tif"
    begin(out, resume=True).close()
    before = listing()
    with pytest.raises(OutputError) as caught:
        begin(out, facts, resume=True)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert listing() == before


@pytest.mark.parametrize("content", [b"", b"nonsense\n", b'{"format": 1} 00000000\n', b"\xff\xfe" * 40])
def test_a_journal_that_is_none(tmp_path, content):
    out = tmp_path / "map.tif"
    begin(out, resume=True).close()
    (unfinished_folder(out) / JOURNAL).write_bytes(content)
    with pytest.raises(OutputError, match="cannot be read: begin again with --overwrite"):
        begin(out, resume=True)


def test_a_raw_file_of_another_size(tmp_path):
    out = tmp_path / "map.tif"
    log = begin(out, resume=True)
    log.close()
    with log.raw("classes").open("ab") as file:
        file.write(b"x")
    with pytest.raises(OutputError, match="was changed"):
        begin(out, resume=True)


def test_a_folder_without_a_journal_is_none(tmp_path):
    out = tmp_path / "map.tif"
    unfinished_folder(out).mkdir()
    for name in (LOCK, "classes.raw", NEW_JOURNAL):  # of a process that was killed at once
        (unfinished_folder(out) / name).write_bytes(b"half")
    log = begin(out)
    assert_holds(log, [])
    log.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["classes.raw", "notes.raw", "mine.txt"])
@pytest.mark.parametrize("options", [{}, {"resume": True}, {"discard": True}])
def test_a_folder_of_others_is_left_as_it_is(tmp_path, listing, name, options):
    out = tmp_path / "map.tif"
    unfinished_folder(out).mkdir()
    (unfinished_folder(out) / name).write_text("precious")
    before = listing()
    with pytest.raises(OutputError, match="is in the way"):
        begin(out, **options)
    assert listing() == before


def test_raw_files_of_others_stay(tmp_path):
    out = tmp_path / "map.tif"
    log = begin(out)
    (unfinished_folder(out) / "notes.raw").write_text("precious")
    log.remove()
    assert [path.name for path in unfinished_folder(out).iterdir()] == ["notes.raw"]


def test_the_folder_is_private_and_links_in_it_are_not_followed(tmp_path):
    out, victim = tmp_path / "map.tif", tmp_path / "victim"
    victim.write_bytes(bytes(SIZE[0] * SIZE[1]))
    begin(out, resume=True).close()
    assert stat.S_IMODE(unfinished_folder(out).stat().st_mode) == 0o700
    raw = unfinished_folder(out) / "classes.raw"
    raw.unlink()
    raw.symlink_to(victim)
    with pytest.raises(OutputError, match="cannot be written"):
        begin(out, resume=True)
    with pytest.raises(OutputError, match="holds an unfinished map"):
        begin(out)
    fresh = begin(out, discard=True)
    fresh.write(WINDOWS[0], values(WINDOWS[0]))
    fresh.remove()
    assert victim.read_bytes() == bytes(SIZE[0] * SIZE[1])


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners")
def test_a_folder_of_another_account(tmp_path, monkeypatch):
    out = tmp_path / "map.tif"
    begin(out, resume=True).close()
    monkeypatch.setattr(os, "geteuid", lambda: 1 + tmp_path.stat().st_uid)
    with pytest.raises(OutputError, match="is in the way"):
        begin(out, resume=True)


@pytest.mark.parametrize("options", [{"resume": True}, {"discard": True}])
def test_what_a_killed_run_was_writing_is_removed(tmp_path, options):
    """And nothing else, whatever the journal names: it may be a stranger's."""
    out, confidence = tmp_path / "map.tif", tmp_path / "confidence.tif"
    log = begin(out, resume=True, outputs=[confidence])
    partial, own = partial_folder(confidence), partial_folder(out)
    others = [tmp_path / "mine", partial_folder(tmp_path / "other.tif"), partial_folder(tmp_path / "a" / "map.tif")]
    log.announce_partials([partial, own, *others, tmp_path / "a" / ".." / others[1].name])
    for folder in (partial, own, *others):
        folder.mkdir(parents=True)
        (folder / "confidence.tif").touch()
    log.close()
    begin(out, **options, outputs=[confidence]).remove()
    assert sorted(path for path in tmp_path.glob("**/confidence.tif")) == sorted(o / "confidence.tif" for o in others)


def _try_to_begin(out, queue):
    try:
        begin(out, resume=True)
    except OutputError as error:
        queue.put(str(error))
    else:
        queue.put("")


def test_two_processes_do_not_write_one_map(tmp_path):
    out = tmp_path / "map.tif"
    log = begin(out, resume=True)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=_try_to_begin, args=(out, queue))
    process.start()
    assert "another process is writing the map" in queue.get()
    process.join()
    log.remove()


def _begin_often(out, folder, number):
    """Begin and end maps as fast as it goes; write down each thing that is not as it should be."""
    for _ in range(60):
        try:
            log = begin(out)
        except OutputError as error:
            if "another process is writing the map" not in str(error):
                (folder / f"{number}.error").write_text(str(error))
            continue
        alone = folder / "alone"
        try:
            alone.touch(exist_ok=False)
            log.write(WINDOWS[0], values(WINDOWS[0]))
            log.sync()
            alone.unlink()
        except OSError as error:
            (folder / f"{number}.error").write_text(repr(error))
        log.remove()


def test_maps_that_begin_together(tmp_path):
    """One runs and the others say so; nobody sweeps what another one has just made."""
    out, said = tmp_path / "maps" / "map.tif", tmp_path / "said"
    out.parent.mkdir()
    said.mkdir()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_begin_often, args=(out, said, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [path.read_text() for path in said.iterdir()] == []
    assert list(out.parent.iterdir()) == []


def test_a_full_disk_keeps_what_is_done_and_no_half_line(tmp_path, monkeypatch):
    out = tmp_path / "map.tif"
    log = begin(out)
    log.write(WINDOWS[0], values(WINDOWS[0]))
    log.sync()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_at", full)
        with pytest.raises(OutputError, match=r"disk is full .*what is done is kept: go on with --resume"):
            log.write(WINDOWS[1], values(WINDOWS[1]))
    size = (unfinished_folder(out) / JOURNAL).stat().st_size
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        log.write(WINDOWS[2], values(WINDOWS[2]))
        with pytest.raises(OSError, match="No space"):
            log._append("text\n")
    assert (unfinished_folder(out) / JOURNAL).stat().st_size == size
    abandon(log)
    again = begin(out, resume=True)
    assert [again.is_done(w) for w in WINDOWS[:3]] == [True, False, True]
    again.remove()


def test_publishing_is_remembered(tmp_path):
    out = tmp_path / "map.tif"
    log = begin(out, resume=True)
    assert not log.published
    log.announce_publishing()
    log.close()
    again = begin(out, resume=True)
    assert again.published
    again.remove()


def test_no_place_for_the_folder(tmp_path):
    (tmp_path / "map.tif.unfinished").write_text("mine")
    with pytest.raises(OutputError, match="is in the way"):
        begin(tmp_path / "map.tif")
    assert (tmp_path / "map.tif.unfinished").read_text() == "mine"


def test_the_head_is_plain_json(tmp_path):
    out = tmp_path / "map.tif"
    begin(out, resume=True).close()
    head = (unfinished_folder(out) / JOURNAL).read_text().splitlines()[0].rpartition(" ")[0]
    assert json.loads(head) == {"format": 2, "plan": {"tile": 8}, "facts": FACTS}


def test_facts_that_are_no_json_leave_no_folder(tmp_path):
    with pytest.raises(TypeError):
        begin(tmp_path / "map.tif", {"least confidence": np.float32(0.5)})
    assert list(tmp_path.iterdir()) == []
