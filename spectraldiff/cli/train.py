"""`sdiff train`: a labelled scene in, a run folder out."""

import time
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from spectraldiff.options import RUNS, TRAIN, TrainOptions
from spectraldiff.processes.launch import follows
from spectraldiff_runtime.cli.options import (
    CloudPixels,
    Clouds,
    DataDir,
    Device,
    Json,
    Quiet,
    RunsDir,
    parse_bands,
    parse_nodata,
    parse_size,
    print_json,
    repeat_option,
    training_package,
)


class PresetName(StrEnum):
    """What decides the networks and their training."""

    FAST = "fast"
    PAPER = "paper"


class FeatureKind(StrEnum):
    """What the classifier reads."""

    DIFFUSION = "diffusion"
    RAW = "raw"


class SplitBy(StrEnum):
    """What a split draws where labels come from polygons."""

    POLYGON = "polygon"
    PIXEL = "pixel"
    SCENE = "scene"


class FinalPixels(StrEnum):
    """Which pixels train the model that is kept."""

    ALL = "all"
    TRAIN = "train"


# The defaults, as Typer takes them.
PRESET, FEATURES = PresetName(TRAIN.preset), FeatureKind(TRAIN.features)
SPLIT_BY, SEED = SplitBy(TRAIN.split_by), TRAIN.seed

# Stands between the two files of a --pair: no file's name holds it.
BETWEEN = "\0"
MANY = "--unlabelled"


class Train(TyperCommand):
    """Takes two values after each ``--pair``, and many after ``--unlabelled``, which Typer's options cannot."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments with the two files of each pair joined to one, and the option before each of many."""
        if follows():  # the first process says what is wrong with them
            args = [word for word in args if word in ("--help", "-h")]
        return super().parse_args(ctx, repeat_option(join_pairs(args), MANY))


COMMAND = Train


def join_pairs(arguments: list[str]) -> list[str]:
    """Join the two values after each ``--pair``; UsageError where they are missing."""
    from spectraldiff_runtime.errors import UsageError

    rest, joined = list(arguments), []
    while rest:
        joined.append(rest.pop(0))
        if joined[-1] == "--pair":
            files = rest[:2]
            if len(files) < 2 or any(name.startswith("--") for name in files):
                raise UsageError("--pair takes two files, a scene and its labels: --pair scene.tif labels.gpkg")
            joined.append(BETWEEN.join(files))
            del rest[:2]
    return joined


def train(
    scenes: Annotated[
        list[str] | None,
        typer.Argument(help="Your own scenes, rasters or products; with --labels.", show_default=False),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            help="Their labels: polygons or points in a vector file (with --field), or a raster, 0 unlabelled, classes "
            "from 1; each scene takes those that lie on it. Repeatable: the labels of all files train.",
            show_default=False,
        ),
    ] = None,
    field: Annotated[
        str | None,
        typer.Option(help="Field of the vector file with the class: text, or numbers from 1.", show_default=False),
    ] = None,
    name_field: Annotated[
        str | None, typer.Option(help="Field with the classes' names, where --field has numbers.", show_default=False)
    ] = None,
    layer_name: Annotated[
        str | None, typer.Option(help="Layer of the vector file, if it has several.", show_default=False)
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(help="Encoding of the texts of a shapefile or CSV file, such as cp1252.", show_default=False),
    ] = None,
    pair: Annotated[
        list[str] | None,
        typer.Option(
            help="One more scene and its labels, for a training on several; classes are matched by name. Repeatable.",
            metavar="SCENE LABELS",
            show_default=False,
        ),
    ] = None,
    listed: Annotated[
        str | None,
        typer.Option(
            "--scenes",
            help="A list of scenes, CSV or TOML: scene and, if you like, labels (else those of --labels) and name.",
            show_default=False,
        ),
    ] = None,
    unlabelled: Annotated[
        list[str] | None,
        typer.Option(
            MANY,
            help="Scenes without labels, which the denoiser learns from, too: all files up to the next option.",
            metavar="SCENE...",
            show_default=False,
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="A benchmark scene instead, see `sdiff datasets`.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    preset: Annotated[PresetName, typer.Option(help="fast: minutes on a laptop; paper: as published.")] = PRESET,
    split: Annotated[
        str | None,
        typer.Option(
            help="Training pixels: folds or folds:N (all labels train; the accuracy is that of held-out polygons or "
            "patches), paper, per-class:N, fraction:F, disjoint or disjoint:F (spatially disjoint from the test "
            "pixels), scenes:test=NAME,NAME (whole scenes test), by-scene:F (a share F of the scenes tests), or "
            "file:TRAIN.tif (its nonzero pixels). By default folds for your own labels; for benchmark "
            "scenes paper where it gives counts, else fraction:0.1.",
            show_default=False,
        ),
    ] = None,
    split_by: Annotated[
        SplitBy,
        typer.Option(
            help="Where labels are polygons, folds, per-class:N and fraction:F draw whole ones, or pixels. With scene, "
            "folds hold out whole scenes."
        ),
    ] = SPLIT_BY,
    final: Annotated[
        FinalPixels | None,
        typer.Option(
            help="Pixels that train the model that is kept: all labelled ones, or the split's training pixels. By "
            "default all with folds, else train.",
            show_default=False,
        ),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(
            help="Your own independent test labels: a vector file, with the same --field, or a raster.",
            show_default=False,
        ),
    ] = None,
    prior: Annotated[
        str,
        typer.Option(
            help="Shares of the classes that the map assumes: training (those of the training pixels), equal, or a CSV "
            "file of class,share."
        ),
    ] = TRAIN.prior,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seeds the split, the weights and every draw.")
    ] = SEED,
    features: Annotated[FeatureKind, typer.Option(help="raw trains the ablation without diffusion.")] = FEATURES,
    compare_raw: Annotated[
        bool, typer.Option("--compare-raw", help="Also train the same classifier on raw bands and report both.")
    ] = TRAIN.compare_raw,
    mixed_units: Annotated[
        bool, typer.Option("--mixed-units", help="Several scenes may have values in different units.")
    ] = TRAIN.mixed_units,
    denoiser: Annotated[
        Path | None,
        typer.Option(help="Take the denoiser of this run of the same scene: it needs no labels.", show_default=False),
    ] = None,
    timestep: Annotated[int | None, typer.Option(help="Diffusion step of the features.", show_default=False)] = None,
    layer: Annotated[
        int | None, typer.Option(help="Layer index of the features, 0 or 1 (--preset paper: to 2).", show_default=False)
    ] = None,
    components: Annotated[int | None, typer.Option(min=1, help="Principal components.", show_default=False)] = None,
    diffusion_steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps of the denoiser.", show_default=False)
    ] = None,
    diffusion_batch: Annotated[
        int | None, typer.Option(min=1, help="Instances a step of the denoiser.", show_default=False)
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of the classifier.", show_default=False)] = None,
    bands: Annotated[
        str | None, typer.Option(help="Bands of your scene to use, from 1: 1-100,110-200; or all.", show_default=False)
    ] = None,
    nodata: Annotated[
        str | None, typer.Option(help="Value of pixels without data, or none; the file's own by default.")
    ] = None,
    scaled: Annotated[
        bool, typer.Option("--scaled", help="Apply your scene's scale and offset; maps of the model do so too.")
    ] = False,
    clouds: Clouds = CloudPixels.KEEP,
    device: Annotated[
        Device | None,
        typer.Option(help="Where to train; auto by default, with --resume what was asked before.", show_default=False),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads; all by default, with --resume those of before.", show_default=False),
    ] = None,
    max_memory: Annotated[
        str, typer.Option(help="What the process may hold: features of more labelled pixels lie on disk meanwhile.")
    ] = "4GB",
    run: Annotated[
        Path | None,
        typer.Option(help="Folder for this run; a new one under --runs-dir by default.", show_default=False),
    ] = None,
    runs_dir: RunsDir = RUNS,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the unfinished run in this folder.", show_default=False)
    ] = None,
    map_out: Annotated[
        Path | None,
        typer.Option(
            "--map",
            help="Map your scene at the end, by the exported model: a name as --out of `sdiff map` takes it. With "
            "--resume, give it again.",
            show_default=False,
        ),
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train on labelled scenes and write a run folder.

    First the denoiser learns the scenes' spectra and their surroundings without labels; then the classifier learns the
    classes from its features at the training pixels. Ctrl-C keeps what was done: `--resume` goes on from there.

    Several processes share the steps: `torchrun --nproc-per-node 4 --no-python -- sdiff train ...`
    """
    if follows():
        with training_package("train"):
            from spectraldiff.training.loop import serve
        serve()
        return
    options = TrainOptions(
        preset=preset.value,
        split=split,
        split_by=split_by.value,
        final=None if final is None else final.value,
        test=test,
        prior=prior,
        denoiser=None if denoiser is None else str(denoiser),
        seed=seed,
        features=features.value,
        compare_raw=compare_raw,
        mixed_units=mixed_units,
        timestep=timestep,
        layer=layer,
        components=components,
        diffusion_steps=diffusion_steps,
        diffusion_batch=diffusion_batch,
        epochs=epochs,
    )
    started, size = time.perf_counter(), parse_size(max_memory)
    with training_package("train"):
        from spectraldiff.cli.train_map import check_map, map_trained
        from spectraldiff.cli.train_output import TerminalMonitor, summarise
        from spectraldiff.data.label_vectors import LabelFields
        from spectraldiff.data.source import SceneSource, gathered
        from spectraldiff.processes.group import joined
        from spectraldiff.training import session
        from spectraldiff.training.request import new_request
        from spectraldiff_runtime.cli.map_output import summarise as summarise_map
    from spectraldiff.api.runs import exported  # not before: without PyTorch, the first import above says so

    files = scenes or (), labels or (), [_pair(text) for text in pair or ()], listed, unlabelled or ()
    source = SceneSource(
        dataset=dataset,
        scenes=gathered(*files) if resume is None else (),
        fields=LabelFields(field, layer_name, name_field, encoding),
        bands=None if bands is None else parse_bands(bands),
        nodata=parse_nodata(nodata),
        scaled=scaled,
        clouds=clouds.value,
        data_dir=None if data_dir is None else str(data_dir),
    )
    if resume is None:
        unfinished, request = None, new_request(source, options)
    else:
        names = ("the scene", "--labels", "--pair", "--scenes", MANY)
        typed = [name for name, one in zip(names, files, strict=True) if one]
        again = [*["--run"] * (run is not None), *typed, *_given(source), *_given(options)]
        unfinished, request = session.reopen(resume, again)
    if map_out is not None:
        check_map(request, map_out)
    where = None if device is None else device.value
    place = session.RunPlace(run, runs_dir, unfinished, threads, where, options.without_effect, size, exported)
    with joined() as processes, TerminalMonitor(quiet) as monitor:
        folder, result = session.train(request, place, monitor, processes=processes)
    if not quiet:
        summarise(folder, result, time.perf_counter() - started)
    facts = {"run": folder.path, **folder.read_json("metrics.json")}
    if map_out is not None:
        del result  # and with it the scene
        with TerminalMonitor(quiet) as monitor:
            mapped = map_trained(folder.path, request, map_out, size, monitor)
        if not quiet:
            summarise_map(mapped, (), profile=False)
        facts["map"] = map_out
    if json:
        print_json(facts)


def _given(options: Any) -> list[str]:
    """Return the options of a dataclass that differ from their defaults, as they are typed."""
    usual = type(options)()
    given = [f.name for f in fields(options) if getattr(options, f.name) != getattr(usual, f.name)]
    typed = [f"--{name.replace('_', '-')}" for name in given if name != "fields"]
    return [*typed, *(options.fields.options if "fields" in given else ())]


def _pair(text: str) -> tuple[str, str]:
    scene, between, labels = text.partition(BETWEEN)
    if not between:
        from spectraldiff_runtime.errors import UsageError

        raise UsageError(f"--pair has '{text}': wanted two files, --pair scene.tif labels.gpkg")
    return scene, labels
