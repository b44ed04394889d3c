"""Lower precisions: what is computed in them, how close they come, and when they are refused."""

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from spectraldiff_export import export
from spectraldiff_export.export import export_model
from spectraldiff_export.onnx_graph import trunk_nodes
from spectraldiff_export.precision import agreement
from spectraldiff_export.precision.agreement import Agreement, compare, lowered
from spectraldiff_export.precision.fp16 import halved
from spectraldiff_export.precision.int8 import PROJECTS, Scale, quantised
from spectraldiff_runtime.errors import UsageError, VerificationError
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.model.instructions import processor
from spectraldiff_runtime.model.model_file import read_card, seal


@pytest.fixture(scope="module")
def foveal(classifier_of):
    return classifier_of("foveal")


@pytest.fixture(scope="module")
def whole(graph_of):
    """The fp32 graph."""
    return graph_of("foveal")


@pytest.fixture(scope="module")
def tiles(foveal, tiles_for):
    return tiles_for(foveal, 4, 16).numpy()


@pytest.fixture(scope="module", params=["foveal", "foveal, members that read bands alone"])
def graph_and_tiles(request, classifier_of, graph_of, tiles_for):
    """The fp32 graph of a model, and tiles for it."""
    classifier = classifier_of(request.param)
    return graph_of(request.param), tiles_for(classifier, 4, 16).numpy()


def file_of(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(seal(model.SerializeToString()))
    return path


def probabilities(model: onnx.ModelProto, tiles: np.ndarray, path: Path) -> np.ndarray:
    return Model.open(file_of(model, path), "cpu").run(tiles, probabilities=True).probabilities


def test_the_trunk_is_from_the_first_convolution_to_the_projection(whole):
    trunk = trunk_nodes(list(whole.graph.node))
    convs = [node for node in trunk if node.op_type == "Conv"]
    # Two a block, and one of each skip connection but the first; the classifier's two, two of each of its
    # members and the smoothing's five are no part of it.
    assert trunk[0] == convs[0]
    assert [node.op_type for node in trunk if "/project/" in node.name and node.op_type in PROJECTS] == list(PROJECTS)
    assert len(convs) == 2 * 3 + 2 * 2 + 1
    assert sum(node.op_type == "Conv" for node in whole.graph.node) == len(convs) + 2 + 2 * 2 + 5


def test_int8_computes_the_trunk_in_integers(whole, tiles):
    operators = Counter(node.op_type for node in quantised(whole, [tiles]).graph.node)
    assert operators["QLinearConv"] == 2 * 3 + 2 * 2 + 1 - 1
    assert operators["QLinearAdd"] == 1  # what comes up, and the second skip connection
    assert operators["Conv"] == 1 + 2 + 2 * 2 + 5  # first convolution, classifier, smoothing
    # In once, for each scale of zeros that pad, and out once.
    assert operators["DequantizeLinear"] == 1


@cache
def integers_are_exact() -> bool:
    """Whether this processor adds products of 8 bits without overflow; those without VNNI add pairs in 16 bits."""
    values = {"scale": np.float32(1), "zero": np.uint8(0), "weight": np.full((1, 64, 1, 1), 127, np.int8)}
    values |= {"none": np.int8(0), "steps": np.float32(1e4)}
    inputs = ["x", "scale", "zero", "weight", "scale", "none", "steps", "zero"]
    graph = helper.make_graph(
        [helper.make_node("QLinearConv", inputs, ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, (1, 64, 16, 16))],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, (1, 1, 16, 16))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.full((1, 64, 16, 16), 255, np.uint8)})
    return bool((found == round(64 * 255 * 127 / 1e4)).all())


@pytest.mark.parametrize(("kind", "most"), [("fp16", 0.01), ("int8", 0.1)])
def test_lower_precisions_come_close(graph_and_tiles, tmp_path, kind, most):
    whole, tiles = graph_and_tiles
    if kind == "int8" and not integers_are_exact():
        most *= 2
    wanted = probabilities(whole, tiles, tmp_path / "whole.onnx")
    found = probabilities(lowered(whole, kind, tiles), tiles, tmp_path / "lower.onnx")
    error = np.abs(found - wanted)
    assert wanted.std() > 0.1
    assert 0 < error.mean() < most / 3
    assert (found.argmax(1) == wanted.argmax(1)).mean() > 1 - most


def test_fp16_holds_the_trunk_in_half_the_bytes(whole, tiles):
    halves = halved(whole)
    kinds = {t.name: t.data_type for t in halves.graph.initializer}
    for node in trunk_nodes(list(halves.graph.node)):
        if node.op_type == "Conv":
            assert {kinds[name] for name in node.input[1:]} == {TensorProto.FLOAT16}
    assert len(halves.SerializeToString()) < len(whole.SerializeToString())


def test_fp16_of_a_model_that_slides_row_by_row(classifier_of, graph_of, tiles_for, tmp_path):
    model = graph_of("paper")
    tiles = tiles_for(classifier_of("paper"), 2, 6).numpy()
    halves = halved(model)
    wanted, found = (probabilities(m, tiles, tmp_path / "model.onnx") for m in (model, halves))
    assert 0 < np.abs(found - wanted).max() < 0.05
    (scan,) = (node for node in halves.graph.node if node.op_type == "Scan")
    kinds = {tensor.data_type for tensor in scan.attribute[0].g.initializer}
    assert kinds == {TensorProto.FLOAT16, TensorProto.INT64}
    # In and out once: PyTorch's own casts would be further ones, and float32 between them.
    assert [node.op_type for node in scan.attribute[0].g.node].count("Cast") == 2


@pytest.mark.parametrize("kind", ["raw, members with a kernel alone", "raw, linear members, smoothed five times"])
def test_fp16_of_a_model_of_the_bands_alone(classifier_of, graph_of, tiles_for, tmp_path, kind):
    """Its map of the bands is its trunk; what computes shapes before it is not."""
    model, tiles = graph_of(kind), tiles_for(classifier_of(kind), 2, 20).numpy()
    exact, halves = probabilities(model, tiles, tmp_path / "a.onnx"), halved(model)
    assert any(t.data_type == onnx.TensorProto.FLOAT16 for t in halves.graph.initializer)
    assert np.abs(probabilities(halves, tiles, tmp_path / "b.onnx") - exact).max() < 0.05


def test_int8_needs_separable_convolutions(classifier_of, graph_of, tiles_for):
    model = graph_of("paper")
    with pytest.raises(VerificationError, match=r"no trunk of separable convolutions .* --precision fp32 or fp16"):
        quantised(model, [tiles_for(classifier_of("paper"), 1, 4).numpy()])


@pytest.mark.parametrize(("low", "high"), [(0.0, 3.0), (-1.0, 3.0), (0.5, 2.0), (-2.0, -1.0), (0.0, 0.0)])
def test_scales_hold_their_range_and_zero_exactly(low, high):
    scale = Scale.of(low, high)
    assert 0 <= scale.zero <= 255
    assert scale.step * (0 - scale.zero) <= low + scale.step
    assert scale.step * (255 - scale.zero) >= high - scale.step


@pytest.fixture
def exported_before(onnx_of, monkeypatch):
    """Let `export_model` take the graph of `foveal` that is there already."""

    def encode(model, card):
        return onnx_of("foveal")

    monkeypatch.setattr(export, "onnx_bytes", encode)
    monkeypatch.setitem(export._ENCODERS, ".onnx", encode)


@pytest.mark.usefixtures("exported_before")
def test_the_card_says_how_well_it_agrees(foveal, card_for, tiles_for, tmp_path):
    samples, out = tiles_for(foveal, 4, 16, 4), tmp_path / "model.onnx"
    made = export_model(foveal, card_for(foveal), samples, out, precision="fp16")
    card = read_card(out)
    assert card.precision == "fp16"
    assert card.agreement["pixels"] == 4 * 16 * 16 == made.agreement.pixels
    assert card.agreement["equal_classes"] == made.agreement.equal_classes > 0.997
    assert card.agreement["oa"] is None  # no labels were given


def test_labels_measure_the_accuracy_that_is_lost(whole, foveal, tiles, tmp_path, monkeypatch):
    path = file_of(whole, tmp_path / "whole.onnx")
    classes = Model.open(path, "cpu").run(tiles).classes.astype(np.int32)
    labels = np.where(np.arange(classes.size).reshape(classes.shape) % 2, classes, 0)
    assert compare(path, path, tiles, labels, "int8") == Agreement(1024, 1.0, 0.0, 512, 1.0, 1.0, processor())
    monkeypatch.setattr(agreement, "EQUAL_CLASSES", 0.0)
    other = file_of(quantised(whole, [tiles * 0.9]), tmp_path / "other.onnx")
    with pytest.raises(VerificationError, match=r"in int8 the model loses \d+\.\d\d points of overall accuracy on 512"):
        compare(path, other, tiles, labels, "int8")


@pytest.mark.usefixtures("exported_before")
def test_a_model_that_agrees_too_little_is_not_written(foveal, card_for, tiles_for, tmp_path, names, monkeypatch):
    monkeypatch.setattr(agreement, "EQUAL_CLASSES", 1.01)
    with pytest.raises(VerificationError, match=r"in fp16 .* same class as in fp32 at .* nothing is written"):
        export_model(foveal, card_for(foveal), tiles_for(foveal, 4, 16, 4), tmp_path / "model.onnx", precision="fp16")
    assert names() == []


def test_precisions_that_cannot_be(small, card_for, tiles_for, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "DeployedClassifier", None)  # calling it would be another error
    for name, kind, message in (
        ("m.pt", "int8", "for ONNX files"),
        ("m.onnx", "fp8", "choose one of fp32, fp16, int8"),
    ):
        with pytest.raises(UsageError, match=message):
            export_model(small, card_for(small), tiles_for(small, 2, 6), tmp_path / name, precision=kind)
