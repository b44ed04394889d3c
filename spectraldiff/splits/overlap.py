"""Training pixels of other scenes: where scenes overlap, a location may train in one and test in the other.

A training pixel of another scene is represented by k by k points, spread evenly over it and so close to each other that
they miss no pixel of this scene that it covers. The pixels that they fall into are covered.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import rasterio
from numpy.typing import NDArray

from spectraldiff.data.canvas import Canvas
from spectraldiff.splits.disjoint import within
from spectraldiff_runtime.geo.georeference import Georeference, apply_transform, crs_of
from spectraldiff_runtime.geo.reprojection import boxes_around, expanded, reproject_points, scene_bounds

BLOCK = 2**18  # pixels that are looked at together
PER_PIXEL = 1.5  # points a pixel of this scene along the sides of a training pixel, however it is turned


@dataclass(frozen=True)
class Place:
    """Where the label array of a scene lies.

    Attributes
    ----------
    of
        Of the scene.
    canvas
        The parts of the scene that the array holds; None for all of it.
    """

    of: Georeference
    canvas: Canvas | None = None

    def size(self, array: tuple[int, ...]) -> tuple[int, int]:
        """Return height and width of the scene whose label array has this shape."""
        return (array[0], array[1]) if self.canvas is None else self.canvas.scene


def near_trained_elsewhere(
    index: int, trains: Sequence[NDArray[np.bool_]], georeferences: Sequence[Place | Georeference], distance: int
) -> NDArray[np.bool_] | None:
    """Find the pixels of a scene that a training pixel of another scene covers, or that are near one.

    Parameters
    ----------
    index
        The scene, from 0.
    trains
        (H, W) bool of each scene: its training pixels.
    georeferences
        Where each scene lies. One without a transform overlaps no other; nor do two of which one has a CRS.
    distance
        How near, in pixels of the scene (Chebyshev); 0 for covered pixels alone. Training pixels beyond its edge count
        too.

    Returns
    -------
    ndarray of shape (H, W), bool, or None where there is no such pixel
    """
    places = [one if isinstance(one, Place) else Place(one) for one in georeferences]
    own, (height, width) = places[index], places[index].size(trains[index].shape)
    if not _placed(own.of):
        return None
    framed = _framed(own.of, distance)
    shape = height + 2 * distance, width + 2 * distance
    array = trains[index].shape
    covered = np.zeros((array[0] + 2 * distance, array[1] + 2 * distance), np.bool_)
    for other, (train, place) in enumerate(zip(trains, places, strict=True)):
        if other != index and _placed(place.of) and bool(place.of.crs) == bool(own.of.crs):
            for points in _points(train, place, framed, shape):
                pixels = np.stack([points[:, 1], points[:, 0]], 1).astype(np.int64)
                if own.canvas is not None:  # what lies beyond the scene's edge counts as at the edge
                    inner = np.clip(pixels - distance, 0, np.array([height, width]) - 1)
                    pixels, inside = own.canvas.located(inner)
                    pixels = pixels[inside] + distance
                covered[pixels[:, 0], pixels[:, 1]] = True
    if not covered.any():
        return None
    near = within(covered, distance)[distance : distance + array[0], distance : distance + array[1]]
    return near if near.any() else None


def _placed(place: Georeference) -> bool:
    return place.transform is not None and not place.transform.is_degenerate


def _framed(place: Georeference, frame: int) -> Georeference:
    """Return where a scene lies with a frame of so many pixels around it."""
    a, b, _, d, e, _ = place.transform[:6]
    left, top = apply_transform(place.transform, -frame, -frame)
    return Georeference(place.crs, rasterio.Affine(a, b, left, d, e, top))


def _points(
    train: NDArray[np.bool_], where: Place, target: Georeference, shape: tuple[int, int]
) -> Iterator[NDArray[np.float64]]:
    """Yield the points of one scene's training pixels that lie in another, (n, 2): column and row there."""
    place = where.of
    crs, target_crs = crs_of(place), crs_of(target)
    box = scene_bounds(*shape, target)
    boxes = [box] if crs == target_crs else boxes_around(box, target_crs, crs)

    def brought(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        points = np.stack(apply_transform(place.transform, *pixels.T), 1)
        if crs != target_crs:
            points = reproject_points(points, crs, target_crs)
        return np.stack(apply_transform(~target.transform, *points.T), 1)

    for pixels in _pixels(train, where.canvas) if boxes else ():
        reaching = _reaching(pixels, place, [expanded(one) for one in boxes])
        if not len(reaching):
            continue
        some = reaching[:: -(-len(reaching) // 8)] + 0.5
        sides = [brought(some + step) - brought(some) for step in ((1, 0), (0, 1))]
        lengths = np.hypot(*np.concatenate(sides).T)
        points = max(1, math.ceil(PER_PIXEL * np.max(lengths, initial=0, where=np.isfinite(lengths)) - 1e-6))
        for offset in np.ndindex(points, points):
            found = brought(reaching + (np.array(offset) + 0.5) / points)
            yield found[(found >= 0).all(axis=1) & (found[:, 0] < shape[1]) & (found[:, 1] < shape[0])]


def _pixels(mask: NDArray[np.bool_], canvas: Canvas | None) -> Iterator[NDArray[np.float64]]:
    """Yield the pixels of a mask, (n, 2): column and row on the scene."""
    step = max(1, BLOCK // mask.shape[1])
    for top in range(0, len(mask), step):
        rows, columns = np.nonzero(mask[top : top + step])
        pixels = np.stack([rows + top, columns], 1)
        pixels = pixels if canvas is None else canvas.on_scene(pixels)
        yield pixels[:, ::-1].astype(np.float64)


def _reaching(
    pixels: NDArray[np.float64], place: Georeference, boxes: Sequence[tuple[float, float, float, float]]
) -> NDArray[np.float64]:
    """Return the pixels that reach one of the boxes, which are in the CRS of the pixels' scene."""
    a, b, _, d, e, _ = place.transform[:6]
    x, y = apply_transform(place.transform, *(pixels + 0.5).T)
    dx, dy = (abs(a) + abs(b)) / 2, (abs(d) + abs(e)) / 2
    inside = np.zeros(len(pixels), np.bool_)
    for west, south, east, north in boxes:
        inside |= (x >= west - dx) & (x <= east + dx) & (y >= south - dy) & (y <= north + dy)
    return pixels[inside]
