"""What is released says the same everywhere: version, and what it depends on."""

import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
RECIPE = (ROOT / "packaging" / "recipe.yaml").read_text("utf-8")
SPEC = importlib.util.spec_from_file_location("check_wheel", ROOT / "packaging" / "check_wheel.py")
assert SPEC is not None
assert SPEC.loader is not None
check_wheel = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(check_wheel)
# What conda calls otherwise.
CONDA = {"matplotlib": "matplotlib-base", "torch": "pytorch", "onnxruntime-gpu": "onnxruntime"}
PYPI_ONLY = {"rs-fusion-datasets"}  # downloads of benchmark scenes alone


def bounds(requirements: list[str]) -> dict[str, str]:
    """Return the range of each package, by conda's names; what stands behind a semicolon is left out."""
    pairs = [re.fullmatch(r"([\w-]+)(?:\[.*\])?(.*)", text.partition(";")[0].strip()) for text in requirements]
    return {CONDA.get(pair[1], pair[1]): pair[2] for pair in pairs if pair and pair[1] not in PYPI_ONLY}


def runs() -> list[dict[str, str]]:
    """Return what each output of the recipe needs to run, but for Python and our own packages."""
    recipe = yaml.safe_load(RECIPE)
    found = []
    for output in recipe["outputs"]:
        lines = [line.partition(" ") for line in output["requirements"]["run"]]
        found.append({name: limits for name, _, limits in lines if name not in ("python", "spectraldiff")})
    return found


def test_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert yaml.safe_load(RECIPE)["context"]["version"] == PROJECT["version"] == str(citation["version"])


def test_the_recipe_needs_what_the_wheel_needs() -> None:
    mapping, training = runs()
    assert mapping == bounds(PROJECT["dependencies"])
    assert training == bounds(PROJECT["optional-dependencies"]["train"])


def test_the_image_holds_the_wheel_alone() -> None:
    lines = (ROOT / "packaging" / "Dockerfile").read_text("utf-8").splitlines()
    kept = [line for line in lines if line and not line.startswith("#")]
    assert kept[0].startswith("FROM python:3.")
    assert "COPY dist/*.whl /tmp/" in kept
    assert not [line for line in kept if "torch" in line]
    assert any(line.startswith("USER ") for line in kept)


def test_the_wheel_is_checked_out_of_reach_of_the_source_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make dist` sets PYTHONPATH to the source tree, whose packages would hide those of the wheel."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    words = "import json, os, sys; print(json.dumps([os.getcwd(), sys.path]))"
    # Without what is installed there: that may be the source tree itself.
    folder, places = json.loads(check_wheel.alone(tmp_path, sys.executable, "-S", "-c", words))
    assert Path(folder) == tmp_path
    assert str(ROOT) not in places


def test_a_python_may_be_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def alone(folder: Path, *words: str | Path) -> str:
        ran.append(words)
        return str(ROOT / "spectraldiff" / "__init__.py") if check_wheel.PLACES in words else ""

    monkeypatch.setattr(check_wheel, "alone", alone)
    with pytest.raises(SystemExit, match="wanted the packages of the wheel"):
        check_wheel.check(Path("a.whl"), sys.executable, tmp_path, Path("model.onnx"), Path("scene.tif"))
    assert ran[0] == (sys.executable, "-m", "venv", tmp_path / "environment")
