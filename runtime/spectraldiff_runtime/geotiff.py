"""GeoTIFFs that are written from top to bottom, and whose every write error is noticed.

GDAL writes through a file object of ours: left to itself it reports a full disk late, or not at all,
and on stderr.
"""

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window as RasterioWindow

from . import __version__
from .class_map import (
    BLOCK,
    LandCoverClass,
    class_profile,
    describe_classes,
    tiled_profile,
    write_class_sidecar,
)
from .interrupts import interrupts_held_back
from .outputs import PartialFile, output_error
from .raster import GDAL_ERRORS, quiet_gdal
from .scene import Georeference

CONFIDENCE_NODATA = 0.0


class _Recorder(io.FileIO):
    """A file that GDAL writes to; the first error is kept in `errors` and all later writes are dropped."""

    def __init__(self, path: str, mode: str, errors: list[Exception]) -> None:
        super().__init__(path, mode)
        self._errors = errors

    def write(self, data: Any, /) -> int:
        if not self._errors:
            try:
                self._write_all(memoryview(data))
            except Exception as error:  # GDAL would pass it over
                self._errors.append(error)
        return len(data)

    def _write_all(self, data: memoryview) -> None:
        while data:
            data = data[super().write(data) :]


class RasterOutput(PartialFile):
    """A GeoTIFF that is written in rows from top to bottom.

    Parameters
    ----------
    profile
        rasterio's creation options, with height, width and dtype.
    place
        Where the raster lies.
    tags
        Tags of the file.
    describe
        Called with the new dataset, for colours and names.
    overviews
        How pixels are merged in overviews.

    Raises
    ------
    OutputError
        As `PartialFile`, and wherever writing fails.
    """

    def __init__(
        self,
        path: Path,
        profile: Mapping[str, Any],
        place: Georeference,
        tags: Mapping[str, str] | None,
        overwrite: bool,
        overviews: Resampling = Resampling.nearest,
        describe: Callable[[Any], None] | None = None,
    ) -> None:
        super().__init__(path, overwrite)
        self._classes: Sequence[LandCoverClass] | None = None
        self._errors: list[Exception] = []
        self._overviews = overviews
        self._height, self._width = int(profile["height"]), int(profile["width"])
        self._rows_written, self._pending = 0, np.empty((0, self._width), profile["dtype"])
        self._dataset: Any = None
        try:
            self._write(lambda: self._create(profile, place, tags or {}, describe))
        except BaseException:
            self.discard()
            raise

    @classmethod
    def of_classes(
        cls,
        path: Path,
        height: int,
        width: int,
        classes: Sequence[LandCoverClass],
        place: Georeference,
        tags: Mapping[str, str] | None,
        overwrite: bool,
    ) -> "RasterOutput":
        """Start a class raster: uint8, 0 = nodata, with colours, names and overviews by majority."""
        output = cls(
            path,
            class_profile(height, width),
            place,
            tags,
            overwrite,
            Resampling.mode,
            lambda dataset: describe_classes(dataset, classes),
        )
        output._classes = classes
        return output

    @classmethod
    def of_confidence(
        cls,
        path: Path,
        height: int,
        width: int,
        place: Georeference,
        tags: Mapping[str, str] | None,
        overwrite: bool,
    ) -> "RasterOutput":
        """Start a confidence raster: float32 in 0..1, 0 = unclassified = nodata."""
        profile = {
            "driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": "float32",
            "nodata": CONFIDENCE_NODATA, "predictor": 3, **tiled_profile(),
        }  # fmt: skip
        return cls(path, profile, place, tags, overwrite, Resampling.average)

    def append(self, rows: NDArray[Any]) -> None:
        """Write the next rows, (h, W). They are kept until a row of the file's blocks is full."""
        self._pending = np.concatenate([self._pending, rows])
        while len(self._pending) >= BLOCK:
            self._flush(BLOCK)

    def finish(self) -> None:
        """Write the last rows, the overviews and the sidecar, and close the file."""
        if len(self._pending):
            self._flush(len(self._pending))
        if self._rows_written != self._height:
            raise ValueError(f"{self._rows_written} of {self._height} rows were written")
        self._write(self._build_overviews)
        self._write(self._close)
        if self._classes is not None:
            self._write(lambda: write_class_sidecar(self.partial, self._classes or ()))

    def publish(self) -> None:
        """Give the file its name; what belonged to the raster that it replaces goes."""
        for suffix in (".aux.xml", ".ovr", ".msk"):
            with contextlib.suppress(OSError):
                self._target.with_name(self._target.name + suffix).unlink(missing_ok=True)
        super().publish()

    def discard(self) -> None:
        """Close the file if it is open, and remove what was not published."""
        if self._dataset is not None:
            self._errors.append(InterruptedError())  # nothing more needs to reach the disk
            with contextlib.suppress(*GDAL_ERRORS):
                self._close()
        super().discard()

    def _create(
        self,
        profile: Mapping[str, Any],
        place: Georeference,
        tags: Mapping[str, str],
        describe: Callable[[Any], None] | None,
    ) -> None:
        where = {"crs": place.crs, "transform": place.transform}
        if place.transform is None and place.gcps:
            where = {"crs": place.gcps_crs, "gcps": list(place.gcps)}
        self._dataset = rasterio.open(self.partial, "w", opener=self._open, **profile, **where)
        if place.rpcs is not None:
            self._dataset.rpcs = place.rpcs
        self._dataset.update_tags(TIFFTAG_SOFTWARE=f"spectraldiff {__version__}", **tags)
        if describe is not None:
            describe(self._dataset)

    def _open(self, path: str, mode: str = "rb") -> io.FileIO:
        return _Recorder(path, mode.replace("b", ""), self._errors)

    def _flush(self, rows: int) -> None:
        part, self._pending = self._pending[:rows], self._pending[rows:]
        window = RasterioWindow(0, self._rows_written, self._width, rows)
        self._write(lambda: self._dataset.write(part, 1, window=window))
        self._rows_written += rows

    def _build_overviews(self) -> None:
        longest, factors = max(self._height, self._width), [2]
        while longest / factors[-1] > BLOCK:
            factors.append(factors[-1] * 2)
        if longest > BLOCK:
            self._dataset.build_overviews(factors, self._overviews)

    def _close(self) -> None:
        dataset, self._dataset = self._dataset, None
        with interrupts_held_back(), quiet_gdal():
            dataset.close()

    def _write(self, action: Callable[[], None]) -> None:
        """Do something that writes, and raise what went wrong in it, first of all in the file itself."""
        failure: Exception | None = None
        try:
            with interrupts_held_back(), quiet_gdal():
                action()
        except GDAL_ERRORS as error:
            failure = error
        failure = self._errors[0] if self._errors else failure
        if failure is not None:
            raise output_error(self.path, failure) from failure
