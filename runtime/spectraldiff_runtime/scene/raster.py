"""Scenes on disk: any raster that GDAL reads, by windows, with our errors and none of GDAL's noise."""

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window as RasterioWindow

from spectraldiff_runtime.classes import clean_name
from spectraldiff_runtime.errors import SceneError
from spectraldiff_runtime.gdal import GDAL_ERRORS as GDAL_ERRORS
from spectraldiff_runtime.gdal import is_remote, reason
from spectraldiff_runtime.gdal import quiet_gdal as quiet_gdal
from spectraldiff_runtime.geo.georeference import Georeference as Georeference
from spectraldiff_runtime.geo.georeference import read_georeference
from spectraldiff_runtime.limits import NAME
from spectraldiff_runtime.scene.array import ArrayScene as ArrayScene
from spectraldiff_runtime.scene.band_metadata import (
    BandFacts,
    alpha_bands,
    alpha_note,
    alpha_warnings,
    known_for_all,
    left_out,
    marked_alpha,
    mask_bands,
    read_bad_bands,
    read_band_names,
    read_fwhm,
    read_nodata,
    read_scaling,
    scaling_of,
)
from spectraldiff_runtime.scene.band_metadata import read_wavelengths as read_wavelengths
from spectraldiff_runtime.scene.clouds import Clouds, hide_clouds
from spectraldiff_runtime.scene.envi import open_raw, size_warnings
from spectraldiff_runtime.scene.file_state import files_state
from spectraldiff_runtime.scene.nodata import NODATA_OF_FILE as NODATA_OF_FILE
from spectraldiff_runtime.scene.nodata import Nodata as Nodata
from spectraldiff_runtime.scene.nodata import NodataOfBands, native_nodata, nodata_of_each, nodata_warnings, one_nodata
from spectraldiff_runtime.scene.open import open_dataset as open_dataset
from spectraldiff_runtime.scene.open import open_raster
from spectraldiff_runtime.scene.protocol import BandChoice, check_dtype, chosen_bands
from spectraldiff_runtime.scene.protocol import Scene as Scene

ARCHIVE = re.compile(r"(/vsi(zip|gzip|tar|7z|rar)/)+")


class RasterScene:
    """A raster that GDAL reads, opened for reading by windows; a context manager. One thread at a time.

    Parameters
    ----------
    path
        A file, or any name that GDAL opens.
    bands
        Numbers of the bands to use, from 1, in the model's order; None for all but an alpha band and those
        that the ENVI header, or `facts`, call bad; ``"all"`` for all but an alpha band.
    nodata
        ``"file"`` for the file's own values, a number to use instead, or None for none.
    scaled
        Whether values are stored value x scale + offset, as float32, with NaN for nodata, by the file's
        scale and offset (or ENVI ``reflectance scale factor``); 1 and 0 where it has none.
    facts
        What the metadata of the product say that the raster is part of; they come before the raster's own.

    Attributes
    ----------
    bands, wavelengths, fwhm
        Numbers of the bands in use; their centres and widths, (B,), nm, or None.
    nodata
        One value, or one for each band in use where they differ; None if scaled.
    sensor, count
        The instrument, where it is known, and how many bands the file has.
    files
        The local files that it is read from.
    band_names, tags
        The names of all bands of the file, empty where they have none; and the file's tags.
    bad_bands
        Numbers and centres (nm, or NaN) of the bands that were left out because the header calls them bad.
    note
        What a user may want to know of the bands in use.
    clouds
        Where the product that it is part of marks clouds; None where it does not.
    quantity
        What physical values are, as the product says: ``"radiance"``; empty where it is not known.
    acquired
        When it was taken, as the product says; empty where it is not known.
    warnings
        What a user should be warned of: why the file may be another than its header describes, and a nodata value
        that was given and cannot occur.

    Raises
    ------
    SceneError
        The raster is missing, unreadable, complex or cut short, its bands differ in type, or its list of
        bad bands or its scale makes no sense.
    """

    clouds: Clouds | None = None
    quantity = ""
    acquired = ""

    def __init__(
        self,
        path: str | Path,
        bands: BandChoice = None,
        nodata: Nodata = NODATA_OF_FILE,
        *,
        scaled: bool = False,
        facts: BandFacts | None = None,
    ) -> None:
        self.name, self.scaled, self._facts = str(path), scaled, facts
        self._dataset = open_raster(path)
        try:
            with quiet_gdal():  # GDAL reads parts of a file, and remarks on them, when they are asked for
                self._describe(bands, nodata)
        except BaseException:
            self.close()
            raise

    def _describe(self, bands: BandChoice, nodata: Nodata) -> None:
        self._raw = open_raw(self._dataset)
        self._describe_file(nodata)
        self._choose(self._good_bands(bands) if bands is None or isinstance(bands, str) else bands)
        if bands is None or isinstance(bands, str):
            self._add_alpha_note()
        if nodata != NODATA_OF_FILE:
            self.warnings += nodata_warnings(nodata, self._stored, self.name)

    def _describe_file(self, nodata: Nodata) -> None:
        dataset = self._dataset
        self.height, self.width, self.count = dataset.height, dataset.width, dataset.count
        self.sensor = clean_name(dataset.tags().get("SENSOR", ""))[:NAME]
        if self._facts is not None and len(self._facts.wavelengths) != dataset.count:
            raise SceneError(
                f"'{self.name}' has {dataset.count} bands and its metadata describe {len(self._facts.wavelengths)}: "
                "wanted the files of one product as delivered"
            )
        self.georeference = read_georeference(dataset)
        self.files = tuple(dict.fromkeys([*_local_files(dataset), *(self._facts.files if self._facts else ())]))
        self.band_names = read_band_names(dataset)
        self.tags: dict[str, str] = dict(dataset.tags())
        self.bad_bands: dict[int, float] = {}
        marked = marked_alpha(dataset) if self._facts is None else ()  # a product has none, whatever the file says
        self._alpha_bands = alpha_bands(dataset) if marked else ()
        self.note: str = ""
        self.warnings: tuple[str, ...] = (
            *size_warnings(self.name, dataset),
            *alpha_warnings(self.name, marked, self._alpha_bands),
        )
        self._centres = read_wavelengths(dataset, self._alpha_bands)
        self._widths = read_fwhm(dataset, self._alpha_bands)
        own = read_nodata(dataset)
        if self._facts is not None:
            self._centres, self._widths = self._facts.wavelengths, self._facts.fwhm
            own = tuple(self._facts.nodata if value is None else value for value in own)
        self._nodata_values = own if nodata == NODATA_OF_FILE else (nodata,) * dataset.count
        self._by_rows = dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") == "LINE"

    def _good_bands(self, bands: Literal["all"] | None) -> tuple[int, ...]:
        """Return all bands but an alpha band and, unless all are asked for, the bad ones; keep which those are."""
        spectral = set(range(1, self._dataset.count + 1)) - set(self._alpha_bands)
        if bands is not None:
            return tuple(sorted(spectral))
        if self._facts is not None:
            return self._good_by_facts(spectral, self._facts)
        try:
            bad = [band for band in read_bad_bands(self._dataset) if band in spectral]
        except ValueError as error:
            raise SceneError(
                f"'{self.name}' {error}: wanted 1 (good) or 0 (bad) for each; mend the header or choose with --bands"
            ) from None
        self.bad_bands = {b: float("nan") if self._centres is None else float(self._centres[b - 1]) for b in bad}
        if bad:
            self.note = f"{len(bad)} of {len(spectral)} bands were left out, its header calls them bad"
        if not spectral - set(bad):
            raise SceneError(f"'{self.name}' has no band that is neither alpha nor bad: choose with --bands")
        return tuple(sorted(spectral - set(bad)))

    def _add_alpha_note(self) -> None:
        self.note = "; ".join(filter(None, [self.note, alpha_note(self._alpha)]))

    def _good_by_facts(self, spectral: set[int], facts: BandFacts) -> tuple[int, ...]:
        self.bad_bands = {band: float(facts.wavelengths[band - 1]) for band in sorted(spectral & set(facts.bad))}
        self.note = left_out({band: facts.bad[band] for band in self.bad_bands}, len(spectral))
        if not spectral - set(facts.bad):
            raise SceneError(f"the metadata of '{self.name}' call all bands bad: choose with --bands")
        return tuple(sorted(spectral - set(facts.bad)))

    def _choose(self, bands: Sequence[int]) -> None:
        dataset = self._dataset
        self.bands = chosen_bands(self.name, dataset.count, bands)
        at = np.array(self.bands) - 1
        self._stored = _one_dtype(self.name, [dataset.dtypes[i] for i in at])
        self._missing = one_nodata([self._nodata_values[i] for i in at])
        self.dtype: np.dtype[Any] = np.dtype(np.float32) if self.scaled else self._stored
        self.nodata: NodataOfBands = None if self.scaled else self._missing
        self.wavelengths, self.fwhm = known_for_all(self._centres, at), known_for_all(self._widths, at)
        self.blocks: tuple[int, int] = tuple(dataset.block_shapes[at[0]])
        self._masks = mask_bands(dataset)
        self._alpha: list[int] = [band for band in self._alpha_bands if band not in self.bands]
        self.scaling = scaling_of(*(values[at] for values in self._all_scaling()))
        if self.scaled:
            self._scales, self._offsets = (values[at] for values in self._scaling())

    def _scaling(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        scales, offsets = self._all_scaling()
        if not (np.isfinite(scales) & (scales != 0) & np.isfinite(offsets)).all():
            raise SceneError(
                f"'{self.name}' has a scale or offset that is 0 or no number: wanted numbers, because the model "
                "takes scaled values; mend the file (see `sdiff info`)"
            )
        return scales, offsets

    def _all_scaling(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return read_scaling(self._dataset) if self._facts is None else (self._facts.scales, self._facts.offsets)

    @property
    def has_scale(self) -> bool:
        """Whether any band has a scale other than 1 or an offset other than 0."""
        scales, offsets = self._all_scaling()
        return not (scales == 1).all() or not (offsets == 0).all()

    def select(self, bands: Sequence[int], note: str = "") -> "RasterScene":
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
            The file is damaged or cut short there, or cannot be reached any more.
        """
        if out is None:
            out = np.empty((len(self.bands), row1 - row0, col1 - col0), self.dtype)
        with self._reading(row0, row1):
            if self.scaled:
                # What float32 holds exactly is converted in place.
                exact = np.can_cast(self._stored, np.float32)
                stored = out if exact else np.empty(out.shape, self._stored)
                self._fill(row0, row1, col0, col1, stored)
                self._scale(stored, out)
            else:
                self._fill(row0, row1, col0, col1, out)
        return out

    def _fill(self, row0: int, row1: int, col0: int, col1: int, out: NDArray[Any]) -> None:
        """Fill `out` with stored values."""
        if self._raw is not None and self._raw.read(self.bands, row0, row1, col0, col1, out):
            return
        # GDAL would read a file that is interleaved by line once for each few bands.
        step = 1 if self._by_rows else row1 - row0
        for row in range(row0, row1, step):
            window = RasterioWindow(col0, row, col1 - col0, step)
            self._dataset.read(list(self.bands), window=window, out=out[:, row - row0 : row - row0 + step])

    def _scale(self, stored: NDArray[Any], out: NDArray[Any]) -> None:
        """Turn stored values into physical ones, (B, h, w) both, perhaps the same array."""
        for i, nodata in enumerate(nodata_of_each(self._missing, len(self.bands))):
            marker = native_nodata(nodata, self._stored)
            missing = None if marker is None else stored[i] == marker
            with np.errstate(over="ignore", invalid="ignore"):
                out[i] = stored[i] * float(self._scales[i]) + float(self._offsets[i])
            if missing is not None:
                out[i][missing] = np.nan

    def mask(self, row0: int, row1: int, col0: int, col1: int) -> NDArray[np.bool_] | None:
        """Return where the file's mask and alpha band say that there is data, (h, w); None if it has neither.

        Clouds that are left out have none.

        Raises
        ------
        SceneError
            As `read`.
        """
        if not self._masks and not self._alpha:
            return hide_clouds(self.clouds, None, row0, row1, col0, col1)
        window = RasterioWindow(col0, row0, col1 - col0, row1 - row0)
        good = np.ones((row1 - row0, col1 - col0), np.bool_)
        with self._reading(row0, row1):
            if self._masks:
                good &= (self._dataset.read_masks(list(self._masks), window=window) != 0).all(axis=0)
            if self._alpha:
                good &= (self._dataset.read(self._alpha, window=window) != 0).all(axis=0)
        return hide_clouds(self.clouds, good, row0, row1, col0, col1)

    @contextmanager
    def _reading(self, row0: int, row1: int) -> Iterator[None]:
        try:
            with quiet_gdal():
                yield
        except GDAL_ERRORS as error:
            raise SceneError(
                f"'{self.name}' cannot be read at rows {row0} to {row1} ({reason(error)}): "
                + (
                    "the connection failed; try again"
                    if is_remote(self.name)
                    else "the file is damaged or cut short; copy or download it again"
                )
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
        raw = getattr(self, "_raw", None)
        if raw is not None:
            raw.close()
        with quiet_gdal():
            self._dataset.close()

    def __enter__(self) -> "RasterScene":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _one_dtype(name: str, dtypes: Sequence[str]) -> np.dtype[Any]:
    if len(set(dtypes)) > 1:
        kinds = ", ".join(sorted(set(dtypes)))
        raise SceneError(f"'{name}' has bands of different types ({kinds}): wanted one; choose with --bands")
    if dtypes[0].startswith("complex"):
        raise SceneError(f"'{name}' holds {dtypes[0]} values: wanted real numbers; convert it first")
    dtype: np.dtype[Any] = np.dtype(dtypes[0])
    check_dtype(dtype, f"'{name}'")
    return dtype


def _local_files(dataset: Any) -> Iterator[Path]:
    """Yield the files on this machine that a raster is read from; an archive for what lies in it."""
    for name in dict.fromkeys(dataset.files):
        path = Path(ARCHIVE.sub("", name)) if ARCHIVE.match(name) else Path(name)
        yield from [place for place in (path, *path.parents) if place.is_file()][:1]
