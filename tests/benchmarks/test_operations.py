"""Operations of tiny graphs against numbers worked out by hand."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.roofline.operations import Count, Event, count, operations, read_events, record, total

CPU = ["CPUExecutionProvider"]
FLOAT = TensorProto.FLOAT


def constant(name, *shape, dtype=np.float32):
    return numpy_helper.from_array(np.ones(shape, dtype), name)


def graph_bytes(nodes, constants, shape, out="y", kind=FLOAT, made=FLOAT):
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(out, made, None)],
        constants,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def counted(nodes, constants, shape, dtype=np.float32, **more) -> Count:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return count(graph_bytes(nodes, constants, shape, kind=kind, **more), {"x": np.ones(shape, dtype)}, CPU)


def node(operator, inputs, name="n", **attributes):
    return helper.make_node(operator, inputs, ["y"], name=name, **attributes)


def test_a_convolution_with_stride_padding_and_groups():
    found = counted([node("Conv", ["x", "w"], strides=[2, 2], pads=[1, 1, 1, 1], group=2)],
                    [constant("w", 8, 3, 3, 3)], (1, 6, 9, 11))  # fmt: skip
    # out (1, 8, 5, 6): each value is the sum of 3 x 3 x 3 products
    assert found.operations == 2 * 8 * 5 * 6 * 27
    assert found.by_precision() == {"float32": found.operations}
    assert found.bytes == 4 * (6 * 9 * 11 + 8 * 3 * 3 * 3 + 8 * 5 * 6)


def test_a_convolution_in_three_dimensions():
    found = counted([node("Conv", ["x", "w"])], [constant("w", 4, 1, 5, 3, 3)], (2, 1, 9, 7, 6))
    assert found.operations == 2 * (2 * 4 * 5 * 5 * 4) * 45


def test_a_transposed_convolution():
    found = counted([node("ConvTranspose", ["x", "w"], strides=[2, 2])], [constant("w", 3, 5, 2, 2)], (1, 3, 4, 6))
    # each of 3 x 4 x 6 values is multiplied into 5 x 2 x 2
    assert found.operations == 2 * 72 * 20


@pytest.mark.parametrize(
    ("operator", "weights", "shape", "attributes", "wanted"),
    [
        ("MatMul", (5, 7), (2, 3, 5), {}, 2 * 2 * 3 * 7 * 5),
        ("MatMul", (2, 5, 7), (2, 3, 5), {}, 2 * 2 * 3 * 7 * 5),
        ("MatMul", (5,), (3, 5), {}, 2 * 3 * 5),
        ("MatMul", (5, 7), (5,), {}, 2 * 5 * 7),
        ("Gemm", (5, 7), (3, 5), {}, 2 * 3 * 7 * 5),
        ("Gemm", (7, 5), (5, 3), {"transA": 1, "transB": 1}, 2 * 3 * 7 * 5),
        ("Einsum", (5, 7), (2, 3, 5), {"equation": "abk, kn -> abn"}, 2 * 2 * 3 * 5 * 7),
    ],
)
def test_products(operator, weights, shape, attributes, wanted):
    assert counted([node(operator, ["x", "w"], **attributes)], [constant("w", *weights)], shape).operations == wanted


def test_an_attention_of_queries_keys_and_values():
    attention = node("MultiHeadAttention", ["x", "k", "v"], domain="com.microsoft", num_heads=2)
    found = counted([attention], [constant("k", 1, 9, 8), constant("v", 1, 9, 6)], (1, 4, 8))
    assert found.operations == 2 * (4 * 9 * 8 + 4 * 9 * 6)


def test_an_attention_that_projects_its_input():
    attention = node("Attention", ["x", "w", "b"], domain="com.microsoft", num_heads=2)
    found = counted([attention], [constant("w", 8, 24), constant("b", 24)], (1, 5, 8))
    assert found.operations == 2 * (5 * 8 * 24) + 2 * (5 * 5 * 8) * 2


def test_an_integer_product():
    product = node("MatMulInteger", ["x", "w"])
    found = counted([product], [constant("w", 5, 7, dtype=np.int8)], (3, 5), np.uint8, made=TensorProto.INT32)
    assert found.by_precision() == {"int8": 2 * 3 * 5 * 7}


def test_a_product_between_quantisers_is_one_of_integers():
    constants = [
        numpy_helper.from_array(np.ones((5, 7), np.int8), "q"), numpy_helper.from_array(np.float32(0.1), "s"),
        numpy_helper.from_array(np.uint8(3), "z"), numpy_helper.from_array(np.int8(0), "z8"),
    ]  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], name="d"),
        helper.make_node("DequantizeLinear", ["q", "s", "z8"], ["wd"], name="e"),
        node("MatMul", ["xd", "wd"]),
    ]
    assert counted(nodes, constants, (3, 5)).by_precision() == {"int8": 2 * 3 * 5 * 7}


def test_other_nodes_count_their_values_and_moves_none():
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], name="t", perm=[1, 0]),
        helper.make_node("Identity", ["t"], ["i"], name="i"),
        node("Softmax", ["i"]),
    ]
    found = counted(nodes, [], (3, 4))
    assert (found.operations, found.others) == (0, 12)
    assert found.bytes == 2 * (2 * 12 * 4)  # the transposition and the softmax, not the view


def test_the_body_of_a_scan_counts_once_a_turn():
    body = helper.make_graph(
        [helper.make_node("MatMul", ["row", "w"], ["made"], name="inner"),
         helper.make_node("Identity", ["state"], ["kept"], name="keep")],
        "body",
        [helper.make_tensor_value_info("state", FLOAT, (1,)), helper.make_tensor_value_info("row", FLOAT, (3, 5))],
        [helper.make_tensor_value_info("kept", FLOAT, (1,)), helper.make_tensor_value_info("made", FLOAT, (3, 7))],
    )  # fmt: skip
    scan = helper.make_node("Scan", ["s0", "x"], ["last", "y"], name="scan", body=body, num_scan_inputs=1)
    found = counted([scan], [constant("s0", 1), constant("w", 5, 7)], (11, 3, 5))
    assert found.operations == 11 * 2 * 3 * 5 * 7
    assert {n.name: n.runs for n in found.nodes} == {"inner": 11, "keep": 11}


def test_the_same_for_the_joined_graph():
    """ONNX Runtime joins a convolution with what follows: another node, as many operations."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="c"), node("Relu", ["c"])]
    data = graph_bytes(nodes, [constant("w", 16, 4, 3, 3)], (1, 4, 8, 8))
    entries = record(data, {"x": np.ones((1, 4, 8, 8), np.float32)}, CPU, packed=False, runs=3)
    assert total(read_events(entries)).operations == 3 * 2 * 16 * 36 * 36


def test_what_cannot_be_told_is_refused():
    with pytest.raises(ValueError, match="does not tell input 1 of Conv 'c'"):
        operations(Event("c", "Conv", "float", ((1, 2, 3, 3),), ((1, 2, 3, 3),), 0, 0.0))
    with pytest.raises(ValueError, match="cannot count Einsum 'e'"):
        operations(Event("e", "Einsum", "float", ((2,), (2,), (2,)), ((2,),), 0, 0.0))


def test_the_file_is_counted_as_it_is():
    """Not as ONNX Runtime would join its nodes."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="c"), node("Relu", ["c"])]
    found = counted(nodes, [constant("w", 16, 4, 3, 3)], (1, 4, 8, 8))
    assert [n.operator for n in found.nodes] == ["Conv", "Relu"]
    assert found.others == 16 * 36
