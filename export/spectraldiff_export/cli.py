"""``sdiff export``: a finished run in, one verified model file out."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from spectraldiff.options import RUNS
from spectraldiff_runtime.cli.options import (
    Json,
    Overwrite,
    Quiet,
    RunsDir,
    print_json,
    repeat_option,
    say,
    training_package,
    warn,
)

if TYPE_CHECKING:
    from spectraldiff_export import Export


class Program(StrEnum):
    """Programs that ask more of a file than ONNX."""

    DEEPNESS = "deepness"


class Precision(StrEnum):
    """What most of the model is computed in."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class ExportCommand(TyperCommand):
    """Takes many files after ``--scenes``, which Typer's options cannot."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments with the option before each of its files."""
        return super().parse_args(ctx, repeat_option(args, SCENES))


COMMAND, SCENES = ExportCommand, "--scenes"


def export(
    out: Annotated[Path, typer.Option("--out", "-o", help="The model file: .onnx, or .pt for TorchScript.")],
    run: Annotated[
        Path | None, typer.Option(help="Run folder; the newest finished run by default.", show_default=False)
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="fp32; int8 is twice as fast on CPUs; fp16 is for GPUs. Both are checked.")
    ] = Precision.FP32,
    program: Annotated[
        Program | None,
        typer.Option("--for", help="deepness: a file for this plugin of QGIS, which maps there.", show_default=False),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Under what the file may be used: CC-BY-4.0 and so on.", show_default=False)
    ] = None,
    attribution: Annotated[
        str | None, typer.Option(help="Whom to name; the training scene's by default.", show_default=False)
    ] = None,
    compact: Annotated[
        bool,
        typer.Option("--compact", help="A small model that the full one teaches: many times as fast, for its scenes."),
    ] = False,
    scenes: Annotated[
        list[Path] | None,
        typer.Option(SCENES, help="With --compact: further scenes to map; no labels.", show_default=False),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="With --compact: write it also where it agrees too little with the model.")
    ] = False,
    runs_dir: RunsDir = RUNS,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Write a trained model as one file that maps scenes without PyTorch.

    The file holds the whole computation from raw pixels to classes, the weights and the model card. It is compared with
    PyTorch on pixels of the training scene and appears under its name when both agree. A lower precision must give the
    class of fp32 at 99.7 % of them and lose at most 0.1 points of overall accuracy.

    --compact writes a small model instead, taught by the full one on windows of the run's scenes and of those named
    with --scenes. It knows the ground that it was shown: `sdiff map` says so where it maps another scene. It is
    compared with the model on ground that is held out, and on the test pixels.

    Next to model.onnx come model.json,
    a STAC item, and model.md, a model card for people; `sdiff info` makes both again.
    """
    from spectraldiff_runtime.atomic import check_output
    from spectraldiff_runtime.cli.progress import ProgressLines, draws_bars

    with training_package("export"):
        from spectraldiff.training.run_folder import open_run
        from spectraldiff_export import check_suffix, export_run
        from spectraldiff_export.compact.compaction import Reports, compact_options
    check_suffix(out)
    check_output(out, overwrite)
    options = compact_options(compact, _listed(scenes), force)
    folder = open_run(run, runs_dir)
    if not quiet:
        say(f"Exporting the run '{folder.path}'")
    with ProgressLines(shown=not quiet and (compact or not draws_bars())) as lines:
        told = Reports(lines.stage, lines.update, warn)
        result = export_run(folder, out, overwrite, precision.value, licence, attribution, program, told, options)
    if not quiet:
        _summarise(result)
    if json:
        checked = {**vars(result.verification)}
        facts: dict[str, Any] = {key: getattr(result.card, key) for key in ("halo", "bands", "precision", "agreement")}
        pages = [str(page) for page in result.pages]
        if result.compact is not None:
            facts["compact"] = result.compact.as_dict()
        print_json(
            {"out": out, "pages": pages, "run": folder.path, "bytes": result.size, **facts, "verification": checked}
        )


def _listed(paths: list[Path] | None) -> list[Path]:
    """Return scenes; a pattern of names that no shell expanded stands for the files that match."""
    found: list[Path] = []
    for path in paths or ():
        matches = [] if path.exists() else sorted(path.parent.glob(path.name))
        found += matches or [path]
    return found


def _summarise(result: "Export") -> None:
    """Say what was written and how it was verified."""
    card, checked = result.card, result.verification
    what = f"{card.name}, preset {card.preset}, {card.bands} bands, {len(card.classes)} classes"
    say(f"Wrote '{result.path}' ({result.size / 1e6:.1f} MB): {what}, halo {card.halo} pixels")
    ties = f", {checked.near_ties} near-ties decided otherwise" if checked.near_ties else ", all classes equal"
    for page in result.pages:
        say(f"Wrote '{page}'")
    say(
        f"Verified against PyTorch on {checked.pixels:,} pixels: probabilities differ by {checked.probability:.1e} "
        f"at most{ties}"
    )
    if result.compact is not None:
        for line in result.compact.lines([c.name for c in card.classes]):
            say(line)
        for reason in result.compact.forced:
            warn(f"written with --force: {reason}")
    if result.agreement is not None:
        found = result.agreement
        accuracy = "" if found.oa is None else f", OA {100 * found.oa:.2f} and {100 * (found.oa_fp32 or 0):.2f} there"
        say(
            f"In {card.precision} and in fp32 the same class at {100 * found.equal_classes:.2f} % of {found.pixels:,} "
            f"pixels{accuracy}"
        )
