"""Benchmark scenes: what is shipped, what is known of them, and files that are not what they should be."""

import numpy as np
import pytest
from rasterio.warp import transform as warp

from spectraldiff.datasets import registry
from spectraldiff.datasets.download import DataFile
from spectraldiff.datasets.loaders import DatasetInfo
from spectraldiff_runtime.errors import UsageError
from tests.spectraldiff.datasets.publisher import CUBE, LABELS, failure, mat, register, sha256


@pytest.fixture(scope="module")
def indian_pines():
    return registry.load("indian-pines")


def test_indian_pines_is_shipped(indian_pines):
    info = registry.describe("indian-pines")
    assert indian_pines.cube.shape == (info.height, info.width, info.bands) == (145, 145, 200)
    assert indian_pines.cube.dtype == np.uint16
    assert (int(indian_pines.cube.min()), int(indian_pines.cube.max())) == (955, 9604)
    counts = [46, 1428, 830, 237, 483, 730, 28, 478, 20, 972, 2455, 593, 205, 1265, 386, 93]
    assert np.bincount(indian_pines.labels.ravel())[1:].tolist() == counts
    assert sum(counts) == info.labelled
    assert registry.on_disk("indian-pines")


def test_indian_pines_keeps_the_order_of_its_bands(indian_pines):
    wavelengths = indian_pines.wavelengths
    assert wavelengths[[0, -1]].tolist() == [400.02, 2498.96]
    assert (np.diff(wavelengths) < 0).sum() == 3


def test_indian_pines_says_that_its_place_is_approximate(indian_pines):
    assert indian_pines.crs == "EPSG:32616"
    assert "approximate" in indian_pines.note
    width, _, left, _, height, top = indian_pines.transform
    centre = ([left + 72.5 * width], [top + 72.5 * height])
    (x,), (y,) = warp("EPSG:32616", "EPSG:4326", *centre)
    assert (x, y) == (pytest.approx(-86.98, abs=0.001), pytest.approx(40.46, abs=0.001))


def test_registry_is_consistent():
    labelled = {"houston": 15029, "pavia-university": 42776, "salinas": 54129, "ksc": 5211, "botswana": 3248}
    for name in registry.names():
        info = registry.describe(name)
        assert info.name == name
        assert [c.value for c in info.classes] == list(range(1, len(info.classes) + 1))
        assert len({c.name for c in info.classes}) == len({c.colour for c in info.classes}) == len(info.classes)
        assert info.labelled == labelled.get(name, 10249)
        for file in info.files:
            assert len(bytes.fromhex(file.sha256)) == 32
            assert file.addresses or file.archive
    assert registry.describe("ksc").files[0].addresses == ("https://www.ehu.eus/ccwintco/uploads/2/26/KSC.mat",)


@pytest.mark.parametrize("name", ["Indian_Pines", "indian-pine"])
def test_unknown_name_suggests_a_near_one(name):
    with pytest.raises(UsageError, match="did you mean indian-pines") as caught:
        registry.load(name)
    assert caught.value.exit_code == 2


def test_unknown_name_lists_all():
    with pytest.raises(UsageError, match=r"give one of indian-pines, .*botswana"):
        registry.describe("atlantis")


def test_file_without_the_variable(tmp_path, monkeypatch, publisher):
    register(monkeypatch, publisher, cube=mat(other=CUBE, more=CUBE))
    message = failure(tmp_path)
    assert "has no variable 'tiny' (found: more, other)" in message


def test_file_that_is_no_matlab_file(tmp_path, monkeypatch, publisher):
    register(monkeypatch, publisher, cube=b"not MATLAB at all" * 20)
    assert "tiny.mat is not a MATLAB v5 file" in failure(tmp_path)


def test_cube_of_another_size(tmp_path, monkeypatch, publisher):
    register(monkeypatch, publisher, cube=mat(tiny=CUBE[:, :, :2]))
    assert "the cube is (6, 5, 2)" in failure(tmp_path)


def test_labels_beyond_the_classes(tmp_path, monkeypatch, publisher):
    register(monkeypatch, publisher, labels=mat(gt=LABELS + 2))
    assert "labels go from 2 to 4; wanted 0 to 2" in failure(tmp_path)


@pytest.mark.parametrize(
    ("cube", "dtype"),
    [
        (CUBE.astype(np.float64), np.uint16), (CUBE.astype(np.int32) - 2000, np.int16),
        (CUBE + 0.25, np.float32), (CUBE.astype(np.int64) * 70000, np.float32), (CUBE, np.uint16),
    ],
)  # fmt: skip
def test_cube_takes_the_smallest_type_that_keeps_it(tmp_path, monkeypatch, publisher, cube, dtype):
    register(monkeypatch, publisher, cube=mat(tiny=cube))
    found = registry.load("tiny", tmp_path).cube
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, cube.astype(dtype))


def test_indian_pines_from_its_mat_files(tmp_path, monkeypatch, indian_pines):
    contents = {
        "Indian_pines_corrected.mat": mat(indian_pines_corrected=indian_pines.cube),
        "Indian_pines_gt.mat": mat(indian_pines_gt=indian_pines.labels),
    }
    info = registry.describe("indian-pines-ehu")
    files = tuple(DataFile(f.name, sha256(contents[f.name]), f.addresses, f.key) for f in info.files)
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    changed = DatasetInfo(**{**vars(info), "files": files})
    monkeypatch.setitem(registry.REGISTRY, "indian-pines-ehu", changed)
    scene = registry.load("indian-pines-ehu", tmp_path)
    np.testing.assert_array_equal(scene.cube, indian_pines.cube)
    np.testing.assert_array_equal(scene.labels, indian_pines.labels)
    np.testing.assert_array_equal(scene.wavelengths, indian_pines.wavelengths)
    assert (scene.crs, scene.transform) == (indian_pines.crs, indian_pines.transform)
