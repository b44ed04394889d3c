"""Nothing is waited for that may never come: pipes, silent servers, VRTs of VRTs; one line within seconds."""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from spectraldiff_runtime import gdal
from spectraldiff_runtime.limits import VRT_LEVELS
from tests.runtime.hostile.kit import Kit, Make, check_refused

SECONDS = 20  # far above what a refusal takes, on a machine with other work too


def pipe(kit: Kit, name: str) -> str:
    os.mkfifo(kit.folder / name)
    return name


def with_pipe(kit: Kit, pipe_name: str, **options: str) -> list[Path]:
    scene = kit.write(**options)
    pipe(kit, pipe_name)
    return [scene]


def folder_with_pipe(kit: Kit, folder: str, name: str) -> Path:
    (kit.folder / folder).mkdir()
    pipe(kit, f"{folder}/{name}")
    return kit.folder / folder


def inside(kit: Kit, *folders: str) -> Path:
    """Return a folder with folders in it, and in the last a pipe, after a link that leads nowhere."""
    last = kit.folder.joinpath(*folders)
    last.mkdir(parents=True)
    (last / "0").symlink_to("0")
    os.mkfifo(last / "1")
    return kit.folder / folders[0]


def behind_a_link(kit: Kit) -> Path:
    scene = kit.folder / "linked.zarr"
    scene.mkdir()
    (scene / "round").symlink_to(".")
    (scene / "c").symlink_to(inside(kit, "other"))
    return scene


def vrt_of(kit: Kit, source: str) -> list[object]:
    return [kit.vrt(source)]


def nested_vrts(kit: Kit, levels: int, times: int = 1) -> list[object]:
    """VRTs of VRTs, each of which names the one below `times` times for each band."""
    below = kit.write().name
    for level in range(levels):
        path = kit.vrt(below, f"level{level}.vrt")
        text = path.read_text()
        start, end = text.index("<SimpleSource>"), text.index("</SimpleSource>") + len("</SimpleSource>")
        path.write_text(text[:start] + text[start:end] * times + text[end:])
        below = path.name
    return [kit.folder / below]


def python_vrt(kit: Kit) -> list[object]:
    scene = kit.vrt(kit.write().name)
    code = "<PixelFunctionType>f</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage>"
    scene.write_text(scene.read_text().replace("<SimpleSource>", code + "<SimpleSource>", 1))
    return [scene]


WMS = '<GDAL_WMS><Service name="TMS"><ServerUrl>http://127.0.0.1:9/</ServerUrl></Service></GDAL_WMS>'

PIPES: dict[str, tuple[str, Make]] = {
    "scene": ("is a pipe", lambda k: [k.folder / pipe(k, "scene.tif")]),
    "mask-band": ("scene.tif.msk' is a pipe", lambda k: with_pipe(k, "scene.tif.msk")),
    "sidecar": ("scene.tif.aux.xml' is a pipe", lambda k: with_pipe(k, "scene.tif.aux.xml")),
    "overviews": ("scene.tif.ovr' is a pipe", lambda k: with_pipe(k, "scene.tif.ovr")),
    "world-file": ("scene.tfw' is a pipe", lambda k: with_pipe(k, "scene.tfw")),
    "rpcs": ("scene_rpc.txt' is a pipe", lambda k: with_pipe(k, "scene_rpc.txt")),
    "envi-sidecar": ("scene.aux' is a pipe", lambda k: (k.envi(), pipe(k, "scene.aux"))[:1]),
    "vrt-source": ("source.tif' is a pipe", lambda k: vrt_of(k, pipe(k, "source.tif"))),
    "vrt-source-mask": ("b.tif.msk' is a pipe", lambda k: vrt_of(k, with_pipe(k, "b.tif.msk", name="b.tif")[0].name)),
    "stdin": ("is a pipe", lambda k: ["/vsistdin/"]),
    "zip": ("p.zip' is a pipe", lambda k: [f"/vsizip/{k.folder / pipe(k, 'p.zip')}/x.tif"]),
    "in-a-folder": ("zarr.json' is a pipe", lambda k: [f"ZARR:{folder_with_pipe(k, 'z.zarr', 'zarr.json')}"]),
    "deep-in-a-folder": ("c/0/1' is a pipe", lambda k: [f"ZARR:{inside(k, 'z.zarr', 'c', '0')}"]),
    "behind-a-link": ("c/1' is a pipe", lambda k: [behind_a_link(k)]),
    "subdataset": ("p.nc' is a pipe", lambda k: [f'NETCDF:"{k.folder / pipe(k, "p.nc")}":x']),
    "model": ("no plain file", lambda k: [k.write(), "--model", k.folder / pipe(k, "m.onnx")]),
    "mask": ("is a pipe", lambda k: [k.write(), "--mask", k.folder / pipe(k, "m.gpkg")]),
    "vrt-of-itself": ("names itself", lambda k: vrt_of(k, "scene.vrt")),
    "vrt-too-deep": ("levels deep", lambda k: nested_vrts(k, VRT_LEVELS + 1)),
    "vrt-of-a-million": ("sources in all: wanted 1,000,000", lambda k: nested_vrts(k, VRT_LEVELS, 11)),
    "vrt-with-code": ("computes its pixels with code", python_vrt),
    "xml-as-name": ("is XML and no file name", lambda k: ["<VRTDataset rasterXSize='1' rasterYSize='1'/>"]),
    "wms": ("cannot be opened", lambda k: [k.file("s.tif", WMS)]),
    "ogr-vrt": ("names sources elsewhere", lambda k: [k.write(), "--mask", k.file("m.vrt", "<OGRVRTDataSource/>")]),
}  # fmt: skip


@pytest.mark.parametrize("case", PIPES)
def test_one_line_within_seconds(kit: Kit, sdiff_map, listing, case):
    words, make = PIPES[case]
    began = time.monotonic()
    check_refused(kit, sdiff_map, listing, make(kit), 1, words)
    assert time.monotonic() - began < SECONDS


@pytest.mark.parametrize(
    "make", [lambda k: nested_vrts(k, VRT_LEVELS, 2), lambda k: (k.write(), pipe(k, "scenes.tif"))]
)
def test_what_may_be(kit: Kit, sdiff_map, make):
    """VRTs of VRTs as deep as they may be; a pipe next to a scene that is none of its own."""
    assert sdiff_map([make(kit)[0]]) == (0, [])


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that accepts and says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(16)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("options", [("/vsicurl/{}/x.tif",), ("scene.tif", "--mask", "/vsicurl/{}/x.gpkg")])
def test_silent_servers_are_given_up(kit: Kit, sdiff_map, listing, silent_server, monkeypatch, options: Sequence[str]):
    for key in gdal.TIMEOUTS:
        monkeypatch.setenv(key, "9")  # set back afterwards, whatever --timeout sets
    kit.write()
    named = [word.format(silent_server) if "{" in word else word for word in options]
    arguments = [str(kit.folder / word) if word == "scene.tif" else word for word in named]
    began = time.monotonic()
    check_refused(kit, sdiff_map, listing, [*arguments, "--timeout", "1"], 1, "cannot be")
    assert time.monotonic() - began < SECONDS


def test_servers_get_a_minute_where_nothing_is_said(monkeypatch):
    for key in gdal.TIMEOUTS:
        monkeypatch.delenv(key, raising=False)
    assert gdal.network_options()["GDAL_HTTP_LOW_SPEED_TIME"] == "60"
    monkeypatch.setenv("GDAL_HTTP_LOW_SPEED_TIME", "7")
    assert gdal.network_options()["GDAL_HTTP_LOW_SPEED_TIME"] == "7"
