"""Draw accuracy against operations per pixel from the table of the classifier's design space in the performance page.

A point is on the front if no other point is both cheaper and better.

    python -m benchmarks.pareto docs/performance.md docs/pareto.png
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HEADING = "## The classifier's design space"


class Point(NamedTuple):
    """One row: name, operations (MFLOP per pixel of the map), OA and AA (percent), and whether it is in bold."""

    name: str
    mflop: float
    oa: float
    aa: float
    chosen: bool


def read_points(page: str) -> list[Point]:
    """Return the rows of the first table below `HEADING`: name, window, MFLOP, OA, AA."""
    _, found, rest = page.partition(HEADING)
    if not found:
        raise ValueError(f"the page has no heading '{HEADING}'")
    lines = [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("|")]
    points = []
    for line in lines[2:]:
        name, _, *figures = (cell.strip() for cell in line.strip("|").split("|"))
        points.append(Point(name.strip("*"), *map(float, figures), chosen=name.startswith("**")))
    return points


def front(points: list[Point]) -> list[Point]:
    """Return the points for which no other is better in both, cheapest first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.mflop, -p.oa)):
        if not kept or point.oa > kept[-1].oa:
            kept.append(point)
    return kept


def draw(points: list[Point], path: Path) -> None:
    """Write the figure."""
    figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
    best = front(points)
    axes.step([p.mflop for p in best], [p.oa for p in best], where="post", color="0.6", label="front")
    axes.scatter([p.mflop for p in points], [p.oa for p in points], color="tab:blue", zorder=2, label="tried")
    for number, point in enumerate(points, start=1):
        axes.annotate(str(number), (point.mflop, point.oa), (5, 4), textcoords="offset points", fontsize=9)
        if point.chosen:
            axes.scatter(point.mflop, point.oa, color="tab:red", zorder=3, label=f"the default ({number})")
    axes.set(xscale="log", xlabel="MFLOP of the classifier for each pixel", ylabel="OA, %", title="The design space")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Read the page, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="the performance page, with the table of the design space")
    parser.add_argument("picture", type=Path, help="the PNG file to write; an existing file is replaced")
    options = parser.parse_args()
    draw(read_points(options.page.read_text("utf-8")), options.picture)


if __name__ == "__main__":
    main()
