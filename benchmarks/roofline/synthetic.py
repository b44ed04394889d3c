"""Synthetic scenes and model files for measurements of time: correct shapes, arbitrary values."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import rasterio
import torch
from rasterio.windows import Window

from spectraldiff.models.classifier import Classifier, empty_classifier
from spectraldiff.models.presets import Preset
from spectraldiff_export.deployed import DeployedClassifier
from spectraldiff_export.onnx_graph import onnx_bytes, with_card
from spectraldiff_export.precision.fp16 import halved
from spectraldiff_runtime.classes import LandCoverClass, palette
from spectraldiff_runtime.model.card import ModelCard
from spectraldiff_runtime.model.memory_probe import measure_workspace
from spectraldiff_runtime.model.model_file import seal

# Those of the Houston scene of 2013, whose size the measurement on a GPU has.
BANDS, CLASSES, HEIGHT, WIDTH = 144, 15, 349, 1905
ROWS, BLOCK = 256, 256
LOW, HIGH = 200.0, 4000.0
# Training pixels that the components suit, and smoothing iterations: what the paper's split of Indian Pines leads to.
PIXELS, ITERATIONS = 1000, 3


def write_scene(card: ModelCard, path: Path, height: int, width: int) -> None:
    """Write a GeoTIFF of height x width pixels, uint16, around the mean spectrum of the model's training scene."""
    rng = np.random.default_rng(0)
    spectrum = np.array(card.fill)[:, None, None]
    place = {"crs": "EPSG:32615", "transform": rasterio.Affine(2.5, 0, 271_460, 0, -2.5, 3_290_290)}
    profile = {
        "driver": "GTiff",
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "interleave": "band",
        **place,
    }
    with rasterio.open(
        path, "w", height=height, width=width, count=card.bands, dtype="uint16", bigtiff="if_safer", **profile
    ) as file:
        for row in range(0, height, ROWS):
            rows = min(ROWS, height - row)
            values = spectrum * rng.uniform(0.8, 1.2, (card.bands, rows, width))
            file.write(values.clip(1, 65535).astype(np.uint16), window=Window(0, row, width, rows))


def random_classifier(preset: Preset, bands: int) -> Classifier:
    """Return an untrained classifier whose values stay in the range of a trained one's."""
    torch.manual_seed(0)
    channels, positions = preset.unet(bands).feature_shape(preset.features.layer)
    features = bands if preset.raw else channels * positions + bands * preset.features.concat_bands
    components = min(features, preset.wanted_components(PIXELS))
    shape = preset.vit(components, CLASSES, preset.members())
    iterations = min(ITERATIONS, preset.smoothing.iterations)
    classifier = empty_classifier(preset, bands, shape, features, iterations)
    classifier.normaliser.low.fill_(LOW)
    classifier.normaliser.high.fill_(HIGH)
    classifier.fill.uniform_(LOW, HIGH)
    classifier.pca_components.normal_(0, features**-0.5)
    if classifier.extractor.denoiser is not None:
        classifier.extractor.denoiser.std.fill_(0.3)
    return classifier.eval()


def write_models(preset: Preset, folder: Path, precisions: list[str], bands: int = BANDS) -> list[Path]:
    """Write a preset's model file with random weights in each precision, ``"fp32"`` or ``"fp16"``; return the files.

    They are not verified, because their classes are arbitrary.
    """
    classifier = random_classifier(preset, bands)
    colours = palette(CLASSES)
    card = ModelCard(
        name="random weights",
        preset=preset.name,
        features=preset.features.source,
        classes=tuple(LandCoverClass(k, f"class {k}", colours[k - 1]) for k in range(1, CLASSES + 1)),
        bands=bands,
        wavelengths=None,
        halo=classifier.halo,
        nodata=None,
        fill=tuple(classifier.fill.tolist()),
    )
    data = onnx_bytes(DeployedClassifier(classifier), card.to_json())
    return [_write(data, card, folder, precision) for precision in precisions]


def _write(data: bytes, card: ModelCard, folder: Path, precision: str) -> Path:
    path = folder / f"{card.preset}-{precision}.onnx"
    if precision == "fp16":
        data = seal(halved(onnx.load_model_from_string(data)).SerializeToString())
    path.write_bytes(data)
    path.write_bytes(with_card(data, replace(card, precision=precision, workspace=measure_workspace(path))))
    return path
