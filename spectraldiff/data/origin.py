"""Where, when and how the scenes of a training were taken: what a model card says of them."""

from collections.abc import Sequence
from typing import Any

import rasterio

from spectraldiff.data.scene import LabelledScene
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.geo.reprojection import Box, boxes_around, scene_bounds
from spectraldiff_runtime.limits import NAME

WGS84 = "EPSG:4326"
DIGITS = 6  # of degrees: a tenth of a metre


def origin_facts(scenes: Sequence[LabelledScene]) -> dict[str, Any]:
    """Return bounds in degrees, pixel size in metres, date, names of bands, stored type, scales and offsets.

    What is not known is None, or empty where it is a text.

    What differs from scene to scene is None too, but for the bounds, which are those of all of them.
    """
    boxes = [_bounds(scene) for scene in scenes]
    known = [box for box in boxes if box is not None]
    sides = {_pixel_size(scene) for scene in scenes}
    dates = {scene.acquired for scene in scenes}
    names = scenes[0].band_names
    scaling = scenes[0].scaling if len({scene.scaling for scene in scenes}) == 1 else None
    return {
        "bounds": _around(known) if len(known) == len(boxes) else None,
        "pixel_size": sides.pop() if len(sides) == 1 else None,
        "acquired": dates.pop() if len(dates) == 1 else "",
        "band_names": [name[:NAME] for name in names] if any(names) else None,
        "scales": None if scaling is None else list(scaling[0]),
        "offsets": None if scaling is None else list(scaling[1]),
        "stored": str(scenes[0].cube.dtype) if len({scene.cube.dtype for scene in scenes}) == 1 else "",
    }


def _place(scene: LabelledScene) -> tuple[int, int, Georeference]:
    if scene.grid is not None:
        return scene.grid.height, scene.grid.width, scene.grid.place
    return (*scene.labels.shape, Georeference.of(scene.crs, scene.transform))


def _bounds(scene: LabelledScene) -> Box | None:
    height, width, place = _place(scene)
    if place.crs is None or place.transform is None:
        return None
    source, target = (rasterio.crs.CRS.from_user_input(crs) for crs in (place.crs, WGS84))
    boxes = boxes_around(scene_bounds(height, width, place), source, target)
    inside = [box for box in boxes if box[0] >= -180 and box[2] <= 180]
    return inside[0] if inside else None


def _around(boxes: Sequence[Box]) -> list[float]:
    west, south, east, north = zip(*boxes, strict=True)
    return [round(value, DIGITS) for value in (min(west), min(south), max(east), max(north))]


def _pixel_size(scene: LabelledScene) -> tuple[float, float] | None:
    _, _, place = _place(scene)
    if place.crs is None or place.transform is None:
        return None
    crs = rasterio.crs.CRS.from_user_input(place.crs)
    if not crs.is_projected:
        return None
    metres, t = crs.linear_units_factor[1], place.transform
    sides = (t.a**2 + t.d**2) ** 0.5 * metres, (t.b**2 + t.e**2) ** 0.5 * metres
    return (round(sides[0], DIGITS), round(sides[1], DIGITS))
