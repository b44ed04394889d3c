"""Vector files as people keep them, opened by OGR under whatever name works. Pyogrio loads where it is used."""

import re
import stat
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectraldiff_runtime.errors import LabelsError, SceneError, SpectralDiffError
from spectraldiff_runtime.gdal import GDAL_ERRORS, NO_FILES, check_plain, file_mode, network_options
from spectraldiff_runtime.geo.geoparquet import read_geoparquet
from spectraldiff_runtime.geo.text_encoding import TextEncoding, checked_encoding, encoding_of_dbf, encoding_of_text
from spectraldiff_runtime.limits import TABLE_BYTES
from spectraldiff_runtime.raster_file import open_looked_at

# How files begin that hold addresses in place of features.
LIST_OF_SOURCES, FIRST_BYTES = re.compile(rb"<OGR(VRT|WFS|OAPI|CSW)|<OGCAPI"), 1024

# How files begin of which OGR reads parts: SQLite, FlatGeobuf, shapefiles, Parquet, zip.
IN_PARTS = (b"SQLite format 3\0", b"fgb", b"\0\0\x27\x0a", b"PAR1", b"PK\3\4")

HEAD = 2**20  # characters of a table's first line that are looked at
VECTORS = (".shp", ".gpkg", ".geojson", ".json", ".fgb", ".kml", ".gml", ".tab", ".mif", ".sqlite", ".csv")
DEGREES = {"X": ("lon", "long", "longitude", "lng"), "Y": ("lat", "latitude")}
PLANE = {"X": ("x", "easting", "east", "x_coord", "xcoord"), "Y": ("y", "northing", "north", "y_coord", "ycoord")}
SHAPES = ("wkt", "geometry", "geom", "the_geom")
OF_SCENE = "of the scene"  # a CRS


@dataclass(frozen=True)
class VectorSource:
    """A vector file that OGR opens.

    Attributes
    ----------
    path
        As the user named it.
    name, options
        What OGR opens, a name or the bytes of a file, and how.
    layers
        Its layers that have geometries.
    crs
        The CRS where the file itself cannot say it: ``"EPSG:4326"``, or `OF_SCENE`; None elsewhere.
    encoding
        Of its texts; None where the file says it rightly.
    remarks
        Notes for the user on how it is read, one line each.
    """

    path: str
    name: str | bytes
    layers: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    crs: str | None = None
    encoding: str | None = None
    remarks: tuple[str, ...] = ()

    def info(self, layer: str) -> dict[str, Any]:
        """Return what `pyogrio.read_info` does; its errors are passed on."""
        import pyogrio

        with quiet():
            return dict(pyogrio.read_info(self.name, layer=layer, encoding=self.encoding, **self.options))

    def read(self, layer: str, columns: Sequence[str]) -> tuple[dict[str, NDArray[Any]], NDArray[Any], str | None]:
        """Return columns by name, geometries as WKB (None for none), (n,) each, and the CRS; errors are passed on."""
        import pyogrio

        with quiet():
            meta, _, shapes, data = pyogrio.raw.read(
                self.name, layer=layer, columns=list(columns), force_2d=True, encoding=self.encoding, **self.options
            )
        found = np.empty(0, object) if shapes is None else shapes
        return dict(zip(meta["fields"], data, strict=True)), found, self.crs or meta["crs"]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Python's warnings away: GDAL's remarks on files that it reads all the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def is_vector(path: str | Path, kind: type[SpectralDiffError] = SceneError) -> bool:
    """Whether a file holds a layer of geometries; False for a raster and for what does not exist.

    Raises
    ------
    SpectralDiffError
        Of `kind`: it is neither, with OGR's reason.
    """
    try:
        open_vectors(path, kind)
    except kind:
        if is_raster(path) or (_is_local(path) and not Path(path).exists()):
            return False
        raise
    return True


def open_vectors(
    path: str | Path, kind: type[SpectralDiffError] = SceneError, encoding: str | None = None
) -> VectorSource:
    """Find out how OGR opens a vector file.

    In addition to what OGR opens by itself: names with an exclamation mark, gzipped files, zip files with one vector
    file in a folder, CSV files with columns of coordinates or WKT, and GeoParquet.

    Parameters
    ----------
    path
        A file, or any name that GDAL opens as vectors.
    kind
        The errors to raise.
    encoding
        Of the texts, whatever the file says; None to find out.

    Raises
    ------
    SpectralDiffError
        Of `kind`: it cannot be opened, in one line with OGR's reason, or a part of it is missing.
    UsageError
        There is no such encoding.
    """
    import pyogrio

    check_vectors(path)
    text = str(path)
    given = None if encoding is None else TextEncoding(checked_encoding(encoding))
    if not _is_local(text) or not Path(text).exists():
        if _is_local(text) and "!" in text:  # the rest of it would be another file
            raise kind(f"'{text}' does not exist: wanted a vector file; check the name")
        return _opened(text, text, kind, given)
    local, suffix = Path(text), Path(text).suffix.lower()
    _check_parts(local, kind)
    table = local.with_suffix(".dbf") if suffix == ".shp" else local
    if suffix == ".shp":
        _check_size(table, kind)
    if suffix == ".csv":
        return _csv(local, kind, given or encoding_of_text(local))
    if suffix in (".parquet", ".geoparquet") and "Parquet" not in pyogrio.list_drivers():
        data, remarks = read_geoparquet(local, kind)
        return replace(_opened(text, data, kind, None), remarks=remarks)
    found = encoding_of_dbf(table) if suffix == ".shp" and table.is_file() and given is None else given
    return _opened(text, _name_of(local, kind), kind, found)


def check_vectors(path: str | Path) -> None:
    """Refuse what would wait or ask elsewhere: pipes, lists of other sources, and texts that take for ever to read.

    Servers may fall silent for so long.

    Raises
    ------
    SceneError
    """
    import pyogrio

    check_plain(path)
    pyogrio.set_gdal_config_options({**network_options(), **NO_FILES})
    kind = file_mode(path)
    if kind is not None and stat.S_ISREG(kind):
        with Path(path).open("rb") as file:
            first = file.read(FIRST_BYTES)
        if LIST_OF_SOURCES.search(first):
            raise SceneError(f"'{path}' names sources elsewhere: wanted a vector file that holds its features")
        if not first.startswith(IN_PARTS):
            _check_size(Path(path), SceneError)


def _opened(text: str, name: str | bytes, kind: type[SpectralDiffError], encoding: TextEncoding | None) -> VectorSource:
    import pyogrio

    try:
        with quiet():
            layers = tuple(str(layer) for layer, shape in pyogrio.list_layers(name) if shape is not None)
    except (RuntimeError, ValueError) as error:
        raise kind(
            f"'{text}' cannot be read as a vector file ({_reason(error)}): wanted one that GDAL reads"
        ) from error
    if not layers:
        raise kind(f"'{text}' holds no layer with geometries: wanted polygons or points")
    coding, remark = (encoding.name, encoding.remark) if encoding else (None, "")
    return VectorSource(text, name, layers, encoding=coding, remarks=(remark,) if remark else ())


def _reason(error: Exception) -> str:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return first.split(";")[0].strip().rstrip(".")


def _is_local(path: str | Path) -> bool:
    return not str(path).startswith("/vsi") and "://" not in str(path)


def is_raster(path: str | Path) -> bool:
    """Whether GDAL opens a name as a raster."""
    try:
        with open_looked_at(path) as dataset:
            return bool(dataset.count or dataset.subdatasets)
    except (*GDAL_ERRORS, ValueError, UnicodeError):
        return False


def _check_parts(path: Path, kind: type[SpectralDiffError]) -> None:
    """Refuse a shapefile of which a part is missing: GDAL's own words are of an option, or there is no field."""
    if path.suffix.lower() != ".shp":
        return
    wanted = [path.with_suffix(part) for part in (".shx", ".dbf")]
    missing = [part.name for part in wanted if not any(part.with_suffix(s).is_file() for s in _cases(part.suffix))]
    if missing:
        raise kind(
            f"'{path}' is a part of a shapefile of which {' and '.join(missing)} {'is' if len(missing) < 2 else 'are'} "
            "missing: wanted .shp, .shx and .dbf in one folder; copy all of them"
        )


def _check_size(path: Path, kind: type[SpectralDiffError]) -> None:
    """Refuse a file that would fill the memory, or take for ever."""
    size = path.stat().st_size if path.is_file() else 0
    if size > TABLE_BYTES:
        raise kind(f"'{path}' has {size:,} bytes: wanted {TABLE_BYTES:,} at most, since all of it is read")


def _cases(suffix: str) -> tuple[str, str]:
    return suffix, suffix.upper()


def _name_of(path: Path, kind: type[SpectralDiffError]) -> str:
    """Return the name under which OGR opens a local file."""
    name = str(path)
    if re.search(r"\.(tar\.gz|tgz|tar)$", name, re.IGNORECASE):
        return f"/vsitar/{name}"
    if path.suffix.lower() == ".gz":
        return f"/vsigzip/{name}"
    if path.is_file() and path.suffix.lower() == ".zip" and zipfile.is_zipfile(path):
        return _in_zip(path, kind)
    # GDAL writes a .gfs file next to a GML file, but not where it reads through a cache; and pyogrio takes the mark for
    # the end of an archive.
    cached = "!" in name or path.suffix.lower() in (".gml", ".xml")
    return f"/vsicached?file={name}" if cached else name


def _in_zip(path: Path, kind: type[SpectralDiffError]) -> str:
    """Return the name of the only vector file in a zip file, in whatever folder of it."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
    found = [name for name in names if name.lower().endswith(VECTORS)]
    databases = sorted({name[: name.lower().index(".gdb/") + 4] for name in names if ".gdb/" in name.lower()})
    found += databases
    if len(found) > 1:
        listed = ", ".join(f"/vsizip/{path}/{name}" for name in found[:3])
        raise kind(f"'{path}' holds {len(found)} vector files: wanted one; name it ({listed})")
    return f"/vsizip/{path}/{found[0]}" if found else f"/vsizip/{path}"


def _csv(path: Path, kind: type[SpectralDiffError], encoding: TextEncoding | None) -> VectorSource:
    """Open a CSV file by its columns of coordinates, or of WKT."""
    name, coding = _name_of(path, kind), "utf-8" if encoding is None else encoding.name
    with path.open(encoding=coding, errors="replace") as file:
        columns = [c.strip().strip('"').lstrip("\ufeff") for c in re.split("[,;\t]", file.readline(HEAD).strip())]
    folded = {column.lower(): column for column in columns}
    said = () if encoding is None or not encoding.remark else (encoding.remark,)
    for known, crs, words in (
        (DEGREES, "EPSG:4326", "degrees in WGS 84"), (PLANE, OF_SCENE, "coordinates in the scene's CRS"),
    ):  # fmt: skip
        x, y = (next((folded[title] for title in known[axis] if title in folded), None) for axis in "XY")
        if x is not None and y is not None:
            options = {"X_POSSIBLE_NAMES": x, "Y_POSSIBLE_NAMES": y}
            return _table(
                path, name, options, crs, coding, (*said, f"'{x}' and '{y}' of '{path}' were read as {words}")
            )
    shape = next((folded[title] for title in SHAPES if title in folded), None)
    if shape is not None:
        words = f"'{shape}' of '{path}' was read as WKT in the scene's CRS"
        return _table(path, name, {"GEOM_POSSIBLE_NAMES": shape}, OF_SCENE, coding, (*said, words))
    raise kind(
        f"'{path}' has the columns {', '.join(columns)} and no coordinates: wanted columns lon and lat, x and y, or WKT"
    )


def _table(
    path: Path, name: str, options: dict[str, str], crs: str, encoding: str, remarks: tuple[str, ...]
) -> VectorSource:
    more = {**options, "AUTODETECT_TYPE": "YES"}
    return VectorSource(str(path), name, (path.stem,), more, crs, encoding, remarks)


def read_plain_table(path: Path) -> tuple[dict[str, NDArray[Any]], str]:
    """Return the columns of a dBASE table, by name, none where it cannot be read; and what is guessed of its texts."""
    import pyogrio

    _check_size(path, LabelsError)
    found = encoding_of_dbf(path, f"a file '{path.with_suffix('.cpg').name}' next to it says another one")
    try:
        with quiet():
            meta, _, _, data = pyogrio.raw.read(
                str(path), read_geometry=False, encoding=None if found is None else found.name
            )
    except (RuntimeError, ValueError):
        return {}, ""
    return dict(zip(meta["fields"], data, strict=True)), "" if found is None else found.remark
