"""Which pixels a box or a window means, against twins that look at one pixel at a time."""

import math
from itertools import pairwise

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.control import GroundControlPoint

from spectraldiff_runtime.errors import SceneError, UsageError
from spectraldiff_runtime.geo.bounds import choose_window
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.geo.polygon_mask import PolygonMask
from spectraldiff_runtime.window import Window
from tests.runtime.geo.places import (
    HEIGHT,
    PLACE,
    TRANSFORMS,
    UTM,
    WIDTH,
    at,
    centres_in,
    random_window,
    turned,
)


def box_of(transform, window):
    """Return what a window covers."""
    corners = [at(transform, col, row) for col in (window.col0, window.col1) for row in (window.row0, window.row1)]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def choose(place=PLACE, height=HEIGHT, width=WIDTH, **how):
    return choose_window(height, width, place, "scene.tif", **how)


def test_without_options_the_whole_scene_is_meant():
    assert choose() == Window(0, HEIGHT, 0, WIDTH)
    assert choose(Georeference()) == Window(0, HEIGHT, 0, WIDTH)


def test_a_window_counts_as_in_gdal_translate():
    assert choose(Georeference(), window=(3, 5, 20, 10)) == Window(5, 15, 3, 23)
    assert choose(window=(0, 0, WIDTH, HEIGHT)) == Window(0, HEIGHT, 0, WIDTH)


@pytest.mark.parametrize("window", [(-1, 0, 5, 5), (0, -1, 5, 5), (33, 0, 5, 5), (0, 25, 5, 5), (400, 400, 1, 1)])
def test_a_window_may_not_leave_the_scene(window):
    with pytest.raises(UsageError, match="37 columns and 29 rows"):
        choose(window=window)


@pytest.mark.parametrize("window", [(0, 0, 0, 5), (0, 0, 5, 0), (5, 5, -2, 3)])
def test_a_window_has_pixels(window):
    with pytest.raises(UsageError, match="has no pixels"):
        choose(window=window)


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_box_on_pixel_borders_gives_exactly_those_pixels(transform):
    rng = np.random.default_rng(0)
    for _ in range(200):
        window = random_window(rng, 1500, 2900)
        box = box_of(transform, window)
        assert choose(Georeference(None, transform), 1500, 2900, bounds=box) == window
        rounded = tuple(round(value, 7) for value in box)
        assert choose(Georeference(None, transform), 1500, 2900, bounds=rounded) == window


def test_pieces_put_together_again_are_the_scene():
    transform = TRANSFORMS["tenths"]
    rng = np.random.default_rng(1)
    cols = [0, *sorted(rng.choice(np.arange(1, 360), 7, replace=False).tolist()), 360]
    rows = [0, *sorted(rng.choice(np.arange(1, 180), 5, replace=False).tolist()), 180]
    count = np.zeros((180, 360), int)
    for col0, col1 in pairwise(cols):
        for row0, row1 in pairwise(rows):
            west, north = -180 + col0 / 10, 90 - row0 / 10  # as a person types them: -179.9, 89.3
            box = (west, 90 - row1 / 10, -180 + col1 / 10, north)
            piece = choose(Georeference("EPSG:4326", transform), 180, 360, bounds=box)
            count[piece.row0 : piece.row1, piece.col0 : piece.col1] += 1
    assert (count == 1).all()


@pytest.mark.parametrize("name", ["utm", "tenths", "south up", "east to west", "a quarter turn"])
def test_every_pixel_that_a_box_overlaps_is_chosen_and_no_other(name):
    transform = TRANSFORMS[name]
    rng = np.random.default_rng(2)
    for _ in range(20):
        cols, rows = np.sort(rng.uniform(-5, WIDTH + 5, 2)), np.sort(rng.uniform(-5, HEIGHT + 5, 2))
        corners = [at(transform, cols[0], rows[0]), at(transform, cols[1], rows[1])]
        box = tuple(np.min(corners, axis=0)) + tuple(np.max(corners, axis=0))
        chosen_cols = [c for c in range(WIDTH) if min(c + 1, cols[1]) - max(c, cols[0]) > 1e-3]
        chosen_rows = [r for r in range(HEIGHT) if min(r + 1, rows[1]) - max(r, rows[0]) > 1e-3]
        if chosen_cols and chosen_rows:
            wanted = Window(chosen_rows[0], chosen_rows[-1] + 1, chosen_cols[0], chosen_cols[-1] + 1)
            assert choose(Georeference(None, transform), bounds=box) == wanted


def test_a_rotated_transform_gives_the_window_around_what_the_box_overlaps():
    oblique = turned(UTM, 30)
    place = Georeference("EPSG:32616", oblique)
    centre = at(oblique, WIDTH / 2, HEIGHT / 2)
    box = (centre[0] - 90, centre[1] - 60, centre[0] + 110, centre[1] + 70)
    window = choose(place, bounds=box)
    overlapped = []
    for row in range(HEIGHT):
        for col in range(WIDTH):
            corners = ((col, row), (col + 1, row), (col + 1, row + 1), (col, row + 1))
            pixel = shapely.Polygon([at(oblique, *corner) for corner in corners])
            if pixel.intersection(shapely.box(*box)).area > 0:
                overlapped.append((row, col))
    rows, cols = np.array(overlapped).T
    assert window == Window(rows.min(), rows.max() + 1, cols.min(), cols.max() + 1)


def test_bounds_that_leave_the_scene_are_cut_off():
    assert choose(bounds=(0, 0, 480_100, 1e7)) == Window(0, HEIGHT, 0, 5)


def test_bounds_beside_the_scene_show_both_extents():
    with pytest.raises(
        SceneError, match=r"--bounds 1 2 3 4 hold no pixel.*480000 4469420 480740 4470000 in EPSG:32616"
    ):
        choose(bounds=(1, 2, 3, 4))
    west, south, _, north = box_of(UTM, Window(0, HEIGHT, 0, WIDTH))
    with pytest.raises(SceneError, match="hold no pixel"):
        choose(bounds=(west - 100, south, west, north))


def test_a_box_within_a_pixel_gives_that_pixel_and_one_within_the_rounding_none():
    assert choose(bounds=(480_025, 4_469_985, 480_025.001, 4_469_985.001)) == Window(0, 1, 1, 2)
    with pytest.raises(SceneError, match="hold no pixel"):
        choose(bounds=(480_019.999, 4_469_000, 480_020.001, 4_470_000))


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((2, 0, 1, 1), "west < east"),
        ((0, 2, 1, 1), "south < north"),
        ((0, 0, 0, 1), "no area"),
        ((math.nan, 0, 1, 1), "four finite numbers"),
        ((0, 0, math.inf, 1), "four finite numbers"),
        ((-1.7e308, -1.7e308, 1.7e308, 1.7e308), "too large"),
    ],
)
def test_bounds_that_cannot_be_meant(bounds, message):
    oblique = Georeference("EPSG:32616", rasterio.Affine(0.1, 0.2, 1, 0.2, -0.1, 1))
    with pytest.raises(UsageError, match=message):
        choose(oblique, bounds=bounds)


GCPS = (GroundControlPoint(0, 0, 10, 50), GroundControlPoint(9, 9, 11, 49), GroundControlPoint(0, 9, 11, 50))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (Georeference(), "no georeference.*gdal_edit"),
        (Georeference(gcps=GCPS, gcps_crs="EPSG:4326"), "only ground control points.*gdalwarp"),
        (Georeference(rpcs=object()), "only RPCs.*gdalwarp"),
        (Georeference(None, rasterio.Affine(1, 0, 5, 0, 0, 5)), "without area"),
    ],
)
def test_bounds_and_masks_want_a_transform(place, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        choose(place, bounds=(0, 0, 1, 1))
    with pytest.raises(UsageError, match=message):
        PolygonMask(tmp_path / "any.gpkg", place, HEIGHT, WIDTH, "scene.tif")


def test_options_that_exclude_each_other():
    with pytest.raises(UsageError, match="leave the other out"):
        choose(bounds=(0, 0, 1, 1), window=(0, 0, 1, 1))
    with pytest.raises(UsageError, match="without --bounds"):
        choose(bounds_crs="EPSG:4326")
    with pytest.raises(UsageError, match="without --bounds"):
        choose(bounds_crs="EPSG:4326", window=(0, 0, 1, 1))


@pytest.mark.parametrize("crs", ["EPSG:999999", "no such thing", ""])
def test_an_unknown_crs(crs, capfd):
    with pytest.raises(UsageError, match="no known CRS"):
        choose(bounds=(0, 0, 1, 1), bounds_crs=crs)
    assert capfd.readouterr() == ("", "")


def test_a_crs_of_bounds_needs_one_of_the_scene():
    with pytest.raises(UsageError, match="has no CRS"):
        choose(Georeference(None, UTM), bounds=(0, 0, 1, 1), bounds_crs="EPSG:4326")


def test_bounds_in_another_crs_follow_their_bent_sides():
    place = Georeference("EPSG:32616", rasterio.Affine(4000, 0, 250_000, 0, -4000, 6_700_000))
    lon, lat = centres_in(place, 120, 125, "EPSG:4326")
    for box in [(-90, 57, -85, 59), (-91, 56.2, -84, 60), (-88, 58, -87.9, 58.05)]:
        inside = (lon > box[0]) & (lon < box[2]) & (lat > box[1]) & (lat < box[3])
        rows, cols = np.nonzero(inside)
        window = choose(place, 120, 125, bounds=box, bounds_crs="EPSG:4326")
        found = np.array([window.row0, -window.row1, window.col0, -window.col1])
        lost = found - np.array([rows.min(), -rows.max() - 1, cols.min(), -cols.max() - 1])
        assert (lost <= 0).all()
        assert (lost >= -1).all()


def test_bounds_in_the_same_crs_by_another_name_are_exact():
    box = box_of(UTM, Window(3, 9, 4, 11))
    wkt = rasterio.crs.CRS.from_epsg(32616).to_wkt()
    assert choose(bounds=box, bounds_crs=wkt) == Window(3, 9, 4, 11)


def test_bounds_of_the_world_hold_the_whole_scene():
    assert choose(bounds=(-180, -90, 180, 90), bounds_crs="EPSG:4326") == Window(0, HEIGHT, 0, WIDTH)


def test_bounds_of_a_zone_on_a_scene_of_the_world():
    place = Georeference("EPSG:4326", rasterio.Affine(1, 0, -180, 0, -1, 90))
    window = choose(place, 180, 360, bounds=(400_000, 4_400_000, 600_000, 4_600_000), bounds_crs="EPSG:32616")
    assert window == Window(48, 51, 91, 95)


def test_bounds_across_the_180th_meridian():
    box = (600_000, -2_000_000 + 1e7, 1_000_000, -1_800_000 + 1e7)  # 177.9 to 181.8 degrees east
    for west, cols in [(170, (7, 12)), (-190, (7, 12)), (-180, (0, 2)), (160, (17, 20))]:
        place = Georeference("EPSG:4326", rasterio.Affine(1, 0, west, 0, -1, -10))
        window = choose(place, 20, 20, bounds=box, bounds_crs="EPSG:32760")
        assert (window.col0, window.col1) == cols
    scene = Georeference("EPSG:32760", rasterio.Affine(1000, 0, 600_000, 0, -1000, 8_200_000))
    lon, _ = centres_in(scene, 200, 400, "EPSG:4326")
    for box, chosen in [
        ((179, -19, 179.5, -17), (lon > 179) & (lon < 179.5)),
        ((-180, -19, -179.5, -17), lon < -179.5),
    ]:
        window = choose(scene, 200, 400, bounds=box, bounds_crs="EPSG:4326")
        cols = np.nonzero(chosen[90])[0]
        assert abs(window.col0 - cols.min()) <= 2
        assert abs(window.col1 - cols.max() - 1) <= 2


def test_longitudes_are_the_same_a_turn_further():
    for first, last in [(179, 181), (-181, -179)]:
        place = Georeference("EPSG:4326", rasterio.Affine(0.1, 0, first, 0, -0.1, 1))
        for west, east in [(179.5, -179.5), (179.5, 180.5), (-180.5, -179.5)]:
            window = choose(place, 20, 20, bounds=(west, -0.5, east, 0.5))
            assert window == Window(5, 15, 5, 15), (first, last, west, east)
            assert choose(place, 20, 20, bounds=(west, -0.5, east, 0.5), bounds_crs="EPSG:4269") == window
    zone = Georeference("EPSG:32760", rasterio.Affine(1000, 0, 600_000, 0, -1000, 8_200_000))
    across = choose(zone, 200, 400, bounds=(179.5, -19, -179.5, -17), bounds_crs="EPSG:4326")
    assert across == choose(zone, 200, 400, bounds=(179.5, -19, 180.5, -17), bounds_crs="EPSG:4326")
    west = choose(zone, 200, 400, bounds=(179.5, -19, 180, -17), bounds_crs="EPSG:4326")
    assert across.width > 1.5 * west.width
    around = Georeference("EPSG:4326", rasterio.Affine(1, 0, 0, 0, -1, 10))
    assert choose(around, 20, 360, bounds=(-90, -5, -80, 5)) == Window(5, 15, 270, 280)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32616", None])
def test_swapped_west_and_east_are_not_the_way_around_the_globe(crs):
    place = Georeference(crs, rasterio.Affine(0.1, 0, 10, 0, -0.1, 1))
    with pytest.raises(UsageError, match="wanted W S E N with west < east"):
        choose(place, 20, 20, bounds=(10.5, 0, 10.2, 1))


def test_bounds_that_cannot_be_reprojected():
    world = Georeference("EPSG:4326", rasterio.Affine(1, 0, -180, 0, -1, 90))
    with pytest.raises(SceneError, match=r"in EPSG:32616 cannot be reprojected to the scene in EPSG:4326"):
        choose(world, 180, 360, bounds=(0, 0, 1e12, 1e12), bounds_crs="EPSG:32616")


def test_a_scene_that_cannot_be_reprojected_shows_its_extent_in_its_own_crs():
    world = Georeference("EPSG:4326", rasterio.Affine(1, 0, 0, 0, -1, 90))
    box = (400_000, 4_400_000, 600_000, 4_600_000)  # 87 degrees west
    with pytest.raises(SceneError, match=r"hold no pixel of 'scene.tif', which covers 0 -90 180 90 in EPSG:4326: "):
        choose(world, 180, 180, bounds=box, bounds_crs="EPSG:32616")


def test_what_proj_says_of_a_crs_does_not_reach_the_terminal(capfd):
    """A grid of shifts that is none: the bounds are found to lie elsewhere, in one line."""
    odd = "+proj=longlat +nadgrids=/dev/zero"
    with pytest.raises(SceneError, match="hold no pixel"):
        choose(Georeference("EPSG:32616", UTM), bounds=(-87, 40, -86, 41), bounds_crs=odd)
    assert capfd.readouterr().err == ""


def test_swapped_coordinates_show_both_extents():
    with pytest.raises(
        SceneError, match=r"--bounds 40.1 -87 40.4 -86 hold no pixel.*covers -87\.\d+ 40.* in EPSG:4326"
    ):
        choose(bounds=(40.1, -87, 40.4, -86), bounds_crs="EPSG:4326")
