"""What ``sdiff train`` shows on stderr: the labels before it begins, a bar a stage, the accuracies at the end."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spectraldiff.api.progress import BarMonitor
from spectraldiff_runtime.cli.options import say, warn
from spectraldiff_runtime.messages import cell, console, sdiff

if TYPE_CHECKING:
    from spectraldiff.accuracy.metrics import Accuracy
    from spectraldiff.data.scene import LabelledScene
    from spectraldiff.splits.label_counts import ClassLabels
    from spectraldiff.splits.split import Split
    from spectraldiff.training.results import Result
    from spectraldiff.training.run_folder import RunFolder


def describe(scenes: "Sequence[LabelledScene]", splits: "Sequence[Split]") -> None:
    """Print size and pixels of each scene, of several in a table, and the split with its leakage."""
    from spectraldiff.wording import counted

    if len(scenes) > 1:
        scene_table(scenes, splits)
    for scene, split in zip(scenes, splits, strict=True) if len(scenes) == 1 else ():
        height, width, bands = scene.cube.shape
        shape = (
            f"{height} x {width} pixels, {counted(bands, 'band')}, {counted(len(scene.classes), 'class', 'classes')}"
        )
        sides = f"{split.train.sum():,} training and {counted(int(split.test.sum()), 'test pixel')}"
        if split.measured:
            sides = f"{counted(int(split.train.sum()), 'training pixel')}, accuracy by {split.measured}"
        say(f"{scene.name}: {shape}; {sides} ({split_text([split])})")
    labelled = [scene.labels > 0 for scene in scenes]
    dropped = sum(int((one & ~scene.valid).sum()) for one, scene in zip(labelled, scenes, strict=True))
    if dropped:
        found = counted(dropped, "labelled pixel has no data and was", "labelled pixels have no data and were")
        say(f"{found} left out")
    neither = sum(
        int((one & scene.valid & ~split.train & ~split.test).sum())
        for one, scene, split in zip(labelled, scenes, splits, strict=True)
    )
    if neither:
        found = counted(neither, "labelled pixel is", "labelled pixels are")
        say(f"{found} on neither side of the split")


def scene_table(scenes: "Sequence[LabelledScene]", splits: "Sequence[Split]") -> None:
    """Print one row a scene: size, labelled, training and, if any, test pixels, and the classes that it has not."""
    from rich.table import Table

    from spectraldiff.splits.label_counts import missing_classes
    from spectraldiff.wording import counted, listed

    bands, classes, tests = scenes[0].cube.shape[2], len(scenes[0].classes), any(split.test.any() for split in splits)
    say(
        f"{len(scenes):,} scenes, {counted(bands, 'band')}, {counted(classes, 'class', 'classes')}; "
        f"{'accuracy by ' + splits[0].measured if splits[0].measured else 'split ' + split_text(splits)}"
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("Scene")
    for title in ["Size", "Labelled", "Training"] + ["Test"] * tests:
        table.add_column(title, justify="right")
    table.add_column("No label of")
    for scene, split in zip(scenes, splits, strict=True):
        (height, width, _), missing = scene.cube.shape, missing_classes(scene)
        sides = [split.train, split.test] if tests else [split.train]
        pixels = [int((scene.labels_with_data > 0).sum()), *(int(side.sum()) for side in sides)]
        without = "any class: trains the denoiser alone" if len(missing) == classes else listed(missing)
        table.add_row(cell(scene.name), f"{height} x {width}", *(f"{n:,}" for n in pixels), cell(without))
    console().print(table)


def split_text(splits: "Sequence[Split]") -> str:
    """Name the split, its seed and, where pixels test, the leakage of all its scenes."""
    from spectraldiff.splits.leakage import mean_leakage

    if splits[0].measured:
        return f"{splits[0].name}, seed {splits[0].seed}"
    leakage = mean_leakage(splits)
    share = "not known" if leakage is None else f"{100 * leakage:.0f} %"
    return f"{splits[0].name}, seed {splits[0].seed}, leakage {share}"


def label_table(counts: "Sequence[ClassLabels]") -> None:
    """Print one row a class: labelled, training and, if any, test pixels, and polygons where they are known."""
    from rich.table import Table

    polygons = any(c.polygons is not None for c in counts)
    table = Table(box=None, pad_edge=False)
    table.add_column("Class")
    tests = any(c.test for c in counts)
    for title in ["Labelled", "Training"] + ["Test"] * tests + ["Polygons"] * polygons:
        table.add_column(title, justify="right")
    for c in counts:
        numbers = [c.labelled, c.training] + [c.test] * tests + [c.polygons or 0] * polygons
        table.add_row(cell(c.name), *(f"{number:,}" for number in numbers))
    console().print(table)


class TerminalMonitor(BarMonitor):
    """Shows a training on the terminal: labels, bars and warnings; with `quiet`, warnings alone."""

    def __init__(self, quiet: bool) -> None:
        super().__init__(shown=not quiet)

    def data(
        self, scenes: "Sequence[LabelledScene]", splits: "Sequence[Split]", counts: "Sequence[ClassLabels]"
    ) -> None:
        """Print scenes, split and labels."""
        if self.shown:
            describe(scenes, splits)
            label_table(counts)

    def warn(self, text: str) -> None:
        """Print a warning, below bars that are done."""
        self.stop()
        warn(text)


def summarise(folder: "RunFolder", result: "Result", seconds: float) -> None:
    """Print the accuracies, how long the command took, and where everything lies."""
    from rich.table import Table

    from spectraldiff.training.run_folder import REPORT

    table = Table(box=None, pad_edge=False)
    scored = "Held-out pixels" if result.measured else "Test pixels"
    for title in (scored, "OA", "AA", "kappa x 100"):
        table.add_column(title, justify="left" if title == scored else "right")
    metrics = folder.read_json("metrics.json")
    found = result.found
    rows: list[tuple[str, Accuracy | None]]
    rows = [("with diffusion features", found.accuracy), ("on raw bands", result.raw_accuracy)]
    if metrics["features"] == "raw":
        rows = [("on raw bands", found.accuracy)]
    if len(found.of_scenes) > 1:
        each = zip(metrics["scenes"], found.of_scenes, strict=True)
        rows += [(scene["name"], own) for scene, own in each if scene["scored_pixels"]]
    rows.append((f"with {result.prior.other.title}", found.other))
    if result.test is not None:
        rows.append(("the map on independent test labels", result.test.score(found.maps[0].predicted)))
    for name, accuracy in rows:
        if accuracy is not None:
            figures = (accuracy.oa, accuracy.aa, accuracy.kappa)
            table.add_row(cell(name), *(f"{100 * value:.2f}" for value in figures))
    console().print(table)
    _say_measured(result)
    say(f"The map assumes {result.prior.title}")
    leakage = metrics["leakage"]
    leaked = "" if leakage is None else f": {100 * leakage:.0f} % of the test pixels have a training pixel in reach"
    say(f"Split {metrics['split']}, seed {metrics['seed']}{leaked}")
    say(f"Confidence and accuracy differ by {100 * found.calibration.ece:.2f} % on average (ECE)")
    if result.selection is not None:
        say(result.selection.summary())
    stages = sum(result.seconds.values())
    before = ", with what was done before it was interrupted" if stages > seconds else ""
    say(
        f"Took {seconds / 60:.1f} minutes from start to report (training and mapping {stages / 60:.1f}{before}); "
        f"the run is '{folder.path}', its report is"
    )
    export = sdiff("export", "--run", folder.path, "--out", "model.onnx")
    say(f"'{folder.path / REPORT}'. Next: `{export}`")


def _say_measured(result: "Result") -> None:
    """Say how sure the accuracy is, and what it was measured on."""
    found = result.found
    if found.interval is not None:
        say(f"OA {100 * found.accuracy.oa:.2f}: {found.interval.words()}")
    if result.measured:
        say(f"Accuracy by {result.measured}; {result.trained_on}")
    elif result.trained_on:
        say(f"Accuracy by the split; {result.trained_on}")
