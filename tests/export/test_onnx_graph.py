"""The ONNX file: what is in the graph and what is not, and that ONNX Runtime computes what PyTorch does."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from spectraldiff_export.deployed import DeployedClassifier
from spectraldiff_export.onnx_graph import _joined_slices, onnx_bytes
from spectraldiff_runtime import __version__
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.model.model_file import read_card, unseal

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=["fast", "paper, concatenated bands"])
def exported(request, classifier_of, onnx_of, tmp_path_factory):
    """A classifier, and its ONNX file."""
    classifier = classifier_of(request.param)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    path.write_bytes(onnx_of(request.param))
    return classifier, path


def operators(graph: onnx.GraphProto) -> Counter[str]:
    """Count the operators of a graph and of the graphs inside it."""
    found: Counter[str] = Counter()
    for node in graph.node:
        found[node.op_type] += 1
        for attribute in node.attribute:
            found += operators(attribute.g) if attribute.HasField("g") else Counter()
    return found


def test_contract_of_inputs_and_outputs(exported):
    classifier, path = exported
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 17)]
    assert proto.ir_version == 8

    def shape(value):
        return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]

    assert {i.name: shape(i) for i in proto.graph.input} == {"tile": ["N", len(classifier.fill), "height", "width"]}
    assert {o.name: shape(o) for o in proto.graph.output} == {
        "classes": ["N", "rows", "columns"],
        "confidence": ["N", "rows", "columns"],
        "probabilities": ["N", 4, "rows", "columns"],
    }


def test_graph_holds_what_is_needed_and_no_more(exported):
    classifier, path = exported
    found, layer = operators(onnx.load(path).graph), classifier.preset.features.layer
    separable = classifier.preset.diffusion.network.resample_kernel[1] == 1
    # The stem, three for each block down, three for each block up before the tap (one of them reads the skip). Where
    # they are separable: two for each block, one more for each skip but the first. PCA and embedding are one product.
    blocks = len(classifier.preset.diffusion.network.channels)
    assert found["Conv"] == (2 * blocks + 3 * layer - 1 if separable else 1 + 3 * blocks + 3 * layer)
    assert found["ConvTranspose"] == (0 if separable else layer)
    assert found["Scan"] == 1
    assert found["LayerNormalization"] == 2 * classifier.preset.classifier.network.depth + 1
    assert found["Erf"] == classifier.preset.classifier.network.depth + 1  # of each Gelu
    assert found["Softmax"] == classifier.preset.classifier.network.depth + 1
    assert not {"BatchNormalization", "Sin", "Cos", "Dropout", "Gelu", "Loop", "If", "Constant"} & set(found)


def test_kernels_of_the_smoothing_are_stored(graph_of):
    """tract and OpenCV fail on the operators that the exporter makes of tensors that are filled in place."""
    found = operators(graph_of("foveal, linear members").graph)
    assert found["Conv"] >= 20
    assert not {"ConstantOfShape", "ScatterND", "EyeLike", "Range", "Where"} & set(found)


def test_onnx_runtime_makes_one_operator_of_each_gelu(exported, tmp_path):
    """The parts are multiplied in the order that it knows; in the exporter's own order OpenCV 5.0 crashes."""
    classifier, path = exported
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # it says that such a file is for this machine
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found = operators(onnx.load(tmp_path / "optimised.onnx").graph)
    assert found["Gelu"] + found["BiasGelu"] == classifier.preset.classifier.network.depth + 1
    assert found["Erf"] == 0


def test_card_is_inside_and_the_file_is_sealed(exported, card_for):
    classifier, path = exported
    unseal(path.read_bytes())
    assert read_card(path) == card_for(classifier)


def test_nothing_tells_where_it_was_made(exported):
    _, path = exported
    proto, data = onnx.load(path), path.read_bytes()
    assert not any(text in data for text in (str(ROOT).encode(), b"site-packages", b"torch", b".py", b"Traceback"))
    assert not any(node.doc_string or node.metadata_props for node in proto.graph.node)
    assert {prop.key for prop in proto.metadata_props} == {
        "spectraldiff.card", "spectraldiff.size", "spectraldiff.sha256",
    }  # fmt: skip


def test_it_says_what_it_is(exported, card_for):
    """For whoever opens it in a viewer: who made it, what goes in and comes out, where each node comes from."""
    classifier, path = exported
    proto, card = onnx.load(path), card_for(classifier)
    assert (proto.producer_name, proto.producer_version) == ("spectraldiff", __version__)
    assert (proto.domain, proto.model_version) == ("spectraldiff", 1)
    assert card.name in proto.doc_string
    assert f"{card.bands}, height, width" in proto.graph.doc_string
    nodes = list(proto.graph.node)
    names = [node.name for node in nodes]
    assert len(set(names)) == len(names)
    convolutions = [node.name for node in nodes if node.op_type == "Conv"]
    assert all("/trunk/" in name or "/project/" in name for name in convolutions)
    assert any(tensor.name.endswith("project.weight") for tensor in proto.graph.initializer)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in proto.graph.value_info}
    assert all(ranks[node.output[0]] == 4 for node in nodes if node.op_type == "Conv")
    assert {name for node in nodes for name in node.output} <= {*ranks, *(o.name for o in proto.graph.output)}


@torch.no_grad()
def test_onnx_runtime_agrees_at_every_size(exported, tiles_for):
    classifier, path = exported
    model, halo = Model.open(path, "cpu", threads=1), classifier.halo
    tiles = tiles_for(classifier, 3, 7)
    wanted = classifier(tiles).softmax(1).numpy()
    assert np.unique(wanted.argmax(1)).size > 1
    for count, height, width in ((1, 1, 1), (3, 7, 7), (2, 4, 7), (1, 7, 2)):
        cut = tiles[:count, :, : height + 2 * halo, : width + 2 * halo].contiguous().numpy()
        classes, confidence, probabilities, _ = model.run(cut, confidence=True, probabilities=True)
        expected = wanted[:count, :, :height, :width]
        np.testing.assert_allclose(probabilities, expected, rtol=0, atol=3e-5)
        np.testing.assert_allclose(confidence, expected.max(1), rtol=0, atol=3e-5)
        np.testing.assert_array_equal(classes, probabilities.argmax(1) + 1)


LINEAR = [
    "foveal, linear members",
    "foveal, one linear member of one pixel",
    "linear members alone",
    "raw, linear members alone, without smoothing",
]


@torch.no_grad()
@pytest.mark.parametrize("kind", LINEAR)
def test_ensembles_agree_and_are_the_same_in_tiles_and_batches(kind, classifier_of, onnx_of, tiles_for, tmp_path):
    classifier, path = classifier_of(kind), tmp_path / "model.onnx"
    path.write_bytes(onnx_of(kind))
    model, halo = Model.open(path, "cpu", threads=1), classifier.halo
    tiles = tiles_for(classifier, 2, 24)
    whole = model.run(tiles.numpy(), probabilities=True).probabilities
    wanted = classifier(tiles).softmax(1).numpy()
    assert np.unique(wanted.argmax(1)).size > 1
    assert wanted.std() > 0.1
    np.testing.assert_allclose(whole, wanted, rtol=0, atol=3e-5)
    for number, row, column, side in ((0, 0, 0, 12), (1, 12, 12, 12), (1, 5, 9, 8)):
        rows, columns = (slice(first, first + side + 2 * halo) for first in (row, column))
        tile = tiles[number : number + 1, :, rows, columns].contiguous().numpy()
        part = model.run(tile, probabilities=True).probabilities[0]
        same = whole[number, :, row : row + side, column : column + side]
        np.testing.assert_allclose(part, same, rtol=0, atol=2e-6)
        np.testing.assert_array_equal(part.argmax(0), same.argmax(0))


@pytest.mark.parametrize("kind", LINEAR[2:])
def test_a_model_of_linear_members_alone_has_no_attention(kind, graph_of):
    found = operators(graph_of(kind).graph)
    assert not {"LayerNormalization", "Erf", "Scan"} & set(found)
    assert found["Softmax"] == 1


def test_the_same_model_gives_the_same_bytes(small, small_onnx, card_for):
    assert onnx_bytes(DeployedClassifier(small), card_for(small).to_json()) == small_onnx


@pytest.mark.parametrize(("second", "joined"), [((3, 1, -1), True), ((2, 1, 3), False), ((-1, 1, -1), False)])
def test_slices_are_joined_along_different_axes_alone(second, joined):
    """Each is an axis, a start and an end; one axis twice, or under two names, is no slice that ONNX knows."""
    slices = [(2, 1, 4), second]
    parts = [
        (f"{n}{k}", [v]) for n, (a, s, e) in enumerate(slices) for k, v in (("s", s), ("e", e), ("a", a), ("t", 1))
    ]
    constants = {name: numpy_helper.from_array(np.array(value), name) for name, value in parts}
    nodes = [
        helper.make_node("Slice", ["x", "0s", "0e", "0a", "0t"], ["y"], "first"),
        helper.make_node("Slice", ["y", "1s", "1e", "1a", "1t"], ["z"], "second"),
    ]
    found, added = _joined_slices(nodes, constants, {"z"})
    assert len(found) == 2 - joined
    graph = helper.make_graph(
        found,
        "slices",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 2, 5, 6))],
        [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)],
        [*constants.values(), *added],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.arange(60, dtype=np.float32).reshape(1, 2, 5, 6)
    (z,) = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": x}
    )
    axis, start, end = second
    np.testing.assert_array_equal(
        z, x[:, :, 1:4].take(range(*slice(start, end).indices(x[:, :, 1:4].shape[axis])), axis)
    )


def test_channels_stay_in_blocks_from_one_convolution_to_the_next(onnx_of, tmp_path):
    """ONNX Runtime orders those of a trunk once, and once more those of the skip connection that is cropped."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # it says that such a file is for this machine
    onnxruntime.InferenceSession(onnx_of("fast, channels in blocks"), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    found = Counter(node.op_type for node in nodes if node.domain == "com.microsoft.nchwc")
    if not found:
        pytest.skip("this processor orders no channels in blocks")
    assert found == {"Conv": 2 * 3 + 2 * 2 + 1, "ReorderInput": 2, "ReorderOutput": 2}
