"""Georeferences that are no places: refused in one line, before hectares read nan or 0."""

import numpy as np
import pytest
import rasterio

from tests.runtime.hostile.kit import Kit, check_refused

NAN, INF = float("nan"), float("inf")
TRANSFORMS = {
    "nan": (NAN, 0, 480000, 0, -20, 4470000),
    "nan-place": (20, 0, NAN, 0, -20, 4470000),
    "infinite": (INF, 0, 480000, 0, -20, 4470000),
    "infinite-place": (20, 0, INF, 0, -20, 4470000),
    "area-0": (0, 0, 480000, 0, 0, 4470000),
    "height-0": (20, 0, 480000, 0, 0, 4470000),
    "a-line": (20, 20, 480000, 20, 20, 4470000),
    "almost-a-line": (20, 20, 480000, 20, 20 + 1e-12, 4470000),
    "tiny": (1e-160, 0, 480000, 0, -1e-160, 4470000),
    "area-overflows": (1e200, 0, 0, 0, -1e200, 0),
}


def vrt_with(kit: Kit, inside: str):
    """A VRT says numbers that writers of GeoTIFFs would not take."""
    scene = kit.vrt(kit.write("source.tif").name)
    text = scene.read_text()
    at = text.index(">") + 1
    scene.write_text(text[:at] + inside + text[at:])
    return scene


@pytest.mark.parametrize("case", TRANSFORMS)
def test_transforms(kit: Kit, sdiff_map, listing, case):
    a, b, c, d, e, f = TRANSFORMS[case]
    numbers = ",".join(repr(float(n)) for n in (c, a, b, f, d, e))
    scene = vrt_with(kit, f"<SRS>EPSG:32616</SRS><GeoTransform>{numbers}</GeoTransform>")
    words = "not finite" if "nan" in case or "infinite" in case else "no area"
    check_refused(kit, sdiff_map, listing, [scene], 1, words)


def test_control_points(kit: Kit, sdiff_map, listing):
    points = "".join(f'<GCP Id="{i}" Pixel="{i}" Line="{i}" X="nan" Y="1" Z="0"/>' for i in range(4))
    scene = vrt_with(kit, f'<GCPList Projection="EPSG:4326">{points}</GCPList>')
    check_refused(kit, sdiff_map, listing, [scene], 1, "not finite")


def test_what_is_a_place_passes(kit: Kit, sdiff_map):
    """Turned, mirrored, oblong and very small pixels, in degrees too."""
    for number, transform in enumerate([(1e-9, 0, 5, 0, -1e-9, 6), (14, 14, 0, 14, -14, 0), (1e-3, 0, 0, 0, 1e6, 0)]):
        scene = kit.write(f"s{number}.tif", transform=rasterio.Affine(*transform))
        assert sdiff_map([scene, "--out", kit.folder / f"o{number}.tif"]) == (0, [])
        with rasterio.open(kit.folder / f"o{number}.tif") as dataset:
            assert np.allclose(dataset.transform[:6], transform, rtol=1e-12)
