"""Georeferences that are no places: refused in one line, before hectares read nan or 0."""

import numpy as np
import pytest
import rasterio

from spectraldiff_runtime.cli import run
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


RPCS = {"missing": {"LINE_OFF": "1", "SAMP_OFF": "1"}, "words": {"LINE_OFF": "x"}}


@pytest.mark.parametrize("case", RPCS)
def test_rpcs(kit: Kit, sdiff_map, listing, capfd, case):
    listed = "".join(f'<MDI key="{key}">{value}</MDI>' for key, value in RPCS[case].items())
    scene = vrt_with(kit, f'<Metadata domain="RPC">{listed}</Metadata>')
    check_refused(kit, sdiff_map, listing, [scene], 1, "not whole")
    code, err = run(["info", str(scene)]), capfd.readouterr().err
    assert (code, len(err.splitlines())) == (1, 1)


def test_rpcs_that_are_not_finite(kit: Kit, sdiff_map, listing):
    scales = {f"{key}_{what}": "1" for key in ("LINE", "SAMP", "LAT", "LONG", "HEIGHT") for what in ("OFF", "SCALE")}
    terms = {f"{key}_COEFF": " ".join(["1"] * 20) for key in ("LINE_NUM", "LINE_DEN", "SAMP_NUM", "SAMP_DEN")}
    entries = {**scales, **terms, "LAT_OFF": "nan"}
    listed = "".join(f'<MDI key="{key}">{value}</MDI>' for key, value in entries.items())
    scene = vrt_with(kit, f'<Metadata domain="RPC">{listed}</Metadata>')
    check_refused(kit, sdiff_map, listing, [scene], 1, "not finite")


def test_remarks_of_gdal_on_damaged_tags_stay_away(kit: Kit, sdiff_map):
    """GDAL reads some tags when they are asked for, and prints what it thinks of them."""
    path = kit.write()
    data = path.read_bytes()
    at = data.index((34737).to_bytes(2, "little") + (2).to_bytes(2, "little"))  # GeoASCIIParams, text
    path.write_bytes(data[: at + 2] + (7).to_bytes(2, "little") + data[at + 4 :])
    assert sdiff_map([path])[1] == []


def test_what_is_a_place_passes(kit: Kit, sdiff_map):
    """Turned, mirrored, oblong and very small pixels, in degrees too."""
    for number, transform in enumerate([(1e-9, 0, 5, 0, -1e-9, 6), (14, 14, 0, 14, -14, 0), (1e-3, 0, 0, 0, 1e6, 0)]):
        scene = kit.write(f"s{number}.tif", transform=rasterio.Affine(*transform))
        assert sdiff_map([scene, "--out", kit.folder / f"o{number}.tif"]) == (0, [])
        with rasterio.open(kit.folder / f"o{number}.tif") as dataset:
            assert np.allclose(dataset.transform[:6], transform, rtol=1e-12)
