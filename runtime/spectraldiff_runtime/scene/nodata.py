"""Values that mark missing pixels: one for all bands, or one for each."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

NODATA_OF_FILE: Literal["file"] = "file"
Nodata = float | None | Literal["file"]
# What marks missing values: one value for all bands in use, or one for each of them.
NodataOfBands = float | None | tuple[float | None, ...]


def nodata_of_each(nodata: NodataOfBands, bands: int) -> tuple[float | None, ...]:
    """Return the nodata value of each of so many bands."""
    return nodata if isinstance(nodata, tuple) else (nodata,) * bands


def nodata_at(nodata: NodataOfBands, at: Sequence[int]) -> NodataOfBands:
    """Return the nodata of some of the bands, by their indices."""
    return one_nodata([nodata[i] for i in at]) if isinstance(nodata, tuple) else nodata


def one_nodata(values: Sequence[float | None]) -> NodataOfBands:
    """Return one value where all bands have the same one (NaN is NaN), else a tuple of all."""
    same = len({"nan" if value != value else value for value in values}) == 1
    return values[0] if same else tuple(values)


def native_nodata(nodata: float | None, dtype: np.dtype[Any]) -> Any:
    """Return `nodata` as a scalar of `dtype`, or None where no value of that type can equal it."""
    if nodata is None or math.isnan(nodata):
        return None
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        fits = math.isfinite(nodata) and nodata == int(nodata) and limits.min <= nodata <= limits.max
        return dtype.type(int(nodata)) if fits else None
    with np.errstate(over="ignore"):
        value = dtype.type(nodata)
    return value if np.isfinite(value) else None


def nodata_warnings(given: NodataOfBands, dtype: np.dtype[Any], name: str) -> tuple[str, ...]:
    """Return a warning if no value of the scene's type can equal the given nodata value; else nothing."""
    values = given if isinstance(given, tuple) else (given,)
    floats = dtype.kind == "f"  # NaN and infinities are missing anyway
    natives = ((v, native_nodata(v, dtype)) for v in values if v is not None)
    impossible = [v for v, native in natives if native is None and (math.isfinite(v) or not floats)]
    if not impossible:
        return ()
    limits = np.finfo(dtype) if floats else np.iinfo(dtype)
    return (
        f"the nodata value {impossible[0]} cannot occur in '{name}', which holds {dtype} values ({limits.min} to "
        f"{limits.max}), so no pixel is missing by it: give another with --nodata, or leave it out",
    )
