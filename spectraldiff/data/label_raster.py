"""Label rasters: reading, resampling to a scene's grid, and checks that two rasters share a grid."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.classes import HIGHEST, class_dtype
from spectraldiff_runtime.errors import LabelsError
from spectraldiff_runtime.geo.georeference import Georeference, apply_transform
from spectraldiff_runtime.scene.raster import RasterScene


def read_labels(path: str | Path) -> tuple[NDArray[Any], Georeference]:
    """Read a label or class raster.

    Returns
    -------
    labels
        (H, W) uint8, or uint16 above 254 classes; the raster's nodata value, NaN, and what its mask or
        alpha band hides become 0.
    georeference
        The raster's georeference.

    Raises
    ------
    SceneError
        The raster cannot be read.
    LabelsError
        The raster has several bands, or values that are not whole numbers from 0 to 65535.
    """
    with RasterScene(path) as raster:
        if len(raster.bands) != 1:
            raise LabelsError(f"'{path}' has {len(raster.bands)} bands: wanted a raster of labels with one")
        values = raster.read(0, raster.height, 0, raster.width)[0]
        nodata, place = raster.nodata, raster.georeference
        known = raster.mask(0, raster.height, 0, raster.width)
    missing = np.isnan(values) if nodata is None else (values == nodata) | np.isnan(values)
    values = np.where(missing if known is None else missing | ~known, 0, values)
    if values.min() < 0 or values.max() > HIGHEST or not np.array_equal(values, np.rint(values)):
        raise LabelsError(
            f"'{path}' has values from {values.min():g} to {values.max():g}: "
            f"wanted whole numbers, 0 for unlabelled and 1 to {HIGHEST} for classes"
        )
    return values.astype(class_dtype(int(values.max()))), place


def labels_on_grid(path: str | Path, shape: tuple[int, int], place: Georeference) -> tuple[NDArray[Any], str]:
    """Read a label raster onto a scene's grid.

    Parameters
    ----------
    path
        A raster on that grid, or on another one in the same CRS: each pixel of the scene then gets the label of the
        pixel that contains its centre, and 0 outside the raster.
    shape, place
        Size of the scene, (H, W), and its georeference.

    Returns
    -------
    labels
        (H, W), as `read_labels` returns them.
    remark
        One line if the raster was resampled; empty for the same grid.

    Raises
    ------
    SceneError, LabelsError
        As in `read_labels`; or the raster has another CRS, another size without a georeference, or no label on the
        scene.
    """
    labels, found = read_labels(path)
    known = found.transform is not None and place.transform is not None
    same = labels.shape == shape and (not known or _same_transform(found.transform, place.transform, shape))
    if same or not known or found.crs != place.crs or found.transform.is_degenerate:
        check_grids("the labels", labels.shape, found, "the scene", shape, place)
        return labels, ""
    resampled = _nearest(labels, found.transform, shape, place.transform)
    if not resampled.any():
        raise LabelsError(
            f"'{path}' starts at {_origin(found)}, the scene at {_origin(place)}: no label lies on the scene; "
            "check both files' georeference"
        )
    return resampled, (
        f"'{path}' lies on another grid ({_origin(found)}, the scene at {_origin(place)}): resampled by nearest"
    )


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
    if place.crs is not None and other_place.crs is not None and place.crs != other_place.crs:
        raise LabelsError(
            f"{name} have the CRS {_short(place.crs)} and {other} has {_short(other_place.crs)}: "
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
