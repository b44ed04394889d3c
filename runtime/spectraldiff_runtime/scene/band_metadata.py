"""What a raster says of its bands: wavelengths, widths, bad ones, scale and offset, alpha and masks.

Every function takes an open rasterio dataset and speaks of all its bands, in their order.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window

from spectraldiff_runtime.gdal import GDAL_ERRORS, described
from spectraldiff_runtime.scene.envi import envi_tags

MICROMETRES = re.compile(r"um|µm|μm|micromet(er|re)s?|microns?", re.IGNORECASE)
# What alpha bands hold where a pixel is opaque, besides the largest value of their type.
FULL = {255, 32767, 65535}
LOOKED_AT = 2**26  # pixels

NANOMETRES = re.compile(r"nm|nanomet(er|re)s?", re.IGNORECASE)


@dataclass(frozen=True)
class BandFacts:
    """What a product's metadata say of all bands of its raster, in place of the raster itself.

    Attributes
    ----------
    wavelengths, fwhm
        Centres and full widths at half maximum, (B,), nm; NaN where a band has none.
    scales, offsets
        (B,): physical value = stored value x scale + offset.
    bad
        Why a band is not to be used, by its number.
    nodata
        The value of missing pixels where the raster itself names none.
    files
        The files that say so.
    """

    wavelengths: NDArray[np.float64]
    fwhm: NDArray[np.float64]
    scales: NDArray[np.float64]
    offsets: NDArray[np.float64]
    bad: Mapping[int, str]
    nodata: float | None = None
    files: tuple[Path, ...] = ()


def left_out(bad: Mapping[int, str], count: int) -> str:
    """Say how many bands were left out, and why, most frequent reason first; empty for none."""
    if not bad:
        return ""
    reasons = Counter(bad.values())
    why = "; ".join(f"{times}: {reason}" for reason, times in reasons.most_common())
    return f"{len(bad)} of {count} bands were left out ({why}); --bands all takes them"


def known_for_all(values: NDArray[np.float64] | None, at: NDArray[np.intp]) -> NDArray[np.float64] | None:
    """Return the values of some bands, by place; None where any of them is not known."""
    return None if values is None or np.isnan(values[at]).any() else values[at]


def read_wavelengths(dataset: Any, alpha: Collection[int] | None = None) -> NDArray[np.float64] | None:
    """Return the centre wavelengths of all bands of an open rasterio dataset; `alpha` are its alpha bands, if known.

    Per-band tags ``wavelength`` and ``wavelength_units`` come first, then GDAL's
    ``CENTRAL_WAVELENGTH_UM`` (which GDAL rounds to whole nanometres for ENVI files), then the ENVI
    header's list. Without a unit, values below 100 are micrometres. An alpha band needs none.

    Returns
    -------
    ndarray of shape (B,), float64, or None
        Nanometres, in band order (NaN for an alpha band); None unless every other band has one.
    """
    numbers, alpha = range(1, dataset.count + 1), alpha_bands(dataset) if alpha is None else alpha
    tags = [dataset.tags(band) for band in numbers]
    envi = envi_tags(dataset)
    unit = envi.get("wavelength_units")
    per_band = [_nanometres(t.get("wavelength"), t.get("wavelength_units", unit)) for t in tags]
    found = _complete(dataset.count, alpha, per_band)
    if found is None:
        imagery = [dataset.tags(band, ns="IMAGERY").get("CENTRAL_WAVELENGTH_UM") for band in numbers]
        found = _complete(dataset.count, alpha, [_nanometres(text, "um") for text in imagery])
    if found is None:
        found = _complete(
            dataset.count, alpha, [_nanometres(text, unit) for text in _listed(envi.get("wavelength", ""))]
        )
    return found


def read_fwhm(dataset: Any, alpha: Collection[int] | None = None) -> NDArray[np.float64] | None:
    """Return the full widths at half maximum of all bands; `alpha` are its alpha bands, if known.

    The ENVI header's list ``fwhm`` comes first (in the unit of its wavelengths), then GDAL's ``FWHM_UM``,
    which GDAL rounds to whole nanometres for ENVI files.

    Returns
    -------
    ndarray of shape (B,), float64, or None
        Nanometres, in band order (NaN for an alpha band); None unless every other band has one.
    """
    envi, alpha = envi_tags(dataset), alpha_bands(dataset) if alpha is None else alpha
    factor = _factor(envi.get("wavelength_units"), _listed(envi.get("wavelength", "")))
    widths = [_positive(text) for text in _listed(envi.get("fwhm", ""))]
    found = _complete(dataset.count, alpha, [None if factor is None or w is None else w * factor for w in widths])
    if found is None:
        imagery = [dataset.tags(band, ns="IMAGERY").get("FWHM_UM") for band in range(1, dataset.count + 1)]
        found = _complete(dataset.count, alpha, [_nanometres(text, "um") for text in imagery])
    return found


def read_bad_bands(dataset: Any) -> tuple[int, ...]:
    """Return the numbers, from 1, of the bands that the ENVI header's list ``bbl`` marks with 0.

    Raises
    ------
    ValueError
        The list has another length than the raster has bands, or holds something that is no number.
    """
    text = envi_tags(dataset).get("bbl")
    if text is None:
        return ()
    marks = _listed(text)
    if len(marks) != dataset.count:
        raise ValueError(f"has {dataset.count} bands and a list of bad bands (bbl) of {len(marks)} values")
    try:
        return tuple(band for band, mark in enumerate(marks, start=1) if float(mark) == 0)
    except ValueError:
        raise ValueError("has a list of bad bands (bbl) with something that is no number") from None


def read_band_names(dataset: Any) -> tuple[str, ...]:
    """Return the names of all bands, empty where they have none; also such that are not UTF-8."""
    try:
        return tuple(name or "" for name in dataset.descriptions)
    except UnicodeDecodeError:  # rasterio reads UTF-8 only
        bands = described(dataset).findall("VRTRasterBand")
        names = {band.get("band", ""): band.findtext("Description", "").strip() for band in bands}
        return tuple(names.get(str(number), "") for number in range(1, dataset.count + 1))


Scaling = tuple[tuple[float, ...], tuple[float, ...]]  # scales and offsets of bands


def scaling_of(scales: NDArray[np.float64], offsets: NDArray[np.float64]) -> Scaling | None:
    """Return scales and offsets as plain numbers; None where all are 1 and 0, or any is none."""
    plain = (scales == 1).all() and (offsets == 0).all()
    if plain or not (np.isfinite(scales).all() and np.isfinite(offsets).all()):
        return None
    return tuple(scales.tolist()), tuple(offsets.tolist())


def read_scaling(dataset: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return scale and offset of all bands: physical value = stored value x scale + offset.

    GDAL's scale and offset come first; where no band has any, 1 over the ENVI header's
    ``reflectance scale factor``.

    Returns
    -------
    scales, offsets : ndarray of shape (B,), float64
        1 and 0 where nothing is said; NaN where the header's factor is no positive number.
    """
    scales, offsets = np.array(dataset.scales, np.float64), np.array(dataset.offsets, np.float64)
    text = envi_tags(dataset).get("reflectance_scale_factor")
    if text is not None and (scales == 1).all() and (offsets == 0).all():
        factor = _positive(text)
        scales[:] = math.nan if factor is None else 1 / factor
    return scales, offsets


def read_nodata(dataset: Any) -> tuple[float | None, ...]:
    """Return the nodata values of all bands, exact also for integers of 64 bits, which rasterio passes on as floats."""
    found = list(dataset.nodatavals)
    long = [band for band, kind in enumerate(dataset.dtypes) if kind in ("int64", "uint64")]
    bands = described(dataset).findall("VRTRasterBand") if long else []
    for at in long if len(bands) == len(found) else []:
        text = bands[at].findtext("NoDataValue", "")
        found[at] = int(text) if re.fullmatch(r"-?\d{1,20}", text) else found[at]
    return tuple(found)


def alpha_bands(dataset: Any) -> tuple[int, ...]:
    """Return the numbers of the bands that say how opaque a pixel is: no spectral bands.

    The file calls them alpha, which GDAL does by itself to the fourth of four bands, and they hold nothing but 0 and
    one full value. Of bands with more than `LOOKED_AT` pixels, blocks from all parts are looked at.
    """
    return tuple(band for band in marked_alpha(dataset) if _is_opacity(dataset, band))


def marked_alpha(dataset: Any) -> tuple[int, ...]:
    """Return the numbers of the bands that the file calls alpha, whatever they hold."""
    return tuple(band for band, kind in enumerate(dataset.colorinterp, start=1) if kind == ColorInterp.alpha)


def alpha_note(alpha: Sequence[int]) -> str:
    """Say what the alpha bands of a file are for."""
    return "; ".join(f"band {band} is an alpha band: its zeros are pixels without data" for band in alpha)


def alpha_warnings(name: str, marked: Sequence[int], alpha: Sequence[int]) -> tuple[str, ...]:
    """Return a warning for each band that a file calls alpha and that is none."""
    return tuple(
        f"band {band} of '{name}' is called alpha and holds other values than 0 and full: it is taken as a band like "
        "the others; leave it out with --bands"
        for band in marked
        if band not in alpha
    )


def _is_opacity(dataset: Any, band: int) -> bool:
    height, width = dataset.block_shapes[band - 1]
    down, across = -(-dataset.height // height), -(-dataset.width // width)
    step = max(1, -(-dataset.height * dataset.width // LOOKED_AT))
    full = FULL | ({np.iinfo(dataset.dtypes[band - 1]).max} if np.dtype(dataset.dtypes[band - 1]).kind in "iu" else {1})
    found: set[float] = set()
    for block in range(0, down * across, step):
        row, column = block // across * height, block % across * width
        part = Window(column, row, min(width, dataset.width - column), min(height, dataset.height - row))
        try:
            found |= set(np.unique(dataset.read(band, window=part)).tolist()) - {0}
        except GDAL_ERRORS:  # whoever reads the scene says so
            return True
        if len(found) > 1 or not found <= full:
            return False
    return True


def mask_bands(dataset: Any) -> tuple[int, ...]:
    """Return the numbers of bands whose masks, taken together, say where there is data.

    One band where the file has one mask for all, each band that has its own, and none where there are only
    nodata values or an alpha band.
    """
    flags = list(enumerate(dataset.mask_flag_enums, start=1))
    shared = [band for band, kinds in flags if MaskFlags.per_dataset in kinds and MaskFlags.alpha not in kinds]
    return tuple(shared[:1] + [band for band, kinds in flags if not kinds])


def _listed(text: str) -> list[str]:
    """Return the items of an ENVI header's list, ``{a, b}``."""
    inner = text.strip().strip("{}").strip()
    return [item.strip() for item in inner.split(",")] if inner else []


def _complete(count: int, alpha: Collection[int], values: list[float | None]) -> NDArray[np.float64] | None:
    """Return one value for each band, or None where a band that is no alpha band lacks one."""
    if len(values) != count or not set(range(1, count + 1)) - set(alpha):
        return None
    known = [math.nan if band in alpha else value for band, value in enumerate(values, start=1)]
    return None if None in known else np.array(known, dtype=np.float64)


def _positive(text: str | None) -> float | None:
    """Return a positive finite number; None for anything else."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _factor(unit: str | None, wavelengths: list[str]) -> float | None:
    """Return what turns a unit into nm; without one, the size of the wavelengths tells. None if unknown."""
    name = (unit or "").strip()
    if name.lower() in {"", "unknown"}:
        first = _positive(wavelengths[0]) if wavelengths else None
        return None if first is None else 1000.0 if first < 100 else 1.0
    if MICROMETRES.fullmatch(name):
        return 1000.0
    return 1.0 if NANOMETRES.fullmatch(name) else None


def _nanometres(text: str | None, unit: str | None) -> float | None:
    """Return a wavelength in nm; None where the text is no positive number or the unit is unknown."""
    value, factor = _positive(text), _factor(unit, [text or ""])
    return None if value is None or factor is None else value * factor
