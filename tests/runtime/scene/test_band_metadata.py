"""What rasters say of their bands."""

import numpy as np
import pytest
import rasterio

from spectraldiff_runtime.gdal import quiet_gdal
from spectraldiff_runtime.scene.band_metadata import read_bad_bands, read_fwhm, read_scaling, read_wavelengths
from spectraldiff_runtime.scene.raster import RasterScene

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


def asked(tmp_path, lines, question):
    path = tmp_path / "scene.img"
    path.write_bytes(bytes(6))
    path.with_suffix(".hdr").write_text(ENVI_HEADER + lines)
    with quiet_gdal(), rasterio.open(path) as dataset:
        return question(dataset)


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
    found = asked(tmp_path, lines, read_wavelengths)
    assert found is None if wanted is None else np.allclose(found, wanted, rtol=1e-12, atol=0)


def test_wavelengths_of_imagery_tags(write_scene):
    path = write_scene()
    with rasterio.open(path, "r+") as dataset:
        for band in range(1, 8):
            dataset.update_tags(band, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=str(0.4 + band / 100))
    with rasterio.open(path) as dataset:
        np.testing.assert_allclose(read_wavelengths(dataset), [410, 420, 430, 440, 450, 460, 470])


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ("wavelength units = Nanometers\nwavelength = {400, 410, 405}\nfwhm = {9.87, 10, 11}\n", [9.87, 10, 11]),
        ("wavelength units = Micrometers\nwavelength = {0.4, 0.41, 2.5}\nfwhm = {.00987, .01, .011}\n", [9.87, 10, 11]),
        ("wavelength = {0.4, 0.5, 2.5}\nfwhm = {0.00987, 0.01, 0.011}\n", [9.87, 10, 11]),
        ("wavelength = {400, 500, 2500}\nfwhm = {9.87, 10, 11}\n", [9.87, 10, 11]),
        ("wavelength units = nm\nwavelength = {400, 500, 2500}\nfwhm = {9.87, 10}\n", None),
        ("wavelength = {400, 500, 2500}\n", None),
        ("", None),
    ],
)
def test_widths_of_envi_headers(tmp_path, lines, wanted):
    found = asked(tmp_path, lines, read_fwhm)
    assert found is None if wanted is None else np.allclose(found, wanted, rtol=1e-12, atol=0)


def test_widths_of_imagery_tags(write_scene):
    path = write_scene()
    with rasterio.open(path, "r+") as dataset:
        for band in range(1, 8):
            dataset.update_tags(band, ns="IMAGERY", FWHM_UM=str(band / 1000))
    with rasterio.open(path) as dataset:
        np.testing.assert_allclose(read_fwhm(dataset), [1, 2, 3, 4, 5, 6, 7])


def test_an_alpha_band_needs_no_wavelength(write_scene, cube):
    values = np.concatenate([cube[..., :6], np.full((*cube.shape[:2], 1), 65535, cube.dtype)], axis=-1)
    path = write_scene(
        values=values, waves=[400, 410, 420, 430, 440, 450], photometric="minisblack", alpha="unspecified"
    )
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = [rasterio.enums.ColorInterp.undefined] * 6 + [rasterio.enums.ColorInterp.alpha]
    with RasterScene(path) as scene:
        assert scene.wavelengths.tolist() == [400, 410, 420, 430, 440, 450]


@pytest.mark.parametrize(
    ("lines", "wanted"), [("", ()), ("bbl = {1, 0, 1}\n", (2,)), ("bbl = {\n 0.000, 1,\n 0}\n", (1, 3))]
)
def test_bad_bands(tmp_path, lines, wanted):
    assert asked(tmp_path, lines, read_bad_bands) == wanted


@pytest.mark.parametrize(("bbl", "words"), [("{1, 0}", "3 bands .* of 2 values"), ("{1, 0, no}", "no number")])
def test_bad_lists_of_bad_bands(tmp_path, bbl, words):
    with pytest.raises(ValueError, match=words):
        asked(tmp_path, f"bbl = {bbl}\n", read_bad_bands)


@pytest.mark.parametrize(
    ("lines", "scale", "offset"),
    [
        ("", [1, 1, 1], [0, 0, 0]),
        ("reflectance scale factor = 10000\n", [1e-4] * 3, [0, 0, 0]),
        ("reflectance scale factor = 0\n", [np.nan] * 3, [0, 0, 0]),
        ("data gain values = {2, 3, 4}\ndata offset values = {1, 0, 0}\n", [2, 3, 4], [1, 0, 0]),
        ("data gain values = {2, 3, 4}\nreflectance scale factor = 10000\n", [2, 3, 4], [0, 0, 0]),
    ],
)
def test_scale_and_offset_of_envi_headers(tmp_path, lines, scale, offset):
    scales, offsets = asked(tmp_path, lines, read_scaling)
    np.testing.assert_allclose(scales, scale)
    np.testing.assert_allclose(offsets, offset)


def test_the_value_to_ignore_is_nodata(tmp_path):
    assert asked(tmp_path, "data ignore value = 7\n", lambda dataset: dataset.nodatavals) == (7, 7, 7)
