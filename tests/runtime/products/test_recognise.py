"""Products as delivered: what each is, and that its pixels are read where they lie."""

import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.products.recognise import open_scene, recognise
from spectraldiff_runtime.scene.raster import RasterScene
from tests.runtime.products import builders

CUBES = (
    "reflectance/reflectance",
    "reflectance",
    "SJER/Reflectance/Reflectance_Data",
    "HDFEOS/GRIDS/HYP/Data Fields/surface_reflectance",
)
HDF5 = ("prisma", "emit", "neon", "tanager", "aviris-3")


@pytest.fixture(params=builders.ALL)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> builders.Made:
    return builders.ALL[request.param](tmp_path / "product")


def test_bands_place_and_pixels(made):
    with open_scene(made.path) as scene:
        good = [b for b in range(1, len(made.waves) + 1) if b not in made.bad]
        at = np.array(good) - 1
        assert scene.bands == tuple(good)
        np.testing.assert_allclose(scene.wavelengths, made.waves[at], rtol=1e-6)
        np.testing.assert_allclose(scene.fwhm, made.fwhm[at], rtol=1e-6)
        assert tuple(scene.bad_bands) == made.bad
        np.testing.assert_allclose(list(scene.bad_bands.values()), made.waves[[b - 1 for b in made.bad]], rtol=1e-6)
        assert scene.sensor in (made.sensor, "")
        grid = getattr(scene, "grid", None)
        place = scene.georeference if grid is None else grid.place
        assert place.crs.to_epsg() == int(made.crs.removeprefix("EPSG:"))
        np.testing.assert_allclose(tuple(place.transform), tuple(made.transform), rtol=1e-12)
        wanted = made.physical if scene.scaled else made.cube
        found = scene.read(0, scene.height, 0, scene.width)
        assert found.dtype == scene.dtype
        mask = scene.mask(0, scene.height, 0, scene.width)
        missing = np.zeros(made.valid.shape, bool) if mask is None else ~mask
        missing |= (found == scene.nodata).any(axis=0) | np.isnan(found).any(axis=0)
        np.testing.assert_array_equal(missing, ~made.valid)
        values = np.where(made.valid, wanted[..., at].transpose(2, 0, 1), 0)
        np.testing.assert_allclose(np.where(made.valid, found, 0), values, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("part", [(0, 9, 0, 11), (3, 20, 5, 31), (22, 23, 30, 31), (11, 13, 0, 31)])
@pytest.mark.parametrize("bands", [None, (3, 1, 6), "all"])
def test_windows_into_memory_of_any_order(made, part, bands):
    with open_scene(made.path, bands) as scene:
        whole = scene.read(0, scene.height, 0, scene.width)
        row0, row1, col0, col1 = part
        room = np.zeros((row1 - row0 + 2, len(scene.bands) + 2, col1 - col0 + 2), scene.dtype).transpose(1, 0, 2)
        out = room[1:-1, 1:-1, 1:-1]
        assert scene.read(*part, out=out) is out
        np.testing.assert_array_equal(out, whole[:, row0:row1, col0:col1])
        assert np.count_nonzero(np.nan_to_num(room)) == np.count_nonzero(np.nan_to_num(out))
        if bands == "all":
            assert scene.bands == tuple(range(1, len(made.waves) + 1))


def test_physical_values(made):
    with open_scene(made.path, scaled=True) as scene:
        assert scene.dtype == np.float32
        assert scene.nodata is None or scene.nodata != scene.nodata
        found = scene.read(0, scene.height, 0, scene.width)
        wanted = made.physical[..., np.array(scene.bands) - 1].transpose(2, 0, 1)
        mask = scene.mask(0, scene.height, 0, scene.width)
        shown = np.isfinite(found).all(axis=0) if mask is None else np.isfinite(found).all(axis=0) & mask
        np.testing.assert_array_equal(shown, made.valid)
        np.testing.assert_allclose(found[:, shown], wanted[:, shown], rtol=1e-5, atol=1e-7)


def test_what_the_note_says(made):
    with open_scene(made.path) as scene:
        if made.bad:
            assert f"{len(made.bad)} of {len(made.waves)} bands were left out" in scene.note
        else:
            assert scene.note == ""


def test_chosen_bands_are_taken_as_they_are(made):
    with open_scene(made.path, (2, 4)) as scene:
        assert scene.bands == (2, 4)
        assert not scene.bad_bands
    with pytest.raises(SceneError, match="asks for band 99"):
        open_scene(made.path, (99,))


def test_the_folder(made):
    with open_scene(made.path.parent) as scene, open_scene(made.path) as same:
        assert scene.name == same.name
        np.testing.assert_array_equal(scene.read(0, 5, 8, 20), same.read(0, 5, 8, 20))


def test_a_folder_with_two_scenes(tmp_path):
    builders.neon(tmp_path)
    builders.tanager(tmp_path)
    with pytest.raises(SceneError, match=r"holds 2 scenes \(.*NEON.*\): wanted one; name its file"):
        recognise(tmp_path)


@pytest.mark.parametrize("builder", [builders.enmap, builders.desis])
def test_metadata_file_or_zip_as_delivered(builder, tmp_path):
    made = builder(tmp_path / "product")
    xml = next(p for p in made.path.parent.iterdir() if p.suffix.lower() == ".xml")
    archive = builders.zipped(tmp_path / "product", tmp_path / "delivered.zip")
    other = shutil.copy(archive, tmp_path / "delivered.001")
    with open_scene(made.path) as plain:
        wanted, waves = plain.read(0, 29, 0, 37), plain.wavelengths
    for path in (xml, archive, other):
        with open_scene(path) as scene:
            np.testing.assert_array_equal(scene.read(0, 29, 0, 37), wanted)
            np.testing.assert_array_equal(scene.wavelengths, waves)
            assert scene.files
            assert all(file.is_file() for file in scene.files)


def test_a_flight_line_in_a_zip(tmp_path):
    made = builders.aviris_ng(tmp_path / "product")
    archive = builders.zipped(tmp_path / "product", tmp_path / "delivered.zip")
    with open_scene(archive) as scene:
        good = made.cube[6:9, 7:20, np.array(scene.bands) - 1].transpose(2, 0, 1)
        np.testing.assert_array_equal(scene.read(6, 9, 7, 20), good)
        assert scene.files == (archive,)


@pytest.mark.parametrize("builder", [builders.aviris_ng, builders.aviris_classic])
def test_the_header_given_as_the_scene(builder, tmp_path):
    made = builder(tmp_path)
    with open_scene(f"{made.path}.hdr") as scene:
        np.testing.assert_array_equal(
            scene.read(6, 9, 7, 20), made.cube[6:9, 7:20, np.array(scene.bands) - 1].transpose(2, 0, 1)
        )


@pytest.mark.parametrize("name", ["neon", "prisma"])
def test_an_hdf5_file_in_a_zip(name, tmp_path):
    builders.ALL[name](tmp_path / "product")
    archive = builders.zipped(tmp_path / "product", tmp_path / "delivered.zip")
    with pytest.raises(SceneError, match="inside a zip file: unpack it and name that file"):
        recognise(archive)


@pytest.mark.parametrize(("level", "wanted"), [("L2B", "wanted L2D"), ("L2C", "wanted L2D"), ("L1", "wanted L2D")])
def test_prisma_without_a_grid(tmp_path, level, wanted):
    made = builders.prisma(tmp_path, level)
    with pytest.raises(SceneError, match=f"is PRISMA {level}, whose pixels lie on no grid: {wanted}"):
        recognise(made.path)


def test_enmap_l1b_has_no_place(tmp_path):
    made = builders.enmap(tmp_path, "L1B")
    with pytest.raises(SceneError, match="of level L1B, which has no place on a map: wanted L1C or L2A"):
        recognise(made.path)


def test_enmap_l1c_is_radiance_by_its_own_gains(tmp_path):
    gains = np.linspace(1e-3, 9e-3, len(builders.WAVES))
    made = builders.enmap(tmp_path, "L1C", gains)
    assert recognise(made.path).quantity == "radiance"
    with open_scene(made.path) as scene:
        assert scene.scaled
        found = scene.read(10, 12, 10, 12)
        np.testing.assert_allclose(found, made.physical[10:12, 10:12, np.array(scene.bands) - 1].transpose(2, 0, 1))


def test_metadata_of_another_image(tmp_path):
    made = builders.enmap(tmp_path)
    builders.write_tif(made.path, made.cube[..., :5], nodata=-32768)
    with pytest.raises(SceneError, match="has 5 bands and its metadata describe 9"):
        open_scene(made.path)


@pytest.mark.parametrize("cut", [40, 900])
def test_damaged_metadata(tmp_path, cut):
    made = builders.enmap(tmp_path)
    xml = next(tmp_path.glob("*METADATA.XML"))
    xml.write_bytes(xml.read_bytes()[:cut])
    with pytest.raises(SceneError, match="damaged or cut short"):
        open_scene(made.path)


@pytest.mark.parametrize("name", HDF5)
def test_a_file_that_is_cut_short(name, tmp_path):
    made = builders.ALL[name](tmp_path)
    content = made.path.read_bytes()
    for size in (2000, len(content) // 2, len(content) - 100):
        made.path.write_bytes(content[:size])
        with pytest.raises(SceneError, match=r"damaged|cut short|cannot be read"), open_scene(made.path) as scene:
            scene.read(0, scene.height, 0, scene.width)


@pytest.mark.parametrize("name", ["emit", "neon", "tanager", "aviris-3"])
def test_a_chunk_that_is_damaged(name, tmp_path):
    made = builders.ALL[name](tmp_path)
    with h5py.File(made.path) as file:
        (cube,) = (file[name] for name in CUBES if isinstance(file.get(name), h5py.Dataset))
        chunk = cube.id.get_chunk_info(1)
    content = bytearray(made.path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    made.path.write_bytes(content)
    with (
        open_scene(made.path, "all") as scene,
        pytest.raises(SceneError, match=r"cannot be read at rows 0 to .*damaged or cut short"),
    ):
        scene.read(0, scene.height, 0, scene.width)


def test_other_hdf5_files_are_left_to_gdal(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["cube"] = np.zeros((3, 4, 5))
    assert recognise(tmp_path / "other.h5") is None


def test_other_rasters_are_read_as_before(tmp_path):
    path = builders.write_tif(tmp_path / "scene.tif", builders.values(9))
    assert recognise(path) is None
    with open_scene(path) as scene:
        assert isinstance(scene, RasterScene)
    assert recognise(tmp_path / "missing.tif") is None
    assert recognise("/vsicurl/http://localhost/scene.tif") is None
    assert recognise("s3://bucket/scene.tif") is None
    assert recognise("\0") is None


def test_a_layer_named_for_gdal_is_read_as_the_product(tmp_path):
    made = builders.emit(tmp_path)
    with open_scene(f'NETCDF:"{made.path}":reflectance') as scene:
        np.testing.assert_array_equal(scene.read(0, 23, 0, 31)[0], made.cube[..., 0])
        assert scene.grid is not None


@pytest.mark.parametrize("layer", ["location/glt_x", "//location/glt_x", "sensor_band_parameters/wavelengths"])
def test_another_layer_is_not_read_as_the_spectra(tmp_path, layer):
    made = builders.emit(tmp_path)
    with pytest.raises(SceneError, match="that holds no spectra: wanted the file itself"):
        recognise(f'NETCDF:"{made.path}":{layer}')


def test_gdal_does_not_read_emit_upside_down(tmp_path, monkeypatch):
    """Where only GDAL reaches the file, as on another machine."""
    made = builders.emit(tmp_path)
    monkeypatch.setattr("spectraldiff_runtime.products.recognise.recognise", lambda path: None)
    with pytest.raises(SceneError, match="a file of EMIT, which GDAL reads upside down"):
        open_scene(f"NETCDF:{made.path}:reflectance")


def test_radiance_of_a_flight_line(tmp_path):
    made = builders.aviris_ng(tmp_path, "f080611t01p00r07rdn_c_sc01_ort_img")
    product = recognise(made.path)
    assert (product.sensor, product.quantity, product.date) == ("AVIRIS Classic", "radiance", "2008-06-11")


def test_emit_without_reflectance(tmp_path):
    made = builders.emit(tmp_path)
    with h5py.File(made.path, "a") as file:
        file.move("reflectance", "radiance")
        file.attrs["title"] = "EMIT L1B At-Sensor Calibrated Radiance Data 60 m V001"
    with pytest.raises(SceneError, match=r"another file of EMIT \('EMIT L1B.*wanted the L2A reflectance"):
        recognise(made.path)


def test_a_lookup_table_beyond_the_scene(tmp_path):
    made = builders.emit(tmp_path)
    with h5py.File(made.path, "a") as file:
        file["location/glt_x"][20, 20] = 32
    with pytest.raises(SceneError, match="its lookup table"):
        recognise(made.path)


def test_quality_layers_are_rasters_of_their_own(tmp_path):
    builders.enmap(tmp_path)
    layer = next(tmp_path.glob("*QL_QUALITY_CLOUD.TIF"))
    assert recognise(layer) is None
    with open_scene(layer) as scene:
        assert scene.bands == (1,)


def test_aviris_3_in_sensor_geometry(tmp_path):
    made = builders.aviris_3(tmp_path)
    with h5py.File(made.path, "a") as file:
        del file["transverse_mercator"]
    with pytest.raises(SceneError, match="is AVIRIS in sensor geometry, on no grid: wanted the orthorectified"):
        recognise(made.path)


def test_tanager_in_sensor_geometry(tmp_path):
    made = builders.tanager(tmp_path)
    with h5py.File(made.path, "a") as file:
        file.move("HDFEOS/GRIDS", "HDFEOS/SWATHS")
    with pytest.raises(SceneError, match="Tanager in sensor geometry"):
        recognise(made.path)


def test_each_chunk_is_read_once(tmp_path, monkeypatch):
    """Strips of whole blocks, in whatever bands, touch no chunk twice and none without wanted bands."""
    made = builders.neon(tmp_path)
    read: list[tuple[slice, ...]] = []
    plain = h5py.Dataset.__getitem__

    def watched(self, where, **options):
        if self.name.endswith("Reflectance_Data"):
            read.append(where)
        return plain(self, where, **options)

    with open_scene(made.path, (1, 2, 3, 9)) as scene:
        assert scene.blocks == (12, 7)
        monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
        for row in range(0, 29, 12):
            scene.read(row, min(row + 12, 29), 0, 37)
    touched = [
        (r, c, b)
        for where in read
        for r in range(where[0].start // 12, -(-where[0].stop // 12))
        for c in range(where[1].start // 7, -(-where[1].stop // 7))
        for b in range(where[2].start // 4, -(-where[2].stop // 4))
    ]
    assert len(touched) == len(set(touched))
    assert {b for _, _, b in touched} == {0, 2}


def test_facts_of_the_products(tmp_path):
    found = {name: recognise(build(tmp_path / name).path) for name, build in builders.ALL.items()}
    assert {name: (p.sensor, p.level) for name, p in found.items()} == {
        "enmap": ("EnMAP", "L2A"), "desis": ("DESIS", "L2A"), "prisma": ("PRISMA", "L2D"), "emit": ("EMIT", "L2A"),
        "neon": ("NEON AOP", "L3"), "tanager": ("Tanager", "L2A"), "aviris-ng": ("AVIRIS-NG", "L2"),
        "aviris-classic": ("AVIRIS Classic", "L2"), "aviris-3": ("AVIRIS-3", "L2A"),
    }  # fmt: skip
    dates = {name: p.date[:10] for name, p in found.items()}
    assert dates == {
        "enmap": "2023-04-15", "desis": "2019-12-03", "prisma": "2023-01-01", "emit": "2023-01-01", "neon": "",
        "tanager": "2025-06-01", "aviris-ng": "2018-08-14", "aviris-classic": "2018-06-01", "aviris-3": "2023-09-26",
    }  # fmt: skip
    assert found["enmap"].clouds == 7.5
    assert found["prisma"].clouds == pytest.approx(3.0)


def test_a_band_that_looks_like_alpha_is_a_band(tmp_path):
    """GDAL takes a fourth extra band for alpha in files that say so; a product's metadata know better."""
    made = builders.desis(tmp_path)
    cube = np.where(made.cube < 0, 0, made.cube)[..., :4].astype("uint16")
    builders.write_tif(made.path, cube, photometric="RGB", alpha="YES")
    with rasterio.open(made.path) as dataset:
        assert dataset.colorinterp[3].name == "alpha"
    xml = next(tmp_path.glob("*.xml"))
    text = re.sub(r"<band><bandNumber>[567]</bandNumber><wave.*?</band>", "", xml.read_text())
    xml.write_text(text)
    with open_scene(made.path) as scene:
        assert scene.bands == (1, 2, 3, 4)
        assert scene.mask(0, 29, 0, 37) is None


def test_spectra_without_their_metadata_are_a_plain_raster(tmp_path):
    made = builders.enmap(tmp_path / "whole")
    shutil.copy(made.path, tmp_path / made.path.name)
    assert recognise(tmp_path / made.path.name) is None
    with open_scene(tmp_path / made.path.name) as scene:
        assert "has no ENMAP01-____L2A-DT0000001234" in scene.warnings[0]
        assert (
            "-METADATA.XML next to it, so its wavelengths, scale, bad bands and clouds are not known"
            in scene.warnings[0]
        )
