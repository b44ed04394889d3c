"""The ONNX graph: three parts from PyTorch's exporter, joined by a Scan over the tile's rows.

PyTorch's exporter unrolls loops, so the part that runs once a row is exported by itself and becomes the body of a Scan.
Parts and names are cleaned: a file holds no source paths, and the same model always gives the same bytes.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from spectraldiff_export.deployed import DeployedClassifier
from spectraldiff_runtime.engine import CARD_KEY, OUTPUTS

# The first opset with Gelu and LayerNormalization as single operators; ONNX Runtime reads it since 1.17.
OPSET, IR_VERSION = 20, 9
DYNAMIC = torch.export.Dim.DYNAMIC


def build(model: DeployedClassifier, card: str) -> onnx.ModelProto:
    """Return the ONNX model with the card in its metadata.

    Parameters
    ----------
    model
        On the CPU, float32.
    card
        The card's JSON.
    """
    with torch.no_grad():
        parts = _export_parts(model)
    front, row, verdict = (_cleaned(part, name) for part, name in zip(parts, ("rows", "row", "verdict"), strict=True))
    scan = helper.make_node(
        "Scan",
        [front.output[0].name],
        [verdict.input[0].name],
        "scan",
        body=row,
        num_scan_inputs=1,
    )
    nodes = [*front.node, scan, *verdict.node]
    constants = [*front.initializer, *verdict.initializer]
    graph = helper.make_graph(nodes, "spectraldiff", _inputs(model), _outputs(verdict), constants)
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="spectraldiff"
    )
    helper.set_model_props(proto, {CARD_KEY: card})
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _export_parts(model: DeployedClassifier) -> tuple[onnx.ModelProto, ...]:
    """Export the three parts with examples of sizes that none of the network's constants has."""
    tile = torch.zeros(2, model.bands, 2 * model.halo + 3, 2 * model.halo + 5)
    rows = model.rows(tile)  # (3, 2, 5 + window - 1, window, C)
    scores = torch.stack([model.row(row) for row in rows])  # (3, 2, 5, K)
    return (
        _export(model.rows, tile, (0, 2, 3), "tile", ["rows"]),
        _export(model.row, rows[0], (0, 1), "row", ["scores"]),
        _export(model.verdict, scores, (0, 1, 2), "all_scores", OUTPUTS),
    )


def _export(part: nn.Module, example: Tensor, dynamic: Sequence[int], name: str, outputs: Sequence[str]) -> Any:
    with _quiet():
        program = torch.onnx.export(
            part,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({axis: DYNAMIC for axis in dynamic},),
            input_names=[name],
            output_names=list(outputs),
            verbose=False,
        )
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from printing, logging and warning: what matters of its result is verified."""
    disabled = logging.root.manager.disable
    sink = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)


def _cleaned(proto: onnx.ModelProto, prefix: str) -> onnx.GraphProto:
    """Return a part's graph, its values and nodes renamed in order under `prefix`, without any notes."""
    graph = proto.graph
    foreign = {node.domain for node in graph.node} - {""}
    if foreign or proto.functions:
        raise NotImplementedError(f"the exporter left functions or operators of {foreign} in the graph")
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}
    names = {name: name for name in kept}
    for constant in graph.initializer:
        names.setdefault(constant.name, f"{prefix}.c{len(names)}")
        constant.name = names[constant.name]
        constant.doc_string = ""
    for number, node in enumerate(graph.node):
        for name in node.output:
            names.setdefault(name, f"{prefix}.v{len(names)}")
        inputs, outputs = [names[i] for i in node.input], [names[o] for o in node.output]
        plain = helper.make_node(node.op_type, inputs, outputs, f"{prefix}.{number}.{node.op_type}")
        plain.attribute.extend(node.attribute)
        node.CopyFrom(plain)
    return helper.make_graph(graph.node, prefix, graph.input, graph.output, graph.initializer)


def _inputs(model: DeployedClassifier) -> list[onnx.ValueInfoProto]:
    shape = ["N", model.bands, "height", "width"]
    return [helper.make_tensor_value_info("tile", TensorProto.FLOAT, shape)]


def _outputs(verdict: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the outputs with readable names for the sizes that vary."""
    types = {value.name: value.type.tensor_type for value in verdict.output}
    classes = types["probabilities"].shape.dim[1].dim_value
    small, large = ["N", "rows", "columns"], ["N", classes, "rows", "columns"]
    shapes = {"classes": small, "confidence": small, "probabilities": large}
    return [helper.make_tensor_value_info(name, types[name].elem_type, shapes[name]) for name in OUTPUTS]
