"""Benchmark scenes: what is shipped, found, downloaded, refused; a server on this machine plays the publisher."""

import hashlib
import io
import socket
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
import scipy.io
from rasterio.warp import transform as warp

from spectraldiff.datasets import download, loaders, registry
from spectraldiff.datasets.download import DataFile
from spectraldiff.datasets.loaders import DatasetInfo
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import DatasetError, UsageError
from spectraldiff_runtime.scene import envi

PAGE = b"\n<!DOCTYPE html><html><body>Moved</body></html>"
CUBE = np.random.default_rng(0).integers(0, 4000, (6, 5, 3)).astype(np.uint16)
LABELS = np.random.default_rng(1).integers(0, 3, (6, 5)).astype(np.uint8)
CLASSES = (LandCoverClass(1, "Grass", (0, 200, 0)), LandCoverClass(2, "Water", (0, 0, 200)))


def mat(**variables: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables)
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Publisher:
    """A server on localhost: `files` by path; `cut` names paths whose transfer breaks off in the middle."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            status = state.status.get(self.path, 200 if self.path in state.files else 404)
            body = state.files.get(self.path, b"") if status == 200 else b"no"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if self.path in state.cut else body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Publisher(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def register(
    monkeypatch: pytest.MonkeyPatch, publisher: Publisher, mirrors: tuple[str, ...] = (), **bytes_of: bytes
) -> DatasetInfo:
    """Register the scene `tiny` with two .mat files, and publish them."""
    contents = {
        "tiny.mat": bytes_of.get("cube", mat(tiny=CUBE)), "tiny_gt.mat": bytes_of.get("labels", mat(gt=LABELS))
    }  # fmt: skip
    keys = {"tiny.mat": "tiny", "tiny_gt.mat": "gt"}
    files = tuple(
        DataFile(name, sha256(data), (*(f"{m}/{name}" for m in mirrors), f"{publisher.address}/{name}"), keys[name])
        for name, data in contents.items()
    )
    publisher.files.update({f"/{name}": data for name, data in contents.items()})
    info = DatasetInfo(
        "tiny", "Tiny", "TINY", 6, 5, 3, CLASSES, int((LABELS > 0).sum()), "none", "Nobody.",
        loaders.load_mat, files,
    )  # fmt: skip
    monkeypatch.setitem(registry.REGISTRY, "tiny", info)
    return info


def failure(folder: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        registry.load("tiny", folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


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


def test_files_of_the_user_are_not_downloaded(tmp_path, monkeypatch, publisher):
    register(monkeypatch, publisher)
    (tmp_path / "sub").mkdir()
    (tmp_path / "tiny.mat").write_bytes(mat(tiny=CUBE))
    (tmp_path / "sub" / "tiny_gt.mat").write_bytes(mat(gt=LABELS))
    assert registry.on_disk("tiny", tmp_path)
    scene = registry.load("tiny", tmp_path)
    np.testing.assert_array_equal(scene.cube, CUBE)
    np.testing.assert_array_equal(scene.labels, LABELS)
    assert (scene.name, scene.sensor, scene.classes, scene.wavelengths, scene.crs) == (
        "tiny", "TINY", CLASSES, None, None,
    )  # fmt: skip
    assert publisher.asked == []


def test_missing_files_are_downloaded_once(tmp_path, monkeypatch, publisher):
    register(monkeypatch, publisher)
    assert not registry.on_disk("tiny", tmp_path)
    registry.load("tiny", tmp_path)
    registry.load("tiny", tmp_path)
    assert publisher.asked == ["/tiny.mat", "/tiny_gt.mat"]
    assert names_in(tmp_path) == {"tiny.mat", "tiny_gt.mat"}


def test_folder_of_the_environment_is_made(tmp_path, monkeypatch, publisher):
    register(monkeypatch, publisher)
    monkeypatch.setenv("SPECTRALDIFF_DATA", str(tmp_path / "a" / "b"))
    registry.load("tiny")
    assert names_in(tmp_path / "a" / "b") == {"tiny.mat", "tiny_gt.mat"}


def test_data_dir_that_does_not_exist(tmp_path):
    with pytest.raises(DatasetError, match="nowhere is not a folder"):
        registry.load("salinas", tmp_path / "nowhere")


def test_later_mirror_serves(tmp_path, monkeypatch, publisher):
    register(monkeypatch, publisher, mirrors=(f"{publisher.address}/gone",))
    registry.load("tiny", tmp_path)
    assert publisher.asked[:2] == ["/gone/tiny.mat", "/tiny.mat"]


@pytest.mark.parametrize(("status", "words"), [(404, "HTTP 404 Not Found"), (500, "HTTP 500 Internal")])
def test_server_answers_with_an_error(tmp_path, monkeypatch, publisher, status, words):
    register(monkeypatch, publisher)
    publisher.status["/tiny.mat"] = status
    message = failure(tmp_path)
    assert f"{publisher.address}/tiny.mat ({words}" in message
    assert f"get tiny.mat, tiny_gt.mat by hand and put them into {tmp_path}" in message
    assert names_in(tmp_path) == set()


def test_no_server(tmp_path, monkeypatch, publisher):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        mirror = f"http://127.0.0.1:{free.getsockname()[1]}"
    register(monkeypatch, publisher, mirrors=(mirror,))
    publisher.files.clear()
    message = failure(tmp_path)
    assert f"{mirror}/tiny.mat (no connection), {publisher.address}/tiny.mat (HTTP 404" in message
    assert names_in(tmp_path) == set()


def test_server_that_does_not_answer(tmp_path, monkeypatch, publisher):
    monkeypatch.setattr(download, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        register(monkeypatch, publisher, mirrors=(f"http://127.0.0.1:{silent.getsockname()[1]}",))
        publisher.files.clear()
        assert "tiny.mat (no answer in 0.2 s)" in failure(tmp_path)


def test_transfer_breaks_off(tmp_path, monkeypatch, publisher):
    register(monkeypatch, publisher)
    publisher.cut.add("/tiny_gt.mat")
    message = failure(tmp_path)
    assert f"{publisher.address}/tiny_gt.mat (the transfer broke off)" in message
    assert names_in(tmp_path) == {"tiny.mat"}
    assert "and put them into" in message


def test_interrupted_download_leaves_nothing(tmp_path, monkeypatch, publisher):
    register(monkeypatch, publisher)

    def interrupt(bar, size):
        raise KeyboardInterrupt

    monkeypatch.setattr(download._Bar, "update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        registry.load("tiny", tmp_path)
    assert names_in(tmp_path) == set()


def test_other_file_under_the_name(tmp_path, monkeypatch, publisher):
    register(monkeypatch, publisher)
    publisher.files["/tiny.mat"] = b"something else"
    assert f"its SHA-256 is {sha256(b'something else')}, wanted " in failure(tmp_path)
    assert names_in(tmp_path) == set()


def test_page_is_sent_for_a_file(tmp_path, monkeypatch, publisher):
    register(monkeypatch, publisher)
    publisher.files["/tiny.mat"] = PAGE
    assert "tiny.mat (it is an HTML page" in failure(tmp_path)
    assert names_in(tmp_path) == set()


def test_page_saved_under_the_name_of_a_file(tmp_path, monkeypatch, publisher):
    register(monkeypatch, publisher)
    (tmp_path / "tiny.mat").write_bytes(PAGE)
    message = failure(tmp_path)
    assert f"{tmp_path / 'tiny.mat'} is not the published tiny.mat: it is an HTML page" in message
    assert (tmp_path / "tiny.mat").read_bytes() == PAGE


def test_damaged_file_of_the_user_is_kept_and_named(tmp_path, monkeypatch, publisher):
    register(monkeypatch, publisher)
    (tmp_path / "tiny.mat").write_bytes(mat(tiny=CUBE)[:-9])
    assert "tiny.mat is not the published tiny.mat: its SHA-256 is" in failure(tmp_path)
    assert (tmp_path / "tiny.mat").exists()


def test_folder_that_cannot_be_written(tmp_path, monkeypatch, publisher):
    register(monkeypatch, publisher)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPECTRALDIFF_DATA", str(tmp_path / "file" / "below"))
    with pytest.raises(DatasetError, match=r"cannot write tiny\.mat into .*below"):
        registry.load("tiny")


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
    assert "get 2013_DFTC.zip, 2013_IEEE_GRSS_DF_Contest_Samples_VA.txt by hand" in str(caught.value)
    assert names_in(tmp_path) == set()


def test_archive_that_lacks_a_file(tmp_path, publisher):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/b.txt", "b")
    (tmp_path / "a.zip").write_bytes(buffer.getvalue())
    whole = DataFile("a.zip", sha256(buffer.getvalue()))
    with pytest.raises(DatasetError, match=r"a\.zip has no c\.txt in it"):
        download.obtain([DataFile("c.txt", "0" * 64, archive=whole)], tmp_path)
    assert names_in(tmp_path) == {"a.zip"}


@pytest.mark.parametrize(
    ("info", "grid"),
    [
        ("UTM, 2, 3, 1000, 9000, 10, 20, 22, South, WGS-84", ("EPSG:32722", (10, 0, 990, 0, -20, 9040))),
        ("UTM, 1, 1, 1000, 9000, 10, 20, 22, South, WGS-84, rotation=30", None),
        ("UTM, 1, 1, 1000, 9000, 10, 20, 22, South, NAD-27", None),
        ("Arbitrary, 1, 1, 0, 0, 1, 1", None),
    ],
)
def test_grid_of_an_envi_header(info, grid):
    assert envi.envi_grid({"map info": info}) == grid


def test_wavelengths_of_an_envi_header_in_micrometres():
    found = envi.envi_wavelengths({"wavelength": "0.4, 2.5", "wavelength units": "Micrometers"})
    assert found is not None
    np.testing.assert_allclose(found, [400, 2500])
    assert envi.envi_wavelengths({}) is None
