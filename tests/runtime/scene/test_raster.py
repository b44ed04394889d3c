"""Scenes on disk: windows, bands, nodata, and files that are no scene."""

import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from rasterio.control import GroundControlPoint

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.scene.array import ArrayScene
from spectraldiff_runtime.scene.raster import RasterScene


def test_windows_of_every_layout(laid_out_scene, cube):
    with RasterScene(laid_out_scene) as scene:
        assert (scene.height, scene.width, scene.dtype) == (29, 37, np.dtype("uint16"))
        assert scene.bands == (1, 2, 3, 4, 5, 6, 7)
        np.testing.assert_array_equal(scene.read(3, 20, 5, 37), cube[3:20, 5:37].transpose(2, 0, 1))


@pytest.mark.parametrize("bands", [None, (7, 2, 3)])
@pytest.mark.parametrize("part", [(0, 29, 0, 37), (3, 20, 0, 37), (28, 29, 5, 6), (2, 19, 30, 37)])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 1, 0), (1, 0, 2)])
def test_reading_into_memory_of_any_order(laid_out_scene, cube, bands, part, order):
    row0, row1, col0, col1 = part
    wanted = cube[row0:row1, col0:col1, [b - 1 for b in bands or range(1, 8)]].transpose(2, 0, 1)
    room = np.zeros([wanted.shape[axis] + 2 for axis in order], np.uint16).transpose(np.argsort(order))
    out = room[1:-1, 1:-1, 1:-1]
    with RasterScene(laid_out_scene, bands) as scene:
        assert scene.read(*part, out=out) is out
        np.testing.assert_array_equal(scene.read(*part), wanted)
    np.testing.assert_array_equal(out, wanted)
    assert room.sum() == out.sum()  # nothing next to it was written


def test_blocks_of_the_file(write_scene):
    with RasterScene(write_scene(tiled=True, blockxsize=16, blockysize=32)) as scene:
        assert scene.blocks == (32, 16)
    with RasterScene(write_scene("scene.img", driver="ENVI", interleave="bil")) as scene:
        assert scene.blocks == (1, 37)


@pytest.mark.skipif(sys.platform != "linux", reason="the system counts bytes read on Linux only")
@pytest.mark.parametrize("panel", [1, 2])
@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
def test_each_byte_is_read_about_once(write_scene, interleave, panel):
    values = np.random.default_rng(0).integers(0, 60_000, (512, 200, 40)).astype(np.uint16)
    path = write_scene("scene.img", values, driver="ENVI", interleave=interleave)
    if panel > 1 and interleave != "bil":
        pytest.skip("GDAL reads whole lines")
    with RasterScene(path) as scene:
        before = bytes_read()
        for col in range(0, 200, 200 // panel):
            for row in range(0, 512, 128):
                part = scene.read(row, row + 128, col, col + 200 // panel)
                assert part[5, 77, 9] == values[row + 77, col + 9, 5]
        read = bytes_read() - before
    assert values.nbytes <= read <= 1.05 * values.nbytes


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def test_chosen_bands_in_the_order_given(write_scene, cube):
    with RasterScene(write_scene(waves=[400, 410, 420, 430, 440, 450, 460]), bands=(7, 1, 3)) as scene:
        np.testing.assert_array_equal(scene.read(0, 29, 0, 37), cube[:, :, [6, 0, 2]].transpose(2, 0, 1))
        assert scene.wavelengths.tolist() == [460, 400, 420]


@pytest.mark.parametrize(("given", "wanted"), [("file", 9.0), (None, None), (4, 4)])
def test_nodata_of_the_file_or_the_one_given(write_scene, given, wanted):
    with RasterScene(write_scene(nodata=9), nodata=given) as scene:
        assert scene.nodata == wanted


@pytest.mark.parametrize(
    ("dtype", "nodata", "possible"),
    [
        ("uint16", -9999, False), ("uint16", 0.5, False), ("uint16", float("nan"), False), ("uint8", 256, False),
        ("float32", 1e300, False), ("uint16", 65535, True), ("int16", -9999, True), ("float32", 0.1, True),
        ("float32", float("nan"), True), ("float32", float("inf"), True), ("uint16", None, True),
        ("uint8", "file", True),
    ],
)  # fmt: skip
def test_a_nodata_value_that_cannot_occur_is_doubtful(write_scene, cube, dtype, nodata, possible):
    values = cube.astype(dtype)
    with RasterScene(write_scene(values=values), nodata=nodata) as scene:
        found = scene.warnings
    assert found == () if possible else "cannot occur in" in found[0]
    assert len(found) <= 1
    if nodata != "file":
        assert len(ArrayScene(values, nodata).warnings) == len(found)
        with RasterScene(write_scene("scaled.tif", values=values), nodata=nodata, scaled=True) as scene:
            assert len(scene.warnings) == len(found)


def test_nodata_of_the_file_that_cannot_occur_is_no_doubt(write_scene):
    path = write_scene("scene.img", driver="ENVI")
    header = path.with_suffix(".hdr")
    header.write_text(header.read_text() + "data ignore value = -9999\n")
    with RasterScene(path) as scene:
        assert scene.warnings == ()


NODATA_OF_BANDS = (9, None, -3.5)


@pytest.fixture
def per_band_nodata(tmp_path):
    """Write a VRT of zeros (2, 3) whose three bands have their own nodata values."""
    tags = ["" if value is None else f"<NoDataValue>{value}</NoDataValue>" for value in NODATA_OF_BANDS]
    bands = "".join(f'<VRTRasterBand dataType="Float32" band="{b}">{t}</VRTRasterBand>' for b, t in enumerate(tags, 1))
    path = tmp_path / "scene.vrt"
    path.write_text(f'<VRTDataset rasterXSize="3" rasterYSize="2">{bands}</VRTDataset>')
    return path


def test_bands_with_different_nodata(per_band_nodata):
    with RasterScene(per_band_nodata) as scene:
        assert scene.nodata == NODATA_OF_BANDS
        assert scene.select([3, 1]).nodata == (-3.5, 9)
        assert scene.select([3]).nodata == -3.5
    with RasterScene(per_band_nodata, bands=(3, 2)) as scene:
        assert scene.nodata == (-3.5, None)
    with RasterScene(per_band_nodata, nodata=None) as scene:
        assert scene.nodata is None
    with RasterScene(per_band_nodata, nodata=4) as scene:
        assert scene.nodata == 4


def test_bands_of_different_types(tmp_path):
    path = tmp_path / "scene.vrt"
    bands = "".join(f'<VRTRasterBand dataType="{t}" band="{b}"/>' for b, t in enumerate(("Byte", "Int16"), start=1))
    path.write_text(f'<VRTDataset rasterXSize="3" rasterYSize="2">{bands}</VRTDataset>')
    with pytest.raises(SceneError, match="different types"):
        RasterScene(path)


def test_one_band_without_a_wavelength_means_none(write_scene):
    with RasterScene(write_scene(waves=[400, 410, 420, 430, 440, 450])) as scene:
        assert scene.wavelengths is None


def test_ground_control_points(write_scene):
    points = [GroundControlPoint(r, c, 10.0 + c, 50.0 - r) for r, c in ((0, 0), (0, 30), (20, 0))]
    with RasterScene(write_scene(transform=None, crs="EPSG:4326", gcps=points)) as scene:
        assert len(scene.georeference.gcps) == 3
        assert scene.georeference.transform is None
        assert scene.georeference.gcps_crs.to_epsg() == 4326


@pytest.mark.parametrize("layout", [{"tiled": True, "compress": "deflate"}, {}, {"interleave": "pixel"}])
def test_truncated_geotiff(write_scene, layout):
    path = write_scene(**layout)
    path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(SceneError, match="cut short"), RasterScene(path) as scene:
        scene.read(0, 29, 0, 37)


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
def test_truncated_envi(write_scene, interleave):
    path = write_scene("scene.img", driver="ENVI", interleave=interleave)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SceneError, match=r"15,021 bytes and its header wants 15,022"):
        RasterScene(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.tif", None, "does not exist"),
        ("empty.tif", b"", "cannot be opened"),
        ("text.tif", b"<html>not found</html>", "cannot be opened"),
        ("header.tif", b"II*\0\xff\xff\xff\xff", "cannot be opened"),
        ("nul\0.tif", None, "no file name"),
    ],
)
def test_files_that_are_no_rasters(tmp_path, name, content, words):
    path = f"{tmp_path}/{name}"
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SceneError, match=words) as caught:
        RasterScene(path)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_raster(tmp_path):
    with pytest.raises(SceneError, match="is a folder"):
        RasterScene(tmp_path)


def test_complex_values(write_scene):
    with pytest.raises(SceneError, match="complex64"):
        RasterScene(write_scene(values=np.zeros((3, 3, 7), "complex64")))


def test_the_fingerprint_tells_scenes_apart(write_scene):
    path = write_scene(nodata=3)

    def of(**options):
        with RasterScene(path, **options) as scene:
            return json.loads(json.dumps(scene.fingerprint(), allow_nan=False))

    first = of()
    assert first == of()
    assert first["files"][0]["size"] == path.stat().st_size
    for options in ({"bands": (1, 2)}, {"nodata": 4}, {"nodata": None}, {"nodata": float("nan")}, {"scaled": True}):
        assert of(**options) != first, options
    os.utime(path, ns=(0, 1))
    assert of() != first


def test_the_files_of_an_archive(write_scene, tmp_path):
    scene = write_scene()
    with zipfile.ZipFile(tmp_path / "scenes.zip", "w") as archive:
        archive.write(scene, "inner/scene.tif")
    with RasterScene(f"/vsizip/{tmp_path}/scenes.zip/inner/scene.tif") as found:
        assert found.files == (tmp_path / "scenes.zip",)
        assert found.fingerprint()["files"][0]["name"] == "scenes.zip"
