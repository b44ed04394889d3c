"""The Houston scene, out of its archive and from unpacked files."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio

from spectraldiff.datasets import registry
from spectraldiff.datasets.download import DataFile
from spectraldiff.datasets.loaders import DatasetInfo
from spectraldiff_runtime.errors import DatasetError
from tests.spectraldiff.datasets.publisher import (
    CLASSES,
    CUBE,
    LABELS,
    Publisher,
    names_in,
    sha256,
)

HEADER = """ENVI
description = {
  Airborne [Mon], with = in it}
samples = 5
map info = {UTM, 1.000, 1.000, 270000.5, 3290000.25, 2.5, 2.5, 15, North, WGS-84, units=Meters}
wavelength units = Nanometers
wavelength = {
 364.000000,  368.799988,
 1046.099976}
"""


def roi(labels: np.ndarray, classes: int) -> bytes:
    """Return labels as ENVI writes regions of interest: number, x and y from 1, a block a class."""
    lines = ["; ENVI Output of ROIs (4.8)"]
    for value in range(1, classes + 1):
        rows, columns = np.nonzero(labels == value)
        lines += [f"{i:5d} {x + 1:5d} {y + 1:5d}" for i, (y, x) in enumerate(zip(rows, columns, strict=True), 1)]
        lines.append("")
    return "\n".join(lines).encode()


def houston_files(tmp_path: Path) -> tuple[dict[str, bytes], bytes]:
    """Return the contents of the archive, and the validation samples, of a tiny Houston."""
    path = tmp_path / "casi.tif"
    profile = {"driver": "GTiff", "height": 6, "width": 5, "count": 3, "dtype": "uint16"}
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(path, "w", **profile) as dataset:
        dataset.write(CUBE.transpose(2, 0, 1))
    half = np.arange(30).reshape(6, 5) % 2 == 0
    inside = {"CASI.tif": path.read_bytes(), "CASI.hdr": HEADER.encode(), "Samples_TR.txt": roi(LABELS * half, 2)}
    path.unlink()
    return {f"2013_IEEE_GRSS_DF_Contest_{n}": data for n, data in inside.items()}, roi(LABELS * ~half, 2)


def register_houston(monkeypatch: pytest.MonkeyPatch, publisher: Publisher, tmp_path: Path) -> None:
    contents, validation = houston_files(tmp_path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in contents.items():
            archive.writestr(f"2013_DFTC/{name}", data)
    publisher.files |= {"/2013_DFTC.zip": buffer.getvalue(), "/va.txt": validation}
    whole = DataFile("2013_DFTC.zip", sha256(buffer.getvalue()), (f"{publisher.address}/2013_DFTC.zip",))
    files = (
        *(DataFile(name, sha256(data), archive=whole) for name, data in contents.items()),
        DataFile(registry.HOUSTON_FILES[-1].name, sha256(validation), (f"{publisher.address}/va.txt",)),
    )
    info = registry.describe("houston")
    tiny = {"height": 6, "width": 5, "bands": 3, "classes": CLASSES, "files": files}
    monkeypatch.setitem(registry.REGISTRY, "houston", DatasetInfo(**{**vars(info), **tiny}))


def test_houston_comes_out_of_its_archive(tmp_path, monkeypatch, publisher):
    register_houston(monkeypatch, publisher, tmp_path)
    scene = registry.load("houston", tmp_path)
    np.testing.assert_array_equal(scene.cube, CUBE)
    np.testing.assert_array_equal(scene.labels, LABELS)
    assert scene.wavelengths is not None
    assert scene.wavelengths.tolist() == [364.0, 368.799988, 1046.099976]
    assert scene.crs == "EPSG:32615"
    assert scene.transform == (2.5, 0.0, 270000.5, 0.0, -2.5, 3290000.25)
    assert not any("partial" in name for name in names_in(tmp_path))


def test_houston_from_unpacked_files_needs_no_archive(tmp_path, monkeypatch, publisher):
    register_houston(monkeypatch, publisher, tmp_path)
    folder = tmp_path / "mine" / "2013_DFTC"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(io.BytesIO(publisher.files["/2013_DFTC.zip"])) as archive:
        archive.extractall(tmp_path / "mine")
    (folder / registry.HOUSTON_FILES[-1].name).write_bytes(publisher.files["/va.txt"])
    np.testing.assert_array_equal(registry.load("houston", tmp_path / "mine").labels, LABELS)
    assert publisher.asked == []


def test_houston_without_a_server_asks_for_archive_and_samples(tmp_path, monkeypatch, publisher):
    register_houston(monkeypatch, publisher, tmp_path)
    publisher.files.clear()
    with pytest.raises(DatasetError) as caught:
        registry.load("houston", tmp_path)
    assert "download 2013_DFTC.zip, 2013_IEEE_GRSS_DF_Contest_Samples_VA.txt manually" in str(caught.value)
    assert names_in(tmp_path) == set()
