"""The roofline's own arithmetic, and one run of all of it on a tiny model."""

import numpy as np
import pytest
import rasterio
from onnx import TensorProto, helper, numpy_helper

from benchmarks import ceilings, roofline
from spectraldiff_runtime import Model
from spectraldiff_runtime.card import ModelCard
from spectraldiff_runtime.class_map import LandCoverClass
from spectraldiff_runtime.engine import CARD_KEY, read_model_bytes, seal

BANDS, CLASSES, HALO = 3, 2, 2


@pytest.fixture
def model_path(tmp_path):
    """A 5 x 5 convolution and what makes a map of it."""
    weights = np.random.default_rng(0).normal(size=(CLASSES, BANDS, 5, 5)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["tile", "w"], ["scores"], name="conv"),
        helper.make_node("Softmax", ["scores"], ["probabilities"], name="softmax", axis=1),
        helper.make_node("ArgMax", ["scores"], ["index"], name="best", axis=1, keepdims=0),
        helper.make_node("Add", ["index", "one"], ["value"], name="add"),
        helper.make_node("Cast", ["value"], ["classes"], name="cast", to=TensorProto.UINT8),
        helper.make_node("ReduceMax", ["probabilities", "axis"], ["confidence"], name="most", keepdims=0),
    ]
    value, out = helper.make_tensor_value_info, ["N", "h", "w"]
    constants = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array(1), "one"),
                 numpy_helper.from_array(np.array([1]), "axis")]  # fmt: skip
    graph = helper.make_graph(
        nodes, "tiny", [value("tile", TensorProto.FLOAT, ["N", BANDS, "height", "width"])],
        [value("classes", TensorProto.UINT8, out), value("confidence", TensorProto.FLOAT, out),
         value("probabilities", TensorProto.FLOAT, ["N", CLASSES, "h", "w"])], constants,
    )  # fmt: skip
    legend = tuple(LandCoverClass(k, f"class {k}", (k, k, k)) for k in (1, 2))
    card = ModelCard(name="tiny", preset="fast", features="raw", classes=legend, bands=BANDS, wavelengths=None,
                     halo=HALO, nodata=None, fill=(1.0, 2.0, 3.0))  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {CARD_KEY: card.to_json()})
    path = tmp_path / "model.onnx"
    path.write_bytes(seal(model.SerializeToString()))
    return path


@pytest.fixture
def scene_path(tmp_path):
    path, values = tmp_path / "scene.tif", np.random.default_rng(1).integers(1, 99, (BANDS, 40, 50), np.uint16)
    place = {"crs": "EPSG:32616", "transform": rasterio.Affine(20, 0, 480_000, 0, -20, 4_470_000)}
    with rasterio.open(path, "w", driver="GTiff", height=40, width=50, count=BANDS, dtype="uint16", **place) as file:
        file.write(values)
    return path


def test_the_tile_without_end(model_path):
    """A single convolution computes as much for each pixel, however large the tile: its halo costs nothing."""
    model = Model.open(model_path, "cpu", threads=1)
    found = roofline.without_end(read_model_bytes(model_path), model)
    assert found == 2 * CLASSES * BANDS * 25


def test_all_of_it(model_path, scene_path, monkeypatch):
    monkeypatch.setitem(ceilings.PRODUCT_SIZES, "cpu", 64)
    monkeypatch.setattr(ceilings.copy_speed, "__defaults__", (2**16,))
    found = roofline.measure(model_path, scene_path, "cpu", 1, most=2)
    assert found["operations_per_pixel"] == {"float32": 2 * CLASSES * BANDS * 25}
    assert found["halo_overhead"] == 1
    assert found["padded_pixels_per_pixel"] == pytest.approx(44 * 54 / 2000)
    rate = found["ceilings"]["float32"]["best"]
    assert found["floor_us_per_pixel"] == pytest.approx(1e6 * 300 / rate)
    assert found["inference_over_floor"] == pytest.approx(found["inference_us_per_pixel"] / found["floor_us_per_pixel"])
    assert found["map_us_per_pixel"] > 0
    assert "Conv" in {node["operator"] for node in found["nodes"]}
    assert sum(node["share"] for node in found["nodes"]) <= 1 + 1e-9
    assert found["gpu_busy_share"] is None
    roofline.show(found)


def test_a_precision_without_a_rate_is_refused(model_path, scene_path):
    model = Model.open(model_path, "cpu", threads=1)
    tiles = roofline.take_tiles(model, scene_path, 1)
    speeds = {"float32": ceilings.Ceiling(0.0, 0.0, "none here")}
    with pytest.raises(ValueError, match="multiplies in float32, whose rate could not be measured"):
        roofline.counted(read_model_bytes(model_path), model, tiles, speeds)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_product_is_timed(precision):
    found = ceilings.product_speed(precision, "cpu", 1, 64)
    assert found.best >= found.median > 0
    assert not found.reason


def test_a_type_that_is_not_supported_says_so():
    found = ceilings.product_speed("bfloat16", "cpu", 1, 64)
    assert (found.best > 0) != bool(found.reason)


def test_the_share_in_which_a_kernel_runs():
    entries = [{"cat": "Kernel", "ts": ts, "dur": dur} for ts, dur in ((0, 10), (5, 10), (30, 10))]
    assert roofline.busy_share([*entries, {"cat": "Node", "ts": 15, "dur": 15}]) == (15 + 10) / 40
    assert roofline.busy_share([{"cat": "Node", "ts": 0, "dur": 1}]) is None
