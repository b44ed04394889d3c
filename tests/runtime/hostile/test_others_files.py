"""Files that a map did not write: none is deleted, replaced or written through without --overwrite."""

import shutil

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


def begun(kit: Kit) -> None:
    kit.unfinished(kit.write())


def test_an_unfinished_map_is_not_swept_by_a_run_that_is_refused(kit, sdiff_map, listing):
    begun(kit)
    kit.file("out.tif", "precious")
    check_refused(kit, sdiff_map, listing, [kit.folder / "scene.tif"], 1, "exists")
    check_refused(kit, sdiff_map, listing, [kit.folder / "scene.tif", "--resume"], 1, "exists")
