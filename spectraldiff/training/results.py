"""What a training reached: accuracies and confidences of its maps, as plain values, and as a report."""

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spectraldiff.accuracy.independent_test import IndependentLabels
from spectraldiff.accuracy.interval import Interval, oa_interval
from spectraldiff.accuracy.mapped_scene import MappedScene, Predictions
from spectraldiff.accuracy.metrics import Accuracy, Calibration, calibration, score
from spectraldiff.data.merge_scenes import remarks_of
from spectraldiff.data.origin import origin_facts
from spectraldiff.data.scene import LabelledScene
from spectraldiff.ensemble.calibration import Temperature
from spectraldiff.ensemble.outside import OutsideFit, share_beyond
from spectraldiff.ensemble.prior import OF_TRAINING_PIXELS, Prior
from spectraldiff.ensemble.selection import Selection
from spectraldiff.models.classifier import class_facts
from spectraldiff.models.presets import Preset
from spectraldiff.models.score_smoothing import Smoothing
from spectraldiff.report.run_report import Report, write_report
from spectraldiff.splits.label_counts import count_labels, doubts, missing_classes
from spectraldiff.splits.leakage import mean_leakage
from spectraldiff.splits.split import Split
from spectraldiff.training.compute import Compute
from spectraldiff.wording import counted
from spectraldiff_runtime.limits import NAME

NAMED = 3  # scenes that a training is called by
NOTES, NOTE = 50, 400  # lines in the model card, and characters of each
PACKAGES = ("spectraldiff", "torch", "numpy", "scikit-learn")
LOSSES = {
    "diffusion": "L1 on the noise",
    "classifier": "cross-entropy",
    "final classifier": "cross-entropy",
    "raw": "cross-entropy, raw bands",
}


@dataclass(frozen=True)
class Evaluation:
    """Maps of all scenes of a training against the labels of their test pixels.

    Attributes
    ----------
    maps
        A map of each scene, with its confidence.
    accuracy
        On the test pixels of all scenes together; with folds, on the held-out pixels.
    of_scenes
        `accuracy` of each scene by itself; None for a scene without test pixels.
    calibration
        Confidence against accuracy on the test pixels of all scenes that have a class.
    other
        `accuracy` if the other prior was assumed; None where it is not known.
    interval
        Of the overall accuracy; None where one polygon or patch was scored.
    """

    maps: tuple[MappedScene, ...]
    accuracy: Accuracy
    of_scenes: tuple[Accuracy | None, ...]
    calibration: Calibration
    other: Accuracy | None = None
    interval: Interval | None = None


def evaluated(maps: Sequence[MappedScene]) -> Evaluation:
    """Score predictions on the pixels of the scenes that test, or that folds held out."""
    tests = [m.reference for m in maps]
    judged = [m.judged or Predictions(m.predicted, m.confidence) for m in maps]
    classes = len(maps[0].scene.classes)
    truth, predicted = _flat(tests), _flat([one.classes for one in judged])
    confidence = _flat([one.confidence for one in judged])
    sure = (truth > 0) & (predicted > 0)
    others = [one.other for one in judged]
    return Evaluation(
        tuple(maps),
        score(truth, predicted, classes),
        tuple(score(t, one.classes, classes) if t.any() else None for t, one in zip(tests, judged, strict=True)),
        calibration(confidence[sure], (predicted == truth)[sure]),
        None if any(one is None for one in others) else score(truth, _flat(others), classes),
        oa_interval(tests, [one.classes for one in judged], [m.scene.groups for m in maps]),
    )


def _flat(arrays: Sequence[Any]) -> NDArray[Any]:
    return np.concatenate([array.ravel() for array in arrays])


@dataclass(frozen=True)
class Result:
    """What a training reached.

    Attributes
    ----------
    found
        The maps of the trained model, scored.
    raw_accuracy
        The same classifier on raw bands, where it was asked for.
    temperature
        What makes the confidences mean what they say.
    smoothing
        The smoothing of the trained model's scores.
    window
        Side of the square of pixels that a pixel's class depends on: window, what features see around it, smoothing.
    seconds
        Wall time of each stage.
    histories
        The loss of each step of each training loop.
    selection
        How the ensemble was chosen; None where nothing was.
    prior
        The shares of the classes that the map assumes.
    final
        The splits whose training pixels trained the model that is kept; None for the measured one.
    test
        Independent test labels; None where there are none.
    outside
        How the distance from the training was chosen; None where the model has none.
    """

    found: Evaluation
    raw_accuracy: Accuracy | None
    temperature: Temperature
    smoothing: Smoothing
    window: int
    seconds: Mapping[str, float]
    histories: Mapping[str, Sequence[float]]
    selection: Selection | None = None
    prior: Prior = OF_TRAINING_PIXELS
    final: Sequence[Split] | None = None
    test: IndependentLabels | None = None
    outside: OutsideFit | None = None

    @property
    def scenes(self) -> tuple[LabelledScene, ...]:
        """The scenes, in order."""
        return tuple(m.scene for m in self.found.maps)

    @property
    def splits(self) -> tuple[Split, ...]:
        """Their splits."""
        return tuple(m.split for m in self.found.maps)

    @property
    def measured(self) -> str:
        """How the accuracy is measured where folds are held out, such as ``"5 folds of polygons"``; else empty."""
        return self.splits[0].measured

    @property
    def kept_pixels(self) -> int:
        """The pixels that trained the model that is kept."""
        return sum(int(split.train.sum()) for split in self.final or self.splits)

    @property
    def trained_on(self) -> str:
        """Say what trained the model that is kept where that is all labels; else empty."""
        if self.final is None and not self.measured:
            return ""
        return f"the model has trained on all {self.kept_pixels:,} labelled pixels"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures must know, one line each."""
        test = () if self.test is None else self.test.notes
        counts = count_labels(self.scenes, self.splits)
        return (
            *self.splits[0].notes,
            *(note for note in (self.temperature.note,) if note),
            *test,
            *self.remarks,
            *_left_out(self.scenes, self.splits),
            *dict.fromkeys(m.drawn.note for m in self.found.maps if m.drawn is not None),
            *doubts(counts),
        )

    @property
    def remarks(self) -> tuple[str, ...]:
        """How scenes and labels were read, and what is doubtful in them, one line each; of many alike, one."""
        return tuple(remarks_of(self.scenes))


def metrics_of(result: Result, preset: Preset, compute: Compute) -> dict[str, Any]:
    """Return all figures of a run as plain values."""
    raw, histories = result.raw_accuracy, result.histories
    return {
        **split_facts(result.splits),
        **kept_facts(result),
        "notes": list(result.notes),
        "remarks": list(result.remarks),
        "labels": [one.as_dict() for one in count_labels(result.scenes, result.splits)],
        "scenes": scene_facts(result.scenes, result.splits, result.found.of_scenes),
        "features": preset.features.source,
        "accuracy": result.found.accuracy.as_dict(),
        "interval": None if result.found.interval is None else result.found.interval.as_dict(),
        "raw_accuracy": None if raw is None else raw.as_dict(),
        "prior": prior_facts(result),
        "test": None if result.test is None else result.test.facts(result.found.maps[0].predicted),
        "calibration": result.found.calibration.as_dict(),
        "temperature": result.temperature.as_dict(),
        "smoothing": result.smoothing.iterations,
        "ensemble": None if result.selection is None else result.selection.as_dict(),
        "outside": outside_facts(result),
        "losses": {name: sum(h[-100:]) / len(h[-100:]) for name, h in histories.items() if h},
        "steps": {name: len(h) for name, h in histories.items()},
        "seconds": {name: round(s, 1) for name, s in result.seconds.items()},
        "device": str(compute.device),
        "bf16": compute.bf16,
        "processes": compute.processes.count,
    }


def model_facts(result: Result) -> dict[str, Any]:
    """Return what the model card says of scene, classes and accuracy."""
    scene, accuracy = result.scenes[0], result.found.accuracy
    nodata = scene.nodata if len({one.nodata for one in result.scenes}) == 1 else None
    return {
        "name": name_of(result.scenes),
        "scenes": [one.name for one in result.scenes] if len(result.scenes) > 1 else None,
        "classes": class_facts(scene),
        "wavelengths": None if scene.wavelengths is None else scene.wavelengths.tolist(),
        "fwhm": None if scene.fwhm is None else scene.fwhm.tolist(),
        **_band_facts(result.scenes),
        "nodata": None if nodata is None or math.isnan(nodata) else nodata,
        "scaled": scene.scaled,
        "units": scene.quantity if len({one.quantity for one in result.scenes}) == 1 else "",
        "sensor": scene.sensor,
        "attribution": scene.attribution,
        **origin_facts(result.scenes),
        "shape": list(scene.cube.shape),
        "dtype": str(scene.cube.dtype),
        "accuracy": {
            **split_facts(result.splits),
            **kept_facts(result),
            "test_pixels": 0 if result.measured else accuracy.pixels,
            "scored_pixels": accuracy.pixels,
            "prior": result.prior.name,
            **{k: accuracy.as_dict()[k] for k in ("oa", "aa", "kappa")},
            "oa_interval": None if result.found.interval is None else result.found.interval.as_dict()["oa"],
            "ece": result.found.calibration.ece,
            "temperature": result.temperature.value,
            "smoothing": result.smoothing.iterations,
            "notes": [remark[:NOTE] for remark in result.remarks[:NOTES]],
        },
        "versions": versions(),
    }


def _left_out(scenes: Sequence[LabelledScene], splits: Sequence[Split]) -> list[str]:
    """Say how many labelled pixels are not used, one line each."""
    pairs = list(zip(scenes, splits, strict=True))
    empty = sum(int(((scene.labels > 0) & ~scene.valid).sum()) for scene, _ in pairs)
    unused = sum(int(((scene.labels > 0) & scene.valid & ~split.train & ~split.test).sum()) for scene, split in pairs)
    counts = {"labelled pixels without data, left out": empty, "labelled pixels on neither side of the split": unused}
    return [f"{what}: {count:,}" for what, count in counts.items() if count]


def _band_facts(scenes: Sequence[LabelledScene]) -> dict[str, Any]:
    """Return the numbers of the bands in the training scene's file, and its count; nothing where scenes differ."""
    first = scenes[0]
    if first.numbers is None or any((s.numbers, s.file_bands) != (first.numbers, first.file_bands) for s in scenes):
        return {}
    return {"band_numbers": list(first.numbers), "file_bands": first.file_bands}


def name_of(scenes: Sequence[LabelledScene]) -> str:
    """Return what a training on some scenes is called: by those of the first ones with labels."""
    names = [scene.name for scene in sorted(scenes, key=lambda scene: not scene.labelled)]
    rest = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return " + ".join(names[:NAMED])[: NAME - len(rest)] + rest


def versions() -> dict[str, str]:
    """Return the versions of what trains."""
    return {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}}


def write_run_report(path: Path, result: Result, preset: Preset, compute: Compute, command: str) -> None:
    """Write a run's report.html; OutputError where it cannot be written."""
    found = result.found
    titles = {f"{name.capitalize()}: {LOSSES[name]}": h for name, h in result.histories.items() if name in LOSSES}
    report = Report(
        found.maps,
        found.accuracy,
        command,
        result.window,
        interval=found.interval,
        raw_accuracy=result.raw_accuracy,
        calibration=found.calibration,
        leakage=mean_leakage(result.splits),
        selection=result.selection,
        prior=result.prior,
        other=found.other,
        trained_on=result.trained_on,
        test=result.test,
        outside=result.outside,
        histories=titles,
        seconds=result.seconds,
        facts=_recipe(result, preset, compute),
        versions=versions(),
        notes=list(result.notes),
    )
    write_report(path, report)


def _smoothed(smoothing: Smoothing) -> str:
    if not smoothing.iterations:
        return "none"
    return f"{counted(smoothing.iterations, 'iteration')}, as far as {smoothing.halo} pixels"


def _recipe(result: Result, preset: Preset, compute: Compute) -> dict[str, object]:
    tap = "" if preset.raw else f" of layer {preset.features.layer} at step {preset.features.timestep}"
    temperature = result.temperature
    threads = f", {counted(torch.get_num_threads(), 'thread')}" if compute.device.type == "cpu" else ""
    several = f", {compute.processes.count} processes" if compute.processes.count > 1 else ""
    held_out = f", from {temperature.pixels:,} held-out training pixels" if temperature.pixels else ""
    return {
        "Preset": preset.name,
        "Features": f"{preset.features.source}{tap}",
        "Window": f"{preset.classifier.window} \N{MULTIPLICATION SIGN} {preset.classifier.window} pixels",
        "Smoothing": _smoothed(result.smoothing),
        "Temperature": f"{temperature.value:.2f}{held_out}",
        "Device": f"{compute.device}{threads}{several}{', bfloat16' if compute.bf16 else ''}",
    }


def prior_facts(result: Result) -> dict[str, Any]:
    """Return the prior that the map assumes, and the accuracy under it and under the other one, as plain values."""
    each = {result.prior.name: result.found.accuracy, result.prior.other.name: result.found.other}
    figures = {name: None if one is None else {"oa": one.oa, "aa": one.aa} for name, one in each.items()}
    return {"assumed": result.prior.name, "shares": result.prior.shares, "accuracy": figures}


def outside_facts(result: Result) -> dict[str, Any] | None:
    """Return how far from the training the scenes are, as plain values; None where the model does not know."""
    if result.outside is None:
        return None
    drawn = [m.picture for m in result.found.maps if m.scene.labelled]
    layers = [one.outside for one in drawn if one.outside is not None]
    return {**result.outside.as_dict(), "scene_share_beyond": share_beyond(layers)}


def kept_facts(result: Result) -> dict[str, Any]:
    """Return whether all labels trained the model that is kept, and how many pixels did, as plain values."""
    return {"final": "all" if result.trained_on else "train", "final_pixels": result.kept_pixels}


def split_facts(splits: Sequence[Split]) -> dict[str, Any]:
    """Return how the accuracy was measured, as plain values; `leakage` is that of all scenes together."""
    return {
        "split": splits[0].name,
        "measured": splits[0].measured or "test pixels",
        "seed": splits[0].seed,
        "leakage": mean_leakage(splits),
        "train_pixels": sum(int(split.train.sum()) for split in splits),
    }


def scene_facts(
    scenes: Sequence[LabelledScene], splits: Sequence[Split], accuracies: Sequence[Accuracy | None]
) -> list[dict[str, Any]]:
    """Return each scene's name, size, pixels, classes without a label, and accuracy, as plain values."""
    facts, several = [], len(scenes) > 1
    for scene, split, accuracy in zip(scenes, splits, accuracies, strict=True):
        figures = {} if accuracy is None else accuracy.as_dict()
        facts.append(
            {
                "name": scene.name,
                "shape": list(scene.cube.shape),
                "labelled_pixels": int((scene.labels_with_data > 0).sum()),
                "missing_classes": missing_classes(scene) if several else [],
                "train_pixels": int(split.train.sum()),
                "test_pixels": int(split.test.sum()),
                "scored_pixels": 0 if accuracy is None else accuracy.pixels,
                "leakage": split.leakage,
                **{key: figures.get(key) for key in ("oa", "aa", "kappa")},
            }
        )
    return facts
