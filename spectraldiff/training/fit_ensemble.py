"""Fitting an ensemble: linear candidates and attention members, weighed by pixels that were held out of them."""

import time
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from spectraldiff.ensemble.calibration import LEAST, Temperature
from spectraldiff.ensemble.calibration import choose as choose_smoothing
from spectraldiff.ensemble.context_inputs import (
    BAND_COMPONENTS,
    BANDS,
    COMPONENTS,
    ContextInputs,
    band_maps,
    component_map,
    computed_band_maps,
    computed_valid,
    guides_of,
    kernel_map,
    padded_valid,
)
from spectraldiff.ensemble.feature_trial import FeatureTrial, needs_features
from spectraldiff.ensemble.folds import PIXELS, Folds, folds_like, folds_of_groups
from spectraldiff.ensemble.held_out_loss import log_priors, pixel_losses
from spectraldiff.ensemble.linear_fit import Labelled, LinearFit
from spectraldiff.ensemble.merge import context_of, map_name
from spectraldiff.ensemble.outside import OutsideFit, fit_outside
from spectraldiff.ensemble.selection import (
    AttentionScores,
    Candidate,
    Selection,
    choose,
    cross_fitted,
    fit_linear,
    read_all,
)
from spectraldiff.ensemble.window_trial import WindowTrial
from spectraldiff.models.classifier import Classifier, Ensemble
from spectraldiff.models.diffusion import Denoiser
from spectraldiff.models.linear_members import LinearMembers
from spectraldiff.models.pca import PCA
from spectraldiff.models.presets import Preset
from spectraldiff.models.score_smoothing import Smoothing
from spectraldiff.models.settings import LinearMember, widest_window
from spectraldiff.splits.hold_out import PLENTY, groups_of
from spectraldiff.splits.split import BY_POLYGON
from spectraldiff.training.fit_classifier import ClassifierFit, Fitted, TrainingSet

Fits = list[tuple[LinearMember, LinearFit]]

MOST_PIXELS = 10_000  # training pixels that linear members are fitted to
TARGETS = 5_000  # pixels to be mapped whose distances folds are made for


def fit_model(fit: ClassifierFit, preset: Preset, denoiser: Denoiser | None) -> Fitted:
    """Fit a preset's classifier: its whole ensemble, or the attention members where there are no other candidates.

    Parameters
    ----------
    fit
        Trains attention members.
    preset
        What is trained.
    denoiser
        None for raw bands.
    """
    training_set = fit.training_set(preset, denoiser)
    if preset.classifier.linear and len(training_set.labels) >= LEAST:
        return EnsembleFit(fit, training_set).fit()
    return fit.fit_attention(training_set)


class EnsembleFit:
    """Fits all candidates of a training set and puts the chosen ones together.

    Parameters
    ----------
    fit
        Trains attention members.
    training_set
        What is learnt from.
    """

    def __init__(self, fit: ClassifierFit, training_set: TrainingSet) -> None:
        self.parent, self.training_set = fit, training_set
        self.labels: NDArray[np.int64] = training_set.labels.cpu().numpy()
        self.classes = len(fit.data.scenes[0].classes)
        self.folds = self._folds()
        self.chosen = self._chosen()

    def fit(self) -> Fitted:
        """Fit, weigh and put together."""
        inputs, labelled = self._inputs(), self._labelled()
        fits = self._linear(inputs, labelled)
        disjoint = self.parent.data.disjoint
        misled = None if disjoint else self._misled(fits)
        attention = None if disjoint or misled else self._attention()
        unread = self._unread(fits, labelled) if attention is None else None
        used = fits if unread is None else _on_bands(fits)
        selection = choose(used, inputs, labelled, attention, self._independent(), self.folds.title)
        selection = replace(selection, disjoint=disjoint, misled=misled, unread=unread)
        if unread is not None:
            left = [Candidate(member.title, fit.loss, 0.0) for member, fit in fits if needs_features(member)]
            selection = replace(selection, members=(*selection.members, *left))
        for line in selection.left_out():
            self.parent.monitor.message(line)
        if len(self.chosen) < len(self.labels):
            selection = replace(selection, sampled=(len(self.chosen), len(self.labels)))
        model = self._model(selection, inputs)
        outside = self._outside(model, selection, inputs, labelled)
        model.outside = outside.module
        model = model.to(self.parent.compute.device).eval()
        held_out = None
        if self.parent.data.folded:
            held_out = np.full((len(self.labels), self.classes), np.nan)
            scores = cross_fitted(used, labelled, attention, self._independent())
            held_out[self.chosen] = scores + self.parent.data.prior.logs(self.labels, self.classes)
        return Fitted(model, Temperature(selection.temperature, selection.pixels), selection, held_out, outside)

    def _misled(self, fits: Fits) -> WindowTrial | None:
        """Return the trial of windows as wide as the attention members', where they mislead."""
        trial = WindowTrial.of(fits, self._widest)
        return trial if trial is not None and trial.misleads else None

    def _unread(self, fits: Fits, labelled: Labelled) -> FeatureTrial | None:
        """Return the trial of the features, where they do not pay."""
        without = _on_bands(fits)
        if self.training_set.denoiser is None or not without or len(without) == len(fits):
            return None
        losses = []
        for some in (fits, without):
            scores = cross_fitted(some, labelled, None, self._independent())
            known = ~np.isnan(scores).any(1)
            losses.append(float(pixel_losses((scores + labelled.priors())[known], labelled.labels[known]).mean()))
        trial = FeatureTrial(*losses)
        return None if trial.pays else trial

    def _outside(
        self, model: Classifier, selection: Selection, inputs: ContextInputs, labelled: Labelled
    ) -> OutsideFit:
        """Fit what says how far pixels are from the training; it looks no farther than the model's members do."""
        started, features = time.perf_counter(), model.pca_components.shape[1]
        raw = model.extractor.denoiser is None
        sources = [BAND_COMPONENTS] if raw else [COMPONENTS, BAND_COMPONENTS]
        found = fit_outside(inputs, labelled, model.halo - model.extractor.halo, sources)
        found.module.weight = found.module.weight[:, -features:].contiguous()
        self.parent.seconds[f"{self.training_set.name} outside"] = time.perf_counter() - started
        return found.judged(selection.held_out + labelled.priors(), labelled.labels)

    def _folds(self) -> Folds:
        """Return folds whose held-out pixels are as far from the others as the pixels to be mapped are."""
        data, seed = self.parent.data, self.parent.seed
        if data.folded:
            numbers = np.unique(np.maximum(data.fold_numbers(), 1), return_inverse=True)[1]
            return Folds(numbers, data.splits[0].units, data.groups())
        by_scene = data.splits[0].by_scene
        pixels, layout = self.training_set.pixels.cpu().numpy(), self.training_set.layout
        if by_scene:
            scenes = np.repeat(np.arange(len(data.splits)), [int(split.train.sum()) for split in data.splits])
            folds = folds_of_groups(pixels, self.labels, scenes, seed, "scenes")
            if folds is not None:
                return folds
        if by_scene or any(split.name.endswith(BY_POLYGON) for split in data.splits):
            folds = folds_of_groups(pixels, self.labels, groups_of(data.scenes, data.splits), seed)
            if folds is not None:
                return folds
        tests = [
            scene.on_scene(np.argwhere(split.test)) + np.array([top, layout.frame])
            for top, scene, split in zip(layout.tops, data.scenes, data.splits, strict=False)
        ]
        target = np.concatenate(tests)
        return folds_like(pixels, self.labels, target[:: max(1, len(target) // TARGETS)], seed)

    def _chosen(self) -> NDArray[np.int64]:
        """Return the training pixels that linear members are fitted to: all, or evenly many of each class's."""
        count = len(self.labels)
        if count <= MOST_PIXELS:
            return np.arange(count)
        order = np.argsort(self.labels, kind="stable")  # every k-th pixel, class by class
        at = np.linspace(0, count - 1, MOST_PIXELS).round().astype(np.int64)
        return np.sort(order[at])

    def _labelled(self) -> Labelled:
        folds = [held[self.chosen] for held in self.folds.held_out()]
        return Labelled(self.labels[self.chosen], folds, self.classes)

    def _independent(self) -> float:
        """Return as how many independent pixels the training pixels count: fewer where places are held out whole."""
        count = float(len(self.chosen))
        return count if self.folds.units == PIXELS else float(np.sqrt(count * min(self.folds.count, count)))

    @property
    def _widest(self) -> int:
        """Side of the attention members' widest window."""
        return widest_window(self.training_set.shape.members)

    def _inputs(self) -> ContextInputs:
        own, data = self.training_set, self.parent.data
        maps = {COMPONENTS: component_map(own.mosaic, own.pca)}
        features, most = own.pca.components.shape[1], own.preset.components.bands
        chosen = own.pixels[torch.from_numpy(self.chosen).to(own.pixels.device)]
        guides = guides_of(own.mosaic, own.smoothing)
        parts, valid = None, computed_valid(data.pixels, own.layout)
        if own.samples is None:
            whole = [one.window(0, one.shape[1], 0, one.shape[2]) for one in data.pixels]
            maps |= band_maps(whole, data.valid, own.rim, features, most)
            valid = padded_valid(data.valid, own.rim)
        else:
            maps |= computed_band_maps(data.pixels, own.layout, own.samples, features, most)
            parts = own.layout.parts_of(own.samples)
        kernels = {map_name(one): one.gamma for one in own.preset.classifier.linear if one.method == "kernel"}
        maps |= {name: kernel_map(maps[BANDS], gamma, self.parent.seed) for name, gamma in kernels.items()}
        return ContextInputs(maps, chosen, guides, valid, parts)

    def _candidates(self) -> list[LinearMember]:
        """Return the linear candidates whose context fits what the split and the preset allow.

        With raw bands, the features are the bands: a regression on either is the same one.
        """
        own = self.training_set
        # A buffer between training and test pixels is as wide as the attention members' window.
        buffered = any(split.buffered for split in self.parent.data.splits)
        most = own.preset.classifier.window // 2 if buffered else own.rim
        found: dict[object, LinearMember] = {}
        for member in own.preset.classifier.linear:
            context = context_of(member)
            if context.iterations > own.smoothing.iterations or context.radius + own.smoothing.halo > most:
                continue
            source = "bands" if own.denoiser is None and member.method == "logistic" else member.source
            found.setdefault((member.method, source, context, member.noise, member.gamma), member)
        return list(found.values())

    def _linear(self, inputs: ContextInputs, labelled: Labelled) -> Fits:
        candidates, monitor = self._candidates(), self.parent.monitor
        monitor.stage("Linear members", "members")
        started, fits = time.perf_counter(), []
        read_all(candidates, inputs)
        for done, member in enumerate(candidates):
            monitor.progress(done, len(candidates))
            fits.append((member, fit_linear(member, inputs, labelled)))
        monitor.progress(len(candidates), len(candidates))
        self.parent.seconds[f"{self.training_set.name} linear members"] = time.perf_counter() - started
        return fits

    def _attention(self) -> AttentionScores:
        """Train copies of the attention members without a fold each, until enough pixels are held out.

        All folds are held out where the accuracy is measured on them.
        """
        folds: list[NDArray[np.bool_]] = []
        for held in self.folds.held_out():
            folds.append(held)
            if not self.parent.data.folded and sum(int(one.sum()) for one in folds) >= PLENTY:
                break
        parts, offsets = [], []
        power = 1 - self.training_set.preset.classifier.balance  # of the class sizes that the loss has left
        for number, held in enumerate(folds, start=1):
            parts.append(self.parent.train_copy(self.training_set, held, number, len(folds)))
            offsets.append(np.tile(power * log_priors(self.labels[~held], self.classes), (int(held.sum()), 1)))
        scores, pixels = torch.cat(parts, 1), np.concatenate([np.flatnonzero(held) for held in folds])
        found = choose_smoothing(scores, torch.from_numpy(self.labels[pixels]))
        free = scores[found.iterations].numpy() - np.concatenate(offsets)
        places = np.full(len(self.labels), -1)
        places[self.chosen] = np.arange(len(self.chosen))
        used = places[pixels] >= 0
        return AttentionScores(places[pixels][used], free[used], found.iterations, self._widest // 2)

    def _model(self, selection: Selection, inputs: ContextInputs) -> Classifier:
        own, data = self.training_set, self.parent.data
        vit = self.parent.train_vit(own) if selection.share else None
        total = self.parent.data.prior.logs(self.labels, self.classes)
        if vit is not None:
            learnt = log_priors(self.labels, self.classes)
            total -= selection.share * (1 - own.preset.classifier.balance) * learnt
        levels = [context.iterations for context in selection.linear.contexts] if selection.linear else []
        levels += [selection.iterations] if vit is not None else []
        ensemble = Ensemble(
            vit,
            selection.linear,
            Smoothing(max(levels), float(own.smoothing.sharpness)),
            share=selection.share,
            vit_iterations=selection.iterations if vit is not None else 0,
            prior=torch.from_numpy(total),
            kernel=selection.kernel,
        )
        if vit is None and selection.linear is not None and own.denoiser is not None:
            bands = len(data.fill)
            if not max(levels) and not selection.linear.weight[..., :-bands].any():
                return self._on_bands(selection.linear, ensemble, inputs)
        return Classifier(own.preset, data.normaliser, data.fill, own.denoiser, own.pca, ensemble)

    def _on_bands(self, linear: LinearMembers, ensemble: Ensemble, inputs: ContextInputs) -> Classifier:
        """Return a model without the denoiser, which no member reads."""
        data = self.parent.data
        bands = len(data.fill)
        linear.weight = linear.weight[..., -bands:].contiguous()
        weight = torch.from_numpy(inputs.maps[BAND_COMPONENTS].weight[:, -bands:])
        pca = PCA(torch.zeros(bands), weight.float(), float("nan"))
        preset = self.training_set.preset.changed(features="raw")
        return Classifier(preset, data.normaliser, data.fill, None, pca, ensemble)


def _on_bands(fits: Fits) -> Fits:
    return [(member, fit) for member, fit in fits if not needs_features(member)]
