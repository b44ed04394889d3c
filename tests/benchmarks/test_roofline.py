"""The roofline's own arithmetic, and one run of all of it on a tiny model."""

import time
from dataclasses import replace

import numpy as np
import onnx
import pytest
import rasterio
from onnx import TensorProto, helper, numpy_helper

from benchmarks.roofline import __main__, ceilings, gpu_use, synthetic, whole_maps
from spectraldiff.models.classifier import empty_classifier
from spectraldiff.models.presets import FAST, PAPER
from spectraldiff.models.settings import replaced
from spectraldiff_runtime import Model
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.io_binding import BoundSession
from spectraldiff_runtime.model.model_file import CARD_KEY, read_model_bytes, seal
from spectraldiff_runtime.model.oom import BatchSplitter

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
    found = __main__.without_end(read_model_bytes(model_path), model)
    assert found == 2 * CLASSES * BANDS * 25


def test_all_of_it(model_path, scene_path, monkeypatch):
    monkeypatch.setitem(ceilings.PRODUCT_SIZES, "cpu", 64)
    monkeypatch.setattr(ceilings.copy_speed, "__defaults__", (2**16,))
    found = __main__.measure(model_path, scene_path, "cpu", 1, most=2)
    assert found["operations_per_pixel"] == {"float32": 2 * CLASSES * BANDS * 25}
    assert found["halo_overhead"] == 1
    assert found["padded_pixels_per_pixel"] == pytest.approx(44 * 54 / 2000)
    assert found["ceilings"]["float32"]["best"] > 0
    assert len(found["rounds"]) == 5
    for values in found["rounds"]:  # a floor of before and after is never below the lowest of the round
        assert 0 < values["inference_over_floor"] <= values["inference_us_per_pixel"] / values["floor_us_per_pixel"]
        assert 0 < values["map_over_floor"] <= values["map_us_per_pixel"] / values["floor_us_per_pixel"]
    for name in ("floor_us_per_pixel", "map_over_floor"):
        assert found[name] == sorted(values[name] for values in found["rounds"])[2]
    assert "Conv" in {node["operator"] for node in found["nodes"]}
    assert sum(node["share"] for node in found["nodes"]) <= 1 + 1e-9
    assert found["bytes_floor_us_per_pixel"] > 0
    over_bytes = found["inference_us_per_pixel"] / found["bytes_floor_us_per_pixel"]
    assert found["inference_over_larger_floor"] == min(found["inference_over_floor"], over_bytes)
    assert found["equal_classes"] is None
    __main__.show(found)


def test_whole_maps_of_made_scenes(model_path, tmp_path):
    model = Model.open(model_path, "cpu", threads=1)
    synthetic.write_scene(model.card, tmp_path / "scene.tif", 30, 40)
    tiles = __main__.take_tiles(model, tmp_path / "scene.tif", 1)
    found = __main__.measure_made(model, tiles, __main__.Made(tmp_path, (20, 70), (30, 30)))
    assert (found["mapped"]["height"], found["mapped"]["width"], found["mapped"]["bands"]) == (20, 70, BANDS)
    assert len(found["mapped"]["times"]) == 5
    assert 0 < found["mapped"]["infer_s"] < found["mapped"]["seconds"]
    assert 0 <= found["watched"]["fed_share"] <= 1
    assert found["inference_alone"]["us_per_pixel"] > 0
    assert found["inference_alone"]["gpu_share"] is found["gpu_busy_share"] is None
    assert __main__.measure_made(model, tiles, __main__.Made(tmp_path, None, None))["mapped"] is None


def test_tiles_are_those_that_a_gpu_gets(model_path, scene_path):
    """All of one shape, two under way; the CPU's provider plays the GPU."""
    model = Model.open(model_path, "cpu", threads=1)
    session = BoundSession(model.session, "cpu", 0, 2)
    on_gpu = replace(model, device="cuda", session=session, splitter=BatchSplitter(True, 2))
    tiles = __main__.take_tiles(on_gpu, scene_path, 2)
    assert tiles.plan.tile == 256
    assert (tiles.kept, tiles.padded) == (40 * 50, 44 * 54)
    assert __main__.equal_classes(replace(on_gpu, path=str(model_path)), tiles) == 1
    assert __main__.providers_of(on_gpu)[0][1]["use_tf32"] == "0"
    assert whole_maps.watch(model, tiles.batches, tiles.kept)["gpu_share"] is None


def test_how_busy_a_gpu_is_within_a_map():
    mapped = {"height": 100, "width": 100, "infer_s": 0.02}
    assert whole_maps.busy_share(mapped, {"us_per_pixel": 2.0, "gpu_share": 0.9}) == pytest.approx(0.9)
    assert whole_maps.busy_share(mapped, {"us_per_pixel": 1.0, "gpu_share": 0.9}) == pytest.approx(0.45)
    assert whole_maps.busy_share(mapped, {"us_per_pixel": 9.0, "gpu_share": 0.9}) == 1
    assert whole_maps.busy_share(mapped, {"us_per_pixel": 9.0, "gpu_share": None}) is None


class Management:
    """NVIDIA's library: the GPU in slot 17 is busy for 40 and 60 % in turn."""

    def __init__(self):
        self.asked = 0

    def nvmlInit_v2(self):  # noqa: N802
        return 0

    def nvmlDeviceGetHandleByPciBusId_v2(self, place, device):  # noqa: N802
        device._obj.value = 5
        return 0 if place == b"0000:17:00.0" else 6

    def nvmlDeviceGetUtilizationRates(self, device, found):  # noqa: N802
        assert device.value == 5
        self.asked += 1
        found._obj.gpu = 40 if self.asked % 2 else 60
        return 0


def test_the_use_of_a_gpu(monkeypatch):
    fake = Management()
    monkeypatch.setattr(gpu_use.ctypes, "CDLL", lambda name: fake)
    monkeypatch.setattr(gpu_use, "bus_id", lambda gpu: "0000:17:00.0" if gpu == 1 else None)
    monkeypatch.setattr(gpu_use, "START", 0.0)
    monkeypatch.setattr(gpu_use, "PERIOD", 0.001)
    with gpu_use.GpuUse(1) as use:
        while fake.asked < 20:
            time.sleep(0.001)
    assert use.share == pytest.approx(0.5, abs=0.05)
    for gpu in (0, None):
        with gpu_use.GpuUse(gpu) as use:
            pass
        assert use.share is None


@pytest.mark.training
@pytest.mark.parametrize("preset", [FAST, PAPER], ids=["fast", "paper"])
def test_a_preset_with_random_weights(tmp_path, preset):
    """In two precisions, made from one export."""
    positions = None if preset.diffusion.network.most_positions is None else 3
    unet = {"most_positions": positions, "stem_channels": 4, "channels": (5, 6, 7)}
    members = tuple(replace(member, window=9) for member in preset.classifier.members)
    vit = {"network": {"width": 8, "mlp": 8}, "members": members}
    small = replaced(preset, diffusion={"network": unet}, components={"most": 6}, classifier=vit)
    precisions = ["fp32", "fp16"]
    iterations = min(3, preset.smoothing.iterations)
    halo = empty_classifier(small, 8, small.vit(6, 2, small.members()), 8, iterations).halo
    for path, precision in zip(synthetic.write_models(small, tmp_path, precisions, bands=8), precisions, strict=True):
        model = Model.open(path, "cpu", threads=1)
        assert (model.card.bands, model.card.precision, model.card.preset) == (8, precision, preset.name)
        assert model.card.halo == halo
        found = model.run(np.full((1, 8, 4 + 2 * halo, 4 + 2 * halo), 900, np.float32), probabilities=True)
        assert found.classes.shape == (1, 4, 4)
        np.testing.assert_allclose(found.probabilities.sum(1), 1, atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_weights_of_a_product(precision):
    tensor = onnx.load_model_from_string(ceilings.product_model(precision, 16, True)).graph.initializer[0]
    wanted = np.random.default_rng(0).integers(-99, 99, (16, 16)) / 99
    np.testing.assert_allclose(numpy_helper.to_array(tensor).astype(np.float64), wanted, atol=5e-3)


def test_a_precision_without_a_rate_is_refused(model_path, scene_path):
    model = Model.open(model_path, "cpu", threads=1)
    tiles = __main__.take_tiles(model, scene_path, 1)
    speeds = {"float32": ceilings.Ceiling(0.0, 0.0, "none here")}
    with pytest.raises(ValueError, match="multiplies in float32, whose rate could not be measured"):
        __main__.counted(read_model_bytes(model_path), model, tiles, speeds)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_product_is_timed(precision):
    found = ceilings.product_speed(precision, "cpu", 1, 64)
    assert found.best >= found.median > 0
    assert not found.reason


def test_a_type_that_is_not_supported_says_so():
    found = ceilings.product_speed("bfloat16", "cpu", 1, 64)
    assert (found.best > 0) != bool(found.reason)


def test_the_floor_adds_the_precisions(monkeypatch):
    speeds = {"float32": ceilings.Ceiling(2e9, 1e9), "int8": ceilings.Ceiling(8e9, 8e9)}
    monkeypatch.setattr(__main__, "product_speed", lambda name, device, threads: speeds[name])
    assert __main__.floor_of({"float32": 1e4, "int8": 4e4}, "cpu", 1) == pytest.approx(10)
