"""Which pixels polygons hold, against twins that look at one pixel at a time."""

import math
import pickle
import warnings
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.geo.polygon_mask import PolygonMask
from spectraldiff_runtime.window import Window, tiles_of
from tests.runtime.geo.places import (
    HEIGHT,
    PIXELS,
    PLACE,
    TRANSFORMS,
    UTM,
    WIDTH,
    at,
    centres_in,
    random_window,
    turned,
)


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
    return PolygonMask(path, place, height, width, "scene.tif")


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
        (broken(tmp_path / "table.csv", b"id,b\n1,2\n"), "has the columns id, b and no coordinates"),
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
