"""Train and score the methods of the paper's comparison on identical splits, and print its tables.

    python -m benchmarks.accuracy --dataset indian-pines --seeds 5
    python -m benchmarks.accuracy --dataset indian-pines --seeds 5 --ablation --grid
    python -m benchmarks.accuracy --dataset indian-pines --seeds 5 --ablation --split per-class:10 disjoint

Each split has a subfolder of the output folder with one result per method and seed, which is not computed twice. The
same command continues after an interruption, and more methods, seeds or splits can be added later. tables.txt,
results.json and maps.png in the subfolder show the requested results.
"""

import argparse
import io
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.accuracy.maps import side_by_side
from benchmarks.accuracy.methods import TITLES, Method, method_named, wanted_names
from benchmarks.accuracy.problem import Context, Problem
from benchmarks.accuracy.problem import Report as Told
from benchmarks.accuracy.run import Watcher, compare, problem_of
from benchmarks.accuracy.store import Result, write_text
from benchmarks.accuracy.tables import Report, ablation, as_json, comparison, grid
from spectraldiff.datasets import registry
from spectraldiff.models.presets import Preset, preset_named
from spectraldiff.training.compute import choose_compute, keep_freed_memory
from spectraldiff.training.request import Request
from spectraldiff_runtime.errors import SpectralDiffError, UsageError

WIDTH = 230  # of the tables in the text file


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        for report in _compare(options):
            _write(report, options)
    except SpectralDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command continues from here", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", default="indian-pines", help="see `sdiff datasets`")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help=f"from {', '.join(TITLES)}; all by default")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 .. N - 1, each with its own split")
    parser.add_argument("--split", nargs="+", default=["paper"], help="one or several, as for `sdiff train`")
    parser.add_argument("--preset", default="fast", help="preset of the raw transformer and of SpectralDiff")
    parser.add_argument("--ablation", action="store_true", help="add Table V: raw and diffusion features")
    parser.add_argument("--grid", action="store_true", help="add Table VI: layer index by timestep")
    parser.add_argument("--out", type=Path, help="folder of the results; runs/accuracy-DATASET by default")
    parser.add_argument("--threads", type=int, help="CPU threads; all by default")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    return parser


def _compare(options: argparse.Namespace) -> list[Report]:
    """Run all requested methods; return a report for each split."""
    if options.seeds < 1:
        raise UsageError(f"--seeds is {options.seeds}; give a whole number from 1 upwards")
    if options.threads is not None and options.threads < 1:
        raise UsageError(f"--threads is {options.threads}; give a whole number from 1 upwards")
    keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    preset, compute = preset_named(options.preset), choose_compute(options.device)
    names = wanted_names(options.methods, options.ablation, options.grid, preset)
    bands = registry.describe(options.dataset).bands
    methods = [method_named(name, preset, bands) for name in names]
    splits = list(dict.fromkeys(options.split))
    requests = [[_request(options, preset, split, seed) for seed in range(options.seeds)] for split in splits]
    scene = requests[0][0].load_scene()
    problems = [[problem_of(scene, request) for request in of_split] for of_split in requests]
    reports = []
    with _progress() as bars:
        live = _Live(bars, len(methods) * len(splits) * options.seeds)
        for split, of_split in zip(splits, problems, strict=True):
            folder = _folder(options, split)
            context = Context(folder, compute, torch.get_num_threads(), denoisers=folder.parent / "denoisers")
            results = compare(of_split, methods, folder, context, live)
            reports.append(Report(scene, options.dataset, split, results))
    return reports


def _request(options: argparse.Namespace, preset: Preset, split: str, seed: int) -> Request:
    data_dir = None if options.data_dir is None else str(options.data_dir)
    return Request(preset, split, seed, compare_raw=False, dataset=options.dataset, data_dir=data_dir)


def _folder(options: argparse.Namespace, split: str) -> Path:
    """Return the folder of a split's results."""
    return Path(options.out or Path("runs") / f"accuracy-{options.dataset}") / re.sub(r"[^\w.-]+", "-", split)


class _Live(Watcher):
    """Shows a bar for all trainings, a bar for the current stage, and a line for each finished training."""

    def __init__(self, bars: Progress, total: int) -> None:
        self.bars = bars
        self.whole, self.stage = bars.add_task("All methods and seeds", total=total), bars.add_task("", total=None)

    def begin(self, method: Method, problem: Problem) -> Told:
        title = f"{method.title}, {problem.split.name}, seed {problem.seed}"

        def report(what: str, done: int, total: int) -> None:
            self.bars.update(self.stage, description=f"{title}: {what}", completed=done, total=total)

        return report

    def end(self, method: Method, result: Result, known: bool) -> None:
        self.bars.advance(self.whole)
        took = "done before" if known else f"{result.train_seconds + result.map_seconds:.0f} s"
        self.bars.console.print(f"{method.title}, seed {result.seed}: OA {100 * result.oa:.2f} ({took})")


def _progress() -> Progress:
    columns = (TextColumn("{task.description:<44}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True, highlight=False))


def _write(report: Report, options: argparse.Namespace) -> None:
    """Print the requested tables of a split, and write tables, figures and maps to its folder."""
    tables: list[Table] = []
    if options.methods is not None or not (options.ablation or options.grid):
        tables.append(comparison(report))
    tables += [ablation(report)] if options.ablation else []
    tables += [grid(report)] if options.grid else []
    Console().print(*tables)
    folder, text = _folder(options, report.split), io.StringIO()
    Console(file=text, width=WIDTH).print(*tables)
    write_text(folder / "tables.txt", text.getvalue().rstrip())
    write_text(folder / "results.json", json.dumps(as_json(report), indent=2, allow_nan=False))
    if report.methods():
        side_by_side(folder / "maps.png", report)


if __name__ == "__main__":
    sys.exit(main())
