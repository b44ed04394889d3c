"""A class map as polygons in a GeoPackage."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.atomic import PartialFile, output_error
from spectraldiff_runtime.classes import category_names
from spectraldiff_runtime.errors import OutputError
from spectraldiff_runtime.formats.patches import Patches, patches_of
from spectraldiff_runtime.gdal import check_plain
from spectraldiff_runtime.geo.georeference import apply_transform, crs_of
from spectraldiff_runtime.geotiff.spec import RasterSpec
from spectraldiff_runtime.untrusted import parse_json
from spectraldiff_runtime.window import Window

LAYER = "classes"
FACTS = "SPECTRALDIFF_POLYGONS"  # the layer's metadata that hold `PatchCounts`
BATCH = 20_000  # patches that are written at once
VERSION = {"VERSION": "1.2"}  # of GeoPackage: GDAL before 3.7 and QGIS 3.22 warn of newer ones
# What is left on a disk (bytes) when it counts as full.
FULL = 64 * 1024


@dataclass(frozen=True)
class PatchCounts:
    """What became of the patches of a map.

    Attributes
    ----------
    patches
        Those written.
    sieve
        The fewest pixels that were wanted of one.
    left_out, left_out_pixels
        Those that have fewer, and their pixels.
    pixels
        Pixels of each value of the map, 0..K, before any was left out.
    """

    patches: int
    sieve: int
    left_out: int
    left_out_pixels: int
    pixels: tuple[int, ...]


def read_patch_counts(path: Path) -> PatchCounts:
    """Return what a file of polygons says of itself.

    Raises
    ------
    OutputError
        It cannot be read, or is none of ours.
    """
    facts = read_layer_tags(path).get(FACTS, "")
    try:
        found = PatchCounts(**parse_json(facts))
    except (ValueError, TypeError) as error:
        raise OutputError(f"'{path}' does not say what it holds: map again with --overwrite") from error
    return PatchCounts(**{**asdict(found), "pixels": tuple(found.pixels)})


def read_layer_tags(path: Path) -> dict[str, str]:
    """Return the metadata of a file's layer of polygons; empty where there are none.

    Raises
    ------
    SceneError
        It is a pipe, or one lies next to it that SQLite would open.
    """
    check_plain(path)
    try:
        import pyogrio

        return dict(pyogrio.read_info(path, layer=LAYER)["layer_metadata"] or {})
    except (RuntimeError, OSError, ValueError):  # pyogrio's own are RuntimeErrors
        return {}


@dataclass(frozen=True)
class RawMap:
    """A finished map in raw files.

    Attributes
    ----------
    classes, confidence
        Flat arrays (H, W) in native byte order; the confidence is float32 in 0..1, or uint8 in percent.
    spec
        What the classes are, and where they lie: with a CRS and a transform.
    """

    classes: Path
    confidence: Path
    spec: RasterSpec
    percent: bool

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return classes and confidence (0..1) of a window."""
        sure = self._part(self.confidence, np.dtype(np.uint8 if self.percent else np.float32), window)
        return self._part(self.classes, np.dtype(self.spec.dtype), window), sure / 100 if self.percent else sure

    def _part(self, path: Path, kind: np.dtype[Any], window: Window) -> NDArray[Any]:
        part = np.empty((window.height, window.width), kind)
        with path.open("rb") as file:
            for row in range(window.height):
                file.seek(((window.row0 + row) * self.spec.width + window.col0) * kind.itemsize)
                part[row] = np.fromfile(file, kind, window.width)
        return part


class PolygonFile(PartialFile):
    """The polygons of a map's patches; see `PartialFile`.

    Fields: ``class``, ``name``, ``pixels``, ``hectares`` where pixels have one area, and ``confidence``, the mean.

    Parameters
    ----------
    found
        The map.
    sieve
        Patches of fewer pixels are left out.
    tile_done
        Called with the pixels of each tile that is done.
    """

    def __init__(
        self, path: Path, overwrite: bool, folder: Path, found: RawMap, sieve: int,
        tile_done: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(path, overwrite, folder)
        self._map, self._spec, self._sieve, self._tile_done = found, found.spec, sieve, tile_done
        self._names = np.array(category_names(self._spec.classes or ()), object)
        self._written = self._left_out = self._left_out_pixels = 0
        self._pixels = np.zeros(len(self._names), np.int64)

    def finish(self) -> None:
        """Write the file under its other name."""
        try:
            self.partial.unlink(missing_ok=True)
            self._write_all()
        except (RuntimeError, OSError) as error:  # pyogrio's own are RuntimeErrors
            full = shutil.disk_usage(self.partial.parent).free < FULL
            raise output_error(self.path, OSError(28, "full") if full else error) from error

    def _write_all(self) -> None:
        batch: list[Patches] = []
        for some in patches_of(self._map.read, self._spec.height, self._spec.width, self._tile_done):
            batch.append(self._wanted(some))
            if sum(len(one.classes) for one in batch) >= BATCH:
                self._write(batch)
                batch = []
        self._pixels[0] = self._spec.height * self._spec.width - self._pixels.sum()
        pixels = tuple(self._pixels.tolist())
        counts = PatchCounts(self._written, self._sieve, self._left_out, self._left_out_pixels, pixels)
        self._write(batch, {**self._spec.tags, FACTS: json.dumps(asdict(counts))})

    def _wanted(self, some: Patches) -> Patches:
        """Count patches, and return those of enough pixels."""
        np.add.at(self._pixels, some.classes, some.pixels)
        kept = some.pixels >= self._sieve
        self._written += int(kept.sum())
        self._left_out += int((~kept).sum())
        self._left_out_pixels += int(some.pixels[~kept].sum())
        return Patches(some.classes[kept], some.pixels[kept], some.confidence[kept], some.polygons[kept])

    def _write(self, batch: list[Patches], tags: Mapping[str, str] | None = None) -> None:
        batch = batch or [Patches(*(np.zeros(0, kind) for kind in (np.int64, np.int64, np.float64, object)))]
        classes, pixels, sure, polygons = (
            np.concatenate([getattr(one, name) for one in batch])
            for name in ("classes", "pixels", "confidence", "polygons")
        )
        fields: dict[str, NDArray[Any]] = {
            "class": classes.astype(np.int32),
            "name": self._names[classes],
            "pixels": pixels,
        }
        place = self._spec.place
        if place.hectares_per_pixel is not None:
            fields["hectares"] = pixels * place.hectares_per_pixel
        fields["confidence"] = sure
        import pyogrio  # here and above: maps that are no polygons do without
        import shapely

        placed = shapely.transform(
            polygons, lambda at: np.stack(apply_transform(place.transform, at[:, 0], at[:, 1]), axis=1)
        )
        pyogrio.raw.write(
            self.partial, shapely.to_wkb(placed), list(fields.values()), list(fields), layer=LAYER, driver="GPKG",
            geometry_type="Polygon", crs=crs_of(place).to_wkt(), append=self.partial.exists(),
            layer_metadata=None if tags is None else dict(tags), dataset_options=VERSION,
        )  # fmt: skip
