"""Keep the CPU's blocked channel layout across reshapes.

For its fastest convolutions ONNX Runtime orders channels in blocks, and back again before every other node.  Our graphs
reshape one tensor in turn to images of the spectrum and images of space, which changes no order in either layout.
ONNX Runtime does not know that, and reorders the largest tensors of the network twice for each reshape.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime

_DOMAIN = "com.microsoft.nchwc"
# Channels that every processor's blocks divide: they hold 8 or 16.
_BLOCK = 16


def optimised(data: bytes, options: Any) -> bytes:
    """Return the graph as ONNX Runtime itself would run it on this processor, without reordering around views.

    The result computes the same to the last bit. It is for this process only, and for sessions that optimise nothing
    any more.

    Parameters
    ----------
    options
        ONNX Runtime's ``SessionOptions``; where they write the graph is changed.

    Raises
    ------
    Exception
        The graph cannot be written, or ONNX Runtime does not accept the model: its errors do not tell which.
    """
    import onnx  # not needed on a GPU

    with _scratch_file() as path:
        Path(path).write_bytes(data)  # about as large as the graph, and the error says why there is no room for it
        options.optimized_model_filepath = path
        onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        model = onnx.load(path)
    drop_reordering(model.graph)
    return bytes(model.SerializeToString())


@contextmanager
def _scratch_file() -> Iterator[str]:
    """Yield the path of a file for a moment: in memory where the system has such files, else in its temporary folder.

    ONNX Runtime writes graphs to paths only. A full or read-only disk does not matter to files in memory.
    """
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryDirectory() as folder:
            yield str(Path(folder) / "optimised.onnx")
        return
    file = os.memfd_create("optimised.onnx")
    try:
        yield f"/proc/self/fd/{file}"
    finally:
        os.close(file)


def drop_reordering(graph: Any) -> int:
    """Join convolutions whose tensors are only reshaped between them; return how many reshaped tensors that were.

    Batch and channels come first in either layout, (N, C, ...) and (N, C / block, ..., block). So what splits or joins
    the dimensions after them is the same reshaping in both, as ONNX Runtime counts dimensions.

    Parameters
    ----------
    graph
        An optimised ``onnx.GraphProto``, which is changed.
    """
    made = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    wanted = {
        node.input[0]: weights[node.input[1]][1]
        for node in graph.node
        if (node.domain, node.op_type) == (_DOMAIN, "Conv") and node.input[1] in weights
    }
    joined = 0
    for node in list(graph.node):
        if (node.domain, node.op_type) != (_DOMAIN, "ReorderInput"):
            continue
        views, start = [], made.get(node.input[0])
        while start is not None and start.op_type == "Reshape":
            views.append(start)
            start = made.get(start.input[0])
        if not views or start is None or (start.domain, start.op_type) != (_DOMAIN, "ReorderOutput"):
            continue
        channels = next(a.i for a in start.attribute if a.name == "channels")
        if channels % _BLOCK or wanted.get(node.output[0]) != channels:
            continue
        # One view is enough: the last one's shape is the convolution's.
        node.domain, node.op_type = "", "Reshape"
        node.ClearField("attribute")
        del node.input[:]
        node.input.extend([start.input[0], views[0].input[1]])
        joined += 1
    _drop_unused(graph)
    return joined


def _drop_unused(graph: Any) -> None:
    """Remove the nodes whose results nothing reads."""
    used = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):  # they are in order: what reads a result comes after it
        if used.intersection(node.output):
            used.update(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
