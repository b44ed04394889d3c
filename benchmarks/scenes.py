"""The default against six simple methods: real scenes, splits and seeds, the same pixels for all.

    python -m benchmarks.scenes --out scenes --folder FOLDER        # FOLDER holds the scenes of `CASES`
    python -m benchmarks.scenes --out scenes --folder FOLDER --only "Salinas-A" --seeds 5
    python -m benchmarks.scenes --out scenes --own scene.tif labels.tif --split per-class:10 disjoint

Each training is kept in the output folder and never runs twice, as by `benchmarks.accuracy`. The table is in Markdown;
``--write docs/accuracy.md`` puts it between the two comments there that name this script. What "best simple" means is
chosen by the mean over seeds, on the test pixels: it is an upper bound of what a user would pick.
"""

import argparse
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray

from benchmarks.accuracy.methods import PRODUCT, Method, method_named
from benchmarks.accuracy.problem import Context, Problem, Report
from benchmarks.accuracy.run import Watcher, compare, problem_of
from benchmarks.accuracy.simple import SIMPLE, fit_simple, settings_of, title_of
from benchmarks.accuracy.store import Result, write_text
from spectraldiff.data.scene import LabelledScene
from spectraldiff.datasets import registry
from spectraldiff.models.presets import Preset, preset_named
from spectraldiff.splits.leakage import with_leakage
from spectraldiff.splits.split import Split
from spectraldiff.training.compute import choose_compute, keep_freed_memory
from spectraldiff.training.request import Request
from spectraldiff_runtime.errors import SceneError, SpectralDiffError

OURS = {PRODUCT: "default", "raw": "raw bands"}
GAINS = (("oa", "oa"), ("equal_aa", "aa"))  # figures of ours and of the simple method that they are compared with
BEGIN, END = "<!-- begin: python -m benchmarks.scenes -->", "<!-- end: python -m benchmarks.scenes -->"


@dataclass(frozen=True)
class Case:
    """A scene with its labels, and a split.

    Attributes
    ----------
    title
        What the table calls the scene.
    split
        As for ``sdiff train --split``, or the name of a raster whose nonzero pixels train.
    scene, labels
        Files in the folder of scenes; None for the embedded Indian Pines and its usual labels.
    test
        A raster of further labels that all test, where the labels lie in two rasters.
    """

    title: str
    split: str
    scene: str | None = None
    labels: str | None = None
    test: str | None = None

    @property
    def drawn(self) -> bool:
        """Whether the split depends on the seed."""
        return not self.split.endswith(".tif")

    @property
    def name(self) -> str:
        """Return what the output folder calls the case."""
        return re.sub(r"[^\w.-]+", "-", f"{self.title}-{self.split.removesuffix('.tif')}")


INDIAN_PINES, SALINAS = "Indian Pines", ("salinas_a.tif", "salinas_a_labels.tif")
CASES = (
    Case(INDIAN_PINES, "paper"),
    Case(INDIAN_PINES, "per-class:10"),
    Case(INDIAN_PINES, "per-class:30"),
    Case(INDIAN_PINES, "disjoint"),
    Case(INDIAN_PINES, "ip_hong_train.tif", labels="ip_hong_train.tif", test="ip_hong_test.tif"),
    Case(INDIAN_PINES, "ip_dase_train.tif", labels="ip_dase_train.tif", test="ip_dase_test.tif"),
    Case("EnMAP Potsdam", "enmap_potsdam_train_tiles.tif", "enmap_potsdam.tif", "enmap_potsdam_labels.tif"),
    Case("Salinas-A", "per-class:5", *SALINAS),
    Case("Salinas-A", "per-class:10", *SALINAS),
)


def load(case: Case, folder: Path) -> LabelledScene:
    """Return the scene of a case with all labels, training and test."""
    if case.scene is None:
        scene = registry.load("indian-pines")
        if case.labels is None:
            return scene
        labels = _raster(folder / case.labels)
        labels = labels if case.test is None else np.maximum(labels, _raster(folder / case.test))
        return replace(scene, labels=labels.astype(scene.labels.dtype))
    path, labels_path = folder / case.scene, folder / str(case.labels)
    return LabelledScene.from_files(path, labels_path, bands=_bands_with_data(path))


def _bands_with_data(path: Path) -> tuple[int, ...]:
    """Return the numbers of the bands, from 1, that are not nodata everywhere."""
    with rasterio.open(path) as dataset:
        return tuple(b for b in dataset.indexes if (dataset.read(b) != dataset.nodata).any())


def _raster(path: Path) -> NDArray[np.int64]:
    with rasterio.open(path) as dataset:
        return np.asarray(dataset.read(1), dtype=np.int64)


def problem(case: Case, folder: Path, scene: LabelledScene, preset: Preset, seed: int) -> Problem:
    """Return scene and split of one seed: the split that `sdiff train` draws, or that of the case's raster."""
    if case.drawn:
        dataset = "indian-pines" if case.scene is None else None
        return problem_of(scene, Request(preset, case.split, seed, compare_raw=False, dataset=dataset))
    marked, labelled = _raster(folder / case.split) > 0, (scene.labels > 0) & scene.valid
    split = Split(f"file:{case.split}", seed, labelled & marked, labelled & ~marked)
    return Problem(scene, with_leakage([split], preset.classifier.window)[0])


def methods_of(preset: Preset, bands: int) -> list[Method]:
    """Return ours and the six simple methods."""
    simple = [Method(n, title_of(n), SIMPLE[n][1], settings_of(n), partial(fit_simple, n)) for n in SIMPLE]
    return [*(method_named(name, preset, bands) for name in OURS), *simple]


@dataclass(frozen=True)
class Row:
    """The results of one case, all seeds of all methods."""

    case: Case
    results: Sequence[Result]

    def values(self, method: str, figure: str) -> NDArray[np.float64]:
        """Return a figure of a method for each seed, in percent."""
        found = sorted((r for r in self.results if r.method == method), key=lambda r: r.seed)
        return 100 * np.array([getattr(r, figure) for r in found], np.float64)  # None becomes NaN

    def best_simple(self, figure: str) -> str:
        """Return the simple method of the highest mean."""
        return max(SIMPLE, key=lambda name: float(self.values(name, figure).mean()))


def spread(values: NDArray[np.float64]) -> str:
    """Return a mean and, of several values, its standard error; a dash where nothing was run."""
    if not len(values):
        return "-"
    if len(values) < 2:
        return f"{values.mean():.1f}"
    return f"{values.mean():.1f} +- {values.std(ddof=1) / math.sqrt(len(values)):.1f}"


def table(rows: Sequence[Row]) -> str:
    """Return the Markdown table: OA and AA of the best simple method and of ours, and the paired differences.

    OA is compared under the prior of the training pixels, AA under equal shares of the classes.
    """
    head = "| Scene | Training pixels | Seeds | Leakage | Best simple, OA | Best simple, AA |"
    head += (
        "".join(f" {title}: OA / AA / kappa |" for title in OURS.values())
        + " macro-F1, ECE of the default | AA, equal prior | Default less best simple: OA; AA, equal prior |"
    )
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    for row in rows:
        cells = [row.case.title, row.case.split.removesuffix(".tif"), str(len(row.values(PRODUCT, "oa")))]
        cells.append(f"{row.values(PRODUCT, 'leakage').mean():.0f} %")
        for figure in ("oa", "aa"):
            best = row.best_simple(figure)
            cells.append(f"{spread(row.values(best, figure))} ({title_of(best)})")
        cells += [" / ".join(spread(row.values(name, f)) for f in ("oa", "aa", "kappa")) for name in OURS]
        cells.append(", ".join(spread(row.values(PRODUCT, f)) for f in ("macro_f1", "ece")))
        cells.append(spread(row.values(PRODUCT, "equal_aa")))
        gains = [row.values(PRODUCT, own) - row.values(row.best_simple(f), f) for own, f in GAINS]
        cells.append("; ".join(("+" if g.mean() >= 0 else "") + spread(g) for g in gains))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def put(path: Path, text: str, first: str = BEGIN, last: str = END) -> None:
    """Write the table between the two comments of a Markdown file.

    Raises
    ------
    SceneError
        The file has no such comments.
    """
    whole = path.read_text("utf-8")
    before, begin, rest = whole.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise SceneError(f"'{path}' has no place for the table: wanted the lines '{first}' and '{last}'")
    write_text(path, f"{before}{first}\n\n{text}\n\n{last}{after}".rstrip("\n"))


class Lines(Watcher):
    """Says one line for each training."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def begin(self, method: Method, problem: Problem) -> Report:
        return lambda stage, done, total: None

    def end(self, method: Method, result: Result, known: bool) -> None:
        took = "done before" if known else f"{result.train_seconds + result.map_seconds:.0f} s"
        figures = f"OA {100 * result.oa:.2f}, AA {100 * result.aa:.2f}"
        line = f"{self.case.title}, {self.case.split}, seed {result.seed}: {method.title} {figures} ({took})"
        print(line, file=sys.stderr, flush=True)


def run(case: Case, options: argparse.Namespace, preset: Preset) -> Row:
    """Train and score all methods on one case; a split from a raster differs in the seed of the training alone."""
    scene = load(case, options.folder)
    problems = [problem(case, options.folder, scene, preset, seed) for seed in range(options.seeds)]
    folder = options.out / case.name
    context = Context(
        folder,
        choose_compute("auto"),
        options.threads,
        denoisers=options.out / denoisers_of(case),
        denoiser_seed=0 if options.one_denoiser else None,
    )
    methods = [m for m in methods_of(preset, scene.cube.shape[2]) if not options.methods or m.name in options.methods]
    return Row(case, compare(problems, methods, folder, context, Lines(case)))


def denoisers_of(case: Case) -> str:
    """Return the folder of the denoisers that all splits of a scene share."""
    return re.sub(r"[^\w.-]+", "-", f"denoisers-{case.title}")


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Yield the cases that are asked for."""
    if options.own:
        scene, labels = options.own
        for split in options.split:
            yield Case(Path(scene).stem, split, str(Path(scene).absolute()), str(Path(labels).absolute()))
        return
    for case in CASES:
        files = [name for name in (case.scene, case.labels, case.test) if name]
        if files and options.folder is None:
            continue
        if options.only.lower() in f"{case.title}, {case.split}".lower():
            yield case


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    options = _parser().parse_args(arguments)
    options.folder = options.folder if options.folder or not options.own else Path()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    preset = preset_named("fast")
    try:
        rows = [run(case, options, preset) for case in cases(options)]
        text = table(rows) if {PRODUCT, *SIMPLE} <= set(options.methods or OURS | SIMPLE) else ""
        if text and options.write is not None:
            put(options.write, text)
    except SpectralDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scenes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--folder", type=Path, help="folder of the scenes; without it, the embedded scene alone")
    parser.add_argument("--only", default="", help="cases whose title or split holds this")
    parser.add_argument("--own", nargs=2, metavar=("SCENE", "LABELS"), help="your own scene instead")
    parser.add_argument("--split", nargs="+", default=["per-class:10", "disjoint"], help="of your own scene")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=[*OURS, *SIMPLE],
        help="some methods only; a table wants `product` and the simple ones",
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--one-denoiser", action="store_true", help="all seeds share the denoiser of seed 0")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads; all by default")
    parser.add_argument("--write", type=Path, help="Markdown file to put the table into")
    return parser


if __name__ == "__main__":
    sys.exit(main())
