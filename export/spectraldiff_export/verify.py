"""An exported file against PyTorch, on pixels of the training scene, before it is handed over.

PyTorch runs the trained model as it is, nothing folded.  A valid convolution's result at a pixel does not depend on the
tile around it, so one run of PyTorch on the largest tiles is the reference for all smaller ones that are cut from them.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectraldiff.models.classifier import Classifier
from spectraldiff_export.compact.student import Student
from spectraldiff_export.quiet import quiet
from spectraldiff_runtime.classes import HIGHEST_UINT8
from spectraldiff_runtime.errors import ModelFileError, RunError, VerificationError
from spectraldiff_runtime.model.engine import OUTPUTS, OUTSIDE, Model

# Largest difference of a probability that is put down to rounding; a student's matrix amplifies that of bands that are
# nearly the same.
TOLERANCE, OF_STUDENTS = 1e-4, 5e-4
# Two classes whose probabilities are closer than this may change places by rounding; of students, as much more.
NEAR_TIE = 2 * TOLERANCE
# Largest difference of a distance from the training that is put down to rounding, as a share of their range.
ROUNDING = 1e-3

Arrays = tuple[NDArray[Any], ...]
Runner = Callable[[NDArray[np.float32]], Arrays]


@dataclass(frozen=True)
class Verification:
    """What the comparison of a file with PyTorch found.

    Attributes
    ----------
    batches, pixels
        Batches run and pixels compared.
    probability, confidence
        Largest absolute differences.
    near_ties
        Pixels with another class than PyTorch's, where the two best probabilities are closer than `NEAR_TIE`.
    """

    batches: int
    pixels: int
    probability: float
    confidence: float
    near_ties: int


def verify(file: Path, classifier: Classifier | Student, samples: Tensor, name: str | None = None) -> Verification:
    """Run a file on real tiles of three sizes (and an oblong one) in two batch sizes and compare it with PyTorch.

    Parameters
    ----------
    file
        An ONNX or TorchScript model file.
    classifier
        The trained model, on the CPU, in evaluation mode.
    samples
        (n, B, T, T) float32 raw pixels, n >= 2 and T >= 2 halo + 3.
    name
        The name that the file will have, where it is not its own; its suffix says what the file is.

    Raises
    ------
    VerificationError
        Names, types, shapes or values differ; the message has the figure.
    RunError
        The samples do not fit the model.
    """
    title = f"'{name or file}'"
    _check_samples(classifier, samples)
    run = _runner(file, Path(name or file).suffix.lower(), title)
    samples = torch.cat([samples[:1], samples[-2:]])  # exact figures take time
    wanted, far = reference(classifier, samples)
    cases = _cases(classifier.halo, samples, wanted, far)
    most = OF_STUDENTS if isinstance(classifier, Student) else TOLERANCE
    found = [_compare(title, run, tiles, expected, ends, most) for tiles, expected, ends in cases]
    return Verification(
        batches=len(found),
        pixels=sum(v.pixels for v in found),
        probability=max(v.probability for v in found),
        confidence=max(v.confidence for v in found),
        near_ties=sum(v.near_ties for v in found),
    )


@torch.no_grad()
def reference(classifier: Classifier | Student, tiles: Tensor) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None]:
    """Return what PyTorch computes of raw tiles (N, B, h + 2 halo, w + 2 halo), one by one.

    In float64, so that only the file's own rounding counts.

    Returns
    -------
    tuple
        Probabilities, (N, K, h, w); and the least and the most percents, (N, 2, h, w), that rounding may make of the
        distance from the training classes, None where the model has none.
    """
    exact = copy.deepcopy(classifier).double()
    probabilities, percents = [], []
    for tile in tiles.double():
        scores, distance = exact.scores_and_distance(tile[None])
        probabilities.append(scores.softmax(1))
        if distance is not None and exact.outside is not None:
            slack = ROUNDING * (exact.outside.steps[-1] - exact.outside.steps[0])
            ends = (distance - slack, distance + slack)
            percents.append(torch.stack([exact.outside.percent(end) for end in ends], 1))
    far = np.asarray(torch.cat(percents).numpy()) if percents else None
    return np.asarray(torch.cat(probabilities).float().numpy()), far


def _check_samples(classifier: Classifier | Student, samples: Tensor) -> None:
    least, bands = 2 * classifier.halo + 3, len(classifier.fill)
    count, found, height, width = samples.shape if samples.ndim == 4 else (0, 0, 0, 0)
    if count < 2 or found != bands or height != width or height < least:
        raise RunError(
            f"the run's sample tiles are {tuple(samples.shape)}: wanted at least 2 of {bands} bands "
            f"and {least} x {least} pixels; train again"
        )


def _cases(
    halo: int, samples: Tensor, wanted: NDArray[np.float32], far: NDArray[np.uint8] | None
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8] | None]]:
    """Yield tiles (N, B, h + 2 halo, w + 2 halo), their probabilities (N, K, h, w), and percents; see `reference`."""
    largest = wanted.shape[-1]
    middle, tiles = (largest + 1) // 2, samples.numpy().astype(np.float32)
    for chosen in (slice(0, 1), slice(-2, None)):
        for h, w in ((1, 1), (middle, middle), (largest, largest), (middle, largest)):
            cut = tiles[chosen, :, : h + 2 * halo, : w + 2 * halo]
            ends = None if far is None else far[chosen, :, :h, :w]
            yield np.ascontiguousarray(cut), wanted[chosen, :, :h, :w], ends


def _runner(file: Path, suffix: str, title: str) -> Runner:
    try:
        return _onnx_runner(file) if suffix == ".onnx" else _torchscript_runner(file)
    except (ModelFileError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise VerificationError(f"{title} does not open after export ({reason}): it is not written") from error


def _onnx_runner(file: Path) -> Runner:
    model = Model.open(file, "cpu")  # checks names and types too

    def run(tiles: NDArray[np.float32]) -> Arrays:
        found = model.run(tiles, confidence=True, probabilities=True, outside=model.outside)
        return tuple(layer for layer in found if layer is not None)

    return run


def _torchscript_runner(file: Path) -> Runner:
    with quiet():
        module = torch.jit.load(file, map_location="cpu")  # type: ignore[no-untyped-call]

    def run(tiles: NDArray[np.float32]) -> Arrays:
        with torch.no_grad():
            return tuple(output.numpy() for output in module(torch.from_numpy(tiles)))

    return run


def _compare(
    title: str,
    run: Runner,
    tiles: NDArray[np.float32],
    wanted: NDArray[np.float32],
    far: NDArray[np.uint8] | None,
    most: float = TOLERANCE,
) -> Verification:
    """Compare one batch: outputs, types and shapes, then values, which may differ by `most`."""
    try:
        outputs = run(tiles)
    except MemoryError:
        raise
    except Exception as error:  # ONNX Runtime's and TorchScript's own exception types differ between versions
        reason = str(error).partition("\n")[0]
        raise VerificationError(f"{title} fails on tiles {tiles.shape} ({reason}): it is not written") from error
    count, _, height, width = wanted.shape
    shape = (count, height, width)
    kind = "uint8" if wanted.shape[1] <= HIGHEST_UINT8 else "int32"
    forms = [(kind, shape), ("float32", shape), ("float32", wanted.shape)]
    _check_forms(title, outputs, forms if far is None else [*forms, ("uint8", shape)], tiles.shape)
    classes, confidence, probabilities = outputs[:3]
    if far is not None:
        _check_outside(title, outputs[3], far)
    return Verification(
        batches=1,
        pixels=classes.size,
        probability=_difference(title, "probabilities", probabilities, wanted, most),
        confidence=_difference(title, "confidence", confidence, wanted.max(1), most),
        near_ties=_compare_classes(title, classes, probabilities, wanted, most),
    )


def _check_forms(
    title: str, outputs: Arrays, wanted: Sequence[tuple[str, tuple[int, ...]]], tiles: tuple[int, ...]
) -> None:
    names = (*OUTPUTS, OUTSIDE)[: len(wanted)]
    if len(outputs) != len(names):
        raise VerificationError(f"{title} gives {len(outputs)} outputs: wanted {', '.join(names)}; it is not written")
    for name, output, (dtype, shape) in zip(names, outputs, wanted, strict=True):
        if output.dtype.name != dtype or output.shape != shape:
            raise VerificationError(
                f"{title} gives {name} as {output.dtype} {output.shape} for tiles {tiles}: "
                f"wanted {dtype} {shape}; it is not written"
            )


def _check_outside(title: str, found: NDArray[Any], ends: NDArray[np.uint8]) -> None:
    """Raise VerificationError where percents, (N, h, w), are beyond what rounding explains, see `reference`."""
    wrong = int(((found < ends[:, 0]) | (found > ends[:, 1])).sum())
    if wrong:
        raise VerificationError(
            f"{title} gives another distance from the training than PyTorch at {wrong} of {found.size} pixels: "
            "it is not written"
        )


def _difference(title: str, name: str, found: NDArray[Any], wanted: NDArray[np.float32], most: float) -> float:
    """Return the largest absolute difference; VerificationError where it is no rounding."""
    largest = float(np.abs(found - wanted).max())
    if not largest <= most:  # NaN too
        raise VerificationError(
            f"{title} differs from PyTorch by {largest:.3g} in {name} on the run's sample tiles: "
            f"wanted {most:g} at most; it is not written"
        )
    return largest


def _compare_classes(
    title: str, classes: NDArray[Any], probabilities: NDArray[np.float32], wanted: NDArray[np.float32], most: float
) -> int:
    """Return the number of near-ties decided otherwise than by PyTorch."""
    torn = int((classes != probabilities.argmax(1) + 1).sum())
    if torn:
        raise VerificationError(
            f"{title} gives {torn} of {classes.size} classes that are not its own most probable: it is not written"
        )
    differ = classes != wanted.argmax(1) + 1
    best = np.sort(wanted, axis=1)[:, -2:]
    margin = best[:, -1] - best[:, 0]
    wrong = int((differ & (margin > NEAR_TIE * most / TOLERANCE)).sum())
    if wrong:
        raise VerificationError(
            f"{title} gives another class than PyTorch at {wrong} of {classes.size} pixels, "
            f"margin up to {float(margin[differ].max()):.3g}: it is not written"
        )
    return int(differ.sum())
