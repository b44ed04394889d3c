"""Benchmark scenes: what is found, downloaded, refused; a server on this machine plays the publisher."""

import io
import socket
import zipfile

import numpy as np
import pytest

from spectraldiff.datasets import download, registry
from spectraldiff.datasets.download import DataFile
from spectraldiff_runtime.errors import DatasetError
from tests.spectraldiff.datasets.publisher import (
    CLASSES,
    CUBE,
    LABELS,
    failure,
    mat,
    names_in,
    register,
    sha256,
)

PAGE = b"\n<!DOCTYPE html><html><body>Moved</body></html>"


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
    assert f"download tiny.mat, tiny_gt.mat manually and put them into {tmp_path}" in message
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
    assert f"{publisher.address}/tiny_gt.mat (the transfer was interrupted)" in message
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


def test_archive_that_lacks_a_file(tmp_path, publisher):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/b.txt", "b")
    (tmp_path / "a.zip").write_bytes(buffer.getvalue())
    whole = DataFile("a.zip", sha256(buffer.getvalue()))
    with pytest.raises(DatasetError, match=r"a\.zip has no c\.txt in it"):
        download.obtain([DataFile("c.txt", "0" * 64, archive=whole)], tmp_path)
    assert names_in(tmp_path) == {"a.zip"}
