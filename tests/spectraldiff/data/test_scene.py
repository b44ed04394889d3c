"""Scenes: what is checked, written, read back, and refused."""

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp

from spectraldiff.data.scene import LabelledScene
from spectraldiff_runtime.classes import LandCoverClass, palette
from spectraldiff_runtime.errors import LabelsError, OutputError, SceneError
from spectraldiff_runtime.gdal import quiet_gdal

CLASSES = (LandCoverClass(1, "Grass", (0, 200, 0)), LandCoverClass(2, "Water & mud", (0, 0, 200)))
# Not sorted: detectors may overlap.
WAVELENGTHS = np.array([450.02, 560.0, 700.125, 690.5])


@pytest.fixture
def small_scene() -> LabelledScene:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, (9, 7)).astype(np.uint8)
    return LabelledScene(
        name="tiny", cube=generator.integers(0, 65535, (9, 7, 4)).astype(np.uint16), labels=labels,
        classes=CLASSES, wavelengths=WAVELENGTHS, crs="EPSG:32616",
        transform=(20.0, 0.0, 500240.0, 0.0, -20.0, 4480260.0), nodata=None,
        sensor="TINY", attribution="Made here.", note="For tests.",
    )  # fmt: skip


def assert_same(found: LabelledScene, wanted: LabelledScene) -> None:
    np.testing.assert_array_equal(found.cube, wanted.cube)
    assert found.cube.dtype == wanted.cube.dtype
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_array_equal(found.wavelengths, wanted.wavelengths)
    for field in ("classes", "crs", "transform", "nodata", "sensor", "attribution", "note"):
        assert getattr(found, field) == getattr(wanted, field), field


def write_raster(path: Path, values: np.ndarray, **profile: object) -> Path:
    height, width = values.shape[-2:]
    bands = values.reshape(-1, height, width)
    place = {"crs": "EPSG:32616", "transform": rasterio.Affine(20, 0, 500240, 0, -20, 4480260), **profile}
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=len(bands), dtype=values.dtype, **place
    ) as dataset:
        dataset.write(bands)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_what_is_written_is_read_back(small_scene, tmp_path, dtype):
    scene = replace(small_scene, cube=(small_scene.cube % 200).astype(dtype))
    scene.write(tmp_path / "tiny.tif", labels=tmp_path / "labels.tif")
    assert_same(LabelledScene.from_files(tmp_path / "tiny.tif", tmp_path / "labels.tif"), scene)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.tif", "labels.tif", "labels.tif.aux.xml"}


def test_scene_without_georeference_nodata_and_wavelengths(small_scene, tmp_path):
    scene = replace(
        small_scene, crs=None, transform=None, wavelengths=None, nodata=-9999.0, note="",
        cube=small_scene.cube.astype(np.float32),
    )  # fmt: skip
    scene.write(tmp_path / "s.tif", labels=tmp_path / "l.tif")
    found = LabelledScene.from_files(tmp_path / "s.tif", tmp_path / "l.tif")
    assert (found.wavelengths, found.crs, found.transform, found.nodata) == (None, None, None, -9999.0)
    assert found.name == "s"


def test_geotiff_carries_wavelengths_for_other_programs(small_scene, tmp_path):
    small_scene.write(tmp_path / "tiny.tif")
    with rasterio.open(tmp_path / "tiny.tif") as dataset:
        assert dataset.descriptions == ("450.0 nm", "560.0 nm", "700.1 nm", "690.5 nm")
        assert dataset.tags(3)["wavelength"] == "700.125"
        assert dataset.tags(3)["wavelength_units"] == "nm"
        assert dataset.tags(1, ns="IMAGERY")["CENTRAL_WAVELENGTH_UM"] == "0.45002"
        assert dataset.profile["tiled"]
        assert dataset.compression.value == "DEFLATE"
        assert dataset.tags()["NOTE"] == "For tests."


def test_valid_is_false_where_any_band_is_missing(small_scene):
    cube = small_scene.cube.astype(np.float32)
    cube[0, 0, 1], cube[1, 2, 3], cube[2, 2, 0] = np.nan, -1.0, np.inf
    valid = replace(small_scene, cube=cube, nodata=-1.0).valid
    assert sorted(zip(*np.nonzero(~valid), strict=True)) == [(0, 0), (1, 2), (2, 2)]


def test_missing_pixels_are_not_valid(small_scene):
    missing = np.zeros((9, 7), bool)
    missing[2, 3] = True
    np.testing.assert_array_equal(replace(small_scene, missing=missing).valid, ~missing)


@pytest.mark.parametrize("internal", [True, False])
def test_the_mask_of_a_raster(small_scene, tmp_path, internal):
    small_scene.write(tmp_path / "s.tif", labels=tmp_path / "l.tif")
    known = np.random.default_rng(1).random((9, 7)) < 0.8
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(tmp_path / "s.tif", "r+") as dataset:
        dataset.write_mask(known)
    found = LabelledScene.from_files(tmp_path / "s.tif", tmp_path / "l.tif")
    np.testing.assert_array_equal(found.valid, known)


def test_an_alpha_band_is_a_mask(small_scene, tmp_path):
    small_scene.write(tmp_path / "s.tif", labels=tmp_path / "l.tif")
    with rasterio.open(tmp_path / "s.tif", "r+") as dataset:
        kinds = [rasterio.enums.ColorInterp.undefined] * 3
        dataset.colorinterp = [*kinds, rasterio.enums.ColorInterp.alpha]
        dataset.write((small_scene.labels != 1).astype(np.uint16) * 65_535, 4)
    found = LabelledScene.from_files(tmp_path / "s.tif", tmp_path / "l.tif")
    np.testing.assert_array_equal(found.cube, small_scene.cube[..., :3])
    np.testing.assert_array_equal(found.wavelengths, WAVELENGTHS[:3])
    np.testing.assert_array_equal(found.valid, small_scene.labels != 1)


def test_nodata_of_each_band(small_scene, tmp_path):
    small_scene.write(tmp_path / "s.tif", labels=tmp_path / "l.tif")
    values = [int(small_scene.cube[row, 2, band]) for band, row in enumerate((1, 3, 5))]
    bands = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{band}">{tag}<SimpleSource><SourceFilename relativeToVRT="1">s.tif'
        f"</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
        for band, tag in enumerate([*[f"<NoDataValue>{value}</NoDataValue>" for value in values], ""], start=1)
    )
    place = "<SRS>EPSG:32616</SRS><GeoTransform>500240, 20, 0, 4480260, 0, -20</GeoTransform>"
    (tmp_path / "s.vrt").write_text(f'<VRTDataset rasterXSize="7" rasterYSize="9">{place}{bands}</VRTDataset>')
    found = LabelledScene.from_files(tmp_path / "s.vrt", tmp_path / "l.tif")
    assert found.nodata is None
    np.testing.assert_array_equal(found.valid, (small_scene.cube[..., :3] != values).all(axis=-1))
    assert not found.valid[[1, 3, 5], 2].any()
    assert LabelledScene.from_files(tmp_path / "s.vrt", tmp_path / "l.tif", nodata=None).valid.all()


def test_scale_and_offset_are_applied_only_where_asked_for(small_scene, tmp_path):
    scene = replace(small_scene, nodata=7.0)
    scene.cube[4, 4, 1] = 7
    scene.write(tmp_path / "s.tif", labels=tmp_path / "l.tif")
    with rasterio.open(tmp_path / "s.tif", "r+") as dataset:
        dataset.scales, dataset.offsets = [0.5, 2, 1, 1], [1, 0, 0, -3]
    plain = LabelledScene.from_files(tmp_path / "s.tif", tmp_path / "l.tif")
    scaled = LabelledScene.from_files(tmp_path / "s.tif", tmp_path / "l.tif", scaled=True)
    assert (plain.scaled, scaled.scaled, plain.nodata, scaled.nodata) == (False, True, 7, None)
    np.testing.assert_array_equal(plain.cube, scene.cube)
    assert scaled.cube.dtype == np.float32
    wanted = scene.cube * np.array([0.5, 2, 1, 1]) + [1, 0, 0, -3]
    wanted[scene.cube == 7] = np.nan
    np.testing.assert_allclose(scaled.cube, wanted, rtol=1e-6)
    np.testing.assert_array_equal(scaled.valid, plain.valid)
    assert not scaled.valid[4, 4]


def test_chosen_bands_and_nodata(small_scene, tmp_path):
    small_scene.write(tmp_path / "s.tif", labels=tmp_path / "l.tif")
    found = LabelledScene.from_files(tmp_path / "s.tif", tmp_path / "l.tif", bands=(4, 1), nodata=7)
    np.testing.assert_array_equal(found.cube, small_scene.cube[..., [3, 0]])
    assert found.wavelengths is not None
    assert found.wavelengths.tolist() == [690.5, 450.02]
    assert found.nodata == 7


def test_plain_labels_get_names_colours_and_their_nodata(small_scene, tmp_path):
    small_scene.write(tmp_path / "s.tif")
    values = small_scene.labels.astype(np.int32)
    values[0, :3] = (1, 2, -5)
    write_raster(tmp_path / "l.tif", values, nodata=-5)
    found = LabelledScene.from_files(tmp_path / "s.tif", tmp_path / "l.tif")
    assert [c.name for c in found.classes] == ["Class 1", "Class 2"]
    assert [c.colour for c in found.classes] == palette(2)
    assert found.labels[0, :3].tolist() == [1, 2, 0]


@pytest.mark.parametrize("how", ["internal", "msk", "alpha"])
def test_labels_under_a_mask_are_none(small_scene, tmp_path, how):
    small_scene.write(tmp_path / "s.tif")
    shown = np.random.default_rng(1).random((9, 7)) < 0.6
    values = np.where(small_scene.labels, small_scene.labels, 2)  # something stands under the mask
    if how == "alpha":
        options = {"driver": "GTiff", "height": 9, "width": 7, "count": 2, "dtype": "uint8", "alpha": "YES"}
        with quiet_gdal(), rasterio.open(tmp_path / "l.tif", "w", **options) as dataset:
            dataset.write(np.stack([values, np.where(shown, 255, 0)]).astype(np.uint8))
    else:
        write_raster(tmp_path / "l.tif", values)
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=how == "internal"),
            rasterio.open(tmp_path / "l.tif", "r+") as dataset,
        ):
            dataset.write_mask(shown)
    found = LabelledScene.from_files(tmp_path / "s.tif", tmp_path / "l.tif")
    np.testing.assert_array_equal(found.labels, np.where(shown, values, 0))


def test_floats_with_whole_numbers_are_labels(small_scene, tmp_path):
    small_scene.write(tmp_path / "s.tif")
    values = np.where(small_scene.labels == 0, np.nan, small_scene.labels).astype(np.float32)
    write_raster(tmp_path / "l.tif", values)
    found = LabelledScene.from_files(tmp_path / "s.tif", tmp_path / "l.tif")
    np.testing.assert_array_equal(found.labels, small_scene.labels)


def refused(tmp_path: Path, scene: LabelledScene, labels: np.ndarray, **profile: object) -> str:
    scene.write(tmp_path / "s.tif")
    write_raster(tmp_path / "l.tif", labels, **profile)
    with pytest.raises(LabelsError) as caught:
        LabelledScene.from_files(tmp_path / "s.tif", tmp_path / "l.tif")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_labels_of_another_size_without_georeference_name_both_sizes(small_scene, tmp_path):
    place = {"crs": "EPSG:32616", "transform": None}
    with quiet_gdal():
        message = refused(tmp_path, small_scene, np.ones((8, 7), np.uint8), **place)
    assert "8 rows x 7 columns" in message
    assert "9 rows x 7 columns" in message


def test_labels_in_another_crs(small_scene, tmp_path):
    message = refused(tmp_path, small_scene, small_scene.labels, crs="EPSG:32615")
    assert "EPSG:32615" in message
    assert "EPSG:32616" in message


def test_labels_of_another_size_in_another_crs(small_scene, tmp_path):
    assert "EPSG:32615" in refused(tmp_path, small_scene, small_scene.labels[:-1], crs="EPSG:32615")


def test_labels_shifted_by_a_pixel_are_resampled(small_scene, tmp_path):
    small_scene.write(tmp_path / "s.tif")
    place = rasterio.Affine(20, 0, 500260, 0, -20, 4480260)
    write_raster(tmp_path / "l.tif", small_scene.labels, transform=place)
    found = LabelledScene.from_files(tmp_path / "s.tif", tmp_path / "l.tif")
    np.testing.assert_array_equal(found.labels[:, 1:], small_scene.labels[:, :-1])
    assert not found.labels[:, 0].any()
    assert "resampled by nearest" in found.remarks[0]
    assert "(500260, 4480260)" in found.remarks[0]


@pytest.mark.parametrize("turned", [False, True])
def test_labels_on_another_grid_are_those_of_the_pixel_around_each_centre(small_scene, tmp_path, turned):
    """Compared with GDAL's own nearest; no centre lies on a border here."""
    small_scene.write(tmp_path / "s.tif")
    place = (
        rasterio.Affine(7, 0.3, 500222, 0.2, -9, 4480281) if turned else rasterio.Affine(7, 0, 500222, 0, -9, 4480281)
    )
    values = np.random.default_rng(2).integers(0, 3, (30, 31)).astype(np.uint8)
    write_raster(tmp_path / "l.tif", values, transform=place)
    found = LabelledScene.from_files(tmp_path / "s.tif", tmp_path / "l.tif")
    wanted = np.zeros((9, 7), np.uint8)
    target = rasterio.Affine(*small_scene.transform)
    same = {"src_crs": "EPSG:32616", "dst_crs": "EPSG:32616"}
    rasterio.warp.reproject(
        values, wanted, src_transform=place, dst_transform=target, resampling=rasterio.warp.Resampling.nearest, **same
    )
    np.testing.assert_array_equal(found.labels, wanted)


def test_labels_on_another_place(small_scene, tmp_path):
    message = refused(tmp_path, small_scene, small_scene.labels, transform=rasterio.Affine(20, 0, 9e5, 0, -20, 4480260))
    assert "no label lies on the scene" in message


def test_labels_shifted_by_rounding_are_taken(small_scene, tmp_path):
    small_scene.write(tmp_path / "s.tif")
    place = rasterio.Affine(20.000001, 0, 500240.001, 0, -20, 4480260)
    write_raster(tmp_path / "l.tif", small_scene.labels, transform=place)
    np.testing.assert_array_equal(
        LabelledScene.from_files(tmp_path / "s.tif", tmp_path / "l.tif").labels, small_scene.labels
    )


def test_labels_below_0(small_scene, tmp_path):
    labels = small_scene.labels.astype(np.int32)
    labels[3, 3] = -1
    assert "from -1 to" in refused(tmp_path, small_scene, labels)


def test_labels_that_are_no_whole_numbers(small_scene, tmp_path):
    assert "whole numbers" in refused(tmp_path, small_scene, np.full((9, 7), 1.5, np.float32))


def test_labels_with_several_bands(small_scene, tmp_path):
    assert "2 bands" in refused(tmp_path, small_scene, np.ones((2, 9, 7), np.uint8))


@pytest.mark.parametrize(("value", "words"), [(0, "no class"), (3, "one class only, 'Class 3'")])
def test_labels_with_fewer_than_two_classes(small_scene, tmp_path, value, words):
    labels = np.zeros((9, 7), np.uint8)
    labels[4:] = value
    assert words in refused(tmp_path, small_scene, labels)


def test_existing_files_are_kept_unless_told(small_scene, tmp_path):
    (tmp_path / "labels.tif").write_text("mine")
    with pytest.raises(OutputError, match=r"labels\.tif' exists"):
        small_scene.write(tmp_path / "s.tif", labels=tmp_path / "labels.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["labels.tif"]
    assert (tmp_path / "labels.tif").read_text() == "mine"
    small_scene.write(tmp_path / "s.tif", labels=tmp_path / "labels.tif", overwrite=True)
    assert_same(LabelledScene.from_files(tmp_path / "s.tif", tmp_path / "labels.tif"), small_scene)


def test_one_name_for_scene_and_labels(small_scene, tmp_path):
    with pytest.raises(OutputError, match="give two names"):
        small_scene.write(tmp_path / "a.tif", labels=tmp_path / "b" / ".." / "a.tif")


def test_missing_folder(small_scene, tmp_path):
    with pytest.raises(OutputError, match="no folder"):
        small_scene.write(tmp_path / "nowhere" / "s.tif")


def test_full_disk_leaves_the_old_file_and_no_debris(small_scene, tmp_path, monkeypatch):
    (tmp_path / "s.tif").write_text("mine")
    write_bytes = Path.write_bytes

    def full(path, data):
        if data:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="disk is full"):
        small_scene.write(tmp_path / "s.tif", labels=tmp_path / "l.tif", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["s.tif"]
    assert (tmp_path / "s.tif").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"cube": np.zeros((9, 7))}, SceneError, r"\(9, 7\)"),
        ({"labels": np.zeros((9, 8), np.uint8)}, LabelsError, "9 rows x 8 columns"),
        ({"labels": np.full((9, 7), 3, np.uint8)}, LabelsError, "up to 3"),
        ({"labels": np.zeros((9, 7))}, LabelsError, "float64"),
        ({"missing": np.zeros((9, 8), bool)}, SceneError, "9 rows x 8 columns"),
        ({"groups": np.zeros((9, 8), np.int32)}, LabelsError, "9 rows x 8 columns"),
        ({"wavelengths": np.zeros(3)}, SceneError, "3 wavelengths for 4 bands"),
        ({"classes": CLASSES[1:]}, LabelsError, "gaps"),
    ],
)
def test_parts_that_do_not_fit(small_scene, change, error, words):
    with pytest.raises(error, match=words):
        replace(small_scene, **change)
