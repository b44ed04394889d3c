"""Checks a wheel as a user has it: a clean environment of each Python, no PyTorch, and a map that is the right one.

    python packaging/check_wheel.py dist/spectraldiff-0.1.0-py3-none-any.whl --python python3.11 python3.12 python3.13

Run it in the repository's root, with the development environment: it makes the model and the scene, and maps them too.
`--sbom` also writes what each environment holds, as CycloneDX (cyclonedx-bom must be installed).
"""

import argparse
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


def write_inputs(folder: Path) -> tuple[Path, Path]:
    """Write a small model file and a scene of random numbers."""
    model, scene = folder / "model.onnx", folder / "scene.tif"
    model.write_bytes(seal(onnx_bytes()))
    values = np.random.default_rng(0).normal(size=(BANDS, 60, 80)).astype(np.float32)
    profile = {"driver": "GTiff", "height": 60, "width": 80, "count": BANDS, "dtype": "float32", "crs": "EPSG:32616"}
    with rasterio.open(scene, "w", transform=UTM, **profile) as dataset:
        dataset.write(values)
    return model, scene


def check(wheel: Path, python: str, folder: Path, sbom: Path | None) -> str:
    """Install the wheel into a new environment, map with it, and compare; return one line on it."""
    home = folder / python
    subprocess.run([python, "-m", "venv", home], check=True)
    program = home / "bin" / "python"
    subprocess.run([program, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel], check=True)
    told = subprocess.run([program, "-c", MISSING], check=True, capture_output=True, text=True).stdout.split()
    if told:
        raise SystemExit(f"{python}: the wheel alone installs {', '.join(told)}: wanted none of them")
    model, scene = write_inputs(folder)
    out = folder / f"{python}.tif"
    sdiff = home / "bin" / "sdiff"
    for line in (["--version"], ["info", model], ["map", scene, "--model", model, "--out", out, "--quiet"]):
        subprocess.run([sdiff, *line], check=True, stdout=subprocess.DEVNULL)
    with rasterio.open(out) as dataset:
        found = dataset.read(1)
    wanted = map_scene(Model.open(model, "cpu"), scene).classes
    assert wanted is not None
    if not np.array_equal(found, wanted):
        raise SystemExit(f"{python}: {np.count_nonzero(found != wanted):,} pixels of the map differ: wanted none")
    if sbom is not None:
        line = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-file"]
        subprocess.run([*line, sbom / f"sbom-{python}.json", program], check=True)
    version = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    return f"{version}: installed, {found.size:,} pixels mapped, all equal"


def main() -> None:
    """Check one wheel with each Python."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--python", nargs="+", default=["python3"])
    parser.add_argument("--sbom", type=Path, help="folder for the lists of what is installed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for python in options.python:
            print(check(options.wheel.resolve(), python, Path(folder), options.sbom))


if __name__ == "__main__":
    main()
