"""CRS and affine transform of a scene."""

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import rasterio

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.window import Window

# Projections that stretch the ground by more, the farther it is from the equator.
WORLD_PROJECTIONS = re.compile(r'PROJECTION\["(Mercator|Equirectangular|Miller)')


LEAST_AREA = 1e-30  # of a pixel, in the CRS's units; hectares would read 0


@dataclass(frozen=True)
class Georeference:
    """Georeference of a raster: a CRS with a transform, or ground control points, or RPCs, or nothing."""

    crs: Any = None
    transform: Any = None
    gcps: tuple[Any, ...] = ()
    gcps_crs: Any = None
    rpcs: Any = None

    @classmethod
    def of(cls, crs: str | None, transform: Sequence[float] | None) -> "Georeference":
        """Make one from a CRS in any notation and the first six numbers of an affine transform."""
        return cls(crs, rasterio.Affine(*transform[:6]) if transform is not None else None)

    @property
    def hectares_per_pixel(self) -> float | None:
        """Area of a pixel in hectares; None unless the CRS is projected, and not as maps of the world are.

        Mercator's and the equidistant cylinder's squares are larger than the ground the farther they are from the
        equator, so no one area is that of all pixels.
        """
        if self.crs is None or self.transform is None:
            return None
        crs = rasterio.crs.CRS.from_user_input(self.crs)
        if not crs.is_projected or WORLD_PROJECTIONS.search(crs.to_wkt()):
            return None
        metres = crs.linear_units_factor[1]
        return float(abs(self.transform.determinant) * metres**2 / 10_000)


def read_georeference(dataset: Any) -> Georeference:
    """Return where an open dataset lies; a raster without any has an identity transform, left out here.

    Raises
    ------
    SceneError
        Its numbers are not finite, or its pixels have no area.
    """
    gcps, gcps_crs = dataset.gcps
    transform = None if dataset.transform.is_identity else dataset.transform
    numbers = [*(transform or ())[:6], *(n for point in gcps for n in (point.row, point.col, point.x, point.y))]
    _check_numbers(dataset.name, numbers)
    check_transform(dataset.name, transform)
    return Georeference(dataset.crs, transform, tuple(gcps), gcps_crs, read_rpcs(dataset))


def check_transform(name: str, transform: Any) -> None:
    """Refuse an affine transform whose numbers are not finite, or that gives pixels no area; None passes."""
    _check_numbers(name, (transform or ())[:6])
    if transform is not None and not _has_area(transform):
        raise SceneError(f"'{name}' has a transform that gives pixels no area, {tuple(transform)[:6]}: {_MENDED}")


def _check_numbers(name: str, numbers: Sequence[float]) -> None:
    if not all(map(math.isfinite, numbers)):
        raise SceneError(f"'{name}' has a georeference with numbers that are not finite: {_MENDED}")


def read_rpcs(dataset: Any) -> Any:
    """Return an open dataset's RPCs as rasterio's; None if it has none.

    Raises
    ------
    SceneError
        Some are missing, or no numbers.
    """
    try:
        rpcs = dataset.rpcs
        whole = rpcs is None or all(map(math.isfinite, _numbers_of(rpcs)))
    except (KeyError, ValueError, TypeError) as error:
        raise SceneError(f"'{dataset.name}' has RPCs that are not whole ({error}): {_MENDED}") from error
    if not whole:
        raise SceneError(f"'{dataset.name}' has RPCs that are not finite: {_MENDED}")
    return rpcs


def _numbers_of(rpcs: Any) -> list[float]:
    values = [value for value in rpcs.to_dict().values() if value is not None]
    return [float(number) for value in values for number in (value if isinstance(value, list) else [value])]


_MENDED = "wanted the place of its pixels; repair it with gdal_edit.py, or take it out with gdal_edit.py -unsetgt"


def _has_area(transform: Any) -> bool:
    """Whether pixels have an area that float64 holds and that is no rounding of nothing."""
    a, b, _, d, e, _ = transform[:6]
    area, sides = abs(a * e - b * d), math.hypot(a, d) * math.hypot(b, e)
    return math.isfinite(area) and area > LEAST_AREA and area > 1e-9 * sides


def window_georeference(place: Georeference, window: Window) -> Georeference:
    """Return where a part of a scene lies: transform, control points and RPCs count from its first pixel."""
    transform = place.transform
    if transform is not None:
        x, y = apply_transform(transform, window.col0, window.row0)
        transform = rasterio.Affine(transform.a, transform.b, x, transform.d, transform.e, y)
    gcps = tuple(
        rasterio.control.GroundControlPoint(p.row - window.row0, p.col - window.col0, p.x, p.y, p.z, p.id, p.info)
        for p in place.gcps
    )
    rpcs = copy.copy(place.rpcs)
    if rpcs is not None:
        rpcs.line_off -= window.row0
        rpcs.samp_off -= window.col0
    return replace(place, transform=transform, gcps=gcps, rpcs=rpcs)


def crs_of(place: Georeference) -> Any:
    """Return the scene's CRS as rasterio's; None if it has none."""
    return rasterio.crs.CRS.from_user_input(place.crs) if place.crs else None


def apply_transform(transform: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """Apply an affine transform to coordinates, numbers or arrays (affine 2 writes it ``*``, affine 3 ``@``)."""
    a, b, c, d, e, f = transform[:6]
    return a * x + b * y + c, d * x + e * y + f
