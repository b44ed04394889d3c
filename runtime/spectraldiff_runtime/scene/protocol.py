"""What a scene is to the mapping: a protocol, arrays that fulfil it, and where a raster lies."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import rasterio
from numpy.typing import NDArray

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.validation import several, whole

NODATA_OF_FILE: Literal["file"] = "file"
Nodata = float | None | Literal["file"]
# What marks missing values: one value for all bands in use, or one for each of them.
NodataOfBands = float | None | tuple[float | None, ...]

# Projections that stretch the ground by more, the farther it is from the equator.
OF_THE_WORLD = re.compile(r'PROJECTION\["(Mercator|Equirectangular|Miller)')


@dataclass(frozen=True)
class Georeference:
    """Where a raster lies: a CRS with a transform, or ground control points, or RPCs, or nothing."""

    crs: Any = None
    transform: Any = None
    gcps: tuple[Any, ...] = ()
    gcps_crs: Any = None
    rpcs: Any = None

    @classmethod
    def of(cls, crs: str | None, transform: Sequence[float] | None) -> "Georeference":
        """Make one from a CRS in any notation and the first six numbers of an affine transform."""
        return cls(crs, rasterio.Affine(*transform[:6]) if transform is not None else None)

    @property
    def hectares_per_pixel(self) -> float | None:
        """Area of a pixel in hectares; None unless the CRS is projected, and not as maps of the world are.

        Mercator's and the equidistant cylinder's squares are larger than the ground the farther they are from the
        equator, so no one area is that of all pixels.
        """
        if self.crs is None or self.transform is None:
            return None
        crs = rasterio.crs.CRS.from_user_input(self.crs)
        if not crs.is_projected or OF_THE_WORLD.search(crs.to_wkt()):
            return None
        metres = crs.linear_units_factor[1]
        return float(abs(self.transform.determinant) * metres**2 / 10_000)


class Scene(Protocol):
    """What mapping needs to know of a scene: its size, its type, and how to read a part of it."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def height(self) -> int:
        """Rows."""
        ...

    @property
    def width(self) -> int:
        """Columns."""
        ...

    @property
    def bands(self) -> tuple[int, ...]:
        """Numbers of the bands in use, from 1."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        ...

    @property
    def nodata(self) -> NodataOfBands:
        """The value of missing pixels; a tuple of one for each band in use where they differ."""
        ...

    @property
    def blocks(self) -> tuple[int, int]:
        """Height and width of the blocks that it is stored in."""
        ...

    @property
    def wavelengths(self) -> NDArray[np.float64] | None:
        """Centres of the bands in use, (B,), nm."""
        ...

    @property
    def bad_bands(self) -> Mapping[int, float]:
        """Numbers of the bands that the scene itself calls bad, with their centres in nm (NaN if not known)."""
        ...

    @property
    def note(self) -> str:
        """How the bands in use were chosen, where the model decided on them; else empty."""
        ...

    @property
    def georeference(self) -> Georeference:
        """Where it lies."""
        ...

    def read(self, row0: int, row1: int, col0: int, col1: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return rows row0..row1 and columns col0..col1 (ends excluded), (B, h, w), of the scene's dtype.

        With `out`, an array of that shape and dtype with any strides, that array is filled and returned.
        """
        ...

    def mask(self, row0: int, row1: int, col0: int, col1: int) -> NDArray[np.bool_] | None:
        """Return where a mask stored with the scene says that there is data, (h, w); None without a mask."""
        ...

    def select(self, bands: Sequence[int], note: str = "") -> "Scene":
        """Return the same scene with other bands in use: numbers from 1, in the order wanted."""
        ...


@dataclass(frozen=True)
class ArrayScene:
    """A scene in memory: a cube (H, W, B) of any real dtype, in raw units.

    Parameters
    ----------
    cube
        Shape (H, W, B). It is neither copied nor changed. Of a masked array, pixels that are masked in any band in use
        are missing.
    nodata
        The value that marks missing pixels, one for all bands or a tuple of one for each band in use, or
        None. NaN and infinities are always missing.
    wavelengths
        Centres of the bands in use, (B,), nm.
    chosen
        Numbers of the bands in use, from 1; None for all.
    """

    cube: NDArray[Any]
    nodata: NodataOfBands = None
    wavelengths: NDArray[np.float64] | None = None
    georeference: Georeference = field(default_factory=Georeference)
    name: str = "array"
    chosen: tuple[int, ...] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.cube.ndim != 3 or 0 in self.cube.shape:
            shape = self.cube.shape
            raise SceneError(f"the array has shape {shape}: wanted (height, width, bands), none of them 0")
        check_dtype(self.cube.dtype, "the array")

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.cube.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.cube.shape[1])

    @property
    def bands(self) -> tuple[int, ...]:
        """Numbers of the bands in use, from 1."""
        return self.chosen or tuple(range(1, self.cube.shape[2] + 1))

    @property
    def bad_bands(self) -> Mapping[int, float]:
        """None: an array does not say."""
        return {}

    @property
    def doubts(self) -> tuple[str, ...]:
        """What a user should be warned of."""
        return nodata_doubts(self.nodata, self.dtype, self.name)

    @property
    def blocks(self) -> tuple[int, int]:
        """One row."""
        return 1, self.width

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.cube.dtype

    def read(self, row0: int, row1: int, col0: int, col1: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return a part, (B, h, w): a view where all bands are in use, or `out`, filled."""
        part = self._chosen(np.ma.getdata(self.cube)[row0:row1, col0:col1])
        if out is None:
            return part
        out[...] = part
        return out

    def _chosen(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the bands in use of (h, w, all bands) as (B, h, w)."""
        bands = values.transpose(2, 0, 1)
        return bands if self.chosen is None else bands[np.array(self.chosen) - 1]

    def mask(self, row0: int, row1: int, col0: int, col1: int) -> NDArray[np.bool_] | None:
        """Return which pixels of a masked array are masked in no band in use, (h, w); None for a plain array."""
        masked = np.ma.getmask(self.cube)
        if not isinstance(masked, np.ndarray):
            return None
        return np.asarray(~self._chosen(masked[row0:row1, col0:col1]).any(axis=0))

    def select(self, bands: Sequence[int], note: str = "") -> "ArrayScene":
        """Return the same scene with others of the bands in use; the cube is shared."""
        at = [self.bands.index(band) for band in bands]
        return replace(
            self,
            chosen=tuple(bands),
            nodata=nodata_at(self.nodata, at),
            wavelengths=None if self.wavelengths is None else self.wavelengths[at],
            note=note,
        )


def chosen_bands(name: str, count: int, bands: Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of chosen bands, from 1, of a scene that has `count`.

    Raises
    ------
    UsageError
        They are no whole numbers.
    SceneError
        There is none, the scene lacks one, or one is there twice.
    """
    chosen = several("bands", bands, whole, "whole numbers, counted from 1")
    if not chosen:
        raise SceneError(f"'{name}' has {count} bands and none is chosen: choose from 1-{count}")
    missing = [band for band in chosen if not 1 <= band <= count]
    if missing:
        raise SceneError(f"'{name}' has {count} bands and --bands asks for band {missing[0]}: choose from 1-{count}")
    if len(set(chosen)) < len(chosen):
        twice = next(band for band in chosen if chosen.count(band) > 1)
        raise SceneError(f"--bands asks for band {twice} of '{name}' twice: wanted each band once")
    return chosen


def nodata_of_each(nodata: NodataOfBands, bands: int) -> tuple[float | None, ...]:
    """Return the nodata value of each of so many bands."""
    return nodata if isinstance(nodata, tuple) else (nodata,) * bands


def nodata_at(nodata: NodataOfBands, at: Sequence[int]) -> NodataOfBands:
    """Return the nodata of some of the bands, by their places in the tuple."""
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


def nodata_doubts(given: NodataOfBands, dtype: np.dtype[Any], name: str) -> tuple[str, ...]:
    """Say of a nodata value that somebody gave that no value of the scene's type can be it; empty where one can."""
    values = given if isinstance(given, tuple) else (given,)
    floats = dtype.kind == "f"  # NaN and infinities are missing anyway
    lost = [v for v in values if v is not None and native_nodata(v, dtype) is None and (math.isfinite(v) or not floats)]
    if not lost:
        return ()
    limits = np.finfo(dtype) if floats else np.iinfo(dtype)
    return (
        f"the nodata value {lost[0]} cannot occur in '{name}', which holds {dtype} values ({limits.min} to "
        f"{limits.max}), so no pixel is missing by it: give another with --nodata, or leave it out",
    )


def check_dtype(dtype: np.dtype[Any], name: str) -> None:
    """Refuse values that are not real numbers (complex, text, bool)."""
    if dtype.kind not in "iuf":
        raise SceneError(f"{name} holds {dtype} values: wanted integers or floats; convert it first")
