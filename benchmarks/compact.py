"""What a compact model knows of ground that it was shown, and of ground that it was not; and what a pixel costs.

    python -m benchmarks.compact ground --run run       # agreement against the ground shown
    python -m benchmarks.compact windows --run run      # and against the windows that it reads
    python -m benchmarks.compact lessons --run run      # and against what is taught beside the ground as it is
    python -m benchmarks.compact speed --run run --full model.onnx --compact compact.onnx

The first three ask the run's model about all of its scenes, and fit students to parts of them: blocks of 12 x 12
pixels, or what lies left of a line. For `ground`, each of the five fifths of the blocks is held out in turn, and the
table gives mean and standard deviation over these, in percent. A fit has no seed. The last one runs the full file, the
compact one and a random forest of 100 trees on the spectra of the training pixels in turn, and gives medians of the
processor's time, with one thread each: other programs on the machine count less in it than in time on the clock.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor

from spectraldiff.models.normaliser import filled
from spectraldiff.training.run_folder import open_run
from spectraldiff.training.run_model import load_model
from spectraldiff_export.card import card_of
from spectraldiff_export.compact.check import CONFIDENT
from spectraldiff_export.compact.compaction import ground_of, new_student
from spectraldiff_export.compact.ground import BLOCK, FIFTHS, GroundScene, Patch, choose_windows, held_blocks, show
from spectraldiff_export.compact.student import Student, StudentShape
from spectraldiff_export.compact.teaching import Lessons, teach
from spectraldiff_export.exported_model import opened_teacher
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.window import reflect

SHARES = (5, 20, 50, 100)
WINDOWS = ((1,), (9,), (31,), (1, 5, 9), (1, 5, 9, 15), (1, 9, 31), (1, 5, 9, 15, 21, 31))
SIDE, ROUNDS, TREES = 128, 5, 100


@dataclass(frozen=True)
class Whole:
    """A run's scenes with what its model says of them, a student that knows nothing yet, and its lessons."""

    patches: list[Patch]
    student: Student
    lessons: Lessons

    def rows(self, of: Callable[[Patch], NDArray[Any]]) -> Tensor:
        """Return what a function gives for each pixel of a window, (h, w), at the pixels of the lessons, (n,)."""
        return torch.cat([torch.from_numpy(np.asarray(of(patch)))[patch.valid] for patch in self.patches])


def ask(run: Path, shapes: Sequence[StudentShape]) -> list[Whole]:
    """Ask a run's model about all of its scenes, for students of some shapes."""
    folder = open_run(run, run.parent)
    classifier, facts = load_model(folder)
    card, reach = card_of(classifier, facts), max(shape.halo for shape in shapes)
    ground = ground_of(folder, card, [], lambda text: print(text, file=sys.stderr))[0]
    with opened_teacher(classifier, card) as teacher:
        patches = show(ground, choose_windows(ground, reach), teacher, classifier.fill, reach)
    found = []
    for shape in shapes:
        rim = reach - shape.halo
        cut = [replace(p, raw=p.raw[:, rim : p.raw.shape[1] - rim, rim : p.raw.shape[2] - rim]) for p in patches]
        student = new_student(shape, classifier, cut)
        found.append(Whole(cut, student, Lessons.of(student, cut)))
    return found


def figures(whole: Whole, shown: Tensor, judged: Tensor) -> tuple[float, ...]:
    """Fit a student to some pixels, (n,) bool, and judge it on others.

    Returns agreement, agreement where the full model is confident, and the accuracies of student and full model on
    labelled pixels, in percent.
    """
    student, lessons = whole.student, replace(whole.lessons, held=~shown)
    student.weight.zero_()
    student.bias.zero_()
    teach(student, lessons, hold_out=True)
    weight = (student.weight * lessons.scales[:, None, None]).permute(0, 2, 1).flatten(0, 1)
    own = (lessons.read @ weight + student.bias).argmax(1) + 1
    sure, full = lessons.wanted.max(1)
    full, test = full + 1, torch.zeros_like(full)
    own_test = whole.rows(lambda patch: patch.test.numpy())
    test[: len(own_test)] = own_test  # what was added to the lessons tests nothing
    confident, tested = judged & (sure >= CONFIDENT), judged & (test > 0)
    pairs = ((own == full, judged), (own == full, confident), (own == test, tested), (full == test, tested))
    return tuple(100 * float(right[of].float().mean()) for right, of in pairs)


def said(name: str, found: Sequence[tuple[float, ...]]) -> None:
    """Print a row of a Markdown table: means, with standard deviations of several."""
    cells = []
    for values in zip(*found, strict=True):
        spread = f" +- {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
        cells.append(f"{np.mean(values):.2f}{spread}")
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def head(first: str) -> None:
    """Print the head of a table."""
    titles = (first, "Agreement", "Where the full model is confident", "OA", "OA of the full model")
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")


def fifth_of(patch: Patch, fifth: int) -> NDArray[np.bool_]:
    """Return the pixels of a window that are in one of the five fifths."""
    return held_blocks(patch.window, fifth)


def block_of(patch: Patch) -> NDArray[np.int64]:
    """Return the number of each pixel's block, (h, w)."""
    window = patch.window
    rows, columns = np.arange(window.row0, window.row1) // BLOCK, np.arange(window.col0, window.col1) // BLOCK
    return np.asarray((patch.scene * 10**5 + rows[:, None]) * 10**5 + columns)


def ground(run: Path) -> None:
    """Print agreement and accuracy on held-out ground against the ground that was shown."""
    (whole,) = ask(run, [StudentShape()])
    blocks, everything = whole.rows(block_of), torch.ones(len(whole.lessons.held), dtype=torch.bool)
    head("Ground shown")
    for share in SHARES:
        found = []
        for fifth in range(FIFTHS):
            judged = whole.rows(partial(fifth_of, fifth=fifth))
            left = torch.unique(blocks[~judged])
            order = left[torch.randperm(len(left), generator=torch.Generator().manual_seed(fifth))]
            found.append(figures(whole, torch.isin(blocks, order[: max(1, len(left) * share // 100)]), judged))
        said(f"{share} % of four fifths, judged on the other fifth", found)
    columns = whole.rows(lambda p: np.broadcast_to(np.arange(p.window.col0, p.window.col1), p.valid.shape).copy())
    left = columns < 2 * (int(columns.max()) + 1) / 3
    said("the left two thirds, judged on the right third", [figures(whole, left, ~left)])
    said("all, judged on all", [figures(whole, everything, everything)])


def windows(run: Path) -> None:
    """Print agreement on a held-out fifth, and on all ground, against the windows that a student reads."""
    shapes = [StudentShape(one) for one in WINDOWS] + [StudentShape(components=n) for n in (40, 80)]
    head("Windows; components; shown")
    for shape, whole in zip(shapes, ask(run, shapes), strict=True):
        judged = whole.lessons.held
        title = f"{', '.join(map(str, shape.windows))}; {shape.components}"
        said(f"{title}; four fifths, judged on the other fifth", [figures(whole, ~judged, judged)])
        everything = torch.ones_like(judged)
        said(f"{title}; all, judged on all", [figures(whole, everything, everything)])


def more_lessons(whole: Whole) -> dict[str, Lessons]:
    """Return lessons that say more than the full model does of the ground as it is."""
    plain, generator = whole.lessons, torch.Generator().manual_seed(0)
    train = whole.rows(lambda patch: patch.train.numpy())
    known = torch.nn.functional.one_hot(train.clamp_min(1) - 1, plain.wanted.shape[1]).float()
    other = torch.randperm(len(train), generator=generator)
    share = 0.5 * torch.rand(len(train), 1, generator=generator)
    gains = [
        replace(p, raw=p.raw * (1 + 0.03 * torch.randn(len(p.raw), 1, 1, generator=generator))) for p in whole.patches
    ]
    gained = Lessons.of(whole.student, gains)
    factors = (gained.scales / plain.scales).repeat_interleave(plain.read.shape[1] // len(plain.scales))
    noise = 0.3 * torch.randn(plain.read.shape, generator=generator)

    def added(read: Tensor, wanted: Tensor, held: Tensor) -> Lessons:
        parts = ((plain.read, read), (plain.wanted, wanted), (plain.held, held))
        rows, says, kept = (torch.cat(pair) for pair in parts)
        return Lessons(rows, plain.scales, says, kept)

    return {
        "the ground as it is": plain,
        "training labels in the place of probabilities": replace(
            plain, wanted=torch.where(train[:, None] > 0, known, plain.wanted)
        ),
        "and once more with a gain in each band (3 %)": added(gained.read * factors, plain.wanted, plain.held),
        "and once more with noise on the means (0.3 deviations)": added(plain.read + noise, plain.wanted, plain.held),
        "and once more mixed with other pixels": added(
            plain.read.lerp(plain.read[other], share),
            plain.wanted.lerp(plain.wanted[other], share),
            plain.held | plain.held[other],
        ),
    }


def lessons(run: Path) -> None:
    """Print agreement on a held-out fifth against what is taught."""
    (whole,) = ask(run, [StudentShape()])
    count = len(whole.lessons.held)
    head("Taught on four fifths, judged on the other fifth")
    for title, taught in more_lessons(whole).items():
        judged = taught.held.clone()
        judged[count:] = False
        shown = ~taught.held
        said(title, [figures(replace(whole, lessons=taught), shown, judged[: len(taught.held)])])


def forest(scene: GroundScene) -> tuple[RandomForestClassifier, NDArray[Any]]:
    """Fit a random forest to the spectra of the training pixels; return it with those of a tile's pixels, (n, B)."""
    assert scene.train is not None
    fitted = RandomForestClassifier(TREES, n_jobs=1, random_state=0)
    fitted.fit(scene.scene.cube[scene.train], scene.scene.labels[scene.train])
    rows, columns = (reflect(np.arange(SIDE), size) for size in scene.scene.cube.shape[:2])
    return fitted, scene.scene.cube[rows][:, columns].reshape(SIDE**2, -1)


def speed(run: Path, full: Path, compact: Path) -> None:
    """Print microseconds of processor time a pixel, interleaved, as JSON."""
    folder = open_run(run, run.parent)
    classifier, facts = load_model(folder)
    scene = ground_of(folder, card_of(classifier, facts), [], lambda text: None)[0][0]
    trees, spectra = forest(scene)
    pixels = filled(scene.scene, classifier.fill).numpy()
    ways: dict[str, Callable[[], Any]] = {"random forest of 100 trees": lambda: trees.predict(spectra)}
    for name, path in (("full", full), ("compact", compact)):
        model = Model.open(path, "cpu", 1)
        span = np.arange(-model.card.halo, SIDE + model.card.halo)
        rows, columns = (reflect(span, size) for size in pixels.shape[1:])
        tile = np.ascontiguousarray(pixels[:, rows][:, :, columns][None])
        ways[name] = partial(model.run, tile, confidence=True)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS + 1):
        for name, way in ways.items():
            begun = time.process_time()
            way()
            if turn:  # the first warms up
                found[name].append((time.process_time() - begun) / SIDE**2 * 1e6)
    medians = {name: median(values) for name, values in found.items()}
    ratios = {
        name: median(other / own for other, own in zip(found[name], found["compact"], strict=True))
        for name in ways
        if name != "compact"
    }
    print(json.dumps({"microseconds": medians, "times the compact one": ratios, "rounds": found}, indent=2))


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("ground", "windows", "lessons", "speed"))
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--full", type=Path, default=Path("model.onnx"))
    parser.add_argument("--compact", type=Path, default=Path("compact.onnx"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "speed":
        speed(options.run, options.full, options.compact)
    else:
        {"ground": ground, "windows": windows, "lessons": lessons}[options.what](options.run)


if __name__ == "__main__":
    main()
