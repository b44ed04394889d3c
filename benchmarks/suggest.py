"""Labels that `sdiff suggest` asks for against as many at random, with the ground truth as the one who labels.

    python -m benchmarks.suggest --out suggest                          # Indian Pines, 80 labels and then 40 a round
    python -m benchmarks.suggest --out suggest --round 80 --seeds 1     # fewer rounds

Each seed begins with the same number of random labels of each class. A round trains on all labels so far, asks for
points among the pixels that have a truth, and labels them. The last model is compared with one whose further labels
were drawn at random. OA and AA are those of all pixels with a truth that did not train. One denoiser a seed serves all
rounds, as with ``sdiff train --denoiser``. Each training is kept in the output folder and never runs twice.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.accuracy.ours import _claimed, _take_denoiser, _training
from benchmarks.accuracy.problem import Context, Problem
from benchmarks.accuracy.store import write_text
from spectraldiff.accuracy.metrics import score
from spectraldiff.data.scene import LabelledScene
from spectraldiff.datasets import registry
from spectraldiff.models.classifier import SceneLayers, predict_scene
from spectraldiff.models.presets import Preset, preset_named
from spectraldiff.splits.split import Split
from spectraldiff.training.compute import choose_compute, keep_freed_memory
from spectraldiff_runtime.errors import SpectralDiffError
from spectraldiff_runtime.output.block import Block
from spectraldiff_runtime.suggest.choice import SuggestionSink
from spectraldiff_runtime.window import Window


def begin(labels: NDArray[np.uint8], each: int, seed: int) -> NDArray[np.bool_]:
    """Return the first labels, (H, W) bool: so many random pixels of each class, and half of a smaller one."""
    generator, chosen = np.random.default_rng(seed), np.zeros(labels.size, np.bool_)
    for value in np.unique(labels[labels > 0]):
        own = np.flatnonzero(labels == value)
        chosen[generator.permutation(own)[: min(each, len(own) // 2)]] = True
    return chosen.reshape(labels.shape)


def at_random(labels: NDArray[np.uint8], chosen: NDArray[np.bool_], count: int, seed: int) -> NDArray[np.bool_]:
    """Return the labels with `count` more of random pixels that have a truth."""
    free = np.flatnonzero((labels > 0) & ~chosen)
    more = chosen.copy()
    more.ravel()[np.random.default_rng(seed + 1).permutation(free)[:count]] = True
    return more


def suggested(scene: LabelledScene, found: SceneLayers, chosen: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Return the labels with those of `count` points that are suggested among the pixels that have a truth."""
    height, width = chosen.shape
    window = Window(0, height, 0, width)
    sink = SuggestionSink(window, scene.classes, count)
    free = (scene.labels > 0) & ~chosen
    sink.write(window, Block(np.where(free, found.classes, 0), found.confidence, None, found.outside))
    more = chosen.copy()
    for point in sink.chosen():
        more[point.row, point.column] = True
    return more


def trained(
    name: str, scene: LabelledScene, chosen: NDArray[np.bool_], seed: int, preset: Preset, context: Context
) -> tuple[dict[str, float], SceneLayers]:
    """Train on some labels; return the figures on all others, and the map."""
    split = Split(name, seed, chosen, (scene.labels > 0) & ~chosen)
    problem = Problem(scene, split)
    run = _claimed(context.folder / f"{name}-seed{seed}", {"scene": problem.facts(), "preset": preset.to_json()})
    kept = run.path / "found.npz"
    if not kept.exists():
        if not preset.raw:
            _take_denoiser(run, preset, problem, context)
        training = _training(run, preset, problem, context, seed)
        model = training.train_classifier(preset, training.train_denoiser()).model
        layers = predict_scene(model, scene, torch.zeros_like(model.prior))
        named = {key: value for key, value in layers._asdict().items() if value is not None}
        np.savez_compressed(kept, **named)
    with np.load(kept) as file:
        found = SceneLayers(file["classes"], file["confidence"], file["other"], file.get("outside"))
    accuracy = score(scene.labels[split.test], found.classes[split.test], len(scene.classes))
    figures = {"labels": int(chosen.sum()), "oa": accuracy.oa, "aa": accuracy.aa}
    print(f"{name}, seed {seed}: {figures['labels']} labels, OA {100 * accuracy.oa:.2f}", file=sys.stderr, flush=True)
    return figures, found


def run_seed(scene: LabelledScene, seed: int, options: argparse.Namespace, preset: Preset) -> list[dict[str, float]]:
    """Run all rounds of a seed; return the figures of each round, and those of random labels last."""
    context = Context(options.out, choose_compute("auto"), options.threads, denoisers=options.denoisers or options.out)
    first = chosen = begin(scene.labels, options.each, seed)
    rows: list[dict[str, float]] = []
    while True:
        figures, found = trained(f"round{len(rows)}", scene, chosen, seed, preset, context)
        rows.append(figures)
        count = min(options.round, options.labels - int(chosen.sum()))
        if count <= 0:
            break
        chosen = suggested(scene, found, chosen, count)
    random = at_random(scene.labels, first, options.labels - int(first.sum()), seed)
    return [*rows, trained("random", scene, random, seed, preset, context)[0]]


def table(results: Sequence[Sequence[dict[str, float]]]) -> str:
    """Return a Markdown table of the means over seeds."""
    lines = ["| Labels | Chosen | OA | AA |", "|---|---|---|---|"]
    for rows in zip(*results, strict=True):
        labels = np.mean([row["labels"] for row in rows])
        cells = [f"{100 * np.mean([row[name] for row in rows]):.2f}" for name in ("oa", "aa")]
        last = len(lines) - 2 == len(results[0]) - 1
        how = "at random" if last or len(lines) == 2 else "as suggested"
        lines.append(f"| {labels:.0f} | {how} | {' | '.join(cells)} |")
    gains = [100 * (rows[-2]["oa"] - rows[-1]["oa"]) for rows in results]
    lines.append(f"\nGain over random labels, OA: {np.mean(gains):.2f} ({', '.join(f'{gain:.2f}' for gain in gains)})")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    options = _parser().parse_args(arguments)
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    raw = "raw" if options.features == "raw" else None
    preset = preset_named("fast").changed(features=raw, epochs=options.epochs)
    try:
        scene = registry.load("indian-pines")
        results = [run_seed(scene, seed, options, preset) for seed in range(options.seeds)]
        write_text(options.out / "found.json", json.dumps(results, indent=2))
    except SpectralDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(table(results))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.suggest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--denoisers", type=Path, help="folder of an earlier benchmark that holds denoisers")
    parser.add_argument("--labels", type=int, default=240, help="labels in all")
    parser.add_argument("--each", type=int, default=5, help="labels of each class to begin with")
    parser.add_argument("--round", type=int, default=40, help="labels a round")
    parser.add_argument("--features", choices=["diffusion", "raw"], default="diffusion")
    parser.add_argument("--epochs", type=int, help="epochs of the attention members, those of the preset by default")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads; all by default")
    return parser


if __name__ == "__main__":
    sys.exit(main())
