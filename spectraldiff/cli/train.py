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
from spectraldiff_runtime.messages import go_on, sdiff

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spectraldiff.data.scene import Scene
    from spectraldiff.splits.draw import Split
    from spectraldiff.training.loop import Compute
    from spectraldiff.training.request import Request
    from spectraldiff.training.results import Result
    from spectraldiff.training.run_folder import RunFolder


class Preset(StrEnum):
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
    preset: Annotated[Preset, typer.Option(help="fast: minutes on a laptop; paper: as published.")] = Preset.FAST,
    split: Annotated[
        str | None,
        typer.Option(
            help="Training pixels: paper, per-class:N, fraction:F, disjoint or disjoint:F (other places than the test "
            "pixels), or file:TRAIN.tif (its nonzero pixels). By default paper where it gives counts, else "
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
        from spectraldiff.cli.train_output import summarise
        from spectraldiff.training.loop import keep_freed_memory
    keep_freed_memory()
    if resume is not None:
        others = {
            "run": run,
            "preset": None if preset is Preset.FAST else preset,
            "seed": seed or None,
            "compare_raw": compare_raw or None,
        }
        folder, request = _resumed(resume, {**source, **options, **changes, **others})
    else:
        request = _request(source, options, preset.value, changes, seed, compare_raw)
        folder = None
        _check_run(run)
        _warn_without_effect(changes, compare_raw)
    request, compute = _set_up(request, threads, device, resume is not None)
    scenes = request.load_scenes()
    scenes = (replace(scenes[0], remarks=(*scenes[0].remarks, *request.resumed)), *scenes[1:])
    splits = request.make_splits(scenes)
    if folder is not None:
        _check_unchanged(folder, scenes, splits)
    _show(scenes, splits, quiet)
    folder = folder or _new_run(request, scenes, splits, run, runs_dir)
    result = _train(request, folder, scenes, splits, compute, quiet)
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
    from spectraldiff.splits.draw import parse_spec
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


def _check_run(run: Path | None) -> None:
    """Refuse a --run that something is at already, before the scene is read."""
    if run is not None:
        from spectraldiff.training.run_folder import check_new

        check_new(run)


def _warn_without_effect(changes: dict[str, Any], compare_raw: bool) -> None:
    """Name the options that change nothing where raw bands are trained."""
    of_diffusion = ("timestep", "layer", "diffusion_steps", "diffusion_batch")
    given = [f"--{name.replace('_', '-')}" for name in of_diffusion if changes[name] is not None]
    given += ["--compare-raw"] * compare_raw
    if given and changes["features"] == Features.RAW:
        have = "has" if len(given) == 1 else "have"
        warn(f"{' and '.join(given)} {have} no effect with --features raw, which trains no diffusion: left out")


def _set_up(request: "Request", threads: int | None, device: Device | None, resumed: bool) -> "tuple[Request, Compute]":
    """Set threads and device, those given, else those that the run was begun with; return the request that knows."""
    with training_package("train"):
        import torch

        from spectraldiff.training.loop import choose_compute
    asked = threads or request.threads
    if asked is not None:
        torch.set_num_threads(asked)
    compute = choose_compute(request.device if device is None else device.value)
    used, place = torch.get_num_threads(), compute.device.type
    if resumed:
        return request.gone_on(used, place), compute
    chosen = Device.AUTO if device is None else device
    return replace(request, threads=threads, device=chosen.value, used_threads=used, used_device=place), compute


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


def _resumed(path: Path, given: dict[str, Any]) -> "tuple[RunFolder, Request]":
    """Return the unfinished run at `path` and what it was asked for."""
    from spectraldiff.training.request import Request
    from spectraldiff.training.run_folder import REQUEST, open_run
    from spectraldiff_runtime.errors import RunError, UsageError

    named = ["the scene" if k == "scene" else f"--{k.replace('_', '-')}" for k, v in given.items() if v is not None]
    if named:
        raise UsageError(f"--resume goes on with what the run was begun with: leave out {' and '.join(named)}")
    folder = open_run(path, path.parent)
    if folder.finished:
        raise RunError(f"the run '{path}' is finished: export it with `{sdiff('export', '--run', path)}`")
    return folder, Request.from_json(folder.read_json(REQUEST))


def _check_unchanged(folder: "RunFolder", scenes: "Sequence[Scene]", splits: "Sequence[Split]") -> None:
    """Refuse to go on with other data than the run was begun with; runs of earlier versions do not know theirs."""
    from spectraldiff.training.data_digest import check_unchanged, data_digests
    from spectraldiff.training.run_folder import DATA

    if (folder.path / DATA).is_file():
        check_unchanged(folder.read_json(DATA), data_digests(scenes, splits))


def _show(scenes: "Sequence[Scene]", splits: "Sequence[Split]", quiet: bool) -> None:
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


def _new_run(
    request: "Request", scenes: "Sequence[Scene]", splits: "Sequence[Split]", run: Path | None, runs_dir: Path
) -> "RunFolder":
    """Make the run folder, with what was asked for and the pixels of both sides."""
    from spectraldiff.training.data_digest import data_digests
    from spectraldiff.training.run_folder import DATA, REQUEST, create_run, next_run
    from spectraldiff.training.trainer import write_pixels

    folder = create_run(run or next_run(runs_dir, scenes[0].name, request.preset.name))
    write_pixels(folder, scenes, splits)
    folder.write_json(DATA, data_digests(scenes, splits))
    folder.write_json(REQUEST, request.to_json())
    return folder


def _train(
    request: "Request",
    folder: "RunFolder",
    scenes: "Sequence[Scene]",
    splits: "Sequence[Split]",
    compute: "Compute",
    quiet: bool,
) -> "Result":
    """Train into the run folder."""
    from spectraldiff.cli.train_output import progress
    from spectraldiff.training.request import Request
    from spectraldiff.training.run_folder import FACTS, REQUEST
    from spectraldiff.training.trainer import Training

    with folder.held(), progress(quiet) as monitor:
        if Request.from_json(folder.read_json(REQUEST)).resumed != request.resumed:
            folder.write_json(REQUEST, request.to_json())
        monitor.message(f"Training the preset '{request.preset.name}' on {compute.device} into '{folder.path}'")
        try:
            training = Training(folder, scenes, splits, request.preset, request.seed, compute, monitor)
            result = training.finish(request.compare_raw, request.command())
        except KeyboardInterrupt:
            monitor.message(f"Stopped; go on with `{go_on(folder.path)}`")
            raise
    for line in (result.temperature.note, request.fewer_components(folder.read_json(FACTS))):
        if line:
            warn(line)
    return result
