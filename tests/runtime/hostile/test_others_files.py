"""Files that a map did not write: none is deleted, replaced or written through without --overwrite."""

import os
import shutil
import sqlite3

import pytest

from spectraldiff_runtime.errors import OutputError
from spectraldiff_runtime.mapping.map_scene import map_scene
from tests.runtime.hostile.kit import Kit, check_refused

SIDECARS = ("out.tif.aux.xml", "out.tif.ovr", "out.tif.msk")


@pytest.mark.parametrize("name", SIDECARS)
@pytest.mark.parametrize("option", ["", "--resume"])
def test_what_lies_next_to_the_map(kit, sdiff_map, listing, name, option):
    """GDAL would take it for a part of the map, and an earlier version removed it."""
    scene = kit.write()
    kit.file(name, "precious")
    check_refused(kit, sdiff_map, listing, [scene, *option.split()], 1, f"'{name}' lies next to")


def test_it_goes_with_overwrite_and_the_map_is_whole(kit, sdiff_map):
    scene = kit.write()
    for name in SIDECARS:
        kit.file(name, "of an older map")
    assert sdiff_map([scene, "--overwrite"]) == (0, [])
    assert {path.name for path in kit.folder.iterdir()} == {"scene.tif", "out.tif", "out.tif.aux.xml"}


@pytest.mark.parametrize("name", SIDECARS[1:])
@pytest.mark.parametrize("option", ["", "--overwrite", "--resume"])
def test_the_only_copy_of_the_scene(kit, sdiff_map, listing, name, option):
    scene = kit.write().rename(kit.folder / name)
    check_refused(kit, sdiff_map, listing, [scene, *option.split()], 1, f"'{scene}' as a part: choose another name")


@pytest.mark.parametrize("name", SIDECARS)
def test_the_only_copy_of_the_model(kit, sdiff_map, listing, name):
    scene, model = kit.write(), kit.folder / name
    shutil.copy(kit.model_path, model)
    check_refused(kit, sdiff_map, listing, [scene, "--model", model, "--overwrite"], 1, "as a part: choose another")


def test_a_link_under_the_name_that_partial_files_had(kit, sdiff_map):
    scene, victim = kit.write(), kit.file("victim", "precious")
    planted = [kit.link(f".out.tif.{token}.partial", victim) for token in ("map", "0123456789abcdef")]
    assert sdiff_map([scene]) == (0, [])
    assert victim.read_text() == "precious"
    assert all(link.is_symlink() for link in planted)


@pytest.mark.parametrize("option", ["", "--resume", "--overwrite"])
def test_raw_files_in_a_folder_of_others(kit, sdiff_map, listing, option):
    scene = kit.write()
    (kit.folder / "out.tif.unfinished").mkdir()
    kit.file("out.tif.unfinished/notes.raw", "precious")
    check_refused(kit, sdiff_map, listing, [scene, *option.split()], 1, "is in the way and no unfinished map")


@pytest.mark.parametrize("name", ["out.tif", "confidence.tif", "map.png", "out.tif.ovr", "out.tif.aux.xml"])
def test_a_file_that_comes_while_the_scene_is_mapped(kit, name):
    """What was computed is kept, and gets its names when the other file has gone."""
    scene, other = kit.write(), kit.folder / name
    layers = {"confidence": kit.folder / "confidence.tif", "preview": kit.folder / "map.png"}
    with pytest.raises(OutputError, match=f"'.*{name}' .*what is done is kept: go on with --resume"):
        map_scene(kit.model, scene, kit.out, **layers, progress=lambda _: other.write_text("precious"))
    assert other.read_text() == "precious"
    assert {path.name for path in kit.folder.iterdir()} == {"scene.tif", "out.tif.unfinished", name}
    other.rename(kit.folder / "moved")
    map_scene(kit.model, scene, kit.out, **layers, resume=True)
    names = {"scene.tif", "moved", "out.tif", "out.tif.aux.xml", "confidence.tif", "map.png"}
    assert {path.name for path in kit.folder.iterdir()} == names
    assert (kit.folder / "moved").read_text() == "precious"


def test_a_file_that_comes_in_the_last_moment(kit, monkeypatch):
    """Names are looked at once more before any is given, and then taken without replacing."""
    scene, taken = kit.write(), []
    from spectraldiff_runtime.output.journal import Journal

    announce = Journal.announce_publishing

    def late(journal: Journal) -> None:
        announce(journal)
        if not taken:
            taken.append(kit.file("out.tif", "precious"))

    monkeypatch.setattr(Journal, "announce_publishing", late)
    with pytest.raises(
        OutputError, match=r"out.tif' has come since .* not replaced: move it away; what is done is kept"
    ):
        map_scene(kit.model, scene, kit.out, confidence=kit.folder / "confidence.tif")
    assert kit.out.read_text() == "precious"
    with pytest.raises(OutputError, match="exists"):
        map_scene(kit.model, scene, kit.out, confidence=kit.folder / "confidence.tif", resume=True)
    assert kit.out.read_text() == "precious"
    kit.out.unlink()
    map_scene(kit.model, scene, kit.out, confidence=kit.folder / "confidence.tif", resume=True)
    names = {"scene.tif", "out.tif", "out.tif.aux.xml", "confidence.tif"}
    assert {path.name for path in kit.folder.iterdir()} == names


@pytest.mark.parametrize("end", ["-journal", "-wal", "-shm"])
def test_what_sqlite_would_play_back_and_remove(kit, sdiff_map, listing, end):
    """`-wal` was removed; with `-journal`, a map had its name and could not be read."""
    scene, out = kit.write(), kit.folder / "out.gpkg"
    other = kit.file(f"out.gpkg{end}", "precious")
    for option in ([], ["--resume"]):
        check_refused(kit, sdiff_map, listing, [scene, "--out", out, *option], 1, f"'{other.name}' lies next to")
    assert sdiff_map([scene, "--out", out, "--overwrite"]) == (0, [])
    assert {path.name for path in kit.folder.iterdir()} == {"scene.tif", "out.gpkg"}
    moved = scene.rename(other)
    check_refused(kit, sdiff_map, listing, [moved, "--out", out, "--overwrite"], 1, f"'{moved}' as a part")


def test_what_comes_next_to_polygons_while_they_are_made(kit):
    scene, out, other = kit.write(), kit.folder / "out.gpkg", kit.folder / "out.gpkg-journal"
    with pytest.raises(OutputError, match=r"'.*out.gpkg-journal' .*move it away"):
        map_scene(kit.model, scene, out, progress=lambda _: other.write_text("precious"))
    assert other.read_text() == "precious"
    assert not out.exists()


def test_the_scene_as_a_world_file(kit, sdiff_map, listing):
    scene = kit.write().rename(kit.folder / "out.pgw")
    arguments = [scene, "--out", kit.folder / "out.png", "--overwrite"]
    check_refused(kit, sdiff_map, listing, arguments, 1, f"'{scene}' as a part: choose another name")


@pytest.mark.parametrize(
    ("out", "name"), [("m.gpkg", "m.gpkg-wal"), ("m.png", "m.pgw"), ("m.png", "m.png.aux.xml"), ("m.tif", "m.tif.ovr")]
)
def test_a_folder_under_the_name_of_a_part(kit, sdiff_map, listing, out, name):
    """The map was made first, and then not named."""
    (kit.folder / name).mkdir()
    arguments = [kit.write(), "--out", kit.folder / out, "--overwrite"]
    check_refused(kit, sdiff_map, listing, arguments, 1, f"'{name}' is a folder next to")


@pytest.mark.parametrize("moved", ["scene", "model"])
def test_an_input_inside_the_zarr_that_is_replaced(kit, sdiff_map, listing, moved):
    """It was removed with the Zarr."""
    scene, model, out = kit.write(), kit.folder / "model.onnx", kit.folder / "out.zarr"
    shutil.copy(kit.model_path, model)
    assert sdiff_map([scene, "--out", out]) == (0, [])
    if moved == "scene":
        scene = scene.rename(out / "scene.tif")
    else:
        model = model.rename(out / "model.onnx")
    arguments = [scene, "--model", model, "--out", out, "--overwrite"]
    check_refused(kit, sdiff_map, listing, arguments, 1, f"'{scene if moved == 'scene' else model}' as a part")


@pytest.mark.parametrize("end", ["-journal", "-wal"])
def test_pipes_that_sqlite_would_open(kit, sdiff_map, listing, end):
    """It waited for `-journal`, and removed `-wal`."""
    scene, out = kit.write(), kit.folder / "out.gpkg"
    assert sdiff_map([scene, "--out", out]) == (0, [])
    os.mkfifo(kit.folder / f"out.gpkg{end}")
    check_refused(kit, sdiff_map, listing, [scene, "--out", out, "--resume"], 1, f"out.gpkg{end}' is a pipe")


@pytest.mark.parametrize("name", ["a:b.zarr", "a\\b.zarr", ".zgroup.zarr", "...zarr"])
def test_names_that_zarr_does_not_take(kit, sdiff_map, listing, name):
    """The map was made first, and then not written."""
    check_refused(kit, sdiff_map, listing, [kit.write(), "--out", kit.folder / name], 1, "names an array of Zarr")


@pytest.mark.parametrize("name", ["a\nb.gpkg", "a\udcffb.gpkg", "a\udcffb.zarr", "a\udcffb.nc", "a\x1bb.png"])
def test_names_that_the_format_does_not_take(kit, sdiff_map, listing, name):
    """The map was made first, and then not written, or with a traceback."""
    check_refused(kit, sdiff_map, listing, [kit.write(), "--out", kit.folder / name], 1, "holds control characters")


@pytest.mark.parametrize("option", ["--out", "--confidence"])
def test_rasters_take_names_of_utf8(kit, sdiff_map, listing, option):
    arguments = [kit.write(), option, kit.folder / "a\udcffb.tif"]
    check_refused(kit, sdiff_map, listing, arguments, 1, "holds bytes that are no UTF-8")


def test_a_sieve_of_more_pixels_than_a_scene_has(kit, sdiff_map, listing):
    """A number of more than 25 digits gave polygons that could not be read back."""
    arguments = [kit.write(), "--out", kit.folder / "out.gpkg", "--sieve"]
    check_refused(kit, sdiff_map, listing, [*arguments, 10**30], 2, "at most the pixels of the largest scene")
    assert sdiff_map([*arguments, 10**12]) == (0, [])


@pytest.mark.parametrize("name", ["a!b.gpkg", "a;b.gpkg", "c!/b.gpkg"])
def test_names_that_are_taken_for_files_in_archives(kit, sdiff_map, listing, monkeypatch, name):
    """Polygons went into b.gpkg of the working folder, or into a file without a name."""
    monkeypatch.chdir(kit.folder)
    kit.file("b.gpkg", "precious")
    (kit.folder / "c!").mkdir()
    check_refused(kit, sdiff_map, listing, [kit.write(), "--out", kit.folder / name], 1, "has a ! or ; in its path")


def test_a_confidence_inside_the_zarr_that_is_replaced(kit, sdiff_map, listing):
    """It was written, and then removed with the Zarr."""
    scene, out = kit.write(), kit.folder / "out.zarr"
    assert sdiff_map([scene, "--out", out]) == (0, [])
    arguments = [scene, "--out", out, "--confidence", out / "c.tif", "--overwrite"]
    check_refused(kit, sdiff_map, listing, arguments, 1, "is inside a Zarr that is replaced")


def begun(kit: Kit) -> None:
    kit.unfinished(kit.write())


def test_an_unfinished_map_is_not_swept_by_a_run_that_is_refused(kit, sdiff_map, listing):
    begun(kit)
    kit.file("out.tif", "precious")
    check_refused(kit, sdiff_map, listing, [kit.folder / "scene.tif"], 1, "exists")
    check_refused(kit, sdiff_map, listing, [kit.folder / "scene.tif", "--resume"], 1, "exists")


def test_a_log_next_to_a_mask_that_is_none_of_sqlite(kit, sdiff_map, listing):
    """SQLite removed it when the mask was read; a log of its own is read."""
    scene, mask = kit.write(), kit.folder / "aoi.gpkg"
    assert sdiff_map([scene, "--out", mask]) == (0, [])
    for content in (b"precious", b"\x37\x7f\x06\x82"):
        log = kit.file("aoi.gpkg-wal", content)
        check_refused(kit, sdiff_map, listing, [scene, "--mask", mask], 1, "is no write-ahead log of SQLite")
    log.unlink()
    with sqlite3.connect(mask) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE notes (text)")
        database.commit()
        assert log.stat().st_size
        assert sdiff_map([scene, "--mask", mask]) == (0, [])
    database.close()
