"""Words that messages share."""


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number with what it counts: ``1 pixel``, ``2,000 pixels``; `many` where an s does not do."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
