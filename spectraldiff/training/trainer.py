"""One training from start to end: denoiser, features, classifier, accuracy, pictures, run folder."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spectraldiff.accuracy.independent_test import IndependentLabels
from spectraldiff.accuracy.mapped_scene import MappedScene, Predictions, drawn_scenes, held_out_predictions, unmapped
from spectraldiff.data.canvas import LARGE
from spectraldiff.data.scene import LabelledScene
from spectraldiff.ensemble.mosaic import FEATURES, MOST
from spectraldiff.ensemble.prior import OF_TRAINING_PIXELS, Prior
from spectraldiff.models.classifier import Classifier, WindowModel, new_denoiser, predict_scene
from spectraldiff.models.diffusion import Denoiser
from spectraldiff.models.presets import Preset
from spectraldiff.processes.group import LostProcessError
from spectraldiff.report import figures
from spectraldiff.splits.leakage import with_leakage
from spectraldiff.splits.overlap import Place
from spectraldiff.splits.split import Split
from spectraldiff.training import run_folder
from spectraldiff.training.compute import Compute
from spectraldiff.training.fit_classifier import ClassifierFit, Fitted
from spectraldiff.training.fit_ensemble import fit_model
from spectraldiff.training.loop import ADVICE, Loop
from spectraldiff.training.monitor import Monitor, _Saver
from spectraldiff.training.results import (
    LOSSES,
    Evaluation,
    Result,
    evaluated,
    metrics_of,
    model_facts,
    name_of,
    write_run_report,
)
from spectraldiff.training.run_folder import RunFolder, numbered
from spectraldiff.training.run_model import load_denoiser, load_state, save_model, save_tensors
from spectraldiff.training.tasks import DiffusionTask
from spectraldiff.training.training_data import TrainingData, drawn_in_part, sample_tiles
from spectraldiff_runtime.geo.georeference import Georeference

# Opens a trained model as its exported file, with the classes of a scene.
Exported = Callable[[Classifier, LabelledScene], AbstractContextManager[WindowModel]]
EXPORTED_FROM = 250_000  # pixels of the scenes: mapping fewer takes PyTorch no longer than an export does
FINAL = "final "  # before the names of the stages that train a model anew on all labels


@dataclass(frozen=True)
class Aims:
    """What is asked of a training besides its split and preset.

    Attributes
    ----------
    prior
        The shares of the classes that the map assumes.
    final
        The splits whose training pixels train the model that is kept; None for the measured one.
    test
        Independent test labels.
    denoiser
        The run whose denoiser is taken; None to train one.
    memory
        Bytes of features that memory may hold; more lie in the run folder meanwhile.
    exported
        Opens a model's exported file, which maps large scenes several times as fast on the CPU; None for PyTorch.
    """

    prior: Prior = OF_TRAINING_PIXELS
    final: Sequence[Split] | None = None
    test: IndependentLabels | None = None
    denoiser: Path | None = None
    memory: int = MOST
    exported: Exported | None = None


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
    aims
        What else is asked of the model.
    """

    def __init__(
        self,
        run: RunFolder,
        scenes: LabelledScene | Sequence[LabelledScene],
        splits: Split | Sequence[Split],
        preset: Preset,
        seed: int,
        compute: Compute,
        monitor: Monitor | None = None,
        aims: Aims | None = None,
    ) -> None:
        self.run, self.preset, self.aims = run, preset, aims or Aims()
        self.scenes = (scenes,) if isinstance(scenes, LabelledScene) else tuple(scenes)
        self.splits = (splits,) if isinstance(splits, Split) else tuple(splits)
        self.name = name_of(self.scenes)
        self.seed, self.compute, self.monitor = seed, compute, monitor or Monitor()
        self.state = load_state(run)
        self.seconds = {k.removesuffix(".seconds"): float(v) for k, v in self.state.items() if k.endswith(".seconds")}
        self.histories: dict[str, list[float]] = {}
        data = TrainingData.of(self.scenes, self.splits, compute.device)
        self.data = replace(data, prior=self.aims.prior, folder=run.path, memory=self.aims.memory)

    def finish(self, compare_raw: bool = False, command: str = "") -> Result:
        """Run what is left of the training and write the finished run folder.

        Parameters
        ----------
        compare_raw
            Also train the same classifier on raw bands, on the same split: the yardstick of what diffusion adds.
        command
            The line that makes this run again, for its report.
        """
        denoiser = self.train_denoiser()
        fitted = self.train_classifier(self.preset, denoiser)
        model = fitted.model
        kept = self._refitted(denoiser) or fitted
        raw = None
        if compare_raw and not model.preset.raw:  # calibrations made for the choice are in the state
            raw = self.train_classifier(self.preset.changed(features="raw"), None)
        # Not before: a training depends on whether the split is spatially disjoint, which follows from the leakage.
        window = 2 * model.halo + 1
        self._update_leakage(window)
        found = self.evaluate(fitted, "map", kept.model)
        raw_accuracy = None if raw is None else self.evaluate(raw, "raw map").accuracy
        result = Result(
            found, raw_accuracy, kept.temperature, kept.model.smoothing, window, self.seconds, self.histories,
            kept.selection, self.aims.prior, self.aims.final, self.aims.test, kept.outside,
        )  # fmt: skip
        self.write(kept.model, result, command)
        return result

    def train_denoiser(self) -> Denoiser | None:
        """Train the denoiser, or take that of another run; None with raw features."""
        if self.preset.raw:
            return None
        if self.aims.denoiser is not None:
            return load_denoiser(self.aims.denoiser, self.preset, self.data.normaliser).to(self.compute.device)
        torch.manual_seed(self.seed)
        settings, data = self.preset.diffusion, self.data
        denoiser = new_denoiser(self.preset, len(data.fill), *data.moments()).to(self.compute.device)
        denoiser.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        with data.instances(self.seed) as scenes:
            task = DiffusionTask(denoiser, scenes, settings.instance, settings.loop.batch)
            loop = Loop(denoiser, task, settings.steps, settings.loop, self.compute, self.seed)
            trained = self._train("diffusion", "Denoiser", loop)
        assert isinstance(trained, Denoiser)
        return trained

    def train_classifier(self, preset: Preset, denoiser: Denoiser | None) -> Fitted:
        """Train a classifier on a preset's features, see `spectraldiff.training.fit_ensemble.fit_model`."""
        return fit_model(self._classifier_fit(), preset, denoiser)

    def _refitted(self, denoiser: Denoiser | None) -> Fitted | None:
        """Return the model that is kept where other pixels train it than the measured one; else None."""
        if self.aims.final is None:
            return None
        fit = self._classifier_fit(tuple(self.aims.final), FINAL)
        return fit_model(fit, self.preset, denoiser)

    def _classifier_fit(self, splits: tuple[Split, ...] | None = None, prefix: str = "") -> ClassifierFit:
        data = replace(self.data, splits=splits or self.data.splits)
        return ClassifierFit(
            data, self.preset, self.seed, self.compute, self.monitor, self._train, self.seconds, prefix
        )

    def _train(self, name: str, title: str, loop: Loop) -> nn.Module:
        """Run a loop from the state on disk, keeping that state up to date."""
        kept = {k.removeprefix(f"{name}."): v for k, v in self.state.items() if k.startswith(f"{name}.")}
        before = float(kept.pop("seconds", 0.0))
        if kept:
            loop.restore(kept)
        started = time.perf_counter()

        def save() -> None:
            self.seconds[name] = before + time.perf_counter() - started
            self._save(name, loop)

        save()
        self.monitor.stage(title, "steps")
        try:
            trained = loop.run(self.monitor.progress, _Saver(save), self._advice())
        except LostProcessError:  # in the middle of a step
            raise
        except BaseException:
            save()
            raise
        save()
        self.histories[name] = loop.history
        return trained

    def _advice(self) -> str:
        """Say what to do where the loss is no number, with the values that may be the reason."""
        low, high = self.data.normaliser.low.double().cpu(), self.data.normaliser.high.double().cpu()
        widest = int((high - low).argmax())
        return (
            f"values reach from {low[widest]:g} to {high[widest]:g} in band {self.scenes[0].band(widest)}; where the "
            "extremes are no measurements, correct them, give --nodata VALUE or leave the band out with --bands; "
            f"else {ADVICE}"
        )

    def _save(self, name: str, loop: Loop) -> None:
        self.state = {k: v for k, v in self.state.items() if not k.startswith(f"{name}.")}
        self.state |= {f"{name}.{k}": v.detach().clone() for k, v in loop.state().items()}
        self.state[f"{name}.seconds"] = torch.tensor(self.seconds[name], dtype=torch.float64)
        save_tensors(self.run, run_folder.STATE, self.state)

    def evaluate(self, fitted: Fitted, name: str, kept: Classifier | None = None) -> Evaluation:
        """Map the whole scenes as the deployed model will, and score test pixels: all of them, and each scene's.

        With folds, held-out predictions are scored; the map is by the model that has seen all labels. So it is with
        another model that is `kept`.
        """
        offset = self._offset()
        count = sum(scene.labelled for scene in self.scenes)
        progress = self.monitor.progress if count == 1 else _ignored
        self.monitor.stage(f"Whole-scene {name}", "tiles" if count == 1 else "scenes")
        started, maps = time.perf_counter(), []
        judged = held_out_predictions(self.scenes, self.splits, fitted.held_out, offset)
        with ExitStack() as opened:
            measured = self._mapping(fitted.model, opened)
            mapping = measured if kept in (None, fitted.model) else self._mapping(kept, opened)
            for scene, split, own in zip(self.scenes, self.splits, judged, strict=True):
                if not scene.labelled:
                    maps.append(unmapped(scene, split))
                    continue
                other, wanted = torch.from_numpy(offset), self._wanted(scene, split)
                predicted = Predictions(*predict_scene(measured, scene, other, progress, wanted))
                drawn = predicted
                if mapping is not measured:
                    drawn = Predictions(*predict_scene(mapping, scene, other, progress, wanted))
                picture = None if wanted is None else drawn_in_part(mapping, scene, progress)
                maps.append(
                    MappedScene(scene, split, drawn.classes, drawn.confidence, own or predicted, drawn.outside, picture)
                )
                if count > 1:
                    self.monitor.progress(sum(one.scene.labelled for one in maps), count)
        self.seconds[name] = time.perf_counter() - started
        found = evaluated(maps)
        for index in drawn_scenes(maps):
            self._draw_map(index, found, name)
        confusion = "confusion.png" if name == "map" else "raw_confusion.png"
        figures.confusion_matrix(self.run.path / run_folder.FIGURES / confusion, found.accuracy, self.scenes[0].classes)
        return found

    def _mapping(self, model: Classifier, opened: ExitStack) -> WindowModel:
        """Return what maps the scenes: the model or, where they are large and it computes on the CPU, its export."""
        pixels = sum(scene.cube.shape[0] * scene.cube.shape[1] for scene in self.scenes if scene.labelled)
        if self.aims.exported is None or self.compute.device.type != "cpu" or pixels < EXPORTED_FROM:
            return model
        self.monitor.message("Exporting the model: it maps large scenes faster than PyTorch does")
        return opened.enter_context(self.aims.exported(model, self.scenes[0]))

    def _wanted(self, scene: LabelledScene, split: Split) -> NDArray[np.bool_] | None:
        """Return the pixels whose classes are compared with labels where a scene is too large to map; else None."""
        if scene.cube.shape[0] * scene.cube.shape[1] <= LARGE and not scene.part:
            return None
        test = self.aims.test
        return split.scored if test is None else split.scored | (test.labels > 0)

    def _offset(self) -> NDArray[np.float64]:
        """Return what the other prior, which reports compare with, adds to the scores, (K,)."""
        labels = np.concatenate([s.labels[p.train] for s, p in zip(self.scenes, self.splits, strict=True)])
        labels, classes = labels.astype(np.int64) - 1, len(self.scenes[0].classes)
        prior = self.aims.prior
        return prior.other.logs(labels, classes) - prior.logs(labels, classes)

    def _update_leakage(self, window: int) -> None:
        """Compute the leakage again: features and smoothing reach farther than the classifier's window does."""
        if any(split.leakage is not None for split in self.splits):
            places = [Place(Georeference.of(scene.crs, scene.transform), scene.canvas) for scene in self.scenes]
            self.splits = with_leakage(self.splits, window, places)

    def _draw_map(self, index: int, found: Evaluation, name: str) -> None:
        mapped, accuracy = found.maps[index], found.of_scenes[index]
        picture = numbered(f"{name.replace(' ', '_')}.png", index, len(self.scenes))
        reached = "" if accuracy is None else f": OA {100 * accuracy.oa:.2f} %"
        title = f"{mapped.scene.name}, {mapped.split.name} split, {name}{reached}"
        path = self.run.path / run_folder.FIGURES / picture
        figures.class_maps(path, mapped.scene, mapped.picture, title)

    def write(self, model: Classifier, result: Result, command: str) -> None:
        """Write metrics, loss curves, report and the model; the run is finished after this."""
        for name in LOSSES.keys() & self.histories.keys():
            picture, history = self.run.path / run_folder.FIGURES / f"{name}_loss.png", self.histories[name]
            figures.loss_curve(picture, list(enumerate(history, start=1)), f"{self.name}: {name}", LOSSES[name])
        tiles, labels = sample_tiles(self.scenes, self.splits, self.data.fill, model.halo)
        save_tensors(self.run, run_folder.SAMPLES, {"tiles": tiles, "labels": labels})
        self.run.write_json(run_folder.METRICS, metrics_of(result, model.preset, self.compute))
        write_run_report(self.run.path / run_folder.REPORT, result, model.preset, self.compute, command)
        save_model(self.run, model.cpu(), model_facts(result))
        self.run.drop_state()
        (self.run.path / FEATURES).unlink(missing_ok=True)


def _ignored(done: int, total: int) -> None:
    """Say nothing of the progress in one of several scenes."""
