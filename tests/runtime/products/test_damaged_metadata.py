"""Metadata of products that are damaged, odd or cut short: one line, and odd texts are read."""

import os
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.products import aviris, delivery, hdf5_file
from spectraldiff_runtime.products.delivery import Delivery
from spectraldiff_runtime.products.metadata_xml import Metadata, as_number


def test_texts_and_numbers_of_hdf5_in_all_their_forms(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["name"], file["gain"], file["list"] = "Müritz", 0.5, [1.5, 2.5]
        assert hdf5_file.text(file["name"]) == "Müritz"
        assert hdf5_file.number(file["gain"]) == 0.5
        assert hdf5_file.numbers(file["list"]).tolist() == [1.5, 2.5]
        file["list"].attrs["_FillValue"] = -9999.0
        assert hdf5_file.fill_value(file["list"]) == -9999.0
        assert hdf5_file.fill_value(file["gain"]) is None
    assert hdf5_file.text("Müritz".encode("latin-1")) == "Müritz"
    assert hdf5_file.text(np.array([b"first", b"second"])) == "first"
    assert [hdf5_file.text(odd) for odd in (None, np.array([]))] == ["", ""]
    assert not hdf5_file.is_hdf5(tmp_path / "none.h5")


def test_xml_that_is_none_or_lacks_bands_and_numbers() -> None:
    with pytest.raises(SceneError, match=r"'m\.xml' is damaged or cut short"):
        Metadata(b"<a><b>", "m.xml")
    gap = Metadata(b"<m><band id='1'/><band id='3'/></m>", "m.xml")
    with pytest.raises(SceneError, match="describes no bands 1 to n"):
        gap.bands("band", "id")
    odd = Metadata(b"<m><band id='x'/></m>", "m.xml")
    with pytest.raises(SceneError, match="describes no bands 1 to n"):
        odd.bands("band", "id")
    words = Metadata(b"<m><band id='1'><gain>much</gain></band></m>", "m.xml")
    with pytest.raises(SceneError, match="has no number as gain of band 1"):
        words.values(words.bands("band", "id"), "gain")
    assert [as_number(text) for text in ("2.5", "inf", "much", "")] == [2.5, None, None, None]


def test_metadata_that_is_too_large_or_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.xml").write_bytes(b"<m/>")
    found = Delivery.of(tmp_path)
    assert found is not None
    assert found.read("m.xml") == b"<m/>"
    with pytest.raises(SceneError, match="cannot be read"):
        found.read("other.xml")
    monkeypatch.setattr(delivery, "LARGEST", 3)
    with pytest.raises(SceneError, match=r"'m.xml' has 4 bytes: wanted a product's metadata"):
        found.read("m.xml")


def test_a_folder_of_very_many_files_is_no_product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "MOST", 2)
    for name in "abc":
        (tmp_path / name).touch()
    found = Delivery.of(tmp_path)
    assert found is not None
    assert found.names == ()


def test_a_zip_whose_end_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inside.txt", b"x" * 100)
    os.truncate(path, 60)
    assert Delivery.of(path) is None


def test_aviris_with_too_few_wavelengths(tmp_path: Path) -> None:
    path = tmp_path / "AV320240101t000000_001_L2A_RFL_ORT.nc"
    with h5py.File(path, "w") as file:
        file["reflectance/reflectance"] = np.zeros((3, 2, 2), np.float32)
        file["reflectance/wavelength"] = [400.0, 500.0]
        file["transverse_mercator"] = 0
        with pytest.raises(ValueError, match="reflectance has 3 bands and there are 2 wavelengths"):
            aviris.recognise(path, file)


def test_aviris_placed_by_its_coordinates(tmp_path: Path) -> None:
    """Coordinates are those of the pixels' centres, a transform is that of their edges."""
    path = tmp_path / "AV320240101t000000_001_L2A_RFL_ORT.nc"
    with h5py.File(path, "w") as file:
        file["reflectance/reflectance"] = np.zeros((2, 2, 3), np.float32)
        file["reflectance/wavelength"], file["reflectance/fwhm"] = [400.0, 500.0], [7.0, 7.0]
        file["transverse_mercator"] = 0
        file["transverse_mercator"].attrs["crs_wkt"] = rasterio.crs.CRS.from_epsg(32611).to_wkt()
        file["easting"], file["northing"] = [500_005.0, 500_015.0, 500_025.0], [4_000_095.0, 4_000_085.0]
        place = aviris._place(file)
    assert place.crs.to_epsg() == 32611
    assert tuple(place.transform)[:6] == (10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_100.0)
