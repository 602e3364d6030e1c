"""Tables of plain text, for `table()` and `repr`."""

from collections.abc import Sequence

# Lines of a table in a `repr`. With ten times more it would fill the screens of a
# notebook; with ten times fewer it would show no layer between the first and the last.
_MOST_LINES = 20

Rows = Sequence[Sequence[str]]


def without_empty(rows: Rows) -> list[tuple[str, ...]]:
    """Return headings and rows without the columns that hold nothing but a heading."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    if not columns:
        return [() for _ in rows]
    return list(zip(*columns, strict=True))


def aligned(rows: Rows, *, num_left: int | None = None) -> list[str]:
    """Return a line for each row, with the columns one below the other.

    Args:
        rows: The headings, and the cells of every row.
        num_left: How many columns stand to the left, as names do; the others stand to
            the right, as numbers do. None for all.
    """
    padded = []
    for place, column in enumerate(zip(*rows, strict=True)):
        width = max(map(len, column))
        is_left = num_left is None or place < num_left
        justify = str.ljust if is_left else str.rjust
        padded.append([justify(cell, width) for cell in column])
    if not padded:
        return [""] * len(rows)
    return ["  ".join(row).rstrip() for row in zip(*padded, strict=True)]


def shortened(lines: Sequence[str]) -> list[str]:
    """Return the first and last lines, as many as fit on a screen."""
    half = _MOST_LINES // 2
    if len(lines) <= _MOST_LINES:
        return list(lines)
    return [*lines[:half], "...", *lines[-half:]]
