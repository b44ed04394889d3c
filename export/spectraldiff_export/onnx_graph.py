"""The ONNX graph: PyTorch's exporter for a model without loops, else three parts of it, joined by a Scan over rows.

PyTorch's exporter unrolls loops, so the part that runs once a row is exported by itself and becomes the body of a Scan.
Parts and names are cleaned: a file holds no source paths, and the same model always gives the same bytes.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxscript  # the exporter imports it late: whether it is there must be known at once
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from spectraldiff_export.compact.student import DeployedStudent
from spectraldiff_export.deployed import DeployedClassifier
from spectraldiff_export.quiet import quiet
from spectraldiff_runtime import __version__
from spectraldiff_runtime.classes import HIGHEST_UINT8
from spectraldiff_runtime.errors import VerificationError
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.engine import OUTPUTS, OUTSIDE
from spectraldiff_runtime.model.model_file import CARD_KEY, seal

# The first opset with LayerNormalization, and the format of its time, which ONNX Runtime reads since 1.12. Gelu as one
# operator would ask for opset 20; runtimes find it in its parts.
OPSET, IR_VERSION = 17, 8
EXPORTED = 18  # the lowest that PyTorch's exporter writes
# What has its axes as an input from opset 18 on, and as an attribute before.
REDUCING = {"ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"}
DOMAIN = "spectraldiff"
# What the exporter notes of each node: the modules around it, and its own name.
SCOPES = "pkg.torch.onnx.name_scopes"
DYNAMIC = torch.export.Dim.DYNAMIC
PROJECTION = "/project/"  # in the names of the nodes that map features to what members read


def build(model: DeployedClassifier | DeployedStudent, card: str) -> onnx.ModelProto:
    """Return the ONNX model with the card in its metadata.

    Parameters
    ----------
    model
        On the CPU, float32.
    card
        The card's JSON.
    """
    with torch.no_grad():
        nodes, constants, outputs = (
            _whole(model) if isinstance(model, DeployedStudent) or not model.row_by_row else _scanned(model)
        )
    graph = helper.make_graph(nodes, "spectraldiff", _inputs(model), outputs, constants)
    facts = ModelCard.from_json(card)
    graph.doc_string = doc_string(facts)
    proto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="spectraldiff",
        producer_version=__version__,
        domain=DOMAIN,
        model_version=facts.format,
        doc_string=f"Land cover of {facts.name}: {facts.bands} bands in, {len(facts.classes)} classes out.",
    )
    helper.set_model_props(proto, {CARD_KEY: card})
    onnx.checker.check_model(proto, full_check=True)
    _store_shapes(proto)
    return proto


def doc_string(card: ModelCard) -> str:
    """Say what goes in and what comes out, for whoever opens the file in a viewer."""
    halo, count = card.halo, len(card.classes)
    last = "int32" if count > HIGHEST_UINT8 else "uint8"
    return (
        f"tile: raw values, float32 (N, {card.bands}, height, width), with {halo} pixels around the part wanted. "
        f"classes: {last} (N, height - {2 * halo}, width - {2 * halo}), 1 to {count}. confidence: float32, of that "
        f"size, 0 to 1. probabilities: float32 (N, {count}, ...), of class 1 first. outside, where it is there: uint8, "
        "0 to 100 %, how far a pixel is from the training classes. The model card is JSON in the metadata, "
        f"'{CARD_KEY}'; it names the classes and holds what replaces missing pixels ('fill')."
    )


def _store_shapes(proto: onnx.ModelProto) -> None:
    """Note the types and shapes of all values between the nodes, with sizes that vary left open."""
    found = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph.value_info
    for value in found:
        for size in value.type.tensor_type.shape.dim:
            if size.HasField("dim_param"):
                size.Clear()
    proto.graph.value_info.extend(found)


_Parts = tuple[list[onnx.NodeProto], list[onnx.TensorProto], list[onnx.ValueInfoProto]]


def _whole(model: DeployedClassifier | DeployedStudent) -> _Parts:
    """Return nodes, constants and outputs of a model without loops."""
    names = (*OUTPUTS, OUTSIDE) if model.knows_outside else OUTPUTS
    graph = _cleaned(_export(model, example_tile(model), (0, 2, 3), "tile", names), "tile")
    return list(graph.node), list(graph.initializer), _outputs(graph)


def _scanned(model: DeployedClassifier) -> _Parts:
    """Return those of a model whose reader runs once a row."""
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
    return nodes, [*front.initializer, *verdict.initializer], _outputs(verdict)


def example_tile(model: DeployedClassifier | DeployedStudent) -> Tensor:
    """Return a tile to trace with: two of them, so that N is not taken for 1, and oblong, so that its sides differ."""
    return torch.zeros(2, model.bands, 2 * model.halo + 3, 2 * model.halo + 5)


def _export_parts(model: DeployedClassifier) -> tuple[onnx.ModelProto, ...]:
    """Export the three parts, every size dynamic but bands, window and width."""
    tile = example_tile(model)
    rows = model.front(tile)  # (3, 2, 5 + window - 1, window, C)
    scores = torch.stack([model.reader(row) for row in rows])  # (3, 2, 5, K)
    return (
        _export(model.front, tile, (0, 2, 3), "tile", ["rows"]),
        _export(model.reader, rows[0], (0, 1), "row", ["scores"]),
        _export(model.verdict, scores, (0, 1, 2), "all_scores", OUTPUTS),
    )


def _export(part: nn.Module, example: Tensor, dynamic: Sequence[int], name: str, outputs: Sequence[str]) -> Any:
    # Without its cache of tensors, whose keys take the longest: sizes are formulas, to be simplified for each of them.
    with quiet(), torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
        # Traced here: left to itself, the ONNX exporter of some versions (PyTorch 2.11) knows too little of sizes.
        traced = torch.export.export(part, (example,), dynamic_shapes=(dict.fromkeys(dynamic, DYNAMIC),), strict=False)
        program = torch.onnx.export(
            traced,
            dynamo=True,
            opset_version=EXPORTED,
            input_names=[name],
            output_names=list(outputs),
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _cleaned(proto: onnx.ModelProto, prefix: str) -> onnx.GraphProto:
    """Return a part's graph, its values and nodes renamed in order under `prefix`, without any notes."""
    graph = proto.graph
    foreign = sorted({node.domain for node in graph.node} - {""}) + [function.name for function in proto.functions]
    if foreign:
        raise VerificationError(
            f"PyTorch {torch.__version__} with onnxscript {onnxscript.__version__} exported operators that ONNX does "
            f"not have ({', '.join(foreign)}): install other versions of them; nothing is written"
        )
    titles = _titles(graph.node, prefix)
    names = {name: name for name in ("", *_names(graph.input), *_names(graph.output))}
    for tensor in graph.initializer:
        names.setdefault(tensor.name, f"{prefix}.{_constant_name(tensor.name, len(names))}")
    for node, title in zip(graph.node, titles, strict=True):
        for number, name in enumerate(node.output):
            names.setdefault(name, f"{title}:{number}")
    held = {tensor.name: tensor for tensor in graph.initializer}
    nodes = [_node(node, names, title, held) for node, title in zip(graph.node, titles, strict=True)]
    _halve_last(nodes)
    constants = [_constant(tensor, names[tensor.name]) for tensor in graph.initializer]
    nodes, added = _joined_slices(nodes, {tensor.name: tensor for tensor in constants}, set(_names(graph.output)))
    used = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in (*constants, *added) if tensor.name in used]
    inputs, outputs = ([_value(value) for value in values] for values in (graph.input, graph.output))
    return helper.make_graph(nodes, prefix, inputs, outputs, constants)


def _halve_last(nodes: Sequence[onnx.NodeProto]) -> None:
    """Have each Gelu's parts compute (x * (1 + erf)) * 0.5, where the exporter writes x * (0.5 * (1 + erf)).

    Halving rounds nothing, so both give the same. ONNX Runtime makes one operator of the first alone, and OpenCV 5.0
    crashes on the second.
    """
    made = {name: node for node in nodes for name in node.output}
    for last in nodes:
        half = made.get(last.input[1]) if last.op_type == "Mul" else None
        added = made.get(half.input[1]) if half is not None and half.op_type == "Mul" else None
        if half is None or added is None or added.op_type != "Add":
            continue
        erf = made.get(added.input[0])
        if erf is not None and erf.op_type == "Erf":
            constant, sum_ = half.input
            half.input[:], last.input[:] = [last.input[0], sum_], [half.output[0], constant]


def _joined_slices(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, onnx.TensorProto], outputs: set[str]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Make one of slices that follow each other along different axes: each would copy what the next copies again.

    Returns the nodes, of which those that stay are changed in place, and the new slices' constants.
    """
    made = {name: node for node in nodes for name in node.output}
    readers = Counter([*(name for node in nodes for name in node.input), *outputs])
    added: dict[str, onnx.TensorProto] = {}
    gone: set[str] = set()
    for node in (node for node in nodes if node.op_type == "Slice"):
        before = made.get(node.input[0])
        if before is None or before.op_type != "Slice" or readers[node.input[0]] > 1:
            continue
        known = {**constants, **added}
        if not known.keys() >= {*before.input[1:], *node.input[1:]}:
            continue
        first, second = ([numpy_helper.to_array(known[name]) for name in one.input[1:]] for one in (before, node))
        axes = [*first[2], *second[2]]  # after starts and ends, before steps
        if len(set(axes)) < len(axes) or min(axes) < 0:
            continue
        gone.add(before.name)
        names = [f"{node.name}.{kind}" for kind in ("starts", "ends", "axes", "steps")]
        node.input[:] = [before.input[0], *names]
        for name, *parts in zip(names, first, second, strict=True):
            added[name] = numpy_helper.from_array(np.concatenate(parts), name)
    return [node for node in nodes if node.name not in gone], list(added.values())


def _titles(nodes: Iterable[onnx.NodeProto], prefix: str) -> list[str]:
    """Return a name for each node: the part, the modules that it is in, its operator, and a number."""
    return [f"{prefix}/{'/'.join([*_modules(node), node.op_type])}.{number}" for number, node in enumerate(nodes)]


def _modules(node: onnx.NodeProto) -> list[str]:
    """Return the modules around a node, from the outermost, as PyTorch's exporter noted them."""
    noted = {prop.key: prop.value for prop in node.metadata_props}.get(SCOPES, "[]")
    scopes = ast.literal_eval(noted)
    parts = str(scopes[-2]).split(".") if len(scopes) > 1 else []
    return [part for part in parts if part and not part.startswith("_")]


def _constant_name(name: str, number: int) -> str:
    """Return a constant's name: a parameter's own, else a number."""
    return name if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)+", name) else f"constant.{number}"


def _names(values: Iterable[Any]) -> list[str]:
    return [value.name for value in values]


def _constant(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor), name)


def _node(
    node: onnx.NodeProto, names: dict[str, str], title: str, constants: Mapping[str, onnx.TensorProto]
) -> onnx.NodeProto:
    """Return a node under its new names, as it is written in `OPSET`."""
    inputs, attributes = list(node.input), list(node.attribute)
    if node.op_type in REDUCING and len(inputs) == 2:
        axes = numpy_helper.to_array(constants[inputs.pop()]).tolist()
        kept = [attribute for attribute in attributes if attribute.name != "noop_with_empty_axes"]
        attributes = [*kept, helper.make_attribute("axes", axes)]
    if node.op_type == "Split":
        attributes = [attribute for attribute in attributes if attribute.name != "num_outputs"]
    plain = helper.make_node(node.op_type, [names[i] for i in inputs], [names[o] for o in node.output], title)
    plain.attribute.extend(attributes)
    return plain


def _value(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """Return an input or output whose varying sizes have no names."""
    kind = value.type.tensor_type
    sizes: list[int | str | None] = [int(d.dim_value) or None for d in kind.shape.dim]
    return helper.make_tensor_value_info(value.name, kind.elem_type, sizes)


def _inputs(model: DeployedClassifier | DeployedStudent) -> list[onnx.ValueInfoProto]:
    shape: list[int | str | None] = ["N", model.bands, "height", "width"]
    return [helper.make_tensor_value_info("tile", TensorProto.FLOAT, shape)]


def _outputs(verdict: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the outputs with readable names for the sizes that vary."""
    types = {value.name: value.type.tensor_type for value in verdict.output}
    classes = types["probabilities"].shape.dim[1].dim_value
    small, large = ["N", "rows", "columns"], ["N", classes, "rows", "columns"]
    shapes = {"classes": small, "confidence": small, "probabilities": large, OUTSIDE: small}
    names = [name for name in (*OUTPUTS, OUTSIDE) if name in types]
    return [helper.make_tensor_value_info(name, types[name].elem_type, shapes[name]) for name in names]


def onnx_bytes(model: DeployedClassifier | DeployedStudent, card: str) -> bytes:
    """Return a sealed ONNX file with the card's JSON inside; the same model gives the same bytes."""
    return seal(build(model, card).SerializeToString(deterministic=True))


def with_card(data: bytes, card: ModelCard) -> bytes:
    """Return a sealed ONNX file with another card."""
    model = onnx.load_model_from_string(data)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {CARD_KEY: card.to_json()})
    return seal(model.SerializeToString(deterministic=True))


def trunk_nodes(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the nodes from the first convolution to the projection of features (`token_map.Projection`), in order."""
    last = next(n for n in reversed(nodes) if PROJECTION in n.name)
    needed: set[str] = set(last.output)
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
    before = [n for n in nodes if needed.intersection(n.output)]
    entries = [place for place, n in enumerate(before) if "Conv" in n.op_type]
    if not entries:  # a model of the bands alone
        entries = [place for place, n in enumerate(before) if PROJECTION in n.name and n.op_type == "MatMul"]
    return before[entries[0] :]


def _adds(node: onnx.NodeProto, inside: set[str]) -> bool:
    return node.op_type == "Add" and inside.issuperset(node.input)
