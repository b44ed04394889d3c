"""Which pixels are meant: boxes, windows and polygons, against twins that look at one pixel at a time."""

import math
import pickle
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.warp import transform as reproject

from spectraldiff_runtime.errors import SceneError, UsageError
from spectraldiff_runtime.geo.bounds import choose_window
from spectraldiff_runtime.geo.georeference import Georeference, moved
from spectraldiff_runtime.geo.polygon_mask import AreaMask
from spectraldiff_runtime.window import Window, tiles_of

HEIGHT, WIDTH = 29, 37
UTM = rasterio.Affine(20.0, 0.0, 480_000.0, 0.0, -20.0, 4_470_000.0)
PLACE = Georeference("EPSG:32616", UTM)
PIXELS = Georeference(None, rasterio.Affine(1, 0, 0, 0, 1, 0))
TRANSFORMS = {
    "utm": UTM,
    "tenths": rasterio.Affine(0.1, 0, -180, 0, -0.1, 90),
    "thirds": rasterio.Affine(1 / 3, 0, -123.4, 0, -1 / 3, 45.6),
    "arc second": rasterio.Affine(1 / 3600, 0, 11.1, 0, -1 / 3600, 48.3),
    "south up": rasterio.Affine(0.3, 0, 691_234.7, 0, 0.3, 5_334_567.9),
    "east to west": rasterio.Affine(-0.7, 0, 100.1, 0, -0.7, 10.3),
    "a quarter turn": rasterio.Affine(0, 0.1, 10, 0.1, 0, 50),
}


def at(transform, x, y):
    """Return where a place in pixel coordinates is on the map."""
    return transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f


def turned(transform, degrees):
    """Turn a transform around the scene's first corner."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    a, b, c, d, e, f = transform[:6]
    return rasterio.Affine(a * cos + b * sin, b * cos - a * sin, c, d * cos + e * sin, e * cos - d * sin, f)


def box_of(transform, window):
    """Return what a window covers."""
    corners = [at(transform, col, row) for col in (window.col0, window.col1) for row in (window.row0, window.row1)]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def choose(place=PLACE, height=HEIGHT, width=WIDTH, **how):
    return choose_window(height, width, place, "scene.tif", **how)


def random_window(rng, height=HEIGHT, width=WIDTH):
    row0, col0 = int(rng.integers(height)), int(rng.integers(width))
    return Window(row0, int(rng.integers(row0, height)) + 1, col0, int(rng.integers(col0, width)) + 1)


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
        AreaMask(tmp_path / "any.gpkg", place, HEIGHT, WIDTH, "scene.tif")


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


def centres_in(place, height, width, crs):
    """Return where the centres of all pixels lie in another CRS, as two arrays (H, W)."""
    rows, cols = np.mgrid[:height, :width] + 0.5
    xs, ys = at(place.transform, cols.ravel(), rows.ravel())
    there = reproject(place.crs, crs, xs.tolist(), ys.tolist())
    return np.reshape(there[0], (height, width)), np.reshape(there[1], (height, width))


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


def test_swapped_coordinates_show_both_extents():
    with pytest.raises(
        SceneError, match=r"--bounds 40.1 -87 40.4 -86 hold no pixel.*covers -87\.\d+ 40.* in EPSG:4326"
    ):
        choose(bounds=(40.1, -87, 40.4, -86), bounds_crs="EPSG:4326")


def test_a_part_lies_where_it_lay():
    window = Window(5, 20, 7, 30)
    for transform in [*TRANSFORMS.values(), turned(UTM, 17)]:
        part = moved(Georeference("EPSG:32616", transform), window)
        assert part.crs == "EPSG:32616"
        np.testing.assert_allclose(at(part.transform, 2, 3), at(transform, 9, 8), rtol=1e-14)


def test_control_points_and_rpcs_move_too():
    rpcs = RPC(0, 1, 0, 1, [1.0], [1.0], 100.0, 50.0, 0, 1, [1.0], [1.0], 200.0, 60.0)
    points = (GroundControlPoint(5, 7, 10, 50, 3, "a", "info"), GroundControlPoint(0, 0, 11, 51))
    part = moved(Georeference(None, None, points, "EPSG:4326", rpcs), Window(5, 20, 7, 30))
    first, second = part.gcps
    assert (first.row, first.col, first.x, first.y, first.z, first.id, first.info) == (0, 0, 10, 50, 3, "a", "info")
    assert (second.row, second.col) == (-5, -7)
    assert (part.transform, part.gcps_crs) == (None, "EPSG:4326")
    assert (part.rpcs.line_off, part.rpcs.samp_off) == (95.0, 193.0)
    assert (part.rpcs.line_scale, rpcs.line_off, points[0].row) == (50.0, 100.0, 5)
    assert moved(Georeference(), Window(1, 2, 1, 2)) == Georeference()


@pytest.fixture
def write_shapes(tmp_path):
    """Write Shapely geometries as a vector file."""

    def write(*shapes, name="aoi.gpkg", crs="EPSG:32616", **options) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pyogrio.raw.write(
                tmp_path / name, shapely.to_wkb(np.array(shapes, object)), field_data=[], fields=[], crs=crs,
                **{"geometry_type": "Unknown", **options},
            )  # fmt: skip
        return tmp_path / name

    return write


def on_map(shape, transform=UTM):
    """Bring a shape from pixel to map coordinates."""
    return shapely.transform(shape, lambda points: np.stack(at(transform, *points.T), 1))


def mask_of(path, place=PLACE, height=HEIGHT, width=WIDTH):
    return AreaMask(path, place, height, width, "scene.tif")


def twin(shapes, window):
    """Ask for the centre of each pixel on its own."""
    rows, cols = np.mgrid[window.row0 : window.row1, window.col0 : window.col1] + 0.5
    return shapely.contains_xy(shapely.union_all(shapes), cols, rows)


WHOLE = Window(0, HEIGHT, 0, WIDTH)
RING = shapely.Polygon(
    [(4.2, 3.1), (30.7, 6.3), (25.1, 27.8), (3.3, 20.2)], [[(10.1, 10.2), (18.3, 11.4), (14.6, 17.9)]]
)
DISC = shapely.Point(28.3, 8.7).buffer(6.1)


def star(rng, height=HEIGHT, width=WIDTH):
    """Return a polygon with many long edges, which may leave the scene."""
    angles = np.sort(rng.uniform(0, 2 * math.pi, 40))
    radii = rng.uniform(0.1, 1, 40) * width
    return shapely.make_valid(
        shapely.Polygon(np.stack([width / 2 + radii * np.cos(angles), height / 2 + radii * np.sin(angles)], 1))
    )


@pytest.mark.parametrize("name", ["aoi.gpkg", "aoi.shp", "ümläut und mehr.fgb"])
def test_a_pixel_is_inside_where_its_centre_is(write_shapes, name):
    mask = mask_of(write_shapes(on_map(RING), on_map(DISC), name=name, geometry_type="Polygon"))
    wanted = twin([RING, DISC], WHOLE)
    np.testing.assert_array_equal(mask.inside(WHOLE), wanted)
    assert mask.inside(WHOLE).dtype == bool
    rows, _ = np.nonzero(wanted)
    assert mask.window.row0 <= rows.min() < rows.max() < mask.window.row1
    assert (mask.window.col0, mask.window.row0) == (3, 3)


def test_geojson_lies_in_longitude_and_latitude(write_shapes):
    lon, lat = centres_in(PLACE, HEIGHT, WIDTH, "EPSG:4326")
    triangle = shapely.Polygon([(lon[3, 3], lat[3, 3]), (lon[5, 33], lat[5, 33]), (lon[25, 20], lat[25, 20])])
    mask = mask_of(write_shapes(triangle, name="aoi.geojson", crs="EPSG:4326"))
    inside = mask.inside(WHOLE)
    wanted = shapely.contains_xy(triangle, lon, lat)
    sure = shapely.distance(triangle.boundary, shapely.points(lon, lat)) > 1e-6
    np.testing.assert_array_equal(inside[sure], wanted[sure])
    assert wanted.sum() > 100


@pytest.mark.parametrize("name", TRANSFORMS)
def test_awkward_transforms(write_shapes, name):
    place = Georeference(None, turned(TRANSFORMS[name], 11))
    mask = mask_of(write_shapes(on_map(RING, place.transform), crs=None), place)
    np.testing.assert_array_equal(mask.inside(WHOLE), twin([RING], WHOLE))


@pytest.mark.parametrize("seed", range(5))
def test_any_tiling_gives_the_same_mask(write_shapes, seed):
    rng = np.random.default_rng(seed)
    shapes = [star(rng, 150, 210) for _ in range(4)]
    # Crossings that fall on centres, as exactly as thirds and halves allow.
    shapes += [shapely.Polygon([(100 / 3, 0.5), (500 / 3, 140.5), (0.5, 99.5)]), shapely.box(10.5, 20.5, 60.5, 80.5)]
    mask = mask_of(write_shapes(*shapes, crs=None), PIXELS, 150, 210)
    whole = mask.inside(Window(0, 150, 0, 210))
    windows = [window for tile in (7, 64, 101) for window in tiles_of(Window(0, 150, 0, 210), tile)]
    for window in [*windows, *(random_window(rng, 150, 210) for _ in range(50))]:
        part = mask.inside(window)
        np.testing.assert_array_equal(part, whole[window.row0 : window.row1, window.col0 : window.col1])
        assert mask.touches(window) or not part.any()


def test_many_polygons_at_once(write_shapes):
    rng = np.random.default_rng(4)
    shapes = [shapely.Point(*rng.uniform(0, 300, 2)).buffer(rng.uniform(0.2, 4)) for _ in range(3000)]
    mask = mask_of(write_shapes(*shapes, crs=None), PIXELS, 300, 300)
    whole = Window(0, 300, 0, 300)
    np.testing.assert_array_equal(mask.inside(whole), twin(shapes, whole))
    window = Window(100, 117, 203, 264)
    np.testing.assert_array_equal(mask.inside(window), twin(shapes, window))


def test_neighbours_share_no_pixel_and_leave_none_out(write_shapes, tmp_path):
    points = np.random.default_rng(5).uniform(-20, 60, (60, 2)).round(1) + 0.5
    cells = shapely.get_parts(shapely.delaunay_triangles(shapely.multipoints(points)))
    cells = cells[shapely.intersects(cells, shapely.box(0.6, 0.6, WIDTH - 0.6, HEIGHT - 0.6))]
    count = np.zeros((HEIGHT, WIDTH), int)
    for number, cell in enumerate(cells):
        # With a pixel that is left out below, so that cells without a centre are no error.
        path = write_shapes(cell, shapely.box(0, 0, 1, 1), crs=None, name=f"{number}.gpkg")
        part = mask_of(path, PIXELS).inside(WHOLE)
        part[0, 0] = False
        count += part
    wanted = twin(cells, WHOLE)
    wanted[0, 0] = False
    together = mask_of(write_shapes(*cells, crs=None), PIXELS).inside(WHOLE)
    assert count.max() == 1
    assert count.sum() > 1000
    assert (count >= wanted).all()
    np.testing.assert_array_equal(count[1:], together[1:])


def test_a_centre_on_an_edge_belongs_to_the_polygon_to_its_right_or_below(write_shapes):
    mask = mask_of(write_shapes(shapely.box(2.5, 3.5, 5.5, 7.5), crs=None), PIXELS)
    wanted = np.zeros((HEIGHT, WIDTH), bool)
    wanted[3:7, 2:5] = True
    np.testing.assert_array_equal(mask.inside(WHOLE), wanted)
    assert mask.window == Window(3, 7, 2, 5)


BOW_TIE = shapely.Polygon([(2.1, 2.2), (20.3, 20.1), (20, 2.4), (2.2, 20.3)])


@pytest.mark.parametrize(
    ("shapes", "same_as"),
    [
        ([shapely.MultiPolygon([RING, shapely.box(31, 20, 35, 27)])], [RING, shapely.box(31, 20, 35, 27)]),
        ([shapely.MultiPolygon([RING, DISC])], [RING, DISC]),  # whose parts overlap, which is not valid
        ([shapely.force_3d(RING, 5.0)], [RING]),
        ([BOW_TIE], [shapely.make_valid(BOW_TIE)]),
        ([RING, None, shapely.Polygon(), shapely.Point(1, 1), shapely.LineString([(0, 0), (9, 9)])], [RING]),
        ([shapely.GeometryCollection([shapely.GeometryCollection([RING]), shapely.Point(0, 0), DISC])], [RING, DISC]),
        ([RING.reverse(), RING], [RING]),
        ([shapely.box(-1e6, -1e6, 1e6, 1e6)], [shapely.box(-9, -9, 99, 99)]),
    ],
    ids=["multi", "overlapping parts", "3-D", "bow-tie", "mixed", "collection", "twice", "larger than the scene"],
)
def test_polygons_of_every_kind(write_shapes, shapes, same_as):
    mask = mask_of(write_shapes(*shapes, crs=None), PIXELS)
    np.testing.assert_array_equal(mask.inside(WHOLE), twin(same_as, WHOLE))


def test_arcs_become_lines(tmp_path):
    circle = "CURVEPOLYGON(CIRCULARSTRING(5.1 14.3,15.1 4.3,25.1 14.3,15.1 24.3,5.1 14.3))"
    (tmp_path / "aoi.csv").write_text(f'id,WKT\n1,"{circle}"\n')
    rows, cols = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    distance = np.hypot(cols - 15.1, rows - 14.3)
    inside = mask_of(tmp_path / "aoi.csv", PIXELS).inside(WHOLE)
    sure = abs(distance - 10) > 0.05
    np.testing.assert_array_equal(inside[sure], (distance < 10)[sure])


def test_polygons_of_all_layers_count(write_shapes):
    write_shapes(on_map(RING), layer="fields")
    write_shapes(shapely.Point(480_000, 4_469_990), layer="wells")
    path = write_shapes(on_map(DISC), layer="lakes")
    assert len(pyogrio.list_layers(path)) == 3
    np.testing.assert_array_equal(mask_of(path).inside(WHOLE), twin([RING, DISC], WHOLE))


def test_layers_in_different_crs(write_shapes):
    lon, lat = centres_in(PLACE, HEIGHT, WIDTH, "EPSG:4326")
    write_shapes(on_map(shapely.box(1, 1, 9, 9)), layer="fields")
    path = write_shapes(shapely.box(lon.min(), lat[25, 0], lon.max(), lat[20, 0]), layer="lakes", crs="EPSG:4326")
    inside = mask_of(path).inside(WHOLE)
    assert inside[1:9, 1:9].all()
    assert inside[21:25].all()
    assert not inside[10:19].any()


def test_straight_edges_in_another_crs_are_bent(write_shapes):
    place = Georeference("EPSG:32616", rasterio.Affine(4000, 0, 250_000, 0, -4000, 6_700_000))
    lon, lat = centres_in(place, 120, 125, "EPSG:4326")
    box = shapely.box(-90.5, 57.003, -84.01, 59.004)
    mask = mask_of(write_shapes(box, crs="EPSG:4326"), place, 120, 125)
    sure = shapely.distance(box.boundary, shapely.points(lon, lat)) > 1e-4
    wanted = shapely.contains_xy(box, lon, lat)
    np.testing.assert_array_equal(mask.inside(Window(0, 120, 0, 125))[sure], wanted[sure])


def test_a_polygon_of_the_world_and_one_across_the_180th_meridian(write_shapes):
    world = write_shapes(shapely.box(-180, -90, 180, 90), crs="EPSG:4326", name="world.gpkg")
    assert mask_of(world).inside(WHOLE).all()
    scene = Georeference("EPSG:32760", rasterio.Affine(1000, 0, 600_000, 0, -1000, 8_200_000))
    halves = [shapely.box(179, -19, 180, -17), shapely.box(-180, -19, -179, -17)]
    mask = mask_of(write_shapes(*halves, crs="EPSG:4326"), scene, 200, 400)
    lon, lat = centres_in(scene, 200, 400, "EPSG:4326")
    wanted = (abs(lon) > 179) & (lat > -19) & (lat < -17)
    sure = (abs(abs(lon) - 179) > 1e-4) & (abs(lat + 19) > 1e-4) & (abs(lat + 17) > 1e-4) & (180 - abs(lon) > 1e-4)
    np.testing.assert_array_equal(mask.inside(Window(0, 200, 0, 400))[sure], wanted[sure])
    assert wanted.sum() > 10_000


def test_the_window_ends_at_the_scene(write_shapes):
    far = shapely.box(1000, 1000, 2000, 2000)
    mask = mask_of(write_shapes(shapely.box(-50, 20, 5, 90), far, crs=None), PIXELS)
    assert mask.window == Window(20, HEIGHT, 0, 5)
    assert mask.touches(mask.window)
    assert not mask.touches(Window(0, 20, 0, WIDTH))
    assert not mask.touches(Window(0, HEIGHT, 5, WIDTH))
    assert not mask.inside(Window(0, 20, 0, WIDTH)).any()


def test_a_mask_travels_to_another_process(write_shapes):
    mask = mask_of(write_shapes(on_map(RING)))
    other = pickle.loads(pickle.dumps(mask))
    np.testing.assert_array_equal(other.inside(WHOLE), mask.inside(WHOLE))
    assert (other.window, other.fingerprint()) == (mask.window, mask.fingerprint())


def test_the_fingerprint_is_that_of_the_polygons(write_shapes, tmp_path):
    first = mask_of(write_shapes(on_map(RING))).fingerprint()
    assert (first["name"], first["polygons"], len(first["sha256"])) == ("aoi.gpkg", 1, 64)
    (tmp_path / "aoi.gpkg").unlink()
    assert mask_of(write_shapes(on_map(RING))).fingerprint() == first
    (tmp_path / "aoi.gpkg").unlink()
    assert mask_of(write_shapes(on_map(DISC))).fingerprint()["sha256"] != first["sha256"]
    (tmp_path / "aoi.gpkg").unlink()
    filled = shapely.Polygon(RING.exterior)
    assert mask_of(write_shapes(on_map(filled))).fingerprint()["sha256"] != first["sha256"]


def broken(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_files_that_are_no_mask(tmp_path, write_shapes, write_scene, capfd):
    whole = write_shapes(on_map(RING), name="whole.gpkg").read_bytes()
    empty = write_shapes(name="empty.gpkg")
    lines = write_shapes(shapely.Point(480_000, 4_469_990), shapely.LineString([(0, 0), (1, 1)]), name="lines.gpkg")
    nowhere = shapely.Polygon([(0, 0), (1, 0), (math.inf, 1)])
    cases = [
        (tmp_path / "missing.gpkg", "does not exist"),
        (tmp_path, "cannot be read as a vector file"),
        (write_scene(), "cannot be read as a vector file"),
        (broken(tmp_path / "aoi.txt", b"hello"), "cannot be read as a vector file"),
        (broken(tmp_path / "zero.gpkg", b""), "cannot be read as a vector file"),
        (broken(tmp_path / "cut.gpkg", whole[: len(whole) // 3]), "cannot be read as a vector file"),
        (broken(tmp_path / "bad.gpkg", b"SQLite format 3\0" + b"\1" * 3000), "cannot be read as a vector file"),
        (broken(tmp_path / "cut.geojson", b'{"type":"FeatureCollection","fea'), "cannot be read as a vector file"),
        (broken(tmp_path / "table.csv", b"id,b\n1,2\n"), "0 features and no polygon"),
        (empty, "0 features and no polygon"),
        (lines, "2 features and no polygon"),
        (write_shapes(on_map(RING), crs=None, name="none.gpkg"), "has no CRS and 'scene.tif' has one"),
        (write_shapes(nowhere, name="inf.gpkg"), "not finite"),
        (write_shapes(on_map(shapely.box(3.6, 3.6, 4.4, 4.4)), name="small.gpkg"), "no pixel's centre"),
        (write_shapes(shapely.box(0, 0, 9, 9), name="far.gpkg"), "9 9 in EPSG:32616 and 'scene.tif' covers 480000"),
        (write_shapes(shapely.box(40, -87, 41, -86), name="far.geojson", crs="EPSG:4326"), "covers -87"),
    ]  # fmt: skip
    capfd.readouterr()
    for path, message in cases:
        with pytest.raises(SceneError) as caught:
            mask_of(path)
        assert message in str(caught.value)
        assert "wanted" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_slivers_between_the_centres_hold_no_pixel(write_shapes):
    sliver = shapely.Polygon([(1, 1.2), (30, 25.2), (30, 25.21)])
    with pytest.raises(SceneError, match="no pixel's centre"):
        mask_of(write_shapes(sliver, crs=None), PIXELS)


def test_a_scene_without_crs_takes_no_mask_with_one(write_shapes):
    with pytest.raises(SceneError, match=r"'scene.tif' has no CRS and '.*' has one"):
        mask_of(write_shapes(on_map(RING)), Georeference(None, UTM))


def test_the_vector_libraries_load_with_a_mask_only(python):
    code = "import sys, spectraldiff_runtime.geo.polygon_mask; print(sorted({'shapely', 'pyogrio'} & set(sys.modules)))"
    assert python("-c", code).stdout == "[]\n"
