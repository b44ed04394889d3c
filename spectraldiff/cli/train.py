"""`sdiff train`: a labelled scene in, a run folder out."""

import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from spectraldiff_runtime.cli.options import (
    DataDir,
    Device,
    Json,
    Quiet,
    RunsDir,
    parse_bands,
    parse_nodata,
    print_json,
    training_package,
    warn,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spectraldiff.data.scene import LabelledScene
    from spectraldiff.splits.split import Split
    from spectraldiff.training.request import Request


class PresetName(StrEnum):
    """What decides the networks and their training."""

    FAST = "fast"
    PAPER = "paper"


class Features(StrEnum):
    """What the classifier reads."""

    DIFFUSION = "diffusion"
    RAW = "raw"


class SplitBy(StrEnum):
    """What a split draws where labels come from polygons."""

    POLYGON = "polygon"
    PIXEL = "pixel"


# Stands between the two files of a --pair: no file's name holds it.
BETWEEN = "\0"


class Train(TyperCommand):
    """Takes two values after each ``--pair``, which Typer's repeatable options cannot."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments with the two files of each pair joined to one."""
        return super().parse_args(ctx, join_pairs(args))


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
    scene: Annotated[
        str | None, typer.Argument(help="Your own scene, a raster; with --labels.", show_default=False)
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Its labels: polygons or points in a vector file (with --field), or a raster, 0 unlabelled, classes "
            "from 1.",
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
    pair: Annotated[
        list[str] | None,
        typer.Option(
            help="One more scene and its labels, for a training on several; classes are matched by name. Repeatable.",
            metavar="SCENE LABELS",
            show_default=False,
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="A benchmark scene instead, see `sdiff datasets`.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    preset: Annotated[
        PresetName, typer.Option(help="fast: minutes on a laptop; paper: as published.")
    ] = PresetName.FAST,
    split: Annotated[
        str | None,
        typer.Option(
            help="Training pixels: paper, per-class:N, fraction:F, disjoint or disjoint:F (spatially disjoint from "
            "the test pixels), or file:TRAIN.tif (its nonzero pixels). By default paper where it gives counts, else "
            "fraction:0.1.",
            show_default=False,
        ),
    ] = None,
    split_by: Annotated[
        SplitBy,
        typer.Option(help="Where labels are polygons, per-class:N and fraction:F draw whole ones, or pixels."),
    ] = SplitBy.POLYGON,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seeds the split, the weights and every draw.")] = 0,
    features: Annotated[Features, typer.Option(help="raw trains the ablation without diffusion.")] = Features.DIFFUSION,
    compare_raw: Annotated[
        bool, typer.Option("--compare-raw", help="Also train the same classifier on raw bands and report both.")
    ] = False,
    timestep: Annotated[int | None, typer.Option(help="Diffusion step of the features.", show_default=False)] = None,
    layer: Annotated[int | None, typer.Option(help="Layer index of the features, 0 to 2.", show_default=False)] = None,
    components: Annotated[int | None, typer.Option(min=1, help="Principal components.", show_default=False)] = None,
    diffusion_steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps of the denoiser.", show_default=False)
    ] = None,
    diffusion_batch: Annotated[
        int | None, typer.Option(min=1, help="Instances a step of the denoiser.", show_default=False)
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of the classifier.", show_default=False)] = None,
    bands: Annotated[
        str | None, typer.Option(help="Bands of your scene to use, from 1: 1-100,110-200.", show_default=False)
    ] = None,
    nodata: Annotated[
        str | None, typer.Option(help="Value of pixels without data, or none; the file's own by default.")
    ] = None,
    scaled: Annotated[
        bool, typer.Option("--scaled", help="Apply your scene's scale and offset; maps of the model do so too.")
    ] = False,
    device: Annotated[
        Device | None,
        typer.Option(help="Where to train; auto by default, with --resume what was asked before.", show_default=False),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads; all by default, with --resume those of before.", show_default=False),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Folder for this run; a new one under --runs-dir by default.", show_default=False),
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the unfinished run in this folder.", show_default=False)
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train on a labelled scene and write a run folder.

    First the denoiser learns the scene's spectra and their surroundings without labels; then the classifier learns the
    classes from its features at the training pixels. Ctrl-C keeps what was done: `--resume` goes on from there.
    """
    source = {"dataset": dataset, "scene": scene, "labels": labels, "pair": pair or None}
    options = {
        "field": field,
        "name_field": name_field,
        "layer_name": layer_name,
        "bands": bands,
        "nodata": nodata,
        "scaled": scaled or None,
        "data_dir": data_dir,
        "split": split,
        "split_by": None if split_by is SplitBy.POLYGON else split_by.value,
    }
    changes = {
        "features": features.value if features is Features.RAW else None,
        "timestep": timestep,
        "layer": layer,
        "components": components,
        "diffusion_steps": diffusion_steps,
        "diffusion_batch": diffusion_batch,
        "epochs": epochs,
    }
    started = time.perf_counter()
    with training_package("train"):
        from spectraldiff.cli.train_output import progress, summarise
        from spectraldiff.training import session
        from spectraldiff.training.compute import keep_freed_memory
        from spectraldiff.training.run_folder import FACTS, check_new
    keep_freed_memory()
    if resume is not None:
        others = {
            "run": run,
            "preset": None if preset is PresetName.FAST else preset,
            "seed": seed or None,
            "compare_raw": compare_raw or None,
        }
        folder, request = session.reopen(resume, {**source, **options, **changes, **others})
    else:
        request = _request(source, options, preset.value, changes, seed, compare_raw)
        folder = None
        if run is not None:
            check_new(run)
        _warn_without_effect(changes, compare_raw)
    request, compute = session.set_up(request, threads, None if device is None else device.value, resume is not None)
    scenes = request.load_scenes()
    scenes = (replace(scenes[0], remarks=(*scenes[0].remarks, *request.resumed)), *scenes[1:])
    splits = request.make_splits(scenes)
    if folder is not None:
        session.check_unchanged(folder, scenes, splits)
    _show(scenes, splits, quiet)
    folder = folder or session.new_run(request, scenes, splits, run, runs_dir)
    with progress(quiet) as monitor:
        result = session.train(request, folder, scenes, splits, compute, monitor)
    for line in (result.temperature.note, request.fewer_components(folder.read_json(FACTS))):
        if line:
            warn(line)
    if not quiet:
        summarise(folder, result, time.perf_counter() - started)
    if json:
        print_json({"run": folder.path, **folder.read_json("metrics.json")})


def _request(
    source: dict[str, Any],
    options: dict[str, Any],
    preset: str,
    changes: dict[str, Any],
    seed: int,
    compare_raw: bool,
) -> "Request":
    """Put the options together; every usage error is found here, before anything is read or written."""
    from spectraldiff.models.presets import preset_named
    from spectraldiff.splits.spec import parse_spec
    from spectraldiff.training.request import Request, check_source, default_split, whole_path
    from spectraldiff_runtime.errors import UsageError

    check_source(source["dataset"], source["scene"], source["labels"], source["pair"] or ())
    for name in ("bands", "nodata", "scaled", "field", "name_field", "layer_name"):
        if options[name] and source["dataset"] is not None:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} is for your own scene: a benchmark scene is used as published; leave it out")
    split = options["split"] or default_split(source["dataset"])
    spec = parse_spec(split, source["dataset"])
    return Request(
        preset=preset_named(preset).changed(**changes),
        split=f"file:{whole_path(spec.file)}" if spec.file else split,
        split_by=options["split_by"] or SplitBy.POLYGON.value,
        seed=seed,
        compare_raw=compare_raw,
        dataset=source["dataset"],
        bands=None if options["bands"] is None else parse_bands(options["bands"]),
        nodata=parse_nodata(options["nodata"]),
        scaled=bool(options["scaled"]),
        pairs=tuple(_pair(text) for text in source["pair"] or ()),
        field=options["field"],
        name_field=options["name_field"],
        layer_name=options["layer_name"],
        scene=_whole(source["scene"]),
        labels=_whole(source["labels"]),
        data_dir=_whole(options["data_dir"]),
    )


def _warn_without_effect(changes: dict[str, Any], compare_raw: bool) -> None:
    """Name the options that change nothing where raw bands are trained."""
    of_diffusion = ("timestep", "layer", "diffusion_steps", "diffusion_batch")
    given = [f"--{name.replace('_', '-')}" for name in of_diffusion if changes[name] is not None]
    given += ["--compare-raw"] * compare_raw
    if given and changes["features"] == Features.RAW:
        have = "has" if len(given) == 1 else "have"
        warn(f"{' and '.join(given)} {have} no effect with --features raw, which trains no diffusion: left out")


def _whole(path: str | Path | None) -> str | None:
    from spectraldiff.training.request import whole_path

    return None if path is None else whole_path(path)


def _pair(text: str) -> tuple[str, str]:
    from spectraldiff.training.request import whole_path

    scene, between, labels = text.partition(BETWEEN)
    if not between:
        from spectraldiff_runtime.errors import UsageError

        raise UsageError(f"--pair has '{text}': wanted two files, --pair scene.tif labels.gpkg")
    return whole_path(scene), whole_path(labels)


def _show(scenes: "Sequence[LabelledScene]", splits: "Sequence[Split]", quiet: bool) -> None:
    """Say what the training begins with: scenes, labels of each class, and what is doubtful in them."""
    from spectraldiff.cli.train_output import describe, label_table
    from spectraldiff.data.merge_scenes import differing_bands
    from spectraldiff.splits.label_counts import count_labels, doubts

    counts = count_labels(scenes, splits)
    if not quiet:
        describe(scenes, splits)
        label_table(counts)
    remarks = [*(remark for scene in scenes for remark in scene.remarks), differing_bands(scenes)]
    for line in [*remarks, *splits[0].notes, *doubts(counts)]:
        if line:
            warn(line)
