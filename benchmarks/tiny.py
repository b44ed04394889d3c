"""A tiny model file, and a tiny labelled scene with the command that trains on it: what bad luck is tried on."""

from pathlib import Path

import numpy as np
import onnx
import rasterio
from onnx import TensorProto, helper, numpy_helper

from spectraldiff_runtime.classes import LandCoverClass, palette
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.model_file import CARD_KEY, seal

BANDS, CLASSES = 4, 16
SIDE, LABELLED_BANDS = 26, 12
PLACE = {"crs": "EPSG:32616", "transform": rasterio.Affine(20, 0, 480_000, 0, -20, 4_470_000)}


def write_model(path: Path, count: int = CLASSES) -> None:
    """Write a model file of one convolution of 3 x 3 pixels over 4 bands, for `count` classes."""
    weights = np.random.default_rng(0).normal(size=(count, BANDS, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["tile", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["index"], axis=1, keepdims=0),
        helper.make_node("Add", ["index", "one"], ["value"]),
        helper.make_node("Cast", ["value"], ["classes"], to=TensorProto.UINT8),
        helper.make_node("ReduceMax", ["probabilities", "axis"], ["confidence"], keepdims=0),
    ]
    constants = {"weights": weights, "one": np.array(1), "axis": np.array([1])}
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tiny",
        [value("tile", TensorProto.FLOAT, ["N", BANDS, "height", "width"])],
        [
            value("classes", TensorProto.UINT8, ["N", "h", "w"]),
            value("confidence", TensorProto.FLOAT, ["N", "h", "w"]),
            value("probabilities", TensorProto.FLOAT, ["N", count, "h", "w"]),
        ],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    classes = tuple(LandCoverClass(k, f"class {k}", colour) for k, colour in enumerate(palette(count), start=1))
    card = ModelCard(
        name="tiny", preset="tiny", features="raw", classes=classes, bands=BANDS, wavelengths=None, halo=1,
        nodata=None, fill=(0.0,) * BANDS,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {CARD_KEY: card.to_json()})
    onnx.checker.check_model(model)
    path.write_bytes(seal(model.SerializeToString()))


def write_scene(path: Path, height: int, width: int) -> None:
    """Write a GeoTIFF for that model, of noise, uint16."""
    values = np.random.default_rng(1).integers(1, 1000, (BANDS, height, width)).astype(np.uint16)
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=BANDS, dtype="uint16", **PLACE
    ) as file:
        file.write(values)


def write_labelled(scene: Path, labels: Path) -> None:
    """Write a scene of 26 x 26 pixels in 12 bands whose quarters are four classes, and its labels."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    quarter = 1 + (rows >= SIDE // 2) * 2 + (columns >= SIDE // 2)
    x = np.linspace(0, 3, LABELLED_BANDS)[:, None, None]
    values = 1500 + 800 * np.sin(x * (quarter + 1)) + 300 * quarter
    values += np.random.default_rng(7).normal(0, 60, values.shape)
    known = np.where((rows % 13 > 1) & (columns % 13 > 1), quarter, 0)
    size = {"driver": "GTiff", "height": SIDE, "width": SIDE, **PLACE}
    with rasterio.open(scene, "w", count=LABELLED_BANDS, dtype="uint16", **size) as file:
        file.write(values.round().astype(np.uint16))
    with rasterio.open(labels, "w", count=1, dtype="uint8", **size) as file:
        file.write(known.astype(np.uint8), 1)


def training(scene: Path, labels: Path, run: Path, raw: bool = False) -> list[str]:
    """Return the arguments of ``sdiff`` that train on it in seconds, on raw bands or on diffusion features."""
    short = ["--split", "per-class:10", "--epochs", "4", "--threads", "1", "-q"]
    features = ["--features", "raw"] if raw else ["--diffusion-steps", "25", "--components", "10"]
    return ["train", str(scene), "--labels", str(labels), "--run", str(run), *short, *features]
