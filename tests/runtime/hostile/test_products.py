"""Products in HDF5 and netCDF whose entries are of another kind, too many, or links to others: one line."""

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from spectraldiff_runtime import limits, raster_file
from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.products import emit as emit_product
from spectraldiff_runtime.products import hdf5_file
from tests.runtime.hostile.kit import Kit, check_refused
from tests.runtime.products.builders import Made, emit, neon, prisma, tanager

CUBE = "HDFEOS/SWATHS/PRS_L2D_HCO/Data Fields/VNIR_Cube"
WAVES = "sensor_band_parameters/wavelengths"
ZENITH = "HDFEOS/SWATHS/PRS_L2D_HCO/Geometric Fields/Solar_Zenith_Angle"
GLT = "location/glt_x"
REFLECTANCE, MAP_INFO = "SJER/Reflectance/Reflectance_Data", "SJER/Reflectance/Metadata/Coordinate_System/Map_Info"
FIELDS = "HDFEOS/GRIDS/HYP/Data Fields"
COMPOUND = np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")])

Change = Callable[[h5py.File, Path], None]


def attribute(name: str, value: object, of: str = "/") -> Change:
    return lambda file, _: file[of].attrs.__setitem__(name, value)


def instead(name: str, make: Callable[[h5py.File, Path], object]) -> Change:
    """Put another entry in the place of one; a group or a data set is made under its name."""

    def change(file: h5py.File, folder: Path) -> None:
        del file[name]
        made = make(file, folder)
        if made is not None:
            file[name] = made

    return change


def group(name: str) -> Change:
    """Put a group in the place of a data set."""
    return instead(name, lambda file, _: file.create_group(name) and None)


def empty(name: str, *shape: int) -> Change:
    """Put a data set in the place of another that claims a size and takes no room."""
    return instead(name, lambda file, _: file.create_dataset(name, shape, "i4", chunks=True) and None)


def pipe(folder: Path, name: str = "pipe.h5") -> str:
    os.mkfifo(folder / name)
    return name


def raw_pipe(file: h5py.File, folder: Path) -> None:
    place = [(str(folder / pipe(folder)), 0, h5py.h5f.UNLIMITED)]
    file.create_dataset(CUBE, shape=(29, 6, 37), dtype="u2", external=place)


def virtual_pipe(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout(shape=(29, 6, 37), dtype="u2")
    layout[:] = h5py.VirtualSource(str(folder / pipe(folder)), "x", shape=(29, 6, 37))
    file.create_virtual_dataset(CUBE, layout)


CASES: dict[str, tuple[Callable[[Path], Made], str, Change]] = {
    "compound": (prisma, "laid out otherwise", attribute("List_Cw_Vnir", COMPOUND)),
    "reference": (prisma, "laid out otherwise", lambda f, _: f.attrs.__setitem__("List_Cw_Vnir", f.ref)),
    "epsg-infinite": (prisma, "laid out otherwise", attribute("Epsg_Code", np.inf)),
    "epsg-nothing": (prisma, "laid out otherwise", attribute("Epsg_Code", h5py.Empty("i4"))),
    "scale-empty": (prisma, "laid out otherwise", attribute("L2ScaleVnirMax", np.array([]))),
    "scale-complex": (prisma, "complex numbers", attribute("L2ScaleVnirMax", np.complex64(1j))),
    "corner-nan": (prisma, "not finite", attribute("Product_ULcorner_easting", np.nan)),
    "cube-flat": (prisma, "laid out otherwise", instead(CUBE, lambda *_: np.zeros(5))),
    "cube-null": (prisma, "laid out otherwise", instead(CUBE, lambda *_: h5py.Empty("i2"))),
    "cube-group": (prisma, "laid out otherwise", group(CUBE)),
    "link-to-a-pipe": (prisma, "pipe.h5' is a pipe", instead(CUBE, lambda _, d: h5py.ExternalLink(pipe(d), "/x"))),
    "data-in-a-pipe": (prisma, "pipe.h5' is a pipe", instead(CUBE, raw_pipe)),
    "virtual-data-in-a-pipe": (prisma, "pipe.h5' is a pipe", instead(CUBE, virtual_pipe)),
    "padding-small": (prisma, "of 29 x 37 numbers", instead(ZENITH, lambda *_: np.ones((2, 2)))),
    "padding-text": (prisma, "of 29 x 37 numbers", instead(ZENITH, lambda *_: np.full((29, 37), b"x"))),
    "widths-few": (emit, "are of [2, 9] bands", instead("sensor_band_parameters/fwhm", lambda *_: np.ones(2))),
    "lookup-nan": (emit, "whole numbers", instead(GLT, lambda *_: np.full((32, 39), np.nan))),
    "crs-none": (emit, "laid out otherwise", attribute("spatial_ref", "\x1b[31mGEOGCS[")),
    "float128": (emit, "holds float128 values", instead("reflectance", lambda *_: np.ones((23, 31, 9), "g"))),
    "waves-group": (emit, "laid out otherwise", group(WAVES)),
    "waves-too-many": (emit, "wanted 1,000,000 at most", empty(WAVES, 2**31)),
    "lookup-too-large": (emit, "wanted 2 axes, 100,000,000 pixels at", empty(GLT, 60_000, 60_000)),
    "lookup-flat": (emit, "wanted 2 axes", instead(GLT, lambda *_: np.ones(9, "i4"))),
    "lookup-group": (emit, "laid out otherwise", group(GLT)),
    "transform-zero": (emit, "no area", attribute("geotransform", np.zeros(6))),
    "map-info-short": (neon, "laid out otherwise", instead(MAP_INFO, lambda *_: "UTM, 1")),
    "cube-of-two-axes": (neon, "laid out otherwise", instead(REFLECTANCE, lambda *_: np.zeros((5, 5)))),
    "no-columns": (
        tanager,
        "laid out otherwise",
        instead(f"{FIELDS}/surface_reflectance", lambda *_: np.zeros((9, 0, 0), "f4")),
    ),
    "fields-a-number": (tanager, "", instead(FIELDS, lambda *_: 3)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_product_with_one_odd_entry(kit: Kit, sdiff_map, listing, case):
    builder, words, change = CASES[case]
    made = builder(kit.folder)
    with h5py.File(made.path, "r+") as file:
        change(file, kit.folder)
    check_refused(kit, sdiff_map, listing, [made.path], 1, words)


def test_links_into_other_files_and_loops_of_them(kit: Kit, sdiff_map):
    """What is no pipe may be named; a file that names itself is looked at once."""
    made = prisma(kit.folder)
    with h5py.File(made.path, "r+") as file, h5py.File(kit.folder / "other.h5", "w") as other:
        other["cube"] = file[CUBE][()]
        other["back"] = h5py.ExternalLink(made.path.name, "/")
        del file[CUBE]
        file[CUBE] = h5py.ExternalLink("other.h5", "/cube")
    raster_file.check_hdf5(made.path)


def test_files_of_files_beyond_reading(kit: Kit):
    for level in range(limits.HDF5_LEVELS + 2):
        with h5py.File(kit.folder / f"{level}.h5", "w") as file:
            file["next"] = h5py.ExternalLink(f"{level + 1}.h5", "/")
    raster_file.check_hdf5(kit.folder / "1.h5")
    with pytest.raises(SceneError, match=r"0\.h5' names files that name files, over 6 levels deep"):
        raster_file.check_hdf5(kit.folder / "0.h5")


def test_entries_and_lists_up_to_their_limits(kit: Kit, monkeypatch):
    path = kit.folder / "many.h5"
    with h5py.File(path, "w") as file:
        for k in range(5):
            file[f"entry {k}"] = k
        file["list"] = np.arange(4)
        monkeypatch.setattr(hdf5_file, "HDF5_LIST", 4)
        assert hdf5_file.numbers(file["list"]).tolist() == [0, 1, 2, 3]
        monkeypatch.setattr(hdf5_file, "HDF5_LIST", 3)
        with pytest.raises(ValueError, match="has 4 values: wanted 3 at most"):
            hdf5_file.numbers(file["list"])
    monkeypatch.setattr(raster_file, "HDF5_ENTRIES", 12)  # links, and what they lead to
    raster_file.check_hdf5(path)
    raster_file._rasters_of.cache_clear()
    monkeypatch.setattr(raster_file, "HDF5_ENTRIES", 11)
    with pytest.raises(SceneError, match="more than 11 entries"):
        raster_file.check_hdf5(path)


def test_a_file_without_rows_and_columns(kit: Kit, sdiff_map, listing):
    with h5py.File(kit.folder / "flat.h5", "w") as file:
        file["HDFEOS"], file["list"] = 5, np.zeros(9)
    check_refused(kit, sdiff_map, listing, [kit.folder / "flat.h5"], 1, "none of its data has rows and columns")


@pytest.mark.parametrize("name", ["{}", "HDF5:{}://d", 'HDF5:"{}"://d', 'NETCDF:"{}":d'])
def test_more_bands_than_are_read(kit: Kit, sdiff_map, listing, name):
    path = kit.folder / "bands.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("d", shape=(limits.BANDS + 1, 4, 5), dtype="u2", chunks=(1000, 4, 5))
    check_refused(kit, sdiff_map, listing, [name.format(path)], 1, "65,536 bands in 'd': wanted 65,535 at most")


@pytest.mark.parametrize("name", ["HDF5:{}://d/e", 'HDF5:"{}"://d/e', 'NETCDF:"{}":d'])
def test_layers_of_pipes_and_of_nothing(kit: Kit, sdiff_map, listing, name):
    check_refused(kit, sdiff_map, listing, [name.format(kit.folder / "none.h5")], 1, "does not exist")
    check_refused(kit, sdiff_map, listing, [name.format(kit.folder / pipe(kit.folder))], 1, "pipe.h5' is a pipe")


def test_a_lookup_table_at_its_limit(kit: Kit, monkeypatch):
    made = emit(kit.folder)
    with h5py.File(made.path) as file:
        size = file["location/glt_x"].size
        monkeypatch.setattr(emit_product, "LOOKUP_PIXELS", size)
        assert emit_product.recognise(made.path, file) is not None
        monkeypatch.setattr(emit_product, "LOOKUP_PIXELS", size - 1)
        with pytest.raises(ValueError, match="pixels at most"):
            emit_product.recognise(made.path, file)
