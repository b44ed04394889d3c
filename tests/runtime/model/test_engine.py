"""Model files: seal, card, devices."""

import dataclasses
import json
import zipfile

import numpy as np
import onnx
import onnxruntime
import pytest

from spectraldiff_runtime.errors import DeviceError, ModelFileError
from spectraldiff_runtime.model import session
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.model.model_file import read_card, read_metadata, seal, unseal
from spectraldiff_runtime.model.oom import BatchSplitter


def test_a_sealed_file_opens_and_runs(model, card):
    assert model.card == card
    assert (model.device, model.threads, model.rectangular) == ("cpu", 1, True)
    out = model.run(np.full((3, 7, 9, 12), 500, np.float32), confidence=True, probabilities=True)
    assert (out.classes.dtype, out.classes.shape) == (np.uint8, (3, 5, 8))
    assert out.confidence.shape == (3, 5, 8)
    np.testing.assert_array_equal(out.probabilities.argmax(1) + 1, out.classes)
    np.testing.assert_allclose(out.probabilities.max(1), out.confidence)


def test_only_what_is_asked_for_is_computed(model):
    out = model.run(np.zeros((1, 7, 5, 5), np.float32))
    assert out.classes.shape == (1, 1, 1)
    assert out.confidence is None
    assert out.probabilities is None


def test_a_sealed_file_is_plain_onnx(model_path):
    data = model_path.read_bytes()
    unseal(data)
    loaded = onnx.load_from_string(data)
    onnx.checker.check_model(loaded)
    properties = {p.key: p.value for p in loaded.metadata_props}
    assert properties == read_metadata(data)
    assert set(properties) == {"spectraldiff.size", "spectraldiff.card", "spectraldiff.sha256"}
    assert int(properties["spectraldiff.size"]) == len(data)


def test_every_cut_is_noticed(model_path):
    data = model_path.read_bytes()
    for end in (0, 1, 10, 20, 30, 50, len(data) // 2, len(data) - 90, len(data) - 89, len(data) - 1):
        with pytest.raises(ModelFileError) as caught:
            unseal(data[:end])
        assert end < 21 or "cut short" in str(caught.value)


def test_every_changed_byte_is_noticed(model_path):
    data = model_path.read_bytes()
    for at in [*range(0, len(data), 97), *range(len(data) - 89, len(data))]:
        with pytest.raises(ModelFileError):
            unseal(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


@pytest.mark.parametrize("extra", [b"\0", b"\x72\x00"])
def test_appended_bytes_are_noticed(model_path, extra):
    with pytest.raises(ModelFileError, match="was changed"):
        unseal(model_path.read_bytes() + extra)


def torchscript_like() -> bytes:
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/constants.pkl", b"x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"II*\0 a tiff", "not a SpectralDiff model"),
        (b"<html>", "not a SpectralDiff model"),
        ("torchscript", "TorchScript"),
        ("onnx", "an ONNX file that SpectralDiff did not write"),
        ("saved again", r"holds a model card and is no longer sealed: .* --unsealed"),
    ],
)
def test_other_files(tmp_path, build_onnx, content, words):
    path = tmp_path / "model.onnx"
    made = {"torchscript": torchscript_like, "onnx": lambda: build_onnx(card=None), "saved again": build_onnx}
    path.write_bytes(content if isinstance(content, bytes) else made[content]())
    with pytest.raises(ModelFileError, match=words):
        Model.open(path, "cpu")


def saved_again(model_path, tmp_path):
    """Save a model file as any tool does that reads and writes ONNX."""
    path = tmp_path / "saved_again.onnx"
    onnx.save(onnx.load(model_path), path)
    return path


def test_a_file_that_a_tool_saved_again(model_path, tmp_path, cube):
    path = saved_again(model_path, tmp_path)
    with pytest.raises(ModelFileError, match="no longer sealed"):
        Model.open(path, "cpu")
    with pytest.warns(UserWarning, match="is not sealed: another tool has saved it"):
        model = Model.open(path, "cpu", threads=1, unsealed=True)
    tiles = np.ascontiguousarray(cube.transpose(2, 0, 1)[None, :, :9, :9], np.float32)
    found, wanted = (one.run(tiles, probabilities=True) for one in (model, Model.open(model_path, "cpu", threads=1)))
    np.testing.assert_array_equal(found.probabilities, wanted.probabilities)


def test_what_is_not_sealed_is_still_checked(model_path, tmp_path):
    """Damage that shows is an error; a file of ours that was cut short or changed is none that a tool saved."""
    path, data = saved_again(model_path, tmp_path), model_path.read_bytes()
    for content, words in (
        (path.read_bytes()[:-700], "SpectralDiff"),
        (data[:-5], "cut short"),
        (data + b"x", "changed"),
    ):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=words):
            Model.open(path, "cpu", unsealed=True, warn=lambda _: None)


def test_a_sealed_file_is_the_same_with_unsealed(model_path, recwarn):
    assert Model.open(model_path, "cpu", unsealed=True).card.name == "tiny"
    assert not recwarn


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ModelFileError, match=r"there is no model file .*sdiff export --out model\.onnx"):
        Model.open(tmp_path / "model.onnx")
    with pytest.raises(ModelFileError, match="is a folder"):
        Model.open(tmp_path)


def test_a_seal_around_something_else(tmp_path):
    path = tmp_path / "model.onnx"
    for payload, words in ((b"\x0a\xff", "no ONNX"), (b"", "no model card")):
        path.write_bytes(seal(payload))
        with pytest.raises(ModelFileError, match=words):
            Model.open(path, "cpu")


def test_a_graph_that_onnx_runtime_refuses(tmp_path, card):
    broken = onnx.ModelProto(ir_version=9)
    onnx.helper.set_model_props(broken, {"spectraldiff.card": card.to_json()})
    path = tmp_path / "model.onnx"
    path.write_bytes(seal(broken.SerializeToString()))
    with pytest.raises(ModelFileError, match="cannot be run"):
        Model.open(path, "cpu")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bands": 3, "fill": (1.0, 2.0, 3.0), "wavelengths": None}, "3 bands"),
        ({"classes": 3}, "3 classes"),
    ],
)
def test_a_card_that_does_not_fit_the_graph(tmp_path, build_onnx, changed_card, card, changes, words):
    if "classes" in changes:
        changes = {"classes": card.classes[:3]}
    path = tmp_path / "model.onnx"
    path.write_bytes(seal(build_onnx(changed_card(**changes))))
    with pytest.raises(ModelFileError, match=words):
        Model.open(path, "cpu")


def test_a_graph_with_other_names(tmp_path, build_onnx, card):
    graph = onnx.load_from_string(build_onnx())
    del graph.graph.output[1]
    path = tmp_path / "model.onnx"
    path.write_bytes(seal(graph.SerializeToString()))
    with pytest.raises(ModelFileError, match="wanted tile -> classes, confidence, probabilities"):
        Model.open(path, "cpu")


def test_the_card_is_read_without_a_session(model_path, card):
    assert read_card(model_path) == card


def test_cards_survive_json(card, changed_card):
    for each in (card, changed_card(wavelengths=None, accuracy=None, nodata=-9999.0)):
        assert ModelCard.from_json(each.to_json()) == each


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", 3), ("preset", None), ("features", "magic"), ("classes", []), ("classes", [{"value": 2}]),
        ("classes", [{"value": 1, "name": "a", "colour": [0, 0, 256]}]), ("bands", 0), ("bands", "7"),
        ("bands", True), ("wavelengths", [400.0]), ("wavelengths", "long"), ("halo", -1), ("halo", 2.5),
        ("nodata", "none"), ("fill", [1.0]), ("fill", [None] * 7), ("fill", None), ("accuracy", 0.9),
        ("format", 2), ("format", "1"), ("sensor", 5), ("versions", []),
    ],
)  # fmt: skip
def test_cards_are_checked(card, key, value):
    raw = {**json.loads(card.to_json()), key: value}
    with pytest.raises(ModelFileError, match=key):
        ModelCard.from_json(json.dumps(raw))


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", "{"])
def test_texts_that_are_no_cards(text):
    with pytest.raises(ModelFileError, match="card"):
        ModelCard.from_json(text)


def test_cuda_is_never_replaced(model_path):
    if session.why_cuda_unavailable() == "":
        pytest.skip("this machine has CUDA")
    with pytest.raises(DeviceError, match=r"pip install 'spectraldiff\[gpu\]'"):
        Model.open(model_path, "cuda")
    assert Model.open(model_path, "auto").device == "cpu"


def test_a_session_that_fell_back_to_the_cpu_is_noticed(model_path, monkeypatch):
    """A driver and a GPU, but no CUDA libraries: ONNX Runtime logs a line and takes the CPU."""
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(session, "why_cuda_unavailable", lambda number: "")
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda data, options, providers: real(data, options, providers=["CPUExecutionProvider"]),
    )
    with pytest.raises(DeviceError, match="libraries are missing"):
        Model.open(model_path, "cuda")
    assert Model.open(model_path, "auto").device == "cpu"


def test_threads(model_path):
    assert Model.open(model_path, "cpu").threads == session.cpu_threads() >= 1
    assert Model.open(model_path, "cpu", threads=2).threads == 2


def test_running_out_of_memory_is_said(model):
    class Session:
        def run(self, *_):
            raise RuntimeError("Failed to allocate memory for requested buffer of size 99")

    poor = dataclasses.replace(model, session=Session(), splitter=BatchSplitter())
    with pytest.raises(MemoryError, match="tiles"):
        poor.run(np.zeros((1, 7, 5, 5), np.float32))
