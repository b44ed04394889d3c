"""PRISMA L2D (``.he5``): VNIR and SWIR cubes on a grid."""

import re
from pathlib import Path

import h5py
import numpy as np
import rasterio
from numpy.typing import NDArray

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.products.hdf5_file import number, numbers, text
from spectraldiff_runtime.products.hdf5_scene import Cube, Hdf5Layout, Padding
from spectraldiff_runtime.products.product import Hdf5Product

SWATH = re.compile(r"PRS_(L\w+)_HCO")
PIXEL = 30.0  # metres
# Digital numbers 0 to 65535 are stretched between the least and the largest reflectance of the scene.
LARGEST = 65535.0


def recognise(path: Path, file: h5py.File) -> Hdf5Product | None:
    """Return the product where the file is one of PRISMA's; SceneError where it has no grid."""
    swaths = file.get("HDFEOS/SWATHS")
    found = [m[1] for name in swaths if (m := SWATH.fullmatch(name))] if isinstance(swaths, h5py.Group) else []
    if not found:
        return None
    level = found[0]
    if level != "L2D":
        raise SceneError(f"'{path}' is PRISMA {level}, whose pixels lie on no grid: wanted L2D of the same scene")
    date = text(file.attrs.get("Product_StartTime"))
    clouds = file.attrs.get("Cloudy_pixels_percentage")
    return Hdf5Product(
        "PRISMA", level, date, str(path), "surface reflectance", None if clouds is None else number(clouds),
        _layout(file),
    )  # fmt: skip


def _layout(file: h5py.File) -> Hdf5Layout:
    fields = "HDFEOS/SWATHS/PRS_L2D_HCO"
    parts = [_part(file, f"{fields}/Data Fields/{name}_Cube", name) for name in ("Vnir", "Swir")]
    waves, widths, scales, offsets = (np.concatenate([part[i] for part in parts]) for i in range(1, 5))
    return Hdf5Layout(
        tuple(part[0] for part in parts),
        waves,
        widths,
        scales,
        offsets,
        _bad(waves, len(parts[0][1])),
        None,
        _place(file),
        Padding(f"{fields}/Geometric Fields/Solar_Zenith_Angle", where_zero=True),
        physical=True,
    )


def _part(
    file: h5py.File, cube: str, name: str
) -> tuple[Cube, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return a cube with the centres, widths, scales and offsets of its bands, turned so that wavelengths rise.

    Wavelengths of bands that were not acquired are 0 in the file and NaN here.
    """
    waves, widths = numbers(file.attrs[f"List_Cw_{name}"]), numbers(file.attrs[f"List_Fwhm_{name}"])
    least, most = number(file.attrs[f"L2Scale{name}Min"]), number(file.attrs[f"L2Scale{name}Max"])
    places = tuple(range(len(waves)))[::-1]
    data = file[cube.replace(f"{name}_Cube", f"{name.upper()}_Cube")]
    if data.shape[1] != len(waves):
        raise ValueError(f"{data.name} has {data.shape[1]} bands and List_Cw_{name} {len(waves)}")
    return (
        Cube(data.name.lstrip("/"), (0, 2, 1), places),
        np.where(waves > 0, waves, np.nan)[::-1],
        np.where(waves > 0, widths, np.nan)[::-1],
        np.full(len(waves), (most - least) / LARGEST),
        np.full(len(waves), least),
    )


def _bad(waves: NDArray[np.float64], vnir: int) -> dict[int, str]:
    """Return the bands that were not acquired, and those of VNIR where SWIR has begun."""
    first = np.nanmin(waves[vnir:]) if np.isfinite(waves[vnir:]).any() else np.inf
    bad = {int(i) + 1: "not acquired" for i in np.flatnonzero(np.isnan(waves))}
    return bad | {int(i) + 1: "VNIR where SWIR overlaps" for i in np.flatnonzero(waves[:vnir] >= first)}


def _place(file: h5py.File) -> Georeference:
    """Return the grid: the corners are centres of pixels."""
    left = number(file.attrs["Product_ULcorner_easting"]) - PIXEL / 2
    top = number(file.attrs["Product_ULcorner_northing"]) + PIXEL / 2
    epsg = int(number(file.attrs["Epsg_Code"]))
    return Georeference(rasterio.crs.CRS.from_epsg(epsg), rasterio.Affine(PIXEL, 0.0, left, 0.0, -PIXEL, top))
