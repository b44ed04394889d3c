"""Small files laid out as the providers' own: each returns its path and what it holds."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import rasterio

from spectraldiff_runtime.gdal import quiet_gdal
from tests.runtime.products.cloud_masks import cloudy, emit_mask

# Sizes, centres in nm and chunks are read when a builder is called: a benchmark sets larger ones.
HEIGHT, WIDTH = 29, 37
EMIT_SIZE = 23, 31
# The seven good bands that the tiny model wants, and two that are not good, in the order of the file.
WAVES = np.array([400.0, 450.0, 500.0, 520.0, 550.0, 600.0, 650.0, 680.0, 700.0])
BAD = (4, 8)  # numbers of the two
# PRISMA's, as its attributes list them: falling, 0 for bands that were not acquired.
VNIR, SWIR = np.array([0.0, 610.0, 550.0, 500.0, 450.0, 400.0]), np.array([0.0, 700.0, 650.0, 600.0])
CHUNKS = {"emit": (10, 12, 4), "neon": (12, 7, 4), "tanager": (1, 16, 16), "aviris-3": (3, 16, 16)}
TILE = 16
# PRISMA's least and largest reflectance of the VNIR and of the SWIR.
PRISMA_SCALES = ((0.0, 0.8), (0.01, 0.6))
SEED = 3  # another gives another scene
UTM33 = "EPSG:32633"
PLACE = rasterio.Affine(30.0, 0.0, 300_000.0, 0.0, -30.0, 5_800_000.0)


@dataclass(frozen=True)
class Made:
    """A product that was written.

    Attributes
    ----------
    path
        What a user names.
    cube
        (H, W, B) of all bands, as stored, in the order of the numbers.
    physical
        The same in physical values.
    valid
        (H, W), False where there is no data.
    waves
        Centres of all bands, NaN for none; `bad` are the numbers of those that are left out.
    crs, transform
        Where it lies; of EMIT, the grid, whose lookup table is `extra`.
    cloudy
        (H, W), True where the product marks clouds on data; None where it does not.
    """

    path: Path
    cube: np.ndarray
    physical: np.ndarray
    valid: np.ndarray
    waves: np.ndarray
    bad: tuple[int, ...]
    crs: str
    transform: rasterio.Affine
    fwhm: np.ndarray
    sensor: str
    extra: Any = None
    cloudy: np.ndarray | None = None


def good_waves() -> np.ndarray:
    """The centres of the good bands."""
    return np.delete(WAVES, [band - 1 for band in BAD])


def values(bands: int, kind: str = "int16", size: tuple[int, int] | None = None) -> np.ndarray:
    """A scene (H, W, B) with patches, so that classes form areas."""
    height, width = size or (HEIGHT, WIDTH)
    rng = np.random.default_rng(SEED)
    coarse = rng.integers(0, 1000, (-(-height // 4), -(-width // 4), bands))
    fine = coarse.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]
    return (fine + rng.integers(1, 60, fine.shape)).astype(kind)


def corner() -> np.ndarray:
    """Where there is data: everywhere but in a corner."""
    valid = np.ones((HEIGHT, WIDTH), bool)
    valid[:5, :6] = False
    return valid


def write_tif(path: Path, cube: np.ndarray, crs: str = UTM33, transform: Any = None, **options: Any) -> Path:
    height, width, bands = cube.shape
    profile = {"driver": "GTiff", "crs": crs, "transform": PLACE if transform is None else transform, **options}
    with (
        quiet_gdal(),
        rasterio.open(path, "w", height=height, width=width, count=bands, dtype=cube.dtype.name, **profile) as dataset,
    ):
        dataset.write(cube.transpose(2, 0, 1))
    return path


def enmap(folder: Path, level: str = "L2A", gains: Sequence[float] | None = None) -> Made:
    """`ENMAP01-____L2A-...`: int16 with nodata -32768, empty bands by their statistics, metadata in XML."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"ENMAP01-____{level}-DT0000001234_20230415T101112Z_001_V010303_20230416T000000Z"
    valid, cube = corner(), values(len(WAVES))
    cube[..., [band - 1 for band in BAD]] = -32768
    cube[~valid] = -32768
    write_tif(folder / f"{stem}-SPECTRAL_IMAGE.TIF", cube, nodata=-32768, tiled=True, blockxsize=TILE, blockysize=TILE,
              compress="deflate", interleave="pixel")  # fmt: skip
    gain = np.full(len(WAVES), 1e-4) if gains is None else np.array(gains)
    widths = np.linspace(6.0, 9.0, len(WAVES))
    described = "".join(
        f'<bandID number="{b}"><wavelengthCenterOfBand>{w}</wavelengthCenterOfBand><FWHMOfBand>{f}</FWHMOfBand>'
        f"<GainOfBand>{g}</GainOfBand><OffsetOfBand>0.0</OffsetOfBand></bandID>"
        for b, (w, f, g) in enumerate(zip(WAVES, widths, gain, strict=True), start=1)
    )
    statistics = "".join(
        f'<bandID number="{b}"><mean>{-1000000 if b in BAD else 500.0}</mean>'
        f"<stdDeviation>{0 if b in BAD else 100.0}</stdDeviation></bandID>"
        for b in range(1, len(WAVES) + 1)
    )
    (folder / f"{stem}-METADATA.XML").write_text(
        f'<?xml version="1.0" encoding="UTF-8"?>\n<level_X xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        f"<metadata/><base><level>{level}</level><temporalCoverage><startTime>2023-04-15T10:11:12.345Z</startTime>"
        f"</temporalCoverage></base><product><bandStatistics>{statistics}</bandStatistics></product><specific>"
        f"<qualityFlag><cloudCover>7.5</cloudCover></qualityFlag>"
        f"<vnirProductQuality><expectedChannelsList>1,2,3,5</expectedChannelsList></vnirProductQuality>"
        f"<swirProductQuality><expectedChannelsList>6,7,9</expectedChannelsList></swirProductQuality>"
        f"<bandCharacterisation>{described}</bandCharacterisation></specific></level_X>"
    )
    for kind, part, value in (("CLOUD", 0, 1), ("CIRRUS", 1, 2), ("CLOUDSHADOW", None, 1)):
        layer = np.where(valid, cloudy(valid.shape, part) * value, 255).astype("uint8")
        write_tif(folder / f"{stem}-QL_QUALITY_{kind}.TIF", layer[..., None])
    physical = cube * gain
    return Made(
        folder / f"{stem}-SPECTRAL_IMAGE.TIF", cube, physical, valid, WAVES, BAD, UTM33, PLACE, widths, "EnMAP",
        cloudy=cloudy(valid.shape) & valid,
    )  # fmt: skip


def desis(folder: Path) -> Made:
    """`DESIS-HSI-L2A-...`: bands of the same names also stand under interiorOrientation; nodata is in the XML alone."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = "DESIS-HSI-L2A-DT1203190212_025-20191203T021128-V0210"
    waves, valid = good_waves(), corner()
    cube = values(len(waves))
    cube[~valid] = -32768
    write_tif(folder / f"{stem}-SPECTRAL_IMAGE.tif", cube, interleave="pixel", compress="lzw")
    widths = np.full(len(waves), 3.5)

    def band(number: int, more: str) -> str:
        return f"<band><bandNumber>{number}</bandNumber>{more}</band>"

    described = "".join(
        band(b, f"<wavelengthCenterOfBand>{w}</wavelengthCenterOfBand><wavelengthWidthOfBand>{f}"
                "</wavelengthWidthOfBand><response>0.1,0.9,0.1</response><wavelengths>1,2,3</wavelengths>"
                "<gainOfBand>0.0001</gainOfBand><offsetOfBand>0.0</offsetOfBand>")
        for b, (w, f) in enumerate(zip(waves, widths, strict=True), start=1)
    )  # fmt: skip
    orientation = "".join(band(b, "<focalLength>320</focalLength>") for b in range(1, 30))
    (folder / f"{stem}-METADATA.xml").write_text(
        '<?xml version="1.0"?><hsi_doc xmlns="http://www.dlr.de/desis"><metadata/><base><mission>DESIS</mission>'
        "<startTime>2019-12-03T02:11:28.123Z</startTime></base><specific><backgroundValue>-32768</backgroundValue>"
        f"<interiorOrientation>{orientation}</interiorOrientation><bandCharacterisation>{described}"
        "</bandCharacterisation></specific></hsi_doc>"
    )
    flags = np.zeros((*valid.shape, 10), "uint8")  # shadow, land, snow, haze (2), clouds (2), water, aerosol, vapour
    flags[..., 1] = flags[..., 8] = 1
    flags[..., 5], flags[..., 6] = cloudy(valid.shape, 0), cloudy(valid.shape, 1)
    write_tif(folder / f"{stem}-QL_QUALITY-2.tif", flags)
    image, clouds = folder / f"{stem}-SPECTRAL_IMAGE.tif", cloudy(valid.shape)
    return Made(image, cube, cube * 1e-4, valid, waves, (), UTM33, PLACE, widths, "DESIS", cloudy=clouds)


def prisma(folder: Path, level: str = "L2D") -> Made:
    """`PRS_L2D_STD_...he5`: unchunked uint16 (row, band, column), centres falling, 0 for bands not acquired."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"PRS_{level}_STD_20230101100000_20230101100004_0001.he5"
    valid = corner()
    bands, (vnir, swir) = len(VNIR) + len(SWIR), PRISMA_SCALES
    cube = values(bands, "uint16") * np.uint16(60)  # as the scene numbers them: VNIR rising, then SWIR rising
    cube[~valid] = 0
    cube[..., [len(VNIR) - 1, -1]] = 0
    with h5py.File(path, "w") as file:
        swath = file.create_group(f"HDFEOS/SWATHS/PRS_{level}_HCO")
        stored = cube.transpose(0, 2, 1)
        swath["Data Fields/VNIR_Cube"] = stored[:, : len(VNIR)][:, ::-1]
        swath["Data Fields/SWIR_Cube"] = stored[:, len(VNIR) :][:, ::-1]
        swath["Data Fields/VNIR_PIXEL_L2_ERR_MATRIX"] = np.zeros(stored[:, : len(VNIR)].shape, "uint8")
        swath["Geometric Fields/Solar_Zenith_Angle"] = np.where(valid, 41.5, 0).astype("float32")
        file.attrs.update(
            List_Cw_Vnir=VNIR.astype("float32"), List_Cw_Swir=SWIR.astype("float32"),
            List_Fwhm_Vnir=np.where(VNIR, 11, 0).astype("float32"),
            List_Fwhm_Swir=np.where(SWIR, 9, 0).astype("float32"),
            L2ScaleVnirMin=np.float32(vnir[0]), L2ScaleVnirMax=np.float32(vnir[1]),
            L2ScaleSwirMin=np.float32(swir[0]), L2ScaleSwirMax=np.float32(swir[1]),
            Product_ULcorner_easting=PLACE.c + 15, Product_ULcorner_northing=PLACE.f - 15,
            Product_LRcorner_easting=PLACE.c + 30 * WIDTH - 15, Product_LRcorner_northing=PLACE.f - 30 * HEIGHT + 15,
            Epsg_Code=np.uint16(32633), Product_StartTime=np.bytes_("2023-01-01T10:00:00.000000"),
            Processing_Level=np.bytes_("2D"), Cloudy_pixels_percentage=np.float32(3.0),
        )  # fmt: skip
    waves = np.concatenate([VNIR[::-1], SWIR[::-1]])
    waves[waves == 0] = np.nan
    least, most = (np.repeat(np.array(pair, np.float32).astype(float), [len(VNIR), len(SWIR)]) for pair in
                   zip(vnir, swir, strict=True))  # fmt: skip
    bad = tuple(
        b for b in range(1, bands + 1) if np.isnan(waves[b - 1]) or (b <= len(VNIR) and waves[b - 1] >= SWIR[-1])
    )
    physical = least + cube * (most - least) / 65535
    widths = np.repeat([11.0, 9.0], [len(VNIR), len(SWIR)])
    return Made(path, cube, physical, valid, waves, bad, UTM33, PLACE, widths, "PRISMA")


def emit(folder: Path) -> Made:
    """`EMIT_L2A_RFL_...nc`: float32 (downtrack, crosstrack, bands) in sensor geometry, with a rotated lookup table."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "EMIT_L2A_RFL_001_20230101T101010_2300101_001.nc"
    rows, columns = EMIT_SIZE
    cube = values(len(WAVES), "float32", EMIT_SIZE)
    valid = np.ones((rows, columns), bool)
    valid[3:6, 20:25] = False
    cube[..., [band - 1 for band in BAD]] = -0.01
    cube[~valid] = -9999
    # The sensor flew from the south to the north: its first row lies at the bottom, and columns are skewed.
    height, width = rows + 9, columns + 8
    y, x = np.mgrid[:height, :width]
    glt_y, glt_x = rows - (y - 4 + x // 9), x - 3 - y // 11
    inside = (glt_y >= 1) & (glt_y <= rows) & (glt_x >= 1) & (glt_x <= columns)
    glt_y, glt_x = (np.where(inside, table, 0).astype("int32") for table in (glt_y, glt_x))
    step = 0.00054223252
    transform = rasterio.Affine(step, 0.0, 10.5, 0.0, -step, 47.25)
    widths = np.linspace(8.4, 8.8, len(WAVES))
    with h5py.File(path, "w") as file:
        data = file.create_dataset("reflectance", data=cube, chunks=CHUNKS["emit"], compression="gzip")
        data.attrs["_FillValue"] = np.array([-9999], "float32")
        parameters = file.create_group("sensor_band_parameters")
        parameters["wavelengths"], parameters["fwhm"] = WAVES.astype("float32"), widths.astype("float32")
        parameters["wavelengths"].attrs["units"] = np.bytes_("nm")
        parameters["good_wavelengths"] = np.array([b not in BAD for b in range(1, len(WAVES) + 1)], "uint8")
        file["location/glt_x"], file["location/glt_y"] = glt_x, glt_y
        wkt = rasterio.crs.CRS.from_epsg(4326).to_wkt()
        file.attrs.update(
            title=np.bytes_("EMIT L2A Estimated Surface Reflectance 60 m V001"), instrument=np.bytes_("EMIT"),
            spatial_ref=np.bytes_(wkt), geotransform=np.array(transform.to_gdal()),
            time_coverage_start=np.bytes_("2023-01-01T10:10:10+0000"),
            easternmost_longitude=np.array([10.5]), westernmost_longitude=np.array([10.6]),
        )  # fmt: skip
    clouds = cloudy(valid.shape)
    emit_mask(folder / path.name.replace("_RFL_", "_MASK_"), valid)
    return Made(path, cube, cube, valid, WAVES, BAD, "EPSG:4326", transform, widths, "EMIT", (glt_y, glt_x), clouds)


def neon(folder: Path) -> Made:
    """`NEON_D17_SJER_DP3_...h5`: int16 (row, column, band) in chunks, 1 m pixels, windows of water vapour."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "NEON_D17_SJER_DP3_257000_4112000_reflectance.h5"
    valid, cube = corner(), values(len(WAVES))
    cube[~valid] = -9999
    widths = np.linspace(5.5, 6.0, len(WAVES))
    with h5py.File(path, "w") as file:
        group = file.create_group("SJER/Reflectance")
        data = group.create_dataset("Reflectance_Data", data=cube, chunks=CHUNKS["neon"], compression="gzip")
        data.attrs.update(Data_Ignore_Value=-9999.0, Scale_Factor=10000.0)
        group["Metadata/Spectral_Data/Wavelength"] = WAVES
        group["Metadata/Spectral_Data/Wavelength"].attrs["Units"] = "Nanometers"
        group["Metadata/Spectral_Data/FWHM"] = widths
        group["Metadata/Coordinate_System/Map_Info"] = (
            "UTM,  1.000,  1.000,  257000.00,  4113000.00,  1.0000000e+000,  1.0000000e+000,  11,  North,  WGS-84,  "
            "units=Meters, 0"
        )
        group["Metadata/Coordinate_System/EPSG Code"] = "32611"
        group.attrs.update(Band_Window_1_Nanometers=np.array([515, 525]), Band_Window_2_Nanometers=np.array([670, 690]))
    transform = rasterio.Affine(1.0, 0.0, 257_000.0, 0.0, -1.0, 4_113_000.0)
    return Made(path, cube, cube / 10000, valid, WAVES, BAD, "EPSG:32611", transform, widths, "NEON AOP")


def tanager(folder: Path) -> Made:
    """`..._ortho_sr_hdf5.h5`: float32 (band, row, column); the outer edges stand in StructMetadata.0."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "20250601_104901_58_4001_ortho_sr_hdf5.h5"
    valid, cube = corner(), values(len(WAVES), "float32")
    cube[~valid] = -9999
    hidden = valid.copy()
    hidden[20:22, 30:] = False  # said by the layer alone
    widths = np.full(len(WAVES), 5.25)
    right, bottom = PLACE.c + 30 * WIDTH, PLACE.f - 30 * HEIGHT
    with h5py.File(path, "w") as file:
        fields = file.create_group("HDFEOS/GRIDS/HYP/Data Fields")
        data = fields.create_dataset(
            "surface_reflectance", data=cube.transpose(2, 0, 1), chunks=CHUNKS["tanager"], compression="gzip"
        )
        good = np.array([b not in BAD for b in range(1, len(WAVES) + 1)])
        data.attrs.update(wavelengths=WAVES, fwhm=widths, good_wavelengths=good, wavelengths_units="nm")
        data.attrs["_FillValue"] = np.float32(-9999)
        fields["nodata_pixels"] = (~hidden).astype("uint8")
        for kind, part in (("cloud", 0), ("cirrus", 1)):
            layer = np.where(valid, cloudy(valid.shape, part), 255)
            layer[:5, :3] = 1  # outside of the scene
            fields[f"beta_{kind}_mask"] = layer.astype("uint8")
        file["HDFEOS/GRIDS/HYP"].attrs["epsg_code"] = np.int64(32633)
        file["HDFEOS INFORMATION/StructMetadata.0"] = np.bytes_(
            f'GROUP=GridStructure\n\tGROUP=GRID_1\n\t\tGridName="HYP"\n\t\tXDim={WIDTH}\n\t\tYDim={HEIGHT}\n'
            f"\t\tUpperLeftPointMtrs=({PLACE.c:.6f},{PLACE.f:.6f})\n\t\tLowerRightMtrs=({right:.6f},{bottom:.6f})\n"
            "\t\tProjection=HE5_GCTP_UTM\n\t\tZoneCode=33\n\tEND_GROUP=GRID_1\nEND_GROUP=GridStructure\nEND\n"
        )
    clouds = cloudy(valid.shape) & hidden
    return Made(path, cube, cube, hidden, WAVES, BAD, UTM33, PLACE, widths, "Tanager", cloudy=clouds)


def aviris_ng(folder: Path, name: str = "ang20180814t224053_corr_v2r2_img") -> Made:
    """ENVI, BIL, float32 with a header in capitals, `bbl`, `data ignore value` and a rotated `map info`."""
    folder.mkdir(parents=True, exist_ok=True)
    valid, cube = corner(), values(len(WAVES), "float32")
    cube[~valid] = -9999
    cube.transpose(0, 2, 1).tofile(folder / name)
    widths = np.linspace(5.5, 6.1, len(WAVES))
    good = ", ".join("0" if b in BAD else "1" for b in range(1, len(WAVES) + 1))
    (folder / f"{name}.hdr").write_text(
        f"ENVI\ndescription = {{AVIRIS-NG}}\nsamples = {WIDTH}\nlines = {HEIGHT}\nbands = {len(WAVES)}\n"
        "header offset = 0\nfile type = ENVI Standard\ndata type = 4\ninterleave = bil\nbyte order = 0\n"
        "map info = { UTM, 1, 1, 580000.0, 7590000.0, 5.0, 5.0, 4, North, WGS-84, units=Meters, rotation=-20.0 }\n"
        f"wavelength units = Nanometers\nwavelength = {{ {', '.join(map(str, WAVES))} }}\n"
        f"fwhm = {{ {', '.join(map(str, widths))} }}\nbbl = {{ {good} }}\ndata ignore value = -9999\n"
    )
    for other in ("obs_ort", "loc", "glt"):
        (folder / f"ang20180814t224053_{other}").write_bytes(bytes(4 * HEIGHT * WIDTH))
        (folder / f"ang20180814t224053_{other}.hdr").write_text(
            f"ENVI\nsamples = {WIDTH}\nlines = {HEIGHT}\nbands = 1\nheader offset = 0\ndata type = 4\n"
            "interleave = bil\nbyte order = 0\n"
        )
    turn = np.deg2rad(-20.0)  # counter-clockwise: rows run to the south of east
    across, up = np.cos(turn) * 5, np.sin(turn) * 5
    transform = rasterio.Affine(across, up, 580_000.0, up, -across, 7_590_000.0)
    return Made(folder / name, cube, cube, valid, WAVES, BAD, "EPSG:32604", transform, widths, "AVIRIS-NG")


def aviris_classic(folder: Path) -> Made:
    """As AVIRIS-NG, int16, with wavelengths that do not rise throughout."""
    made = aviris_ng(folder, "f180601t01p00r10_corr_v1k1_img")
    header = folder / "f180601t01p00r10_corr_v1k1_img.hdr"
    waves = WAVES.copy()
    waves[[4, 5]] = waves[[5, 4]]
    text = header.read_text().replace(", ".join(map(str, WAVES)), ", ".join(map(str, waves)))
    header.write_text(text.replace("data type = 4", "data type = 2"))
    cube = made.cube.astype("int16")
    cube.transpose(0, 2, 1).tofile(made.path)
    return Made(made.path, cube, cube, made.valid, waves, BAD, made.crs, made.transform, made.fwhm, "AVIRIS Classic")


def aviris_3(folder: Path) -> Made:
    """`AV3...RFL_ORT.nc`: float32 (wavelength, northing, easting), GDAL's GeoTransform next to the CRS."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "AV320230926t201618_005_L2A_OE_main_27577724_RFL_ORT.nc"
    waves, valid = good_waves(), corner()
    cube = values(len(waves), "float32")
    cube[~valid] = -9999
    widths = np.full(len(waves), 7.5)
    transform = rasterio.Affine(3.7, 0.0, 300_000.0, 0.0, -3.7, 5_800_000.0)
    with h5py.File(path, "w") as file:
        group = file.create_group("reflectance")
        data = group.create_dataset(
            "reflectance",
            data=cube.transpose(2, 0, 1),
            chunks=CHUNKS["aviris-3"],
            compression="gzip",
            fillvalue=-9999.0,
        )
        data.attrs["_FillValue"] = np.float32(-9999)
        group["wavelength"], group["fwhm"] = waves.astype("float32"), widths.astype("float32")
        group["wavelength"].attrs["units"] = "nm"
        mapping = file.create_dataset("transverse_mercator", data=np.bytes_(b""))
        mapping.attrs["crs_wkt"] = rasterio.crs.CRS.from_user_input(UTM33).to_wkt()
        mapping.attrs["GeoTransform"] = " ".join(map(str, transform.to_gdal()))
        file["easting"] = transform.c + 3.7 * (np.arange(WIDTH) + 0.5)
        file["northing"] = transform.f - 3.7 * (np.arange(HEIGHT) + 0.5)
    return Made(path, cube, cube, valid, waves, (), UTM33, transform, widths, "AVIRIS-3")


def zipped(folder: Path, path: Path) -> Path:
    """Put a folder with all files into a zip, as it is delivered: below a folder of its own."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"delivered/{file.name}")
    return path


ALL = {
    "enmap": enmap, "desis": desis, "prisma": prisma, "emit": emit, "neon": neon, "tanager": tanager,
    "aviris-ng": aviris_ng, "aviris-classic": aviris_classic, "aviris-3": aviris_3,
}  # fmt: skip
