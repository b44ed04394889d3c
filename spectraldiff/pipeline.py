"""One training from start to end: denoiser, features, classifier, accuracy, pictures, run folder."""

import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spectraldiff import checkpoint, figures
from spectraldiff.checkpoint import RunFolder
from spectraldiff.classifier import (
    Classifier,
    class_facts,
    extractor_for,
    filled,
    new_denoiser,
    normaliser_of,
    square,
)
from spectraldiff.diffusion import Denoiser
from spectraldiff.features import mirrored, scene_features
from spectraldiff.metrics import Accuracy, score
from spectraldiff.presets import Preset
from spectraldiff.scene import Scene
from spectraldiff.splits import Split
from spectraldiff.training import ClassifierTask, Compute, DiffusionTask, Loop
from spectraldiff.vit import SpectralViT
from spectraldiff_runtime.class_map import write_class_raster

SAVE_EVERY = 30.0  # seconds between two states on disk
SAMPLE = 24  # output pixels along the side of a sample tile
PACKAGES = ("spectraldiff", "torch", "numpy", "scikit-learn")


class Monitor:
    """What a training tells the outside; this one is silent."""

    def stage(self, title: str, unit: str) -> None:
        """Begin a stage whose progress is counted in `unit`."""

    def progress(self, done: int, total: int, loss: float | None = None) -> None:
        """Say how far the stage is."""

    def message(self, text: str) -> None:
        """Say one line."""


@dataclass(frozen=True)
class Result:
    """What a training reached.

    Attributes
    ----------
    accuracy
        On the split's test pixels.
    raw_accuracy
        The same classifier on raw bands, where it was asked for.
    seconds
        Wall time of each stage.
    """

    accuracy: Accuracy
    raw_accuracy: Accuracy | None
    seconds: Mapping[str, float]


class Training:
    """A training in a run folder; made again with the same arguments, it goes on where it was cut off.

    Parameters
    ----------
    run
        The folder; a state in it is taken up.
    scene, split, preset
        What to train on and how.
    seed
        Seeds weights, draws and order.
    compute
        Where and how to compute.
    monitor
        Told of the progress; nobody by default.
    """

    def __init__(
        self,
        run: RunFolder,
        scene: Scene,
        split: Split,
        preset: Preset,
        seed: int,
        compute: Compute,
        monitor: Monitor | None = None,
    ) -> None:
        self.run, self.scene, self.split, self.preset = run, scene, split, preset
        self.seed, self.compute, self.monitor = seed, compute, monitor or Monitor()
        self.state = run.load_state()
        self.seconds = {k.removesuffix(".seconds"): float(v) for k, v in self.state.items() if k.endswith(".seconds")}
        self.histories: dict[str, list[float]] = {}
        self.normaliser, self.fill = normaliser_of(scene)
        self.valid = torch.from_numpy(scene.valid).to(compute.device)
        raw = filled(scene, self.fill).to(compute.device)
        self.pixels = self.normaliser.to(compute.device)(raw[None])[0]  # (B, H, W) normalised

    def finish(self, compare_raw: bool = False) -> Result:
        """Run what is left of the training and write the finished run folder.

        Parameters
        ----------
        compare_raw
            Also train the same classifier on raw bands, on the same split: the yardstick of what diffusion adds.
        """
        model = self.train_classifier(self.preset, self.train_denoiser())
        accuracy = self.evaluate(model, "map")
        raw_accuracy = None
        if compare_raw and self.preset.features != "raw":
            raw_model = self.train_classifier(self.preset.changed(features="raw"), None)
            raw_accuracy = self.evaluate(raw_model, "raw map")
        result = Result(accuracy, raw_accuracy, self.seconds)
        self.write(model, result)
        return result

    def train_denoiser(self) -> Denoiser | None:
        """Train the denoiser; None with raw features."""
        if self.preset.features == "raw":
            return None
        torch.manual_seed(self.seed)
        known = self.pixels[:, self.valid]  # (B, n)
        denoiser = new_denoiser(self.preset, len(known), known.mean(1), known.std(1)).to(self.compute.device)
        denoiser.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        task = DiffusionTask(denoiser, self.pixels, self.preset.instance, self.preset.diffusion.batch)
        loop = Loop(denoiser, task, self.preset.diffusion_steps, self.preset.diffusion, self.compute, self.seed)
        trained = self._train("diffusion", "Denoiser", loop)
        assert isinstance(trained, Denoiser)
        return trained

    def train_classifier(self, preset: Preset, denoiser: Denoiser | None) -> Classifier:
        """Compute the features, reduce them and train the SpectralViT on them."""
        name = "raw" if preset is not self.preset else "classifier"
        torch.manual_seed(self.seed)
        self.monitor.stage("Features" if denoiser else "Raw bands", "tiles")
        started = time.perf_counter()
        extractor = extractor_for(preset, denoiser).eval()
        features, pca = scene_features(
            extractor,
            self.pixels,
            self.valid,
            preset.window // 2,
            preset.wanted_components,
            self.monitor.progress,
        )
        self.seconds[f"{name} features"] = time.perf_counter() - started
        vit = SpectralViT(preset.vit(len(pca.components), len(self.scene.classes))).to(self.compute.device)
        task = ClassifierTask(
            vit, features, *self._labelled(), preset.classifier.batch, preset.feature_noise, self.seed
        )
        loop = Loop(vit, task, preset.epochs * task.steps, preset.classifier, self.compute, self.seed)
        trained = self._train(name, "SpectralViT" if denoiser else "SpectralViT on raw bands", loop)
        assert isinstance(trained, SpectralViT)
        return Classifier(preset, self.normaliser, self.fill, denoiser, pca, trained).to(self.compute.device).eval()

    def _labelled(self) -> tuple[Tensor, Tensor]:
        """Return row and column, (n, 2), and class from 0, (n,), of the training pixels."""
        pixels = np.argwhere(self.split.train)
        labels = self.scene.labels[self.split.train].astype(np.int64) - 1
        return torch.from_numpy(pixels).to(self.compute.device), torch.from_numpy(labels).to(self.compute.device)

    def _train(self, name: str, title: str, loop: Loop) -> nn.Module:
        """Run a loop from the state on disk, keeping that state up to date."""
        kept = {k.removeprefix(f"{name}."): v for k, v in self.state.items() if k.startswith(f"{name}.")}
        before = float(kept.pop("seconds", 0.0))
        if kept:
            loop.restore(kept)
        saver = _Saver(lambda: self._save(name, loop))
        self._save(name, loop)
        self.monitor.stage(title, "steps")
        started = time.perf_counter()
        try:
            trained = loop.run(self.monitor.progress, saver)
        finally:
            self.seconds[name] = before + time.perf_counter() - started
            self._save(name, loop)
        self.histories[name] = loop.history
        return trained

    def _save(self, name: str, loop: Loop) -> None:
        self.state = {k: v for k, v in self.state.items() if not k.startswith(f"{name}.")}
        self.state |= {f"{name}.{k}": v.detach().clone() for k, v in loop.state().items()}
        if name in self.seconds:
            self.state[f"{name}.seconds"] = torch.tensor(self.seconds[name], dtype=torch.float64)
        self.run.save_tensors(checkpoint.STATE, self.state)

    def evaluate(self, model: Classifier, name: str) -> Accuracy:
        """Map the whole scene as the deployed model will, and score the test pixels."""
        self.monitor.stage(f"Whole-scene {name}", "tiles")
        started = time.perf_counter()
        predicted = model.predict(self.scene, self.monitor.progress)
        self.seconds[name] = time.perf_counter() - started
        accuracy = score(np.where(self.split.test, self.scene.labels, 0), predicted, len(self.scene.classes))
        self._draw_map(predicted, accuracy, name)
        return accuracy

    def _draw_map(self, predicted: Any, accuracy: Accuracy, name: str) -> None:
        folder, stem = self.run.path / checkpoint.FIGURES, name.replace(" ", "_")
        title = f"{self.scene.name}, {self.split.name} split, {name}: OA {100 * accuracy.oa:.2f} %"
        figures.class_maps(folder / f"{stem}.png", self.scene, self.scene.labels, predicted, title)
        confusion = "confusion.png" if stem == "map" else "raw_confusion.png"
        figures.confusion_matrix(folder / confusion, accuracy, self.scene.classes)

    def write(self, model: Classifier, result: Result) -> None:
        """Write metrics, loss curves and the model; the run is finished after this."""
        titles = {
            "diffusion": "L1 on the noise",
            "classifier": "cross-entropy",
            "raw": "cross-entropy, raw bands",
        }
        for name, history in self.histories.items():
            picture = self.run.path / checkpoint.FIGURES / f"{name}_loss.png"
            figures.loss_curve(picture, list(enumerate(history, start=1)), f"{self.scene.name}: {name}", titles[name])
        self.run.save_tensors(checkpoint.SAMPLES, {"tiles": self.sample_tiles(model.halo)})
        self.run.write_json(checkpoint.METRICS, self.metrics(result))
        self.run.save_model(model.cpu(), self.facts(result))
        self.run.drop_state()

    def sample_tiles(self, halo: int) -> Tensor:
        """Return some tiles of the scene, (n, B, T, T) float32 raw units: what an export is checked on.

        T is 2 halo + 24; one tile in each quarter of the scene, mirrored and filled as in mapping.
        """
        padded = mirrored(filled(self.scene, self.fill), halo)
        side = 2 * halo + SAMPLE
        height, width = (max(0, size - SAMPLE) for size in self.scene.labels.shape)
        corners = [(height * r // 4, width * c // 4) for r in (1, 3) for c in (1, 3)]
        return torch.stack([square(padded[:, r : r + side, c : c + side], side) for r, c in corners])

    def metrics(self, result: Result) -> dict[str, Any]:
        """Return all figures of the run as plain values."""
        raw = result.raw_accuracy
        return {
            "split": self.split.name,
            "seed": self.seed,
            "train_pixels": int(self.split.train.sum()),
            "features": self.preset.features,
            "accuracy": result.accuracy.as_dict(),
            "raw_accuracy": None if raw is None else raw.as_dict(),
            "losses": {name: sum(h[-100:]) / len(h[-100:]) for name, h in self.histories.items() if h},
            "steps": {name: len(h) for name, h in self.histories.items()},
            "seconds": {name: round(s, 1) for name, s in result.seconds.items()},
            "device": str(self.compute.device),
            "bf16": self.compute.bf16,
        }

    def facts(self, result: Result) -> dict[str, Any]:
        """Return what the model card says of scene, classes and accuracy."""
        scene, accuracy = self.scene, result.accuracy
        return {
            "name": scene.name,
            "classes": class_facts(scene),
            "wavelengths": None if scene.wavelengths is None else scene.wavelengths.tolist(),
            "nodata": None if scene.nodata is None or math.isnan(scene.nodata) else scene.nodata,
            "scaled": scene.scaled,
            "sensor": scene.sensor,
            "attribution": scene.attribution,
            "shape": list(scene.cube.shape),
            "dtype": str(scene.cube.dtype),
            "accuracy": {
                "split": self.split.name,
                "seed": self.seed,
                "train_pixels": int(self.split.train.sum()),
                "test_pixels": accuracy.pixels,
                **{k: accuracy.as_dict()[k] for k in ("oa", "aa", "kappa")},
            },
            "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        }


class _Saver:
    """Calls `save` when enough time has passed since it did so last."""

    def __init__(self, save: Callable[[], None]) -> None:
        self.save, self.last = save, time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self.last >= SAVE_EVERY:
            self.save()
            self.last = time.monotonic()


def write_pixels(run: RunFolder, scene: Scene, split: Split) -> None:
    """Write the labels of the training and of the test pixels as class rasters into the run folder."""
    for name, mask in ((checkpoint.TRAIN_PIXELS, split.train), (checkpoint.TEST_PIXELS, split.test)):
        labels = np.where(mask, scene.labels, 0).astype(scene.labels.dtype)
        write_class_raster(run.path / name, labels, scene.classes, crs=scene.crs, transform=scene.transform)
