"""A scene that is an array in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.scene.nodata import NodataOfBands, nodata_at, nodata_warnings
from spectraldiff_runtime.scene.protocol import check_dtype


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
    def warnings(self) -> tuple[str, ...]:
        """What a user should be warned of."""
        return nodata_warnings(self.nodata, self.dtype, self.name)

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
