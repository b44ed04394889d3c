"""Class rasters: what the values mean, their colours, and how names get into the file.

A class raster is uint8, past 254 classes uint16, with 0 = unclassified = nodata. GDAL keeps category names of
a GeoTIFF in a sidecar, ``<name>.tif.aux.xml``, which QGIS reads; rasterio cannot write them, so we write the sidecar.
The names are also in the file's own ``CLASS_NAMES`` tag, because sidecars get lost.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.untrusted import is_control

UNCLASSIFIED = "Unclassified"

# The highest value of a class, and the highest that a uint8 raster holds: 255 stays free.
HIGHEST, HIGHEST_UINT8 = 65535, 254

Colour = tuple[int, int, int]  # red, green and blue, 0..255

# Bright, dark and in between, far from each other: Trubetskoy's "20 distinct colours" without the greys.
FIRST_COLOURS = (
    (60, 180, 75), (230, 25, 75), (0, 130, 200), (255, 225, 25), (245, 130, 48), (145, 30, 180),
    (70, 240, 240), (240, 50, 230), (170, 110, 40), (210, 245, 60), (0, 128, 128), (250, 190, 212),
    (128, 0, 0), (0, 0, 128), (128, 128, 0), (170, 255, 195), (220, 190, 255), (255, 215, 180),
)  # fmt: skip


@dataclass(frozen=True)
class LandCoverClass:
    """One class of a map: its value in the raster (1..65535), its name and its colour (RGB, 0..255)."""

    value: int
    name: str
    colour: Colour


def clean_name(text: str) -> str:
    """Return a class's name in one line: blanks, tabs and line ends become one blank, control characters go.

    So do halves of surrogate pairs, which no file takes, and what reorders letters on a screen. Letters get the
    composed form (NFC) in which equal words are equal.
    """
    kept = (c for c in unicodedata.normalize("NFC", text) if c.isspace() or not is_control(c))
    return " ".join("".join(kept).split())


def class_dtype(highest: int) -> np.dtype[Any]:
    """Return the type of a class raster whose highest value is this one: uint8 or uint16."""
    if not 0 <= highest <= HIGHEST:
        raise ValueError(f"classes have values from 1 to {HIGHEST}, not {highest}")
    return np.dtype(np.uint8 if highest <= HIGHEST_UINT8 else np.uint16)


def palette(n: int) -> list[Colour]:
    """Return `n` colours, the same ones every time (0 <= n <= 65535).

    The first 255 are easy to distinguish. After them they repeat.
    """
    if not 0 <= n <= HIGHEST:
        raise ValueError(f"a palette has 0 to {HIGHEST} colours, not {n}")
    colours = FIRST_COLOURS if n <= len(FIRST_COLOURS) else _all_colours()
    return [colours[i % len(colours)] for i in range(n)]


def with_colours(found: Sequence[Colour | None]) -> list[Colour]:
    """Give each class without a colour (None) one of `palette` that no other class has, while there are any."""
    count = len(found)
    usual, more = palette(count), palette(min(2 * count, HIGHEST))[count:]
    taken = {colour for colour in found if colour is not None}
    spare = iter([*more, *usual])
    colours = []
    for own, plain in zip(found, usual, strict=True):
        colour = own or (plain if plain not in taken else next((free for free in spare if free not in taken), plain))
        taken.add(colour)
        colours.append(colour)
    return colours


@cache
def _all_colours() -> tuple[Colour, ...]:
    """Extend the first colours to 255, each time by the candidate farthest from all colours so far."""
    levels = np.arange(16, 256, 16)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _oklab(candidates)
    usable = (lab[:, 0] > 0.3) & (lab[:, 0] < 0.95) & (np.hypot(lab[:, 1], lab[:, 2]) > 0.04)
    candidates, lab = candidates[usable], lab[usable]
    chosen = list(FIRST_COLOURS)
    distance = np.min([((lab - _oklab(np.array(c))) ** 2).sum(-1) for c in chosen], axis=0)
    while len(chosen) < 255:
        best = int(distance.argmax())
        red, green, blue = (int(level) for level in candidates[best])
        chosen.append((red, green, blue))
        distance = np.minimum(distance, ((lab - lab[best]) ** 2).sum(-1))
    return tuple(chosen)


def _oklab(rgb: NDArray[Any]) -> NDArray[np.float64]:
    """Convert sRGB (..., 3) to Oklab, where distances are about as large as people see them."""
    c = rgb / 255.0
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    to_lms = [[0.4122, 0.2119, 0.0883], [0.5363, 0.6807, 0.2817], [0.0514, 0.1074, 0.6300]]
    to_lab = [[0.2105, 1.9780, 0.0259], [0.7936, -2.4286, 0.7828], [-0.0041, 0.4506, -0.8087]]
    return np.asarray(np.cbrt(linear @ np.array(to_lms)) @ np.array(to_lab))


def category_names(classes: Sequence[LandCoverClass]) -> list[str]:
    """Return the names at their values: index 0 is "Unclassified", unused values have an empty name."""
    names = [""] * (max((c.value for c in classes), default=0) + 1)
    names[0] = UNCLASSIFIED
    for c in classes:
        names[c.value] = c.name
    return names


def colour_table(classes: Sequence[LandCoverClass]) -> dict[int, tuple[int, int, int, int]]:
    """Return rasterio's colour map: 0 transparent, each class opaque."""
    return {0: (0, 0, 0, 0), **{c.value: (*c.colour, 255) for c in classes}}
