"""What a scene's file says of its pixels and bands: masks, alpha, scales, bad bands."""

import numpy as np
import pytest
import rasterio

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.scene.raster import RasterScene

HIDDEN = (slice(2, 5), slice(7, 9))


def known(row0, row1, col0, col1):
    mask = np.ones((29, 37), bool)
    mask[HIDDEN] = False
    return mask[row0:row1, col0:col1]


@pytest.mark.parametrize("internal", [True, False])
def test_masks_inside_and_beside_the_file(write_scene, internal):
    path = write_scene()
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(known(0, 29, 0, 37))
    with RasterScene(path) as scene:
        assert len(scene.files) == (1 if internal else 2)
        np.testing.assert_array_equal(scene.mask(1, 20, 3, 37), known(1, 20, 3, 37))


def test_files_without_a_mask(write_scene):
    for path in (write_scene("a.tif"), write_scene("b.tif", nodata=3)):
        with RasterScene(path) as scene:
            assert scene.mask(0, 29, 0, 37) is None


@pytest.mark.parametrize("bands", [2, 4, 7])
def test_an_alpha_band_is_a_mask_and_no_spectral_band(write_scene, cube, bands):
    values = cube[..., :bands].copy()
    values[..., -1] = known(0, 29, 0, 37) * 65_535
    path = write_scene(values=values, photometric="minisblack", alpha="unspecified")
    with rasterio.open(path, "r+") as dataset:
        kinds = [rasterio.enums.ColorInterp.undefined] * (bands - 1)
        dataset.colorinterp = [*kinds, rasterio.enums.ColorInterp.alpha]
    with RasterScene(path) as scene:
        assert scene.bands == tuple(range(1, bands))
        np.testing.assert_array_equal(scene.mask(0, 29, 0, 37), known(0, 29, 0, 37))
    with RasterScene(path, bands=range(1, bands + 1)) as scene:
        assert len(scene.bands) == bands
        assert scene.mask(0, 29, 0, 37) is None


def with_four_bands(write_scene, fourth, **options):
    """GDAL calls the fourth of four 8-bit bands alpha by itself."""
    values = np.random.default_rng(0).integers(1, 200, (29, 37, 4)).astype(np.uint8)
    values[..., 3] = fourth
    path = write_scene("rgbi.tif", values=values, **options)
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = [*dataset.colorinterp[:3], rasterio.enums.ColorInterp.alpha]
    return path, values


def test_a_band_of_near_infrared_is_not_taken_for_alpha(write_scene):
    infrared = np.arange(29 * 37).reshape(29, 37) % 200
    infrared[:10] = 0  # water
    path, values = with_four_bands(write_scene, infrared)
    with RasterScene(path) as scene:
        assert scene.bands == (1, 2, 3, 4)
        assert scene.mask(0, 29, 0, 37) is None
        np.testing.assert_array_equal(scene.read(0, 29, 0, 37), values.transpose(2, 0, 1))
        assert scene.warnings == (
            f"band 4 of '{path}' is called alpha and holds other values than 0 and full: it is taken as a band like "
            "the others; leave it out with --bands",
        )
    with RasterScene(path, bands=(1, 2)) as scene:
        assert scene.mask(0, 29, 0, 37) is None


def test_an_alpha_band_is_said(write_scene):
    path, _ = with_four_bands(write_scene, known(0, 29, 0, 37) * 255)
    with RasterScene(path) as scene:
        assert (scene.bands, scene.warnings) == ((1, 2, 3), ())
        assert scene.note == "band 4 is an alpha band: its zeros are pixels without data"
        np.testing.assert_array_equal(scene.mask(0, 29, 0, 37), known(0, 29, 0, 37))


def test_large_bands_are_looked_at_in_all_parts(write_scene, monkeypatch):
    monkeypatch.setattr("spectraldiff_runtime.scene.band_metadata.LOOKED_AT", 400)
    opaque = np.full((29, 37), 255)
    opaque[27] = 9
    path, _ = with_four_bands(write_scene, opaque, blockysize=1)
    with RasterScene(path) as scene:
        assert scene.bands == (1, 2, 3, 4)


def scale_tags(path, scales, offsets):
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = scales, offsets


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
def test_scaled_values(write_scene, cube, dtype):
    values = (cube % 200).astype(dtype)
    values[3, 4, 2] = values[5, 6, 0] = 7
    path = write_scene(values=values, nodata=7)
    scales, offsets = [0.5 + b for b in range(7)], [10.0 * b for b in range(7)]
    scale_tags(path, scales, offsets)
    wanted = np.where(values == 7, np.nan, values * np.array(scales) + offsets)
    out = np.zeros((29, 37, 7), np.float32).transpose(2, 0, 1)
    with RasterScene(path, scaled=True) as scene, RasterScene(path) as plain:
        assert (scene.dtype, scene.nodata, plain.dtype) == (np.float32, None, np.dtype(dtype))
        assert scene.read(0, 29, 0, 37, out=out) is out
        np.testing.assert_allclose(out, wanted.transpose(2, 0, 1), rtol=1e-6)
        np.testing.assert_array_equal(scene.read(2, 9, 3, 8), out[:, 2:9, 3:8])
        np.testing.assert_array_equal(plain.read(0, 29, 0, 37), values.transpose(2, 0, 1))
        some = scene.select([6, 2]).read(0, 29, 0, 37)
        np.testing.assert_array_equal(some, out[[5, 1]])


def test_nodata_is_compared_before_scaling(write_scene):
    values = np.zeros((3, 3, 7), np.int32)
    values[0, 0], values[1, 1] = 2**31 - 1, 2**31 - 2  # the same number as float32
    with RasterScene(write_scene(values=values, nodata=2**31 - 1), scaled=True) as scene:
        part = scene.read(0, 3, 0, 3)
    assert np.isnan(part[:, 0, 0]).all()
    assert np.isfinite(part[:, 1, 1]).all()


def test_scaling_a_file_without_scale_changes_nothing(write_scene, cube):
    with RasterScene(write_scene(), scaled=True) as scene:
        np.testing.assert_array_equal(scene.read(0, 29, 0, 37), cube.transpose(2, 0, 1).astype(np.float32))


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
def test_reflectance_scale_factor(write_scene, cube, interleave):
    path = write_scene("scene.img", driver="ENVI", interleave=interleave, nodata=int(cube[0, 0, 0]))
    add_header(path, "reflectance scale factor = 10000")
    with RasterScene(path, scaled=True) as scene, RasterScene(path) as plain:
        found = scene.read(0, 29, 0, 37)
        assert plain.nodata == cube[0, 0, 0]
    wanted = np.where(cube == cube[0, 0, 0], np.nan, cube / 10_000)
    np.testing.assert_allclose(found, wanted.transpose(2, 0, 1), rtol=1e-6)


def test_a_scale_that_makes_no_sense(write_scene):
    path = write_scene("scene.img", driver="ENVI")
    add_header(path, "reflectance scale factor = none")
    RasterScene(path).close()
    with pytest.raises(SceneError, match="no number"):
        RasterScene(path, scaled=True)


def add_header(path, line):
    header = path.with_suffix(".hdr")
    header.write_text(f"{header.read_text().rstrip()}\n{line}\n")


def test_bad_bands_stay_out(write_scene, cube):
    path = write_scene("scene.img", driver="ENVI")
    add_header(path, "wavelength units = nm\nwavelength = {400, 410, 420, 430, 440, 450, 460}")
    add_header(path, "fwhm = {1, 2, 3, 4, 5, 6, 7}\nbbl = {1, 0, 1.0, 1, 0.0, 1, 1}")
    with RasterScene(path) as scene:
        assert (scene.bands, scene.bad_bands) == ((1, 3, 4, 6, 7), {2: 410, 5: 440})
        assert (scene.wavelengths.tolist(), scene.fwhm.tolist()) == ([400, 420, 430, 450, 460], [1, 3, 4, 6, 7])
        assert "2 of 7 bands were left out" in scene.note
        np.testing.assert_array_equal(scene.read(0, 29, 0, 37), cube[..., [0, 2, 3, 5, 6]].transpose(2, 0, 1))
    with RasterScene(path, bands=(1, 2)) as scene:
        assert (scene.bands, scene.bad_bands, scene.note) == ((1, 2), {}, "")


@pytest.mark.parametrize(
    ("bbl", "words"),
    [
        ("{1, 0, 1}", r"7 bands and a list of bad bands \(bbl\) of 3 values"),
        ("{1, 1, 1, 1, 1, 1, x}", "no number"),
        ("{}", "of 0 values"),
        ("{0, 0, 0, 0, 0, 0, 0}", "neither alpha nor bad"),
    ],
)
def test_a_list_of_bad_bands_that_makes_no_sense(write_scene, bbl, words):
    path = write_scene("scene.img", driver="ENVI")
    add_header(path, f"bbl = {bbl}")
    with pytest.raises(SceneError, match=f"{words}.*--bands"):
        RasterScene(path)
    with RasterScene(path, bands=range(1, 8)) as scene:
        assert len(scene.bands) == 7


@pytest.mark.parametrize("nodata", [-(2**63), 2**63 - 1, 2**53 + 1])
def test_nodata_of_64_bits_is_exact(write_scene, nodata):
    values = np.full((29, 37, 2), nodata - 1 if nodata > 0 else nodata + 1, np.int64)
    values[0, 0] = nodata
    path = write_scene(values=values)
    bands = "".join(f'<PAMRasterBand band="{b}"><NoDataValue>{nodata}</NoDataValue></PAMRasterBand>' for b in (1, 2))
    path.with_name(f"{path.name}.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>")
    with RasterScene(path) as scene:
        assert scene.nodata == nodata
        assert (scene.read(0, 29, 0, 37)[0] == scene.nodata).sum() == 1
