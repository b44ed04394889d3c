"""Rasters that are made whole from raw values: written by GDAL, read back and compared, or not there at all."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from spectraldiff_runtime.atomic import SIDECARS, PartialFile, check_sidecars, output_error, sidecar_path
from spectraldiff_runtime.classes import LandCoverClass
from spectraldiff_runtime.errors import OutputError, UsageError
from spectraldiff_runtime.geo.georeference import Georeference
from spectraldiff_runtime.geotiff.attribute_table import table_item
from spectraldiff_runtime.geotiff.sidecar import write_class_sidecar
from spectraldiff_runtime.geotiff.spec import Format as Format
from spectraldiff_runtime.geotiff.spec import RasterSpec as RasterSpec
from spectraldiff_runtime.geotiff.spec import class_spec as class_spec
from spectraldiff_runtime.geotiff.spec import confidence_spec as confidence_spec
from spectraldiff_runtime.geotiff.spec import creation_options
from spectraldiff_runtime.geotiff.spec import probability_spec as probability_spec
from spectraldiff_runtime.geotiff.transcoder import Outcome, TranscodeJob, Transcoder, run
from spectraldiff_runtime.geotiff.vrt import vrt_text
from spectraldiff_runtime.scene.open import open_dataset

# Creation options that say what `Format.blocksize` says.
TILE_OPTIONS = {"BLOCKSIZE", "BLOCKXSIZE", "BLOCKYSIZE", "TILED"}
# What a disk may have left (bytes) when it counts as full: less than any write of GDAL's.
FULL = 64 * 1024
# What the system may say when it writes no more.
SYSTEM_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def encode(
    raw: Path, target: Path, name: Path, spec: RasterSpec, form: Format, transcoder: Transcoder | None = None
) -> None:
    """Make a raster of a raw file, with overviews, names and colours, and compare it with the raw file.

    It is done in another process (see `transcode`): this one needs no memory for it and can be interrupted. The same
    values give the same bytes.

    Parameters
    ----------
    raw
        The values: a flat array (count, H, W), native byte order, no header.
    target
        The file to write, and ``<target>.aux.xml`` where there are classes. Nothing of it is left after an error.
    name
        The name that the file gets in the end, for messages.
    transcoder
        The process that does it, if it was started before.

    Raises
    ------
    OutputError
        The disk is full, GDAL cannot write the file, what it wrote is not what was in the raw file, or the raw
        file has another size.
    """
    _remove(target)
    try:
        _check_size(raw, spec)
        _encode(raw, target, spec, form, transcoder)
    except OSError as error:
        _remove(target)
        raise output_error(name, error) from error
    except BaseException:
        _remove(target)
        raise


def _check_size(raw: Path, spec: RasterSpec) -> None:
    found = raw.stat().st_size
    if found != spec.nbytes:
        raise OutputError(
            f"'{raw}' has {found:,} bytes and the raster has {spec.nbytes:,}: it was changed; remove it and run again"
        )


def _encode(raw: Path, target: Path, spec: RasterSpec, form: Format, transcoder: Transcoder | None) -> Outcome:
    options = creation_options(spec, form, None if transcoder is None else transcoder.memory)
    table = table_item(spec.classes) if spec.classes is not None and form.driver in ("COG", "GTiff") else ""
    job = TranscodeJob(vrt_text(spec, raw, form.blocksize), str(target.absolute()), form.driver, options, table)
    outcome = run(job) if transcoder is None else transcoder.run(job)
    if outcome.error is not None:
        raise _cause(outcome, target)
    if spec.classes is not None:
        write_class_sidecar(target, spec.classes)
    return outcome


def _cause(outcome: Outcome, target: Path) -> OSError:
    """Return the cause of an error: GDAL seldom reports that the disk is full."""
    said = f"{outcome.error}\n{outcome.printed}\n" + "\n".join(outcome.warnings)
    for number in SYSTEM_ERRORS:
        if os.strerror(number) in said:
            return OSError(number, os.strerror(number))
    if shutil.disk_usage(target.parent).free < FULL:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return OSError(str(outcome.error).strip().rstrip("."))


def _remove(target: Path) -> None:
    """Remove a raster and files that GDAL may have left with it."""
    for leftover in (target, sidecar_path(target), Path(f"{target}.ovr.tmp")):
        with contextlib.suppress(OSError):
            leftover.unlink(missing_ok=True)


def check_format(form: Format, dtypes: Collection[str] = ("uint8",)) -> None:
    """Refuse tiles and creation options that GDAL does not take, or that would lose or change anything.

    GDAL passes over options that it does not know. So a small raster of each type is made with them, in a
    temporary folder, and whatever GDAL says of it is an error.

    Parameters
    ----------
    dtypes
        Names of the types of the rasters that are to be written: uint8 or uint16 for classes, float32.

    Raises
    ------
    UsageError
    """
    check_blocksize(form)
    asked = ", ".join(f"--co {key}={value}" for key, value in form.options.items())
    owned = [key for key in form.options if key.upper() in TILE_OPTIONS]
    if owned:
        raise UsageError(f"--co {owned[0]} is not taken: give the side of the tiles with --blocksize")
    for dtype in sorted(set(dtypes)) if asked else ():
        problem = _try(form, dtype)
        if problem:
            raise UsageError(f"{asked} cannot be used for a {form.driver} of {dtype} values ({problem}): leave it out")


def check_blocksize(form: Format) -> None:
    """Raise UsageError where the format has no tiles of that side."""
    side = form.blocksize
    if form.driver == "COG" and not (64 <= side <= 4096 and side & (side - 1) == 0):
        raise UsageError(f"--blocksize {side} is no tile of a COG: choose a power of 2 from 64 to 4096")
    if not 16 <= side <= 4096 or side % 16:
        raise UsageError(f"--blocksize {side} is no tile of a GeoTIFF: choose a multiple of 16 from 16 to 4096")


def _try(form: Format, dtype: str) -> str | None:
    """Make a small raster of noise and return what is wrong with it, None if nothing is."""
    side, place = form.blocksize + 16, Georeference.of("EPSG:32616", (20, 0, 480_000, 0, -20, 4_470_000))
    classes = [LandCoverClass(300 if dtype == "uint16" else 3, "class", (1, 2, 3))]
    spec = class_spec(side, side, classes, place, {})
    values: NDArray[Any] = np.random.default_rng(0).integers(0, classes[0].value + 1, (side, side))
    if dtype == "float32":
        spec, values = confidence_spec(side, side, place, {}, percent=False), values / 3
    try:
        with tempfile.TemporaryDirectory() as folder:
            raw, target = Path(folder, "raw"), Path(folder, "raster.tif")
            raw.write_bytes(values.astype(dtype).tobytes())
            outcome = _encode(raw, target, spec, form, None)
            return outcome.warnings[0] if outcome.warnings else _unwanted(raw, target, spec)
    except OSError as error:
        return str(error)


def _unwanted(raw: Path, target: Path, spec: RasterSpec) -> str | None:
    """Return what creation options did beyond storing the same raster in one file."""
    others = {path.name for path in target.parent.iterdir()} - {raw.name, target.name, sidecar_path(target).name}
    if others:
        return f"it makes another file next to the raster, {Path(min(others)).suffix}"
    with open_dataset(target) as raster:
        kept = raster.transform == spec.place.transform and raster.crs == rasterio.crs.CRS.from_user_input(
            spec.place.crs
        )
        same = kept and raster.nodata == spec.nodata and raster.descriptions == spec.names
    return None if same else "it changes or drops what the file says of itself"


class EncodedRaster(PartialFile):
    """A raster that is made of a raw file when it is finished.

    Parameters
    ----------
    path, overwrite, folder
        As `PartialFile`.
    raw, spec, form, transcoder
        As `encode`.
    """

    def __init__(
        self,
        path: Path,
        overwrite: bool,
        raw: Path,
        spec: RasterSpec,
        form: Format,
        folder: Path | None = None,
        transcoder: Transcoder | None = None,
    ) -> None:
        check_sidecars(path, overwrite, known=[SIDECARS[0]])
        super().__init__(path, overwrite, folder)
        self._raw, self._spec, self._form, self._transcoder = raw, spec, form, transcoder

    def finish(self) -> None:
        """Write the whole raster under its other name."""
        encode(self._raw, self.partial, self.path, self._spec, self._form, self._transcoder)

    def publish(self) -> None:
        """Give the file its name; with `overwrite`, what belonged to the raster that it replaces goes."""
        check_sidecars(self.path, self._overwrite, known=[SIDECARS[0]])
        for suffix in SIDECARS if self._overwrite else ():
            with contextlib.suppress(OSError):
                self._target.with_name(self._target.name + suffix).unlink(missing_ok=True)
        super().publish()


class ArrayRaster(EncodedRaster):
    """A raster whose values, (H, W) or (count, H, W), are in memory; they fit the type of `spec`."""

    def __init__(
        self,
        path: Path,
        overwrite: bool,
        values: NDArray[Any],
        spec: RasterSpec,
        form: Format = Format(),  # noqa: B008 (frozen)
    ) -> None:
        self._values = np.ascontiguousarray(values, spec.dtype)
        if not np.array_equal(self._values, values, equal_nan=spec.dtype == "float32"):
            raise ValueError(f"values up to {values.max()} do not fit {spec.dtype}")
        super().__init__(path, overwrite, Path(), spec, form)
        self._raw = self.partial.with_name(f"{self.partial.name}.raw")

    def finish(self) -> None:
        """Write the values to a raw file, and make the raster of it."""
        try:
            self._raw.write_bytes(self._values.data)
            super().finish()
        except OSError as error:
            raise output_error(self.path, error) from error
        finally:
            with contextlib.suppress(OSError):
                self._raw.unlink(missing_ok=True)
