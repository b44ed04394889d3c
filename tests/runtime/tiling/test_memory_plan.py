"""Strips cover a window once, hold what their tiles need, and read no row twice."""

from dataclasses import dataclass, replace
from math import isqrt

import numpy as np
import pytest

from spectraldiff_runtime.errors import UsageError
from spectraldiff_runtime.tiling.memory_plan import MEGABYTE, STRIP_PIXELS, WAITING, GpuBudget, make_plan
from spectraldiff_runtime.tiling.plan import Plan, largest_tile, strips, tiles_of_strip
from spectraldiff_runtime.window import Window, source_window

PLAN = Plan(tile=16, batch=1, rows=8, columns=1000, cache=0, tile_columns=16)


@dataclass
class FakeScene:
    """Size, type and blocks are all that planning asks for."""

    height: int
    width: int
    count: int
    blocks: tuple[int, int]
    dtype = np.dtype(np.uint16)

    @property
    def bands(self):
        return tuple(range(1, self.count + 1))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (40, 33), (64, 20), (100, 100)])
@pytest.mark.parametrize("halo", [0, 2, 11, 30])
@pytest.mark.parametrize("rows", [1, 8, 13, 64])
@pytest.mark.parametrize("columns", [9, 1000])
@pytest.mark.parametrize("first", [0, 5, 30])
def test_parts_cover_the_scene_once_and_hold_what_they_need(height, width, halo, rows, columns, first):
    plan = replace(PLAN, rows=rows, columns=columns, first_row=first, first_column=first)
    covered, read = np.zeros((height, width), int), np.zeros((height, width), int)
    for strip in strips(Window(0, height, 0, width), plan, halo, height, width):
        out, source, (row, col) = strip.output, strip.source, strip.fresh
        covered[out.row0 : out.row1, out.col0 : out.col1] += 1
        need = source_window(out, halo, height, width)
        assert source.row0 <= need.row0 <= need.row1 <= source.row1
        assert source.col0 <= need.col0 <= need.col1 <= source.col1
        assert read[source.row0 : row, source.col0 : source.col1].all()  # what is not fresh was read before
        assert read[row : source.row1, source.col0 : col].all()
        read[row : source.row1, col : source.col1] += 1
        assert source.row1 == height or (source.row1 - first) % rows == 0
        assert source.col1 == width or (source.col1 - first) % columns == 0
        assert strip.keep <= source.row1
    assert (covered == 1).all()
    assert (read == 1).all()


@pytest.mark.parametrize("window", [Window(10, 30, 5, 25), Window(0, 1, 0, 40), Window(39, 40, 39, 40)])
def test_strips_of_a_window(window):
    covered = np.zeros((40, 40), int)
    for strip in strips(window, replace(PLAN, columns=7), 3, 40, 40):
        covered[strip.output.row0 : strip.output.row1, strip.output.col0 : strip.output.col1] += 1
    inside = np.zeros((40, 40), bool)
    inside[window.row0 : window.row1, window.col0 : window.col1] = True
    np.testing.assert_array_equal(covered, inside)


@pytest.mark.parametrize("tile", [1, 5, 16, 100])
def test_tiles_are_about_as_large_as_each_other(tile):
    strip = Window(3, 40, 0, 145)
    tiles = tiles_of_strip(strip, tile, tile)
    assert sum(t.height * t.width for t in tiles) == 37 * 145
    assert max(t.height for t in tiles) <= tile
    assert max(t.width for t in tiles) <= tile
    assert len(tiles) == -(-37 // tile) * -(-145 // tile) or tile == 1


@pytest.mark.parametrize(
    ("blocks", "shape", "columns"),
    [
        ((1, 8000), (8000, 8000), 8000),
        ((256, 256), (8000, 8000), None),
        ((512, 512), (8000, 8000), None),
        ((512, 512), (3000, 900), 900),
        ((1, 145), (145, 145), 145),
    ],
)
def test_parts_follow_the_blocks_and_memory_does_not_follow_the_scene(card, blocks, shape, columns):
    scene = FakeScene(*shape, 50, blocks)
    plan = make_plan(card, 1000, scene, Window(0, shape[0], 0, shape[1]))
    assert plan.rows % blocks[0] == 0
    assert plan.columns % blocks[1] == 0 or plan.columns >= shape[1]
    assert columns is None or plan.columns >= columns
    assert plan.rows * min(plan.columns, shape[1]) * 100 < 200 * MEGABYTE
    assert plan.rows * min(plan.columns, shape[1]) * 100 > 50 * MEGABYTE or shape[0] < 8000


@pytest.mark.parametrize("count", [50, 200, 400])
@pytest.mark.parametrize("blocks", [(1, 50_000), (512, 512), (9000, 9000)])
def test_what_is_held_fits_into_memory(card, blocks, count):
    scene = FakeScene(9000, 9000, count, (min(blocks[0], 9000), min(blocks[1], 9000)))
    plan = make_plan(card, 1000, scene, Window(0, 9000, 0, 9000), max_memory=2000 * MEGABYTE)
    assert plan.rows >= 1
    held = 3 * (plan.rows + 4) * (min(plan.columns, 9000) + 4) * count * 2
    assert held <= 0.25 * 1600 * MEGABYTE or plan.rows == 1


@pytest.mark.parametrize("blocks", [(256, 256), (16, 16)])
def test_parts_of_few_bands_are_not_larger_in_larger_scenes(card, blocks):
    few = replace(card, bands=4, fill=card.fill[:4])
    plans = [
        make_plan(few, 0, FakeScene(side, side, 4, blocks), Window(0, side, 0, side), max_memory=1000 * MEGABYTE)
        for side in (2000, 8000, 32_000)
    ]
    assert all(0.4 * STRIP_PIXELS < plan.rows * plan.columns <= STRIP_PIXELS for plan in plans)


def test_the_process_that_makes_the_rasters_has_room_at_the_end(card):
    """It waits while the model runs, and works when that has given its memory back."""
    scene, window = FakeScene(500, 500, 7, (1, 500)), Window(0, 500, 0, 500)
    hungry = replace(card, workspace=100_000.0, halo=10)
    plan = make_plan(hungry, 0, scene, window, max_memory=2000 * MEGABYTE, rasters=10**9)
    assert plan == make_plan(hungry, 0, scene, window, max_memory=2000 * MEGABYTE - WAITING)
    with pytest.raises(UsageError, match="what makes the rasters at the end: give at least 1330MB or a smaller --bloc"):
        make_plan(hungry, 0, scene, window, max_memory=1329 * MEGABYTE, rasters=10**9)
    make_plan(hungry, 0, scene, window, max_memory=1330 * MEGABYTE, rasters=10**9)


def test_what_is_held_anyway_is_taken_off(card):
    scene, window = FakeScene(500, 500, 7, (1, 500)), Window(0, 500, 0, 500)
    hungry = replace(card, workspace=100_000.0, halo=10)
    held = make_plan(hungry, 700 * MEGABYTE, scene, window, max_memory=2000 * MEGABYTE)
    assert held == make_plan(hungry, 0, scene, window, max_memory=1300 * MEGABYTE)
    assert held.tile < make_plan(hungry, 0, scene, window, max_memory=2000 * MEGABYTE).tile
    with pytest.raises(UsageError, match=r"--max-memory 1000MB .* at least 1[1-9]\d\dMB"):
        make_plan(hungry, 700 * MEGABYTE, scene, window, max_memory=1000 * MEGABYTE)


def test_less_memory_means_smaller_tiles_until_nothing_fits(card):
    scene, window = FakeScene(500, 500, 7, (1, 500)), Window(0, 500, 0, 500)
    hungry = replace(card, workspace=100_000.0, halo=10)
    plans = [make_plan(hungry, 0, scene, window, max_memory=m * MEGABYTE) for m in (4000, 2000, 1000, 600)]
    sizes = [plan.tile * plan.tile_columns for plan in plans]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1] >= 8 * 8
    with pytest.raises(UsageError, match=r"--max-memory 450MB .* at least (\d+)MB") as caught:
        make_plan(hungry, 0, scene, window, max_memory=450 * MEGABYTE)
    least = int(str(caught.value).split("at least ")[1].split("MB")[0])
    plan = make_plan(hungry, 0, scene, window, max_memory=least * MEGABYTE)
    assert (plan.tile + 20) * (plan.tile_columns + 20) <= 28**2
    with pytest.raises(UsageError, match=r"at least"):
        make_plan(hungry, 0, scene, window, max_memory=(least - 2) * MEGABYTE)


def test_parts_are_not_cut_into_halves(card):
    scene = FakeScene(1024, 1024, 200, (256, 256))
    plan = make_plan(replace(card, workspace=16_384.0, halo=18), 0, scene, Window(0, 1024, 0, 1024))
    assert plan.rows == 512
    assert plan.tile >= 247  # 512 and 494 rows in two


@pytest.mark.parametrize("blocks", [(256, 256), (512, 512), (1, 1024), (1024, 1024), (100, 300)])
@pytest.mark.parametrize("size", [(1024, 1024), (349, 1905), (145, 145), (30, 4000)])
def test_tiles_suit_the_parts_that_are_cut_into_them(card, blocks, size):
    """No more is computed than with square tiles that take as much memory; all are filled up to the largest."""
    wide = replace(card, workspace=16_384.0, halo=18)
    scene, window = (
        FakeScene(*size, 200, (min(blocks[0], size[0]), min(blocks[1], size[1]))),
        Window(0, size[0], 0, size[1]),
    )
    plan = make_plan(wide, 0, scene, window)
    square = isqrt((plan.tile + 36) * (plan.tile_columns + 36)) - 36

    def padded(rows, columns):
        tiles = [t for strip in strips(window, plan, 18, *size) for t in tiles_of_strip(strip.output, rows, columns)]
        assert sum(t.height * t.width for t in tiles) == size[0] * size[1]
        filled = (max(t.height for t in tiles) + 36) * (max(t.width for t in tiles) + 36)
        return len(tiles) * filled, filled

    total, largest = padded(plan.tile, plan.tile_columns)
    assert total <= 1.02 * padded(square, square)[0]
    assert largest * 16_384 <= 0.55 * 3600 * MEGABYTE


def computed_and_decoded(card, scene, window, memory=4000):
    """Return the pixels of all tiles and of the blocks that all parts need, by pixels of the window; and the plan."""
    plan, halo, size = make_plan(card, 0, scene, window, max_memory=memory * MEGABYTE), card.halo, scene.blocks
    whole, needed = (scene.height, scene.width), window.height * window.width
    parts, (high, wide) = list(strips(window, plan, halo, *whole)), largest_tile(window, plan, halo, *whole)
    tiles = [tile for part in parts for tile in tiles_of_strip(part.output, plan.tile, plan.tile_columns)]
    assert sum(tile.height * tile.width for tile in tiles) == needed
    decoded = 0
    for part in parts:
        (row, col), source = part.fresh, part.source
        blocks = -(-source.row1 // size[0]) - row // size[0], -(-source.col1 // size[1]) - col // size[1]
        decoded += blocks[0] * size[0] * blocks[1] * size[1]
    return len(tiles) * (high + 2 * halo) * (wide + 2 * halo) / needed, decoded / needed, plan


@pytest.mark.parametrize(
    ("size", "blocks", "window", "most", "before"),
    [
        ((1100, 550), (256, 256), None, 1.27, 1.466),
        ((1100, 550), (8, 550), None, 1.27, 1.466),
        ((1100, 550), (1, 550), None, 1.27, 1.466),
        ((2000, 2000), (256, 256), None, 1.29, 1.346),
        ((2000, 2000), (1, 2000), None, 1.27, 1.318),
        ((349, 1905), (1, 1905), None, 1.29, 1.492),
        ((3000, 900), (512, 512), None, 1.33, 1.435),
        ((1000, 1000), (32, 32), None, 1.26, 1.602),
        ((2000, 2000), (256, 256), Window(300, 1400, 700, 1250), 1.27, 1.842),
    ],
)
def test_no_few_rows_are_left_over_for_a_part_of_their_own(card, size, blocks, window, most, before):
    """`before` was computed where parts were as large as memory allowed, and the last one took what was left."""
    model = replace(card, bands=200, fill=(0.0,) * 200, workspace=17_867.0, halo=17)
    scene = FakeScene(*size, 200, blocks)
    computed, decoded, _ = computed_and_decoded(model, scene, window or Window(0, size[0], 0, size[1]))
    assert computed <= most < before
    assert decoded * 400 / 17_867 < before - computed + 0.08  # 1.05 to 2.6 times the window's pixels


def test_blocks_are_decoded_again_only_for_a_model_that_takes_longer(card):
    scene, window = FakeScene(1100, 550, 200, (256, 256)), Window(0, 1100, 0, 550)
    costly = replace(card, bands=200, fill=(0.0,) * 200, workspace=17_867.0, halo=17)
    cheap = replace(costly, workspace=1000.0)
    (less, again, _), (more, once, plan) = (computed_and_decoded(c, scene, window) for c in (costly, cheap))
    assert once == 1280 * 768 / (1100 * 550) < again
    assert more > less
    assert (plan.first_row, plan.first_column) == (0, 0)
    by_line = FakeScene(1100, 550, 200, (1, 550))  # where it costs nothing, any model
    computed, decoded, _ = computed_and_decoded(cheap, by_line, window)
    assert computed < 1.27 < more
    assert decoded == 1


@pytest.mark.parametrize("memory", [1000, 4000])
@pytest.mark.parametrize("blocks", [(256, 256), (512, 512), (1, 700), (64, 700), (700, 700)])
def test_even_parts_are_no_larger_than_memory_allows(card, blocks, memory):
    """The parts, with what is kept for others, take their share."""
    model = replace(card, bands=200, fill=(0.0,) * 200, workspace=17_867.0, halo=17)
    for height in range(300, 1600, 130):
        blocks = min(blocks[0], height), blocks[1]
        scene, window = FakeScene(height, 700, 200, blocks), Window(0, height, 0, 700)
        _, _, plan = computed_and_decoded(model, scene, window, memory)
        parts = [part.source for part in strips(window, plan, 17, height, 700)]
        share, kept = 0.22 * (memory - 400) * MEGABYTE, 4 * 17 * 700 * 400
        held = 3 * max(part.height * part.width for part in parts) * 400
        assert held <= max(share - kept, share / 2)


def test_square_tiles_take_no_more_memory():
    for tile, columns, halo in [(400, 205, 17), (1, 900, 3), (64, 64, 0), (17, 16, 0)]:
        side = replace(PLAN, tile=tile, tile_columns=columns).square(halo)
        assert (side + 2 * halo) ** 2 <= (tile + 2 * halo) * (columns + 2 * halo) < (side + 1 + 2 * halo) ** 2
        assert side >= 1


@pytest.mark.parametrize("width", [5_000, 10_000, 30_000])
def test_a_wide_scene_that_is_stored_by_line_is_read_in_parts_of_lines(card, width):
    """Parts of a few whole lines would compute many halos: 35 times the pixels of 10,000 columns."""
    wide, scene = replace(card, workspace=18_000.0, halo=17), FakeScene(2000, width, 200, (1, width))
    window = Window(0, 2000, 0, width)
    plan = make_plan(wide, 0, scene, window)
    parts = list(strips(window, plan, 17, 2000, width))
    tiles = [t for part in parts for t in tiles_of_strip(part.output, plan.tile, plan.tile_columns)]
    assert sum(t.height * t.width for t in tiles) == 2000 * width
    filled = (max(t.height for t in tiles) + 34) * (max(t.width for t in tiles) + 34)
    assert len(tiles) * filled < 1.7 * 2000 * width
    share, kept = 0.22 * 3600 * MEGABYTE, 4 * 17 * width * 400
    assert 3 * (plan.rows + 34) * (plan.columns + 34) * 400 <= max(share - kept, share / 2)


@pytest.mark.parametrize("limit", range(448, 700, 10))
def test_small_memory_and_wide_blocks_have_a_plan(card, limit):
    """The parts of a block became no narrower, and planning did not end."""
    deep, scene = replace(card, workspace=18_000.0, halo=17), FakeScene(500, 1500, 200, (256, 256))
    plan = make_plan(deep, 8 * MEGABYTE, scene, Window(0, 400, 0, 1500), max_memory=limit * MEGABYTE)
    parts = [part.output for part in strips(Window(0, 400, 0, 1500), plan, 17, 500, 1500)]
    assert sum(part.height * part.width for part in parts) == 400 * 1500


def test_what_the_user_asks_for_is_taken_or_refused(card):
    scene, window = FakeScene(500, 500, 7, (1, 500)), Window(0, 500, 0, 500)
    plan = make_plan(card, 0, scene, window, tile=37, batch=3)
    assert (plan.tile, plan.tile_columns, plan.batch) == (37, 37, 3)
    with pytest.raises(UsageError, match="smaller --tile or --batch"):
        make_plan(replace(card, workspace=1e5), 0, scene, window, tile=1000)


def test_a_plan_survives_json():
    assert Plan.of(PLAN.as_dict()) == PLAN
    older = {key: value for key, value in PLAN.as_dict().items() if not key.startswith("first_")}
    assert Plan.of(older) == PLAN  # a journal that was begun before parts could be even
    with pytest.raises(ValueError, match="tile"):
        Plan.of({**PLAN.as_dict(), "tile": 0})
    with pytest.raises(TypeError):
        Plan.of({"tile": 3})


def test_tiles_for_a_gpu(card):
    """Its memory bounds tiles for all runs under way; the host's only bounds what waits to be run."""
    scene, window = FakeScene(9000, 9000, 7, (512, 512)), Window(0, 9000, 0, 9000)
    hungry = replace(card, workspace=20_000.0, halo=4)

    def tile(gpu, memory=2000):
        return make_plan(hungry, 0, scene, window, max_memory=memory * MEGABYTE, gpu=gpu).tile

    assert tile(None) <= 96 < tile(GpuBudget(None, 2))
    assert tile(GpuBudget(None, 2)) == tile(GpuBudget(80 * 10**9, 2)) == 256
    sizes = [tile(GpuBudget(free, 2)) for free in (4 * 10**9, 2 * 10**9, 10**9, 10**8, 10)]
    assert sizes == sorted(sizes, reverse=True)
    assert 2 * 20_000 * (sizes[1] + 8) ** 2 <= 0.8 * 2 * 10**9 < 2 * 20_000 * (sizes[1] + 16) ** 2
    assert tile(GpuBudget(4 * 10**9, 1, 4)) == tile(GpuBudget(2 * 10**9, 2))
    assert sizes[-1] == 8
    assert tile(GpuBudget(None, 2), 401) < 256
    assert make_plan(hungry, 0, scene, window, tile=500, batch=3, gpu=GpuBudget(10**6, 2)).batch == 3


@pytest.mark.parametrize("tile", [5, 16, 64])
@pytest.mark.parametrize("window", [Window(0, 100, 0, 70), Window(13, 61, 7, 70), Window(99, 100, 0, 1)])
def test_every_tile_fits_into_the_largest(tile, window):
    plan = Plan(tile, 1, 32, 24, 0, tile)
    height, width = largest_tile(window, plan, 3, 100, 70)
    tiles = [t for strip in strips(window, plan, 3, 100, 70) for t in tiles_of_strip(strip.output, tile, tile)]
    assert (height, width) == (max(t.height for t in tiles), max(t.width for t in tiles))


def test_tiles_suit_the_batch_that_is_asked_for(card):
    scene, window = FakeScene(5000, 5000, 7, (512, 512)), Window(0, 5000, 0, 5000)
    hungry = replace(card, workspace=20_000.0, halo=4)
    for gpu in (None, GpuBudget(4 * 10**9, 2)):
        plans = [make_plan(hungry, 0, scene, window, batch=batch, gpu=gpu) for batch in (1, 2, 5, 16, 64)]
        assert [plan.batch for plan in plans] == [1, 2, 5, 16, 64]
        sizes = [plan.tile * plan.tile_columns for plan in plans]
        assert sizes == sorted(sizes, reverse=True)
        assert all(p.batch * (p.tile + 8) * (p.tile_columns + 8) * 20_000 < 2200 * MEGABYTE for p in plans)
    with pytest.raises(UsageError, match=r"on tiles of 8 pixels: give at least \d+MB or a smaller --tile or --batch"):
        make_plan(hungry, 0, scene, window, batch=10_000)


def test_a_tile_that_is_larger_than_the_scene_takes_no_more_memory(card):
    scene, hungry = FakeScene(500, 40, 7, (1, 500)), replace(card, workspace=1e5)
    window = Window(10, 110, 0, 40)
    plan = make_plan(hungry, 0, scene, window, tile=10**6, max_memory=2000 * MEGABYTE)
    assert plan == make_plan(hungry, 0, scene, window, tile=100, max_memory=2000 * MEGABYTE)
    assert (plan.tile, plan.tile_columns) == (100, 100)
