"""The model file as Deepness takes it, the plugin that runs networks inside QGIS.

Deepness cuts a raster into tiles of one size, divides values by 255 and by a standard deviation, wants one output of
the tile's size with a channel a class, and keeps the middle of each tile; at the edges of the raster it keeps all. What
lies beyond the raster comes as nodata, or as 0. So the graph gets a front: it finds the rows and columns of the tile
that hold data, mirrors them as `sdiff map` does, and fills pixels without data; and an end, with a channel for what has
no class. https://qgis-plugin-deepness.readthedocs.io (0.6).
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from spectraldiff_runtime.classes import UNCLASSIFIED
from spectraldiff_runtime.errors import UsageError, VerificationError
from spectraldiff_runtime.mapping.map_scene import map_scene
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.model.model_file import CARD_KEY, seal
from spectraldiff_runtime.scene.array import ArrayScene

# Deepness divides all values by this, whatever their type, before it standardises them.
DIVISOR = 255
SMALLEST, STEP = 128, 16  # of a tile's side, pixels
OVERLAP = 25  # percent of a tile that two neighbours share, at least
PREFIX = "deepness"
Node = onnx.NodeProto


def tile_side(halo: int) -> int:
    """Return the side of Deepness' tiles: half of what neighbours share holds the halo."""
    wanted = 2 * (halo + 1) * 100 / OVERLAP
    return max(SMALLEST, STEP * math.ceil(wanted / STEP))


def metadata(card: ModelCard, side: int) -> dict[str, str]:
    """Return what Deepness reads of a file: JSON by name. Without a pixel size it asks its user for the resolution."""
    names = {0: UNCLASSIFIED, **{c.value: c.name for c in card.classes}}
    facts: dict[str, Any] = {
        "model_type": "Segmentor",
        "class_names": names,
        "tile_size": side,
        "tiles_size": side,
        "tiles_overlap": OVERLAP,
        "seg_thresh": 0.0,
        "seg_small_segment": 0,
        "standardization_mean": [0.0] * card.bands,
        "standardization_std": [1 / DIVISOR] * card.bands,
    }
    if card.pixel_size is not None:
        facts["resolution"] = round(100 * max(card.pixel_size), 6)  # centimetres
    return {key: json.dumps(value, ensure_ascii=False) for key, value in facts.items()}


def deepness_bytes(data: bytes) -> bytes:
    """Return a verified fp32 model file as a file for Deepness.

    Its input is (1, B, T, T) float32 and its output (1, K + 1, T, T): the probabilities of no class, which is 0 or 1,
    and of the classes.

    Raises
    ------
    UsageError
        The model takes values by each scene's scale, which Deepness does not apply.
    """
    model = onnx.load_model_from_string(data)
    card = ModelCard.from_json({prop.key: prop.value for prop in model.metadata_props}[CARD_KEY])
    if card.scaled:
        raise UsageError(
            "this model takes values by each scene's scale and offset, which Deepness does not apply: train on stored "
            "values (without --scaled) for it"
        )
    side, parts = tile_side(card.halo), _Parts()
    entry = _front(parts, card, side)
    body = _needed(model.graph, "probabilities")
    for node in body:
        node.input[:] = [entry if name == "tile" else name for name in node.input]
    end = _end(parts, card)
    used = {name for node in body for name in node.input}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in used]
    graph = helper.make_graph(
        [*parts.front, *body, *end],
        "spectraldiff",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, card.bands, side, side])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, len(card.classes) + 1, side, side])],
        [*parts.constants, *weights],
        doc_string=f"For Deepness: tiles of {side} x {side} pixels, {OVERLAP} % of which neighbours share.",
    )
    opsets = [helper.make_opsetid(one.domain, one.version) for one in model.opset_import]
    found = helper.make_model(
        graph, opset_imports=opsets, ir_version=model.ir_version, producer_name=model.producer_name,
        producer_version=model.producer_version, domain=model.domain, model_version=model.model_version,
    )  # fmt: skip
    helper.set_model_props(found, {CARD_KEY: card.to_json(), **metadata(card, side)})
    onnx.checker.check_model(found, full_check=True)
    return seal(found.SerializeToString(deterministic=True))


def verify_deepness(data: bytes, model: Model, samples: NDArray[np.float32], name: str) -> int:
    """Compare a file for Deepness with `map_scene` of the model that it was made from; return the pixels compared.

    Parameters
    ----------
    samples
        (n, B, S, S) raw pixels, each a small scene of its own: the file mirrors their edges as it does a raster's.

    Raises
    ------
    VerificationError
        A pixel has another class.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    side, compared, other = tile_side(model.card.halo), 0, 0
    for sample in samples:
        used = (sample[:, :side, :side] != 0).any(0)  # small scenes end in zeros, which Deepness takes for no data
        cut = sample[:, used.any(1).nonzero()[0]][:, :, used.any(0).nonzero()[0]]
        cube = np.ascontiguousarray(cut.transpose(1, 2, 0))
        tile = np.zeros((1, model.card.bands, side, side), np.float32)
        tile[0, :, side - cube.shape[0] :, : cube.shape[1]] = cube.transpose(2, 0, 1)
        (found,) = session.run(None, {"input": tile})
        scene = ArrayScene(cube, model.card.nodata)
        wanted = map_scene(model, scene, warn=lambda _: None).classes
        classes = found.argmax(1)[0, side - cube.shape[0] :, : cube.shape[1]]
        compared, other = compared + classes.size, other + int((classes != wanted).sum())
    if other:
        raise VerificationError(
            f"'{name}' gives another class than `sdiff map` at {other:,} of {compared:,} pixels: it is not written"
        )
    return compared


class _Parts:
    """Nodes and constants that are added, under names of their own."""

    def __init__(self) -> None:
        self.front: list[Node] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        name = f"{PREFIX}.constant.{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"{PREFIX}/{operator}.{len(self.front)}"
        self.front.append(helper.make_node(operator, list(inputs), [f"{name}:0"], name, **attributes))
        return f"{name}:0"


def _front(parts: _Parts, card: ModelCard, side: int) -> str:
    """Add what fills and mirrors a tile; return the name of the tile with its halo."""
    values = "input"
    if card.stored and np.dtype(card.stored).kind in "iu":
        values = parts.add("Round", [values])  # dividing by 255 and back had cost the last bit
    bad = _without_data(parts, values, card)
    fill = parts.constant(np.reshape(card.fill, (1, -1, 1, 1)), np.float32)
    values = parts.add("Where", [bad, fill, values])
    good = parts.add("Cast", [parts.add("Not", [bad])], to=TensorProto.FLOAT)  # (1, 1, T, T)
    parts.front.append(helper.make_node("Identity", [good], [f"{PREFIX}/good"], f"{PREFIX}/good"))
    for axis, other in ((2, 3), (3, 2)):
        values = parts.add("Gather", [values, _mirrored(parts, good, other, card.halo, side)], axis=axis)
    return values


def _without_data(parts: _Parts, values: str, card: ModelCard) -> str:
    """Return the name of (1, 1, T, T) bool: a band is nodata or no number, or all bands are 0."""
    wrong = parts.add("IsNaN", [values])
    wrong = parts.add("Or", [wrong, parts.add("IsInf", [values])])
    if card.nodata is not None:
        wrong = parts.add("Or", [wrong, parts.add("Equal", [values, parts.constant(card.nodata, np.float32)])])
    zero = parts.add("Equal", [values, parts.constant(0, np.float32)])
    return parts.add("Or", [_more(parts, wrong, [1], 0), _more(parts, zero, [1], card.bands - 1)])


def _more(parts: _Parts, flags: str, axes: Sequence[int], least: int, keepdims: int = 1) -> str:
    """Return the name of where more than `least` of some flags are set along the axes."""
    numbers = parts.add("Cast", [flags], to=TensorProto.FLOAT)
    count = parts.add("ReduceSum", [numbers, parts.constant(axes)], keepdims=keepdims)
    return parts.add("Greater", [count, parts.constant(least + 0.5, np.float32)])


def _mirrored(parts: _Parts, good: str, across: int, halo: int, side: int) -> str:
    """Return the name of the indices, along the axis that is not `across`, of a tile with its halo.

    They go from the first row with data to the last and back, as often as needed; edge rows are not repeated.
    """
    flags = parts.add("Reshape", [_more(parts, good, [1, across], 0, keepdims=0), parts.constant([-1])])
    used = parts.add("Cast", [flags], to=TensorProto.FLOAT)
    zero, one, two = (parts.constant(value) for value in (0, 1, 2))
    first = parts.add("ArgMax", [used], axis=0, keepdims=0)
    last = parts.add("ArgMax", [used], axis=0, keepdims=0, select_last_index=1)
    period = parts.add("Max", [one, parts.add("Mul", [two, parts.add("Sub", [last, first])])])
    places = parts.add("Sub", [parts.constant(np.arange(-halo, side + halo)), first])
    within = parts.add("Mod", [parts.add("Abs", [places]), period])
    back = parts.add("Min", [within, parts.add("Max", [zero, parts.add("Sub", [period, within])])])
    return parts.add("Add", [back, first])


def _end(parts: _Parts, card: ModelCard) -> list[Node]:
    """Return the nodes from the probabilities, and from what has data, to the output."""
    one, good = parts.constant(1, np.float32), f"{PREFIX}/good"
    return [
        helper.make_node("Sub", [one, good], [f"{PREFIX}/none"], f"{PREFIX}/none"),
        helper.make_node("Mul", ["probabilities", good], [f"{PREFIX}/some"], f"{PREFIX}/some"),
        helper.make_node("Concat", [f"{PREFIX}/none", f"{PREFIX}/some"], ["output"], f"{PREFIX}/output", axis=1),
    ]


def _needed(graph: onnx.GraphProto, output: str) -> list[Node]:
    """Return the nodes that an output needs, in order."""
    wanted, kept = {output}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]
