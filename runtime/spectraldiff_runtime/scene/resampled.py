"""A scene whose bands are interpolated to the wavelengths of a model."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.scene.clouds import Clouds
from spectraldiff_runtime.scene.lookup_grid import LookupGrid
from spectraldiff_runtime.scene.nodata import NodataOfBands, native_nodata, nodata_of_each
from spectraldiff_runtime.scene.protocol import Scene


@dataclass(frozen=True)
class BandInterpolation:
    """Linear interpolation of bands: (1 - weight) x band `lower` + weight x band `upper`.

    Attributes
    ----------
    lower, upper
        (B,) indices into the bands in use of the source scene, from 0; equal where the weight is 0.
    weight
        (B,) float32 in 0..1.
    """

    lower: NDArray[np.intp]
    upper: NDArray[np.intp]
    weight: NDArray[np.float32]

    @classmethod
    def between(cls, found: NDArray[np.float64], wanted: NDArray[np.float64]) -> "BandInterpolation":
        """Return the linear interpolation from centres (b,) in any order to (B,), nm.

        Beyond the first and last centre, that band is taken as it is.
        """
        order = np.argsort(found, kind="stable")
        rising = found[order]
        above = np.clip(np.searchsorted(rising, wanted), 1, max(1, rising.size - 1))
        left, right = above - 1, np.minimum(above, rising.size - 1)
        step = rising[right] - rising[left]
        weight = np.clip((wanted - rising[left]) / np.where(step > 0, step, 1.0), 0.0, 1.0)
        lower = np.where(weight < 1, left, right)
        upper = np.where(weight > 0, right, left)
        weight = np.where(lower == upper, 0.0, weight)
        return cls(order[lower], order[upper], weight.astype(np.float32))

    @property
    def trivial(self) -> bool:
        """Whether every band is taken as it is."""
        return bool((self.lower == self.upper).all())


@dataclass(frozen=True)
class ResampledScene:
    """A scene with interpolated bands: float32, NaN where a contributing band has no data.

    Bands are numbered from 1 in the order of the interpolation. Closing it closes the source scene.
    """

    source: Scene
    interpolation: BandInterpolation
    wavelengths: NDArray[np.float64]
    bands: tuple[int, ...]
    note: str = ""

    @property
    def name(self) -> str:
        """Name of the source scene."""
        return self.source.name

    @property
    def height(self) -> int:
        """Rows."""
        return self.source.height

    @property
    def width(self) -> int:
        """Columns."""
        return self.source.width

    @property
    def dtype(self) -> np.dtype[Any]:
        """Always float32."""
        return np.dtype(np.float32)

    @property
    def nodata(self) -> NodataOfBands:
        """None: missing values are NaN."""
        return None

    @property
    def blocks(self) -> tuple[int, int]:
        """Height and width of the storage blocks of the source scene."""
        return self.source.blocks

    @property
    def bad_bands(self) -> Mapping[int, float]:
        """Those of the source scene."""
        return self.source.bad_bands

    @property
    def georeference(self) -> Georeference:
        """Where it lies."""
        return self.source.georeference

    @property
    def grid(self) -> LookupGrid | None:
        """Where the source lies on a map, if it is in sensor geometry."""
        grid: LookupGrid | None = getattr(self.source, "grid", None)
        return grid

    @property
    def clouds(self) -> Clouds | None:
        """Where the source's product marks clouds."""
        clouds: Clouds | None = getattr(self.source, "clouds", None)
        return clouds

    @property
    def files(self) -> tuple[Path, ...]:
        """The local files that it is read from."""
        return tuple(getattr(self.source, "files", ()))

    def read(self, row0: int, row1: int, col0: int, col1: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return a part, (B, h, w) float32: `out` of any strides, filled, where it is given."""
        if out is None:
            out = np.empty((len(self.bands), row1 - row0, col1 - col0), np.float32)
        values = self.source.read(row0, row1, col0, col1)
        missing = nodata_of_each(self.source.nodata, len(values))
        with np.errstate(over="ignore", invalid="ignore"):
            for i, (lower, upper, weight) in enumerate(
                zip(self.interpolation.lower, self.interpolation.upper, self.interpolation.weight, strict=True)
            ):
                out[i] = _with_nan(values[lower], missing[lower])
                if weight:
                    out[i] += weight * (_with_nan(values[upper], missing[upper]) - out[i])
        return out

    def mask(self, row0: int, row1: int, col0: int, col1: int) -> NDArray[np.bool_] | None:
        """Return the mask of the source scene."""
        return self.source.mask(row0, row1, col0, col1)

    def select(self, bands: Sequence[int], note: str = "") -> "ResampledScene":
        """Return the same scene with others of its bands in use, by their numbers."""
        at = np.array([self.bands.index(band) for band in bands])
        old = self.interpolation
        interpolation = BandInterpolation(old.lower[at], old.upper[at], old.weight[at])
        return replace(
            self, interpolation=interpolation, wavelengths=self.wavelengths[at], bands=tuple(bands), note=note
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return the facts of the source scene with the interpolation; those of an array are empty."""
        known: dict[str, Any] = getattr(self.source, "fingerprint", dict)()
        interpolation = [
            self.interpolation.lower.tolist(),
            self.interpolation.upper.tolist(),
            self.interpolation.weight.tolist(),
        ]
        return {**known, "resampled": interpolation}

    def close(self) -> None:
        """Close the source scene if it can be closed."""
        if isinstance(self.source, AbstractContextManager):
            self.source.__exit__(None, None, None)

    def __enter__(self) -> "ResampledScene":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _with_nan(values: NDArray[Any], nodata: float | None) -> NDArray[np.float32]:
    """Return a band as float32 with NaN for nodata, compared in the band's own type."""
    marker = native_nodata(nodata, values.dtype)
    numbers = values.astype(np.float32)
    if marker is not None:
        numbers[values == marker] = np.nan
    return numbers
