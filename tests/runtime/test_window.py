"""Windows, halos and reflection."""

import numpy as np
import pytest

from spectraldiff_runtime.window import Window, reach, reflect, source_window, tiles_of


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_reflect_is_numpys_pad(n):
    pad = 20
    wanted = np.pad(np.arange(n), pad, "reflect")
    np.testing.assert_array_equal(reflect(np.arange(-pad, n + pad), n), wanted)


@pytest.mark.parametrize(
    ("start", "stop", "halo", "n", "wanted"),
    [(0, 4, 2, 10, (0, 6)), (4, 6, 2, 10, (2, 8)), (8, 10, 3, 10, (5, 10)), (9, 10, 5, 10, (4, 10)),
     (0, 1, 9, 3, (0, 3)), (0, 1, 9, 1, (0, 1)), (0, 2**50, 9, 2**50, (0, 2**50)), (9, 2**50, 5, 2**50, (4, 2**50))],
)  # fmt: skip
def test_reach(start, stop, halo, n, wanted):
    assert reach(start, stop, halo, n) == wanted


def test_source_window():
    assert source_window(Window(0, 2, 4, 6), 1, 8, 6) == Window(0, 3, 3, 6)


@pytest.mark.parametrize("tile", [1, 3, 5, 100])
def test_tiles_cover_each_pixel_once(tile):
    seen = np.zeros((11, 13), int)
    for t in tiles_of(Window(0, 11, 0, 13), tile):
        assert t.row0 % tile == t.col0 % tile == 0
        seen[t.row0 : t.row1, t.col0 : t.col1] += 1
    assert (seen == 1).all()


def test_tiles_are_clipped_at_the_edges():
    assert tiles_of(Window(0, 3, 0, 5), 3) == [Window(0, 3, 0, 3), Window(0, 3, 3, 5)]
    assert tiles_of(Window(0, 3, 0, 5), 3)[1].width == 2
    assert Window(1, 4, 0, 5).height == 3
