"""A cluster gives the map that one process gives, also when it goes on, has a mask, or loses a worker."""

import os
import signal

import numpy as np
import psutil
import pytest
import rasterio

from spectraldiff_runtime import ArrayScene, map_scene
from spectraldiff_runtime.errors import ModelFileError, UsageError
from spectraldiff_runtime.mapping.dask_cluster import ClusterOptions
from spectraldiff_runtime.mapping.distributed import _model

TWO = ClusterOptions(None, 2, 1)


@pytest.fixture
def wide(write_scene, cube):
    return write_scene("wide.tif", values=np.tile(cube, (3, 3, 1)))


def test_workers_give_the_same_files(model, wide, tmp_path):
    for name, cluster in (("here", None), ("there", TWO)):
        layers = {layer: tmp_path / f"{name}-{layer}.tif" for layer in ("confidence", "probabilities")}
        map_scene(model, wide, tmp_path / f"{name}.tif", **layers, window=(3, 5, 90, 70), tile=16, cluster=cluster)
    for layer in ("", "-confidence", "-probabilities"):
        with (
            rasterio.open(tmp_path / f"here{layer}.tif") as here,
            rasterio.open(tmp_path / f"there{layer}.tif") as there,
        ):
            np.testing.assert_allclose(here.read(), there.read(), atol=1e-5 if layer else 0)


def test_a_killed_worker_costs_its_windows_only(model, wide):
    killed = []

    def kill(_):
        if not killed:
            living = [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
            workers = [p for p in living if "spawn_main" in " ".join(p.cmdline())]
            killed.append(workers[-1].pid)
            os.kill(killed[0], signal.SIGKILL)

    found = map_scene(model, wide, tile=8, cluster=TWO, progress=kill)
    assert killed
    np.testing.assert_array_equal(found.classes, map_scene(model, wide).classes)


def test_a_cluster_needs_paths(model, cube):
    with pytest.raises(UsageError, match="give the paths of both"):
        map_scene(model, ArrayScene(cube), cluster=TWO)


def test_a_worker_with_another_model(model_path):
    with pytest.raises(ModelFileError, match="wanted storage that all workers share"):
        _model(str(model_path), "another digest", "cpu", 1)
