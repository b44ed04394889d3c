"""What the report of a run and the report of a map's accuracy both hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from spectraldiff.accuracy.interval import Interval
from spectraldiff.accuracy.metrics import Accuracy, Calibration
from spectraldiff.report import figures
from spectraldiff.report.html_page import Figure, percent, thinned

CLASS_CAPTION = (
    "Found: the share of the class's labelled pixels that the map finds (producer's accuracy). "
    "Right: the share of the pixels mapped as the class that are of it (user's accuracy)."
)


def headline(accuracy: Accuracy, calibration: Calibration | None, interval: Interval | None = None) -> list[Figure]:
    """Return the figures that matter most."""
    classes, tested = len(accuracy.per_class), accuracy.tested
    some = "" if tested == classes else f" of {tested} of {classes} classes"
    shown = [
        Figure("Overall accuracy (OA)", percent(accuracy.oa), "%", "" if interval is None else interval.words()),
        Figure(f"Average accuracy (AA){some}", percent(accuracy.aa), "%"),
        Figure("Kappa \N{MULTIPLICATION SIGN} 100", percent(accuracy.kappa)),
    ]
    if calibration is not None:
        shown.append(Figure("Calibration error (ECE)", percent(calibration.ece), "%"))
    return shown


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


@dataclass(frozen=True)
class Confidence:
    """Pictures of confidences, PNG, and what the reliability diagram says."""

    maps: Sequence[bytes]
    diagram: bytes | None
    words: str


def confidence(calibration: Calibration | None, maps: Sequence[NDArray[Any] | None], which: str) -> Confidence | None:
    """Return the pictures of confidence, or None where there is none; `which` names the scored pixels."""
    drawn = [figures.confidence_map.png(thinned(m), "Confidence of the map") for m in maps if m is not None]
    if calibration is None:
        return Confidence(drawn, None, "") if drawn else None
    diagram = figures.reliability_diagram.png(calibration, f"Reliability on the {which} pixels")
    return Confidence(drawn, diagram, _reliability(calibration))


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
