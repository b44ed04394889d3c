"""GeoParquet files (OGC 1.0 and 1.1), for which GDAL in pyogrio's wheels has no driver.

PyArrow loads where it is used.
"""

import io
import json
import warnings
from pathlib import Path
from typing import Any

from spectraldiff_runtime.errors import SpectralDiffError

USUAL_CRS = "OGC:CRS84"  # where the file does not name one


def read_geoparquet(path: Path, kind: type[SpectralDiffError]) -> tuple[bytes, tuple[str, ...]]:
    """Return the features of a GeoParquet file as the bytes of a GeoPackage, and notes on what was left out.

    Parameters
    ----------
    path
        With WKB geometries. Columns of numbers, texts and truth values are taken.
    kind
        The errors to raise.

    Raises
    ------
    SpectralDiffError
        Of `kind`: PyArrow is not installed, or the file is damaged or holds no WKB geometries.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise kind(
            f"'{path}' is GeoParquet: reading it takes PyArrow; pip install pyarrow, or convert the file, as by "
            "ogr2ogr labels.gpkg labels.parquet"
        ) from None
    import pyogrio

    try:
        table = parquet.read_table(path)
        facts = json.loads((table.schema.metadata or {})[b"geo"])
        name = facts["primary_column"]
        column = facts["columns"][name]
        geometries, encoding, crs = table.column(name), column["encoding"], column.get("crs", USUAL_CRS)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise kind(f"'{path}' is no GeoParquet that can be read ({_reason(error)}): wanted one of 1.0 or 1.1") from None
    if encoding != "WKB":
        raise kind(
            f"'{path}' has geometries as {encoding}: wanted WKB; write the file again, or convert it with ogr2ogr"
        )
    others = [field for field in table.schema if field.name != name]
    taken = [field.name for field in others if _plain(field.type)]
    left = [field.name for field in others if field.name not in taken]
    file = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a missing CRS, which is judged where the labels are placed
            pyogrio.raw.write(
                file,
                geometry=geometries.to_numpy(),
                field_data=[table.column(one).to_numpy() for one in taken],
                fields=taken,
                layer=path.stem,
                driver="GPKG",
                geometry_type="Unknown",
                crs=json.dumps(crs) if isinstance(crs, dict) else crs,
            )
    except (RuntimeError, ValueError, TypeError) as error:
        raise kind(
            f"'{path}' cannot be read ({_reason(error)}): wanted valid WKB geometries and a known CRS"
        ) from error
    note = f"'{path}': columns that are neither numbers nor texts are left out: {', '.join(left)}"
    return file.getvalue(), (note,) if left else ()


def _plain(kind: Any) -> bool:
    """Whether a column holds what a field of a GeoPackage can."""
    from pyarrow import types

    tests = (types.is_integer, types.is_floating, types.is_string, types.is_large_string, types.is_boolean)
    return any(test(kind) for test in tests)


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(".")
