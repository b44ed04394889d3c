"""Text from files is never markup and never control, wherever it is shown."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from spectraldiff_runtime.classes import LandCoverClass, clean_name
from spectraldiff_runtime.cli import run
from spectraldiff_runtime.errors import SpectralDiffError
from spectraldiff_runtime.geotiff.class_raster import write_class_raster
from spectraldiff_runtime.messages import one_line
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.model_file import seal
from spectraldiff_runtime.untrusted import is_control, visible
from tests.runtime.hostile.kit import Kit
from tests.tiny_model import ROOT

# A title, colours, the clipboard (OSC 52), the one-byte CSI, a bell, letters backwards, and rich's markup.
ESCAPES = "\x1b]0;owned\x07\x1b[31mred\x1b]52;c;aGk=\x07\x9b2J\u202egnp\u2028"
MARKUP = ("[/]", "field[/]", "[red]x[/red]", ":smile:")
PACKAGES = ("runtime/spectraldiff_runtime", "spectraldiff", "export/spectraldiff_export")


def shown(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Run `sdiff`; return its exit code and all that a terminal would get."""
    capfd.readouterr()
    code = run([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    assert not [c for c in out + err if is_control(c) and c != "\n"], out + err
    return code, out + err


def hostile_map(kit: Kit) -> Path:
    """A class map with names of markup, and one that the file's tags give control characters."""
    names = (*MARKUP, "plain")
    classes = [LandCoverClass(i, name, (9, 9, i)) for i, name in enumerate(names, start=1)]
    values = np.arange(1, 6, dtype=np.uint8).reshape(1, 5).repeat(4, axis=0)
    path = kit.folder / "map.tif"
    write_class_raster(path, values, classes, crs="EPSG:32616", transform=(20, 0, 480000, 0, -20, 4470000))
    return path


def test_map(kit: Kit, capfd):
    card = json.loads(kit.model.card.to_json())
    card["classes"][0]["name"], card["name"] = ESCAPES, ESCAPES
    for value, name in enumerate(MARKUP[1:], start=1):
        card["classes"][value]["name"] = name
    model = kit.file("m.onnx", seal(kit.onnx(ModelCard.from_json(json.dumps(card)))))
    scene = kit.write(f"a{ESCAPES[:20]}[b].tif")
    code, text = shown(capfd, "map", scene, "--model", model, "--out", kit.out, "-v")
    assert code == 0
    for name in MARKUP[1:]:
        assert name in text
    code, text = shown(capfd, "info", model)
    assert code == 0
    assert all(name in text for name in MARKUP[1:])


def test_evaluate(kit: Kit, capfd):
    pytest.importorskip("sklearn")
    path = hostile_map(kit)
    code, text = shown(capfd, "evaluate", path, "--labels", path)
    assert code == 0
    assert all(name in text for name in MARKUP)


def test_info_of_a_raster(kit: Kit, capfd):
    path = kit.write("map.tif", np.ones((4, 5, 1), np.uint8))
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(CLASS_NAMES=json.dumps(["", ESCAPES, *MARKUP]))
    assert shown(capfd, "info", path)[0] == 0
    code, text = shown(capfd, "info", path, "--json")
    assert code == 0
    assert json.loads(text)["classes"][0]["name"] == clean_name(ESCAPES)


@pytest.mark.parametrize("name", [ESCAPES, "\x1b[2J", "a\nb"])
def test_errors_name_files_without_control_characters(capfd, name):
    code, text = shown(capfd, "info", name)
    assert code == 1
    assert len(text.splitlines()) == 1


def test_json_keeps_the_values(capfd):
    from spectraldiff_runtime.cli.options import print_json

    print_json({"name": ESCAPES + "ä"})
    out = capfd.readouterr().out
    assert not [c for c in out if is_control(c) and c != "\n"]
    assert json.loads(out) == {"name": ESCAPES + "ä"}


def test_visible_text():
    assert visible("a\x1b[2Jb\tc\nd\x9b\u202e\ud800é😀\u200d") == r"a\x1b[2Jb c d\x9b\u202e\ud800é😀" + "\u200d"
    assert one_line("a\r\nb\u2028c\x0bd\0") == r"a b c d\x00"
    assert str(SpectralDiffError(f"'{ESCAPES}'")) == f"'{visible(ESCAPES)}'"


@pytest.mark.parametrize("package", PACKAGES)
def test_commands_print_through_one_place(package):
    """`say`, `tell`, `warn` and `print_json`, and the `console` and `cell` of messages: they clean what they get."""
    allowed = {
        "echo": ("cli/options.py", "spectraldiff_runtime/cli/__init__.py"),
        "Console": ("messages.py",),
        "print": (),
    }
    found = []
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                attribute = isinstance(node.func, ast.Attribute) and node.func.attr == "echo"
                name = getattr(node.func, "id", "") if not attribute else "echo"
                if name in allowed and not str(path).endswith(allowed[name] or ("-",)):
                    found.append(f"{path}:{node.lineno}")
    assert found == []
