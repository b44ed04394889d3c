"""Tanager orthorectified surface reflectance (``.h5``)."""

import re
from pathlib import Path

import h5py
import numpy as np
import rasterio

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.products.clouds import CloudLayer
from spectraldiff_runtime.products.hdf5_file import fill_value, nanometres, number, numbers, text
from spectraldiff_runtime.products.hdf5_scene import Cube, Hdf5Layout, Padding
from spectraldiff_runtime.products.product import Hdf5Product

GROUP = "HDFEOS/GRIDS/HYP"
FIELDS = f"{GROUP}/Data Fields"
NODATA = -9999.0


def recognise(path: Path, file: h5py.File) -> Hdf5Product | None:
    """Return the product where the file is one of Tanager's; SceneError where it has no grid or no reflectance."""
    if "HDFEOS/SWATHS/HYP" in file and GROUP not in file:
        raise SceneError(
            f"'{path}' is Tanager in sensor geometry (basic), whose pixels lie on no grid: wanted the orthorectified "
            "surface reflectance, *_ortho_sr_hdf5.h5"
        )
    if GROUP not in file:
        return None
    if f"{FIELDS}/surface_reflectance" not in file:
        raise SceneError(f"'{path}' is Tanager without surface reflectance: wanted *_ortho_sr_hdf5.h5 of the scene")
    date = re.match(r"(20\d{2})(\d{2})(\d{2})_(\d{2})(\d{2})(\d{2})", path.name)
    when = "{}-{}-{}T{}:{}:{}".format(*date.groups()) if date else ""
    masks = [f"{FIELDS}/beta_{kind}_mask" for kind in ("cloud", "cirrus")]
    layers = tuple(CloudLayer(str(path), (1,), path, dataset=name) for name in masks if name in file)
    return Hdf5Product(
        "Tanager", "L2A", when, str(path), "surface reflectance", None, _layout(file), cloud_layers=layers
    )


def _layout(file: h5py.File) -> Hdf5Layout:
    data = file[f"{FIELDS}/surface_reflectance"]
    waves = numbers(data.attrs["wavelengths"])
    if len(waves) != data.shape[0]:
        raise ValueError(f"surface_reflectance has {data.shape[0]} bands and there are {len(waves)} wavelengths")
    good = numbers(data.attrs["good_wavelengths"]) if "good_wavelengths" in data.attrs else np.ones(len(waves))
    unit = text(data.attrs.get("wavelengths_units"))
    fill = fill_value(data)
    padding = f"{FIELDS}/nodata_pixels"
    return Hdf5Layout(
        (Cube(f"{FIELDS}/surface_reflectance", (1, 2, 0), tuple(range(len(waves)))),),
        nanometres(waves, unit),
        nanometres(numbers(data.attrs["fwhm"]), unit or "nm"),
        np.ones(len(waves)),
        np.zeros(len(waves)),
        {int(i) + 1: "not good by the product" for i in np.flatnonzero(good == 0)},
        NODATA if fill is None else fill,
        _place(file, data.shape[1], data.shape[2]),
        Padding(padding, where_zero=False) if padding in file else None,
    )


def _place(file: h5py.File, height: int, width: int) -> Georeference:
    """Return the grid: StructMetadata.0 has the outer edges of the corners."""
    structure = text(file["HDFEOS INFORMATION/StructMetadata.0"])
    left, top = _pair(structure, "UpperLeftPointMtrs")
    right, bottom = _pair(structure, "LowerRightMtrs")
    crs = rasterio.crs.CRS.from_epsg(int(number(file[GROUP].attrs["epsg_code"])))
    across, down = (right - left) / width, (bottom - top) / height
    return Georeference(crs, rasterio.Affine(across, 0.0, left, 0.0, down, top))


def _pair(structure: str, name: str) -> tuple[float, float]:
    found = re.search(rf"{name}=\(([^,)]+),([^,)]+)\)", structure)
    if found is None:
        raise ValueError(f"StructMetadata.0 has no {name}")
    return float(found[1]), float(found[2])
