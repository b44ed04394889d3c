"""Label rasters: reading, resampling to a scene's grid, and checks that two rasters share a grid."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.classes import HIGHEST, LandCoverClass, class_dtype
from spectraldiff_runtime.errors import LabelsError, NoLabelsError
from spectraldiff_runtime.geo.georeference import Georeference, apply_transform, crs_of
from spectraldiff_runtime.geo.reprojection import TURN, in_degrees, same_crs, scene_bounds
from spectraldiff_runtime.geotiff.class_raster import Legend, read_legend
from spectraldiff_runtime.scene.open import open_dataset
from spectraldiff_runtime.scene.raster import RasterScene

LARGEST = 2**53  # whole numbers beyond are not distinguished
FEW = 16  # up to this many unused values are kept as classes
ROWS = 256  # renumbered at a time


@dataclass(frozen=True)
class ClassRaster:
    """A raster of labels or of classes.

    Attributes
    ----------
    labels
        (H, W) uint8, or uint16 above 254 classes: 0 = unlabelled, 1..K.
    numbers
        (K,) the value that each class has in the file: rising, and 0 last where it is a class.
    classes
        (K,) values 1..K, names and colours.
    missing
        (H, W) bool: nodata, not finite, or hidden by the raster's mask or alpha band.
    place
        Its georeference.
    remarks
        Notes for the user on how it was read, one line each.
    """

    labels: NDArray[Any]
    numbers: tuple[int, ...]
    classes: tuple[LandCoverClass, ...]
    missing: NDArray[np.bool_]
    place: Georeference
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Values:
    """The values of a raster of one band, (H, W); where they are missing, and not finite without being declared so."""

    values: NDArray[Any]
    missing: NDArray[np.bool_]
    odd: int
    place: Georeference
    legend: Legend


def read_class_raster(path: str | Path) -> ClassRaster:
    """Read a raster of labels or classes.

    Where the used and named values have few numbers between them, all from 1 are classes; else the used and the named
    ones are. 0 is unlabelled, unless the file declares another nodata value and gives 0 the name of a class.

    Raises
    ------
    SceneError
        The raster cannot be read.
    LabelsError
        The raster has several bands, more than 65535 classes, or values that are not whole numbers from 0.
    """
    found = _read_values(path)
    present = np.unique(found.values[~found.missing])
    _check_values(path, present, LARGEST)
    has_zero = bool((present == 0).any())
    zero = has_zero and _other_nodata(found) and bool(found.legend.zero)
    used = {int(value) for value in present} | {value for value in found.legend.named if value <= LARGEST}
    numbers = _numbers(used - {0}) + ((0,) if zero else ())
    if len(numbers) > HIGHEST:
        raise LabelsError(
            f"'{path}' has {len(numbers):,} classes: wanted {HIGHEST} at most; check that it holds classes"
        )
    labels = _renumbered(found, np.array(numbers, np.int64))
    classes = tuple(replace(c, value=value) for value, c in enumerate(found.legend.classes(numbers), start=1))
    remarks = tuple(_remarks(path, found, classes[-1] if zero else None, has_zero))
    return ClassRaster(labels, numbers, classes, found.missing, found.place, remarks)


def read_marks(path: str | Path) -> tuple[NDArray[Any], Georeference]:
    """Read a raster that marks pixels.

    Returns
    -------
    marks
        (H, W) uint8, or uint16 above 254; 0 where the raster has no data.
    georeference
        The raster's georeference.

    Raises
    ------
    SceneError
        The raster cannot be read.
    LabelsError
        The raster has several bands, or values that are not whole numbers from 0 to 65535.
    """
    found = _read_values(path)
    values = np.where(found.missing, 0, found.values)
    _check_values(path, np.array([values.min(), values.max(), *values[values != np.rint(values)][:1]]), HIGHEST)
    return values.astype(class_dtype(int(values.max()))), found.place


def _read_values(path: str | Path) -> _Values:
    legend = read_legend(path)
    with RasterScene(path) as raster:
        if len(raster.bands) != 1:
            raise LabelsError(f"'{path}' has {len(raster.bands)} bands: wanted a raster of labels with one")
        values = raster.read(0, raster.height, 0, raster.width)[0]
        known = raster.mask(0, raster.height, 0, raster.width)
        place, band = raster.georeference, raster.bands[0]
    with open_dataset(path) as dataset:
        declared = dataset.read_masks(band) == 0
    if known is not None:  # by the mask, which goes before the nodata value for GDAL
        declared |= ~known
    if legend.nodata is not None and values.dtype.kind in "iu":
        declared |= values == legend.nodata
    missing = declared | ~np.isfinite(values)
    return _Values(values, missing, int((missing & ~declared).sum()), place, legend)


def _check_values(path: str | Path, present: NDArray[Any], highest: int) -> None:
    """Refuse values that cannot be classes."""
    if not len(present):
        return
    low, high = present.min(), present.max()
    if low >= 0 and high <= highest and np.array_equal(present, np.rint(present)):
        return
    hint = f"; if {low:g} means unlabelled, declare it as nodata: gdal_edit.py -a_nodata {low:g}" if low < 0 else ""
    raise LabelsError(
        f"'{path}' has values from {low:g} to {high:g}: wanted whole numbers, 0 for unlabelled and 1 to {highest} for "
        f"classes{hint}"
    )


def _numbers(used: set[int]) -> tuple[int, ...]:
    """Return the numbers of the classes: all from 1, or only the used ones if most are unused."""
    highest = max(used, default=0)
    return tuple(range(1, highest + 1)) if highest - len(used) <= max(len(used), FEW) else tuple(sorted(used))


def _renumbered(found: _Values, numbers: NDArray[np.int64]) -> NDArray[Any]:
    """Return labels, (H, W), 0..K, by the place of each value among the numbers."""
    labels = np.zeros(found.values.shape, class_dtype(len(numbers)))
    if not len(numbers):
        return labels
    order = np.argsort(numbers)
    for rows in _blocks(len(labels)):
        values = found.values[rows]
        at = np.searchsorted(numbers, values, sorter=order).clip(0, len(numbers) - 1)
        known = (numbers[order[at]] == values) & ~found.missing[rows]
        labels[rows][known] = order[at][known] + 1
    return labels


def _other_nodata(found: _Values) -> bool:
    return found.legend.nodata not in (None, 0)


def _blocks(height: int) -> Iterator[slice]:
    return (slice(row, row + ROWS) for row in range(0, height, ROWS))


def _remarks(path: str | Path, found: _Values, zero: LandCoverClass | None, has_zero: bool) -> Iterator[str]:
    if zero is not None:
        yield (
            f"0 is a class in '{path}', whose nodata value is {found.legend.nodata:.17g}: it has the value "
            f"{zero.value} '{zero.name}'; if 0 means unlabelled, declare it as nodata: gdal_edit.py -a_nodata 0"
        )
    elif has_zero and found.legend.zero:
        yield (
            f"0 is called '{found.legend.zero}' in '{path}' and was read as unlabelled: if it is a class, declare "
            "another value as nodata, such as gdal_edit.py -a_nodata 255"
        )
    elif has_zero and _other_nodata(found) and 0 not in found.legend.names:
        yield (
            f"0 was read as unlabelled in '{path}', though its nodata value is {found.legend.nodata:.17g}: if it is a "
            "class, give it a name or another number"
        )
    if found.legend.remark:
        yield found.legend.remark
    if found.odd:
        yield f"pixels of '{path}' that are infinite or not a number, left unlabelled: {found.odd:,}"


def labels_on_grid(path: str | Path, shape: tuple[int, int], place: Georeference) -> ClassRaster:
    """Read a label raster onto a scene's grid.

    Parameters
    ----------
    path
        A raster on that grid, or on another one in the same CRS: each pixel of the scene then gets the label of the
        pixel that contains its centre, and 0 outside the raster.
    shape, place
        Size of the scene, (H, W), and its georeference.

    Raises
    ------
    SceneError, LabelsError
        As in `read_class_raster`; or the raster has another CRS, or another size without a georeference; NoLabelsError
        where it has no label on the scene.
    """
    raster = read_class_raster(path)
    labels, found = raster.labels, turned_to(raster.place, raster.labels.shape, place, shape)
    known = found.transform is not None and place.transform is not None
    same = labels.shape == shape and (not known or _same_transform(found.transform, place.transform, shape))
    if same or not known or not _one_crs(found, place, shape) or found.transform.is_degenerate:
        check_grids("the labels", labels.shape, found, "the scene", shape, place)
        return raster
    resampled = _nearest(labels, found.transform, shape, place.transform)
    if not resampled.any():
        raise NoLabelsError(
            f"'{path}' starts at {_origin(found)}, the scene at {_origin(place)}: no label lies on the scene; "
            "check both files' georeference"
        )
    remark = f"'{path}' lies on another grid ({_origin(found)}, the scene at {_origin(place)}): resampled by nearest"
    return replace(raster, labels=resampled, remarks=(*raster.remarks, remark))


def _nearest(labels: NDArray[Any], source: Any, shape: tuple[int, int], target: Any) -> NDArray[Any]:
    """Return, for the centre of each pixel of a grid, the label of the source pixel that contains it."""
    out = np.zeros(shape, labels.dtype)
    centres = np.arange(shape[1]) + 0.5
    for row in range(shape[0]):
        x, y = apply_transform(~source, *apply_transform(target, centres, row + 0.5))
        # A centre on the border of two pixels belongs to the next one, independent of rounding.
        columns, rows = (np.floor(axis + 1e-6).astype(np.int64) for axis in (x, y))
        inside = (rows >= 0) & (rows < labels.shape[0]) & (columns >= 0) & (columns < labels.shape[1])
        out[row, inside] = labels[rows[inside], columns[inside]]
    return out


def check_grids(
    name: str,
    shape: tuple[int, ...],
    place: Georeference,
    other: str,
    other_shape: tuple[int, ...],
    other_place: Georeference,
) -> None:
    """Check that two rasters have the same size and, if both have a georeference, the same grid.

    Raises
    ------
    LabelsError
        Size, CRS or grid differ.
    """
    place = turned_to(place, shape, other_place, other_shape)
    if place.crs is not None and other_place.crs is not None and not _one_crs(other_place, place, shape):
        raise LabelsError(
            f"{name} have the CRS {_short(crs_of(place))} and {other} has {_short(crs_of(other_place))}: "
            "bring both onto one grid, with gdalwarp, say"
        )
    if shape != other_shape:
        raise LabelsError(sizes(name, shape, other, other_shape))
    if place.transform is None or other_place.transform is None:
        return
    if not _same_transform(place.transform, other_place.transform, shape):
        raise LabelsError(
            f"{name} start at {_origin(place)} and {other} at {_origin(other_place)}: "
            "bring both onto one grid, with gdalwarp, say"
        )


def _one_crs(found: Georeference, place: Georeference, shape: tuple[int, ...]) -> bool:
    """Whether x and y mean the same in two places; `shape` is the size of the second, (H, W)."""
    box = None if place.transform is None else scene_bounds(shape[0], shape[1], place)
    return same_crs(crs_of(place), crs_of(found), box)


def turned_to(
    place: Georeference, shape: tuple[int, ...], other: Georeference, other_shape: tuple[int, ...]
) -> Georeference:
    """Return where a raster lies, in degrees with longitudes counted as those of another one, else as it is."""
    crs = crs_of(place)
    if not in_degrees(crs) or place.transform is None or other.transform is None or len(shape) < 2:
        return place
    west, _, east, _ = scene_bounds(shape[0], shape[1], place)
    left, _, right, _ = scene_bounds(other_shape[0], other_shape[1], other)
    turns = round((left + right - west - east) / (2 * TURN))
    a, b, c, d, e, f = place.transform[:6]
    return replace(place, transform=type(place.transform)(a, b, c + turns * TURN, d, e, f)) if turns else place


def _same_transform(first: Any, second: Any, shape: tuple[int, ...]) -> bool:
    """Whether all corners of the raster agree to a hundredth of a pixel."""
    corners = np.array([(x, y, 1) for x in (0, shape[1]) for y in (0, shape[0])], dtype=np.float64)
    one, two = (np.reshape(tuple(transform)[:6], (2, 3)) for transform in (first, second))
    pixel = np.abs(one[:, :2]).max()
    return bool(np.abs(corners @ (one - two).T).max() <= 0.01 * pixel)


def _origin(place: Georeference) -> str:
    t = place.transform
    return f"({t.c:.10g}, {t.f:.10g}) with pixels of {t.a:.6g} by {t.e:.6g}"


def _short(crs: Any) -> str:
    text = str(crs.to_string())
    return text if len(text) <= 40 else f"{text[:37]}..."


def sizes(name: str, shape: tuple[int, ...], other: str, wanted: tuple[int, ...]) -> str:
    """Return the message that two sizes differ."""
    sizes = [f"{s[0]} rows x {s[1]} columns" if len(s) > 1 else f"of shape {s}" for s in (shape, wanted)]
    return f"{name} are {sizes[0]} and {other} is {sizes[1]}: they must have one size"
