"""What ``sdiff map`` shows on stderr: a bar while it runs, and a summary and a profile at the end."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spectraldiff_runtime.cli.options import say
from spectraldiff_runtime.cli.progress import ProgressLines, draws_bars
from spectraldiff_runtime.messages import cell, console

if TYPE_CHECKING:
    from spectraldiff_runtime.mapping.result import MapResult


@contextmanager
def progress(quiet: bool, title: str = "") -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Show a bar on stderr with pixels a second and the time left; yield what begins it and what advances it.

    Where stderr is no terminal, a line a minute takes its place; with the `title` of one of many scenes, these alone.
    """
    if not quiet and not draws_bars():
        with ProgressLines(ends=not title) as lines:
            yield _counted(lines, title or "Map")
        return
    quiet = quiet or bool(title)
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        BarColumn(None),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    bar = Progress(*columns, console=console(), disable=quiet, expand=True)

    def begin(pixels: int) -> None:
        bar.start()
        bar.add_task("map", total=pixels, rate="")

    def advance(done: int) -> None:
        task = bar.tasks[0]
        bar.advance(task.id, done)
        speed = task.finished_speed or task.speed
        bar.update(task.id, rate=f"{speed:,.0f} pixels/s" if speed else "")

    try:
        yield begin, advance
    finally:
        if bar.live.is_started:  # or an empty line would come before the error
            bar.stop()


def _counted(lines: ProgressLines, title: str) -> tuple[Callable[[int], None], Callable[[int], None]]:
    done = total = 0

    def begin(pixels: int) -> None:
        nonlocal total
        total = pixels
        lines.stage(title, "pixels", total)

    def advance(more: int) -> None:
        nonlocal done
        done += more
        lines.update(done, total)

    return begin, advance


def summarise(result: "MapResult", extra: Iterable[Path], profile: bool) -> None:
    """Print pixels, share and, where the CRS is projected, hectares of each class."""
    from rich.table import Table
    from rich.text import Text

    if result.skipped:
        say(f"'{result.out}' is mapped already by this model with these options")
        for path in result.added:
            say(f"Wrote '{path}'")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("Class")
    columns = ["Pixels", "Share"] + (["Hectares"] if result.hectares_per_pixel is not None else [])
    for name in columns:
        table.add_column(name, justify="right")
    for name, style, value in _lines(result):
        cells = _cells(result, value)
        table.add_row(Text("\u25a0 ", style).append(cell(name, "default")), *cells[: len(columns)])
    console().print(table)
    if result.unlike is not None:
        share = result.unlike / (result.height * result.width)
        say(f"Unlike the training, and therefore unclassified: {result.unlike:,} pixels ({share:.1%})")
    for line in _sieved(result):
        say(line)
    if profile:
        print_profile(result)
    say(f"Wrote '{result.out}' ({rate(result)})")
    for path in extra:
        say(f"Wrote '{path}'")


def _sieved(result: "MapResult") -> Iterator[str]:
    """Say how many polygons there are, and what is missing in them."""
    if result.polygons is None:
        return
    counts = result.polygons
    yield f"Polygons: {counts.patches:,}"
    if counts.left_out:
        share = counts.left_out_pixels / (result.height * result.width)
        yield (
            f"Left out: {counts.left_out:,} patches of fewer than {counts.sieve:,} pixels "
            f"({counts.left_out_pixels:,} pixels, {share:.1%}); "
            "the table, and the model's accuracy, are of the map with them"
        )


def rate(result: "MapResult") -> str:
    """Say how long a map took."""
    return f"{result.seconds:.1f} s, {result.pixels_per_second:,.0f} pixels/s"


def _lines(result: "MapResult") -> list[tuple[str, str, int]]:
    """Return name, style and value of each line of the summary."""
    lines = [(c.name, "rgb({},{},{})".format(*c.colour), c.value) for c in result.legend]
    return lines + ([("Unclassified", "dim", 0)] if result.pixels[0] else [])


def _cells(result: "MapResult", value: int) -> list[str]:
    pixels = result.pixels[value]
    share = pixels / (result.height * result.width)
    return [f"{pixels:,}", f"{share:.1%}", f"{pixels * (result.hectares_per_pixel or 0):,.1f}"]


def print_profile(result: "MapResult") -> None:
    """Print a line a stage, and which of them bound the run."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("Stage")
    for name in ("Busy s", "of run", "No input s", "No room s", "MB", "Pixels/s"):
        table.add_column(name, justify="right")
    for row in result.profile:
        speed = row["pixels_per_second"]
        table.add_row(
            row["stage"],
            f"{row['busy_s']:.2f}",
            f"{row['busy_share'] or 0:.0%}",
            f"{row['waiting_for_input_s']:.2f}",
            f"{row['waiting_for_room_s']:.2f}",
            f"{row['bytes'] / 1e6:,.1f}",
            "" if speed is None or not row["pixels"] else f"{speed:,.0f}",
        )
    console().print(table)
    bound = result.bottleneck
    if bound is not None:
        say(f"The run was bound by '{bound['stage']}', busy {bound['busy_share']:.0%} of the time")
