"""NEON AOP reflectance (``.h5``)."""

import re
from pathlib import Path

import h5py
import numpy as np
import rasterio
from numpy.typing import NDArray

from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.products.hdf5_file import fill_value, nanometres, number, numbers, text
from spectraldiff_runtime.products.hdf5_scene import Cube, Hdf5Layout
from spectraldiff_runtime.products.product import Hdf5Product


def recognise(path: Path, file: h5py.File) -> Hdf5Product | None:
    """Return the product where the file is one of NEON's."""
    sites = [site for site in file if isinstance(file.get(f"{site}/Reflectance/Reflectance_Data"), h5py.Dataset)]
    if len(sites) != 1:
        return None
    date = re.search(r"(?<!\d)(20\d{2})(\d{2})(\d{2})(?!\d)", path.stem)
    return Hdf5Product(
        "NEON AOP", "L3" if re.search(r"_DP3_", path.name) else "L1", "-".join(date.groups()) if date else "",
        str(path), "surface reflectance", None, _layout(file, sites[0]),
    )  # fmt: skip


def _layout(file: h5py.File, site: str) -> Hdf5Layout:
    group, data = file[f"{site}/Reflectance"], file[f"{site}/Reflectance/Reflectance_Data"]
    spectral = group["Metadata/Spectral_Data"]
    waves = numbers(spectral["Wavelength"])
    unit = text(spectral["Wavelength"].attrs.get("Units"))
    if len(waves) != data.shape[2]:
        raise ValueError(f"{data.name} has {data.shape[2]} bands and there are {len(waves)} wavelengths")
    waves = nanometres(waves, unit)
    factor = fill_value(data, "Scale_Factor") or 1.0
    return Hdf5Layout(
        (Cube(data.name.lstrip("/"), (0, 1, 2), tuple(range(len(waves)))),),
        waves,
        nanometres(numbers(spectral["FWHM"]), unit or "nm"),
        np.full(len(waves), 1.0 / factor),
        np.zeros(len(waves)),
        _bad(group, waves),
        fill_value(data, "Data_Ignore_Value", "_FillValue"),
        _place(group["Metadata/Coordinate_System"]),
    )


def _bad(group: h5py.Group, waves: NDArray[np.float64]) -> dict[int, str]:
    """Return the bands in the windows of water vapour that the file names."""
    bad: dict[int, str] = {}
    for name in group.attrs:
        if re.fullmatch(r"Band_Window_\d+_Nanometers", name):
            low, high = numbers(group.attrs[name])[:2]
            inside = np.flatnonzero((waves >= min(low, high)) & (waves <= max(low, high)))
            bad |= {int(i) + 1: "in a band window of water vapour" for i in inside}
    return bad


def _place(system: h5py.Group) -> Georeference:
    """Return the grid from ENVI's map info: the place of a pixel's upper left corner, pixels counted from 1."""
    info = [part.strip() for part in text(system["Map_Info"]).strip("{}").split(",")]
    column, row, east, north, width, height = (float(part) for part in info[1:7])
    crs = rasterio.crs.CRS.from_epsg(int(number_or_text(system["EPSG Code"])))
    left, top = east - (column - 1) * width, north + (row - 1) * height
    return Georeference(crs, rasterio.Affine(width, 0.0, left, 0.0, -height, top))


def number_or_text(value: h5py.Dataset) -> float:
    """Return a number that is stored as such or as text."""
    return float(text(value)) if value.dtype.kind in "SO" else number(value)
