"""A scene that is changed while it is mapped gives no map; one that was replaced is not gone on with."""

import os
import shutil

import numpy as np
import pytest

from spectraldiff_runtime.errors import OutputError, SceneChangedError
from spectraldiff_runtime.mapping.map_scene import map_scene
from spectraldiff_runtime.scene.file_state import files_state


def overwrite(path):
    """Write other pixels into the file, as a copy under way does; size and date stay."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size // 2)
        file.write(b"\x01" * 500)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def touch(path):
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def replace(path):
    """Put an equal copy in its place: another file, as far as anybody can tell."""
    shutil.copy2(path, path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("change", [overwrite, touch, replace, cut, os.unlink])
@pytest.mark.parametrize("options", [{}, {"resume": True}])
def test_a_scene_that_is_changed_while_it_is_mapped(model, write_scene, tmp_path, change, options):
    scene, out, done = write_scene(), tmp_path / "classes.tif", []

    def progress(_):
        if not done:
            done.append(change(scene))

    with pytest.raises(SceneChangedError, match=r"scene.tif' was changed while it was mapped, .*: it is thrown away"):
        map_scene(model, scene, out, progress=progress, **options)
    assert {path.name for path in tmp_path.iterdir()} <= {"scene.tif"}


def test_arrays_are_no_map_of_a_changed_scene_either(model, write_scene):
    scene = write_scene()
    with pytest.raises(SceneChangedError):
        map_scene(model, scene, progress=lambda _: overwrite(scene))


@pytest.mark.parametrize("change", [overwrite, touch])
def test_a_map_does_not_go_on_with_another_scene(model, write_scene, tmp_path, change):
    scene, out = write_scene(), tmp_path / "classes.tif"

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        map_scene(model, scene, out, tile=4, resume=True, progress=stop)
    change(scene)
    with pytest.raises(OutputError, match="was begun with another scene: other size, date or bytes of its files"):
        map_scene(model, scene, out, tile=4, resume=True)


def test_a_finished_map_is_not_that_of_another_scene(model, write_scene, tmp_path):
    scene, out = write_scene(), tmp_path / "classes.tif"
    map_scene(model, scene, out)
    assert map_scene(model, scene, out, resume=True).skipped
    replace(scene)  # a copy is the same scene
    assert map_scene(model, scene, out, resume=True).skipped
    overwrite(scene)
    with pytest.raises(OutputError, match="another scene: other size, date or bytes of its files"):
        map_scene(model, scene, out, resume=True)


def test_samples_reach_both_ends_and_the_middle(tmp_path):
    path = tmp_path / "large.img"
    path.write_bytes(bytes(4_000_000))
    (whole,) = files_state([path])
    assert whole["size"] == 4_000_000
    for position in (0, 3_999_999, (4_000_000 - 4096) * 31 // 63):
        data = np.zeros(4_000_000, np.uint8)
        data[position] = 1
        path.write_bytes(data.tobytes())
        assert files_state([path])[0]["samples"] != whole["samples"]


def test_many_files_are_sampled_less(tmp_path):
    for number in range(600):
        (tmp_path / str(number)).write_bytes(b"x")
    found = files_state(sorted(tmp_path.iterdir()))
    assert len({one["samples"] for one in found}) == 1


STATISTICS = """<Metadata>
      <MDI key="STATISTICS_MAXIMUM">9604</MDI><MDI key="STATISTICS_MEAN">2652.4</MDI>
    </Metadata>
    <Histograms><HistItem><HistMin>-0.5</HistMin></HistItem></Histograms>"""


def sidecar(folder, text):
    path = folder / "scene.tif.aux.xml"
    path.write_text(f"<PAMDataset>\n  {text}\n</PAMDataset>\n")
    return path


def test_statistics_that_qgis_writes_change_no_scene(tmp_path):
    scene = tmp_path / "scene.tif"
    scene.write_bytes(b"pixels")
    alone = files_state([scene])
    band = f'<PAMRasterBand band="1">{STATISTICS}</PAMRasterBand>'
    assert files_state([scene, sidecar(tmp_path, band)]) == alone
    named = '<PAMRasterBand band="1"><Description>red</Description></PAMRasterBand>'
    before = files_state([scene, sidecar(tmp_path, named)])
    assert before != alone
    both = named.replace("</PAMRasterBand>", f"{STATISTICS}</PAMRasterBand>")
    assert files_state([scene, sidecar(tmp_path, both)]) == before


@pytest.mark.parametrize("text", ["<SRS>EPSG:4326</SRS>", "<Metadata><MDI key='A'>1</MDI></Metadata>", "<damaged"])
def test_what_else_a_sidecar_says_counts(tmp_path, text):
    before = files_state([sidecar(tmp_path, "<SRS>EPSG:32616</SRS>")])
    assert files_state([sidecar(tmp_path, text)]) != before


def test_a_map_goes_on_after_qgis_has_shown_its_scene(model, write_scene, tmp_path):
    scene, out = write_scene(), tmp_path / "classes.tif"
    map_scene(model, scene, out=out)
    path = scene.with_name(f"{scene.name}.aux.xml")
    assert not path.exists()
    path.write_text(f'<PAMDataset><PAMRasterBand band="1">{STATISTICS}</PAMRasterBand></PAMDataset>')
    map_scene(model, scene, out=out, resume=True)
    path.write_text("<PAMDataset><SRS>EPSG:4326</SRS></PAMDataset>")
    with pytest.raises(OutputError, match="another scene"):
        map_scene(model, scene, out=out, resume=True)
