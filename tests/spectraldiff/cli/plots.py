"""A campaign as the tests make it: many small plots of one sensor, and the crowns of all of them in one GeoPackage."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyogrio
import rasterio
import shapely
from rasterio import warp

SIDE, CROWN, APART = 20, 5, 400.0  # pixels of a plot and of a crown along a side; metres from plot to plot
SPECIES = ("Acer", "Pinus", "Quercus", "Tilia")
LEFT, TOP, CRS, OTHER = 400000.0, 3290000.0, "EPSG:32617", "EPSG:32616"


@dataclass(frozen=True)
class Plots:
    """The files of some plots.

    Attributes
    ----------
    scenes
        Rasters ``plot_01.tif``, ``plot_02.tif``, ...
    crowns
        The GeoPackage, with the field ``species``.
    """

    scenes: list[Path]
    crowns: Path


def make_plots(folder: Path, count: int = 40, bands: int = 369, bare: tuple[int, ...] = (), seed: int = 0) -> Plots:
    """Write plots of 20 x 20 pixels of a metre: every second one uint16, the others float32, in one unit.

    Each has two crowns, in turn of four species; those whose numbers, from 1, are in `bare` have none. The last plot
    lies in another CRS. The second plot covers half of the first, so that three crowns lie in both. One lies in none.
    """
    rng, x = np.random.default_rng(seed), np.linspace(0, 3, bands)
    folder.mkdir(parents=True, exist_ok=True)
    spectra = [1500 + 700 * np.sin(x * (k + 1)) + 400 * k for k in range(len(SPECIES) + 1)]
    scenes, shapes, names = [], [], []
    for number in range(1, count + 1):
        left = LEFT + APART * number if number != 2 else LEFT + APART + SIDE / 2
        cube = spectra[-1] + rng.normal(0, 60, (SIDE, SIDE, bands))
        for at, (row, column) in enumerate([] if number in bare else [(2, 1), (12, 4)]):
            kind = (2 * number + at) % len(SPECIES)
            cube[row : row + CROWN, column : column + CROWN] += spectra[kind] - spectra[-1]
            shapes.append(box(left + column, TOP - row))
            names.append(SPECIES[kind])
        crs = OTHER if number == count else CRS
        scenes.append(folder / f"plot_{number:02d}.tif")
        write(scenes[-1], cube.clip(1).astype("uint16" if number % 2 else "float32"), left, crs)
    shapes += [box(LEFT + APART + SIDE - 6, TOP - 7), box(LEFT - 5000, TOP)]
    names += SPECIES[:2]
    crowns = folder / "crowns.gpkg"
    pyogrio.raw.write(
        crowns, shapely.to_wkb(np.array(shapes, object)), [np.array(names, object)], ["species"], crs=CRS,
        geometry_type="Polygon",
    )  # fmt: skip
    return Plots(scenes, crowns)


def box(x: float, y: float) -> shapely.Polygon:
    return shapely.box(x, y - CROWN, x + CROWN, y)


def write(path: Path, cube: np.ndarray, left: float, crs: str = CRS) -> None:
    """Write a plot; in another CRS, where its middle lies."""
    top = TOP
    if crs != CRS:
        (left,), (top,) = warp.transform(CRS, crs, [left], [TOP])
    height, width, bands = cube.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": bands, "dtype": cube.dtype, "crs": crs}
    with rasterio.open(path, "w", **profile, transform=rasterio.Affine(1, 0, left, 0, -1, top)) as raster:
        raster.write(cube.transpose(2, 0, 1))
