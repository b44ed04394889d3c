"""The accuracy of a class map at reference labels: which pixels are scored or left out, and all figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff.accuracy.area_adjusted import AreaAdjusted, area_adjusted
from spectraldiff.accuracy.class_matching import match_classes, read_reference
from spectraldiff.accuracy.metrics import Accuracy, Calibration, calibration, score
from spectraldiff.data.label_raster import ClassRaster, check_grids, read_class_raster, read_marks
from spectraldiff.data.label_vectors import LabelFields
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import LabelsError
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.geotiff.class_raster import read_classes
from spectraldiff_runtime.limits import COMPARED_CLASSES
from spectraldiff_runtime.scene.raster import RasterScene


@dataclass(frozen=True)
class Assessment:
    """A map compared with a reference.

    Attributes
    ----------
    classes
        The classes 1..K: the map's, then those that only the reference has.
    predicted
        (H, W), the map, 0..K.
    accuracy
        At the scored pixels.
    adjusted
        Weighted by the number of pixels of each class in the whole map; None if no pixel of the map has a class.
    calibration, confidence
        Of the scored pixels that have a class, and of the whole map, (H, W); None without a confidence raster.
    left_out
        Labelled pixels that were not scored, by reason: ``excluded``, ``nodata``.
    hectares
        Area of a pixel; None if pixels have different areas in the map's CRS.
    notes
        Notes for the user, one line each.
    values
        The value that each class has in the map; None for those that only the reference has.
    """

    classes: tuple[LandCoverClass, ...]
    predicted: NDArray[Any]
    accuracy: Accuracy
    adjusted: AreaAdjusted | None
    calibration: Calibration | None
    confidence: NDArray[np.float32] | None
    left_out: Mapping[str, int]
    hectares: float | None
    notes: tuple[str, ...]
    values: tuple[int | None, ...]

    def as_dict(self) -> dict[str, object]:
        """Return the figures in types that `json` writes."""
        return {
            **self.accuracy.as_dict(),
            "classes": [c.name for c in self.classes],
            "values": list(self.values),
            "notes": list(self.notes),
            **{f"{reason}_pixels": count for reason, count in self.left_out.items()},
            "area_adjusted": None if self.adjusted is None else self.adjusted.as_dict(),
            "calibration": None if self.calibration is None else self.calibration.as_dict(),
        }


def assess(
    classes: Path,
    labels: Path,
    *,
    fields: LabelFields | None = None,
    exclude: Path | None = None,
    confidence: Path | None = None,
    count_nodata: bool = False,
) -> Assessment:
    """Compare a class map with reference labels.

    A labelled pixel where the map is 0 counts as wrong if the map has data there but no class. It is left out if the
    map has no data there: 0 (or another value that became 0) is the map's nodata, and `confidence` has no data either.

    Parameters
    ----------
    classes, labels
        The map, and its reference: see `read_reference`, also for `fields`.
    exclude
        A raster on the map's grid; its nonzero pixels are left out.
    confidence
        The map's confidence raster: 0..1, or whole percent where it holds integers.
    count_nodata
        Whether labelled pixels without data in the map count as wrong.

    Raises
    ------
    SceneError, LabelsError, UsageError
        A file cannot be read or does not fit the map, or no pixel is left to score.
    """
    ours = read_class_raster(classes)
    predicted, nodata, place = ours.labels, ours.missing, ours.place
    found = read_reference(labels, predicted.shape, place, fields or LabelFields())
    truth, known, notes = match_classes(found, ours.classes, ours.numbers)
    if len(known) > COMPARED_CLASSES:
        raise LabelsError(
            f"'{classes}' and '{labels}' have {len(known):,} classes: wanted {COMPARED_CLASSES:,} at most, as the "
            "confusion matrix has as many rows and columns; check that they hold classes"
        )
    left_out = {"excluded": 0, "nodata": 0}
    if exclude is not None:
        left_out["excluded"] = _drop(truth, read_on_grid("the pixels to exclude", exclude, predicted.shape, place) > 0)
        _check_some_left(truth, exclude, left_out["excluded"])
    sure = None if confidence is None else read_confidence(confidence, predicted.shape, place)
    if not count_nodata:
        left_out["nodata"] = _drop(truth, nodata if sure is None else nodata & ~(sure > 0))
        _check_left(truth, left_out["nodata"])
    accuracy = score(truth, predicted, len(known))
    return Assessment(
        known,
        predicted,
        accuracy,
        _adjusted(accuracy, predicted, place.hectares_per_pixel),
        _calibrated(truth, predicted, sure),
        sure,
        left_out,
        place.hectares_per_pixel,
        (*ours.remarks, *_other_values(ours), *found.remarks, *notes),
        (*ours.numbers, *[None] * (len(known) - len(ours.numbers))),
    )


def _other_values(ours: ClassRaster) -> list[str]:
    """Say that the map's classes have other values than their places among them."""
    other = [(number, c) for number, c in zip(ours.numbers, ours.classes, strict=True) if number not in (0, c.value)]
    if not other:
        return []
    number, c = other[0]
    return [f"the map's classes are numbered 1 to {len(ours.numbers)}: its value {number} is {c.value} '{c.name}'"]


def _drop(truth: NDArray[Any], where: NDArray[np.bool_]) -> int:
    """Set the labels to 0 there, and return how many were removed."""
    dropped = int((where & (truth > 0)).sum())
    truth[where] = 0
    return dropped


def _check_some_left(truth: NDArray[Any], exclude: Path, excluded: int) -> None:
    if excluded and not truth.any():
        raise LabelsError(
            f"'{exclude}' excludes all {excluded:,} labelled pixels: wanted labels that the model has not trained on; "
            "where it has trained on all, the accuracy by folds is in the run's report"
        )


def _check_left(truth: NDArray[Any], without_data: int) -> None:
    if without_data and not truth.any():
        raise LabelsError(
            f"the map has no data at all {without_data:,} labelled pixels that would be scored: wanted labels on the "
            "mapped area; check both files' CRS, or count them as wrong with --count-nodata"
        )


def _adjusted(accuracy: Accuracy, predicted: NDArray[Any], hectares: float | None) -> AreaAdjusted | None:
    """Weight the scored pixels that have a class by the number of map pixels of each class."""
    pixels = np.bincount(predicted.ravel(), minlength=len(accuracy.per_class) + 1)[1:]
    return area_adjusted(accuracy.confusion[:, 1:].T, pixels, hectares) if pixels.any() else None


def _calibrated(
    truth: NDArray[Any], predicted: NDArray[Any], confidence: NDArray[np.float32] | None
) -> Calibration | None:
    scored = (truth > 0) & (predicted > 0)
    if confidence is None or not scored.any():
        return None
    return calibration(confidence[scored], (truth == predicted)[scored])


def read_on_grid(name: str, path: Path, shape: tuple[int, ...], place: Georeference) -> NDArray[Any]:
    """Read a raster of marks, (H, W), that must be on the map's grid."""
    values, found = read_marks(path)
    check_grids(name, values.shape, found, "the map", shape, place)
    return values


def read_confidence(path: Path, shape: tuple[int, ...], place: Georeference) -> NDArray[np.float32]:
    """Read a confidence raster on the map's grid as (H, W) float32 in 0..1, 0 where it has no data.

    Raises
    ------
    LabelsError
        The raster is a class map, has several bands, is on another grid or has other values.
    """
    named = read_classes(path)
    if named:
        raise LabelsError(
            f"'{path}' is a class map ({named[0].name}, ...): wanted the map's confidences, as `sdiff map "
            "--confidence` writes them"
        )
    with RasterScene(path) as raster:
        if len(raster.bands) != 1:
            raise LabelsError(f"'{path}' has {len(raster.bands)} bands: wanted a raster of confidences with one")
        stored = raster.read(0, raster.height, 0, raster.width)[0]
        nodata, found = raster.nodata, raster.georeference
    check_grids("the confidences", stored.shape, found, "the map", shape, place)
    missing = np.isnan(stored) | (stored == nodata)
    values = np.where(missing, 0, stored).astype(np.float32) / np.float32(100 if stored.dtype.kind in "iu" else 1)
    if values.min() < 0 or values.max() > 1:
        raise LabelsError(
            f"'{path}' has confidences from {values.min():g} to {values.max():g}: "
            "wanted 0 to 1, or whole percent from 0 to 100"
        )
    return np.asarray(values)
