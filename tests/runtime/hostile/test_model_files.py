"""Model files with a right seal and a wrong card or graph: one line, nothing left, and never a wrong map."""

import json
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from spectraldiff_runtime.limits import BANDS, CARD_BYTES, HALO, JSON_DEPTH, MODEL_BYTES, NAME
from spectraldiff_runtime.model.model_file import seal
from tests.runtime.hostile.kit import Kit, check_refused
from tests.tiny_model import CARD

Graph = onnx.ModelProto


def card(**changes: object) -> str:
    return json.dumps({**json.loads(CARD.to_json()), **changes})


def classes(**changes: object) -> list[dict[str, object]]:
    listed = json.loads(CARD.to_json())["classes"]
    listed[0].update(changes)
    return listed


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


CARDS: dict[str, tuple[str, str]] = {
    "brackets": ("levels of brackets", "[" * 200_000),
    "nested-facts": ("levels of brackets", card(accuracy={"x": nested(JSON_DEPTH)})),
    "5000-digits": ("a number of 5,000 digits", card(nodata=0).replace('"nodata": 0', '"nodata": ' + "9" * 5000)),
    "400-digits": ("a number of 401 digits", card().replace('"workspace": null', '"workspace": 1' + "0" * 400)),
    "30-digits-as-halo": ("a number of 30 digits", card().replace('"halo": 2', '"halo": ' + "1" * 30)),
    "infinite": ("which is too large", card().replace('"workspace": null', '"workspace": 1e999')),
    "nan": ("NaN, which is no number", card().replace('"nodata": null', '"nodata": NaN')),
    "value-1.0": ("'classes' is not", card().replace('"value": 1,', '"value": 1.0,')),
    "value-true": ("'classes' is not", card().replace('"value": 1,', '"value": true,')),
    "name-too-long": ("'classes' is not", card(classes=classes(name="x" * (NAME + 1)))),
    "scene-too-long": ("'name' is not", card(name="x" * (NAME + 1))),
    "colour-of-text": ("'classes' is not", card(classes=classes(colour="red"))),
    "fill-past-float32": ("'fill' is not", card(fill=[1e39] * 7)),
    "huge-workspace": ("'workspace' is not", card(workspace=1e300)),
    "halo-past-limit": ("'halo' is not", card(halo=HALO + 1)),
    "bands-past-limit": ("'bands' is not", card(bands=BANDS + 1)),
    "wavelength-0": ("'wavelengths' is not", card(wavelengths=[0.0] * 7)),
    "negative-fwhm": ("'fwhm' is not", card(fwhm=[-1.0] * 7)),
    "accuracy-of-text": ("'accuracy' is not", card(accuracy={"oa": "high"})),
    "processor-of-no-text": ("'agreement' is not", card(precision="int8", agreement={"processor": 5})),
    "processor-too-long": ("'agreement' is not", card(precision="int8", agreement={"processor": "x" * (NAME + 1)})),
    "bounds-past-the-pole": ("'bounds' is not", card(bounds=[0, 0, 1, 91])),
    "three-bounds": ("'bounds' is not", card(bounds=[0, 0, 1])),
    "pixels-of-no-size": ("'pixel_size' is not", card(pixel_size=[20, 0])),
    "licence-too-long": ("'licence' is not", card(licence="x" * (NAME + 1))),
    "names-of-other-bands": ("7 bands and 2 values in 'band_names'", card(band_names=["a", "b"])),
    "versions-of-lists": ("'versions' is not", card(versions={"onnx": [1]})),
    "format-true": ("card of format True", card(format=True)),
    "format-of-text": ("card of format 2222", card(format="2" * 100_000)),
    "halo-0": ("its card, with a halo of 0, wants", card(halo=0)),
    "halo-less": ("its card, with a halo of 1, wants", card(halo=1)),
    "halo-more": ("its card, with a halo of 3, wants", card(halo=3)),
    "card-too-large": ("bytes of metadata", card(versions={"a": "x" * CARD_BYTES})),
}


@pytest.mark.parametrize("case", CARDS)
def test_cards(kit: Kit, sdiff_map, listing, case):
    words, text = CARDS[case]
    model = kit.file("model.onnx", seal(with_card(plain(kit), text)))
    check_refused(kit, sdiff_map, listing, [kit.write(), "--model", model], 1, words)


def plain(kit: Kit) -> Graph:
    return onnx.load_model_from_string(kit.onnx(card=None))


def with_card(graph: Graph, text: str) -> bytes:
    entry = graph.metadata_props.add()
    entry.key, entry.value = "spectraldiff.card", text
    return graph.SerializeToString()


def whole(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def changed(output: str, nodes: list[onnx.NodeProto], *constants: onnx.TensorProto) -> Callable[[Graph], None]:
    """Rename an output to 'was' and add nodes that make it anew."""

    def change(model: Graph) -> None:
        graph = model.graph
        for node in graph.node:
            node.output[:] = ["was" if name == output else name for name in node.output]
            node.input[:] = ["was" if name == output else name for name in node.input]
        graph.node.extend(nodes)
        graph.initializer.extend(constants)

    return change


def before(nodes: list[onnx.NodeProto], *constants: onnx.TensorProto) -> Callable[[Graph], None]:
    """Add nodes before all others that make 'more', which is added to the tile."""

    def change(model: Graph) -> None:
        graph, old = model.graph, list(model.graph.node)
        old[0].input[0] = "with_more"
        del graph.node[:]
        graph.node.extend([*nodes, helper.make_node("Add", ["tile", "more"], ["with_more"]), *old])
        graph.initializer.extend(constants)

    return change


def first_class(value: int) -> Callable[[Graph], None]:
    def change(model: Graph) -> None:
        one = next(tensor for tensor in model.graph.initializer if tensor.name == "one")
        one.CopyFrom(numpy_helper.from_array(np.array(value, np.int64), "one"))

    return change


def loop(model: Graph) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    times = numpy_helper.from_array(np.array(2**62, np.int64), "times")
    before([helper.make_node("Loop", ["times", "", "tile"], ["more"], body=body)], times)(model)


def elsewhere(model: Graph) -> None:
    tensor = model.graph.initializer[2]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def function(model: Graph) -> None:
    model.functions.add(name="f", domain="x")


def sparse(model: Graph) -> None:
    model.graph.sparse_initializer.add()


GRAPHS: dict[str, tuple[str, Callable[[Graph], None]]] = {
    "class-above-k": ("gives 5 as 'classes'", first_class(2)),
    "class-0": ("gives 0 as 'classes'", first_class(0)),
    "confidence-7": (
        "gives 7",
        changed(
            "confidence",
            [helper.make_node("Add", ["was", "seven"], ["confidence"])],
            numpy_helper.from_array(np.array(7, np.float32), "seven"),
        ),
    ),
    "negative-confidence": ("gives -", changed("confidence", [helper.make_node("Neg", ["was"], ["confidence"])])),
    "one-pixel": (
        "its card, with a halo of 2, wants",
        changed(
            "classes",
            [helper.make_node("Slice", ["was", "z", "o", "ax"], ["classes"])],
            whole("z", 0, 0),
            whole("o", 1, 1),
            whole("ax", 1, 2),
        ),
    ),
    "twice-as-high": (
        "its card, with a halo of 2, wants",
        changed("classes", [helper.make_node("Concat", ["was", "was"], ["classes"], axis=1)]),
    ),
    "transposed-confidence": (
        "'confidence' of shape",
        changed("confidence", [helper.make_node("Transpose", ["was"], ["confidence"], perm=[0, 2, 1])]),
    ),
    "a-run-that-fails": (
        "fails in its Reshape",
        changed("confidence", [helper.make_node("Reshape", ["was", "rs"], ["confidence"])], whole("rs", 7, 7, 7)),
    ),
    "8-gigabytes": (
        "not enough memory (inference on tiles",
        before(
            [
                helper.make_node("Expand", ["tile", "many"], ["copies"]),
                helper.make_node("ReduceMax", ["copies", "first"], ["more"]),
            ],
            whole("many", 2_000_000, 1, 1, 1),
            whole("first", 0),
        ),
    ),
    "8-gigabytes-of-a-constant": (
        "not enough memory",
        before(
            [
                helper.make_node("ConstantOfShape", ["many"], ["zeros"]),
                helper.make_node("ReduceMax", ["zeros", "first"], ["more"]),
            ],
            whole("many", 2_000_000_000, 1, 1, 1),
            whole("first", 0),
        ),
    ),
    "loop": ("a graph inside its graph ('Loop')", loop),
    "random": ("random numbers", before([helper.make_node("RandomNormalLike", ["tile"], ["more"])])),
    "other-domain": (
        "operator 'Gelu' of 'com.microsoft'",
        before([helper.make_node("Gelu", ["tile"], ["more"], domain="com.microsoft")]),
    ),
    "weights-elsewhere": ("keeps weights in other files", elsewhere),
    "function": ("has functions", function),
    "sparse": ("sparse weights", sparse),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_graphs(kit: Kit, sdiff_map, listing, case):
    words, change = GRAPHS[case]
    graph = plain(kit)
    change(graph)
    model = kit.file("model.onnx", seal(with_card(graph, card())))
    # A tile that is no square, so that a transposed output has another shape.
    arguments = [kit.write(), "--model", model, "--window", "0", "0", "12", "9"]
    check_refused(kit, sdiff_map, listing, arguments, 1, words)


BYTES: dict[str, tuple[str, bytes]] = {
    "endless-number": ("a number does not end", b"\x72" + b"\xff" * 10**6),
    "many-fields": ("more than 100,000 fields", b"\x72\x00" * 200_000),
    "field-past-the-end": ("runs past the end", b"\x72\x7f"),
    "metadata-of-no-text": ("no ONNX model", b"\x72\x04\x0a\x02\xff\xfe"),
}


@pytest.mark.parametrize("case", BYTES)
def test_bytes(kit: Kit, sdiff_map, listing, case):
    words, payload = BYTES[case]
    check_refused(kit, sdiff_map, listing, [kit.write(), "--model", kit.file("model.onnx", seal(payload))], 1, words)


@pytest.mark.parametrize(("size", "words"), [(3 * 10**9, "not a SpectralDiff model file"), (MODEL_BYTES + 1, "")])
def test_large_files_are_not_read_before_their_first_bytes(kit: Kit, sdiff_map, listing, monkeypatch, size, words):
    """Scene and model swapped; and a head of ours that names more than a model may have."""
    path = kit.folder / "model.onnx"
    path.write_bytes(b"" if words else b"\x72\x29\x0a\x11spectraldiff.size\x12\x14" + b"%020d" % size)
    with path.open("r+b") as file:
        file.truncate(size)  # sparse: it takes no room

    from spectraldiff_runtime.model import model_file

    monkeypatch.setattr(model_file.hashlib, "sha256", None)  # nothing is computed of it
    monkeypatch.setattr(type(path), "read_bytes", None)
    code, lines = sdiff_map([kit.write(), "--model", path])
    assert (code, len(lines)) == (1, 1)
    assert (words or "wanted a model file of at most 2,147,483,647") in lines[0]


def test_names_at_the_limit_are_taken(kit: Kit, sdiff_map):
    text = card(name="x" * NAME, classes=classes(name="y" * NAME), accuracy={"x": nested(JSON_DEPTH - 2)})
    model = kit.file("model.onnx", seal(with_card(plain(kit), text)))
    assert sdiff_map([kit.write(), "--model", model]) == (0, [])


def test_control_characters_in_a_card_go(kit: Kit):
    from spectraldiff_runtime.model.card import ModelCard

    read = ModelCard.from_json(card(name="\x1b]0;owned\x07a\ud800b", classes=classes(name="\x1b[2Jx\u202ey")))
    assert (read.name, read.classes[0].name) == ("]0;ownedab", "[2Jxy")
