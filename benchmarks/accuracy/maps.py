"""The maps of all methods side by side, as in the paper's Figs. 6 to 8."""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from benchmarks.accuracy.methods import TITLES
from benchmarks.accuracy.tables import Report
from spectraldiff.report.false_colour import false_colour
from spectraldiff.report.figures import paint
from spectraldiff.report.plotting import new_figure, picture

SIDE = 2.1  # inches, the longer side of a panel; twice that for scenes much wider than high
COLUMNS, WIDE_COLUMNS, LEGEND_COLUMNS = 6, 2, 6


def panels(report: Report) -> list[tuple[str, NDArray[Any]]]:
    """Return title and (H, W, 3) image of the scene, its labels, and each method's map of the first seed."""
    scene = report.scene
    pictures: list[tuple[str, NDArray[Any]]] = [
        ("False colour", false_colour(scene.cube, scene.wavelengths, valid=scene.valid)),
        ("Labels", paint(scene.labels, scene.classes)),
    ]
    for name in report.methods():
        first = report.of(name)[0]
        title = f"{TITLES[name]}\nOA {100 * first.oa:.2f}"
        pictures.append((title, paint(np.load(first.map_path), scene.classes)))
    return pictures


@picture
def side_by_side(report: Report) -> Figure:
    """Draw all panels with one legend.

    Parameters
    ----------
    path : Path
        The PNG file.
    report
        The results to draw.
    """
    pictures = panels(report)
    height, width = report.scene.labels.shape
    wide = width > 2 * height
    columns = min(len(pictures), WIDE_COLUMNS if wide else COLUMNS)
    rows = math.ceil(len(pictures) / columns)
    scale = SIDE * (2 if wide else 1) / max(height, width)
    legend = 0.2 * math.ceil(len(report.scene.classes) / LEGEND_COLUMNS)
    size = (max(columns * (scale * width + 0.1), 8.5), rows * (scale * height + 0.42) + legend + 0.5)
    figure = new_figure(*size, f"{report.scene.name}, split {report.split}")
    for number, (title, image) in enumerate(pictures, start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.imshow(image, interpolation="nearest" if height < 1000 else "antialiased")
        axes.set_title(title)
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
    figure.legend(handles=_swatches(report), loc="outside lower center", ncols=LEGEND_COLUMNS, handlelength=1.2)
    return figure


def _swatches(report: Report) -> list[Patch]:
    return [
        Patch(facecolor="#" + bytes(c.colour).hex(), edgecolor="#999999", linewidth=0.5, label=c.name)
        for c in report.scene.classes
    ]
