"""AVIRIS-NG and AVIRIS Classic (ENVI), AVIRIS-3 and AVIRIS-5 (``.nc``)."""

import re
from pathlib import Path, PurePosixPath

import h5py
import numpy as np
import rasterio

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.products.delivery import Delivery
from spectraldiff_runtime.products.hdf5_file import fill_value, nanometres, numbers, text
from spectraldiff_runtime.products.hdf5_scene import Cube, Hdf5Layout
from spectraldiff_runtime.products.product import Hdf5Product, RasterProduct

# Flight lines as their files are named: ang20180814t224053, f180601t01p00r10, AV320230926t201618.
NEXT_GENERATION = r"ang(20\d{2})(\d{2})(\d{2})t(\d{2})(\d{2})(\d{2})"
CLASSIC = r"f(\d{2})(\d{2})(\d{2})t\d{2}p\d{2}r\d{2}"
THREE = r"AV([35])(20\d{2})(\d{2})(\d{2})t(\d{2})(\d{2})(\d{2})"
# Files of a flight line that hold no spectra of the ground.
OTHERS = r"(obs|loc|igm|glt|h2o|lbl|unc|uncert|msk|mask|geo|eph|ort_obs|obs_ort|ort_igm|ort_glt|gain|spc|rcc)"
SPECTRA = r"(?!.*_{}(_|\.|$)){}.*".format(OTHERS, "({})")
NODATA = -9999.0


def recognise_envi(delivery: Delivery) -> list[RasterProduct]:
    """Return the spectra of AVIRIS-NG and Classic in a delivery: ENVI files with a header each."""
    found = []
    for sensor, line in (("AVIRIS-NG", NEXT_GENERATION), ("AVIRIS Classic", CLASSIC)):
        for name in delivery.matching(SPECTRA.format(line) + r"\.hdr"):
            data = _data_of(delivery, name)
            if data and delivery.chosen in ("", name, data):
                found.append(_envi_product(delivery, sensor, line, data))
    return found


def _data_of(delivery: Delivery, header: str) -> str:
    """Return the file that a header describes: of its name without the suffix, or with another; empty without."""
    stem = header[:-4]
    others = (stem, *(f"{stem}.{suffix}" for suffix in ("img", "dat", "bil", "bip", "bsq", "bin", "raw")))
    return next((name for name in others if name in delivery.names), "")


def _envi_product(delivery: Delivery, sensor: str, line: str, data: str) -> RasterProduct:
    name = PurePosixPath(data).name
    match = re.match(line, name, re.IGNORECASE)
    assert match is not None
    year, month, day, *time = match.groups()
    date = f"{_year(year)}-{month}-{day}" + (f"T{':'.join(time)}" if time else "")
    radiance = re.search(r"rdn(_|\.|$)", name, re.IGNORECASE) is not None
    level, quantity = ("L1B", "radiance") if radiance else ("L2", "surface reflectance")
    return RasterProduct(sensor, level, date, delivery.gdal_name(data), quantity, None)


def _year(text: str) -> int:
    """Return the year of two digits or four: AVIRIS first flew in 1987."""
    year = int(text)
    return year if year > 99 else 1900 + year if year >= 87 else 2000 + year


def recognise(path: Path, file: h5py.File) -> Hdf5Product | None:
    """Return the product where a file is one of AVIRIS-3's or 5's."""
    match = re.match(THREE, path.name, re.IGNORECASE)
    group = file.get("reflectance")
    if not isinstance(group, h5py.Group) or not isinstance(group.get("reflectance"), h5py.Dataset):
        return None
    if "wavelength" not in group or not (match or "transverse_mercator" in file):
        return None
    if "transverse_mercator" not in file:
        raise SceneError(f"'{path}' is AVIRIS in sensor geometry, on no grid: wanted the orthorectified *_RFL_ORT.nc")
    sensor = f"AVIRIS-{match[1]}" if match else "AVIRIS-3"
    date = "{}-{}-{}T{}:{}:{}".format(*match.groups()[1:]) if match else text(file.attrs.get("time_coverage_start"))
    return Hdf5Product(sensor, "L2A", date, str(path), "surface reflectance", None, _layout(file, group))


def _layout(file: h5py.File, group: h5py.Group) -> Hdf5Layout:
    data, waves = group["reflectance"], numbers(group["wavelength"])
    if len(waves) != data.shape[0]:
        raise ValueError(f"reflectance has {data.shape[0]} bands and there are {len(waves)} wavelengths")
    unit, fill = text(group["wavelength"].attrs.get("units")), fill_value(data)
    return Hdf5Layout(
        (Cube("reflectance/reflectance", (1, 2, 0), tuple(range(len(waves)))),),
        nanometres(waves, unit),
        nanometres(numbers(group["fwhm"]), unit or "nm"),
        np.ones(len(waves)),
        np.zeros(len(waves)),
        {},
        NODATA if fill is None else fill,
        _place(file),
    )


def _place(file: h5py.File) -> Georeference:
    """Return the grid: GDAL's GeoTransform has the edge of the first pixel, coordinates have the centres."""
    mapping = file["transverse_mercator"]
    crs = rasterio.crs.CRS.from_wkt(text(mapping.attrs.get("crs_wkt", mapping.attrs.get("spatial_ref"))))
    written = text(mapping.attrs.get("GeoTransform")).replace(",", " ").split()
    if len(written) == 6:
        return Georeference(crs, rasterio.Affine.from_gdal(*map(float, written)))
    east, north = numbers(file["easting"]), numbers(file["northing"])
    dx, dy = east[1] - east[0], north[1] - north[0]
    return Georeference(crs, rasterio.Affine(dx, 0.0, east[0] - dx / 2, 0.0, dy, north[0] - dy / 2))
