"""Each limit of docs/limits.md, reached and passed by one."""

import json
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely

from spectraldiff_runtime import limits
from spectraldiff_runtime.classes import HIGHEST, clean_name
from spectraldiff_runtime.errors import LabelsError, ModelFileError, SceneError
from spectraldiff_runtime.gdal import check_plain
from spectraldiff_runtime.geo.vector_file import made_valid
from spectraldiff_runtime.geo.vector_source import open_vectors
from spectraldiff_runtime.mapping.map_scene import map_scene
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.raster_file import check_vrt
from spectraldiff_runtime.scene.open import open_dataset
from spectraldiff_runtime.scene.raster import RasterScene
from spectraldiff_runtime.untrusted import parse_json
from tests.runtime.hostile.kit import Kit
from tests.tiny_model import CARD, ROOT

SECONDS = 60  # far above what it takes to begin, on a machine with other work too


def empty_vrt(kit: Kit, width: int, height: int, bands: int = 1) -> Path:
    listed = "".join(f'<VRTRasterBand dataType="Byte" band="{i}"/>' for i in range(1, bands + 1))
    return kit.file("s.vrt", f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{listed}</VRTDataset>')


def test_pixels(kit: Kit):
    with open_dataset(empty_vrt(kit, 10**6, 10**6)) as dataset:
        assert dataset.width * dataset.height == limits.PIXELS
    for width, height in ((10**6, 10**6 + 1), (2 * 10**9, 2 * 10**9), (limits.SIDE, limits.SIDE)):
        with pytest.raises(SceneError, match="wanted at most 1,000,000,000,000 pixels"):
            RasterScene(empty_vrt(kit, width, height))


def test_sides(kit: Kit):
    with open_dataset(empty_vrt(kit, limits.SIDE, 1)) as dataset:
        assert dataset.width == limits.SIDE
    with pytest.raises(SceneError, match="cannot be opened"):
        RasterScene(empty_vrt(kit, limits.SIDE + 1, 1))


def test_a_scene_of_2e9_by_2e9_is_refused_before_it_is_planned(kit: Kit, sdiff_map):
    code, lines = sdiff_map([empty_vrt(kit, 2 * 10**9, 2 * 10**9, 7)])
    assert (code, len(lines)) == (1, 1)


def test_a_sparse_scene_of_40_thousand_million_pixels_begins_to_map(kit: Kit):
    """Its plan takes as long as its rim, not as its sides times their parts."""
    side, began = 200_000, time.monotonic()
    header = f"ENVI\nsamples = {side}\nlines = {side}\nbands = 7\ndata type = 12\ninterleave = bsq\nbyte order = 0\n"
    scene = kit.file("large.img")
    kit.file("large.hdr", header)
    os.truncate(scene, side * side * 7 * 2)

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        map_scene(kit.model, scene, kit.out, tile=32, max_memory=10**9, progress=stop)
    assert time.monotonic() - began < SECONDS


@pytest.mark.parametrize("name", ["labels.csv", "labels.kml", "labels", "labels.dbf"])
def test_tables(kit: Kit, monkeypatch, name):
    """At the limit a table is read: it is none. One byte more is said before."""
    kit.file("labels.shp"), kit.file("labels.shx")
    table, opened = kit.file(name), kit.folder / name.replace("dbf", "shp")
    monkeypatch.setattr("spectraldiff_runtime.geo.vector_source.TABLE_BYTES", 1000)
    os.truncate(table, 1000)
    with pytest.raises(LabelsError, match=r"no coordinates|cannot be read"):
        open_vectors(opened, LabelsError)
    os.truncate(table, 1001)
    with pytest.raises((LabelsError, SceneError), match="has 1,001 bytes: wanted 1,000 at most"):
        open_vectors(opened, LabelsError)
    if name != "labels.dbf":
        table.write_bytes(b"SQLite format 3\0" + bytes(1000))  # of which parts are read
        with pytest.raises(LabelsError, match=r"no coordinates|cannot be read"):
            open_vectors(opened, LabelsError)


def test_files_in_a_folder(kit: Kit, monkeypatch):
    monkeypatch.setattr("spectraldiff_runtime.gdal.FOLDER_ENTRIES", 3)
    folder = kit.folder / "scene.zarr"
    (folder / "c").mkdir(parents=True)
    for name in ("c/0", "c/1"):
        (folder / name).touch()
    check_plain(folder)
    (folder / "c/2").touch()
    with pytest.raises(SceneError, match="holds more than 3 files: wanted one scene"):
        check_plain(folder)


def test_bands(kit: Kit):
    with open_dataset(empty_vrt(kit, 1, 1, limits.BANDS)) as dataset:
        assert dataset.count == limits.BANDS
    with pytest.raises(SceneError, match="65,536 bands: wanted at most"), open_dataset(empty_vrt(kit, 1, 1, 65_536)):
        pass


def changed(**values: object) -> str:
    return json.dumps({**json.loads(CARD.to_json()), **values})


def classes(count: int) -> list[dict[str, object]]:
    return [{"value": i, "name": f"{i}", "colour": [0, 0, 0]} for i in range(1, count + 1)]


def numbers(count: int) -> dict[str, object]:
    return {"bands": count, "fill": [1.0] * count, "wavelengths": None}


def filled_up(text: str, length: int) -> str:
    return text.replace("@", "y" * (length - len(text) + 1))


CARDS: dict[str, tuple[Callable[[int], str], int]] = {
    "classes": (lambda n: changed(classes=classes(n)), HIGHEST),
    "bands": (lambda n: changed(**numbers(n)), limits.BANDS),
    "halo": (lambda n: changed(halo=n), limits.HALO),
    "name": (lambda n: changed(name="x" * n), limits.NAME),
    "text": (lambda n: changed(attribution="x" * n), limits.TEXT),
    "digits": (lambda n: changed().replace('"nodata": null', '"nodata": ' + "1" * n), limits.JSON_DIGITS),
    "card": (lambda n: filled_up(changed(accuracy={"x": "@"}), n), limits.CARD_BYTES),
}  # fmt: skip


@pytest.mark.parametrize("case", CARDS)
def test_cards(case):
    make, most = CARDS[case]
    ModelCard.from_json(make(most))
    with pytest.raises(ModelFileError):
        ModelCard.from_json(make(most + 1))


def test_nesting():
    parse_json("[" * limits.JSON_DEPTH + "]" * limits.JSON_DEPTH)
    with pytest.raises(ValueError, match="more than 32 levels"):
        parse_json("[" * (limits.JSON_DEPTH + 1) + "]" * (limits.JSON_DEPTH + 1))


def test_names_of_classes_that_are_trained(kit: Kit):
    scene = pytest.importorskip("spectraldiff.data.scene")
    cube, labels = np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), np.uint8)

    def labelled(name: str, title: str) -> None:
        scene.LabelledScene(name, cube, labels, (scene.LandCoverClass(1, title, (0, 0, 0)),))

    labelled("x" * limits.NAME, "y" * limits.NAME)
    for name, title in (("x" * (limits.NAME + 1), "y"), ("x", "y" * (limits.NAME + 1))):
        with pytest.raises(LabelsError, match="a name of 501 characters"):
            labelled(name, title)


def test_the_sensor_in_a_file_is_cut(kit: Kit):
    path = kit.write()
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(SENSOR="\x1b[2J" + "s" * 2000)
    with RasterScene(path) as scene:
        assert len(scene.sensor) == limits.NAME
        assert clean_name(scene.sensor) == scene.sensor


def test_vrts(kit: Kit):
    text = "<VRTDataset rasterXSize='1' rasterYSize='1'></VRTDataset>"
    path = kit.file("s.vrt", text)
    with path.open("r+b") as file:
        file.truncate(limits.VRT_BYTES)
    check_vrt(path)  # GDAL says what zeros after the text are
    with path.open("r+b") as file:
        file.truncate(limits.VRT_BYTES + 1)
    with pytest.raises(SceneError, match="more than 67,108,864 bytes"):
        check_vrt(path)
    source = "<SimpleSource><SourceFilename>gone.tif</SourceFilename></SimpleSource>"
    band = "<VRTRasterBand>{}</VRTRasterBand></VRTDataset>"
    ten, hundred_thousand = kit.folder / "ten.vrt", kit.folder / "many.vrt"
    ten.write_text("<VRTDataset>" + band.format(source * 10))
    named = source.replace("gone.tif", str(ten))
    hundred_thousand.write_text("<VRTDataset>" + band.format(named * (limits.VRT_READS // 10)))
    check_vrt(hundred_thousand)
    hundred_thousand.write_text("<VRTDataset>" + band.format(named * (limits.VRT_READS // 10) + source))
    with pytest.raises(SceneError, match="1,000,001 sources in all"):
        check_vrt(hundred_thousand)


def zigzag(crossings: int) -> shapely.Polygon:
    """Return a polygon whose long edge crosses a zigzag so many times."""
    teeth = [(i, 1 if i % 2 else -1) for i in range(crossings + 1)]
    return shapely.Polygon([*teeth, (crossings + 1, 0), (-1, 0)])


def test_crossings():
    some = zigzag(limits.CROSSINGS)
    assert not shapely.is_valid(some)
    assert shapely.is_valid(made_valid(np.array([some]), "f")).all()
    with pytest.raises(SceneError, match=r"crosses itself more than 10,000 times"):
        made_valid(np.array([zigzag(limits.CROSSINGS + 1)]), "f")


def test_a_random_polygon_of_2000_points_is_refused_at_once(kit: Kit, sdiff_map, listing):
    """It took a minute and 1.7 GB to find the area that its edges enclose."""
    points = np.random.default_rng(0).uniform([480_000, 4_469_500], [480_700, 4_470_000], (2000, 2)).tolist()
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32616"}}
    feature = {
        "type": "Feature",
        "properties": {},
        "geometry": {"type": "Polygon", "coordinates": [[*points, points[0]]]},
    }
    mask = kit.file("m.geojson", json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    code, lines = sdiff_map([kit.write(), "--mask", mask])
    assert (code, len(lines)) == (1, 1)
    assert "2,001 points that crosses itself more than 10,000 times" in lines[0]


@pytest.mark.parametrize("threads", [1, 3])
def test_threads(kit: Kit, threads):
    """`--threads N`: N compute; five more read, gather, start inference, write and wait for them."""
    model = Model.open(kit.model_path, "cpu", threads)
    before, seen = len(list(Path("/proc/self/task").iterdir())), []
    assert model.session.get_session_options().intra_op_num_threads == threads
    if threads == 1:  # the kernels' threads are started once for a process: with 1, there are none
        map_scene(model, kit.cube, tile=8, progress=lambda _: seen.append(threading.active_count()))
        end = time.monotonic() + 10  # the system lists a thread that was joined for a moment longer
        while len(list(Path("/proc/self/task").iterdir())) > before + 1 and time.monotonic() < end:
            time.sleep(0.05)
        assert len(list(Path("/proc/self/task").iterdir())) <= before + 1
        assert max(seen) <= 6


@pytest.mark.parametrize("option", ["--threads", "--workers"])
def test_threads_past_the_limit(kit: Kit, sdiff_map, option):
    """A million threads ended in a crash."""
    code, lines = sdiff_map([kit.write(), option, limits.THREADS + 1])
    assert (code, len(lines)) == (2, 1)
    assert "1,024" in lines[0]


def test_the_page_names_every_limit():
    text = re.sub(r"[,_]", "", (ROOT / "docs/limits.md").read_text("utf-8"))
    for name, value in vars(limits).items():
        if name.isupper():
            assert re.search(rf"\b{value}\b", text), f"{name} = {value} is missing in docs/limits.md"
