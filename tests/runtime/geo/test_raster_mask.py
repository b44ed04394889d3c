"""Rasters as masks: which pixels of a scene they want, placed by their georeference."""

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.control
import shapely
from rasterio import warp

from spectraldiff_runtime.errors import SceneError, UsageError
from spectraldiff_runtime.gdal import quiet_gdal
from spectraldiff_runtime.geo.georeference import Georeference, apply_transform
from spectraldiff_runtime.geo.masks import open_mask
from spectraldiff_runtime.geo.polygon_mask import PolygonMask
from spectraldiff_runtime.geo.raster_mask import Grid, RasterMask
from spectraldiff_runtime.mapping.request import RegionOptions
from spectraldiff_runtime.window import Window

HEIGHT, WIDTH = 40, 50
PLACE = rasterio.Affine(30.0, 0.0, 500_000.0, 0.0, -30.0, 5_000_000.0)
TURNED = rasterio.Affine(25.0, 9.0, 500_000.0, 9.0, -25.0, 5_000_000.0)
WHOLE = Window(0, HEIGHT, 0, WIDTH)


def grid(transform=PLACE, crs="EPSG:32633", height=HEIGHT, width=WIDTH):
    return Grid(Georeference.of(crs, None if transform is None else tuple(transform)), height, width, "scene.tif")


def values(height=HEIGHT, width=WIDTH, kind="uint8"):
    rng = np.random.default_rng(4)
    return rng.integers(0, 4, (height // 3 + 1, width // 3 + 1)).repeat(3, 0).repeat(3, 1)[:height, :width].astype(kind)


def write(path, array, transform=PLACE, crs="EPSG:32633", **more):
    bands = array if array.ndim == 3 else array[None]
    with (
        quiet_gdal(),
        rasterio.open(path, "w", driver="GTiff", height=bands.shape[1], width=bands.shape[2], count=len(bands),
                      dtype=array.dtype, crs=crs, transform=transform, **more) as dataset,
    ):  # fmt: skip
        dataset.write(bands)
    return path


def nearest(scene, mask, mask_transform, mask_crs):
    """The value under each pixel's centre; None outside: pixel by pixel."""
    found = np.full((scene.height, scene.width), -1)
    rows, cols = np.mgrid[: scene.height, : scene.width] + 0.5
    xs, ys = apply_transform(scene.place.transform, cols.ravel(), rows.ravel())
    if mask_crs != scene.place.crs:
        xs, ys = map(np.array, warp.transform(scene.place.crs, mask_crs, xs, ys))
    at_x, at_y = apply_transform(~mask_transform, xs, ys)
    col, row = np.floor(at_x).astype(int), np.floor(at_y).astype(int)
    inside = (col >= 0) & (row >= 0) & (col < mask.shape[1]) & (row < mask.shape[0])
    found.ravel()[inside] = mask[row[inside], col[inside]]
    return found


def test_nonzero_or_chosen_values_on_the_same_grid(tmp_path):
    array = values()
    path = write(tmp_path / "m.tif", array)
    mask = RasterMask(path, None, grid())
    np.testing.assert_array_equal(mask.inside(WHOLE), array != 0)
    np.testing.assert_array_equal(mask.inside(Window(3, 9, 20, 31)), array[3:9, 20:31] != 0)
    chosen = RasterMask(path, (1, 3), grid())
    np.testing.assert_array_equal(chosen.inside(WHOLE), np.isin(array, (1, 3)))
    assert chosen.pixels == np.isin(array, (1, 3)).sum()
    assert chosen.fingerprint() != mask.fingerprint()
    assert RasterMask(path, None, grid()).fingerprint() == mask.fingerprint()


@pytest.mark.parametrize("scene", [PLACE, TURNED])
@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        (rasterio.Affine(10.0, 0.0, 499_900.0, 0.0, -10.0, 5_000_200.0), "EPSG:32633"),  # finer, larger
        (rasterio.Affine(47.0, 0.0, 500_211.0, 0.0, -53.0, 4_999_803.0), "EPSG:32633"),  # coarser, not over all of it
        (rasterio.Affine(0.0004, 0.0, 14.9985, 0.0, -0.0004, 45.156), "EPSG:4326"),
    ],
)
def test_any_grid_and_crs(tmp_path, scene, transform, crs):
    array = values(190, 220)
    path = write(tmp_path / "m.tif", array, transform, crs)
    wanted = nearest(grid(scene), array, transform, crs)
    assert (wanted >= 0).any()
    for chosen in (None, (0.0, 2.0)):
        mask = RasterMask(path, chosen, grid(scene))
        right = wanted > 0 if chosen is None else np.isin(wanted, chosen)
        found = mask.inside(WHOLE)
        assert (found != right).mean() < (0.004 if crs == "EPSG:4326" else 1e-9)
        np.testing.assert_array_equal(mask.inside(Window(5, 21, 7, 40)), found[5:21, 7:40])


def test_the_window_and_what_it_touches(tmp_path):
    array = np.zeros((700, 600), np.uint8)
    array[300:310, 420:450] = 1
    array[512, 599] = 1
    size = {"height": 700, "width": 600}
    mask = RasterMask(write(tmp_path / "m.tif", array), None, grid(**size))
    assert mask.window == Window(300, 513, 420, 600)
    assert mask.touches(Window(256, 384, 384, 512))
    assert not mask.touches(Window(0, 256, 0, 600))
    assert not mask.touches(Window(300, 310, 0, 384))
    region = RegionOptions(mask=tmp_path / "m.tif").find(_scene(grid(**size)))
    assert region.window == mask.window
    assert region.facts()["mask"]["pixels"] == 301


def _scene(where):
    class Scene:
        height, width, georeference, name = where.height, where.width, where.place, where.name

    return Scene()


def test_pixels_without_data_are_not_wanted(tmp_path):
    array = values()
    path = write(tmp_path / "m.tif", array, nodata=2)
    np.testing.assert_array_equal(RasterMask(path, None, grid()).inside(WHOLE), (array != 0) & (array != 2))
    np.testing.assert_array_equal(RasterMask(path, (2,), grid()).inside(WHOLE), array == 2)  # asked for by name
    moved = rasterio.Affine(30.0, 0.0, PLACE.c - 30, 0.0, -30.0, PLACE.f)
    shifted = RasterMask(path, None, grid(moved)).inside(WHOLE)
    np.testing.assert_array_equal(shifted[:, 1:], ((array != 0) & (array != 2))[:, :-1])
    assert not shifted[:, 0].any()
    with pytest.raises(UsageError, match="--mask-values has 2, which marks missing pixels"):
        RasterMask(path, (2,), grid(moved))


def test_numbers_with_a_point_and_none(tmp_path):
    array = values(kind="float32")
    array[array == 1] = np.nan
    array[0, 0] = 0.5
    mask = RasterMask(write(tmp_path / "m.tif", array), None, grid())
    np.testing.assert_array_equal(mask.inside(WHOLE), np.isfinite(array) & (array != 0))
    assert RasterMask(tmp_path / "m.tif", (0.5,), grid()).pixels == 1


def test_a_mask_hidden_by_its_own_mask(tmp_path):
    array = np.ones((HEIGHT, WIDTH), np.uint8)
    path = tmp_path / "m.tif"
    with quiet_gdal(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write(path, array)
        with rasterio.open(path, "r+") as dataset:
            dataset.write_mask(np.arange(WIDTH) % 2 * 255 * np.ones((HEIGHT, 1), np.uint8))
    np.testing.assert_array_equal(RasterMask(path, None, grid()).inside(WHOLE)[7], np.arange(WIDTH) % 2 == 1)
    moved = rasterio.Affine(30.0, 0.0, PLACE.c - 30, 0.0, -30.0, PLACE.f)
    np.testing.assert_array_equal(
        RasterMask(path, None, grid(moved)).inside(WHOLE)[7, 1:], np.arange(WIDTH - 1) % 2 == 1
    )


def test_longitudes_counted_from_elsewhere(tmp_path):
    scene = grid(rasterio.Affine(0.5, 0.0, 350.0, 0.0, -0.5, 10.0), "EPSG:4326")
    array = values()
    path = write(tmp_path / "m.tif", array, rasterio.Affine(0.5, 0.0, -10.0, 0.0, -0.5, 10.0), "EPSG:4326")
    np.testing.assert_array_equal(RasterMask(path, None, scene).inside(WHOLE), array != 0)


@pytest.mark.parametrize("shift", [0.0, 90.0])
def test_a_crs_with_heights_is_the_same_place(tmp_path, shift):
    array, columns = values(), int(shift // 30)
    path = write(tmp_path / "m.tif", array, PLACE, "EPSG:32633+5773")
    moved = rasterio.Affine(30.0, 0.0, PLACE.c + shift, 0.0, -30.0, PLACE.f)
    found = RasterMask(path, None, grid(moved)).inside(WHOLE)
    np.testing.assert_array_equal(found[:, : WIDTH - columns], array[:, columns:] != 0)


def test_without_a_place_the_sizes_must_be_equal(tmp_path):
    array = values()
    path = write(tmp_path / "m.tif", array, rasterio.Affine.identity(), None)
    np.testing.assert_array_equal(RasterMask(path, None, grid()).inside(WHOLE), array != 0)
    np.testing.assert_array_equal(RasterMask(path, None, grid(None, None)).inside(WHOLE), array != 0)
    with pytest.raises(
        UsageError, match=r"the mask '.*m.tif' has no transform that says where it lies.*40 x 50.*31 x 50"
    ):
        RasterMask(path, None, grid(height=31))
    path = write(tmp_path / "placed.tif", array)
    with pytest.raises(UsageError, match=r"'scene.tif' has no transform that says where it lies"):
        RasterMask(path, None, grid(None, None, height=31))


def test_ground_control_points_place_no_mask(tmp_path):
    path = write(tmp_path / "m.tif", values(), rasterio.Affine.identity(), None)
    corners = [(0, 0), (0, WIDTH), (HEIGHT, 0), (HEIGHT, WIDTH)]
    points = [rasterio.control.GroundControlPoint(r, c, *apply_transform(PLACE, c, r)) for r, c in corners]
    with quiet_gdal(), rasterio.open(path, "r+") as dataset:
        dataset.gcps = points, rasterio.crs.CRS.from_epsg(32633)
    with pytest.raises(UsageError, match=r"has no transform that says where it lies.*gdalwarp places"):
        RasterMask(path, None, grid())


def test_what_is_refused(tmp_path):
    array = values()
    with pytest.raises(SceneError, match=r"has 2 bands: wanted one; name a band of it as vrt://"):
        RasterMask(write(tmp_path / "two.tif", np.stack([array, array])), None, grid())
    assert RasterMask(f"vrt://{tmp_path / 'two.tif'}?bands=2", None, grid()).pixels
    with pytest.raises(SceneError, match="no pixel of the scene is nonzero in the mask"):
        RasterMask(write(tmp_path / "none.tif", array * 0), None, grid())
    with pytest.raises(SceneError, match="no pixel of the scene is 7 or 9 in the mask"):
        RasterMask(write(tmp_path / "some.tif", array), (7, 9), grid())
    far = rasterio.Affine(30.0, 0.0, 900_000.0, 0.0, -30.0, 5_000_000.0)
    with pytest.raises(SceneError, match=r"covers 900000 .* and 'scene.tif' covers 500000"):
        RasterMask(write(tmp_path / "far.tif", array, far), None, grid())
    with pytest.raises(SceneError, match=r"the mask '.*' has no CRS: wanted one"):
        RasterMask(write(tmp_path / "lost.tif", array, far, None), None, grid())
    with pytest.raises(SceneError, match="cannot be opened as a raster"):
        RasterMask(tmp_path / "missing.tif", None, grid())


def test_polygons_or_raster(tmp_path):
    area = shapely.box(500_100, 4_999_400, 500_700, 4_999_900)
    pyogrio.raw.write(tmp_path / "a.gpkg", shapely.to_wkb(np.array([area])), [], [], geometry_type="Polygon",
                      crs="EPSG:32633")  # fmt: skip
    assert isinstance(open_mask(tmp_path / "a.gpkg", None, grid()), PolygonMask)
    assert isinstance(open_mask(write(tmp_path / "m.tif", values()), None, grid()), RasterMask)
    with pytest.raises(UsageError, match=r"--mask-values is for rasters and '.*a.gpkg' is none"):
        open_mask(tmp_path / "a.gpkg", (1,), grid())
    with pytest.raises(SceneError, match="does not exist"):
        open_mask(tmp_path / "missing.gpkg", None, grid())


def test_values_without_a_mask():
    with pytest.raises(UsageError, match="--mask-values was given without --mask"):
        RegionOptions.of(None, None, None, None, (1,))
    with pytest.raises(UsageError, match="mask_values is"):
        RegionOptions.of(None, None, None, "m.tif", "ab")
