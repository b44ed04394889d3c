"""Parts that the report of a run and the report of a map's accuracy share."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from spectraldiff.accuracy.metrics import Accuracy, Calibration
from spectraldiff.report import figures, html_page
from spectraldiff.report.html_page import Html
from spectraldiff_runtime.classes import LandCoverClass

FOOT = "Written by SpectralDiff. The page needs neither a network nor scripts; its pictures are part of the file."

CLASS_CAPTION = (
    "Found: the share of the class's labelled pixels that the map finds (producer's accuracy). "
    "Right: the share of the pixels mapped as the class that are of it (user's accuracy)."
)


def headline(accuracy: Accuracy, calibration: Calibration | None, more: Mapping[str, Html]) -> Html:
    """Return the figures that matter most, and some more."""
    unit = html_page.element("small", html_page.text(" %"))
    classes, tested = len(accuracy.per_class), accuracy.tested
    average = (
        "Average accuracy (AA)" if tested == classes else f"Average accuracy (AA) of {tested} of {classes} classes"
    )
    shown = {
        "Overall accuracy (OA)": html_page.join((html_page.percent(accuracy.oa), unit)),
        average: html_page.join((html_page.percent(accuracy.aa), unit)),
        "Kappa \N{MULTIPLICATION SIGN} 100": html_page.percent(accuracy.kappa),
    }
    if calibration is not None:
        shown["Calibration error (ECE)"] = html_page.join((html_page.percent(calibration.ece), unit))
    return html_page.tiles({**shown, **more})


def class_caption(accuracy: Accuracy) -> str:
    """Return what stands above a table of classes: what its columns are, and which classes their means leave out."""
    classes, mapped = len(accuracy.per_class), sum(share == share for share in accuracy.users)
    left_out = [
        f"the mean of {column} is that of {count} of {classes} classes, for no scored pixel is {what} the others"
        for column, count, what in (("Found", accuracy.tested, "labelled as"), ("Right", mapped, "mapped as"))
        if count < classes
    ]
    words = "; ".join(left_out)
    return f"{CLASS_CAPTION} {words[:1].upper()}{words[1:]}." if words else CLASS_CAPTION


def confusion(accuracy: Accuracy, classes: Sequence[LandCoverClass]) -> Html:
    """Return the section with the confusion matrix."""
    drawn = html_page.picture(figures.confusion_matrix.png(accuracy, classes), "Confusion matrix")
    return html_page.section("Confusion matrix", html_page.element("div", drawn, class_="scroll"))


def confidence(calibration: Calibration | None, maps: Sequence[NDArray[Any] | None], which: str) -> Html:
    """Return the section on confidence, or nothing where there is none."""
    drawn = [
        html_page.picture(
            figures.confidence_map.png(html_page.thinned(values), "Confidence of the map"), "Confidence of the map"
        )
        for values in maps
        if values is not None
    ]
    words = []
    if calibration is not None:
        diagram = figures.reliability_diagram.png(calibration, f"Reliability on the {which} pixels")
        drawn.append(html_page.picture(diagram, "Reliability diagram"))
        words.append(html_page.paragraph(_reliability(calibration)))
    if not drawn:
        return Html("")
    return html_page.section("Confidence", *words, html_page.element("div", *drawn, class_="pair"))


def _reliability(calibration: Calibration) -> str:
    return (
        f"Confidence and accuracy differ by {100 * calibration.ece:.2f} percentage points on average (the expected "
        f"calibration error over {len(calibration.counts)} bins of equal width). Where confidence can be believed, "
        "the dots of the reliability diagram lie on the broken line: of the pixels with a confidence of 0.8, "
        "80 % are right."
    )


def mean(shares: Sequence[float]) -> float:
    """Return the mean of the shares that are not NaN; NaN for none."""
    known = [share for share in shares if share == share]
    return sum(known) / len(known) if known else float("nan")
