"""Checks a wheel as a user has it: a clean environment of each Python, no PyTorch, and a map that is the right one.

    python packaging/check_wheel.py dist/spectraldiff-0.1.0-py3-none-any.whl --python python3.11 python3.12 python3.13
    python packaging/check_wheel.py dist/*.whl --model demo/model.onnx --scene demo/scene.tif

Run it in the repository's root, with the development environment: it makes the model and the scene, unless they are
given, and maps them too. `--sbom` also writes what each environment holds, as CycloneDX (cyclonedx-bom must be
installed).
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import rasterio

from spectraldiff_runtime import Model, map_scene
from spectraldiff_runtime.model.model_file import seal
from tests.tiny_model import BANDS, UTM, onnx_bytes

MISSING = "import importlib.util as u; print(*[n for n in ('torch', 'sklearn', 'scipy') if u.find_spec(n)])"
PLACES = "import spectraldiff as a, spectraldiff_runtime as b; print(a.__file__, b.__file__)"


def write_inputs(folder: Path) -> tuple[Path, Path]:
    """Write a small model file and a scene of random numbers."""
    model, scene = folder / "model.onnx", folder / "scene.tif"
    model.write_bytes(seal(onnx_bytes()))
    values = np.random.default_rng(0).normal(size=(BANDS, 60, 80)).astype(np.float32)
    profile = {"driver": "GTiff", "height": 60, "width": 80, "count": BANDS, "dtype": "float32", "crs": "EPSG:32616"}
    with rasterio.open(scene, "w", transform=UTM, **profile) as dataset:
        dataset.write(values)
    return model, scene


def alone(folder: Path, *words: str | Path) -> str:
    """Run a program in a folder, out of reach of the source tree; return what it prints."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(words, cwd=folder, env=kept, check=True, stdout=subprocess.PIPE, text=True).stdout


def check(wheel: Path, python: str, folder: Path, model: Path, scene: Path) -> str:
    """Install the wheel into a new environment in `folder`, map with it, and compare; return one line on it."""
    home = folder / "environment"
    alone(folder, python, "-m", "venv", home)
    program, sdiff = home / "bin" / "python", home / "bin" / "sdiff"
    alone(folder, program, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    told = alone(folder, program, "-c", MISSING).split()
    if told:
        raise SystemExit(f"{python}: the wheel alone installs {', '.join(told)}: wanted none of them")
    places = alone(folder, program, "-c", PLACES).split()
    if outside := [place for place in places if not Path(place).is_relative_to(home)]:
        raise SystemExit(f"{python}: {', '.join(outside)} is used: wanted the packages of the wheel")
    out = folder / "classes.tif"
    alone(folder, sdiff, "--version")
    alone(folder, sdiff, "info", model)
    alone(folder, sdiff, "map", scene, "--model", model, "--out", out, "--quiet")
    with rasterio.open(out) as dataset:
        found = dataset.read(1)
    wanted = map_scene(Model.open(model, "cpu"), scene).classes
    assert wanted is not None
    if not np.array_equal(found, wanted):
        raise SystemExit(f"{python}: {np.count_nonzero(found != wanted):,} pixels of the map differ: wanted none")
    version = alone(folder, program, "--version").strip()
    return f"{version}: installed, {found.size:,} pixels mapped, all equal"


def write_sbom(folder: Path, out: Path) -> None:
    """Write what the environment in `folder` holds."""
    line = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-file", out]
    subprocess.run([*line, folder / "environment" / "bin" / "python"], check=True)


def main() -> None:
    """Check one wheel with each Python."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--python", nargs="+", default=["python3"], help="names or paths of programs")
    parser.add_argument("--model", type=Path, help="a model file; a small one by default")
    parser.add_argument("--scene", type=Path, help="a scene for it")
    parser.add_argument("--sbom", type=Path, help="folder for the lists of what is installed")
    options = parser.parse_args()
    if (options.model is None) != (options.scene is None):
        parser.error("give --model and --scene together")
    for python in options.python:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name).resolve()
            given = (options.model.resolve(), options.scene.resolve()) if options.model else write_inputs(folder)
            print(check(options.wheel.resolve(), python, folder, *given), flush=True)
            if options.sbom is not None:
                write_sbom(folder, options.sbom / f"sbom-{Path(python).name}.json")


if __name__ == "__main__":
    main()
