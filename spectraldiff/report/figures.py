"""Every picture that a run or a report shows: loss curves, maps, confusion matrix, reliability, spectra.

Each function writes a PNG file when it is called with a path, and returns the bytes of one as `function.png(...)`.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from numpy.typing import NDArray

from spectraldiff.accuracy.mapped_scene import Picture
from spectraldiff.accuracy.metrics import Accuracy, Calibration
from spectraldiff.data.scene import LabelledScene
from spectraldiff.report.false_colour import false_colour as false_colour
from spectraldiff.report.false_colour import stretch_limits as stretch_limits
from spectraldiff.report.plotting import BLUE, GREY, INK, ORANGE, legend_columns, new_figure, picture, short_names
from spectraldiff_runtime.classes import LandCoverClass

if TYPE_CHECKING:  # it imports PyTorch, which figures of a map do without
    from spectraldiff.models.reconstruction import Spectra

NO_CLASS = (255, 255, 255)
WIDEST = 42.0  # inches of a confusion matrix, of 100 classes


@picture
def loss_curve(history: Sequence[tuple[int, float]], title: str, label: str = "loss") -> Figure:
    """Draw a loss over training steps: each value, and their moving average, on a logarithmic axis.

    Parameters
    ----------
    path : Path
        The PNG file.
    history
        (step, value) pairs, in order. Values that are not finite or not above 0 are left out.
    title, label
        Above the picture, and along its vertical axis.
    """
    kept = np.array([(s, v) for s, v in history if math.isfinite(v) and v > 0], dtype=np.float64).reshape(-1, 2)
    figure = new_figure(7.0, 3.8, title)
    axes = figure.add_subplot()
    axes.set(xlabel="step", ylabel=label, yscale="log")
    axes.plot(kept[:, 0], kept[:, 1], color=BLUE, alpha=0.3, linewidth=0.8, label="each value")
    axes.plot(kept[:, 0], moving_average(kept[:, 1]), color=BLUE, linewidth=2.0, label="moving average")
    _readable_log(axes, kept[:, 1])
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.margins(x=0.01)
    axes.legend(loc="upper right")
    return figure


def moving_average(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the exponential moving average of (N,) positive values over about a hundredth of them.

    It is taken of the logarithms, as the axis shows them, from both ends and averaged: so it does not lag
    behind a loss that falls fast.
    """
    logs = np.log(values)
    return np.asarray(np.exp((_average(logs) + _average(logs[::-1])[::-1]) / 2))


def _average(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the running average of (N,) values, without the bias of its start."""
    keep = 1.0 - 1.0 / max(1.0, len(values) / 100)
    averages, total, weight = np.empty_like(values), 0.0, 0.0
    for i, value in enumerate(values):
        total, weight = keep * total + value, keep * weight + 1.0
        averages[i] = total / weight
    return averages


def _readable_log(axes: Axes, values: NDArray[np.float64]) -> None:
    """Label the logarithmic axis with plain numbers, the more of them the fewer decades it spans."""
    decades = math.log10(values.max() / values.min()) if values.size else 0.0
    subs: tuple[float, ...] = (1.0, 2.0, 5.0) if decades < 3 else (1.0,)
    if decades < 0.7:
        subs = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))


@picture
def class_maps(scene: LabelledScene, picture: Picture, title: str) -> Figure:
    """Draw the scene in false colour, its labels and the map, with one legend.

    Parameters
    ----------
    path : Path
        The PNG file.
    scene
        Its classes give names and colours.
    picture
        The scene, its labels and its map; 0 is drawn white.
    title
        Above the picture.
    """
    height, width = picture.labels.shape
    wide = width > 1.6 * height
    panel = (9.0, 9.0 * height / width) if wide else (3.3, 3.3 * height / width)
    rows, columns = (3, 1) if wide else (1, 3)
    names = ["No class", *short_names([c.name for c in scene.classes])]
    columns_of_legend = legend_columns(names, panel[0] * columns, 6 if wide else 5)
    legend_rows = math.ceil(len(names) / columns_of_legend)
    size = (panel[0] * columns + 0.2, (panel[1] + 0.25) * rows + 0.2 * legend_rows + 0.4)
    figure = new_figure(*size, title)
    images = (
        ("False colour", false_colour(picture.cube, picture.wavelengths, valid=picture.valid)),
        ("Labels", paint(picture.labels, scene.classes)),
        ("Map", paint(picture.classes, scene.classes)),
    )
    for number, (name, image) in enumerate(images, start=1):
        _show(figure.add_subplot(rows, columns, number), image, name)
    colours = [NO_CLASS, *(c.colour for c in scene.classes)]
    handles = [_swatch(*of) for of in zip(names, colours, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns_of_legend, handlelength=1.2)
    return figure


def paint(values: NDArray[Any], classes: Sequence[LandCoverClass]) -> NDArray[np.uint8]:
    """Return the (H, W, 3) uint8 picture of a class map (H, W); values without a class are white."""
    highest = max(int(values.max(initial=0)), *(c.value for c in classes), 0)
    table = np.full((highest + 1, 3), NO_CLASS, dtype=np.uint8)
    for c in classes:
        table[c.value] = c.colour
    return np.asarray(table[values])


def _swatch(name: str, colour: tuple[int, int, int]) -> Patch:
    face = "#" + bytes(colour).hex()
    return Patch(facecolor=face, edgecolor="#999999", linewidth=0.5, label=name)


def _show(axes: Axes, image: NDArray[Any], title: str, **look: Any) -> None:
    axes.imshow(image, interpolation="nearest" if image.shape[0] < 1000 else "antialiased", **look)
    axes.set_title(title)
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set(visible=True, color="#BBBBBB", linewidth=0.6)


@picture
def confusion_matrix(accuracy: Accuracy, classes: Sequence[LandCoverClass]) -> Figure:
    """Draw the confusion matrix: counts, coloured by their share of the row, and each class's accuracy.

    Parameters
    ----------
    path : Path
        The PNG file.
    accuracy
        What `metrics.score` returned. The column "Unclassified" is drawn where it is not empty.
    classes
        The K classes.
    """
    counts = accuracy.confusion
    names = ["Unclassified", *short_names([c.name for c in classes])]
    first = 0 if counts[:, 0].any() else 1
    counts, names = counts[:, first:], names[first:]
    side = min(max(4.0, 0.42 * len(classes)), WIDEST)
    title = f"OA {100 * accuracy.oa:.2f}   AA {100 * accuracy.aa:.2f}   kappa x 100 {100 * accuracy.kappa:.2f}"
    figure = new_figure(side + 2.9, side + 1.9, f"{title}   ({accuracy.pixels:,} pixels)")
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if side < WIDEST:  # beyond, texts have no room
        _write_counts(axes, counts, shares)
        _label_matrix(axes, names, names[1 - first :], accuracy)
    return figure


def _write_counts(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    size = 7.5 if counts.max() < 10_000 else 6.5
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.55 else INK
        text = str(counts[row, column])
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)


def _label_matrix(axes: Axes, columns: Sequence[str], rows: Sequence[str], accuracy: Accuracy) -> None:
    axes.grid(visible=False)
    axes.set(xlabel="map", ylabel="labels")
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#E3E5E8", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(rows)), [_percent(share) for share in accuracy.per_class])
    right.set_ylabel("found, %")
    right.tick_params(length=0)


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:.1f}"


@picture
def confidence_map(confidence: NDArray[Any], title: str) -> Figure:
    """Draw the confidence of each pixel, dark where the map is unsure.

    Parameters
    ----------
    path : Path
        The PNG file.
    confidence
        (H, W), 0..1; 0 and NaN, where there is no class, are drawn white.
    title
        Above the picture.
    """
    known = np.ma.masked_where(~(np.asarray(confidence) > 0), confidence)
    return _layer(known, title, "confidence", cmap="cividis", vmin=0, vmax=1)


@picture
def outside_map(percents: NDArray[Any], title: str) -> Figure:
    """Draw how far each pixel is from the training classes, bright where it is unlike them.

    Parameters
    ----------
    path : Path
        The PNG file.
    percents
        (H, W), 0..100; what is higher, pixels without data, is drawn white.
    title
        Above the picture.
    """
    known = np.ma.masked_where(np.asarray(percents) > 100, percents)
    return _layer(known, title, "percent of training-like pixels closer", cmap="magma", vmin=0, vmax=100)


def _layer(values: Any, title: str, label: str, **look: Any) -> Figure:
    """Draw a masked layer, (H, W), with a bar of its colours."""
    height, width = values.shape
    size = (7.0, 7.0 * height / width) if width > height else (5.0 * width / height, 5.0)
    figure = new_figure(max(3.0, size[0]) + 0.9, max(1.6, size[1]) + 0.4, title)
    axes = figure.add_subplot()
    _show(axes, values, "", **look)
    bar = figure.colorbar(axes.images[0], ax=axes, shrink=0.9, pad=0.02, label=label)
    bar.outline.set_visible(False)
    return figure


@picture
def reliability_diagram(calibration: Calibration, title: str = "") -> Figure:
    """Draw how often pixels of each confidence are right, against how often they should be, and how many there are.

    Parameters
    ----------
    path : Path
        The PNG file.
    calibration
        What `metrics.calibration` returned.
    title
        Above the picture.
    """
    figure = new_figure(4.8, 5.2, title)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    edges = np.linspace(0, 1, len(calibration.counts) + 1)
    middle, width = (edges[:-1] + edges[1:]) / 2, 1 / len(calibration.counts)
    upper.plot([0, 1], [0, 1], color=GREY, linewidth=1.2, linestyle=(0, (4, 3)), label="as it should be")
    upper.bar(middle, np.nan_to_num(calibration.accuracy), 0.92 * width, color=BLUE, alpha=0.35)
    upper.plot(calibration.confidence, calibration.accuracy, "o", color=BLUE, markersize=5, label="found")
    upper.set(ylabel="share of right pixels", ylim=(0, 1.02), xlim=(0, 1))
    upper.legend(loc="upper left", title=f"ECE {100 * calibration.ece:.2f} %", alignment="left")
    lower.bar(middle, np.array(calibration.counts) / max(1, sum(calibration.counts)), 0.92 * width, color=GREY)
    lower.set(xlabel="confidence", ylabel="share of pixels")
    return figure


@picture
def reconstruction_strip(
    images: Sequence[tuple[int, NDArray[Any]]],
    original: NDArray[Any],
    wavelengths: NDArray[np.float64] | None,
    title: str = "",
) -> Figure:
    """Draw a denoising sequence in false colour next to the original, as the paper's Figs. 9 and 10 do.

    Parameters
    ----------
    path : Path
        The PNG file.
    images
        (step, cube (H, W, B)) pairs in the order of drawing, from noise to step 0.
    original
        (H, W, B), in the units of the images; its stretch is used for all.
    wavelengths
        (B,) nm, or None.
    """
    limits = stretch_limits(original, wavelengths)
    panels = [(f"t = {step}", cube) for step, cube in images] + [("original", original)]
    columns = math.ceil(len(panels) / math.ceil(len(panels) / 8))
    rows = math.ceil(len(panels) / columns)
    height, width = original.shape[:2]
    side = 1.75
    figure = new_figure(side * columns, (side * height / width + 0.3) * rows + (0.35 if title else 0.0), title)
    for number, (name, cube) in enumerate(panels, start=1):
        _show(figure.add_subplot(rows, columns, number), false_colour(cube, wavelengths, limits=limits), name)
    return figure


@picture
def spectral_curves(
    spectra: "Sequence[Spectra]", wavelengths: NDArray[np.float64] | None, title: str = "", label: str = "value"
) -> Figure:
    """Draw original, noised and reconstructed spectra of some pixels, as the paper's Fig. 11 does.

    Parameters
    ----------
    path : Path
        The PNG file.
    spectra
        One panel each.
    wavelengths
        (B,) nm in any order; None draws over band numbers. Lines break where bands are missing.
    title, label
        Above the picture, and along the vertical axes.
    """
    columns = min(3, len(spectra))
    rows = math.ceil(len(spectra) / columns)
    figure = new_figure(3.4 * columns + 0.4, 2.2 * rows + 0.8, title)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for panel, item, name in zip(axes.flat, spectra, short_names([item.label for item in spectra]), strict=False):
        panel.set_title(name)
        _draw_spectra(panel, item, wavelengths)
    for panel in axes.flat[len(spectra) :]:
        panel.set_visible(False)
    for panel in axes.flat[max(0, len(spectra) - columns) : len(spectra)]:
        panel.set_xlabel("band" if wavelengths is None else "wavelength, nm")
        panel.tick_params(labelbottom=True)
    figure.supylabel(label, fontsize=9)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _draw_spectra(axes: Axes, item: "Spectra", wavelengths: NDArray[np.float64] | None) -> None:
    curves: tuple[tuple[NDArray[Any], dict[str, Any]], ...] = (
        (item.noised, {"color": GREY, "linewidth": 0.7, "alpha": 0.9, "label": "noised"}),
        (item.original, {"color": BLUE, "linewidth": 1.8, "label": "original"}),
        (item.reconstructed, {"color": ORANGE, "linewidth": 1.1, "label": "reconstructed"}),
    )
    for values, look in curves:
        axes.plot(*broken_line(values, wavelengths), **look)


def broken_line(
    values: NDArray[Any], wavelengths: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x and y of a spectrum, x rising, with NaN wherever more than about two bands are missing."""
    if wavelengths is None:
        return np.arange(1.0, len(values) + 1), np.asarray(values, dtype=np.float64)
    order = np.argsort(wavelengths, kind="stable")
    x, y = wavelengths[order], np.asarray(values, dtype=np.float64)[order]
    steps = np.diff(x)
    gaps = np.flatnonzero(steps > 3 * np.median(steps)) + 1 if steps.size else np.array([], dtype=np.intp)
    return np.insert(x, gaps, np.nan), np.insert(y, gaps, np.nan)
