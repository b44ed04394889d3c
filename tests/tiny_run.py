"""A tiny scene, and a run trained on it, once for all workers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from spectraldiff.data.scene import LabelledScene
from spectraldiff.data.source import SceneFiles
from spectraldiff.models.presets import FAST, Preset
from spectraldiff.models.settings import replaced
from spectraldiff.training.compute import Compute
from spectraldiff.training.request import Request
from spectraldiff.training.run_folder import RunFolder, create_run, write_pixels
from spectraldiff.training.trainer import Training
from spectraldiff_runtime.classes import LandCoverClass, palette
from tests.sharing import Once

NAMES = ("Water", "Meadow", "Forest", "Bare soil")
HEIGHT, WIDTH, BANDS = 26, 31, 12


def make_scene() -> LabelledScene:
    """Four classes in quarters, each with its own smooth spectrum, noise, and a part without labels."""
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    quarter = 1 + (rows >= HEIGHT // 2) * 2 + (columns >= WIDTH // 2)
    x = np.linspace(0, 3, BANDS)
    spectra = np.stack([1500 + 800 * np.sin(x * (k + 1)) + 300 * k for k in range(len(NAMES))])
    cube = spectra[quarter - 1] + rng.normal(0, 60, (HEIGHT, WIDTH, BANDS))
    labels = np.where((rows % 13 > 1) & (columns % 15 > 1), quarter, 0).astype(np.uint8)
    classes = tuple(LandCoverClass(i, n, c) for i, (n, c) in enumerate(zip(NAMES, palette(4), strict=True), start=1))
    return LabelledScene(
        name="tiny",
        cube=cube.round().astype(np.uint16),
        labels=labels,
        classes=classes,
        wavelengths=np.linspace(450, 1000, BANDS),
        crs="EPSG:32616",
        transform=(20.0, 0.0, 500000.0, 0.0, -20.0, 4480000.0),
    )


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Give PyTorch one thread: more would only wait for each other, and sums depend on their number.

    Numba sets the number anew for all OpenMP programs of the process whenever a kernel runs.
    """
    torch.set_num_threads(1)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save figures as one pixel: drawing takes half of a short training's time, and the reports' tests draw them."""

    def save(figure: Figure, target: object, **_: object) -> None:
        Image.new("RGB", (1, 1)).save(target, "png")

    monkeypatch.setattr(Figure, "savefig", save)


@pytest.fixture(scope="session")
def tiny_scene() -> LabelledScene:
    return make_scene()


@pytest.fixture(scope="session")
def tiny_files(tiny_scene: LabelledScene, once: Once) -> tuple[Path, Path]:
    """The scene and its labels as GeoTIFFs."""

    def make(folder: Path) -> None:
        folder.mkdir()
        tiny_scene.write(folder / "scene.tif", labels=folder / "labels.tif")

    folder = once("tiny", make)
    return folder / "scene.tif", folder / "labels.tif"


@pytest.fixture(scope="session")
def tiny_preset() -> Preset:
    """The default preset's recipe with networks and steps cut down to seconds."""
    network = {"most_positions": 8, "stem_channels": 4, "channels": (6, 8)}
    return replaced(
        FAST,
        diffusion={"network": network, "steps": 25, "loop": {"batch": 4}},
        components={"most": 10, "bands": 6},
        classifier={
            "members": tuple(replace(member, window=9) for member in FAST.classifier.members),
            "network": {"width": 16, "heads": 2, "mlp": 24},
            "epochs": 15,
            "loop": {"batch": 16},
            "linear": (),
        },
        smoothing={"iterations": 2},
    )


@pytest.fixture(scope="session")
def tiny_request(tiny_files: tuple[Path, Path], tiny_preset: Preset) -> Request:
    scene, labels = map(str, tiny_files)
    return Request(tiny_preset, "per-class:10", 0, compare_raw=True, scenes=(SceneFiles(scene, (labels,)),))


@pytest.fixture(scope="session")
def tiny_run(tiny_request: Request, once: Once) -> RunFolder:
    """A finished run on the tiny scene, for reading only."""
    return RunFolder(once("tiny-fast-001", lambda path: train(tiny_request, path)))


def train(request: Request, path: Path) -> None:
    """Train as `sdiff train` does, on one thread."""
    torch.set_num_threads(1)
    scene = request.load_scene()
    split = request.make_split(scene)
    run = create_run(path)
    write_pixels(run, scene, split)
    run.write_json("run.json", request.to_json())
    Training(run, scene, split, request.preset, request.seed, Compute()).finish(request.compare_raw)
