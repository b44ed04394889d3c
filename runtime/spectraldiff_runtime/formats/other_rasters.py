"""A class map as a picture with a place, as netCDF with CF's flags, or as Zarr: GDAL writes them, we add the names."""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from spectraldiff_runtime import __version__
from spectraldiff_runtime.atomic import check_output, is_zarr, output_error, sidecar_path, world_file
from spectraldiff_runtime.classes import LandCoverClass, category_names
from spectraldiff_runtime.geotiff.encode import EncodedRaster
from spectraldiff_runtime.geotiff.sidecar import write_class_sidecar
from spectraldiff_runtime.geotiff.spec import Format, RasterSpec
from spectraldiff_runtime.geotiff.transcoder import Transcoder
from spectraldiff_runtime.geotiff.vrt import add_metadata, add_place

VARIABLE = "class"  # of netCDF
TITLE = "land-cover class"
CONVENTIONS = "CF-1.9"  # the first that takes unsigned bytes


class _ClassRaster(EncodedRaster):
    """A class raster that GDAL writes without names; see `EncodedRaster`."""

    driver: Any
    coloured = False

    def __init__(
        self, path: Path, overwrite: bool, raw: Path, spec: RasterSpec, form: Format, folder: Path | None = None,
        transcoder: Transcoder | None = None,
    ) -> None:  # fmt: skip
        assert spec.classes is not None
        self._classes, self._tags = spec.classes, {**spec.tags, "CLASS_NAMES": _names_json(spec.classes)}
        bare = replace(spec, tags={}, classes=spec.classes if self.coloured else None)
        super().__init__(path, overwrite, raw, bare, Format(self.driver, form.blocksize), folder, transcoder)

    def finish(self) -> None:
        """Write the whole raster under its other name, and then the names of its classes."""
        super().finish()
        try:
            self._add_names()
        except OSError as error:
            raise output_error(self.path, error) from error

    def _add_names(self) -> None:
        raise NotImplementedError


class PngRaster(_ClassRaster):
    """A picture of classes, with colours; the place is in a world file, and with the CRS and the names in a sidecar."""

    driver = "PNG"
    coloured = True

    def _add_names(self) -> None:
        write_class_sidecar(self.partial, self._classes)
        sidecar = sidecar_path(self.partial)
        root, place = ElementTree.fromstring(sidecar.read_text("utf-8")), ElementTree.Element("PAMDataset")  # noqa: S314
        add_place(place, self._spec.place)
        add_metadata(place, self._tags)
        place.extend(root)
        ElementTree.indent(place)
        sidecar.write_text(ElementTree.tostring(place, encoding="unicode") + "\n", encoding="utf-8")
        if self._spec.place.transform is not None:
            a, b, c, d, e, f = self._spec.place.transform[:6]
            centre = c + (a + b) / 2, f + (d + e) / 2  # of the first pixel
            world_file(self.partial).write_text("".join(f"{float(n)!r}\n" for n in (a, d, b, e, *centre)))

    def publish(self) -> None:
        """Give the picture and its parts their names."""
        if self._overwrite:
            world_file(self._target).unlink(missing_ok=True)
        super().publish()


class NetcdfRaster(_ClassRaster):
    """A netCDF-4 file with the variable ``class``: CF's flags, grid mapping and axes.

    GDAL's own attributes are left out, because GDAL 3.13 turns rows that begin in the north upside down where it finds
    both its name and ``GeoTransform`` beside the axes. A single row or column has no other pixel size.
    """

    driver = "netCDF"

    def _add_names(self) -> None:
        import h5py

        write_class_sidecar(self.partial, self._classes)
        with h5py.File(self.partial, "r+") as file:
            file.move("Band1", VARIABLE)
            made = {"Conventions": CONVENTIONS, "title": TITLE, "history": f"spectraldiff {__version__}"}
            for key in [key for key in file.attrs if key.startswith("GDAL")]:
                del file.attrs[key]
            mapping = file[VARIABLE].attrs.get("grid_mapping")
            if mapping is not None:
                attributes = file[mapping.decode()].attrs
                attributes.pop("GeoTransform", None)
                if min(file[VARIABLE].shape) == 1:
                    _describe(attributes, {"GeoTransform": self._steps()})
            _describe(file.attrs, {**self._tags, **made})
            flags = _flags(self._classes)
            values = np.array(flags.pop("flag_values"), file[VARIABLE].dtype)
            _describe(file[VARIABLE].attrs, {**flags, "flag_values": values})

    def _steps(self) -> str:
        """Return the transform in GDAL's words; its versions write different ones."""
        assert self._spec.place.transform is not None  # see `check_place`
        return " ".join(repr(float(number)) for number in self._spec.place.transform.to_gdal())


class ZarrRaster(_ClassRaster):
    """A folder of Zarr, version 2, with one array of classes and CF's attributes for flags."""

    driver = "Zarr"

    def _add_names(self) -> None:
        (array,) = (path for path in self.partial.glob("*/.zarray") if len(_json(path)["shape"]) == len("yx"))
        more = {**self._tags, **_flags(self._classes), "software": f"spectraldiff {__version__}"}
        attributes, all_of_it = array.with_name(".zattrs"), self.partial / ".zmetadata"
        known = {key: value for key, value in _json(attributes).items() if not key.startswith("TIFFTAG_")}
        _write_json(attributes, known | more)
        consolidated = _json(all_of_it)
        consolidated["metadata"][f"{array.parent.name}/.zattrs"] = known | more
        _write_json(all_of_it, consolidated)

    def publish(self) -> None:
        """Give the folder its name; with `overwrite`, the Zarr that has it goes."""
        check_output(self.path, self._overwrite)
        try:
            if is_zarr(self._target):
                self._target.rename(self.partial.with_name("replaced"))
            self.partial.rename(self._target)
        except OSError as error:
            raise output_error(self.path, error) from error
        self.discard()


CLASS_RASTERS: Mapping[str, type[EncodedRaster]] = {
    "GTiff": EncodedRaster,
    "PNG": PngRaster,
    "netCDF": NetcdfRaster,
    "Zarr": ZarrRaster,
}


def _names_json(classes: Sequence[LandCoverClass]) -> str:
    return json.dumps(category_names(classes), ensure_ascii=False)


def _flags(classes: Sequence[LandCoverClass]) -> dict[str, Any]:
    """Return CF's attributes for a variable of classes, and their colours as ``#rrggbb``."""
    return {
        "long_name": TITLE,
        "flag_values": [c.value for c in classes],
        "flag_meanings": flag_meanings(classes),
        "flag_colors": " ".join("#{:02x}{:02x}{:02x}".format(*c.colour) for c in classes),
    }


def flag_meanings(classes: Sequence[LandCoverClass]) -> str:
    """Return the classes' names as CF wants them: words of letters, digits and ``_-.+@``, blanks between them."""
    words: list[str] = []
    for c in classes:
        plain = "".join(x for x in unicodedata.normalize("NFKD", c.name) if not unicodedata.combining(x))
        word = re.sub(r"[^A-Za-z0-9_.+@-]+", "_", plain).strip("_") or f"class_{c.value}"
        words.append(word if word not in words else f"{word}_{c.value}")
    return " ".join(words)


def _describe(attributes: Any, values: Mapping[str, Any]) -> None:
    """Set attributes as netCDF has them: texts of a fixed length."""
    for key, value in values.items():
        attributes[key] = np.bytes_(value.encode()) if isinstance(value, str) else value


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
