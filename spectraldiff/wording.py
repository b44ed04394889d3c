"""Words that messages share."""

from collections.abc import Sequence


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number with what it counts: ``1 pixel``, ``2,000 pixels``; `many` where an s does not do."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def ranges(numbers: Sequence[int]) -> str:
    """Write band numbers as ``--bands`` takes them: 1-100,110-200."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] + 1 == number:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
