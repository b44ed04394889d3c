"""The file for Deepness: what its documentation asks of a file, and the map that it makes with it."""

import json
import math
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from spectraldiff_export.deepness import OVERLAP, deepness_bytes, tile_side, verify_deepness
from spectraldiff_runtime import map_scene
from spectraldiff_runtime.errors import UsageError, VerificationError
from spectraldiff_runtime.model.model_file import seal, unseal
from spectraldiff_runtime.scene.array import ArrayScene
from tests.tiny_model import CARD, CLASSES, HALO, onnx_bytes

SIDE = 128


class Deepness:
    """A stand-in for the plugin, written from its documentation: one output, tiles of one size, their middles kept."""

    def __init__(self, data):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        (given,), (made,) = self.session.get_inputs(), self.session.get_outputs()
        self.name, (batch, self.bands, self.side, width) = given.name, given.shape
        assert (batch, self.side) == (1, width)
        assert made.shape[2:] == [self.side, self.side]
        found = self.session.get_modelmeta().custom_metadata_map
        keys = (
            "class_names",
            "tile_size",
            "tiles_overlap",
            "seg_thresh",
            "standardization_mean",
            "standardization_std",
        )
        self.facts = {key: json.loads(found[key]) for key in keys}
        assert json.loads(found["model_type"]) == "Segmentor"
        assert sorted(map(int, self.facts["class_names"])) == list(range(made.shape[1]))
        assert self.facts["tile_size"] == self.side

    def map(self, cube, outside=0):
        """Return the channels, (H, W), of a raster (H, W, B); beyond it lies `outside`."""
        overlap = int(self.side * self.facts["tiles_overlap"] / 100) // 2 * 2
        half, stride = overlap // 2, self.side - overlap
        height, width = cube.shape[:2]
        high, wide = (self.side + stride * math.ceil(max(0, n - self.side) / stride) for n in (height, width))
        whole = np.full((high, wide, self.bands), outside, cube.dtype)
        whole[high - height :, :width] = cube  # what is missing is added above and on the right
        result = np.full((high, wide), -1)
        for top in range(0, high - self.side + 1, stride):
            for left in range(0, wide - self.side + 1, stride):
                found = self.tile(whole[top : top + self.side, left : left + self.side])
                rows = slice(half * (top > 0), self.side - half * (top + self.side < high))
                columns = slice(half * (left > 0), self.side - half * (left + self.side < wide))
                result[top : top + self.side, left : left + self.side][rows, columns] = found[rows, columns]
        return result[high - height :, :width]

    def tile(self, tile):
        values = tile.transpose(2, 0, 1)[None].astype(np.float32) / 255
        mean, std = (np.reshape(self.facts[f"standardization_{key}"], (1, -1, 1, 1)) for key in ("mean", "std"))
        (found,) = self.session.run(None, {self.name: ((values - mean) / std).astype(np.float32)})
        found[found < self.facts["seg_thresh"]] = 0
        return found.argmax(1)[0]


def changed(**facts):
    return deepness_bytes(seal(onnx_bytes(replace(CARD, **facts))))


@pytest.fixture(scope="module")
def plugin():
    return Deepness(changed(stored="uint16", pixel_size=(3.5, 3.5)))


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(1)
    coarse = rng.integers(1, 900, (30, 40, 7)).repeat(9, 0).repeat(9, 1)
    return (coarse + rng.integers(0, 90, coarse.shape)).astype(np.uint16)


@pytest.mark.parametrize("shape", [(270, 360), (128, 128), (129, 200), (60, 40), (5, 128), (3, 2), (1, 1)])
def test_it_makes_the_same_map(plugin, scene, model, shape):
    """Also at the edges, and where the raster is smaller than a tile or than the halo."""
    cube = scene[: shape[0], : shape[1]]
    np.testing.assert_array_equal(plugin.map(cube), map_scene(model, cube).classes)


def test_holes_without_data(scene, model):
    plugin = Deepness(changed(stored="uint16", nodata=0.0))
    cube = scene.copy()
    cube[60:90, 100:140] = 0
    cube[200, 300, 4] = 0
    found = plugin.map(cube)
    np.testing.assert_array_equal(found, map_scene(model, ArrayScene(cube, 0)).classes)
    assert (found[60:90, 100:140] == 0).all()
    assert found[200, 300] == 0
    assert (found != 0).sum() == found.size - 30 * 40 - 1


def test_what_lies_beyond_the_raster_is_nodata(scene, model):
    plugin = Deepness(changed(nodata=-9999.0))
    cube = scene[:200, :150].astype(np.float32)
    cube[20:30, 40:90, :] = -9999
    cube[50, 60, 2] = np.nan
    wanted = map_scene(model, ArrayScene(cube, -9999)).classes
    assert (wanted == 0).sum() == 501
    np.testing.assert_array_equal(plugin.map(cube, outside=-9999), wanted)


def test_what_the_file_says(plugin):
    data = changed(stored="uint16", pixel_size=(3.5, 3.5))
    unseal(data)
    model = onnx.load_model_from_string(data)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]  # the tiny model's own
    found = {prop.key: prop.value for prop in model.metadata_props}
    assert json.loads(found["class_names"])["2"] == "Wälder"
    assert float(found["resolution"]) == 350
    assert json.loads(found["standardization_std"]) == [1 / 255] * 7
    assert "resolution" not in {prop.key for prop in onnx.load_model_from_string(changed()).metadata_props}
    assert {node.op_type for node in model.graph.node}.isdisjoint({"Loop", "If", "Scan"})
    assert not [o.name for o in model.graph.output if o.name != "output"]
    assert len(found["class_names"]) > CLASSES


def test_half_of_what_tiles_share_holds_the_halo():
    for halo in range(200):
        side = tile_side(halo)
        assert int(side * OVERLAP / 100) // 2 >= halo
        assert side % 16 == 0
    assert tile_side(HALO) == SIDE


def test_values_by_each_scenes_scale_are_refused():
    with pytest.raises(UsageError, match="which Deepness does not apply"):
        changed(scaled=True)


def test_the_same_model_gives_the_same_bytes():
    assert changed() == changed()


def test_sdiff_map_takes_no_file_for_deepness(tmp_path, sdiff, write_scene):
    (tmp_path / "deepness.onnx").write_bytes(changed())
    code, out, err = sdiff("map", write_scene(), "--model", tmp_path / "deepness.onnx", "--out", tmp_path / "c.tif")
    assert (code, out) == (1, "")
    assert "computes input -> output: wanted tile -> classes" in err


def test_a_file_that_maps_otherwise_is_refused(model, scene):
    """Compared on small scenes, some of which end in zeros."""
    samples = np.stack([scene[:40, :40], scene[50:90, 50:90]]).transpose(0, 3, 1, 2).astype(np.float32)
    samples[1, :, 33:], samples[1, :, :, 38:] = 0, 0
    assert verify_deepness(changed(), model, samples, "d.onnx") == 40 * 40 + 33 * 38
    broken = onnx.load_model_from_string(changed())
    weights = next(tensor for tensor in broken.graph.initializer if tensor.name == "w3")
    weights.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weights), "w3"))
    with pytest.raises(VerificationError, match=r"gives another class than `sdiff map` at [\d,]+ of 2,854 pixels"):
        verify_deepness(broken.SerializeToString(), model, samples, "d.onnx")
