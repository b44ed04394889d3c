"""Models of lower precision: made from the verified fp32 graph, and compared with it on real tiles."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from spectraldiff_export.precision.fp16 import halved
from spectraldiff_export.precision.int8 import quantised
from spectraldiff_runtime.errors import UsageError, VerificationError
from spectraldiff_runtime.model.card import PRECISIONS
from spectraldiff_runtime.model.engine import Model
from spectraldiff_runtime.model.instructions import processor

# What a model of lower precision must reach: share of equal classes, and overall accuracy lost at most.
EQUAL_CLASSES, LOST_ACCURACY = 0.997, 0.001


@dataclass(frozen=True)
class Agreement:
    """How a model of lower precision compares with the same in fp32.

    Attributes
    ----------
    pixels, equal_classes
        Pixels compared, and the share of them that get the same class.
    confidence
        Mean absolute difference of the confidence.
    test_pixels, oa, oa_fp32
        Labelled test pixels among them, and overall accuracy there; None where there are none.
    processor
        Where int8 was compared, such as ``"x86_64, AVX-512 VNNI"``: other instructions may round sums otherwise.
    """

    pixels: int
    equal_classes: float
    confidence: float
    test_pixels: int
    oa: float | None
    oa_fp32: float | None
    processor: str = ""


def check_precision(out: Path, precision: str) -> None:
    """Raise UsageError where there is no such precision, or not in a file of that name."""
    if precision not in PRECISIONS:
        raise UsageError(f"there is no precision '{precision}': choose one of {', '.join(PRECISIONS)}")
    if precision != PRECISIONS[0] and out.suffix.lower() != ".onnx":
        raise UsageError(f"--precision {precision} is for ONNX files: name '{out}' with the suffix .onnx, or drop it")


def lowered(model: onnx.ModelProto, precision: str, tiles: NDArray[np.float32]) -> onnx.ModelProto:
    """Return an fp32 model in another precision, ``"fp16"`` or ``"int8"``; `tiles`, (n, B, T, T), calibrate int8.

    Every other tile does: the rest shows whether it holds elsewhere.
    """
    if precision == "fp16":
        return halved(model)
    return quantised(model, [tiles[i : i + 1] for i in range(0, len(tiles), 2)])


def compare(
    whole: Path, lower: Path, tiles: NDArray[np.float32], labels: NDArray[np.integer[Any]], precision: str
) -> Agreement:
    """Run both files on tiles, (n, B, T, T), and compare them; labels, (n, h, w), are 0 where no pixel tests.

    Raises
    ------
    VerificationError
        They agree less than `EQUAL_CLASSES` and `LOST_ACCURACY` ask for.
    """
    (one, sure), (two, less_sure) = (_mapped(path, tiles) for path in (whole, lower))
    tested = labels > 0
    scores = [float((classes == labels)[tested].mean()) if tested.any() else None for classes in (two, one)]
    found = Agreement(
        pixels=one.size,
        equal_classes=float((one == two).mean()),
        confidence=float(np.abs(sure - less_sure).mean()),
        test_pixels=int(tested.sum()),
        oa=scores[0],
        oa_fp32=scores[1],
        processor=processor() if precision == "int8" else "",
    )
    _check(found, precision)
    return found


def _mapped(path: Path, tiles: Sequence[NDArray[np.float32]] | NDArray[np.float32]) -> tuple[Any, Any]:
    model = Model.open(path, "cpu")
    found = [model.run(tile[None], confidence=True) for tile in tiles]
    return np.concatenate([f.classes for f in found]), np.concatenate([np.asarray(f.confidence) for f in found])


def _check(found: Agreement, precision: str) -> None:
    if found.equal_classes < EQUAL_CLASSES:
        raise VerificationError(
            f"in {precision} the model gives the same class as in fp32 at {100 * found.equal_classes:.2f} % of "
            f"{found.pixels:,} pixels: wanted {100 * EQUAL_CLASSES:g} %; nothing is written, use --precision fp32"
        )
    if found.oa is not None and found.oa_fp32 is not None and found.oa_fp32 - found.oa > LOST_ACCURACY:
        raise VerificationError(
            f"in {precision} the model loses {100 * (found.oa_fp32 - found.oa):.2f} points of overall accuracy on "
            f"{found.test_pixels:,} test pixels: wanted {100 * LOST_ACCURACY:g} at most; nothing is written, "
            "use --precision fp32"
        )
