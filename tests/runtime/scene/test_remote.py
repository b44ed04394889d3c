"""Scenes on another machine."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.scene.raster import RasterScene


@pytest.fixture
def address(tmp_path):
    """Serve the test's folder; return host and port."""
    command = [sys.executable, Path(__file__).with_name("range_server.py"), tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        yield f"127.0.0.1:{server.stdout.readline().strip()}"
        server.kill()


@pytest.mark.parametrize("start", ["/vsicurl/http", "http"])
def test_a_scene_on_another_machine(address, write_scene, cube, start):
    write_scene(tiled=True, blockxsize=16, blockysize=16)
    with RasterScene(f"{start}://{address}/scene.tif") as scene:
        assert scene.files == ()
        assert scene.fingerprint()["name"] == "scene.tif"
        np.testing.assert_array_equal(scene.read(3, 20, 5, 37), cube[3:20, 5:37].transpose(2, 0, 1))


def test_a_connection_that_fails(address, write_scene):
    with pytest.raises(SceneError, match="check the address") as caught:
        RasterScene(f"http://{address}/missing.tif")
    assert "\n" not in str(caught.value)
    values = np.random.default_rng(0).integers(0, 60_000, (300, 200, 7)).astype(np.uint16)
    path = write_scene("large.tif", values)
    with RasterScene(f"/vsicurl/http://{address}/large.tif") as scene:
        path.unlink()
        with pytest.raises(SceneError, match="the connection failed; try again"):
            scene.read(250, 300, 0, 200)
