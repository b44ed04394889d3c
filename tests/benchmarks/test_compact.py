"""The ground that students are shown in the benchmark is what its tables say, and is all that they are taught."""

import torch

from benchmarks.compact import Whole, block_of, fifth_of, figures, said
from spectraldiff_export.compact.ground import FIFTHS
from spectraldiff_export.compact.teaching import Lessons
from tests.export.compact.test_student import new, patch


def whole() -> Whole:
    ground = [patch(0, 30), patch(1, 30, scene=1)]
    student = new(ground)
    return Whole(ground, student, Lessons.of(student, ground))


def test_fifths_are_all_ground_and_blocks_are_counted_by_scene():
    found = whole()
    fifths = torch.stack([found.rows(lambda p, f=f: fifth_of(p, f)) for f in range(FIFTHS)])
    assert (fifths.sum(0) == 1).all()
    blocks = found.rows(block_of)
    assert len(blocks) == len(found.lessons.held) == 2 * (30 * 30 - 1)
    assert len(blocks.unique()) == 2 * 9
    assert all(len(fifths[:, blocks == block].unique()) == 2 for block in blocks.unique())


def test_what_is_shown_decides_what_is_known(capsys):
    """A student that saw one field alone takes the other one for it."""
    found = whole()
    test = found.rows(lambda p: p.test.numpy())
    everything = torch.ones_like(test, dtype=torch.bool)
    agreement, confident, own, full = figures(found, everything, everything)
    assert (confident, full) == (agreement, 100)
    assert min(agreement, own) > 99
    agreement, *_ = figures(found, test == 1, test == 2)
    assert agreement < 50
    said("row", [(1.0, 2.0), (3.0, 2.0)])
    assert capsys.readouterr().out == "| row | 2.00 +- 1.41 | 2.00 +- 0.00 |\n"
