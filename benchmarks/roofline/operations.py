"""Count what a model file computes: operations and bytes of each of its nodes, on tiles of a given shape.

ONNX Runtime runs the unchanged file once. Its profile gives the shapes of every node, also inside the bodies of loops,
once per iteration. The operations of a node follow from its shapes: two for each multiply-add. Nodes that only move
values count none. Every other computed value counts one, separately from the matrix products.
"""

import json
import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

Shape = tuple[int, ...]

# Nodes whose bodies have events of their own.
CONTAINERS = frozenset({"Scan", "Loop", "If"})
# Nodes that compute nothing; the first of them touch no value either.
VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Size", "Constant"})
MOVES = VIEWS | {
    "Transpose", "Slice", "Concat", "Split", "Gather", "GatherND", "GatherElements", "ScatterND", "ScatterElements",
    "Pad", "Expand", "Tile", "Cast", "ConstantOfShape", "Range", "DepthToSpace", "SpaceToDepth", "Resize", "Where",
    "ReorderInput", "ReorderOutput", "MemcpyToHost", "MemcpyFromHost", "QuantizeLinear", "DequantizeLinear",
}  # fmt: skip
CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "NhwcConv": 1, "NhwcFusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}
PRODUCTS = {
    "MatMul": 1, "FusedMatMul": 1, "TransposeMatMul": 1, "Gemm": 1, "FusedGemm": 1, "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1, "DynamicQuantizeMatMul": 1, "MatMulNBits": 1, "QLinearMatMul": 3, "QGemm": 3,
}  # fmt: skip
ATTENTION = frozenset({"Attention", "MultiHeadAttention"})
INT8 = frozenset({"int8", "uint8"})
# What tells the precision of a product: ONNX Runtime's name of the type of its first input, or its operator.
PRECISIONS = {"float": "float32", "float16": "float16", "bfloat16": "bfloat16", "double": "float64"}
INT8_OPERATORS = frozenset({"QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger",
                            "MatMulIntegerToFloat", "DynamicQuantizeMatMul"})  # fmt: skip


@dataclass(frozen=True)
class Event:
    """One execution of one node.

    Attributes
    ----------
    inputs, outputs
        Shapes of its values; `kind` is the first input's type as ONNX Runtime calls it.
    bytes
        Of all of its inputs and outputs.
    seconds
        What it took.
    """

    name: str
    operator: str
    kind: str
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    bytes: int
    seconds: float


@dataclass
class Node:
    """All executions of a node together.

    Attributes
    ----------
    operations
        Of matrix products, two for each multiply-add.
    others
        Values computed by anything else.
    """

    name: str
    operator: str
    precision: str
    operations: int = 0
    others: int = 0
    bytes: int = 0
    seconds: float = 0.0
    runs: int = 0


@dataclass(frozen=True)
class Count:
    """Operations of one run: totals, and all nodes that compute something."""

    nodes: list[Node] = field(default_factory=list)

    @property
    def operations(self) -> int:
        """Return those of all matrix products."""
        return sum(node.operations for node in self.nodes)

    @property
    def others(self) -> int:
        """Return the values computed by all other nodes."""
        return sum(node.others for node in self.nodes)

    @property
    def bytes(self) -> int:
        """Return the bytes that all nodes read and write, without caches and without fusion."""
        return sum(node.bytes for node in self.nodes)

    def by_precision(self) -> dict[str, int]:
        """Return the operations of the matrix products of each precision."""
        totals: dict[str, int] = {}
        for node in self.nodes:
            if node.operations:
                totals[node.precision] = totals.get(node.precision, 0) + node.operations
        return totals


def count(
    model: bytes, inputs: dict[str, Any], providers: Sequence[Any], outputs: Sequence[str] | None = None
) -> Count:
    """Run a model without optimisation and count its operations.

    Parameters
    ----------
    model
        The file's bytes.
    inputs
        Its inputs by name.
    outputs
        The requested outputs; all if None.

    Raises
    ------
    ValueError
        The operations of a node cannot be counted.
    """
    entries = record(model, inputs, providers, outputs, optimised=False, packed=False)
    return total(read_events(entries), onnx.load_from_string(model))


def record(
    model: bytes,
    inputs: dict[str, Any],
    providers: Sequence[Any],
    outputs: Sequence[str] | None = None,
    *,
    optimised: bool = True,
    packed: bool = True,
    threads: int = 1,
    runs: int = 1,
) -> list[dict[str, Any]]:
    """Run a model and return the entries of its profile.

    Parameters
    ----------
    optimised
        Whether ONNX Runtime may fuse and replace nodes.
    packed
        Whether it may repack weights, whose shapes are then missing in the profile.
    runs
        One, or several after one that is not recorded, in which memory is allocated.
    """
    options = onnxruntime.SessionOptions()
    options.enable_mem_pattern = False  # as maps have it
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_prepacking", "0" if packed else "1")
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(model, options, providers=list(providers))
        for _ in range(runs + (runs > 1)):
            session.run(outputs, inputs)
        entries: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
    first = next(entry for entry in entries if entry["name"] == "model_run")
    return entries if runs == 1 else [entry for entry in entries if entry["ts"] >= first["ts"] + first["dur"]]


def read_events(entries: Iterable[dict[str, Any]]) -> list[Event]:
    """Return the executions of nodes in a profile."""
    return [
        Event(
            entry["name"].removesuffix("_kernel_time"),
            entry["args"]["op_name"],
            next((kind for shape in entry["args"]["input_type_shape"][:1] for kind in shape), ""),
            _shapes(entry["args"]["input_type_shape"]),
            _shapes(entry["args"]["output_type_shape"]),
            sum(int(entry["args"][key]) for key in ("activation_size", "parameter_size", "output_size")),
            entry["dur"] / 1e6,
        )
        for entry in entries
        if entry.get("cat") == "Node" and entry["name"].endswith("_kernel_time")
    ]


def _shapes(told: Iterable[dict[str, list[int]]]) -> tuple[Shape, ...]:
    return tuple(tuple(shape) for value in told for shape in value.values())


def total(events: Iterable[Event], model: onnx.ModelProto | None = None, shapes_known: bool = True) -> Count:
    """Add up the executions of each node.

    Parameters
    ----------
    model
        Gives the attributes of an Einsum and the quantised values.
    shapes_known
        Whether the profile has all shapes, from which operations follow; False if weights were repacked.
    """
    known = {} if model is None else {node.name: node for node in _all_nodes(model.graph)}
    quantised = set() if model is None else _dequantised(model.graph)
    nodes: dict[tuple[str, str], Node] = {}
    for event in events:
        if event.operator in CONTAINERS:
            continue
        proto = known.get(event.name)
        new = Node(event.name, event.operator, _precision(event, proto, quantised))
        node = nodes.setdefault((event.name, event.operator), new)
        if shapes_known:
            node.operations += operations(event, proto)
            node.others += others(event)
        node.bytes += 0 if event.operator in VIEWS else event.bytes
        node.seconds += event.seconds
        node.runs += 1
    return Count(list(nodes.values()))


def operations(event: Event, proto: onnx.NodeProto | None = None) -> int:
    """Return the operations of a matrix product, two for each multiply-add; 0 for any other node."""
    if event.operator in CONVOLUTIONS:
        weights = _input(event, CONVOLUTIONS[event.operator])
        return 2 * math.prod(event.outputs[0]) * math.prod(weights[1:])
    if event.operator == "ConvTranspose":
        return 2 * math.prod(event.inputs[0]) * math.prod(_input(event, 1)[1:])
    if event.operator in PRODUCTS:
        return 2 * math.prod(event.outputs[0]) * _inner(event.inputs[0], event.outputs[0], _columns(event))
    if event.operator == "Einsum":
        return _einsum(event, proto)
    if event.operator in ATTENTION:
        return _attention(event)
    return 0


def others(event: Event) -> int:
    """Return the number of values computed by a node that is not a matrix product."""
    matrix = event.operator in {*CONVOLUTIONS, *PRODUCTS, *ATTENTION, "ConvTranspose", "Einsum"}
    return 0 if matrix or event.operator in MOVES else sum(math.prod(shape) for shape in event.outputs)


def _input(event: Event, index: int) -> Shape:
    if index >= len(event.inputs):
        raise ValueError(f"the profile does not tell input {index} of {event.operator} '{event.name}'")
    return event.inputs[index]


def _columns(event: Event) -> Shape:
    """Return the shape of a product's right side."""
    return _input(event, PRODUCTS[event.operator])


def _inner(left: Shape, out: Shape, right: Shape) -> int:
    """Return the length of the sums of a product; either side may be transposed."""
    if len(left) == 1:
        return left[0]
    rows = out[-1] if len(right) == 1 else out[-2]
    return left[-1] * left[-2] // rows


def _einsum(event: Event, proto: onnx.NodeProto | None) -> int:
    """Return the operations of an Einsum of two: a multiply-add for each combination of its indices."""
    if len(event.inputs) == 1:
        return 0
    if proto is None or len(event.inputs) != 2:
        raise ValueError(f"cannot count Einsum '{event.name}' of {len(event.inputs)} values")
    equation = next(a.s.decode() for a in proto.attribute if a.name == "equation").replace(" ", "")
    if "." in equation:
        raise ValueError(f"cannot count Einsum '{event.name}': {equation}")
    sizes: dict[str, int] = {}
    for letters, shape in zip(equation.split("->")[0].split(","), event.inputs, strict=True):
        sizes.update(zip(letters, shape, strict=True))
    return 2 * math.prod(sizes.values())


def _attention(event: Event) -> int:
    """Return the operations of a fused attention; ONNX Runtime's own `Attention` projects its input first."""
    out = math.prod(event.outputs[0])
    query = event.inputs[0]
    if len(event.inputs) > 1 and len(event.inputs[1]) == 2:
        weights = event.inputs[1]
        projection = 2 * math.prod(query) * weights[1]
        return projection + 2 * query[-2] * (math.prod(query[:-1]) * weights[1] // 3 + out)
    if len(query) == 5:  # query, key and value in one: (N, T, heads, 3, width)
        return 2 * query[1] * (math.prod(query) // 3 + out)
    return 2 * _input(event, 1)[-2] * (math.prod(query) + out)


def _precision(event: Event, proto: onnx.NodeProto | None, quantised: set[str]) -> str:
    """Return the precision in which a node multiplies; int8 also for a node between a pair of quantisers."""
    if event.operator in INT8_OPERATORS or event.kind in INT8:
        return "int8"
    if proto is not None and len(proto.input) > 1 and set(proto.input[:2]) <= quantised:
        return "int8"
    return PRECISIONS.get(event.kind, event.kind)


def _all_nodes(graph: onnx.GraphProto) -> Iterable[onnx.NodeProto]:
    """Yield the nodes of a graph and of its bodies."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _all_nodes(attribute.g)


def _dequantised(graph: onnx.GraphProto) -> set[str]:
    """Return the values that come from a DequantizeLinear: products of two of them are computed in int8."""
    return {node.output[0] for node in _all_nodes(graph) if node.op_type == "DequantizeLinear"}
