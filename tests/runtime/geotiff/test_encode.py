"""Rasters made of raw files: what GDAL reads of them, and what is left when they cannot be written."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rio_cogeo import cog_validate

from spectraldiff_runtime.atomic import commit
from spectraldiff_runtime.classes import LandCoverClass, palette
from spectraldiff_runtime.errors import OutputError, UsageError
from spectraldiff_runtime.geo.georeference import Georeference, read_georeference
from spectraldiff_runtime.geotiff import encode as encode_module
from spectraldiff_runtime.geotiff.class_raster import read_classes
from spectraldiff_runtime.geotiff.encode import ArrayRaster, EncodedRaster, check_format, encode
from spectraldiff_runtime.geotiff.spec import Format, class_spec, confidence_spec, probability_spec
from spectraldiff_runtime.geotiff.transcoder import Outcome
from spectraldiff_runtime.scene.open import open_dataset

PLACE = Georeference.of("EPSG:32616", (20, 0, 480_000, 0, -20, 4_470_000))
TAGS = {"SPECTRALDIFF_MODEL": "tiny", "NOTE": 'a <b> & "ä"\nnext line'}
CLASSES = [LandCoverClass(v, f"Klasse <{v}> & ä", c) for v, c in enumerate(palette(9), start=1)]
FORMATS = [Format("COG"), Format("GTiff"), Format("COG", 128), Format("GTiff", 48)]


def patches(height=700, width=900, highest=9):
    """Classes in patches with noise, (H, W), some pixels unclassified."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, highest + 1, (height // 20 + 1, width // 20 + 1))
    values = coarse.repeat(20, axis=0).repeat(20, axis=1)[:height, :width]
    noise = rng.random(values.shape) < 0.05
    values[noise] = rng.integers(0, highest + 1, noise.sum())
    return values.astype(np.uint8 if highest < 255 else np.uint16)


def encoded(folder, values, spec, form=FORMATS[0], name="map.tif"):
    """Encode values, (H, W) or (count, H, W), and return the path of the raster."""
    raw, target = folder / f"{name}.raw", folder / name
    raw.write_bytes(values.tobytes())
    encode(raw, target, target, spec, form)
    raw.unlink()
    return target


def assert_valid(path, form):
    """A COG must pass rio-cogeo's strict check; every raster has the tiles asked for, also in its overviews."""
    with open_dataset(path) as dataset:
        strict = min(dataset.shape) > 1  # a line of pixels has no overviews, which the strict check would like
        valid, errors, warnings = cog_validate(path, strict=strict, quiet=True)
        assert valid or form.driver == "GTiff", (errors, warnings)
        levels, layout = dataset.overviews(1), dataset.tags(ns="IMAGE_STRUCTURE").get("LAYOUT")
        assert layout == "COG" or form.driver == "GTiff"
        assert dataset.block_shapes[0] == (form.blocksize, form.blocksize)
    for level in range(len(levels)):
        with rasterio.open(path, overview_level=level) as overview:
            assert max(overview.shape) >= form.blocksize // 2
            if form.driver == "COG":
                assert overview.block_shapes[0] == (form.blocksize, form.blocksize)


@pytest.mark.parametrize("form", FORMATS)
def test_a_class_raster(tmp_path, form):
    values = patches()
    path = encoded(tmp_path, values, class_spec(700, 900, CLASSES, PLACE, TAGS), form)
    assert_valid(path, form)
    assert read_classes(path) == CLASSES
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(1), values)
        assert (dataset.count, dataset.dtypes[0], dataset.nodata) == (1, "uint8", 0)
        assert (dataset.crs.to_epsg(), dataset.transform) == (32616, PLACE.transform)
        assert dataset.profile["compress"] == "deflate"
        assert dataset.descriptions == ("class",)
        assert dataset.colorinterp[0].name == "palette"
        assert dataset.colormap(1)[0] == (0, 0, 0, 0)
        assert TAGS.items() <= dataset.tags().items()
        assert dataset.tags()["TIFFTAG_SOFTWARE"].startswith("spectraldiff ")
        assert max(dataset.shape) / dataset.overviews(1)[-1] <= form.blocksize
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.tif", "map.tif.aux.xml"]


@pytest.mark.parametrize("form", FORMATS[:2])
def test_a_class_raster_of_300_classes(tmp_path, form):
    classes = [LandCoverClass(v, f"class {v}", c) for v, c in enumerate(palette(300), start=1)]
    values = patches(highest=300)
    path = encoded(tmp_path, values, class_spec(700, 900, classes, PLACE, {}), form)
    assert_valid(path, form)
    assert read_classes(path) == classes
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(1), values)
        assert (dataset.dtypes[0], dataset.nodata) == ("uint16", 0)
    with rasterio.open(path, overview_level=0) as overview:
        assert overview.colormap(1)[300][:3] == classes[-1].colour


@pytest.mark.parametrize("percent", [False, True])
def test_a_confidence_raster(tmp_path, percent):
    values = np.random.default_rng(0).random((600, 520), np.float32)
    values = (values * 99 + 1).astype(np.uint8) if percent else values
    values[:300, ::2] = 0
    spec = confidence_spec(600, 520, PLACE, TAGS, percent=percent)
    path = encoded(tmp_path, values, spec)
    assert_valid(path, FORMATS[0])
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(1), values)
        assert (dataset.dtypes[0], dataset.nodata) == (spec.dtype, 0)
    with rasterio.open(path, overview_level=0) as overview:  # no mean, with which unclassified pixels would mix in
        assert np.isin(overview.read(1), values).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.tif"]


@pytest.mark.parametrize("form", FORMATS[:2])
@pytest.mark.parametrize("count", [2, 3, 4, 17])
def test_probabilities(tmp_path, form, count):
    """Three and four bands are no colours and no opacity."""
    classes = [LandCoverClass(v, f"Ö {v}", c) for v, c in enumerate(palette(count), start=1)]
    values = np.random.default_rng(0).dirichlet(np.ones(count), (530, 120)).transpose(2, 0, 1).astype(np.float32)
    values[:, :99] = 0
    path = encoded(tmp_path, values, probability_spec(530, 120, classes, PLACE, TAGS), form)
    assert_valid(path, form)
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(), values)
        assert dataset.descriptions == tuple(c.name for c in classes)
        assert dataset.nodata is None
        assert all(flags[0].name == "all_valid" for flags in dataset.mask_flag_enums)
    with rasterio.open(path, overview_level=0) as overview:
        sums = overview.read().sum(axis=0)
        assert (np.isclose(sums, 1, atol=1e-5) | (sums == 0)).all()


GCPS = tuple(GroundControlPoint(r, c, 20.5 + c / 7, 50 - r / 3, 100.25) for r, c in [(0, 0), (0, 9), (9.5, 0), (9, 9)])
RPCS = RPC(
    height_off=300.5, height_scale=100, lat_off=50.25, lat_scale=0.1, long_off=20, long_scale=0.2, line_off=5,
    line_scale=5, samp_off=5, samp_scale=5, line_num_coeff=[k / 8 for k in range(20)], err_bias=0.5, err_rand=0.25,
    line_den_coeff=[1.0, *[0.0] * 19], samp_num_coeff=[k / 16 for k in range(20)], samp_den_coeff=[1.0, *[0.0] * 19],
)  # fmt: skip
ROTATED = (
    rasterio.Affine.translation(480_000.1, 4_470_000.7) @ rasterio.Affine.rotation(33) @ rasterio.Affine.scale(3.3)
)
PLACES = {
    "nothing": Georeference(),
    "crs alone": Georeference("EPSG:32616"),
    "no crs": Georeference(None, PLACE.transform),
    "rotated": Georeference("EPSG:32616", ROTATED),
    "degrees": Georeference("EPSG:4326", rasterio.Affine(0.1, 0, 20.1, 0, -0.1, 50.3)),
    "height": Georeference("EPSG:4326+5773", PLACE.transform),
    "proj": Georeference("+proj=laea +lat_0=51.5 +lon_0=9.3 +ellps=bessel +units=m", PLACE.transform),
    "points": Georeference(gcps=GCPS, gcps_crs=rasterio.crs.CRS.from_epsg(4326)),
    "points without crs": Georeference(gcps=GCPS),
    "rpcs": Georeference(rpcs=RPCS),
    "rpcs and transform": Georeference("EPSG:32616", PLACE.transform, rpcs=RPCS),
}


@pytest.mark.parametrize("form", FORMATS[:2], ids=["COG", "GTiff"])
@pytest.mark.parametrize("place", PLACES)
def test_where_it_lies_is_kept(tmp_path, place, form):
    wanted = PLACES[place]
    path = encoded(tmp_path, patches(10, 10), class_spec(10, 10, CLASSES, wanted, {}), form)
    with open_dataset(path) as dataset:
        found = read_georeference(dataset)
    assert found.transform == wanted.transform
    assert found.crs == (None if wanted.crs is None else rasterio.crs.CRS.from_user_input(wanted.crs))
    assert [(p.row, p.col, p.x, p.y, p.z) for p in found.gcps] == [(p.row, p.col, p.x, p.y, p.z) for p in wanted.gcps]
    assert found.gcps_crs == wanted.gcps_crs
    assert found.rpcs == wanted.rpcs


def test_a_scene_on_disk_and_its_map_lie_at_the_same_place(tmp_path, write_scene):
    """The CRS comes as rasterio's object from a file, not as a code."""
    with open_dataset(write_scene()) as scene:
        wanted = read_georeference(scene)
    path = encoded(tmp_path, patches(10, 10), class_spec(10, 10, CLASSES, wanted, {}))
    with open_dataset(path) as dataset:
        assert read_georeference(dataset) == wanted


@pytest.mark.parametrize("form", FORMATS[:2], ids=["COG", "GTiff"])
@pytest.mark.parametrize("size", [(1, 1), (1, 1500), (1500, 1), (512, 512), (513, 511), (3, 2), (1500, 3)])
def test_sizes(tmp_path, size, form):
    values = patches(*size)
    path = encoded(tmp_path, values, class_spec(*size, CLASSES, PLACE, {}), form)
    assert_valid(path, form)
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(1), values)
        assert bool(dataset.overviews(1)) == (max(size) > 512 and min(size) > 1)


def test_nan_is_a_value(tmp_path):
    values = np.full((4, 4), np.nan, np.float32)
    path = encoded(tmp_path, values, confidence_spec(4, 4, PLACE, {}, percent=False))
    with rasterio.open(path) as dataset:
        assert np.isnan(dataset.read(1)).all()


@pytest.mark.parametrize("driver", ["COG", "GTiff"])
def test_the_same_values_give_the_same_bytes(tmp_path, driver):
    """Whatever the threads, and whatever lay there before."""
    found = set()
    for threads in ("1", "2", "4"):
        (tmp_path / "map.tif").write_bytes(b"old" * 1000)
        (tmp_path / "map.tif.ovr.tmp").write_bytes(b"old")
        form = Format(driver, 128, {"num_threads": threads})
        found.add(encoded(tmp_path, patches(), class_spec(700, 900, CLASSES, PLACE, TAGS), form).read_bytes())
    assert len(found) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.tif", "map.tif.aux.xml"]


def test_names_with_spaces_and_letters_of_the_world(tmp_path):
    folder = tmp_path / "Karte & <ü> 地图"
    folder.mkdir()
    path = encoded(folder, patches(9, 9), class_spec(9, 9, CLASSES, PLACE, {}), name="a 'b' ü.tif")
    assert read_classes(path) == CLASSES


def test_relative_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert encoded(Path(), patches(9, 9), class_spec(9, 9, CLASSES, PLACE, {})).exists()


@pytest.mark.parametrize("change", [-1, 1])
def test_a_raw_file_of_another_size(tmp_path, change):
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(81 + change))
    with pytest.raises(OutputError, match=f"has {81 + change} bytes and the raster has 81"):
        encode(raw, tmp_path / "map.tif", tmp_path / "map.tif", class_spec(9, 9, CLASSES, PLACE, {}), FORMATS[0])
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


# What goes wrong.


@contextmanager
def disk(folder, kilobytes):
    """Mount a small disk, where this is allowed."""
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("no mount command")
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("driver", ["COG", "GTiff"])
@pytest.mark.parametrize("room", [8, 120, 500, 740])
def test_a_full_disk(tmp_path, capfd, driver, room):
    """It fills in the header, in the overviews, in the tiles, or just before the end: each is noticed."""
    raw, values = tmp_path / "raw", np.random.default_rng(0).integers(0, 256, (700, 900), dtype=np.uint8)
    raw.write_bytes(values.tobytes())
    with disk(tmp_path / "disk", room) as folder:
        path = folder / "map.tif"
        with pytest.raises(
            OutputError, match=r"map.tif' cannot be written: the disk is full \(.* kB free in"
        ) as caught:
            encode(raw, path, path, class_spec(700, 900, CLASSES, PLACE, {}), Format(driver))
        assert "\n" not in str(caught.value)
        assert list(folder.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert raw.exists()


def test_a_full_disk_at_the_sidecar(tmp_path, monkeypatch):
    def full(path, classes):
        Path(f"{path}.aux.xml").write_text("<PAM")
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(encode_module, "write_class_sidecar", full)
    with pytest.raises(OutputError, match="the disk is full"):
        encoded(tmp_path, patches(9, 9), class_spec(9, 9, CLASSES, PLACE, {}))
    assert [p.name for p in tmp_path.iterdir()] == ["map.tif.raw"]


@pytest.mark.parametrize("kilobytes", [0, 100])
def test_a_limit_of_file_sizes(tmp_path, kilobytes, capfd):
    spec = class_spec(700, 900, CLASSES, PLACE, {})
    values = np.random.default_rng(0).integers(0, 256, (700, 900), dtype=np.uint8)
    (tmp_path / "raw").write_bytes(values.tobytes())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot be written \(File too large\)"):
            encode(tmp_path / "raw", tmp_path / "map.tif", tmp_path / "map.tif", spec, FORMATS[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome("read back, it differs", [], ""), r"cannot be written \(read back, it differs\)"),
        (Outcome("Unknown error.", [], "TIFF: No space left on device."), "the disk is full"),
        (Outcome("bad", ["Input/output error in x"], ""), r"\(Input/output error\)"),
    ],
)
def test_what_lies_behind_an_error(tmp_path, monkeypatch, outcome, words):
    monkeypatch.setattr(encode_module, "run", lambda job: outcome)
    with pytest.raises(OutputError, match=words):
        encoded(tmp_path, patches(9, 9), class_spec(9, 9, CLASSES, PLACE, {}))
    assert [p.name for p in tmp_path.iterdir()] == ["map.tif.raw"]


@pytest.fixture
def slow_work(tmp_path):
    """A raster that takes seconds."""
    values = np.random.default_rng(0).random((8, 1500, 1500), np.float32)
    (tmp_path / "raw").write_bytes(values.tobytes())
    return tmp_path / "raw", probability_spec(1500, 1500, CLASSES[:8], PLACE, {})


def children():
    """Return the processes that this one started and that are still there."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return path.read_text().split() if path.exists() else pytest.skip("no list of children here")


def test_an_interrupt_ends_it_at_once_and_leaves_nothing(tmp_path, slow_work):
    target, before = tmp_path / "map.tif", set(children())

    def interrupt():
        deadline = time.monotonic() + 60
        while not target.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        sent.append(time.monotonic())
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    sent = []
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        encode(slow_work[0], target, target, slow_work[1], FORMATS[0])
    assert time.monotonic() - sent[0] < 1.5
    thread.join()
    assert set(children()) == before
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


# Creation options.


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (Format(options={"COMPRESSION": "LZW"}), "--co COMPRESSION=LZW .*does not support creation option COMPRESSION"),
        (Format(options={"COMPRESS": "LZV"}), "'LZV' is an unexpected value for COMPRESS"),
        (Format("GTiff", options={"LEVEL": "9"}), "GTiff .*does not support creation option LEVEL"),
        (Format("GTiff", options={"ZLEVEL": "77"}), "ZLEVEL=77"),
        (Format(options={"COMPRESS": "JPEG"}), "JPEG"),
        (Format(options={"COMPRESS": "LERC", "MAX_Z_ERROR": "2"}), "differs .*from what was written"),
        (Format(options={"TILING_SCHEME": "GoogleMapsCompatible"}), "read back, it has size"),
        (Format("GTiff", options={"PROFILE": "BASELINE"}), "changes or drops what the file says"),
        (Format("GTiff", options={"TFW": "YES"}), "another file beside the raster, .tfw"),
        (Format(options={"blocksize": "256"}), "--co blocksize is not taken: .*--blocksize"),
        (Format("GTiff", options={"TILED": "NO"}), "--co TILED is not taken"),
        (Format(blocksize=100), "100 is no tile of a COG: choose a power of 2"),
        (Format(blocksize=32), "no tile of a COG"),
        (Format(blocksize=8192), "no tile of a COG"),
        (Format("GTiff", 100), "100 is no tile of a GeoTIFF: choose a multiple of 16"),
        (Format("GTiff", 0), "no tile"),
        (Format("GTiff", -16), "no tile"),
    ],
)
def test_formats_that_are_refused(form, words, capfd):
    with pytest.raises(UsageError, match=words) as caught:
        check_format(form)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "form",
    [
        Format(options={"compress": "zstd", "LEVEL": "1", "RESAMPLING": "NEAREST"}),
        Format(options={"COMPRESS": "NONE", "OVERVIEWS": "NONE"}),
        Format("GTiff", 48, {"COMPRESS": "LZW", "PREDICTOR": "2", "BIGTIFF": "YES"}),
        Format("GTiff", options={"COMPRESS": "PACKBITS"}),
    ],
)
def test_formats_that_are_taken(form):
    check_format(form, ("uint8", "uint16", "float32"))


def test_options_of_one_type_only():
    form = Format("GTiff", options={"COMPRESS": "LERC", "MAX_Z_ERROR": "0.4"})
    check_format(form, ["uint8", "uint16"])
    with pytest.raises(UsageError, match="float32 values"):
        check_format(form, ["uint8", "float32"])


def test_options_win_over_ours(tmp_path):
    options = {"compress": "ZSTD", "overview_resampling": "nearest", "bigtiff": "yes"}
    values = np.tile(np.array([[4, 1], [1, 1]], np.uint8), (300, 300))
    path = encoded(tmp_path, values, class_spec(600, 600, CLASSES, PLACE, {}), Format(options=options))
    assert path.read_bytes()[:4] == b"II\x2b\x00"
    with rasterio.open(path) as dataset:
        assert dataset.profile["compress"] == "zstd"
    with rasterio.open(path, overview_level=0) as overview:
        assert (overview.read(1) == overview.read(1)[0, 0]).all()
    plain = encoded(tmp_path, values, class_spec(600, 600, CLASSES, PLACE, {}), name="plain.tif")
    with rasterio.open(plain, overview_level=0) as overview:
        assert (overview.read(1) == 1).all()


# Outputs.


def test_outputs_appear_together_and_whole(tmp_path):
    values, path = patches(), tmp_path / "map.tif"
    (tmp_path / "raw").write_bytes(values.tobytes())
    for name in ("map.tif", "map.tif.ovr", "map.tif.msk", "map.tif.aux.xml"):
        (tmp_path / name).write_text("old")
    spec = class_spec(700, 900, CLASSES, PLACE, {})
    confidence = confidence_spec(700, 900, PLACE, {}, percent=False)
    with (
        EncodedRaster(path, True, tmp_path / "raw", spec, FORMATS[0], "token") as raster,
        ArrayRaster(tmp_path / "c.tif", False, values / np.float32(9), confidence) as other,
    ):
        raster.finish()
        assert path.read_text() == "old"
        commit([other, raster])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.tif", "map.tif", "map.tif.aux.xml", "raw"]
    assert read_classes(path) == CLASSES


@pytest.mark.parametrize("room", [100, 200])
def test_an_array_that_cannot_be_written_leaves_nothing(tmp_path, room):
    """The disk fills in the raw file or in the raster."""
    values = np.random.default_rng(0).integers(0, 255, (400, 400), np.uint8)
    spec = class_spec(400, 400, CLASSES, PLACE, {})
    with disk(tmp_path / "disk", room) as folder:
        with (
            ArrayRaster(folder / "map.tif", False, values, spec) as output,
            pytest.raises(OutputError, match="the disk is full"),
        ):
            output.finish()
        assert list(folder.iterdir()) == []
