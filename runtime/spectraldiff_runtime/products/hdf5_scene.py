"""Scenes in HDF5 and netCDF-4 files, read by windows along the file's own chunks."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.geo.georeference import Georeference, check_transform
from spectraldiff_runtime.products.hdf5_file import HDF5_ERRORS, check_layer, open_hdf5, reason
from spectraldiff_runtime.scene.band_metadata import known_for_all, left_out, scaling_of
from spectraldiff_runtime.scene.clouds import Clouds, hide_clouds
from spectraldiff_runtime.scene.file_state import files_state
from spectraldiff_runtime.scene.lookup_grid import LookupGrid
from spectraldiff_runtime.scene.nodata import (
    NODATA_OF_FILE,
    Nodata,
    NodataOfBands,
    native_nodata,
    nodata_of_each,
    nodata_warnings,
)
from spectraldiff_runtime.scene.protocol import ALL_BANDS, BandChoice, check_dtype, chosen_bands

# Bytes that are read at once, if a chunk is not larger.
SLAB = 16 * 2**20
# The most bytes of inflated chunks that are kept: they help where a window ends inside of chunks.
CACHE = 64 * 2**20


@dataclass(frozen=True)
class Cube:
    """A data set that holds some of a scene's bands.

    Attributes
    ----------
    name
        Its path in the file.
    axes
        Which of its axes are row, column and band: (0, 2, 1) for (row, band, column).
    places
        Where along the band axis each of its bands lies, in the order of the scene's numbers.
    """

    name: str
    axes: tuple[int, int, int]
    places: tuple[int, ...]


@dataclass(frozen=True)
class Padding:
    """A data set (row, column) that says which pixels lie outside of the scene: those where it is 0, or is not."""

    name: str
    where_zero: bool


@dataclass(frozen=True)
class Hdf5Layout:
    """Where a file holds a scene, and what it says of its bands.

    Attributes
    ----------
    cubes
        The data sets with the bands; together they give the order of the scene's band numbers.
    wavelengths, fwhm, scales, offsets, bad
        As in `spectraldiff_runtime.scene.band_metadata.BandFacts`, of all bands.
    nodata
        The stored value of missing pixels.
    place
        Where the rows and columns lie.
    physical
        Whether values are always scaled, because each file has a scale of its own.
    grid
        Where a scene in sensor geometry lies on a map.
    """

    cubes: tuple[Cube, ...]
    wavelengths: NDArray[np.float64]
    fwhm: NDArray[np.float64]
    scales: NDArray[np.float64]
    offsets: NDArray[np.float64]
    bad: Mapping[int, str]
    nodata: float | None = None
    place: Georeference = field(default_factory=Georeference)
    padding: Padding | None = None
    physical: bool = False
    grid: LookupGrid | None = None

    def __post_init__(self) -> None:
        lengths = {len(one) for one in (self.wavelengths, self.fwhm, self.scales, self.offsets)}
        if len(lengths) > 1:
            raise ValueError(f"wavelengths, widths and scales are of {sorted(lengths)} bands: wanted the same of each")


class Hdf5Scene:
    """A scene in an HDF5 file, opened for reading by windows; a context manager. One thread at a time.

    Parameters and attributes are those of `spectraldiff_runtime.scene.raster.RasterScene`.

    Raises
    ------
    SceneError
        The file is damaged or cut short, or its data sets differ in size or type.
    """

    clouds: Clouds | None = None
    quantity = ""
    acquired = ""

    def __init__(
        self,
        path: str | Path,
        layout: Hdf5Layout,
        bands: BandChoice = None,
        nodata: Nodata = NODATA_OF_FILE,
        *,
        scaled: bool = False,
        sensor: str = "",
    ) -> None:
        self.name, self.sensor, self.layout = str(path), sensor, layout
        self.scaled = scaled or layout.physical
        self._file = open_hdf5(path)
        try:
            self._describe(path, nodata)
            self._choose(self._good_bands(bands))
        except BaseException:
            self.close()
            raise

    def _describe(self, path: str | Path, nodata: Nodata) -> None:
        cubes = [_data_set(self._file, cube.name, self.name) for cube in self.layout.cubes]
        sizes = {
            (data.shape[cube.axes[0]], data.shape[cube.axes[1]])
            for data, cube in zip(cubes, self.layout.cubes, strict=True)
        }
        kinds = {data.dtype.newbyteorder("=") for data in cubes}
        if len(sizes) > 1 or len(kinds) > 1:
            raise SceneError(f"'{self.name}' has cubes of different sizes or types: download it again")
        ((self.height, self.width),), (self._stored,) = sizes, kinds
        check_dtype(self._stored, f"'{self.name}'")
        if self.layout.padding is not None:
            check_layer(self._file, self.layout.padding.name, (self.height, self.width))
        self.count = len(self.layout.wavelengths)
        self.files, self.tags = (Path(path),), dict[str, str]()
        self.band_names = ("",) * self.count
        self.georeference, self.grid = self.layout.place, self.layout.grid
        for place in (self.layout.place, None if self.grid is None else self.grid.place):
            check_transform(self.name, None if place is None else place.transform)
        self.bad_bands: dict[int, float] = {}
        self.note = ""
        self._missing = self.layout.nodata if nodata == NODATA_OF_FILE else nodata
        self.warnings = () if nodata == NODATA_OF_FILE else nodata_warnings(nodata, self._stored, self.name)
        chunks = [_chunks(data, cube.axes) for data, cube in zip(cubes, self.layout.cubes, strict=True)]
        self.blocks = max(rows for rows, _, _ in chunks), max(columns for _, columns, _ in chunks)
        stack = max(rows * columns for rows, columns, _ in chunks) * self.count * self._stored.itemsize
        self._reopen(path, min(CACHE, stack))

    def _reopen(self, path: str | Path, cache: int) -> None:
        """Open the file anew with room for the chunks that lie above each other."""
        self._file.close()
        self._file = open_hdf5(path, cache)

    def _good_bands(self, bands: BandChoice) -> Sequence[int]:
        if bands is not None and not isinstance(bands, str):
            return bands
        every = range(1, self.count + 1)
        if bands == ALL_BANDS:
            return every
        bad = self.layout.bad
        self.bad_bands = {band: float(self.layout.wavelengths[band - 1]) for band in sorted(bad)}
        self.note = left_out(bad, self.count)
        good = [band for band in every if band not in bad]
        if not good:
            raise SceneError(f"'{self.name}' calls all of its bands bad: choose with --bands")
        return good

    def _choose(self, bands: Sequence[int]) -> None:
        self.bands = chosen_bands(self.name, self.count, bands)
        at = np.array(self.bands) - 1
        self.dtype: np.dtype[Any] = np.dtype(np.float32) if self.scaled else self._stored
        self.nodata: NodataOfBands = None if self.scaled else self._missing
        self.wavelengths = known_for_all(self.layout.wavelengths, at)
        self.fwhm = known_for_all(self.layout.fwhm, at)
        self._scales, self._offsets = self.layout.scales[at], self.layout.offsets[at]
        self.scaling = scaling_of(self._scales, self._offsets)
        self._wanted = list(_by_cube(self.layout.cubes, at))

    @property
    def has_scale(self) -> bool:
        """Whether any band has a scale other than 1 or an offset other than 0."""
        return not (self.layout.scales == 1).all() or not (self.layout.offsets == 0).all()

    def select(self, bands: Sequence[int], note: str = "") -> "Hdf5Scene":
        """Return the same open scene with other bands in use: numbers from 1, in the order wanted."""
        other = copy.copy(self)
        other._choose(bands)
        other.note = note
        return other

    def read(self, row0: int, row1: int, col0: int, col1: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return a part, (B, h, w), of the scene's dtype: `out` of any strides, filled, where it is given.

        Raises
        ------
        SceneError
            The file is damaged or cut short there.
        """
        if out is None:
            out = np.empty((len(self.bands), row1 - row0, col1 - col0), self.dtype)
        with self._reading(row0, row1):
            for cube, at, places in self._wanted:
                data = self._file[cube.name]
                for slab in _slabs(data, cube.axes, places, (row0, row1), (col0, col1)):
                    part = out[:, slab.rows(row0), slab.columns(col0)]
                    self._fill(part, slab.read(data, cube.axes), slab.inside, at[slab.which])
        return out

    def _fill(self, out: NDArray[Any], stored: NDArray[Any], inside: NDArray[np.intp], at: NDArray[np.intp]) -> None:
        """Put the bands `inside` of stored values (n, h, w) into the bands `at` of `out`."""
        if not self.scaled:
            for run in np.split(np.arange(len(at)), np.flatnonzero(np.diff(inside) > 1) + 1):
                out[_as_slice(at[run])] = stored[_as_slice(inside[run])]
            return
        marker = native_nodata(nodata_of_each(self._missing, 1)[0], self._stored)
        # What float32 holds exactly is computed in it, which is several times as fast.
        kind = np.float32 if np.can_cast(self._stored, np.float32) else np.float64
        for i, values in zip(at, (stored[k] for k in inside), strict=True):
            scale, offset = kind(self._scales[i]), kind(self._offsets[i])
            with np.errstate(over="ignore", invalid="ignore"):
                np.multiply(values, scale, out=out[i], casting="same_kind")
                if offset:
                    np.add(out[i], offset, out=out[i], casting="same_kind")
            if marker is not None:
                out[i][values == marker] = np.nan

    def mask(self, row0: int, row1: int, col0: int, col1: int) -> NDArray[np.bool_] | None:
        """Return where the file says that there is data, (h, w); None where it has no such layer.

        Clouds that are left out have none.

        Raises
        ------
        SceneError
            As `read`.
        """
        padding = self.layout.padding
        if padding is None:
            return hide_clouds(self.clouds, None, row0, row1, col0, col1)
        with self._reading(row0, row1):
            values = self._file[padding.name][row0:row1, col0:col1]
        known = np.asarray(values != 0 if padding.where_zero else values == 0)
        return hide_clouds(self.clouds, known, row0, row1, col0, col1)

    @contextmanager
    def _reading(self, row0: int, row1: int) -> Iterator[None]:
        try:
            yield
        except HDF5_ERRORS as error:
            raise SceneError(
                f"'{self.name}' cannot be read at rows {row0} to {row1} ({reason(error)}): the file is damaged or cut "
                "short; copy or download it again"
            ) from error

    def fingerprint(self) -> dict[str, Any]:
        """Return facts that tell this scene from another or a changed one, as plain values for JSON."""
        missing = nodata_of_each(self._missing, 1)
        return {
            "name": Path(self.name).name,
            "height": self.height,
            "width": self.width,
            "bands": list(self.bands),
            "dtype": str(self.dtype),
            "nodata": [None if value is None else repr(float(value)) for value in missing],
            "scaled": self.scaled,
            "resampled": None,
            "clouds": self.clouds is not None and self.clouds.dropped,
            "files": files_state(self.files),
        }

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "Hdf5Scene":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class _Slab:
    """A box of a data set: rows, columns and a range of its band axis, and which of the wanted bands lie in it."""

    row: tuple[int, int]
    column: tuple[int, int]
    band: tuple[int, int]
    which: NDArray[np.intp]
    inside: NDArray[np.intp]

    def rows(self, start: int) -> slice:
        return slice(self.row[0] - start, self.row[1] - start)

    def columns(self, start: int) -> slice:
        return slice(self.column[0] - start, self.column[1] - start)

    def read(self, data: h5py.Dataset, axes: tuple[int, int, int]) -> NDArray[Any]:
        """Return its bands, (n, h, w)."""
        where: list[slice] = [slice(None)] * 3
        for axis, (start, stop) in zip(axes, (self.row, self.column, self.band), strict=True):
            where[axis] = slice(start, stop)
        return np.asarray(data[tuple(where)].transpose(axes[2], axes[0], axes[1]))


def _slabs(
    data: h5py.Dataset,
    axes: tuple[int, int, int],
    places: NDArray[np.intp],
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> Iterator[_Slab]:
    """Cut a window into boxes of whole chunks of about `SLAB` bytes, so that each chunk is read once.

    `places` are the wanted bands along the band axis, in any order. Chunks without any of them are not read.
    """
    height, width, depth = _chunks(data, axes)
    most = max(SLAB // data.dtype.itemsize, 1)
    bands = _multiple(most // (height * width), depth, data.shape[axes[2]])
    across = _multiple(most // (height * bands), width, columns[1] - columns[0])
    down = _multiple(most // (min(across, columns[1] - columns[0]) * bands), height, rows[1] - rows[0])
    runs = list(_band_runs(places, depth, bands))
    for row in _aligned(*rows, down):
        for column in _aligned(*columns, across):
            for which in runs:
                first = int(places[which].min())
                yield _Slab(row, column, (first, int(places[which].max()) + 1), which, places[which] - first)


def _band_runs(places: NDArray[np.intp], depth: int, most: int) -> Iterator[NDArray[np.intp]]:
    """Group wanted bands whose chunks lie side by side, at most `most` bands of the axis in a group."""
    order = np.argsort(places, kind="stable")
    chunk = places[order] // depth
    starts = np.flatnonzero((np.diff(chunk) > 1) | (np.diff(places[order] // most) > 0)) + 1
    yield from np.split(order, starts)


def _multiple(size: int, step: int, most: int) -> int:
    """Return the largest multiple of `step` up to `size`, at least one, and none larger than `most` needs."""
    return min(max(size // step, 1), -(-most // step)) * step


def _aligned(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    """Cut start..stop at the multiples of `step`."""
    while start < stop:
        end = min((start // step + 1) * step, stop)
        yield start, end
        start = end


def _chunks(data: h5py.Dataset, axes: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return rows, columns and bands of a chunk; of a data set without chunks, what lies together."""
    if data.chunks is not None:
        return data.chunks[axes[0]], data.chunks[axes[1]], data.chunks[axes[2]]
    return 1, data.shape[axes[1]], data.shape[axes[2]] if axes[2] == 2 else 1


def _by_cube(cubes: Sequence[Cube], at: NDArray[np.intp]) -> Iterator[tuple[Cube, NDArray[np.intp], NDArray[np.intp]]]:
    """Yield each cube with the places of its wanted bands in the scene and along its band axis."""
    first = 0
    for cube in cubes:
        mine = np.flatnonzero((at >= first) & (at < first + len(cube.places)))
        if mine.size:
            yield cube, mine, np.array(cube.places, np.intp)[at[mine] - first]
        first += len(cube.places)


def _as_slice(at: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    """Return places that rise or fall by one as a slice, which copies nothing; others as they are."""
    first, last = int(at[0]), int(at[-1])
    if (np.diff(at) == 1).all():
        return slice(first, last + 1)
    if (np.diff(at) == -1).all():
        return slice(first, last - 1 if last else None, -1)
    return at


def _data_set(file: h5py.File, name: str, path: str) -> h5py.Dataset:
    data = file.get(name)
    if not isinstance(data, h5py.Dataset) or data.ndim != 3 or 0 in data.shape:
        raise SceneError(f"'{path}' has no cube '{name}': the file is cut short or another product; download it again")
    return data
