"""The card and the sealed file: read, or refused with one line, whatever they hold."""

import json

import onnx
from hypothesis import example, given
from hypothesis import strategies as st

from spectraldiff_runtime.errors import ModelFileError
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.graph_check import check_operators
from spectraldiff_runtime.model.model_file import parse_card, seal, unseal
from spectraldiff_runtime.untrusted import parse_json
from tests.fuzz.inputs import JSON, TEXTS, check_line
from tests.tiny_model import CARD, onnx_bytes

KEYS = st.sampled_from(sorted(json.loads(CARD.to_json())))
FILE = seal(onnx_bytes())


@given(st.dictionaries(KEYS, JSON, max_size=3), st.none() | KEYS)
@example({"format": True}, None)
@example({"accuracy": {"oa": "\x1b"}}, None)
@example({"classes": [{"value": 1.0, "name": "a", "colour": [0, 0, 0]}]}, None)
def test_cards(changes, without):
    raw = {**json.loads(CARD.to_json()), **changes}
    raw.pop(without, None)
    try:
        card = ModelCard.from_json(json.dumps(raw))
    except ModelFileError as error:
        check_line(error)
        return
    assert ModelCard.from_json(card.to_json()) == card
    assert [c.value for c in card.classes] == list(range(1, len(card.classes) + 1))
    assert len(card.fill) == card.bands


@given(st.text(max_size=60) | JSON.map(json.dumps))
@example("[" * 100_000)
@example("9" * 5000)
@example('{"a": NaN}')
def test_json(text):
    try:
        value = parse_json(text)
    except ValueError:
        return
    assert json.loads(json.dumps(value)) == value


@given(
    st.lists(st.tuples(st.integers(0, len(FILE) - 1), st.integers(1, 255)), min_size=1, max_size=3), st.integers(0, 200)
)
def test_changed_files_are_refused(changes, cut):
    data = bytearray(FILE)
    for at, bits in changes:
        data[at] ^= bits
    if bytes(data) == FILE and not cut:
        return
    try:
        unseal(bytes(data[: len(data) - cut]))
    except ModelFileError as error:
        check_line(error)
        return
    raise AssertionError("a changed file was taken")


@given(
    st.binary(max_size=80)
    | st.lists(st.tuples(st.integers(0, len(FILE) - 200), st.binary(min_size=1, max_size=4)), max_size=4)
)
@example(b"\x72" + b"\xff" * 1000)
@example(b"\x72\x00" * 200_000)
@example(b"\x3a\x02\x0a\x7f")
def test_graphs_in_sealed_files(payload):
    """Bytes of any kind, or those of a graph with some of them replaced: no ONNX library sees what is refused."""
    if not isinstance(payload, bytes):
        data = bytearray(onnx_bytes())
        for at, piece in payload:
            data[at % len(data) : at % len(data) + len(piece)] = piece
        payload = bytes(data)
    sealed = seal(payload)
    try:
        parse_card(sealed, "m.onnx")
        check_operators(sealed, "'m.onnx'")
    except ModelFileError as error:
        check_line(error)


@given(TEXTS)
def test_names_of_operators(name):
    """An operator that is no ONNX operator reaches ONNX Runtime by its name alone, which says no."""
    graph = onnx.load_model_from_string(onnx_bytes())
    try:
        graph.graph.node[0].op_type = name
    except (UnicodeEncodeError, ValueError):  # protobuf takes no halves of surrogate pairs
        return
    try:
        check_operators(graph.SerializeToString(), "'m.onnx'")
    except ModelFileError as error:
        check_line(error)
