"""From what people have in hand to a scene: a product as delivered, or any raster that GDAL reads."""

import re
from pathlib import Path
from typing import Any

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.products import aviris, desis, emit, enmap, neon, prisma, tanager
from spectraldiff_runtime.products.delivery import Delivery
from spectraldiff_runtime.products.hdf5_file import described, is_hdf5
from spectraldiff_runtime.products.product import Hdf5Product, Product, no_cloud_mask
from spectraldiff_runtime.scene.clouds import DROP, KEEP, CloudChoice
from spectraldiff_runtime.scene.nodata import NODATA_OF_FILE, Nodata
from spectraldiff_runtime.scene.protocol import BandChoice
from spectraldiff_runtime.scene.raster import RasterScene

IN_FILES = (enmap.recognise, desis.recognise, aviris.recognise_envi)
IN_HDF5 = (prisma.recognise, emit.recognise, neon.recognise, tanager.recognise, aviris.recognise)
HDF5_NAMES = r".*\.(he5|h5|hdf5|nc|nc4)"
# Products whose wavelengths stand in a file of their own.
SPECTRA = re.compile(
    r"(?P<product>(ENMAP|DESIS).*)-SPECTRAL_IMAGE(_COG)?\.(TIF|TIFF|VRT|BSQ|BIL|BIP|JP2)", re.IGNORECASE
)
# What GDAL calls a layer of such a file.
LAYER = re.compile(r'(?:NETCDF|HDF5):"?(?P<path>.+?)"?:(?P<layer>/?[^:"]+)', re.IGNORECASE)


def recognise(path: str | Path) -> Product | None:
    """Find out which product a path belongs to.

    Parameters
    ----------
    path
        The spectra, the metadata file, the ``.hdr``, the HDF5 or netCDF file, GDAL's name for a layer of it, the
        folder, or the zip file as delivered.

    Returns
    -------
    Product or None
        None where it is no product that is known here.

    Raises
    ------
    SceneError
        It is a known product without what mapping needs, a damaged one, or several.
    """
    layer = LAYER.fullmatch(str(path))
    local = Path(layer["path"] if layer else path)
    try:
        delivery = Delivery.of(local)
    except (OSError, ValueError):  # a name that only GDAL knows
        return None
    if delivery is None:
        return None
    if delivery.chosen and is_hdf5(local):
        return _layer_of(_in_hdf5(local), layer["layer"] if layer else "")
    found: list[Product] = [product for test in IN_FILES for product in test(delivery)]
    if not delivery.chosen:
        found += _inside(delivery)
    if len(found) > 1:
        names = ", ".join(f"'{Path(product.image).name}'" for product in found[:3])
        raise SceneError(f"'{path}' holds {len(found)} scenes ({names}): wanted one; name its file")
    return found[0] if found else None


def _in_hdf5(path: Path) -> Product | None:
    with described(path) as file:
        return next((product for test in IN_HDF5 if (product := test(path, file)) is not None), None)


def _layer_of(product: Product | None, layer: str) -> Product | None:
    """Return a product of which a layer was named, where it is that with the spectra; SceneError where not."""
    if product is None or not layer:
        return product
    cubes = [cube.name for cube in product.layout.cubes] if isinstance(product, Hdf5Product) else []
    if layer.strip("/").replace(" ", "_") in [part for cube in map(_gdal_path, cubes) for part in cube]:
        return product
    raise SceneError(
        f"'{layer}' is a layer of '{product.image}', {product.sensor} {product.level}, that holds no spectra: wanted "
        "the file itself"
    )


def _gdal_path(cube: str) -> tuple[str, str]:
    """Return what GDAL calls a data set: by its path, blanks replaced, or by its last part."""
    path = cube.replace(" ", "_")
    return path, path.rpartition("/")[2]


def _inside(delivery: Delivery) -> list[Product]:
    """Return the products in HDF5 files of a folder; in a zip file they cannot be read."""
    names = delivery.matching(HDF5_NAMES)
    if delivery.zipped:
        if names:
            raise SceneError(
                f"'{delivery.root}' holds '{names[0]}', which cannot be read by windows inside a zip file: unpack it "
                "and name that file"
            )
        return []
    found: list[Product] = []
    refused: list[SceneError] = []
    for path in (delivery.root / name for name in names):
        try:
            product = _in_hdf5(path) if is_hdf5(path) else None
        except SceneError as error:  # such as EMIT's mask next to the reflectance
            refused.append(error)
            continue
        found += [] if product is None else [product]
    if refused and not found:
        raise refused[0]
    return found


def without_metadata(path: str | Path) -> tuple[str, ...]:
    """Return a warning where a raster is named as the spectra of EnMAP or DESIS, and its metadata file is missing."""
    match = SPECTRA.fullmatch(Path(path).name)
    if match is None:
        return ()
    return (
        f"'{path}' has no {match['product']}-METADATA.XML next to it, so its wavelengths, scale, bad bands and clouds "
        "are not known: put that file there as it was delivered",
    )


def open_scene(
    path: str | Path,
    bands: BandChoice = None,
    nodata: Nodata = NODATA_OF_FILE,
    *,
    scaled: bool = False,
    clouds: CloudChoice = KEEP,
) -> Any:
    """Open a product, or any other raster, as a scene that is a context manager.

    The parameters and errors are those of `RasterScene`, of `recognise`, and of `Product.open`.
    """
    product = recognise(path)
    if product is not None:
        return product.open(bands, nodata, scaled=scaled, clouds=clouds)
    if clouds == DROP:
        raise no_cloud_mask(f"'{path}'")
    scene = RasterScene(path, bands, nodata, scaled=scaled)
    scene.warnings += without_metadata(path)
    if emit.is_emit(scene.tags):
        scene.close()
        raise SceneError(
            f"'{path}' is a file of EMIT, which GDAL reads upside down and without its lookup table: copy it to this "
            "machine and name the file there"
        )
    return scene
