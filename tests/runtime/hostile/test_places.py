"""Files and folders that are missing, in the way or of another kind: one clear line, no file lost, changed or left."""

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from spectraldiff_runtime.gdal import quiet_gdal
from spectraldiff_runtime.model.model_file import seal
from tests.runtime.hostile.kit import (
    Kit,
    Make,
    begun,
    check_refused,
    corrupt_journal,
    links,
    whole,
)


def same_stem(kit: Kit) -> list[object]:
    (kit.folder / "other").mkdir()
    first = kit.write()
    return [first, shutil.copy(first, kit.folder / "other" / "scene.tif"), "--out-dir", kit.folder]


def changed_after(kit: Kit, *options: object) -> list[object]:
    scene = begun(kit)
    kit.write(values=kit.cube + 1)
    return [scene, *options]


def over(kit: Kit, option: str, name: str, *more: object) -> list[object]:
    """Return arguments that name a file that is there already as an output."""
    return [kit.write(), option, kit.file(name, "precious"), *more]


PLACES: dict[str, tuple[int, str, Make]] = {
    "scene-folder": (1, "is a folder", lambda k: [k.folder]),
    "scene-missing": (1, "does not exist", lambda k: [k.folder / "no.tif"]),
    "scene-name-of-two-lines": (1, "does not exist", lambda k: [k.folder / "no\nthing.tif"]),
    "scene-endless-name": (1, "does not exist", lambda k: [k.folder / ("long" * 100)]),
    "scene-loop": (1, "does not exist", lambda k: [k.link("loop.tif", "loop.tif")]),
    "scene-broken-link": (1, "does not exist", lambda k: [k.link("scene.tif", "gone.tif")]),
    "scene-empty-name": (1, "is no file name", lambda k: [""]),
    "scene-device": (1, "is a pipe or a device", lambda k: ["/dev/null"]),
    "swapped": (1, "is not a SpectralDiff model file", lambda k: [k.model_path, "--model", k.write()]),
    "model-folder": (1, "is a folder", lambda k: [k.write(), "--model", k.folder]),
    "model-missing": (1, "there is no model file", lambda k: [k.write(), "--model", k.folder / "no.onnx"]),
    "model-loop": (1, "too many levels", lambda k: [k.write(), "--model", k.link("m.onnx", "m.onnx")]),
    "model-broken-link": (1, "there is no model file", lambda k: [k.write(), "--model", k.link("m.onnx", "gone")]),
    "model-empty": (1, "is empty", lambda k: [k.write(), "--model", k.file("m.onnx")]),
    "model-cut": (
        1,
        "is cut short",
        lambda k: [k.write(), "--model", k.file("m.onnx", k.model_path.read_bytes()[:-1])],
    ),
    "model-grown": (
        1,
        "was changed",
        lambda k: [k.write(), "--model", k.file("m.onnx", k.model_path.read_bytes() + b"\0")],
    ),
    "model-of-others": (
        1,
        "SpectralDiff did not write",
        lambda k: [k.write(), "--model", k.file("m.onnx", k.onnx(card=None))],
    ),
    "model-without-card": (
        1,
        "no model card",
        lambda k: [k.write(), "--model", k.file("m.onnx", seal(k.onnx(card=None)))],
    ),
    "model-sealed-rubbish": (
        1,
        "is not a SpectralDiff model",
        lambda k: [k.write(), "--model", k.file("m.onnx", seal(b"rubbish" * 99))],
    ),
    "out-folder": (1, "is a folder", lambda k: [k.write(), "--out", k.folder]),
    "out-in-no-folder": (1, "there is no folder", lambda k: [k.write(), "--out", k.folder / "no" / "out.tif"]),
    "out-in-a-file": (1, "there is no folder", lambda k: [k.write(), "--out", k.file("file") / "out.tif"]),
    "out-exists": (1, "--overwrite", lambda k: over(k, "--out", "out.tif")),
    "out-loop": (1, "no plain file", lambda k: [k.write(), "--out", k.link("loop.tif", "loop.tif"), "--overwrite"]),
    "out-broken-link": (1, "no plain file", lambda k: [k.write(), "--out", k.link("l.tif", "gone.tif"), "--overwrite"]),
    "out-device": (1, "no plain file", lambda k: [k.write(), "--out", "/dev/null", "--overwrite"]),
    "out-proc": (1, "cannot be written", lambda k: [k.write(), "--out", "/proc/out.tif"]),
    "out-endless-name": (
        1,
        "cannot be written (File name too long)",
        lambda k: [k.write(), "--out", k.folder / ("o" * 300)],
    ),
    "out-name-without-room": (
        1,
        "cannot be written (File name too long)",
        lambda k: [k.write(), "--out", k.folder / ("o" * 250)],
    ),
    "out-name-with-room-for-the-folder-only": (
        1,
        "cannot be written (File name too long)",
        lambda k: [k.write(), "--out", k.folder / ("o" * 242)],
    ),
    "out-is-scene": (
        1,
        "the same file as the input",
        lambda k: [k.write(), "--out", k.folder / "scene.tif", "--overwrite"],
    ),
    "out-is-scene-by-link": (
        1,
        "the same file as the input",
        lambda k: [k.write(), "--out", k.link("l.tif", "scene.tif"), "--overwrite"],
    ),
    "out-is-header": (
        1,
        "has the suffix '.hdr' and that format is not written: wanted .tif, .tiff, .gpkg, .png, .nc or .zarr",
        lambda k: [k.envi(), "--out", k.folder / "scene.hdr", "--overwrite"],
    ),
    "out-is-model": (
        1,
        "the same file as the input",
        lambda k: [k.write(), "--model", m := k.file("m.onnx", k.model_path.read_bytes()), "--out", m, "--overwrite"],
    ),
    "out-is-mask": (
        1,
        "the same file as the input",
        lambda k: [k.write(), "--mask", m := square(k), "--out", m, "--overwrite"],
    ),
    "confidence-is-out": (1, "the same file as what --out names", lambda k: [k.write(), "--confidence", k.out]),
    "preview-is-confidence": (
        1,
        "the same file as",
        lambda k: [k.write(), "--confidence", k.folder / "a.png", "--preview", k.folder / "." / "a.png"],
    ),
    **{
        f"{option[2:]}-of-another-kind-{suffix}": (
            1,
            f"{option} '",
            lambda k, option=option, suffix=suffix: [k.write(), option, k.folder / f"classes.{suffix}"],
        )
        for option, suffix in [("--out", "xyz"), ("--out", "shp"), ("--confidence", "shp"), ("--probabilities", "nc")]
    },
    "preview-exists": (1, "--overwrite", lambda k: over(k, "--preview", "map.png")),
    "preview-of-another-kind": (1, "wanted .png or .jpg", lambda k: [k.write(), "--preview", k.folder / "map.gif"]),
    "out-dir-is-a-file": (2, "is no folder", lambda k: [k.write(), "--out-dir", k.file("maps", "precious")]),
    "out-dir-in-no-folder": (2, "cannot be made", lambda k: [k.write(), "--out-dir", k.folder / "no" / "maps"]),
    "same-stem": (2, "would both be mapped to", same_stem),
    "out-with-two-scenes": (2, "give --out-dir", lambda k: [k.write(), k.write("b.tif"), "--out", k.out]),
    "out-and-out-dir": (
        2,
        "give --out classes.tif for one scene",
        lambda k: [k.write(), "--out", k.out, "--out-dir", k.folder],
    ),
    "another-unfinished": (1, "go on with --resume", lambda k: [begun(k)]),
    "unfinished-file": (1, "out.tif.unfinished", lambda k: [k.write(), k.file("out.tif.unfinished", "precious")][:1]),
    "unfinished-loop": (
        1,
        "is in the way",
        lambda k: [k.write(), k.link("out.tif.unfinished", "out.tif.unfinished")][:1],
    ),
    "unfinished-elsewhere": (
        1,
        "is in the way",
        lambda k: [k.write(), (k.folder / "mine").mkdir(), k.link("out.tif.unfinished", "mine")][:1],
    ),
    "journal-empty": (1, "cannot be read", lambda k: corrupt_journal(k, b"", "--resume")),
    "journal-rubbish": (1, "cannot be read", lambda k: corrupt_journal(k, os.urandom(500), "--resume")),
    "journal-rubbish-not-resumed": (1, "--overwrite", lambda k: corrupt_journal(k, os.urandom(500))),
    "resume-of-a-changed-scene": (1, "was begun with another scene", lambda k: changed_after(k, "--resume")),
    "resume-with-other-options": (
        1,
        "was begun with another least confidence",
        lambda k: [begun(k), "--resume", "--min-confidence", "0.5"],
    ),
}


def square(kit: Kit) -> Path:
    """Write a vector file whose one polygon holds columns 2 to 12 and rows 3 to 13."""
    x, y = (480_040, 480_240), (4_469_740, 4_469_940)
    ring = [[x[0], y[0]], [x[1], y[0]], [x[1], y[1]], [x[0], y[1]], [x[0], y[0]]]
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32616"}}
    return kit.file("m.geojson", json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))


@pytest.mark.parametrize("case", PLACES)
def test_refused(kit, sdiff_map, listing, case):
    code, words, make = PLACES[case]
    check_refused(kit, sdiff_map, listing, make(kit), code, words)


PIPED = """
import sys
from spectraldiff_runtime.cli import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize("place", ["scene", "--model", "--out", "--mask", "--preview"])
def test_pipes_do_not_hang(kit, python, listing, place):
    os.mkfifo(pipe := kit.folder / "pipe.png")
    named = {"scene": kit.write(), "--model": kit.model_path, "--out": kit.out, place: pipe}
    scene = named.pop("scene")
    before, names = listing(), links(kit.folder)
    options = [part for option, path in named.items() for part in (option, path)]
    done = python("-c", PIPED, "map", scene, *options, "-q", "--overwrite")
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (1, 1), done.stderr
    assert lines[0].startswith("sdiff: error: ")
    assert str(pipe) in lines[0]
    assert (listing(), links(kit.folder)) == (before, names)


@pytest.fixture
def locked(tmp_path) -> Iterator[Callable[[Path], None]]:
    """Make folders that nobody writes to, not even root: mounted for reading only, where that is allowed."""
    mounted: list[Path] = []

    def lock(folder: Path) -> None:
        if os.geteuid() != 0:
            folder.chmod(0o500)
            return
        for options in (["--bind"], ["-o", "remount,bind,ro"]):
            done = subprocess.run(["mount", *options, str(folder), str(folder)], capture_output=True)
            if done.returncode:
                pytest.skip("mounting is not allowed here")
            mounted[:] = [folder]

    yield lock
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_scene_in_a_folder_for_reading_only(kit, sdiff_map, locked):
    (kit.folder / "fixed").mkdir()
    scene = kit.write("fixed/scene.tif")
    locked(scene.parent)
    assert sdiff_map([scene]) == (0, [])
    with quiet_gdal(), rasterio.open(kit.out) as found:
        np.testing.assert_array_equal(found.read(1), whole(kit))
    assert [path.name for path in scene.parent.iterdir()] == ["scene.tif"]


def test_no_output_in_a_folder_for_reading_only(kit, sdiff_map, locked, listing):
    (kit.folder / "fixed").mkdir()
    scene = kit.write()
    locked(kit.folder / "fixed")
    for option, name in {"--out": "a.tif", "--confidence": "a.tif", "--preview": "a.png"}.items():
        check_refused(kit, sdiff_map, listing, [scene, option, kit.folder / "fixed" / name], 1, "cannot be written")


def test_an_output_by_link_replaces_what_it_leads_to(kit, sdiff_map):
    real = kit.file("real.tif", "old")
    link = kit.link("link.tif", real.name)
    assert sdiff_map([kit.write(), "--out", link, "--overwrite"]) == (0, [])
    assert link.is_symlink()
    with quiet_gdal(), rasterio.open(real) as found:
        np.testing.assert_array_equal(found.read(1), whole(kit))


def test_an_output_that_cannot_be_written_is_refused_before_the_scene_is_read(kit, sdiff_map, monkeypatch):
    monkeypatch.setattr(
        "spectraldiff_runtime.mapping.map_scene.run_locally", lambda *_: pytest.fail("the scene is read")
    )
    code, lines = sdiff_map([kit.write(), "--confidence", "/proc/confidence.tif"])
    assert (code, len(lines)) == (1, 1)
    assert "cannot be written" in lines[0]
    assert os.strerror(errno.ENOENT) in lines[0]
