"""What callers give as options: NumPy's numbers become Python's, and what cannot be meant is one line."""

import operator
import reprlib
from collections.abc import Callable
from typing import Any, TypeVar

from spectraldiff_runtime.errors import UsageError

T = TypeVar("T")


def whole(name: str, value: Any) -> int:
    """Return a whole number of any type as Python's; UsageError for anything else, such as 8.0 or '8'."""
    try:
        return operator.index(value)
    except TypeError:
        raise _refused(name, value, "a whole number") from None


def whole_or_none(name: str, value: Any) -> int | None:
    """Return what `whole` does, or None for None."""
    return None if value is None else whole(name, value)


def real(name: str, value: Any) -> float:
    """Return a real number of any type as Python's; UsageError for anything else, such as '8'."""
    try:
        if not isinstance(value, str | bytes):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise _refused(name, value, "a number")


def nodata_value(value: Any) -> Any:
    """Return None and ``"file"`` as they are, and a number as Python's; UsageError for anything else."""
    if value is None or (isinstance(value, str) and value == "file"):
        return value
    try:
        return operator.index(value)  # a large integer is no float
    except TypeError:
        pass
    if isinstance(value, str | bytes):
        raise _refused("nodata", value, "a number, 'file' for the file's own value, or None for none")
    return real("nodata", value)


def several(
    name: str, values: Any, convert: Callable[[str, Any], T], wanted: str, count: int | None = None
) -> tuple[T, ...]:
    """Return `values`, each converted, as a tuple.

    Parameters
    ----------
    convert
        `whole` or `real`.
    wanted
        What messages call the right thing.
    count
        How many there have to be; None for any number.

    Raises
    ------
    UsageError
        They are no collection, one cannot be converted, or there are more or fewer.
    """
    try:
        found = None if isinstance(values, str | bytes) else tuple(convert(name, value) for value in values)
    except (TypeError, UsageError):
        found = None
    if found is None or count not in (None, len(found)):
        raise _refused(name, values, wanted)
    return found


def _refused(name: str, value: Any, wanted: str) -> UsageError:
    text = " ".join(reprlib.repr(value).split())
    return UsageError(f"{name} is {text}: wanted {wanted}")
