"""Scenes on disk and in memory."""

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.raster import ArrayScene, Georeference, RasterScene, quiet_gdal, read_wavelengths


def test_windows_of_every_layout(laid_out_scene, cube):
    with RasterScene(laid_out_scene) as scene:
        assert (scene.height, scene.width, scene.dtype) == (29, 37, np.dtype("uint16"))
        assert scene.bands == (1, 2, 3, 4, 5, 6, 7)
        np.testing.assert_array_equal(scene.read(3, 20, 5, 37), cube[3:20, 5:37].transpose(2, 0, 1))


def test_an_array_is_the_same_scene(cube):
    scene = ArrayScene(cube)
    assert (scene.height, scene.width, len(scene.bands), scene.dtype) == (29, 37, 7, cube.dtype)
    assert np.shares_memory(scene.read(1, 3, 4, 6), cube)
    np.testing.assert_array_equal(scene.read(1, 3, 4, 6), cube[1:3, 4:6].transpose(2, 0, 1))


@pytest.mark.parametrize("values", [np.zeros((3, 4)), np.zeros((3, 0, 2)), np.zeros((3, 4, 2), complex)])
def test_arrays_that_are_no_scene(values):
    with pytest.raises(SceneError, match="wanted"):
        ArrayScene(values)


def test_chosen_bands_in_the_order_given(write_scene, cube):
    with RasterScene(write_scene(waves=[400, 410, 420, 430, 440, 450, 460]), bands=(7, 1, 3)) as scene:
        np.testing.assert_array_equal(scene.read(0, 29, 0, 37), cube[:, :, [6, 0, 2]].transpose(2, 0, 1))
        assert scene.wavelengths.tolist() == [460, 400, 420]


@pytest.mark.parametrize(("given", "wanted"), [("file", 9.0), (None, None), (4, 4)])
def test_nodata_of_the_file_or_the_one_given(write_scene, given, wanted):
    with RasterScene(write_scene(nodata=9), nodata=given) as scene:
        assert scene.nodata == wanted


def test_bands_with_different_nodata(tmp_path):
    path = tmp_path / "scene.vrt"
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{b}"><NoDataValue>{b}</NoDataValue></VRTRasterBand>' for b in (1, 2)
    )
    path.write_text(f'<VRTDataset rasterXSize="3" rasterYSize="2">{bands}</VRTDataset>')
    with pytest.raises(SceneError, match="--nodata"):
        RasterScene(path)
    with RasterScene(path, nodata=None) as scene:
        assert scene.nodata is None


def test_bands_of_different_types(tmp_path):
    path = tmp_path / "scene.vrt"
    bands = "".join(f'<VRTRasterBand dataType="{t}" band="{b}"/>' for b, t in enumerate(("Byte", "Int16"), start=1))
    path.write_text(f'<VRTDataset rasterXSize="3" rasterYSize="2">{bands}</VRTDataset>')
    with pytest.raises(SceneError, match="different types"):
        RasterScene(path)


ENVI_HEADER = """ENVI
samples = 2
lines = 1
bands = 3
header offset = 0
file type = ENVI Standard
data type = 1
interleave = bsq
byte order = 0
"""


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ("wavelength units = Nanometers\nwavelength = {399.87, 410.2, 405}\n", [399.87, 410.2, 405]),
        ("wavelength units = Micrometers\nwavelength = {0.39987, 0.4102, 2.5}\n", [399.87, 410.2, 2500]),
        ("wavelength = {0.4, 0.5, 2.5}\n", [400, 500, 2500]),
        ("wavelength = {400, 500, 2500}\n", [400, 500, 2500]),
        ("wavelength units = Index\nwavelength = {1, 2, 3}\n", None),
        ("wavelength units = Nanometers\nwavelength = {400, 500}\n", None),
        ("", None),
    ],
)
def test_wavelengths_of_envi_headers(tmp_path, lines, wanted):
    path = tmp_path / "scene.img"
    path.write_bytes(bytes(6))
    path.with_suffix(".hdr").write_text(ENVI_HEADER + lines)
    with quiet_gdal(), rasterio.open(path) as dataset:
        found = read_wavelengths(dataset)
    assert found is None if wanted is None else np.allclose(found, wanted, rtol=1e-12, atol=0)


def test_wavelengths_of_imagery_tags(write_scene):
    path = write_scene()
    with rasterio.open(path, "r+") as dataset:
        for band in range(1, 8):
            dataset.update_tags(band, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=str(0.4 + band / 100))
    with rasterio.open(path) as dataset:
        np.testing.assert_allclose(read_wavelengths(dataset), [410, 420, 430, 440, 450, 460, 470])


def test_one_band_without_a_wavelength_means_none(write_scene):
    with RasterScene(write_scene(waves=[400, 410, 420, 430, 440, 450])) as scene:
        assert scene.wavelengths is None


def test_hectares():
    metres = Georeference.of("EPSG:32616", (20, 0, 0, 0, -20, 0))
    feet = Georeference.of("EPSG:2225", (100, 0, 0, 0, -100, 0))
    assert metres.hectares_per_pixel == pytest.approx(0.04)
    assert feet.hectares_per_pixel == pytest.approx((100 * 1200 / 3937) ** 2 / 10_000)
    assert Georeference.of("EPSG:4326", (1, 0, 0, 0, -1, 0)).hectares_per_pixel is None
    assert Georeference.of(None, None).hectares_per_pixel is None


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
