"""A tiny but real model, and scenes in every layout."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import rasterio
from onnx import TensorProto, helper, numpy_helper

from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.cli import run as run_sdiff
from spectraldiff_runtime.gdal import quiet_gdal
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.model.model_file import CARD_KEY, seal

BANDS, CLASSES, HALO = 7, 4, 2
ROOT = Path(__file__).parents[1]
UTM = rasterio.Affine(20.0, 0.0, 480_000.0, 0.0, -20.0, 4_470_000.0)

CARD = ModelCard(
    name="tiny",
    preset="fast",
    features="diffusion",
    classes=(
        LandCoverClass(1, "Corn & maize", (230, 25, 75)),
        LandCoverClass(2, "Wälder", (60, 180, 75)),
        LandCoverClass(3, "Water", (0, 130, 200)),
        LandCoverClass(4, "Stone <steel>", (170, 110, 40)),
    ),
    bands=BANDS,
    wavelengths=tuple(400.0 + 50.0 * b for b in range(BANDS)),
    halo=HALO,
    nodata=None,
    fill=tuple(500.0 + b for b in range(BANDS)),
    sensor="test",
    accuracy={"split": "paper", "seed": 0, "train_pixels": 10, "test_pixels": 90, "oa": 0.9, "aa": 0.8, "kappa": 0.7},
    versions={"spectraldiff": "0.1.0"},
)


def onnx_bytes(
    card: ModelCard | None = CARD,
    spatial: tuple[str, str] = ("height", "width"),
    classes: int = CLASSES,
    outside: bool = False,
) -> bytes:
    """Per-band affine, two valid 3 x 3 convolutions, a 1 x 1, softmax: a receptive field of 5 x 5.

    With `outside`, the percentage that the confidence lacks is a fourth output.
    """
    rng = np.random.default_rng(0)
    kind = TensorProto.UINT8 if classes <= 254 else TensorProto.INT32

    def weights(name: str, *shape: int) -> Any:
        scale = 1.0 / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array((rng.standard_normal(shape) * scale).astype(np.float32), name)

    constants = [
        numpy_helper.from_array(np.full((1, BANDS, 1, 1), 1 / 250, np.float32), "scale"),
        numpy_helper.from_array(np.full((1, BANDS, 1, 1), -2, np.float32), "offset"),
        weights("w1", 6, BANDS, 3, 3), weights("w2", 5, 6, 3, 3), weights("w3", classes, 5, 1, 1),
        numpy_helper.from_array(np.array(1, np.int64), "one"),
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
        numpy_helper.from_array(np.array(6, np.float32), "sharpness"),
    ]  # fmt: skip
    nodes = [
        helper.make_node("Mul", ["tile", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["centred"]),
        helper.make_node("Conv", ["centred", "w1"], ["c1"]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Conv", ["r2", "w3"], ["c3"]),
        helper.make_node("Mul", ["c3", "sharpness"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["index"], axis=1, keepdims=0),
        helper.make_node("Add", ["index", "one"], ["value"]),
        helper.make_node("Cast", ["value"], ["classes"], to=kind),
        helper.make_node("ReduceMax", ["probabilities", "axis"], ["confidence"], keepdims=0),
    ]
    inner = [f"{name}_out" for name in spatial]
    more = []
    if outside:
        constants += [numpy_helper.from_array(np.array(value, np.float32), f"{value:g}") for value in (1, 100)]
        nodes += [
            helper.make_node("Sub", ["1", "confidence"], ["doubt"]),
            helper.make_node("Mul", ["doubt", "100"], ["percent"]),
            helper.make_node("Cast", ["percent"], ["outside"], to=TensorProto.UINT8),
        ]
        more = [helper.make_tensor_value_info("outside", TensorProto.UINT8, ["N", *inner])]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("tile", TensorProto.FLOAT, ["N", BANDS, *spatial])],
        [
            helper.make_tensor_value_info("classes", kind, ["N", *inner]),
            helper.make_tensor_value_info("confidence", TensorProto.FLOAT, ["N", *inner]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", classes, *inner]),
            *more,
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if card is not None:
        helper.set_model_props(model, {CARD_KEY: card.to_json()})
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture(scope="session")
def build_onnx() -> Callable[..., bytes]:
    return onnx_bytes


@pytest.fixture(scope="session")
def card() -> ModelCard:
    return CARD


@pytest.fixture(scope="session")
def changed_card() -> Callable[..., ModelCard]:
    return lambda **changes: replace(CARD, **changes)


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    path.write_bytes(seal(onnx_bytes()))
    return path


@pytest.fixture(scope="session")
def model(model_path: Path) -> Model:
    return Model.open(model_path, "cpu", threads=1)


@pytest.fixture(scope="session")
def outside_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, which also says how far pixels are from the training."""
    path = tmp_path_factory.mktemp("model") / "outside.onnx"
    path.write_bytes(seal(onnx_bytes(outside=True)))
    return path


@pytest.fixture(scope="session")
def square_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The same model, whose graph says that tiles are square."""
    path = tmp_path_factory.mktemp("model") / "square.onnx"
    path.write_bytes(seal(onnx_bytes(spatial=("T", "T"))))
    return Model.open(path, "cpu", threads=1)


@pytest.fixture(scope="session")
def cube() -> np.ndarray:
    """A scene (29, 37, 7) with patches, so that classes form areas."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 1000, (8, 10, BANDS))
    fine = coarse.repeat(4, axis=0).repeat(4, axis=1)[:29, :37]
    return (fine + rng.integers(0, 60, fine.shape)).astype(np.uint16)


Writer = Callable[..., Path]


@pytest.fixture
def write_scene(tmp_path: Path, cube: np.ndarray) -> Writer:
    """Write (H, W, B) values as a raster; any of rasterio's creation options."""

    def write(
        name: str = "scene.tif", values: np.ndarray | None = None, waves: Sequence[float] | None = None, **options: Any
    ) -> Path:
        data = cube if values is None else values
        profile = {"driver": "GTiff", "crs": "EPSG:32616", "transform": UTM, **options}
        path = tmp_path / name
        height, width, bands = data.shape
        with (
            quiet_gdal(),
            rasterio.open(
                path, "w", height=height, width=width, count=bands, dtype=data.dtype.name, **profile
            ) as dataset,
        ):
            dataset.write(data.transpose(2, 0, 1))
            for band, wave in enumerate(waves or (), start=1):
                dataset.update_tags(band, wavelength=str(wave), wavelength_units="Nanometers")
        return path

    return write


@pytest.fixture
def sdiff(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; return exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run_sdiff([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def subprocess_environment() -> dict[str, str]:
    paths = [str(ROOT / part) for part in ("runtime", "export", ".")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "default"}


@pytest.fixture
def python(subprocess_environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in a process of its own."""

    def run(*arguments: object, **extra: Any) -> subprocess.CompletedProcess[str]:
        environment = {**subprocess_environment, **extra.pop("env", {})}
        command = [sys.executable, *[str(argument) for argument in arguments]]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, **extra)

    return run


@pytest.fixture
def listing(tmp_path: Path) -> Callable[[], dict[str, bytes]]:
    """Return every file below the test's folder with its content: what may not be lost or left."""

    def snapshot() -> dict[str, bytes]:
        return {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    return snapshot


LAYOUTS = {
    "striped": {},
    "tiled": {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"},
    "pixel": {"interleave": "pixel"},
    "tiled-pixel": {"interleave": "pixel", "tiled": True, "blockxsize": 16, "blockysize": 16},
    "bsq": {"driver": "ENVI", "interleave": "bsq"},
    "bil": {"driver": "ENVI", "interleave": "bil"},
    "bip": {"driver": "ENVI", "interleave": "bip"},
}


@pytest.fixture(params=LAYOUTS)
def laid_out_scene(request: pytest.FixtureRequest, write_scene: Writer) -> Path:
    """The scene as a raster in each layout in turn."""
    options = LAYOUTS[request.param]
    return write_scene("scene.img" if "driver" in options else "scene.tif", **options)
