"""The files of one map, opened and removed together."""

import signal

import numpy as np
import pytest

from spectraldiff_runtime.errors import OutputError
from spectraldiff_runtime.geotiff.spec import Format
from spectraldiff_runtime.output import journal
from spectraldiff_runtime.output.block import Block, RequestedLayers
from spectraldiff_runtime.output.file_sink import FileSink
from spectraldiff_runtime.output.pixel_counts import count_values
from spectraldiff_runtime.output.sinks import Outputs, WriteOptions
from spectraldiff_runtime.scene.array import ArrayScene
from spectraldiff_runtime.tiling.plan import Plan
from spectraldiff_runtime.window import Window

WHOLE = Window(0, 4, 0, 5)
NAMES = {"classes.tif", "classes.tif.aux.xml", "confidence.tif", "map.png"}


@pytest.fixture
def make_sink(card, tmp_path):
    scene = ArrayScene(np.zeros((4, 5, 7), np.uint8))

    def make(**options):
        outputs = Outputs.of(tmp_path / "classes.tif", tmp_path / "confidence.tif", False, tmp_path / "map.png", False)
        plan = Plan(4, 1, 4, 5, 0, 4)
        writing = WriteOptions(Format(), **options)
        return FileSink(card, scene, WHOLE, outputs, writing, {"model": "x"}, plan)

    return make


def write_all(sink):
    block = Block.empty(4, 5, 4, RequestedLayers(confidence=True))
    block.classes[:] = 2
    block.confidence[:] = 0.5
    sink.write(WHOLE, block)


def write_and_finish(sink):
    with sink:
        write_all(sink)
        sink.finish()


@pytest.mark.parametrize("moment", ["mkdir", "rename"])
def test_ctrl_c_while_the_folder_is_made(make_sink, tmp_path, monkeypatch, moment):
    """Just after a folder or its journal came to be is when it is most easily forgotten."""
    original, done = getattr(type(tmp_path), moment), []

    def interrupting(self, *arguments, **named):
        original(self, *arguments, **named)
        if not done:
            done.append(self)
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), moment, interrupting)
        with pytest.raises(KeyboardInterrupt), make_sink():
            pytest.fail("the interrupt was lost")
    assert len(done) == 1
    assert list(tmp_path.iterdir()) == []


def test_all_files_appear_together(make_sink, tmp_path):
    with make_sink() as sink:
        write_all(sink)
        assert [path.name for path in tmp_path.iterdir()] == ["classes.tif.unfinished"]
        assert sink.finish() == (None, (0, 0, 20, 0, 0))
    assert {path.name for path in tmp_path.iterdir()} == NAMES
    assert count_values(tmp_path / "classes.tif", 4) == (0, 0, 20, 0, 0)


@pytest.mark.parametrize("broken", ["publish", "finish"])
def test_what_stops_at_the_end_goes_on_with_resume(make_sink, tmp_path, monkeypatch, broken):
    from spectraldiff_runtime.output.preview import PreviewOutput

    def fail(self):
        raise OutputError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(PreviewOutput, broken, fail)
        with pytest.raises(OutputError, match="no room; what is done is kept: go on with --resume"):
            write_and_finish(make_sink())
    assert not (tmp_path / "map.png").exists()
    assert (tmp_path / journal.unfinished_folder(tmp_path / "classes.tif") / "journal").exists()
    with make_sink(resume=True) as sink:
        assert sink.is_done(WHOLE)
        sink.finish()
    assert {path.name for path in tmp_path.iterdir()} == NAMES


def test_a_disk_that_fails_before_publishing_is_said_once(make_sink, monkeypatch):
    def full(self, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal.Journal, "_append", full)
    with pytest.raises(OutputError) as caught:
        write_and_finish(make_sink())
    assert str(caught.value).count("what is done is kept") == 1


def test_a_map_of_a_part_counts_its_own_rows(card, tmp_path):
    scene, window = ArrayScene(np.zeros((40, 50, 7), np.uint8)), Window(10, 14, 20, 25)
    outputs = Outputs.of(tmp_path / "classes.tif", False, False, None, False)
    with FileSink(card, scene, window, outputs, WriteOptions(Format()), {}, Plan(4, 1, 4, 5, 0, 4)) as sink:
        sink.write(Window(10, 11, 20, 25), Block(np.full((1, 5), 3, np.uint8), None, None))
        assert sink.finish()[1] == (15, 0, 0, 5, 0)
