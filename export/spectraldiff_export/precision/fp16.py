"""A deployed classifier with its body in half precision."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from spectraldiff_export.onnx_graph import trunk_nodes


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose trunk, from the normalised bands to the tokens, is computed in float16.

    Raw values and the exponentials of a classifier that slides over the tile as convolutions can be beyond float16:
    they stay float32. What runs row by row is attention, whose values are not, and is computed in float16 too.
    """
    halves = onnx.ModelProto()
    halves.CopyFrom(model)
    nodes = list(halves.graph.node)
    trunk = trunk_nodes(nodes)
    inside = {id(node) for node in trunk}
    made = {name for node in trunk for name in node.output}
    floats = {t.name for t in halves.graph.initializer if t.data_type == TensorProto.FLOAT}
    entry, exit_ = next(name for name in trunk[0].input if name not in floats), trunk[-1].output[0]
    new: list[onnx.NodeProto] = []
    for node in nodes:
        if node.op_type == "Scan":
            (body,) = (attribute.g for attribute in node.attribute if attribute.name == "body")
            _halve_body(body)
        if id(node) in inside:
            if node is trunk[0]:
                new.append(_to_half(entry))
            swap = {
                name: f"{name}.half" for name in node.input if name in floats or (name == entry and name not in made)
            }
            node.input[:] = [swap.get(name, name) for name in node.input]
        new.append(node)
        if node is trunk[-1]:
            node.output[0] = f"{exit_}.half"
            new.append(_to_float(exit_))
    used = {name for node in new for name in node.input}
    constants = [t for t in halves.graph.initializer if t.name in used]
    constants += [_half(t, f"{t.name}.half") for t in halves.graph.initializer if f"{t.name}.half" in used]
    del halves.graph.node[:], halves.graph.initializer[:], halves.graph.value_info[:]
    halves.graph.node.extend(new)
    halves.graph.initializer.extend(constants)
    onnx.checker.check_model(halves, full_check=True)
    return halves


def _halve_body(body: onnx.GraphProto) -> None:
    """Have a Scan's body compute in float16; its one input and its one output stay float32."""
    entry, exit_ = body.input[0].name, body.output[0].name
    for node in body.node:
        node.input[:] = [f"{name}.half" if name == entry else name for name in node.input]
        node.output[:] = [f"{name}.half" if name == exit_ else name for name in node.output]
    nodes = [_to_half(entry), *body.node, _to_float(exit_)]
    constants = [_half(t, t.name) if t.data_type == TensorProto.FLOAT else t for t in body.initializer]
    del body.node[:], body.initializer[:]
    body.node.extend(nodes)
    body.initializer.extend(constants)


def _to_half(name: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [name], [f"{name}.half"], f"{name}.half", to=TensorProto.FLOAT16)


def _to_float(name: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [f"{name}.half"], [name], f"{name}.float", to=TensorProto.FLOAT)


def _half(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), name)
