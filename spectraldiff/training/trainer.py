"""One training from start to end: denoiser, features, classifier, accuracy, pictures, run folder."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from spectraldiff.accuracy.mapped_scene import MappedScene
from spectraldiff.data.scene import LabelledScene
from spectraldiff.models.classifier import Classifier, extractor_for, filled, new_denoiser
from spectraldiff.models.diffusion import Denoiser
from spectraldiff.models.features import scene_features
from spectraldiff.models.foveal_vit import FovealViT, new_vit
from spectraldiff.models.normaliser import common_normaliser
from spectraldiff.models.padding import cropped
from spectraldiff.models.pca import PCA
from spectraldiff.models.presets import Preset
from spectraldiff.models.score_smoothing import Smoothing, sharpness
from spectraldiff.models.vit import SpectralViT, ViTConfig
from spectraldiff.report import figures
from spectraldiff.splits.hold_out import hold_out, places
from spectraldiff.splits.leakage import with_leakage
from spectraldiff.splits.split import Split
from spectraldiff.training import run_folder
from spectraldiff.training.calibration import LEAST, HeldOut, Temperature, choose, smoothed_scores, too_few
from spectraldiff.training.compute import Compute
from spectraldiff.training.export_samples import sample_tiles
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
from spectraldiff.training.run_model import load_state, save_model, save_tensors
from spectraldiff.training.tasks import ClassifierTask, DiffusionTask
from spectraldiff_runtime.geo.georeference import Georeference


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
        scenes: LabelledScene | Sequence[LabelledScene],
        splits: Split | Sequence[Split],
        preset: Preset,
        seed: int,
        compute: Compute,
        monitor: Monitor | None = None,
    ) -> None:
        self.run, self.preset = run, preset
        self.scenes = (scenes,) if isinstance(scenes, LabelledScene) else tuple(scenes)
        self.splits = (splits,) if isinstance(splits, Split) else tuple(splits)
        self.name = name_of(self.scenes)
        self.seed, self.compute, self.monitor = seed, compute, monitor or Monitor()
        self.state = load_state(run)
        self.seconds = {k.removesuffix(".seconds"): float(v) for k, v in self.state.items() if k.endswith(".seconds")}
        self.histories: dict[str, list[float]] = {}
        self.normaliser, self.fill = common_normaliser(self.scenes)
        self.normaliser.to(compute.device)
        self.valid = [torch.from_numpy(scene.valid).to(compute.device) for scene in self.scenes]
        # (B, H, W) each, normalised
        self.pixels = [self.normaliser(filled(s, self.fill).to(compute.device)[None])[0] for s in self.scenes]

    def finish(self, compare_raw: bool = False, command: str = "") -> Result:
        """Run what is left of the training and write the finished run folder.

        Parameters
        ----------
        compare_raw
            Also train the same classifier on raw bands, on the same split: the yardstick of what diffusion adds.
        command
            The line that makes this run again, for its report.
        """
        model, temperature, remark = self._choose_classifier(self.train_denoiser())
        raw_model = None
        if compare_raw and model.preset.features != "raw":  # calibrations made for the choice are in the state
            raw_model, _ = self.train_classifier(self.preset.changed(features="raw"), None)
        # Not before: a training depends on whether test pixels lie apart, which the leakage tells.
        window = 2 * model.halo + 1
        self._look_again(window)
        found = self.evaluate(model, "map")
        raw_accuracy = None if raw_model is None else self.evaluate(raw_model, "raw map").accuracy
        result = Result(found, raw_accuracy, temperature, model.smoothing, window, self.seconds, self.histories, remark)
        self.write(model, result, command)
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

    def train_classifier(self, preset: Preset, denoiser: Denoiser | None) -> tuple[Classifier, Temperature]:
        """Compute the features, reduce them and train the SpectralViT on them; calibrate and smooth what it says."""
        ground = self._ground(preset, denoiser)
        return self._classifier(ground, self._calibrate(ground))

    @property
    def _apart(self) -> bool:
        """Whether most test pixels of a scene lie in other places than its training pixels."""
        return any(split.apart for split in self.splits)

    def _choose_classifier(self, denoiser: Denoiser | None) -> tuple[Classifier, Temperature, str]:
        """Train the classifier on the preset's features, or on raw bands where held-out pixels want that.

        Nothing is compared where test pixels lie in other places: the few regions that are held out there say little.
        """
        ground = self._ground(self.preset, denoiser)
        held_out = self._calibrate(ground)
        remark = ""
        if denoiser is not None and self.preset.fall_back and not self._apart:
            raw = self._ground(self.preset.changed(features="raw"), None)
            raw_held_out = self._calibrate(raw)
            if held_out.worse(raw_held_out):
                ground, held_out = raw, raw_held_out
                remark = (
                    f"raw bands are mapped: {len(held_out.losses)} held-out training pixels are clearly likelier with "
                    "them than with diffusion features"
                )
        return *self._classifier(ground, held_out), remark

    def _ground(self, preset: Preset, denoiser: Denoiser | None) -> "_Ground":
        """Compute the features and reduce them."""
        name = "raw" if preset is not self.preset else "classifier"
        self.monitor.stage("Features" if denoiser else "Raw bands", "tiles")
        started = time.perf_counter()
        extractor = extractor_for(preset, denoiser).eval()
        # A buffer between training and test pixels promises that no test pixel sees beyond the window.
        most = 0 if any(split.buffered for split in self.splits) else preset.smoothing
        rim = preset.window // 2 + Smoothing(most).halo
        pixels, labels = self._labelled(rim)
        stand = len(np.unique(places(self.scenes, self.splits)))  # training pixels, or the places that they lie in
        wanted, beside = preset.wanted_components(stand, self._apart), 0
        if denoiser is not None and preset.beside_raw and self._apart and preset.apart_members:
            beside = preset.changed(features="raw").wanted_components(stand, self._apart)
        features, pca = scene_features(extractor, self.pixels, self.valid, rim, wanted, self.monitor.progress, beside)
        sheet = _one_sheet(features)
        if preset.telling:
            kept = pca.telling(sheet[pixels[:, 0], pixels[:, 1]], labels)
            if len(kept) < sheet.shape[2]:  # else nothing is copied
                features, sheet, pca = [one[..., kept] for one in features], sheet[..., kept], pca.only(kept)
        self.seconds[f"{name} features"] = time.perf_counter() - started
        inner = [cropped(one.movedim(-1, 0), rim).movedim(0, -1) for one in features]
        smoothing = Smoothing(most, sharpness(inner, self.valid)).to(self.compute.device)
        shape = preset.vit(sheet.shape[2], len(self.scenes[0].classes), pca.beside, self._apart)
        return _Ground(name, preset, denoiser, pca, shape, sheet, pixels, labels, smoothing)

    def _classifier(self, ground: "_Ground", held_out: HeldOut) -> tuple[Classifier, Temperature]:
        """Train the classifier proper, and put the model together."""
        title = "SpectralViT" if ground.denoiser else "SpectralViT on raw bands"
        every = torch.ones_like(ground.labels, dtype=torch.bool)
        trained = self._train_vit(ground.name, title, ground, every)
        smoothing = Smoothing(held_out.steps, float(ground.smoothing.sharpness))
        model = Classifier(
            ground.preset,
            self.normaliser,
            self.fill,
            ground.denoiser,
            ground.pca,
            trained,
            held_out.temperature.value,
            smoothing,
        )
        return model.to(self.compute.device).eval(), held_out.temperature

    def _train_vit(self, name: str, title: str, ground: "_Ground", used: Tensor) -> SpectralViT | FovealViT:
        """Train a classifier on some of the pixels, (n,) bool; each begins with the same weights."""
        torch.manual_seed(self.seed)
        preset = ground.preset
        vit = new_vit(ground.shape).to(self.compute.device)
        batch, noise, balance = preset.classifier.batch, preset.feature_noise, preset.balance
        pixels, labels = ground.pixels[used], ground.labels[used]
        task = ClassifierTask(vit, ground.sheet, pixels, labels, batch, noise, self.seed, balance)
        loop = Loop(vit, task, preset.classifier_loop(task.steps), preset.classifier, self.compute, self.seed)
        trained = self._train(name, title, loop)
        assert isinstance(trained, SpectralViT | FovealViT)
        return trained

    def _calibrate(self, ground: "_Ground") -> HeldOut:
        """Fit temperature and steps of smoothing to pixels that copies of the classifier are not trained on."""
        folds = hold_out(ground.labels.cpu().numpy(), places(self.scenes, self.splits), self.seed)
        count = sum(int(fold.sum()) for fold in folds)
        if count < LEAST:
            return too_few(count)
        scores, known, raw = [], [], "" if ground.name == "classifier" else " on raw bands"
        for number, fold in enumerate(folds, start=1):
            out = torch.from_numpy(fold).to(ground.labels.device)
            title = f"Calibration {number} of {len(folds)}{raw}"
            copy = self._train_vit(f"{ground.name} calibration {number}", title, ground, ~out)
            scores.append(smoothed_scores(copy, ground.sheet, ground.pixels[out], ground.smoothing))
            known.append(ground.labels[out].cpu())
        return choose(torch.cat(scores, 1), torch.cat(known))

    def _labelled(self, rim: int) -> tuple[Tensor, Tensor]:
        """Return row and column, (n, 2), on the sheet of features, and class from 0, (n,), of the training pixels."""
        pixels, labels, top = [], [], rim
        for scene, split in zip(self.scenes, self.splits, strict=True):
            pixels.append(np.argwhere(split.train) + np.array([top, rim]))
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
        started = time.perf_counter()

        def save() -> None:
            self.seconds[name] = before + time.perf_counter() - started
            self._save(name, loop)

        save()
        self.monitor.stage(title, "steps")
        try:
            trained = loop.run(self.monitor.progress, _Saver(save), self._advice())
        finally:
            save()
        self.histories[name] = loop.history
        return trained

    def _advice(self) -> str:
        """Say what to do where the loss is no number, with the values that may be the reason."""
        low, high = self.normaliser.low.double().cpu(), self.normaliser.high.double().cpu()
        widest = int((high - low).argmax())
        return (
            f"values reach from {low[widest]:g} to {high[widest]:g} in band {self.scenes[0].band(widest)}; where the "
            "extremes are no measurements, mend them, give --nodata VALUE or leave the band out with --bands; "
            f"else {ADVICE}"
        )

    def _save(self, name: str, loop: Loop) -> None:
        self.state = {k: v for k, v in self.state.items() if not k.startswith(f"{name}.")}
        self.state |= {f"{name}.{k}": v.detach().clone() for k, v in loop.state().items()}
        self.state[f"{name}.seconds"] = torch.tensor(self.seconds[name], dtype=torch.float64)
        save_tensors(self.run, run_folder.STATE, self.state)

    def evaluate(self, model: Classifier, name: str) -> Evaluation:
        """Map the whole scenes as the deployed model will, and score the test pixels: all of them, and each scene's."""
        self.monitor.stage(f"Whole-scene {name}", "tiles")
        started = time.perf_counter()
        maps = [
            MappedScene(scene, split, *model.predict(scene, self.monitor.progress))
            for scene, split in zip(self.scenes, self.splits, strict=True)
        ]
        self.seconds[name] = time.perf_counter() - started
        found = evaluated(maps)
        for index in range(len(maps)):
            self._draw_map(index, found, name)
        confusion = "confusion.png" if name == "map" else "raw_confusion.png"
        figures.confusion_matrix(self.run.path / run_folder.FIGURES / confusion, found.accuracy, self.scenes[0].classes)
        return found

    def _look_again(self, window: int) -> None:
        """Take the leakage anew: features and smoothing look farther than the classifier's window does."""
        if any(split.leakage is not None for split in self.splits):
            places = [Georeference.of(scene.crs, scene.transform) for scene in self.scenes]
            self.splits = with_leakage(self.splits, window, places)

    def _draw_map(self, index: int, found: Evaluation, name: str) -> None:
        mapped, accuracy = found.maps[index], found.of_scenes[index]
        picture = numbered(f"{name.replace(' ', '_')}.png", index, len(self.scenes))
        reached = "" if accuracy is None else f": OA {100 * accuracy.oa:.2f} %"
        title = f"{mapped.scene.name}, {mapped.split.name} split, {name}{reached}"
        path = self.run.path / run_folder.FIGURES / picture
        figures.class_maps(path, mapped.scene, mapped.scene.labels, mapped.predicted, title)

    def write(self, model: Classifier, result: Result, command: str) -> None:
        """Write metrics, loss curves, report and the model; the run is finished after this."""
        for name in LOSSES.keys() & self.histories.keys():
            picture, history = self.run.path / run_folder.FIGURES / f"{name}_loss.png", self.histories[name]
            figures.loss_curve(picture, list(enumerate(history, start=1)), f"{self.name}: {name}", LOSSES[name])
        tiles, labels = sample_tiles(self.scenes, self.splits, self.fill, model.halo)
        save_tensors(self.run, run_folder.SAMPLES, {"tiles": tiles, "labels": labels})
        self.run.write_json(run_folder.METRICS, metrics_of(result, model.preset, self.compute))
        write_run_report(self.run.path / run_folder.REPORT, result, model.preset, self.compute, command)
        save_model(self.run, model.cpu(), model_facts(result))
        self.run.drop_state()


@dataclass(frozen=True)
class _Ground:
    """What a classifier learns from.

    Attributes
    ----------
    name
        Of its stages: classifier or raw.
    preset, denoiser, pca, shape
        What the model is made of.
    sheet
        (H, W, P) components of all scenes with their rims.
    pixels, labels
        (n, 2) on the sheet and (n,), the training pixels.
    smoothing
        With the most steps.
    """

    name: str
    preset: Preset
    denoiser: Denoiser | None
    pca: PCA
    shape: ViTConfig
    sheet: Tensor
    pixels: Tensor
    labels: Tensor
    smoothing: Smoothing


def _one_sheet(features: Sequence[Tensor]) -> Tensor:
    """Put the features of some scenes, (h, w, P) each, below each other; narrower ones get zeros at the right."""
    width = max(one.shape[1] for one in features)
    return torch.cat([nn.functional.pad(one, (0, 0, 0, width - one.shape[1])) for one in features])
