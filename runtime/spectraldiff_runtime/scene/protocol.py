"""The protocol of scenes that can be mapped."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.scene.nodata import NodataOfBands
from spectraldiff_runtime.validation import as_int, as_tuple

ALL_BANDS: Literal["all"] = "all"
# Numbers from 1, all bands, or None for those that the scene itself does not call bad.
BandChoice = Sequence[int] | Literal["all"] | None


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


def chosen_bands(name: str, count: int, bands: Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of chosen bands, from 1, of a scene that has `count`.

    Raises
    ------
    UsageError
        They are no whole numbers.
    SceneError
        There is none, the scene lacks one, or one is there twice.
    """
    chosen = as_tuple("bands", bands, as_int, "whole numbers, counted from 1")
    if not chosen:
        raise SceneError(f"'{name}' has {count} bands and none is chosen: choose from 1-{count}")
    missing = [band for band in chosen if not 1 <= band <= count]
    if missing:
        raise SceneError(f"'{name}' has {count} bands and --bands asks for band {missing[0]}: choose from 1-{count}")
    if len(set(chosen)) < len(chosen):
        twice = next(band for band in chosen if chosen.count(band) > 1)
        raise SceneError(f"--bands asks for band {twice} of '{name}' twice: wanted each band once")
    return chosen


def check_dtype(dtype: np.dtype[Any], name: str) -> None:
    """Refuse values that are not real numbers (complex, text, bool), or have more than 8 bytes."""
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise SceneError(f"{name} holds {dtype} values: wanted integers or floats; convert it first")
