"""Options and helpers that several commands share, each defined once."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from spectraldiff_runtime.errors import MissingExtraError, UsageError
from spectraldiff_runtime.messages import one_line
from spectraldiff_runtime.untrusted import is_control

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more about what is done.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Folder with files that you have already.", show_default=False),
]

Nodata = Annotated[
    str | None,
    typer.Option(help="Value of pixels without data, or 'none'; the file's own by default.", show_default=False),
]
BandNumbers = Annotated[
    str | None, typer.Option(help="Bands to use, counted from 1: 1-100,110-200; or all.", show_default=False)
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.", show_default=False)]
Unsealed = Annotated[
    bool,
    typer.Option("--unsealed", help="Take a model file that another tool has saved again: its checksum is gone."),
]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Folder that holds the runs.")]


class ConfidenceType(StrEnum):
    """How confidences are stored."""

    FLOAT32 = "float32"
    UINT8 = "uint8"


class Device(StrEnum):
    """Where to compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class CloudPixels(StrEnum):
    """What becomes of cloudy pixels."""

    KEEP = "keep"
    DROP = "drop"


Clouds = Annotated[
    CloudPixels,
    typer.Option(help="Pixels that the product marks as cloudy: keep them, or drop them as if they had no data."),
]

OUR_PACKAGES = ("spectraldiff", "spectraldiff_export", "spectraldiff_runtime")


@contextmanager
def training_package(command: str) -> Iterator[None]:
    """Import the packages of the extra `train` inside this block.

    Parameters
    ----------
    command
        The command that needs them, as typed: ``"train"``.

    Raises
    ------
    MissingExtraError
        A third-party module is missing or cannot be loaded. An import error inside our own packages is
        a defect and passes through.
    """
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] in OUR_PACKAGES:
            raise
        reason = str(error).splitlines()[0]
        raise MissingExtraError(
            f"`sdiff {command}` needs PyTorch and others that are not installed "
            f"({reason[:1].lower()}{reason[1:]}): pip install 'spectraldiff[train]'"
        ) from error


def check_verbosity(quiet: bool, verbose: bool) -> None:
    """Refuse ``-q`` together with ``-v``."""
    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude each other: give one of them")


def as_json(value: Any) -> Any:
    """Return `value` in types that JSON knows: paths become text, NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return as_json(value.tolist())
    return value if value is None or isinstance(value, str | int) else str(value)


def print_json(value: Any) -> None:
    r"""Print `value` on stdout as indented JSON that any parser takes (no NaN), control characters as ``\\u009b``."""
    text = json.dumps(as_json(value), indent=2, ensure_ascii=False, allow_nan=False)
    typer.echo("".join(f"\\u{ord(c):04x}" if c != "\n" and is_control(c) else c for c in text))


def say(text: str) -> None:
    """Print one line on stderr."""
    typer.echo(one_line(text), err=True)


def tell(text: str) -> None:
    """Print one line of a result on stdout."""
    typer.echo(one_line(text))


def warn(message: str) -> None:
    """Print one warning line on stderr."""
    say(f"sdiff: warning: {message}")


def parse_bands(text: str) -> tuple[int, ...] | Literal["all"]:
    """Parse ``"1-100,110-200"`` to band numbers, in the order given; ``"all"`` stays.

    Raises
    ------
    UsageError
        The text is no list of numbers and ranges, or names a band twice.
    """
    if text.strip().lower() == "all":
        return "all"
    bands: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?", part)
        if match is None:
            raise UsageError(f"--bands has '{part}' in '{text}': wanted numbers and ranges such as 1-100,110-200")
        first, last = int(match[1]), int(match[2] or match[1])
        if first < 1 or last < first:
            raise UsageError(f"--bands has '{part.strip()}': wanted ranges that rise, counted from 1")
        bands.extend(range(first, last + 1))
    if len(set(bands)) < len(bands):
        twice = next(band for band in bands if bands.count(band) > 1)
        raise UsageError(f"--bands names band {twice} twice: wanted each band once")
    return tuple(bands)


def parse_nodata(text: str | None) -> float | Literal["file"] | None:
    """Parse ``--nodata``: nothing means the file's own value, ``none`` no value at all.

    Raises
    ------
    UsageError
        The text is neither a number nor ``none``.
    """
    if text is None:
        return "file"
    if text.strip().lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--nodata has '{text}': wanted a number or 'none'") from None


def parse_values(option: str, text: str) -> tuple[float, ...]:
    """Parse ``"1,2"`` to numbers.

    Raises
    ------
    UsageError
        The text is no list of finite numbers.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(map(math.isfinite, values)):
        raise UsageError(f"{option} has '{text}': wanted numbers such as 1,2")
    return values


_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Parse ``"2GB"``, ``"500M"`` or a number of bytes; a kilobyte has 1,000 bytes.

    Raises
    ------
    UsageError
        The text is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"--max-memory has '{text}': wanted a size such as 2GB or 800MB")
    return int(float(match[1]) * 1000 ** " kmgt".index(match[2].lower() or " "))


def parse_options(texts: Sequence[str]) -> dict[str, str]:
    """Parse GDAL's creation options, ``["COMPRESS=zstd"]``; keys become upper case.

    Raises
    ------
    UsageError
        A text is not of the form KEY=VALUE.
    """
    options = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise UsageError(f"--co has '{text}': wanted KEY=VALUE, such as COMPRESS=ZSTD")
        options[key.strip().upper()] = value.strip()
    return options


def repeat_option(arguments: list[str], option: str) -> list[str]:
    """Write an option before each of the files after it, up to the next option; UsageError for none."""
    found, before = [], ""
    for word, after in zip(arguments, [*arguments[1:], "-"], strict=False):
        if word == option and after.startswith("-"):
            raise UsageError(f"{option} takes one scene or more: {option} more/*.tif")
        before = word if word == option else "" if word.startswith("-") else before
        if word != option:
            found += [before, word] if before else [word]
    return found
