"""Checks of option values: NumPy's numbers become Python's, anything else is an error of one line."""

import operator
import reprlib
from collections.abc import Callable
from typing import Any, TypeVar

from spectraldiff_runtime.errors import UsageError

T = TypeVar("T")


def as_int(name: str, value: Any) -> int:
    """Return a whole number of any type as Python's; UsageError for anything else, such as 8.0 or '8'."""
    try:
        return operator.index(value)
    except TypeError:
        raise _refused(name, value, "a whole number") from None


def as_int_or_none(name: str, value: Any) -> int | None:
    """Return what `as_int` does, or None for None."""
    return None if value is None else as_int(name, value)


def as_float(name: str, value: Any) -> float:
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
    return as_float("nodata", value)


def as_tuple(
    name: str, values: Any, convert: Callable[[str, Any], T], wanted: str, count: int | None = None
) -> tuple[T, ...]:
    """Return `values`, each converted, as a tuple.

    Parameters
    ----------
    convert
        `as_int` or `as_float`.
    wanted
        What messages say was wanted.
    count
        The number of values required; None for any number.

    Raises
    ------
    UsageError
        `values` is no sequence, a value cannot be converted, or their number is wrong.
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
