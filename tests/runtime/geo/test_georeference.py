"""Where a scene or a part of it lies."""

import numpy as np
import pytest
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from spectraldiff_runtime.geo.georeference import Georeference, window_georeference
from spectraldiff_runtime.window import Window
from tests.runtime.geo.places import TRANSFORMS, UTM, at, turned


def test_a_part_lies_where_it_lay():
    window = Window(5, 20, 7, 30)
    for transform in [*TRANSFORMS.values(), turned(UTM, 17)]:
        part = window_georeference(Georeference("EPSG:32616", transform), window)
        assert part.crs == "EPSG:32616"
        np.testing.assert_allclose(at(part.transform, 2, 3), at(transform, 9, 8), rtol=1e-14)


def test_control_points_and_rpcs_move_too():
    rpcs = RPC(0, 1, 0, 1, [1.0], [1.0], 100.0, 50.0, 0, 1, [1.0], [1.0], 200.0, 60.0)
    points = (GroundControlPoint(5, 7, 10, 50, 3, "a", "info"), GroundControlPoint(0, 0, 11, 51))
    part = window_georeference(Georeference(None, None, points, "EPSG:4326", rpcs), Window(5, 20, 7, 30))
    first, second = part.gcps
    assert (first.row, first.col, first.x, first.y, first.z, first.id, first.info) == (0, 0, 10, 50, 3, "a", "info")
    assert (second.row, second.col) == (-5, -7)
    assert (part.transform, part.gcps_crs) == (None, "EPSG:4326")
    assert (part.rpcs.line_off, part.rpcs.samp_off) == (95.0, 193.0)
    assert (part.rpcs.line_scale, rpcs.line_off, points[0].row) == (50.0, 100.0, 5)
    assert window_georeference(Georeference(), Window(1, 2, 1, 2)) == Georeference()


def test_hectares():
    metres = Georeference.of("EPSG:32616", (20, 0, 0, 0, -20, 0))
    feet = Georeference.of("EPSG:2225", (100, 0, 0, 0, -100, 0))
    assert metres.hectares_per_pixel == pytest.approx(0.04)
    assert feet.hectares_per_pixel == pytest.approx((100 * 1200 / 3937) ** 2 / 10_000)
    assert Georeference.of("EPSG:4326", (1, 0, 0, 0, -1, 0)).hectares_per_pixel is None
    for crs in ("EPSG:3857", "EPSG:900913", "ESRI:102100", "EPSG:3395", "+proj=merc +lat_ts=40", "EPSG:4087"):
        assert Georeference.of(crs, (20, 0, 0, 0, -20, 5e6)).hectares_per_pixel is None, crs
    for crs in ("EPSG:6933", "EPSG:2154", "EPSG:26931"):
        assert Georeference.of(crs, (20, 0, 0, 0, -20, 5e6)).hectares_per_pixel == pytest.approx(0.04), crs
    assert Georeference.of(None, None).hectares_per_pixel is None
