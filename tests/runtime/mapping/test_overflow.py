"""Values that are too large to compute with, damaged maps, and arrays that cannot be known again."""

from dataclasses import replace

import numpy as np
import onnx
import pyogrio
import pytest
import shapely
from onnx import numpy_helper

from spectraldiff_runtime import ArrayScene, Model, map_block, map_scene
from spectraldiff_runtime.errors import OutputError, UsageError
from spectraldiff_runtime.mapping.dask_cluster import ClusterOptions
from spectraldiff_runtime.model.model_file import seal
from spectraldiff_runtime.window import Window


class Overflowing:
    """A session that gives what ONNX Runtime gives where sums overflow: the first class, and no numbers."""

    def __init__(self, session, halo):
        self.session, self.halo = session, halo

    def run(self, names, feeds, options):
        outputs = dict(zip(names, self.session.run(names, feeds, options), strict=True))
        inner = slice(self.halo, -self.halo)
        spoilt = (np.abs(feeds["tile"]) > 1e30).any(1)[:, inner, inner]
        outputs["classes"] = np.where(spoilt, 1, outputs["classes"]).astype(outputs["classes"].dtype)
        for name in set(names) - {"classes"}:
            nowhere = spoilt if outputs[name].ndim == 3 else spoilt[:, None]
            outputs[name] = np.where(nowhere, np.nan, outputs[name]).astype(np.float32)
        return [outputs[name] for name in names]


@pytest.mark.parametrize("options", [{}, {"confidence": True, "min_confidence": 1e-6}, {"probabilities": True}])
def test_no_class_is_said_near_values_that_overflow(model, cube, options):
    wanted = map_scene(model, cube.astype(np.float32)).classes
    spoilt, overflowing = cube.astype(np.float32), np.zeros(cube.shape[:2], bool)
    overflowing[4, 6] = overflowing[20, 30] = True
    spoilt[overflowing, 2] = -3.4028235e38
    broken, said = replace(model, session=Overflowing(model.session, model.card.halo)), []
    found = map_scene(broken, spoilt, **options, tile=16, warn=said.append)
    assert (found.classes[overflowing] == 0).all()
    far = np.ones_like(overflowing)
    for row, column in np.argwhere(overflowing):
        halo = model.card.halo
        far[max(row - halo, 0) : row + halo + 1, max(column - halo, 0) : column + halo + 1] = False
    assert far.any()
    np.testing.assert_array_equal(found.classes[far], wanted[far])
    for values in (found.confidence, found.probabilities):
        assert values is None or (np.isfinite(values).all() and (values[..., overflowing] == 0).all())
    assert len(said) == 1
    assert said[0].startswith("2 pixels of 'array' stay unclassified")
    assert "--nodata" in said[0]
    block = map_block(broken, ArrayScene(spoilt), Window(0, 8, 0, 9))
    np.testing.assert_array_equal(block.classes, found.classes[:8, :9])


def test_a_finished_map_that_is_damaged(model, write_scene, cube, tmp_path):
    scene, out = write_scene(values=cube), tmp_path / "classes.tif"
    map_scene(model, scene, out)
    data = bytearray(out.read_bytes())
    out.write_bytes(data[:-40])
    with pytest.raises(OutputError, match=r"classes.tif' is damaged .* map again with --overwrite"):
        map_scene(model, scene, out, resume=True)
    assert out.read_bytes() == data[:-40]


def test_an_array_is_not_known_again(model, cube, tmp_path):
    with pytest.raises(UsageError, match="resume goes on with a scene that is known again: wanted a raster's path"):
        map_scene(model, cube, tmp_path / "classes.tif", resume=True)
    assert list(tmp_path.glob("classes*")) == []


@pytest.fixture
def overflowing_model(build_onnx, tmp_path):
    """A model file in which float32's largest values become infinite, and scores no numbers."""
    graph = onnx.load_from_string(build_onnx())
    scale = next(constant for constant in graph.graph.initializer if constant.name == "scale")
    scale.CopyFrom(numpy_helper.from_array(np.full((1, 7, 1, 1), 10, np.float32), "scale"))
    path = tmp_path / "overflowing.onnx"
    path.write_bytes(seal(graph.SerializeToString()))
    return Model.open(path, "cpu", threads=1)


def test_a_cluster_says_what_is_lost(overflowing_model, write_scene, cube, tmp_path):
    spoilt = cube.astype(np.float32)
    spoilt[4, 6, 2] = spoilt[20, 30, 2] = -3.4e38
    shape = shapely.box(480_000, 4_470_000 - 20 * 10, 480_000 + 20 * 37, 4_470_000)
    mask = tmp_path / "aoi.gpkg"
    table = [], []
    pyogrio.raw.write(mask, shapely.to_wkb([shape]), *table, geometry_type="Polygon", crs="EPSG:32616", driver="GPKG")
    scene, workers, near = (
        write_scene(values=spoilt),
        ClusterOptions(None, 1, 1),
        (2 * overflowing_model.card.halo + 1) ** 2,
    )
    for options, lost in (({"window": (0, 0, 37, 29)}, 2 * near), ({"mask": mask, "window": (0, 0, 37, 29)}, near)):
        told = []
        for cluster in (None, workers):
            said = []
            map_scene(overflowing_model, scene, **options, tile=8, cluster=cluster, warn=said.append)
            told.append(said)
        assert told[0] == told[1]
        assert [line.partition(" stay")[0] for line in told[0]] == [f"{lost} pixels of '{scene}'"]
