"""The trunk of an exported graph in 8-bit integers: static, calibrated on the run's own tiles.

Everything from the first convolution's result to the projection's input is uint8; convolutions multiply it with int8
weights, each output channel with a scale of its own, and add up in int32. What only moves values (reshaping, cutting,
joining) keeps the scale of what it moves, so tensors that meet in one share theirs; sums have scales of their own.
The first convolution reads raw spectra, whose small differences 8 bits would lose, and the classifier is a few
thousandths of the work: both stay float32. Processors without VNNI add pairs of these products in 16 bits, where
large ones overflow: such a file is for processors like the one that it was verified on.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from spectraldiff_export.onnx_graph import PROJECTION, _adds, trunk_nodes
from spectraldiff_runtime.errors import VerificationError

HIGHEST_WEIGHT = 127
# Share of a tensor's values that may lie beyond its scale, half at each end: outliers would coarsen all others.
OUTLIERS = 1e-5
# How much the projection is held back towards what it was, as a share of the features' mean variance.
HOLD = 1e-3
# What keeps the scale of the tensor that it moves.
MOVES = {"Reshape", "Slice", "Concat", "Relu", "Unsqueeze", "Squeeze", "Transpose", "Expand"}

PROJECTS = ("MatMul", "Add")  # of the projection's nodes, those that compute

Array = NDArray[Any]


@dataclass(frozen=True)
class Scale:
    """value = step (stored - zero), stored in 0 .. 255."""

    step: float
    zero: int

    @classmethod
    def of(cls, low: float, high: float) -> "Scale":
        """Return the scale that holds `low` .. `high` and 0."""
        low, high = min(low, 0.0), max(high, 0.0)
        step = max((high - low) / 255, 1e-12)
        return cls(step, round(-low / step))


def quantised(model: onnx.ModelProto, tiles: Sequence[NDArray[np.float32]]) -> onnx.ModelProto:
    """Return a model with its trunk in 8-bit integers.

    Parameters
    ----------
    model
        As `spectraldiff_export.onnx_graph.build` made it; it is not changed.
    tiles
        (N, B, T, T) float32 raw tiles to calibrate on.

    Raises
    ------
    VerificationError
        The graph has no trunk, or one whose spectral taps are stacked in channels.
    """
    graph = _Graph(model)
    if len(graph.convs) < 2:
        raise VerificationError(
            "this model has no trunk of separable convolutions to store in 8 bits: "
            "export it with --precision fp32 or fp16"
        )
    found = graph.rewritten(graph.calibrate(tiles))
    _refit(model, found, tiles)
    return found


def _refit(whole: onnx.ModelProto, lower: onnx.ModelProto, tiles: Sequence[NDArray[np.float32]]) -> None:
    """Fit the projection onto tokens anew, so that rounded features give the tokens of exact ones as closely as can be.

    Least squares, held back towards the projection as it is.  It undoes what rounding shifts, and relies less on
    directions that rounding drowns; whitening had blown those up.
    """
    product, added = (n for n in trunk_nodes(list(whole.graph.node)) if PROJECTION in n.name and n.op_type in PROJECTS)
    constants = {t.name: t for t in lower.graph.initializer}
    names = product.input[0], added.input[1]
    weight, bias = (numpy_helper.to_array(constants[name]) for name in names)
    old = weight.astype(np.float64)  # (C, D)
    features, tokens = (
        np.concatenate([x[0].T for x in _values(model, name, tiles)]).astype(np.float64)
        for model, name in ((lower, product.input[1]), (whole, added.output[0]))
    )
    middle, aim = features.mean(0), tokens.mean(0)
    x, y = features - middle, tokens - aim
    scatter = x.T @ x
    held = HOLD * np.trace(scatter) / len(scatter) * np.eye(len(scatter))
    new = old + np.linalg.solve(scatter + held, x.T @ (y - x @ old.T)).T
    for name, values, like in zip(names, (new, (aim - new @ middle)[:, None]), (weight, bias), strict=True):
        constants[name].CopyFrom(numpy_helper.from_array(values.astype(like.dtype), name))


def _values(model: onnx.ModelProto, name: str, tiles: Sequence[NDArray[np.float32]]) -> list[Array]:
    """Return one tensor's values for each tile."""
    return [values for (values,) in _run(model, [name], tiles)]


def _run(model: onnx.ModelProto, names: list[str], tiles: Sequence[NDArray[np.float32]]) -> Iterator[list[Array]]:
    """Run a model for each tile and yield tensors that are no outputs of it."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, ["CPUExecutionProvider"])
    for tile in tiles:
        yield session.run(names, {"tile": tile})


class _Graph:
    """A model's trunk: which tensors become uint8, and which of them share a scale."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.convs = self._trunk_convs()
        self.first = self.convs[0].output[0] if self.convs else ""
        self.inside = self._reach()
        self.group = self._groups()

    def _trunk_convs(self) -> list[onnx.NodeProto]:
        """Return the trunk's convolutions without the projection; none where taps are stacked in channels for them.

        Those stacks stand in a layout of their own, (N, L, C, H, W): only their trunk has nodes that transpose.
        """
        trunk = trunk_nodes(self.nodes)
        stacked = any(n.op_type == "Transpose" for n in trunk)
        return [] if stacked else [n for n in trunk if n.op_type == "Conv"]

    def _reach(self) -> set[str]:
        """Return the tensors that become uint8: from the first convolution's result on, through moves and the trunk."""
        trunk, inside = {id(n) for n in self.convs[1:]}, {self.first}
        for node in self.nodes:
            data = [name for name in node.input if name in inside]
            if data and (id(node) in trunk or node.op_type in MOVES or _adds(node, inside)):
                inside.update(node.output)
        return inside

    def adds(self, node: onnx.NodeProto) -> bool:
        """Whether a node adds two tensors of the trunk."""
        return _adds(node, self.inside)

    def _groups(self) -> dict[str, str]:
        """Return for each uint8 tensor the name of the group that shares its scale."""
        parent = {name: name for name in self.inside}

        def root(name: str) -> str:
            while parent[name] != name:
                name = parent[name]
            return name

        for node in self.nodes:
            if node.op_type in MOVES:
                joined = [name for name in (*node.input, *node.output) if name in self.inside]
                for name in joined[1:]:
                    parent[root(name)] = root(joined[0])
        return {name: root(name) for name in self.inside}

    def _measured(self) -> list[str]:
        """Return the tensors whose values count for their group's scale: of convolutions and sums, after any ReLU."""
        sums = [n.output[0] for n in self.nodes if self.adds(n)]
        results = [self.first, *(n.output[0] for n in self.convs[1:]), *sums]
        relus = {n.input[0]: n.output[0] for n in self.nodes if n.op_type == "Relu"}
        return [relus.get(name, name) for name in results]

    def calibrate(self, tiles: Sequence[NDArray[np.float32]]) -> dict[str, Scale]:
        """Return each group's scale: the range of its values, but for few outliers, over all tiles."""
        measured = self._measured()
        low: dict[str, float] = defaultdict(float)
        high: dict[str, float] = defaultdict(float)
        for found in _run(self.model, measured, tiles):
            for name, values in zip(measured, found, strict=True):
                ends = np.quantile(values, [OUTLIERS / 2, 1 - OUTLIERS / 2])
                group = self.group[name]
                low[group], high[group] = min(low[group], ends[0]), max(high[group], ends[1])
        return {group: Scale.of(low[group], high[group]) for group in set(self.group.values())}

    def rewritten(self, scales: Mapping[str, Scale]) -> onnx.ModelProto:
        """Return the model with the trunk in integers."""
        writer = _Writer(self, scales)
        for node in self.nodes:
            writer.take(node)
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
        used = {name for node in writer.nodes for name in node.input}
        kept = [t for t in self.model.graph.initializer if t.name in used]
        model.graph.node.extend(writer.nodes)
        model.graph.initializer.extend([*kept, *writer.constants.values()])
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        onnx.checker.check_model(model, full_check=True)
        return model


class _Writer:
    """Writes the new nodes one after the other."""

    def __init__(self, graph: _Graph, scales: Mapping[str, Scale]) -> None:
        self.graph, self.scales = graph, scales
        self.trunk = {id(n) for n in graph.convs[1:]}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.back: set[str] = set()

    def take(self, node: onnx.NodeProto) -> None:
        """Write what a node becomes."""
        if id(node) in self.trunk:
            self._conv(node)
        elif node.op_type in MOVES and set(node.output) <= self.graph.inside:
            self._move(node)
        elif self.graph.adds(node):
            self._sum(node)
        else:
            self._outside(node)
        if node.output[0] == self.graph.first:
            scale = self._scale_of(self.graph.first)
            name = f"{node.output[0]}.uint8"
            self._add("QuantizeLinear", [node.output[0], *self._constants_of(scale)], [name])

    def _scale_of(self, name: str) -> Scale:
        return self.scales[self.graph.group[name]]

    def _named(self, name: str) -> str:
        """Return the name of a tensor where it may be uint8."""
        return f"{name}.uint8" if name in self.graph.inside else name

    def _add(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, outputs, f"{outputs[0]}.{kind}", **attributes))

    def _constant(self, name: str, values: Array) -> str:
        self.constants[name] = numpy_helper.from_array(values, name)
        return name

    def _constants_of(self, scale: Scale) -> list[str]:
        step = self._constant(f"step.{scale.step!r}", np.array(scale.step, np.float32))
        return [step, self._constant(f"zero.{scale.zero}", np.array(scale.zero, np.uint8))]

    def _conv(self, node: onnx.NodeProto) -> None:
        """Write a convolution of integers; a ReLU after it is in its range where 0 is the least stored value."""
        weight, *rest = (self.graph.constants[name].astype(np.float64) for name in node.input[1:])
        bias = rest[0] if rest else np.zeros(len(weight))
        read, told = self._scale_of(node.input[0]), self._scale_of(node.output[0])
        steps = np.maximum(np.abs(weight).max((1, 2, 3)) / HIGHEST_WEIGHT, 1e-12)  # (O,)
        whole = np.rint(weight / steps[:, None, None, None]).astype(np.int8)
        name = node.output[0]
        weights = [
            self._constant(f"{name}.weight", whole),
            self._constant(f"{name}.steps", steps.astype(np.float32)),
            self._constant(f"{name}.zeros", np.zeros(len(steps), np.int8)),
        ]
        offset = self._constant(f"{name}.bias", np.rint(bias / (steps * read.step)).astype(np.int32))
        inputs = [f"{node.input[0]}.uint8", *self._constants_of(read), *weights, *self._constants_of(told), offset]
        self._add("QLinearConv", inputs, [f"{name}.uint8"])
        self.nodes[-1].attribute.extend(node.attribute)

    def _sum(self, node: onnx.NodeProto) -> None:
        """Write a sum of integers, of ONNX Runtime's own operators."""
        inputs = [part for name in node.input for part in (f"{name}.uint8", *self._constants_of(self._scale_of(name)))]
        told = self._constants_of(self._scale_of(node.output[0]))
        self._add("QLinearAdd", [*inputs, *told], [f"{node.output[0]}.uint8"], domain="com.microsoft")

    def _move(self, node: onnx.NodeProto) -> None:
        scale = self._scale_of(node.output[0])
        if node.op_type == "Relu":
            least = self._constants_of(scale)[1]
            kind, inputs = ("Clip", [least]) if scale.zero else ("Identity", [])
            self._add(kind, [f"{node.input[0]}.uint8", *inputs], [f"{node.output[0]}.uint8"])
            return
        new = onnx.NodeProto()
        new.CopyFrom(node)
        data = node.input if node.op_type == "Concat" else node.input[:1]
        new.input[: len(data)] = [self._named(name) for name in data]
        for place, name in enumerate(data):
            if name not in self.graph.inside:  # what is padded with: zeros
                new.input[place] = self._stored(name, scale)
        new.output[:] = [f"{name}.uint8" for name in node.output]
        self.nodes.append(new)

    def _stored(self, name: str, scale: Scale) -> str:
        """Return the name of a float tensor's uint8 values."""
        stored = f"{name}.{scale.step!r}"
        if stored not in self.back:
            self.back.add(stored)
            self._add("QuantizeLinear", [name, *self._constants_of(scale)], [stored])
        return stored

    def _outside(self, node: onnx.NodeProto) -> None:
        """Write a node that stays as it is; what it reads of the trunk comes back to float32, but for sizes."""
        new = onnx.NodeProto()
        new.CopyFrom(node)
        for place, name in enumerate(node.input):
            if name in self.graph.inside and name != self.graph.first:
                new.input[place] = f"{name}.uint8" if node.op_type == "Shape" else self._float(name)
        self.nodes.append(new)

    def _float(self, name: str) -> str:
        if name not in self.back:
            self.back.add(name)
            self._add("DequantizeLinear", [f"{name}.uint8", *self._constants_of(self._scale_of(name))], [name])
        return name
