"""An int8 model was verified with some instructions: elsewhere, whoever maps with it is told."""

import platform

import pytest

from spectraldiff_runtime.model import instructions
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.model.instructions import int8_instructions, processor, unlike
from spectraldiff_runtime.model.model_file import seal
from tests.tiny_model import onnx_bytes

VNNI = "processor : 0\nflags\t\t: fpu avx2 avx512bw avx512_vnni\n\nprocessor : 1\nflags : fpu\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Make this processor one that the system describes so."""

    def set_to(text, machine="x86_64"):
        path = tmp_path / "cpuinfo"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(instructions, "CPU_FACTS", path)
        monkeypatch.setattr(platform, "machine", lambda: machine)

    return set_to


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (VNNI, ("AVX-512 VNNI", "AVX-512", "AVX2")),
        ("flags : fpu sse2\n", ()),
        ("Features : fp asimd asimddp\n", ("dot product of Armv8.2", "Neon")),
        ("no such line\n", ()),
        (None, ()),
    ],
)
def test_instructions_are_those_of_the_first_processor(here, text, names):
    here(text)
    assert int8_instructions() == names
    assert processor() == ", ".join(["x86_64", *names[:1]])


@pytest.mark.parametrize(
    ("verified", "text", "machine", "said"),
    [
        ("x86_64, AVX-512 VNNI", VNNI, "x86_64", ""),
        ("x86_64, AVX2", VNNI, "x86_64", ""),
        ("x86_64", None, "x86_64", ""),
        ("x86_64, AVX-512 VNNI", "flags : avx2\n", "x86_64", "this one has AVX2"),
        ("x86_64, AVX-512 VNNI", None, "x86_64", "what this one has is not known"),
        ("x86_64, AVX-512 VNNI", "Features : asimd\n", "aarch64", "this one is aarch64"),
    ],
)
def test_another_processor_is_known_as_such(here, verified, text, machine, said):
    here(text, machine)
    assert unlike(verified) == said


@pytest.mark.parametrize(("precision", "warned"), [("int8", True), ("fp32", False)])
def test_a_map_in_int8_warns_on_another_processor(
    here, changed_card, cube, write_scene, tmp_path, sdiff, precision, warned
):
    here("flags : avx2\n")
    card = changed_card(precision=precision, agreement={"processor": "x86_64, AVX-512 VNNI", "pixels": 1})
    path = tmp_path / "model.onnx"
    path.write_bytes(seal(onnx_bytes(card)))
    code, _, stderr = sdiff("map", write_scene("s.tif", cube), "--model", path, "--out", tmp_path / "c.tif")
    assert code == 0
    told = "int8, verified on a processor with x86_64, AVX-512 VNNI, and this one has AVX2: classes may differ"
    assert (told in stderr) is warned
    here(VNNI)
    said: list[str] = []
    Model.open(path, "cpu", warn=said.append)
    assert said == []
