"""One training from start to end: denoiser, features, classifier, accuracy, pictures, run folder."""

import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
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
)
from spectraldiff.diffusion import Denoiser
from spectraldiff.features import scene_features
from spectraldiff.foveal import FovealViT, new_vit
from spectraldiff.label_table import count_labels
from spectraldiff.metrics import Accuracy, score
from spectraldiff.presets import Preset
from spectraldiff.run_facts import common_normaliser, sample_tiles, scene_facts, split_facts
from spectraldiff.scene import Scene
from spectraldiff.splits import Split
from spectraldiff.training import ClassifierTask, Compute, DiffusionTask, Loop
from spectraldiff.vit import SpectralViT
from spectraldiff_runtime.class_map import write_class_raster

SAVE_EVERY = 30.0  # seconds between two states on disk
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
        On the split's test pixels, of all scenes together.
    raw_accuracy
        The same classifier on raw bands, where it was asked for.
    of_scenes
        `accuracy` of each scene by itself; None for a scene without test pixels.
    seconds
        Wall time of each stage.
    """

    accuracy: Accuracy
    raw_accuracy: Accuracy | None
    of_scenes: tuple[Accuracy | None, ...]
    seconds: Mapping[str, float]


class Training:
    """A training in a run folder; made again with the same arguments, it goes on where it was cut off.

    Parameters
    ----------
    run
        The folder; a state in it is taken up.
    scenes, splits
        What to train on: one scene with its split, or several of the same bands and classes.
    preset
        How to train.
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
        scenes: Scene | Sequence[Scene],
        splits: Split | Sequence[Split],
        preset: Preset,
        seed: int,
        compute: Compute,
        monitor: Monitor | None = None,
    ) -> None:
        self.run, self.preset = run, preset
        self.scenes = (scenes,) if isinstance(scenes, Scene) else tuple(scenes)
        self.splits = (splits,) if isinstance(splits, Split) else tuple(splits)
        self.name = " + ".join(scene.name for scene in self.scenes)
        self.seed, self.compute, self.monitor = seed, compute, monitor or Monitor()
        self.state = run.load_state()
        self.seconds = {k.removesuffix(".seconds"): float(v) for k, v in self.state.items() if k.endswith(".seconds")}
        self.histories: dict[str, list[float]] = {}
        self.normaliser, self.fill = common_normaliser(self.scenes)
        self.normaliser.to(compute.device)
        self.valid = [torch.from_numpy(scene.valid).to(compute.device) for scene in self.scenes]
        # (B, H, W) each, normalised
        self.pixels = [self.normaliser(filled(s, self.fill).to(compute.device)[None])[0] for s in self.scenes]

    def finish(self, compare_raw: bool = False) -> Result:
        """Run what is left of the training and write the finished run folder.

        Parameters
        ----------
        compare_raw
            Also train the same classifier on raw bands, on the same split: the yardstick of what diffusion adds.
        """
        model = self.train_classifier(self.preset, self.train_denoiser())
        accuracy, of_scenes = self.evaluate(model, "map")
        raw_accuracy = None
        if compare_raw and self.preset.features != "raw":
            raw_model = self.train_classifier(self.preset.changed(features="raw"), None)
            raw_accuracy, _ = self.evaluate(raw_model, "raw map")
        result = Result(accuracy, raw_accuracy, of_scenes, self.seconds)
        self.write(model, result)
        return result

    def train_denoiser(self) -> Denoiser | None:
        """Train the denoiser; None with raw features."""
        if self.preset.features == "raw":
            return None
        torch.manual_seed(self.seed)
        known = torch.cat(
            [pixels[:, valid] for pixels, valid in zip(self.pixels, self.valid, strict=True)], 1
        )  # (B, n)
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
        vit = new_vit(preset.vit(len(pca.components), len(self.scenes[0].classes))).to(self.compute.device)
        pixels, labels = self._labelled(preset.window // 2)
        task = ClassifierTask(
            vit, _one_sheet(features), pixels, labels, preset.classifier.batch, preset.feature_noise, self.seed
        )
        loop = Loop(vit, task, preset.epochs * task.steps, preset.classifier, self.compute, self.seed)
        trained = self._train(name, "SpectralViT" if denoiser else "SpectralViT on raw bands", loop)
        assert isinstance(trained, SpectralViT | FovealViT)
        return Classifier(preset, self.normaliser, self.fill, denoiser, pca, trained).to(self.compute.device).eval()

    def _labelled(self, rim: int) -> tuple[Tensor, Tensor]:
        """Return row and column, (n, 2), on the sheet of features, and class from 0, (n,), of the training pixels."""
        pixels, labels, top = [], [], 0
        for scene, split in zip(self.scenes, self.splits, strict=True):
            pixels.append(np.argwhere(split.train) + np.array([top, 0]))
            labels.append(scene.labels[split.train].astype(np.int64) - 1)
            top += scene.labels.shape[0] + 2 * rim
        device = self.compute.device
        return torch.from_numpy(np.concatenate(pixels)).to(device), torch.from_numpy(np.concatenate(labels)).to(device)

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

    def evaluate(self, model: Classifier, name: str) -> tuple[Accuracy, tuple[Accuracy | None, ...]]:
        """Map the whole scenes as the deployed model will, and score the test pixels: all of them, and each scene's."""
        self.monitor.stage(f"Whole-scene {name}", "tiles")
        started = time.perf_counter()
        maps = [model.predict(scene, self.monitor.progress) for scene in self.scenes]
        self.seconds[name] = time.perf_counter() - started
        tests = [np.where(p.test, s.labels, 0) for s, p in zip(self.scenes, self.splits, strict=True)]
        classes = len(self.scenes[0].classes)
        accuracy = score(_flat(tests), _flat(maps), classes)
        of_scenes = tuple(score(t, m, classes) if t.any() else None for t, m in zip(tests, maps, strict=True))
        for index, (predicted, own) in enumerate(zip(maps, of_scenes, strict=True)):
            self._draw_map(index, predicted, own, name)
        confusion = "confusion.png" if name == "map" else "raw_confusion.png"
        figures.confusion_matrix(self.run.path / checkpoint.FIGURES / confusion, accuracy, self.scenes[0].classes)
        return accuracy, of_scenes

    def _draw_map(self, index: int, predicted: Any, accuracy: Accuracy | None, name: str) -> None:
        scene, split = self.scenes[index], self.splits[index]
        picture = numbered(f"{name.replace(' ', '_')}.png", index, len(self.scenes))
        reached = "" if accuracy is None else f": OA {100 * accuracy.oa:.2f} %"
        title = f"{scene.name}, {split.name} split, {name}{reached}"
        figures.class_maps(self.run.path / checkpoint.FIGURES / picture, scene, scene.labels, predicted, title)

    def write(self, model: Classifier, result: Result) -> None:
        """Write metrics, loss curves and the model; the run is finished after this."""
        titles = {
            "diffusion": "L1 on the noise",
            "classifier": "cross-entropy",
            "raw": "cross-entropy, raw bands",
        }
        for name, history in self.histories.items():
            picture = self.run.path / checkpoint.FIGURES / f"{name}_loss.png"
            figures.loss_curve(picture, list(enumerate(history, start=1)), f"{self.name}: {name}", titles[name])
        tiles, labels = sample_tiles(self.scenes, self.splits, self.fill, model.halo)
        self.run.save_tensors(checkpoint.SAMPLES, {"tiles": tiles, "labels": labels})
        self.run.write_json(checkpoint.METRICS, self.metrics(result))
        self.run.save_model(model.cpu(), self.facts(result))
        self.run.drop_state()

    def metrics(self, result: Result) -> dict[str, Any]:
        """Return all figures of the run as plain values."""
        raw = result.raw_accuracy
        return {
            **split_facts(self.splits),
            "notes": list(self.splits[0].notes),
            "labels": [one.as_dict() for one in count_labels(self.scenes, self.splits)],
            "scenes": scene_facts(self.scenes, self.splits, result.of_scenes),
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
        scene, accuracy = self.scenes[0], result.accuracy
        nodata = scene.nodata if len({one.nodata for one in self.scenes}) == 1 else None
        return {
            "name": self.name,
            "classes": class_facts(scene),
            "wavelengths": None if scene.wavelengths is None else scene.wavelengths.tolist(),
            "nodata": None if nodata is None or math.isnan(nodata) else nodata,
            "scaled": scene.scaled,
            "sensor": scene.sensor,
            "attribution": scene.attribution,
            "shape": list(scene.cube.shape),
            "dtype": str(scene.cube.dtype),
            "accuracy": {
                **split_facts(self.splits),
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


def _one_sheet(features: Sequence[Tensor]) -> Tensor:
    """Put the features of some scenes, (h, w, P) each, below each other; narrower ones get zeros at the right."""
    width = max(one.shape[1] for one in features)
    return torch.cat([nn.functional.pad(one, (0, 0, 0, width - one.shape[1])) for one in features])


def _flat(arrays: Sequence[Any]) -> Any:
    return np.concatenate([array.ravel() for array in arrays])


def numbered(name: str, index: int, count: int) -> str:
    """Return a file's name for scene `index` (from 0) of `count`: ``map.png``, or ``map_1.png`` of several."""
    stem, dot, suffix = name.partition(".")
    return name if count == 1 else f"{stem}_{index + 1}{dot}{suffix}"


def write_pixels(run: RunFolder, scenes: Scene | Sequence[Scene], splits: Split | Sequence[Split]) -> None:
    """Write the labels of the training and of the test pixels as class rasters into the run folder."""
    scenes, splits = (
        [scenes] if isinstance(scenes, Scene) else scenes,
        [splits] if isinstance(splits, Split) else splits,
    )
    for index, (scene, split) in enumerate(zip(scenes, splits, strict=True)):
        for name, mask in ((checkpoint.TRAIN_PIXELS, split.train), (checkpoint.TEST_PIXELS, split.test)):
            labels = np.where(mask, scene.labels, 0).astype(scene.labels.dtype)
            path = run.path / numbered(name, index, len(scenes))
            write_class_raster(path, labels, scene.classes, crs=scene.crs, transform=scene.transform)
