"""Trainings: begun, gone on with, opened again, and their reverse process as pictures."""

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import spectraldiff as sd
from spectraldiff.api.progress import BarMonitor, CallbackMonitor, Progress
from spectraldiff.api.results import OpenedScene, ReconstructionPictures, TrainedRun
from spectraldiff.api.scenes import PathLike
from spectraldiff.data.scene import LabelledScene
from spectraldiff.data.source import SceneSource
from spectraldiff.options import RECONSTRUCT, RUNS, TRAIN, ReconstructOptions, TrainOptions
from spectraldiff.training.run_folder import FACTS, FIGURES, METRICS, REQUEST
from spectraldiff.training.run_folder import open_run as open_folder
from spectraldiff_runtime.atomic import PartialFile, check_distinct, check_letters, check_output, output_error
from spectraldiff_runtime.cli.options import training_package
from spectraldiff_runtime.errors import OutputError, UsageError
from spectraldiff_runtime.messages import one_line
from spectraldiff_runtime.signals import interrupts_deferred
from spectraldiff_runtime.tiling.memory_plan import DEFAULT_MEMORY

if TYPE_CHECKING:
    from spectraldiff.models.classifier import Classifier, WindowModel
    from spectraldiff.training.request import Request
    from spectraldiff.training.session import RunPlace


def train(
    scene: LabelledScene | Sequence[LabelledScene],
    *,
    preset: str = TRAIN.preset,
    split: str | None = TRAIN.split,
    split_by: str = TRAIN.split_by,
    final: str | None = TRAIN.final,
    test: PathLike | None = None,
    prior: PathLike = TRAIN.prior,
    seed: int = TRAIN.seed,
    features: str = TRAIN.features,
    compare_raw: bool = TRAIN.compare_raw,
    mixed_units: bool = TRAIN.mixed_units,
    denoiser: PathLike | None = None,
    timestep: int | None = TRAIN.timestep,
    layer: int | None = TRAIN.layer,
    components: int | None = TRAIN.components,
    diffusion_steps: int | None = TRAIN.diffusion_steps,
    diffusion_batch: int | None = TRAIN.diffusion_batch,
    epochs: int | None = TRAIN.epochs,
    threads: int | None = None,
    device: str | None = None,
    max_memory: int = DEFAULT_MEMORY,
    run: PathLike | None = None,
    runs_dir: PathLike = RUNS,
    progress: Progress = True,
) -> TrainedRun:
    """Train on one labelled scene, or on several of the same bands, and write a run folder.

    Parameters
    ----------
    scene
        From `open_labelled` or `open_dataset`. Classes of several scenes are matched by name; scenes without labels
        train the denoiser alone.
    preset
        ``"fast"``, minutes on a laptop, or ``"paper"``, as published.
    split
        Training pixels: ``"folds"`` or ``"folds:N"`` (all labels train), ``"paper"``, ``"per-class:N"``,
        ``"fraction:F"``, ``"disjoint"``, ``"disjoint:F"``, ``"scenes:test=NAME,NAME"`` (whole scenes test),
        ``"by-scene:F"`` (a share F of the scenes tests) or ``"file:TRAIN.tif"``; None is ``"folds"`` for own labels,
        and for benchmark scenes ``"paper"`` where it gives counts, else ``"fraction:0.1"``.
    split_by
        Where labels are polygons, ``"polygon"`` draws whole ones and ``"pixel"`` pixels. With ``"scene"``, folds hold
        out whole scenes.
    final
        Pixels that train the model that is kept: ``"all"`` that are labelled, or the split's (``"train"``). None: all
        with folds, else the split's.
    test
        Independent test labels, a vector file (with the labels' field) or a raster.
    prior
        Shares of the classes that the map assumes: ``"training"``, ``"equal"``, or a CSV file of class and share.
    seed
        0..2**32 - 1: of the split, the weights and every draw.
    features
        ``"diffusion"``, or ``"raw"`` for the ablation without diffusion.
    compare_raw
        Whether the same classifier is also trained on raw bands.
    mixed_units
        Whether several scenes may have values in different units.
    denoiser
        A finished run of the same scene whose denoiser is taken: it needs no labels.
    timestep, layer, components, diffusion_steps, diffusion_batch, epochs
        What to change of the preset; None for its own.
    threads
        CPU threads; None for all.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``; None is ``"auto"``.
    max_memory
        Bytes that the process may hold: features of more labelled pixels lie on disk meanwhile.
    run
        The folder to make; None for the next one in `runs_dir`.
    runs_dir
        The folder that holds the runs.
    progress
        True draws bars on stderr, False nothing; a function is called with stage, what is done, and all of it.

    Raises
    ------
    UsageError
        An option has a value that does not exist, or the scene was not read from files.
    SceneError, LabelsError, OutputError, DeviceError
        As `sdiff train` says them. A training that was interrupted goes on with `resume`.

    Examples
    --------
    >>> run = sd.train(scene, split="per-class:30")
    >>> run.metrics["accuracy"]["oa"]
    """
    options = TrainOptions(
        preset=preset,
        split=split,
        split_by=split_by,
        final=final,
        test=None if test is None else str(test),
        prior=str(prior),
        seed=seed,
        features=features,
        compare_raw=compare_raw,
        mixed_units=mixed_units,
        denoiser=None if denoiser is None else str(denoiser),
        timestep=timestep,
        layer=layer,
        components=components,
        diffusion_steps=diffusion_steps,
        diffusion_batch=diffusion_batch,
        epochs=epochs,
    )
    scenes = [scene] if isinstance(scene, LabelledScene) else list(scene)
    with training_package("train"):
        from spectraldiff.training.request import new_request
        from spectraldiff.training.session import RunPlace
    request = new_request(SceneSource.joined([_source(one) for one in scenes]), options)
    folder = None if run is None else Path(run)
    place = RunPlace(folder, Path(runs_dir), None, threads, device, options.without_effect, max_memory, exported)
    return _trained(request, place, progress, scenes)


def resume(
    run: PathLike, *, threads: int | None = None, device: str | None = None, progress: Progress = True
) -> TrainedRun:
    """Go on with a training that was interrupted.

    Parameters
    ----------
    run
        Its folder.
    threads, device
        None for those that it was begun with: with others the model is not the same.
    progress
        As in `train`.

    Raises
    ------
    RunError
        There is no unfinished run, or its data have changed.

    Examples
    --------
    >>> run = sd.resume("runs/scene-fast-001")
    """
    with training_package("train"):
        from spectraldiff.training.session import RunPlace, reopen
    folder, request = reopen(Path(run))
    place = RunPlace(None, RUNS, folder, threads, device, exported=exported)
    return _trained(request, place, progress, None)


def exported(model: "Classifier", scene: LabelledScene) -> AbstractContextManager["WindowModel"]:
    """Open a model's exported file for large scenes; what exports is imported no sooner."""
    return sd.opened_export(model, scene)


def _source(scene: LabelledScene) -> SceneSource:
    if isinstance(scene, OpenedScene):
        return scene.source
    name = getattr(scene, "name", type(scene).__name__)
    raise UsageError(
        f"the scene '{name}' was not read from files, so that its run could not go on after an interruption: write it "
        "with scene.write('scene.tif', labels='labels.tif') and open it with open_labelled"
    )


class _Bars(BarMonitor):
    """Draws bars, and gives warnings to Python."""

    def warn(self, text: str) -> None:
        self.stop()
        warnings.warn(one_line(text), stacklevel=2)


class _Calls(CallbackMonitor):
    """Calls a function, and gives warnings to Python."""

    def warn(self, text: str) -> None:
        warnings.warn(one_line(text), stacklevel=2)


def _monitor(progress: Progress) -> BarMonitor:
    return _Calls(progress) if callable(progress) else _Bars(shown=progress)


def _trained(
    request: "Request", place: "RunPlace", progress: Progress, scenes: Sequence[LabelledScene] | None
) -> TrainedRun:
    from spectraldiff.training import session

    with _monitor(progress) as monitor:
        folder, _ = session.train(request, place, monitor, scenes)
    return TrainedRun(folder.path, folder.read_json(METRICS))


def open_run(run: PathLike | None = None, *, runs_dir: PathLike = RUNS) -> TrainedRun:
    """Open a finished run.

    Parameters
    ----------
    run
        Its folder; None for the one in `runs_dir` that finished last.
    runs_dir
        The folder that holds the runs.

    Raises
    ------
    RunError
        There is none, or it is not finished.

    Examples
    --------
    >>> run = sd.open_run("runs/scene-fast-001")
    """
    folder = open_folder(None if run is None else Path(run), Path(runs_dir))
    folder.read_json(FACTS)
    return TrainedRun(folder.path, folder.read_json(METRICS))


def reconstruct(
    run: PathLike | None = None,
    *,
    step: int = RECONSTRUCT.step,
    size: int = RECONSTRUCT.size,
    panels: int = RECONSTRUCT.panels,
    spectra: int = RECONSTRUCT.spectra,
    seed: int = RECONSTRUCT.seed,
    out: PathLike | None = None,
    overwrite: bool = False,
    runs_dir: PathLike = RUNS,
    progress: Progress = True,
) -> ReconstructionPictures:
    """Noise a part of the training scene to a step, denoise it again, and draw strip and spectra (paper, Figs. 9-11).

    Parameters
    ----------
    run, runs_dir
        As in `open_run`.
    step
        Diffusion step to begin at, from 1.
    size
        Pixels along the side of the part of the scene, at least 8.
    panels, spectra
        Pictures in the strip, at least 2; pixels whose spectra are drawn, at least 1.
    seed
        Of the noise.
    out
        Folder for ``reconstruction.png`` and ``spectra.png``; the run's figures by default.
    overwrite
        Whether pictures that exist are replaced.
    progress
        As in `train`.

    Raises
    ------
    RunError
        There is no such run, or it has no diffusion features.
    UsageError, OutputError
        The step is outside the process; a picture exists already.

    Examples
    --------
    >>> sd.reconstruct(run, step=300)
    """
    options = ReconstructOptions(step=step, size=size, panels=panels, spectra=spectra, seed=seed)
    with training_package("reconstruct"):
        from spectraldiff.models.reconstruction import check_start, example_spectra
        from spectraldiff.models.reconstruction import reconstruct as run_reverse
        from spectraldiff.report import figures
        from spectraldiff.training.data_digest import files_of
        from spectraldiff.training.request import Request
        from spectraldiff.training.run_model import load_model
    folder = open_folder(None if run is None else Path(run), Path(runs_dir))
    target = folder.path / FIGURES if out is None else Path(out)
    if out is None:
        folder.check_places()
    check_letters(target)
    strip, curves = target / "reconstruction.png", target / "spectra.png"
    if os.path.lexists(target) and not target.is_dir():
        raise OutputError(f"'{target}' is no folder and is not replaced: choose another --out")
    for path in (strip, curves) if target.is_dir() else ():
        check_output(path, overwrite)
    check_distinct({"the strip of --out": strip, "the curves of --out": curves}, files_of(folder))
    model, _ = load_model(folder)
    request = Request.from_json(folder.read_json(REQUEST))
    check_start(model, step, str(folder.path), fell_back=not request.preset.raw)
    scene = request.load_scene()
    with _monitor(progress) as monitor:
        monitor.stage("Reverse process", "steps")
        result = run_reverse(model, scene, options.step, options.size, options.panels, options.seed, monitor.progress)
    title = f"{scene.name}: reverse process from step {step}"
    examples = example_spectra(result, scene, options.spectra)
    pictures = {
        strip: figures.reconstruction_strip.png(result.frames, result.original, scene.wavelengths, title),
        curves: figures.spectral_curves.png(examples, scene.wavelengths, title, "normalised value"),
    }
    _write_pictures(target, pictures, overwrite)
    return ReconstructionPictures(folder.path, step, result.noise_error, result.error, strip, curves)


def _write_pictures(folder: Path, pictures: Mapping[Path, bytes], overwrite: bool) -> None:
    """Write all pictures, or none and no folder for them; OutputError."""
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            files = [stack.enter_context(PartialFile(path, overwrite)) for path in pictures]
            for file, data in zip(files, pictures.values(), strict=True):
                file.partial.write_bytes(data)
            with interrupts_deferred():
                for file in files:
                    file.publish()
    except (OSError, OutputError) as error:
        if new:
            with suppress(OSError):  # not empty, or not made
                folder.rmdir()
        if isinstance(error, OutputError):
            raise
        raise output_error(folder, error) from error
