"""EMIT L2A reflectance (``.nc``): spectra in sensor geometry, with a table of where they lie on a map."""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import rasterio

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.limits import LOOKUP_PIXELS
from spectraldiff_runtime.products.clouds import CloudLayer
from spectraldiff_runtime.products.hdf5_file import fill_value, nanometres, numbers, text
from spectraldiff_runtime.products.hdf5_scene import Cube, Hdf5Layout
from spectraldiff_runtime.products.product import Hdf5Product
from spectraldiff_runtime.scene.lookup_grid import LookupGrid

CUBE = "reflectance"
# Bands of the mask: cloud, cirrus and dilated cloud; by their names, and by their places where they have none.
CLOUD_NAMES, CLOUD_BANDS = ("sensor_band_parameters/mask_bands", r"(cloud|cirrus).*flag"), (1, 2, 5)


def recognise(path: Path, file: h5py.File) -> Hdf5Product | None:
    """Return the product where the file is one of EMIT's; SceneError where it holds no reflectance."""
    if "location/glt_x" not in file or not text(file.attrs.get("instrument")).upper().startswith("EMIT"):
        return None
    title = text(file.attrs.get("title"))
    if not isinstance(file.get(CUBE), h5py.Dataset):
        raise SceneError(f"'{path}' is another file of EMIT ('{title}'): wanted the L2A reflectance, EMIT_L2A_RFL_*.nc")
    date = text(file.attrs.get("time_coverage_start"))
    return Hdf5Product(
        "EMIT", "L2A", date, str(path), "surface reflectance", None, _layout(file), cloud_layers=_clouds(path)
    )


def _clouds(path: Path) -> tuple[CloudLayer, ...]:
    """Return the mask in the file next to the reflectance: clouds, cirrus and what lies close to clouds."""
    mask = path.with_name(path.name.replace("_L2A_RFL_", "_L2A_MASK_"))
    if mask == path or not mask.is_file():
        return ()
    return (CloudLayer(str(mask), (1,), mask, CLOUD_BANDS, "mask", CLOUD_NAMES),)


def is_emit(tags: Mapping[str, str]) -> bool:
    """Whether what GDAL says of a raster is what EMIT's netCDF files say."""
    return any(tags.get(f"{group}instrument", "").upper().startswith("EMIT") for group in ("NC_GLOBAL#", ""))


def _layout(file: h5py.File) -> Hdf5Layout:
    data, bands = file[CUBE], file["sensor_band_parameters"]
    waves = numbers(bands["wavelengths"])
    unit = text(bands["wavelengths"].attrs.get("units"))
    good = numbers(bands["good_wavelengths"]) if "good_wavelengths" in bands else np.ones(len(waves))
    if not len(waves) == len(good) == data.shape[2]:
        raise ValueError(f"{CUBE} has {data.shape[2]} bands and there are {len(waves)} wavelengths")
    fill = fill_value(data)
    return Hdf5Layout(
        (Cube(CUBE, (0, 1, 2), tuple(range(len(waves)))),),
        nanometres(waves, unit),
        nanometres(numbers(bands["fwhm"]), unit or "nm"),
        np.ones(len(waves)),
        np.zeros(len(waves)),
        {int(i) + 1: "not good by the product" for i in np.flatnonzero(good == 0)},
        -9999.0 if fill is None else fill,
        grid=_grid(file, data.shape[0], data.shape[1]),
    )


def _grid(file: h5py.File, height: int, width: int) -> LookupGrid:
    """Return the lookup table; the file counts from 1, with 0 for none, and negative numbers for filled gaps."""
    tables = [file[f"location/glt_{axis}"] for axis in ("x", "y")]
    for table in tables:
        if table.ndim != 2 or table.size > LOOKUP_PIXELS or table.dtype.kind not in "iu":
            raise ValueError(
                f"{table.name} has shape {table.shape} of {table.dtype}: wanted 2 axes, {LOOKUP_PIXELS:,} pixels at "
                "most, whole numbers"
            )
    columns, rows = (np.abs(table[()].astype(np.int32)) - 1 for table in tables)
    none = (columns < 0) | (rows < 0)
    if columns.shape != rows.shape or rows.max(initial=-1) >= height or columns.max(initial=-1) >= width:
        raise ValueError("its lookup table (glt_x, glt_y) names pixels that the scene does not have")
    columns[none] = rows[none] = -1
    west, dx, skew_x, north, skew_y, dy = numbers(file.attrs["geotransform"])
    crs = rasterio.crs.CRS.from_wkt(text(file.attrs["spatial_ref"]))
    return LookupGrid(rows, columns, Georeference(crs, rasterio.Affine(dx, skew_x, west, skew_y, dy, north)))
