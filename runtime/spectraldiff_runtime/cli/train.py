"""`sdiff train`: a labelled scene in, a run folder out."""

from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import (
    DataDir,
    Device,
    Json,
    Quiet,
    RunsDir,
    parse_bands,
    parse_nodata,
    print_json,
    training_package,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spectraldiff.checkpoint import RunFolder
    from spectraldiff.pipeline import Monitor, Result
    from spectraldiff.request import Request


class Preset(StrEnum):
    """What decides the networks and their training."""

    FAST = "fast"
    PAPER = "paper"


class Features(StrEnum):
    """What the classifier reads."""

    DIFFUSION = "diffusion"
    RAW = "raw"


def train(
    scene: Annotated[
        Path | None, typer.Argument(help="Your own scene, a raster; with --labels.", show_default=False)
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Label raster on the scene's grid: 0 unlabelled, classes from 1.", show_default=False),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="A benchmark scene instead, see `sdiff datasets`.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    preset: Annotated[Preset, typer.Option(help="fast: minutes on a laptop; paper: as published.")] = Preset.FAST,
    split: Annotated[
        str | None,
        typer.Option(
            help="Training pixels: paper, per-class:N or fraction:F. By default paper where it gives counts, "
            "else fraction:0.1.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seeds the split, the weights and every draw.")] = 0,
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
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.AUTO,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.", show_default=False)] = None,
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
    source = {"dataset": dataset, "scene": scene, "labels": labels}
    options = {"bands": bands, "nodata": nodata, "scaled": scaled or None, "data_dir": data_dir, "split": split}
    changes = {
        "features": features.value if features is Features.RAW else None,
        "timestep": timestep,
        "layer": layer,
        "components": components,
        "diffusion_steps": diffusion_steps,
        "diffusion_batch": diffusion_batch,
        "epochs": epochs,
    }
    with training_package("train"):
        import torch

        from spectraldiff.training import choose_compute
    if threads is not None:
        torch.set_num_threads(threads)
    compute = choose_compute(device.value)
    if resume is not None:
        folder, request = _resumed(resume, {**source, **options, **changes})
    else:
        request = _request(source, options, preset.value, changes, seed, compare_raw)
        folder = None
    with _monitor(quiet) as monitor:
        folder, result = _train(request, folder, run, runs_dir, compute, monitor)
    if not quiet:
        _summarise(folder, result)
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
    from spectraldiff.presets import preset_named
    from spectraldiff.request import Request, check_source, default_split

    from ..errors import UsageError

    check_source(source["dataset"], source["scene"], source["labels"])
    if options["scaled"] and source["dataset"] is not None:
        raise UsageError("--scaled is for your own scene: a benchmark scene is used as published; leave it out")
    paths = {**{k: source[k] for k in ("scene", "labels")}, "data_dir": options["data_dir"]}
    return Request(
        preset=preset_named(preset).changed(**changes),
        split=options["split"] or default_split(source["dataset"]),
        seed=seed,
        compare_raw=compare_raw,
        dataset=source["dataset"],
        bands=None if options["bands"] is None else parse_bands(options["bands"]),
        nodata=parse_nodata(options["nodata"]),
        scaled=bool(options["scaled"]),
        **{name: None if path is None else str(path.absolute()) for name, path in paths.items()},
    )


def _resumed(path: Path, given: dict[str, Any]) -> "tuple[RunFolder, Request]":
    """Return the unfinished run at `path` and what it was asked for."""
    from spectraldiff.checkpoint import REQUEST, open_run
    from spectraldiff.request import Request

    from ..errors import RunError, UsageError

    named = [name for name, value in given.items() if value is not None]
    if named:
        option = named[0].replace("_", "-")
        raise UsageError(f"--resume goes on with what the run was begun with: leave out --{option}")
    folder = open_run(path, path.parent)
    if folder.finished:
        raise RunError(f"the run '{path}' is finished: export it with `sdiff export --run {path}`")
    return folder, Request.from_json(folder.read_json(REQUEST))


def _train(
    request: "Request", folder: "RunFolder | None", run: Path | None, runs_dir: Path, compute: Any, monitor: "Monitor"
) -> "tuple[RunFolder, Result]":
    """Load, split, make the run folder where there is none yet, and train."""
    from spectraldiff.checkpoint import REQUEST, create_run, next_run
    from spectraldiff.pipeline import Training, write_pixels

    scene = request.load_scene()
    split = request.make_split(scene)
    if folder is None:
        folder = create_run(run or next_run(runs_dir, scene.name, request.preset.name))
        write_pixels(folder, scene, split)
        folder.write_json(REQUEST, request.to_json())
    height, width, bands = scene.cube.shape
    monitor.message(
        f"{scene.name}: {height} x {width} pixels, {bands} bands, {len(scene.classes)} classes; "
        f"{split.train.sum():,} training and {split.test.sum():,} test pixels ({split.name}, seed {split.seed})"
    )
    dropped = int(((scene.labels > 0) & ~scene.valid).sum())
    if dropped:
        monitor.message(f"{dropped:,} labelled pixels have no data and were left out")
    monitor.message(f"Training the preset '{request.preset.name}' on {compute.device} into '{folder.path}'")
    try:
        training = Training(folder, scene, split, request.preset, request.seed, compute, monitor)
        return folder, training.finish(request.compare_raw)
    except KeyboardInterrupt:
        monitor.message(f"Stopped; go on with `sdiff train --resume {folder.path}`")
        raise


@contextmanager
def _monitor(quiet: bool) -> "Iterator[Monitor]":
    """Yield a monitor that draws one line a stage on stderr: bar, loss and time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from spectraldiff.pipeline import Monitor

    if quiet:
        yield Monitor()
        return
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}{task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True, highlight=False, soft_wrap=True)) as bars:

        class Live(Monitor):
            """Shows a training on the terminal."""

            def stage(self, title: str, unit: str) -> None:
                self.task = bars.add_task(title, total=None, unit=unit, loss="")
                self.mean: float | None = None

            def progress(self, done: int, total: int, loss: float | None = None) -> None:
                if loss is not None:
                    self.mean = loss if self.mean is None else 0.98 * self.mean + 0.02 * loss
                shown = "" if self.mean is None else f"  loss {self.mean:.4f}"
                bars.update(self.task, completed=done, total=total, loss=shown)

            def message(self, text: str) -> None:
                bars.console.print(text, markup=False)

        yield Live()


def _summarise(folder: "RunFolder", result: "Result") -> None:
    """Print the accuracies and where everything lies."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("Test pixels", "OA", "AA", "kappa x 100"):
        table.add_column(title, justify="left" if title == "Test pixels" else "right")
    rows = {"with diffusion features": result.accuracy, "on raw bands": result.raw_accuracy}
    if folder.read_json("metrics.json")["features"] == "raw":
        rows = {"on raw bands": result.accuracy}
    for name, accuracy in rows.items():
        if accuracy is not None:
            figures = (accuracy.oa, accuracy.aa, accuracy.kappa)
            table.add_row(name, *(f"{100 * value:.2f}" for value in figures))
    Console(stderr=True, highlight=False).print(table)
    minutes = sum(result.seconds.values()) / 60
    typer.echo(f"Trained in {minutes:.1f} minutes; the run is '{folder.path}', its pictures lie in", err=True)
    typer.echo(f"'{folder.path / 'figures'}'. Next: `sdiff export --run {folder.path} --out model.onnx`", err=True)
