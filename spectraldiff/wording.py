"""Words that messages share."""

import re
from collections.abc import Iterable

VARYING = re.compile(r"'[^']*'|\d[\d.,]*(?:e[+-]?\d+)?")  # quoted names, and numbers


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number with what it counts: ``1 pixel``, ``2,000 pixels``; `many` where an s does not do."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def said_once(lines: Iterable[str]) -> list[str]:
    """Return lines; those that differ from one before in quoted names and numbers alone are left out and counted."""
    alike: dict[str, list[str]] = {}
    for line in dict.fromkeys(lines):
        alike.setdefault(VARYING.sub("", line), []).append(line)
    return [first + (f" (and {len(more):,} more like this)" if more else "") for first, *more in alike.values()]


def listed(names: Iterable[str], most: int = 5) -> str:
    """Return names with commas between, of many the first ones and how many more there are."""
    some = list(names)
    rest = f" and {len(some) - most:,} more" if len(some) > most else ""
    return ", ".join(some[:most]) + rest
