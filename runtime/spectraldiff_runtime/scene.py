"""What a scene is to the mapping: a protocol, arrays that fulfil it, and where a raster lies."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import rasterio
from numpy.typing import NDArray

from .errors import SceneError

NODATA_OF_FILE: Literal["file"] = "file"
Nodata = float | None | Literal["file"]


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
        """Area of a pixel in hectares; None unless the CRS is projected."""
        if self.crs is None or self.transform is None:
            return None
        crs = rasterio.crs.CRS.from_user_input(self.crs)
        if not crs.is_projected:
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
    def nodata(self) -> float | None:
        """The value of missing pixels."""
        ...

    @property
    def wavelengths(self) -> NDArray[np.float64] | None:
        """Centres of the bands in use, (B,), nm."""
        ...

    @property
    def georeference(self) -> Georeference:
        """Where it lies."""
        ...

    def read(self, row0: int, row1: int, col0: int, col1: int) -> NDArray[Any]:
        """Return rows row0..row1 and columns col0..col1 (ends excluded), (B, h, w), native dtype."""
        ...


@dataclass(frozen=True)
class ArrayScene:
    """A scene in memory: a cube (H, W, B) of any real dtype, in raw units.

    Parameters
    ----------
    cube
        Shape (H, W, B). It is neither copied nor changed.
    nodata
        The value that marks missing pixels, or None. NaN and infinities are always missing.
    """

    cube: NDArray[Any]
    nodata: float | None = None
    wavelengths: NDArray[np.float64] | None = None
    georeference: Georeference = field(default_factory=Georeference)
    name: str = "array"

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
        """Band numbers from 1."""
        return tuple(range(1, self.cube.shape[2] + 1))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.cube.dtype

    def read(self, row0: int, row1: int, col0: int, col1: int) -> NDArray[Any]:
        """Return a part as a view, (B, h, w)."""
        return self.cube[row0:row1, col0:col1].transpose(2, 0, 1)


def check_dtype(dtype: np.dtype[Any], name: str) -> None:
    """Refuse values that are not real numbers (complex, text, bool)."""
    if dtype.kind not in "iuf":
        raise SceneError(f"{name} holds {dtype} values: wanted integers or floats; convert it first")
