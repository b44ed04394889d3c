"""Text and JSON that others wrote: shown without control characters, read with limits."""

import json
import math
import unicodedata
from pathlib import Path
from typing import Any, NoReturn

from spectraldiff_runtime.limits import (
    JSON_DEPTH,
    JSON_DIGITS,
    RUN_JSON_BYTES,
    RUN_TENSORS_BYTES,
    TENSOR_LIST_BYTES,
)

# Unicode's control characters, surrogates, and separators of lines and paragraphs; a terminal obeys the first.
CONTROL = ("Cc", "Cs", "Zl", "Zp")
# What changes the order in which the characters after it are shown.
REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def is_control(character: str) -> bool:
    """Whether a character is not shown but obeyed, or cannot be written at all."""
    return unicodedata.category(character) in CONTROL or character in REORDERING


def visible(text: str) -> str:
    r"""Return text for a terminal, a log or a report: control characters are written out, such as ``\x1b``.

    Tabs and line ends become blanks, so the text is one line.
    """
    if text.isprintable():
        return text
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character in "\t\n\r":
        return " "
    return character.encode("unicode_escape").decode() if is_control(character) else character


def read_run_json(path: Path) -> Any:
    """Return what a file of JSON of a run folder holds, see `parse_json`.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is no JSON, larger than a training writes it, or has a text that cannot be written again.
    """
    _check_size(path, RUN_JSON_BYTES)
    value = parse_json(path.read_text("utf-8"), constants=True)
    json.dumps(value, ensure_ascii=False).encode()  # a ValueError where a text holds half a character
    return value


def check_tensors(path: Path) -> None:
    """Look at the size of a safetensors file before it is read whole.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is not as long as the list of tensors at its beginning says, or longer than a training writes it.
    """
    size = _check_size(path, RUN_TENSORS_BYTES)
    with path.open("rb") as file:
        listed = int.from_bytes(file.read(8), "little")
        if listed > min(TENSOR_LIST_BYTES, size):
            raise ValueError("it has no list of tensors")
        text = file.read(listed).decode()
    try:
        tensors = [one for name, one in parse_json(text).items() if name != "__metadata__"]
        ends = [int(one["data_offsets"][1]) for one in tensors]
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError("its list of tensors is damaged") from error
    wanted = 8 + listed + max(ends, default=0)
    if size != wanted:
        raise ValueError(f"it has {size:,} bytes and its list of tensors says {wanted:,}")


def _check_size(path: Path, most: int) -> int:
    size = path.stat().st_size
    if size > most:
        raise ValueError(f"it has {size:,} bytes, {most:,} at most")
    return size


def parse_json(text: str, *, constants: bool = False) -> Any:
    """Return what JSON text from a file holds.

    Parameters
    ----------
    constants
        Whether NaN and Infinity are taken, which are no JSON and which Python writes.

    Raises
    ------
    ValueError
        It is no JSON, is nested deeper than 32 levels, or has a number that is not finite or has more than 25 digits.
    """
    try:
        value = json.loads(
            text, parse_int=_whole, parse_float=_finite, parse_constant=float if constants else _no_constant
        )
    except RecursionError:
        raise ValueError(_too_deep()) from None
    _check_depth(value)
    return value


def _whole(digits: str) -> int:
    if len(digits) > JSON_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits, {JSON_DIGITS} at most")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:JSON_DIGITS]}, which is too large")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is no number")


def _check_depth(value: Any) -> None:
    level = _containers([value])
    for _ in range(JSON_DEPTH):
        level = [inner for outer in level for inner in _containers(outer)]
    if level:
        raise ValueError(_too_deep())


def _containers(value: Any) -> list[Any]:
    """Return the objects and lists directly in an object or a list."""
    inside = value.values() if isinstance(value, dict) else value
    return [inner for inner in inside if isinstance(inner, dict | list)]


def _too_deep() -> str:
    return f"more than {JSON_DEPTH} levels of brackets"
