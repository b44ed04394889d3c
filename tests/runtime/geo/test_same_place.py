"""Places that are written differently: longitudes of 0 to 360, compound CRS, other PROJ data."""

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.crs import CRS

from spectraldiff.data.label_raster import check_grids, labels_on_grid
from spectraldiff.data.label_reader import read_own_labels
from spectraldiff.data.label_vectors import LabelFields
from spectraldiff_runtime.errors import LabelsError
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.geo.polygon_mask import PolygonMask
from spectraldiff_runtime.geo.reprojection import same_crs, scene_bounds

SHAPE = (40, 48)
EAST, WEST = (rasterio.Affine(0.0002, 0, west, 0, -0.0002, 40.4) for west in (272.7, -87.3))
STRIPES = np.zeros(SHAPE, np.uint8)
STRIPES[4:34, 2:10], STRIPES[4:34, 18:26] = 1, 2


def write_boxes(path, crs, transform=WEST):
    """Two boxes of pixels: columns 2 to 10 and 18 to 26."""
    boxes = [shapely.box(*(transform @ (col, 34)), *(transform @ (col + 8, 4))) for col in (2, 18)]
    if crs != "EPSG:4326":
        dense = shapely.segmentize(np.array(boxes), 0.001)
        boxes = shapely.transform(
            dense, lambda p: np.stack(rasterio.warp.transform("EPSG:4326", crs, *p.T.tolist()), axis=1)
        )
    pyogrio.raw.write(
        path, shapely.to_wkb(boxes), [np.array(["A", "B"], object)], ["class"], crs=crs, geometry_type="Polygon"
    )
    return path


@pytest.mark.parametrize("scene", [EAST, WEST])
@pytest.mark.parametrize("labels", [EAST, WEST])
def test_labels_and_masks_in_degrees_are_placed_wherever_they_are_counted_from(tmp_path, scene, labels):
    place = Georeference(CRS.from_epsg(4326), scene)
    path = write_boxes(tmp_path / "l.gpkg", "EPSG:4326", labels)
    found = read_own_labels(path, SHAPE, place, "scene.tif", LabelFields("class"))
    np.testing.assert_array_equal(found.labels, STRIPES)
    mask = PolygonMask(path, place, *SHAPE, "scene.tif")
    np.testing.assert_array_equal(mask.inside(mask.window), STRIPES[4:34, 2:26] > 0)


def test_projected_labels_fall_on_a_scene_of_0_to_360_degrees_and_the_other_way(tmp_path):
    path = write_boxes(tmp_path / "utm.gpkg", "EPSG:32616")
    found = read_own_labels(path, SHAPE, Georeference(CRS.from_epsg(4326), EAST), "s", LabelFields("class"))
    np.testing.assert_array_equal(found.labels, STRIPES)
    utm = Georeference(CRS.from_epsg(32616), rasterio.Affine(20, 0, 474500, 0, -20, 4472000))
    both = [
        read_own_labels(write_boxes(tmp_path / f"{i}.gpkg", "EPSG:4326", t), (60, 60), utm, "s", LabelFields("class"))
        for i, t in enumerate((EAST, WEST))
    ]
    assert both[0].labels.any()
    np.testing.assert_array_equal(both[0].labels, both[1].labels)


def write_raster(path, transform, crs="EPSG:4326", values=STRIPES):
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1, dtype="uint8", nodata=0,
        crs=crs, transform=transform,
    ) as dataset:  # fmt: skip
        dataset.write(values, 1)
    return path


def test_label_rasters_in_degrees_are_placed_wherever_they_are_counted_from(tmp_path):
    place = Georeference(CRS.from_epsg(4326), EAST)
    same = labels_on_grid(write_raster(tmp_path / "l.tif", WEST), SHAPE, place)
    np.testing.assert_array_equal(same.labels, STRIPES)
    assert same.remarks == ()
    part = write_raster(tmp_path / "p.tif", WEST @ rasterio.Affine.translation(2, 4), values=STRIPES[4:, 2:])
    np.testing.assert_array_equal(labels_on_grid(part, SHAPE, place).labels, STRIPES)
    check_grids("it", SHAPE, Georeference(CRS.from_epsg(4326), WEST), "the scene", SHAPE, place)


UTM = rasterio.Affine(20, 0, 480000, 0, -20, 4470000)


@pytest.mark.parametrize(
    ("one", "other", "transform"),
    [
        ("EPSG:32616", "EPSG:32616+5773", UTM),
        ("EPSG:4326", "OGC:CRS84", WEST),
        ("EPSG:32616", "+proj=utm +zone=16 +datum=WGS84 +units=m +no_defs", UTM),
        ("EPSG:32616", CRS.from_epsg(32616).to_wkt(version="WKT1_ESRI"), UTM),
    ],
)
def test_crs_are_compared_by_what_they_mean_for_x_and_y(tmp_path, one, other, transform):
    first, second = (CRS.from_user_input(text) for text in (one, other))
    box = scene_bounds(*SHAPE, Georeference(first, transform))
    assert same_crs(first, second, box)
    assert same_crs(second, first, box)
    path = write_raster(tmp_path / "l.tif", transform, second)
    np.testing.assert_array_equal(labels_on_grid(path, SHAPE, Georeference(first, transform)).labels, STRIPES)


@pytest.mark.parametrize("other", ["EPSG:32617", "EPSG:3857", "EPSG:4326", "EPSG:26716"])
def test_crs_that_mean_another_place_stay_different(tmp_path, other):
    crs = CRS.from_user_input(other)
    assert not same_crs(CRS.from_epsg(32616), crs, scene_bounds(*SHAPE, Georeference(None, UTM)))
    assert not same_crs(None, crs, None)
    labels = write_raster(tmp_path / "l.tif", UTM, crs)
    for own in (CRS.from_epsg(32616), "EPSG:32616"):  # of a scene in memory it is text
        with pytest.raises(LabelsError, match="have the CRS"):
            labels_on_grid(labels, SHAPE, Georeference(own, UTM))


def test_labels_on_a_scene_with_control_points_alone_say_so(tmp_path):
    points = (rasterio.control.GroundControlPoint(0, 0, 480000, 4470000),)
    place = Georeference(None, None, points, CRS.from_epsg(32616))
    path = write_boxes(tmp_path / "l.gpkg", "EPSG:4326")
    with pytest.raises(
        LabelsError, match=r"'s' has only ground control points, so .* gdalwarp, or give a label raster"
    ):
        read_own_labels(path, SHAPE, place, "s", LabelFields("class"))


def test_the_projections_of_another_installation_are_not_used(python, tmp_path):
    """Not in a thread either, of which each looks for them anew."""
    (tmp_path / "proj.db").write_text("of another version")
    other = {name: str(tmp_path) for name in ("PROJ_LIB", "PROJ_DATA")}
    code = """
import threading
from spectraldiff_runtime.gdal import quiet_gdal
import rasterio
def show():
    print(rasterio.CRS.from_epsg(32616).to_string())
    with quiet_gdal():
        print(rasterio.CRS.from_epsg(32633).to_string())
show()
thread = threading.Thread(target=show)
thread.start()
thread.join()
"""
    assert python("-c", code, env=other).stdout.split() == ["EPSG:32616", "EPSG:32633"] * 2
