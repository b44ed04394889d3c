"""The files of one map, opened and removed together."""

import signal

import numpy as np
import pytest

from spectraldiff_runtime import outputs
from spectraldiff_runtime.results import Block
from spectraldiff_runtime.scene import ArrayScene
from spectraldiff_runtime.sinks import FileSink


@pytest.fixture
def sink(card, tmp_path):
    scene = ArrayScene(np.zeros((4, 5, 7), np.uint8))
    names = [tmp_path / name for name in ("classes.tif", "confidence.tif", "map.png")]
    return FileSink(card, scene, *names, overwrite=False)


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_ctrl_c_while_files_are_made(sink, tmp_path, monkeypatch, moment):
    """Just after a file came to be is when it is most easily forgotten."""
    made = []

    class Interrupting(type(tmp_path)):
        def write_bytes(self, data):
            made.append(super().write_bytes(data))
            if len(made) == moment:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(outputs, "Path", Interrupting)
    with pytest.raises(KeyboardInterrupt), sink:
        pytest.fail("the interrupt was lost")
    assert len(made) == 3
    assert list(tmp_path.iterdir()) == []


def test_all_files_appear_together(sink, tmp_path):
    with sink:
        sink.append(Block.empty(4, 5, 4, confidence=True, probabilities=False))
        assert all(path.name.startswith(".") for path in tmp_path.iterdir())
        sink.finish()
    assert {path.name for path in tmp_path.iterdir()} == {
        "classes.tif",
        "classes.tif.aux.xml",
        "confidence.tif",
        "map.png",
    }
